"""Screening: is this scan like those the model was made for? A score, a p-value, a verdict and reasons."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.combination import RankAverage
from anatrust.ood.crops import NoPrediction
from anatrust.ood.detectors import Detector
from anatrust.ood.features import Levels, ScanFeatures
from anatrust.statistics.conformal_p import conformal_p_value

if TYPE_CHECKING:
    from anatrust.ood.cross import CrossCalibration

__all__ = ["Screener", "Screening", "ScreeningVerdict", "fit_screener", "patient_key", "patients_for_rate"]

ScreeningVerdict = Literal["usual", "strange", "no_prediction", "infeasible"]

# Products such as 0.05 · 20 may fall a rounding error short of a whole number.
_SLACK = 1e-9


@dataclass(frozen=True)
class Screening:
    """What screening says about one scan.

    Parameters
    ----------
    identifier
        Of the scan.
    abnormality
        Higher = stranger; None where nothing was segmented.
    p_value
        Of "this scan is one of the usual ones"; None where there is no score.
    p_floor
        The smallest p-value the calibration patients allow.
    flag_rate
        Share of usual scans that may be called strange.
    verdict
        ``"usual"`` (nothing strange was found, no more), ``"strange"``, ``"no_prediction"``, or
        ``"infeasible"``: too few calibration patients to call any scan strange at this rate.
    reasons
        Sentences for people.
    """

    identifier: str
    abnormality: float | None
    p_value: float | None
    p_floor: float
    flag_rate: float
    verdict: ScreeningVerdict
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Only for ``"usual"``: every other verdict falls to the safe side."""
        return self.verdict == "usual"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a verdict file."""
        return {
            "identifier": self.identifier,
            "abnormality": self.abnormality,
            "p_value": self.p_value,
            "p_floor": self.p_floor,
            "flag_rate": self.flag_rate,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
        }


def patients_for_rate(rate: float) -> int:
    """Fewest calibration patients with which a scan can be flagged at this rate: ``ceil(1/rate) − 1``.

    Examples
    --------
    >>> [patients_for_rate(r) for r in (0.2, 0.1, 0.05, 0.01)]
    [4, 9, 19, 99]
    """
    if not 0 < rate < 1:
        raise InputError(f"a flag rate is a share between 0 and 1, not {rate}")
    return max(1, math.ceil(1 / rate - _SLACK) - 1)


def patient_key(patient: str) -> str:
    """What is kept of a patient's name: enough to see that two are the same, not who it is."""
    return hashlib.sha256(f"anatrust patient\n{patient}".encode()).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Screener:
    """Fitted detectors and, once conformalized, the scores of held-out usual patients.

    Made by :func:`fit_screener`; then :meth:`conformalize`, then :meth:`screen`.

    Guarantee
    ---------
    For a usual scan whose patient is exchangeable with the calibration patients, none of whom was
    fitted on, P(p ≤ t) ≤ t for every t, hence at most ``flag_rate`` of usual scans are called
    strange: on average over calibrations, not for this one calibration, and within each group
    where groups are given. Where patients calibrate who were fitted on (``cross``), twice that:
    see :class:`~anatrust.ood.cross.CrossCalibration`. Nothing is promised about how many strange
    scans are found.

    References
    ----------
    Bates et al., Annals of Statistics 51 (2023); RF-Deep, arXiv 2512.08216 (its threshold of 0.5 is not calibrated).
    """

    detectors: tuple[Detector, ...]
    average: RankAverage | None
    identity: str
    levels: Levels
    fit_identifiers: tuple[str, ...]
    fit_patients: frozenset[str]
    fit_means: npt.NDArray[np.float64]
    flag_rate: float = 0.05
    calibration: Mapping[str, npt.NDArray[np.float64]] | None = None
    cross: CrossCalibration | None = None

    @property
    def n_calibration(self) -> int:
        """Calibration patients, all groups together."""
        if self.cross is not None:
            return self.cross.scores.size
        return sum(scores.size for scores in (self.calibration or {}).values())

    @property
    def promise(self) -> float:
        """At most this share of usual scans is called strange: the flag rate, twice that where ``cross`` judges."""
        return self.flag_rate if self.cross is None else min(1.0, 2 * self.flag_rate)

    def abnormality(self, scans: Sequence[ScanFeatures]) -> npt.NDArray[np.float64]:
        """``(k,)`` scores, higher = stranger.

        Raises
        ------
        InputError
            If features were made in another way than those the screener was fitted on.
        """
        for scan in scans:
            _same_making(scan, self.identity, self.levels)
        scores = np.array([detector.score([scan.values for scan in scans]) for detector in self.detectors])
        return scores[0] if self.average is None else self.average.of(scores)

    def conformalize(
        self,
        scans: Sequence[ScanFeatures],
        patients: Sequence[str],
        *,
        groups: Sequence[str] | None = None,
        flag_rate: float | None = None,
    ) -> Screener:
        """Calibrate on usual scans of other patients.

        Parameters
        ----------
        scans, patients
            Usual scans and whose they are. Several scans of a patient count once, by the
            strangest, which can only make p-values larger.
        groups
            One group a scan, fixed beforehand (for instance the scanner's maker): then each
            scan is compared with its own group only.
        flag_rate
            Share of usual scans that may be flagged; the present one if None.

        Returns
        -------
        Screener
            A calibrated copy.

        Raises
        ------
        InputError
            If a patient was fitted on, lengths differ, or a patient is in two groups.
        """
        rate = self.flag_rate if flag_rate is None else flag_rate
        patients_for_rate(rate)
        given = list(groups) if groups is not None else [""] * len(scans)
        if not len(scans) == len(patients) == len(given) or not scans:
            raise InputError("calibration needs at least one scan, and one patient and group for each")
        seen = self.fit_patients & {patient_key(patient) for patient in patients}
        if seen:
            raise InputError(f"{len(seen)} calibration patients were fitted on: hold patients out, never scans")
        strangest: dict[str, tuple[str, float]] = {}
        for patient, group, score in zip(patients, given, self.abnormality(scans).tolist(), strict=True):
            own, most = strangest.get(patient, (group, -math.inf))
            if own != group:
                raise InputError("a calibration patient is in two groups: a group is a property of the patient")
            strangest[patient] = (group, max(most, score))
        calibration = {
            group: np.sort([score for own, score in strangest.values() if own == group])
            for group in sorted({own for own, _ in strangest.values()})
        }
        return replace(self, calibration=calibration, flag_rate=rate, cross=None)

    def threshold(self, group: str = "") -> float | None:
        """Scans that score *above* this are flagged; None where the calibration is too small for any."""
        scores = self._group(group)
        largest = math.floor(self.flag_rate * (scores.size + 1) + _SLACK)
        return float(scores[-largest]) if largest else None

    def _group(self, group: str) -> npt.NDArray[np.float64]:
        if self.calibration is None:
            raise InputError("the screener is not calibrated: call conformalize with scans of other patients")
        if group not in self.calibration:
            known = ", ".join(repr(g) for g in self.calibration)
            raise InputError(f"the group {group!r} was not calibrated: give one of {known}")
        return self.calibration[group]

    def screen(self, scan: ScanFeatures | NoPrediction, *, group: str = "") -> Screening:
        """Judge one scan.

        Parameters
        ----------
        scan
            Its features, or that nothing was segmented.
        group
            Its group where the calibration is by group.

        Raises
        ------
        InputError
            If the screener is not calibrated, the group unknown, or the features made otherwise.
        """
        n = self._group(group).size if self.cross is None else self.cross.scores.size
        floor = 1.0 / (n + 1)
        if isinstance(scan, NoPrediction):
            return Screening(scan.identifier, None, None, floor, self.flag_rate, "no_prediction", (scan.reason,))
        abnormality = float(self.abnormality([scan])[0])
        if self.cross is not None:
            p = self.cross.p_value(scan)
        else:
            p = float(conformal_p_value(self._group(group), abnormality))
        verdict: ScreeningVerdict
        if n < patients_for_rate(self.flag_rate):
            verdict = "infeasible"
            sentence = (
                f"no scan can be called strange at a flag rate of {self.flag_rate:g} with {n} calibration"
                f" patients: {patients_for_rate(self.flag_rate)} are needed"
            )
        elif p <= self.flag_rate + _SLACK:
            verdict = "strange"
            milder = n + 1 - round(p * (n + 1))
            sentence = (
                f"stranger than {f'all {n}' if milder == n else f'{milder} of {n}'} usual patients"
                f" (p = {p:.3g}, flagged at {self.flag_rate:g}): the model may not be fit for this scan"
            )
        else:
            verdict = "usual"
            sentence = f"not unusual among {n} usual patients (p = {p:.3g}): nothing that was tested failed"
        reasons: tuple[str, ...] = (sentence,)
        if self.cross is not None:
            reasons += (
                f"the usual patients were fitted on too, each left out in turn: up to {self.promise:g} of usual scans"
                " may be called strange",
            )
        return Screening(scan.identifier, abnormality, p, floor, self.flag_rate, verdict, reasons)


