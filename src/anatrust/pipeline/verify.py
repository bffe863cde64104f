"""The local acceptance test: whether a profile's promises hold for the patients of this site."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatrust.errors import AnatrustError, InputError, MissingExtraError
from anatrust.image.atomic import replacing
from anatrust.image.read import read_mask, read_probabilities
from anatrust.image.volumes import LabelMap
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.protocols import Encoder
from anatrust.ood.drift import DriftMonitor
from anatrust.pipeline.bounds import BoundsSection, predict_bounds, sureness
from anatrust.pipeline.bounds_evidence import diameter_of, structure_evidence, structure_truth
from anatrust.pipeline.case import Names, label_table
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.fit_rejection import LeftOutError, lesion_free_case
from anatrust.pipeline.labelled import LabelledImage, LabelledReader, rows_key, scan_mark
from anatrust.pipeline.levels import Levels
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.progress import Progress, Warn
from anatrust.pipeline.screening import scan_abnormality, screen_scan
from anatrust.pipeline.sets import SetsSection, described_for
from anatrust.statistics.acceptance import Outcome, PromiseCheck, check_promise

__all__ = ["DriftCheck", "Verification", "verify"]

_DRIFT_LEVEL = 0.01
_KEPT = "kept"
_BOUNDS = ("Dice", "HD95", "volume", "longest diameter")


@dataclass(frozen=True)
class DriftCheck:
    """Whether the scans, in the table's order, stopped being like those calibrated on.

    ``wealth`` is the largest wealth of a bet against "nothing changed"; ``alarm`` where it reached 100, which
    happens with probability at most 0.01 if nothing did.
    """

    about: str
    scans: int
    wealth: float
    alarm: bool
    sentence: str


@dataclass(frozen=True)
class Verification:
    """The result of the acceptance test.

    Parameters
    ----------
    outcome
        ``"fail"`` if any promise failed, else ``"too few"`` if any could not be told, else ``"pass"``.
    checks
        One a promise; their intervals hold together at ``confidence``.
    drift
        Label-free: what would warn before any truth is known.
    patients, left_out
        Patients measured, and rows that could not be.
    confidence, tolerance
        As asked for.
    notes
        What was not tested, and why.
    """

    outcome: Outcome
    checks: tuple[PromiseCheck, ...]
    drift: tuple[DriftCheck, ...]
    patients: int
    left_out: int
    confidence: float
    tolerance: float
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The result in words."""
        if self.outcome == "fail":
            failed = sum(check.outcome == "fail" for check in self.checks)
            verb = "does" if failed == 1 else "do"
            return f"FAIL: {failed} of {len(self.checks)} promises {verb} not hold for these patients"
        if self.outcome == "too few":
            open_ones = sum(check.outcome == "too few" for check in self.checks)
            return f"TOO FEW patients to tell: {open_ones} of {len(self.checks)} promises remain open"
        return f"PASS: no evidence against any of the {len(self.checks)} promises; that is no proof that they hold"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema_version": 1,
            "outcome": self.outcome,
            "sentence": self.sentence,
            "checks": [check.to_json() for check in self.checks],
            "drift": [asdict(one) for one in self.drift],
            "patients": self.patients,
            "left_out": self.left_out,
            "confidence": self.confidence,
            "tolerance": self.tolerance,
            "notes": list(self.notes),
        }


