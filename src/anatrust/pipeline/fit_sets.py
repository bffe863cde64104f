"""From a labelled cohort to calibrated sets: tune on some patients, conformalize on the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.conformal.recipe import ScoreRecipe, candidate_recipes
from anatrust.conformal.sets import LabelledCase, calibrate_curves, patient_curves
from anatrust.conformal.tuning import Tuning, choose_recipe
from anatrust.errors import AnatrustError, InputError
from anatrust.image.atomic import replacing
from anatrust.image.read import read_mask, read_probabilities, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.descriptors import LocalDescriptors
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.finding import worst
from anatrust.pipeline.inspect import inspect_scan
from anatrust.pipeline.sets import DescribedScan, SetsSection, class_channels
from anatrust.statistics.loss_curves import LossCurve
from anatrust.statistics.risk_control import patients_needed

__all__ = ["FittedSets", "fit_sets"]

_TUNING_SHARE = 0.3
_MOST_TUNING = 20
_CACHE_VERSION = 1
Progress = Callable[[str, int, int], None]
Warn = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Image:
    """One row, read: the scan and, for each structure, probability and truth."""

    scan: Scan
    probabilities: dict[int, npt.NDArray[Any]]
    truth: LabelMap


@dataclass(frozen=True, eq=False)
class FittedSets:
    """The section, the content keys of the scans it rests on, and what could not be fitted."""

    section: SetsSection | None
    keys: tuple[str, ...]
    notes: tuple[str, ...]


def fit_sets(
    cohort: Cohort,
    *,
    alpha: float = 0.10,
    assurance: float | None = None,
    modality: str | None = None,
    tune: bool = True,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> FittedSets:
    """Calibrate inner and outer sets for every structure of the cohort's truth.

    Used are the rows with a truth and probabilities (or, where no row has any, the masks). Patients
    are split once, by seed: up to 30 % choose the score, the others calibrate; with too few to do
    both, all calibrate the plain score. Scans the gate finds an error in are left out, as they would
    be when judged.

    Parameters
    ----------
    cohort, modality, cache, progress, warn
        As in `fit`.
    alpha, assurance
        Of `conformalize`.
    tune
        False calibrates the plain score.
    seed
        Of the split.

    Returns
    -------
    FittedSets
        Its section is None where nothing could be fitted; notes say what could not.

    Guarantee
    ---------
    That of `conformalize`: tuning and calibration share no patient.
    """
    rows = [row for row in cohort if row.truth is not None and not row.lesion_free and not row.outlier]
    soft = [row for row in rows if row.probabilities is not None]
    graded = not soft
    rows = [row for row in rows if row.mask is not None] if graded else soft
    if not rows:
        return FittedSets(None, (), ("sets: no row has a truth beside probabilities or a mask",))
    groups: dict[str, list[CohortRow]] = {}
    for row in rows:
        groups.setdefault(row.patient, []).append(row)
    patients = [*groups]
    order = np.random.default_rng(seed).permutation(len(patients))
    spare = len(patients) - patients_needed(alpha)
    count = min(_MOST_TUNING, round(_TUNING_SHARE * len(patients)), spare // 2) if tune else 0
    count = count if count >= 3 else 0
    chosen = [patients[k] for k in order[:count]]
    others = [patients[k] for k in order[count:]]
    reader = _Reader(modality, graded, warn)
    encoder = LocalDescriptors()
    labels = reader.structures(row for patient in patients for row in groups[patient][:1])
    notes = []
    if not labels:
        return FittedSets(None, (), ("sets: the truth of the first scan of every patient is empty",))
    if count == 0 and tune:
        notes.append(
            f"sets: {len(patients)} patients are too few to tune and calibrate, the plain score was calibrated"
        )
    calibrations, tunings = [], []
    for position, (label, name) in enumerate(labels.items()):
        tuning = None
        recipe = candidate_recipes(hard=graded)[0]
        if chosen:
            tuning = _tuned(groups, chosen, reader, label, graded, alpha, len(others), cache, encoder, progress)
            recipe = tuning.recipe
        outer: list[LossCurve] = []
        inner: list[LossCurve] = []
        empty = 0
        for done, patient in enumerate(others):
            if progress:
                progress(f"sets of {name}", position * len(others) + done, len(labels) * len(others))
            curves = _cached_curves(groups[patient], reader, label, recipe, cache, encoder)
            if curves is None:
                empty += 1
            else:
                outer.append(curves[0])
                inner.append(curves[1])
        calibration = calibrate_curves(outer, inner, recipe, alpha, structure=name, assurance=assurance, empty=empty)
        calibrations.append(calibration)
        tunings.append(None if tuning is None else tuning.to_json())
        notes += [
            f"sets of {name}: {side} {threshold.sentence}"
            for side, threshold in (("outer", calibration.outer), ("inner", calibration.inner))
            if not threshold.feasible
        ]
        if tuning is not None:
            notes += [f"sets of {name}: {line}" for line in tuning.advice]
    section = SetsSection(
        tuple(calibrations), tuple(labels), tuple(tunings), alpha, assurance, graded, encoder.identity
    )
    keys = tuple(_key([row], []) for row in rows)
    return FittedSets(section, keys, tuple(notes))


class _Reader:
    """Reads rows, leaves out what the gate refuses, and knows which channel is which structure."""

    def __init__(self, modality: str | None, graded: bool, warn: Warn | None) -> None:
        self.modality, self.graded, self.warn = modality, graded, warn
        self._told: set[int] = set()

    def structures(self, rows: Iterable[CohortRow]) -> dict[int, str]:
        """Names of the truth's labels, by number, over the given rows."""
        found: dict[int, str] = {}
        for row in rows:
            image = self.read(row)
            if image is None:
                continue
            for label in image.truth.labels():
                if label in image.probabilities:
                    found.setdefault(label, image.truth.names.get(label, f"label {label}"))
        return dict(sorted(found.items()))

    def read(self, row: CohortRow) -> _Image | None:
        """One row, or None where it must be left out (said once)."""
        try:
            scan = read_scan(row.image, modality=self.modality)
            truth = read_mask(row.truth, reference=scan.grid)
            soft = None if self.graded else read_probabilities(row.probabilities, reference=scan.grid)
            mask = read_mask(row.mask, reference=scan.grid) if row.mask is not None else None
            labels = mask if mask is not None else truth
            findings = inspect_scan(scan, labels, soft)
            if worst(findings) == "error":
                raise InputError(next(f.sentence for f in findings if f.severity == "error"))
        except AnatrustError as error:
            if self.warn and row.number not in self._told:
                self._told.add(row.number)
                self.warn(f"row {row.number}: left out of the sets, {error}")
            return None
        return _Image(scan, class_channels(soft, mask, truth), truth)

    def cases(self, rows: Sequence[CohortRow], label: int, encoder: LocalDescriptors) -> Iterator[LabelledCase]:
        """The images of one patient, for one structure."""
        for row in rows:
            image = self.read(row)
            if image is not None and label in image.probabilities:
                yield LabelledCase(
                    row.patient,
                    image.probabilities[label],
                    image.scan.array,
                    np.asarray(image.truth.array == label),
                    image.scan.grid,
                    DescribedScan(image.scan, encoder),
                )


