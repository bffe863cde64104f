"""Free-response operating characteristic: lesion sensitivity against false positives per scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["FrocCurve", "froc"]


@dataclass(frozen=True, eq=False)
class FrocCurve:
    """Sensitivity and false positives per scan as the score threshold falls.

    Parameters
    ----------
    thresholds
        ``(m,)`` descending scores; the first is infinity (nothing kept), then one entry for
        each distinct score: candidates with at least this score are kept.
    false_positives_per_scan, sensitivity
        ``(m,)`` ascending values at these thresholds.
    n_lesions, n_scans
        What they were divided by.
    """

    thresholds: npt.NDArray[np.float64]
    false_positives_per_scan: npt.NDArray[np.float64]
    sensitivity: npt.NDArray[np.float64]
    n_lesions: int
    n_scans: int

    def sensitivity_at(self, rate: float) -> float:
        """Highest sensitivity with at most ``rate`` false positives per scan (a step, nothing interpolated)."""
        if not rate >= 0:
            raise InputError(f"a rate of {rate:g} false positives per scan: give 0 or more")
        return float(self.sensitivity[np.searchsorted(self.false_positives_per_scan, rate, side="right") - 1])

    def score(self, rates: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)) -> float:
        """Mean sensitivity at the given rates (those of CAMELYON16 by default)."""
        if not rates:
            raise InputError("the FROC score needs at least one false-positive rate")
        return float(np.mean([self.sensitivity_at(rate) for rate in rates]))


def froc(
    scores: npt.ArrayLike, hits: npt.ArrayLike, *, scans: npt.ArrayLike | None = None, n_lesions: int, n_scans: int
) -> FrocCurve:
    """FROC curve of the scored candidates of one or many scans.

    A lesion counts once, at the highest score among the candidates that hit it; further hits of
    the same lesion are neither found lesions nor false positives.

    Parameters
    ----------
    scores
        ``(k,)`` score of each candidate; higher is more certain (abnormality, 1 − p).
    hits
        ``(k,)`` number of the truth lesion each candidate hits, 0 for a false positive.
    scans
        ``(k,)`` scan of each candidate, where lesion numbers start again in each scan; None
        if lesion numbers are unique.
    n_lesions, n_scans
        All truth lesions and all scans looked at, also those without any candidate.

    Returns
    -------
    FrocCurve
        Cost: a sort.

    Raises
    ------
    InputError
        If lengths differ, a score is NaN, a count is impossible, or more lesions are hit than
        exist.

    Examples
    --------
    >>> curve = froc([0.9, 0.8, 0.7, 0.6], [1, 0, 2, 0], n_lesions=2, n_scans=2)
    >>> curve.sensitivity.tolist(), curve.false_positives_per_scan.tolist()
    ([0.0, 0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5, 1.0])
    >>> curve.sensitivity_at(0.25)
    0.5
    """
    score, hit = np.asarray(scores, dtype=np.float64), np.asarray(hits)
    scan = np.zeros(score.shape, dtype=np.int64) if scans is None else np.asarray(scans)
    if score.ndim != 1 or score.shape != hit.shape or score.shape != scan.shape:
        raise InputError(f"froc needs one hit and one scan a score, not {score.shape}, {hit.shape}, {scan.shape}")
    if np.isnan(score).any():
        raise InputError("froc cannot order a score that is NaN: drop or score that candidate")
    if n_lesions < 1 or n_scans < 1:
        raise InputError(f"froc over {n_lesions} lesions in {n_scans} scans: sensitivity needs at least one of each")
    hit = hit.astype(np.int64)
    order = np.argsort(-score, kind="stable")
    score, hit, scan = score[order], hit[order], scan[order]
    first = np.zeros(len(score), dtype=bool)
    lesion = hit > 0
    if lesion.any():
        scan_index = np.unique(scan[lesion], return_inverse=True)[1]
        keys = np.stack([scan_index, hit[lesion]], axis=1)
        first[np.flatnonzero(lesion)[np.unique(keys, axis=0, return_index=True)[1]]] = True
    if first.sum() > n_lesions:
        raise InputError(f"the candidates hit {int(first.sum())} lesions but n_lesions is {n_lesions}: count them all")
    # One point for each distinct score: equal scores cannot be told apart by a threshold.
    last = np.flatnonzero(np.append(np.diff(score) != 0, True)) if len(score) else np.empty(0, dtype=np.int64)
    start = np.zeros(1)
    return FrocCurve(
        thresholds=np.concatenate([[np.inf], score[last]]),
        false_positives_per_scan=np.concatenate([start, np.cumsum(~lesion)[last] / n_scans]),
        sensitivity=np.concatenate([start, np.cumsum(first)[last] / n_lesions]),
        n_lesions=int(n_lesions),
        n_scans=int(n_scans),
    )
