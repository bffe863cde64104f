"""From a labelled cohort to calibrated sets and bounds: learn on some patients, conformalize on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import SetCalibration
from anatrust.conformal.tuning import aimed_risk
from anatrust.image.volumes import LabelMap
from anatrust.models.encoders import EncoderChoice
from anatrust.models.protocols import Encoder
from anatrust.ood.screen import patient_key
from anatrust.pipeline.bounds import BoundsSection, fit_bounds
from anatrust.pipeline.case import Names, label_table
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.cohort_losses import CohortLosses
from anatrust.pipeline.fit_scores import ScoreTuner, plain_score
from anatrust.pipeline.labelled import LabelledImage, LabelledReader, rows_key, scan_mark
from anatrust.pipeline.patient_record import PatientRecord, read_record, record_patient
from anatrust.pipeline.plan import learning_patients
from anatrust.pipeline.progress import Progress, Warn
from anatrust.pipeline.screening import ScreeningSection, scan_abnormality
from anatrust.pipeline.sets import SetsSection
from anatrust.statistics.loss_curves import EMPTY_SET
from anatrust.statistics.risk_control import patients_needed

__all__ = ["FittedSets", "SetOptions", "fit_sets"]

_MOST_TUNING = 20


@dataclass(frozen=True)
class SetOptions:
    """What is promised of sets, and how their score is chosen.

    Parameters
    ----------
    alpha, assurance
        Promised mean error; δ promises it with confidence 1 - δ over calibrations.
    simultaneous
        Promise the mean error of each scan's *worst* structure, with one threshold for all.
    lesion_wise
        Also promise that at most a share α of a patient's lesions (connected pieces of the truth) is hardly
        touched by the outer set, less than a tenth of each.
    tune
        False calibrates the plain score.
    encoder
        Whose features the graph joins; a segmenter's stage is chosen on the tuning patients unless it names one.
    device
        Of the encoder; changes no promise.
    """

    alpha: float = 0.10
    assurance: float | None = None
    simultaneous: bool = False
    lesion_wise: bool = False
    tune: bool = True
    encoder: EncoderChoice = field(default_factory=EncoderChoice)
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class FittedSets:
    """The sections, the content keys of the scans they rest on, and what could not be fitted."""

    section: SetsSection | None
    keys: tuple[str, ...]
    notes: tuple[str, ...]
    bounds: BoundsSection | None = None


def fit_sets(
    cohort: Cohort,
    options: SetOptions | None = None,
    *,
    modality: str | None = None,
    names: Names = None,
    screening: ScreeningSection | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> FittedSets:
    """Calibrate inner and outer sets, and bounds of the masks' quality, for every structure of the cohort's truth.

    Used are the rows with a truth and probabilities (or, where no row has any, the masks). Patients
    are split once, by seed: up to 30 % (60 at most) are learnt from — the first 20 of them choose the score, all of
    them teach what label-free evidence says about a mask — and the others calibrate; with too few to do
    both, all calibrate the plain score and there are no bounds. Scans the gate finds an error in are left out, as
    they would be when judged. Each group of the ``group`` column with enough calibration patients gets thresholds
    of its own beside those of everybody.

    Parameters
    ----------
    cohort, modality, cache, progress, warn
        As in `fit`.
    options
        What is promised.
    names
        Of the truth's labels, see `label_table`.
    screening
        Gives the abnormality of each scan as evidence for bounds; its own patients calibrate no bound.
    seed
        Of the split.

    Returns
    -------
    FittedSets
        Its section is None where nothing could be fitted; notes say what could not.

    Guarantee
    ---------
    Those of `conformalize` and `fit_bounds`: learning and calibration share no patient.
    """
    options = options or SetOptions()
    rows = [row for row in cohort if row.truth is not None and not row.lesion_free and not row.outlier]
    soft = [row for row in rows if row.probabilities is not None]
    graded = not soft
    rows = [row for row in rows if row.mask is not None] if graded else soft
    if not rows:
        return FittedSets(None, (), ("sets: no row has a truth beside probabilities or a mask",))
    patients: dict[str, list[CohortRow]] = {}
    for row in rows:
        patients.setdefault(row.patient, []).append(row)
    learning, calibrating = _split(patients, options, seed)
    reader = LabelledReader(modality, graded, warn, label_table(names))
    labels = reader.structures(row for group in patients.values() for row in group[:1])
    if not labels:
        return FittedSets(None, (), ("sets: the truth of the first scan of every patient is empty",))
    evidence, notes = _usable(screening, calibrating, graded=graded)
    tuning_rows = [patients[name] for name in learning[:_MOST_TUNING]]
    tuner = ScoreTuner(tuning_rows, reader, labels, options.alpha, len(calibrating), cache, progress)
    choice, encoder = tuner.encoder(options.encoder, options.device)
    if choice != options.encoder and learning:
        notes.append(f"sets: of the segmenter's stages, stage {choice.layer} makes the best graph")
    if not learning and options.tune:
        notes.append(
            f"sets: {len(patients)} patients are too few to tune and calibrate, the plain score was calibrated"
        )
    tunings = tuner.scores(encoder)
    plain = plain_score(graded=graded)
    recipes = {label: plain if tuning is None else tuning.recipe for label, tuning in tunings.items()}
    run = _Run(patients, reader, labels, encoder, options, cache, progress, evidence)
    given_masks = all(row.mask is not None for row in rows)
    thresholds = run.provisional(learning, recipes, len(calibrating))
    learnt = [one.without_losses() for one in run.records(learning, recipes, thresholds, "learning")]
    records, losses, by_group = run.gather(calibrating, recipes, thresholds)
    calibrations = run.calibrate(losses, recipes)
    groups, thin = run.calibrate_groups(by_group, recipes)
    notes += thin
    for name, calibration, tuning in zip(labels.values(), calibrations, tunings.values(), strict=True):
        notes += [
            f"sets of {name}: {side} {threshold.sentence}"
            for side, threshold in (("outer", calibration.outer), ("inner", calibration.inner))
            if not threshold.feasible
        ]
        notes += [] if tuning is None else [f"sets of {name}: {line}" for line in tuning.advice]
    split = {
        "learning": len(learning),
        "tuning": len(tuning_rows),
        "calibration": len(calibrating),
        "groups": {
            name: [sum(patients[p][0].group == name for p in part) for part in (learning, calibrating)]
            for name in sorted({group[0].group for group in patients.values()} - {""})
        },
    }
    section = SetsSection(
        calibrations,
        tuple(labels),
        tuple(None if tuning is None else tuning.to_json() for tuning in tunings.values()),
        options.alpha,
        options.assurance,
        graded,
        encoder.identity,
        choice,
        groups,
        split,
        tuple(losses.curves(label) for label in labels),
        tuple(sorted({scan_mark(row) for row in rows})),
    )
    bounds, more = run.bound(learnt, run.unscreened(calibrating, records), thresholds, given_masks)
    keys = tuple(rows_key([row], []) for row in rows)
    return FittedSets(section, keys, (*notes, *more), bounds)


def _split(patients: Mapping[str, Any], options: SetOptions, seed: int) -> tuple[list[str], list[str]]:
    """Patients to learn from, and those to calibrate on."""
    names = [*patients]
    order = np.random.default_rng(seed).permutation(len(names))
    count = learning_patients(len(names), options.alpha) if options.tune else 0
    return [names[k] for k in order[:count]], [names[k] for k in order[count:]]


def _usable(
    screening: ScreeningSection | None, calibrating: Sequence[str], *, graded: bool
) -> tuple[ScreeningSection | None, list[str]]:
    """Screening as evidence for bounds, unless it learnt from too many of the patients that calibrate them."""
    if screening is None:
        return None, []
    if graded and screening.measured.certainty:
        words = "bounds: how strange a scan is was not used as evidence, as screening needs probabilities"
        return None, [words]
    seen = sum(patient_key(name) in screening.screener.fit_patients for name in calibrating)
    if 3 * seen <= len(calibrating):
        return screening, []
    words = (
        f"bounds: screening learnt from {seen} of the {len(calibrating)} calibration patients, so how strange a scan "
        "is was not used as evidence"
    )
    return None, [words]


@dataclass(frozen=True, eq=False)
class _Run:
    """One fit: the patients, how they are read, and what is wanted."""

    patients: Mapping[str, Sequence[CohortRow]]
    reader: LabelledReader
    labels: Mapping[int, str]
    encoder: Encoder
    options: SetOptions
    cache: Path | None
    progress: Progress | None
    screening: ScreeningSection | None = None

    def provisional(
        self, learning: Sequence[str], recipes: Mapping[int, ScoreRecipe], calibration_patients: int
    ) -> dict[int, tuple[int, int]]:
        """Outer and inner threshold of each structure on the learning patients, at the risk calibration aims at.

        Evidence is measured at these: the calibrated ones depend on the calibration patients, which
        would no longer be exchangeable with the next.
        """
        if not learning:
            return dict.fromkeys(self.labels, (0, EMPTY_SET))
        losses = self._losses()
        for one in self.records(learning, recipes, None, "learning sets"):
            losses.add(one)
        aim = aimed_risk(self.options.alpha, calibration_patients)
        found = {}
        for label in self.labels:
            (missed, count), (invented, _) = losses.total(label, "outer"), losses.total(label, "inner")
            small, large = (np.flatnonzero(total <= aim * count + 1e-9) for total in (missed, invented))
            # Nothing fits, or nobody has the structure: the safe ends.
            low = int(small[-1]) if count and small.size else 0
            high = int(large[0]) if count and large.size else EMPTY_SET
            found[label] = (low, high)
        return found

    def _losses(self) -> CohortLosses:
        return CohortLosses(
            self.labels,
            assurance=self.options.assurance,
            simultaneous=self.options.simultaneous and len(self.labels) > 1,
        )

    def gather(
        self,
        names: Sequence[str],
        recipes: Mapping[int, ScoreRecipe],
        thresholds: Mapping[int, tuple[int, int]],
    ) -> tuple[list[PatientRecord], CohortLosses, dict[str, CohortLosses]]:
        """Evidence of the calibration patients, the losses of all of them, and of each group."""
        found, everybody = [], self._losses()
        groups: dict[str, CohortLosses] = {}
        for name, record in zip(names, self.records(names, recipes, thresholds, "calibration"), strict=True):
            everybody.add(record)
            if group := self.patients[name][0].group:
                groups.setdefault(group, self._losses()).add(record)
            found.append(record.without_losses())
        return found, everybody, groups

    def records(
        self,
        names: Sequence[str],
        recipes: Mapping[int, ScoreRecipe],
        thresholds: Mapping[int, tuple[int, int]] | None,
        stage: str,
    ) -> Iterator[PatientRecord]:
        """What each patient says, one after another, kept so that a killed fit goes on where it stopped."""
        for done, name in enumerate(names):
            if self.progress:
                self.progress(f"sets: {stage}", done, len(names))
            rows = self.patients[name]
            choices = [
                "record",
                {label: recipe.to_json() for label, recipe in recipes.items()},
                None if thresholds is None else [[*pair] for pair in thresholds.values()],
                self.reader.graded,
                self.options.lesion_wise,
                self.encoder.identity,
                None if self.screening is None else self.screening.to_arrays()[0],
            ]
            file = None if self.cache is None else self.cache / f"{rows_key(rows, choices)}.npz"
            kept = None if file is None else read_record(file)
            if kept is None:
                kept = record_patient(
                    self.reader.images(rows),
                    recipes,
                    thresholds,
                    self.encoder,
                    lesions=self.options.lesion_wise,
                    abnormality=None if self.screening is None else self._abnormality,
                )
                if file is not None:
                    kept.save(file)
            yield kept

    def _abnormality(self, image: LabelledImage) -> float:
        """How strange screening finds a scan with its mask."""
        assert self.screening is not None
        labels = np.zeros(image.scan.grid.shape, dtype=np.uint16)
        for label in self.labels:
            if label in image.masks:
                labels[image.masks[label]] = label
        return scan_abnormality(self.screening, image.scan, LabelMap(labels, image.scan.grid), image.soft)

    def unscreened(self, names: Sequence[str], records: Sequence[PatientRecord]) -> list[tuple[str, PatientRecord]]:
        """Group and record of those screening did not learn from: of others it knows too well how usual they are."""
        seen = frozenset() if self.screening is None else self.screening.screener.fit_patients
        return [
            (self.patients[name][0].group, one)
            for name, one in zip(names, records, strict=True)
            if patient_key(name) not in seen
        ]

    def calibrate(self, losses: CohortLosses, recipes: Mapping[int, ScoreRecipe]) -> tuple[SetCalibration, ...]:
        """The calibration of each structure on some patients."""
        made = [self._calibrated(losses, label, recipes[label]) for label in self.labels]
        if not losses.simultaneous:
            return tuple(made)
        words = "of each scan's worst structure: "
        both = (losses.worst("outer", self.options.alpha), losses.worst("inner", self.options.alpha))
        outer, inner = (replace(t, sentence=words + t.sentence) for t in both)
        return tuple(replace(one, outer=outer, inner=inner) for one in made)

    def _calibrated(self, losses: CohortLosses, label: int, recipe: ScoreRecipe) -> SetCalibration:
        alpha, having = self.options.alpha, losses.having(label)
        outer, inner = losses.threshold(label, "outer", alpha), losses.threshold(label, "inner", alpha)
        if self.options.lesion_wise:
            lesions = losses.threshold(label, "lesions", alpha)
            # Both losses only fall towards larger sets: the larger of the two sets keeps both promises.
            outer = replace(
                outer,
                threshold=min(outer.threshold, lesions.threshold),
                feasible=outer.feasible and lesions.feasible,
                sentence=f"{outer.sentence}; share of lesions hardly touched: {lesions.sentence}",
            )
        return SetCalibration(self.labels[label], recipe, outer, inner, having, losses.patients - having)

    def calibrate_groups(
        self, groups: Mapping[str, CohortLosses], recipes: Mapping[int, ScoreRecipe]
    ) -> tuple[dict[str, tuple[SetCalibration | None, ...]], list[str]]:
        """Calibrations of their own for groups that are large enough (Mondrian), and words about the others."""
        made: dict[str, tuple[SetCalibration | None, ...]] = {}
        notes = []
        needed = patients_needed(self.options.alpha)
        for group, own in sorted(groups.items()):
            if own.patients < needed:
                notes.append(
                    f"sets: group {group} has {own.patients} of the {needed} calibration patients needed for a promise "
                    "of its own; its scans get the one averaged over all groups"
                )
                continue
            calibrated = tuple(
                replace(
                    one,
                    outer=replace(one.outer, sentence=f"within group {group}, {one.outer.sentence}"),
                    inner=replace(one.inner, sentence=f"within group {group}, {one.inner.sentence}"),
                )
                if one.outer.feasible and one.inner.feasible
                else None
                for one in self.calibrate(own, recipes)
            )
            if any(calibrated):
                made[group] = calibrated
            else:
                notes.append(
                    f"sets: group {group} gets no promise of its own: {own.patients} patients cannot assure it"
                )
        return made, notes

    def bound(
        self,
        learnt: Sequence[PatientRecord],
        grouped: Sequence[tuple[str, PatientRecord]],
        thresholds: Mapping[int, tuple[int, int]],
        given_masks: bool,
    ) -> tuple[BoundsSection | None, list[str]]:
        """Bounds of quality, of everybody and of large groups, or words about why there are none."""
        grouped = [(group, one) for group, one in grouped if one.scans]
        records = [one for one in learnt if one.scans], [one for _, one in grouped]
        if not records[0] or not records[1]:
            return None, ["bounds: too few patients to learn from and to calibrate on"]
        learning, calibration = ([one.bound_rows(self.labels) for one in part] for part in records)
        groups = [group for group, _ in grouped]
        section = fit_bounds(
            learning,
            calibration,
            self.options.alpha,
            structures=self.labels,
            thresholds=[thresholds[label] for label in self.labels],
            given_masks=given_masks,
            diagonal=min(one.diagonal for part in records for one in part),
            step=min(one.step for part in records for one in part),
            groups=groups,
        )
        needed = patients_needed(self.options.alpha)
        return section, [
            f"bounds: group {group} has {groups.count(group)} of the {needed} calibration patients needed for bounds "
            "of its own; its scans get those that hold over all groups"
            for group in sorted({*groups} - {"", *section.groups})
        ]