def verify(
    profile: Profile | str | Path,
    cohort: Cohort | str | Path,
    *,
    confidence: float = 0.95,
    tolerance: float = 2.0,
    modality: str | None = None,
    anatomy_names: Names = None,
    encoder_weights: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> Verification:
    """Measure a profile's promises on labelled patients it has never seen.

    Realised miss of outer sets, realised invention of inner sets, broken bounds and flagged scans, each
    averaged within a patient and then over patients, and the share of lesion-free patients in whom a candidate is
    kept, with an exact interval each (Bonferroni over all of them).

    Parameters
    ----------
    profile
        Fitted elsewhere, or earlier; or its file.
    cohort
        A table or its path: rows with a truth, and probabilities or masks as the profile needs them; none of these
        patients may have been fitted on. Usual rows (``outlier`` not true) with a mask are screened.
    confidence, tolerance
        As in :func:`~anatrust.statistics.acceptance.check_promise`; confidence of all intervals together.
    modality
        Of the scans, as in `read_scan`.
    anatomy_names
        Names of the labels in the ``anatomy`` column, where the profile's null was fitted with one.
    encoder_weights
        Where the weights of the profile's encoder lie now.
    cache
        Folder that keeps what was measured on each scan; an interrupted run goes on.
    progress, warn
        As in `fit`.

    Raises
    ------
    InputError
        If the profile promises nothing that these rows could test, its sets were fitted on some of these scans, or a
        lesion-free row contradicts itself.

    Guarantee
    ---------
    If all promises hold at this site, as means for this calibrated profile, "fail" is said with probability at
    most ``(1 - confidence) / 2``. A promise is a mean over calibrations too: a profile of few calibration
    patients may miss its level by its own bad luck, and failing it is then right.
    """
    profile, cohort = Profile.of(profile), Cohort.of(cohort)
    tester = _Tester(profile, modality, label_table(anatomy_names), encoder_weights, cache, warn)
    rows = [row for row in cohort if tester.concerns(row)]
    if not rows:
        raise InputError(
            f"{cohort.source}: no row tests what this profile promises; give rows with a truth beside what its sets "
            "grade, or usual scans with masks for screening"
        )
    known = frozenset(() if profile.sets is None else profile.sets.scans)
    if known and (shared := sum(row.image.exists() and scan_mark(row) in known for row in rows)):
        raise InputError(
            f"{cohort.source}: {shared} of its {len(rows)} scans were fitted on, and on those a profile looks better "
            "than it is: leave them out"
        )
    measured: dict[str, list[Mapping[str, Any]]] = {}
    for done, row in enumerate(rows):
        if progress:
            progress("verify", done, len(rows))
        found = tester.measure(row)
        if found is not None:
            measured.setdefault(row.patient, []).append(found)
    promises = tester.promises(rows)
    left_out = len(rows) - sum(len(one) for one in measured.values())
    share = 1 - (1 - confidence) / max(1, len(promises))
    checks = tuple(
        check_promise(words, _losses(measured, key), level, confidence=share, tolerance=tolerance)
        for key, words, level in promises
    )
    outcomes = {check.outcome for check in checks}
    outcome: Outcome = "fail" if "fail" in outcomes else "too few" if "too few" in outcomes or not checks else "pass"
    drift = tuple(tester.drift(measured))
    return Verification(outcome, checks, drift, len(measured), left_out, confidence, tolerance, tuple(tester.notes))


def _losses(measured: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> list[float]:
    """Loss of each patient that has one: errors over sizes of all its scans, as in calibration."""
    found = []
    for scans in measured.values():
        pairs = [scan[key] for scan in scans if key in scan]
        size = sum(size for _, size in pairs)
        if size:
            wrong = sum(wrong for wrong, _ in pairs)
            # The cohort null pools the scans of a patient: one kept candidate in one of them is one too many.
            found.append(float(wrong > 0) if key == _KEPT else min(1.0, wrong / size))
    return found


class _Tester:
    """What one profile promises, and how each promise is measured on a row."""

    def __init__(
        self,
        profile: Profile,
        modality: str | None,
        organs: dict[int, str],
        encoder_weights: str | None,
        cache: Path | None,
        warn: Warn | None,
    ) -> None:
        self.profile, self.organs, self.cache, self.warn = profile, organs, cache, warn
        self.modality = modality or (None if profile.modality == "unknown" else profile.modality)
        self.sets: SetsSection | None = profile.sets
        self.bounds: BoundsSection | None = profile.bounds
        self.encoder: Encoder | None = None if self.sets is None else self.sets.make_encoder(encoder_weights)
        self.reader = LabelledReader(self.modality, self.sets is not None and self.sets.graded_masks, warn)
        self.null = profile.rejection
        self.level = Levels().candidates
        self.notes: list[str] = []
        sections = {"sets": self.sets, "bounds": self.bounds, "screening": profile.screening, "rejection": self.null}
        for name, missing in sections.items():
            if missing is None:
                self.notes.append(f"the profile has no section of {name}: nothing of it was tested")
        self.choices: list[Any] = ["verify", self.modality, sorted(organs.items())]
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def concerns(self, row: CohortRow) -> bool:
        """Whether a row tests anything."""
        return self._labelled(row) or self._screened(row) or self._lesion_free(row)

    def _labelled(self, row: CohortRow) -> bool:
        if self.sets is None or row.truth is None or row.lesion_free or row.outlier:
            return False
        return (row.mask if self.sets.graded_masks else row.probabilities) is not None

    def _screened(self, row: CohortRow) -> bool:
        return self.profile.screening is not None and row.mask is not None and not row.outlier

    def _lesion_free(self, row: CohortRow) -> bool:
        if self.null is None or self.null.null.floor > self.level or not row.lesion_free or row.mask is None:
            return False
        if self.null.anatomy != (row.anatomy is not None):
            have, cell = ("with", "empty") if self.null.anatomy else ("without", "filled")
            raise InputError(
                f"row {row.number}, column anatomy: the profile's cohort null was fitted {have} anatomy and the cell "
                f"is {cell}; give the anatomy as it was given to fit"
            )
        if self.null.settings.needs_probabilities and row.probabilities is None:
            raise InputError(
                f"row {row.number}, column probabilities: the cell is empty and the profile's score, "
                f"{self.null.settings.score}, looks at them; give them"
            )
        return True

    def promises(self, rows: Sequence[CohortRow]) -> list[tuple[str, str, float]]:
        """Key of the loss, words and level of everything promised that these rows can test."""
        found: list[tuple[str, str, float]] = []
        if self.sets is not None:
            for label, one in zip(self.sets.labels, self.sets.calibrations, strict=True):
                for side, threshold, words in (
                    ("missed", one.outer, f"share of {one.structure} that its outer set misses"),
                    ("invented", one.inner, f"share that the inner set of {one.structure} invents"),
                ):
                    if threshold.feasible:
                        found.append((f"{side} {label}", words, self.sets.alpha))
                    else:
                        self.notes.append(f"{words}: infeasible in the profile, nothing was promised")
        if self.bounds is not None:
            found += [
                (f"broken {name}", f"share of scans that break a bound of {name}", self.bounds.alpha)
                for name, bound in zip(_BOUNDS, self.bounds.bounds.values(), strict=True)
                if bound.feasible
            ]
        if self.profile.screening is not None:
            rate = self.profile.screening.screener.promise
            found.append(("flagged", "share of usual scans that screening calls strange", rate))
        if self.null is not None:
            self.notes.append(f"candidates are ranked by the profile's score, {self.null.settings.score}")
            if any(self._lesion_free(row) for row in rows):
                found.append((_KEPT, "share of lesion-free patients in whom any candidate is kept", self.level))
            elif self.null.null.floor > self.level:
                self.notes.append(
                    f"the cohort null: {self.null.null.n_patients} patients give no p-value of {self.level:g} or less, "
                    "so no candidate is ever kept and there is nothing to test"
                )
            else:
                self.notes.append("the cohort null was not tested: no row has lesion_free = true and a mask")
        return found

    def measure(self, row: CohortRow) -> Mapping[str, Any] | None:
        """Every loss of one scan; None where it cannot be read."""
        file = None
        if self.cache is not None:
            file = self.cache / f"{rows_key([row], [*self.choices, self._identity(), row.group])}.json"
            if file.is_file():
                kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
                return kept
        found: dict[str, Any] = {}
        if self._labelled(row):
            image = self._read(row)
            if image is None:
                return None
            found |= self._set_losses(image, row.group)
        if self._screened(row):
            screened = self._screening(row)
            if screened is None:
                return None
            found |= screened
        if self._lesion_free(row):
            any_kept = self._any_kept(row)
            if any_kept is None:
                return None
            found[_KEPT] = [int(any_kept), 1]
        if file is not None:
            with replacing(file) as part:
                part.write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
        return found

    def _read(self, row: CohortRow) -> LabelledImage | None:
        """The row, with the kind of mask whose quality is bounded: the given one, or the probabilities' own."""
        assert self.sets is not None
        if self.bounds is None or self.sets.graded_masks:
            return self.reader.read(row)
        image = self.reader.read(row if self.bounds.given_masks else replace(row, mask=None))
        if image is not None and self.bounds.given_masks and row.mask is None:
            return replace(image, masks={})  # nothing was promised about a mask made otherwise
        return image

    def _identity(self) -> str:
        """What the losses depend on beside the row."""
        parts = [
            None if self.sets is None else self.sets.to_json(),
            None if self.bounds is None else self.bounds.to_json()[0],
            None if self.null is None else self.null.settings.to_json(),
            self.profile.cohort_hash,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def _set_losses(self, image: LabelledImage, group: str) -> dict[str, Any]:
        assert self.sets is not None
        grid = image.scan.grid
        found: dict[str, Any] = {}
        levels, channels = {}, {}
        encoder = self.encoder or LocalDescriptors()
        for label, one in zip(self.sets.labels, self.sets.of_group(group), strict=True):
            channel = image.probabilities.get(label)
            channels[label] = np.zeros(grid.shape, dtype=np.float32) if channel is None else channel
            described = described_for(one.recipe, image.scan, encoder)
            levels[label] = one.recipe.levels(channels[label], image.scan.array, grid, described)
            truth = np.asarray(image.truth.array == label)
            size, sets = int(np.count_nonzero(truth)), one.sets_of(levels[label], grid)
            found[f"missed {label}"] = [int(np.count_nonzero(truth & ~sets.outer.array)), size]
            found[f"invented {label}"] = [int(np.count_nonzero(sets.inner.array & ~truth)), size]
        if self.bounds is not None and image.masks:
            found |= self._broken(image, levels, channels, group)
        return found

    def _broken(
        self, image: LabelledImage, levels: dict[int, Any], channels: dict[int, Any], group: str
    ) -> dict[str, Any]:
        assert self.bounds is not None
        section, grid = self.bounds, image.scan.grid
        masks = {k: image.masks.get(k, np.zeros(grid.shape, dtype=bool)) for k in section.labels}
        strange = None
        if section.screened and self.profile.screening is not None:
            drawn = np.zeros(grid.shape, dtype=np.uint16)
            for label, mask in masks.items():
                drawn[mask] = label
            strange = scan_abnormality(self.profile.screening, image.scan, LabelMap(drawn, grid), image.soft)
        told = predict_bounds(section, levels, channels, masks, grid, abnormality=strange, group=group)
        found: dict[str, Any] = {}
        for number, one in enumerate(told):
            truth = np.asarray(image.truth.array == one.label)
            quantities = structure_truth(masks[one.label], truth, grid)
            if np.isnan(quantities[0]):
                continue
            volume, diameter = np.count_nonzero(truth) * grid.voxel_volume, diameter_of(truth, grid)
            distance = float(np.exp(quantities[1])) - min(grid.spacing)
            broken = (
                one.dice_lower is not None and quantities[0] < one.dice_lower - 1e-9,
                one.hd95_upper is not None and distance > one.hd95_upper + 1e-9,
                _outside(volume, one.volume_lower, one.volume_upper),
                _outside(diameter, one.diameter_lower, one.diameter_upper),
            )
            for name, value in zip(_BOUNDS, broken, strict=True):
                found[f"broken {name}"] = [max(found.get(f"broken {name}", [0])[0], int(value)), 1]
            pair = section.thresholds[number]
            evidence = structure_evidence(levels[one.label], pair, channels[one.label], masks[one.label], grid)
            found[f"evidence {number}"] = float(sureness(evidence))
        return found

    def _screening(self, row: CohortRow) -> dict[str, Any] | None:
        section = self.profile.screening
        assert section is not None
        try:
            from anatrust.image.read import read_scan

            scan = read_scan(row.image, modality=self.modality or section.modality)
            labels, soft = read_mask(row.mask, reference=scan.grid), None
            if section.measured.certainty and row.probabilities is not None:
                soft = read_probabilities(row.probabilities, reference=scan.grid)
            screening, _ = screen_scan(section, scan, labels, soft)
        except MissingExtraError:
            raise  # of no row's making
        except AnatrustError as error:
            if self.warn:
                self.warn(f"row {row.number}: left out, {error}")
            return None
        found: dict[str, Any] = {"flagged": [int(screening.verdict == "strange"), 1]}
        if screening.abnormality is not None and np.isfinite(screening.abnormality):
            found["abnormality"] = float(screening.abnormality)
        return found

    def _any_kept(self, row: CohortRow) -> bool | None:
        """Whether `assess` with this profile would keep any candidate of a lesion-free scan."""
        from anatrust.rejection import reject

        assert self.null is not None
        try:
            case = lesion_free_case(row, self.modality, self.organs)
        except LeftOutError as reason:
            if self.warn:
                self.warn(f"row {row.number}: left out, {reason}")
            return None
        found = reject(
            case.scan,
            case.labels,
            anatomy=case.anatomy,
            probabilities=case.probabilities,
            cohort_null=self.null.null,
            settings=replace(self.null.settings, null="cohort", alpha=self.level),
        )
        return bool(found.kept.array.any())

    def drift(self, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[DriftCheck]:
        """Label-free monitors, one value a patient, in the table's order."""
        found = []
        if self.bounds is not None:
            for number, name in enumerate(self.bounds.structures):
                about = f"how sure the segmenter is of {name}"
                found += self._monitor(about, self.bounds.history[:, number], measured, f"evidence {number}")
        screening = self.profile.screening
        if screening is not None and screening.screener.calibration:
            past = np.concatenate([*screening.screener.calibration.values()])
            found += self._monitor("how strange screening finds the scans", past, measured, "abnormality")
        return found

    def _monitor(
        self, about: str, past: Any, measured: Mapping[str, Sequence[Mapping[str, Any]]], key: str
    ) -> list[DriftCheck]:
        monitor = DriftMonitor(past, level=_DRIFT_LEVEL)
        values = [
            float(np.mean(own)) for scans in measured.values() if (own := [scan[key] for scan in scans if key in scan])
        ]
        for value in values:
            monitor.update(value)
        if not values:
            return []
        if monitor.alarm:
            words = (
                f"warning: {about} is not as it was where the profile was calibrated; its promises are about "
                "other patients than these: find out what changed, and fit here"
            )
        else:
            words = f"{about}: no evidence against these scans being like those calibrated on, which is no proof"
        return [DriftCheck(about, len(values), float(monitor.largest), monitor.alarm, words)]


def _outside(value: float, low: float | None, high: float | None) -> bool:
    """Whether a value breaks an interval; one that promises nothing cannot be broken."""
    return low is not None and high is not None and not low - 1e-6 <= value <= high + 1e-6