def _tuned(
    groups: Mapping[str, Sequence[CohortRow]],
    chosen: Sequence[str],
    reader: _Reader,
    label: int,
    graded: bool,
    alpha: float,
    calibration_patients: int,
    cache: Path | None,
    encoder: LocalDescriptors,
    progress: Progress | None,
) -> Tuning:
    key = _key([row for p in chosen for row in groups[p]], ["tuning", label, graded, alpha, calibration_patients])
    file = None if cache is None else cache / f"{key}.json"
    if file is not None and file.is_file():
        return Tuning.from_json(json.loads(file.read_text(encoding="utf-8")))
    cases = [case for patient in chosen for case in reader.cases(groups[patient], label, encoder)]
    recipes = candidate_recipes(features=True, hard=graded)
    if not any(case.truth.any() for case in cases):
        return Tuning(recipes[0], (), 0.0, 0, ("no tuning patient has this structure",))

    def told(done: int, total: int) -> None:
        if progress:
            progress(f"tuning label {label}", done, total)

    tuning = choose_recipe(cases, recipes, alpha, calibration_patients, progress=told)
    if file is not None:
        with replacing(file) as part:
            part.write_text(json.dumps(tuning.to_json()), encoding="utf-8")
    return tuning


def _cached_curves(
    rows: Sequence[CohortRow],
    reader: _Reader,
    label: int,
    recipe: ScoreRecipe,
    cache: Path | None,
    encoder: LocalDescriptors,
) -> tuple[LossCurve, LossCurve] | None:
    """Loss curves of one patient; None without the structure. Kept, so that a killed fit goes on."""
    file = None
    if cache is not None:
        file = cache / f"{_key(rows, ['curves', label, recipe.to_json(), reader.graded])}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as kept:
                if "empty" in kept:
                    return None
                return (
                    LossCurve(kept["outer_breaks"], kept["outer_losses"]),
                    LossCurve(kept["inner_breaks"], kept["inner_losses"]),
                )
    curves = patient_curves(reader.cases(rows, label, encoder), recipe)
    if file is not None:
        names: dict[str, npt.NDArray[Any]] = {"empty": np.array(True)}
        if curves is not None:
            outer, inner = curves
            names = {
                "outer_breaks": outer.breaks,
                "outer_losses": outer.losses,
                "inner_breaks": inner.breaks,
                "inner_losses": inner.losses,
            }
        with replacing(file) as part, part.open("wb") as handle:
            np.savez(handle, **names)  # type: ignore[arg-type]
    return curves


def _key(rows: Sequence[CohortRow], choices: list[Any]) -> str:
    contents = [
        [None if f is None else content_hash(f) for f in (row.image, row.mask, row.probabilities, row.truth)]
        for row in rows
    ]
    text = json.dumps([_CACHE_VERSION, __version__, contents, choices], sort_keys=True)
    return "sets-" + hashlib.sha256(text.encode()).hexdigest()
