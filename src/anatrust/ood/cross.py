"""Screening without patients to spare: all are fitted on *and* calibrate, each left out in turn."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors import Detector
from anatrust.ood.features import ScanFeatures
from anatrust.ood.screen import Screener, fit_screener, patients_for_rate

__all__ = ["CrossCalibration", "fit_cross_screener"]

_MOST = 60  # a detector is kept for each


@dataclass(frozen=True, eq=False)
class CrossCalibration:
    """What leaving one patient out in turn gave.

    Parameters
    ----------
    members
        One uncalibrated screener a patient, fitted without that patient.
    scores
        ``(n,)`` abnormality of each patient (the strangest scan) by the member that has not seen them.

    Raises
    ------
    InputError
        If there are not as many scores as members, or fewer than two.

    Guarantee
    ---------
    For a usual scan whose patient is exchangeable with the n fitted ones, P(p ≤ t) ≤ 2 t for every t: a factor 2
    more than with patients held out from fitting, the price of using everybody twice. Detectors must treat patients
    alike: those that depend on the order (forests draw rows) get them in random order. In practice the share is near t
    (`tests/ood/test_cross.py` measures both).

    References
    ----------
    Barber, Candès, Ramdas & Tibshirani, Annals of Statistics 49 (2021), Theorem 1 (jackknife+), for scores of
    strangeness: Hennhöfer & Preisach, arXiv 2402.16388.
    """

    members: tuple[Screener, ...]
    scores: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        scores = np.array(self.scores, dtype=np.float64)
        if scores.ndim != 1 or len(scores) != len(self.members) or len(scores) < 2:
            raise InputError(f"{len(self.members)} detectors that left a patient out need as many scores, at least 2")
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "members", tuple(self.members))

    def p_value(self, scan: ScanFeatures) -> float:
        """``(1 + #{i: patient i is as strange as the scan, both judged without patient i}) / (n + 1)``."""
        judged = np.array([member.abnormality([scan])[0] for member in self.members])
        return float((1 + np.count_nonzero(self.scores >= judged)) / (len(self.scores) + 1))


def fit_cross_screener(
    detectors: Sequence[Detector],
    inside: Sequence[ScanFeatures],
    patients: Sequence[str],
    outside: Sequence[ScanFeatures] = (),
    *,
    outside_patients: Sequence[str] | None = None,
    training_crops: int | None = 4,
    flag_rate: float = 0.05,
    folds: int = 5,
    seed: int = 0,
) -> Screener:
    """Fit and calibrate on the same usual patients, leaving each out in turn.

    For cohorts too small to hold out ``1/flag_rate - 1`` patients; otherwise hold them out
    (:meth:`~anatrust.ood.screen.Screener.conformalize`), whose promise is twice as sharp.

    Parameters
    ----------
    detectors, inside, patients, outside, training_crops, flag_rate, folds, seed
        As in :func:`~anatrust.ood.screen.fit_screener`.
    outside_patients
        Whom each strange scan is of, or was made from: it is left out with that patient. None where no strange
        scan is of a usual patient.

    Returns
    -------
    Screener
        Fitted on all patients (its abnormality and explanations), judging by :class:`CrossCalibration`. Cost: one
        more fit a patient.

    Raises
    ------
    InputError
        As in `fit_screener`, or if there are fewer than three patients or more than 60.

    Examples
    --------
    >>> from anatrust.ood.detectors import make_detector
    >>> rng = np.random.default_rng(0)
    >>> scans = [ScanFeatures(f"s{i}", rng.normal(size=(4, 3)), (("a", 3),), "made so") for i in range(19)]
    >>> ready = fit_cross_screener([make_detector("mahalanobis")], scans, [f"p{i}" for i in range(19)])
    >>> ready.screen(ScanFeatures("new", np.full((4, 3), 9.0), (("a", 3),), "made so")).verdict
    'strange'
    """
    if len(inside) != len(patients) or not inside:
        raise InputError(f"{len(inside)} usual scans but {len(patients)} patients: give one patient a scan")
    owners = [""] * len(outside) if outside_patients is None else list(outside_patients)
    if len(owners) != len(outside):
        raise InputError(f"{len(outside)} strange scans but {len(owners)} patients of them: give one a scan")
    everyone = sorted(set(patients))
    if len(everyone) < 3:
        raise InputError(f"leaving one out needs at least three usual patients, not {len(everyone)}")
    if len(everyone) > _MOST:
        raise InputError(f"{len(everyone)} usual patients are enough to hold some out: calibrate on those instead")
    patients_for_rate(flag_rate)
    members, scores = [], []
    for number, name in enumerate(everyone):
        rest = [i for i, patient in enumerate(patients) if patient != name]
        rest = [rest[k] for k in np.random.default_rng([seed, number]).permutation(len(rest))]
        member = fit_screener(
            deepcopy(list(detectors)),  # fitting changes a detector
            [inside[i] for i in rest],
            [patients[i] for i in rest],
            [scan for scan, owner in zip(outside, owners, strict=True) if owner != name],
            training_crops=training_crops,
            flag_rate=flag_rate,
            folds=folds,
            seed=seed,
        )
        own = [scan for scan, patient in zip(inside, patients, strict=True) if patient == name]
        members.append(member)
        scores.append(member.abnormality(own).max())
    whole = fit_screener(
        detectors, inside, patients, outside, training_crops=training_crops, flag_rate=flag_rate, folds=folds, seed=seed
    )
    return replace(whole, cross=CrossCalibration(tuple(members), np.array(scores)))