def _same_making(scan: ScanFeatures, identity: str, levels: Levels) -> None:
    if scan.identity != identity or scan.levels != levels:
        raise InputError(
            f"the features of {scan.identifier} were made otherwise than those the screener was fitted on:"
            " use its crop settings, its encoder and its weights"
        )


def fit_screener(
    detectors: Sequence[Detector],
    inside: Sequence[ScanFeatures],
    patients: Sequence[str],
    outside: Sequence[ScanFeatures] = (),
    *,
    training_crops: int | None = 4,
    flag_rate: float = 0.05,
    folds: int = 5,
    seed: int = 0,
) -> Screener:
    """Fit detectors on usual and, where there are some, strange scans.

    Parameters
    ----------
    detectors
        Unfitted (:func:`~anatrust.ood.detectors.make_detector`). Several are combined by the
        average of their ranks among scores of usual scans left out in turn, by patient.
    inside, patients
        Usual scans and whose they are.
    outside
        Strange scans; all are used in every fold.
    training_crops
        Crops a scan to fit on (4 of 8 as published); all if None. Scoring uses all.
    flag_rate, folds, seed
        Share of usual scans that may be flagged; how patients are left out (fewer where there
        are fewer patients); seed of everything.

    Raises
    ------
    InputError
        If there are too few scans, features differ in their making, or as the detectors say.
    """
    if not detectors:
        raise InputError("there is no detector to fit: choose at least one")
    if len(inside) != len(patients) or not inside:
        raise InputError(f"{len(inside)} usual scans but {len(patients)} patients: give one patient a scan")
    patients_for_rate(flag_rate)
    for scan in (*inside, *outside):
        _same_making(scan, inside[0].identity, inside[0].levels)
    levels = inside[0].levels

    def learnt(detector: Detector, scans: Sequence[ScanFeatures]) -> Detector:
        usual = [s.values if training_crops is None else s.first(training_crops).values for s in scans]
        strange = [s.values if training_crops is None else s.first(training_crops).values for s in outside]
        return detector.fit(usual, strange, levels=levels, seed=seed)

    average = None
    if len(detectors) > 1:
        everyone = sorted(set(patients))
        if len(everyone) < 4:
            raise InputError(f"combining detectors needs usual scans of at least four patients, not {len(everyone)}")
        order = np.random.default_rng(seed).permutation(len(everyone))
        references = np.empty((len(detectors), len(inside)))
        for part in np.array_split(order, min(folds, len(everyone))):
            out = {everyone[i] for i in part}
            left = [i for i, patient in enumerate(patients) if patient in out]
            rest = [scan for scan, patient in zip(inside, patients, strict=True) if patient not in out]
            for row, detector in zip(references, detectors, strict=True):
                row[left] = learnt(detector, rest).score([inside[i].values for i in left])
        average = RankAverage(references)
    fitted = tuple(learnt(detector, inside) for detector in detectors)
    return Screener(
        fitted,
        average,
        inside[0].identity,
        levels,
        tuple(scan.identifier for scan in inside),
        frozenset(patient_key(patient) for patient in patients),
        np.array([scan.values.astype(np.float64).mean(axis=0) for scan in inside]),
        flag_rate,
    )
