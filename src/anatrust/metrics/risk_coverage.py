"""Does abnormality find the scans on which the segmenter fails? Risk–coverage curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["RiskCoverage", "risk_coverage"]


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Mean loss of the least abnormal scans, for every number of scans kept.

    Parameters
    ----------
    coverage, risk
        ``(n,)``: kept share 1/n … 1 and the mean loss of those kept.
    aurc
        Mean of ``risk``: lower is better.
    best_aurc, random_aurc
        What a perfect order and an uninformative one would give on these losses.
    """

    coverage: npt.NDArray[np.float64]
    risk: npt.NDArray[np.float64]
    aurc: float
    best_aurc: float
    random_aurc: float


def _mean_risk(ordered: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.cumsum(ordered) / np.arange(1, ordered.size + 1), dtype=np.float64)


def risk_coverage(abnormality: npt.ArrayLike, losses: npt.ArrayLike) -> RiskCoverage:
    """Risk–coverage curve and its area (Geifman & El-Yaniv 2017; Zenk et al. 2025 for segmentation).

    Parameters
    ----------
    abnormality
        ``(n,)`` scores, higher = stranger; +inf for a scan that could not be scored.
    losses
        ``(n,)`` loss of each scan's segmentation, for instance 1 − Dice.

    Returns
    -------
    RiskCoverage
        Scans of equal abnormality are kept in random order: each has their mean loss, which is
        the expectation over orders, so ties are neither rewarded nor punished. Cost: a sort.

    Raises
    ------
    InputError
        If the lists differ in length, are empty, or a value is NaN (a loss also not infinite).

    Examples
    --------
    >>> curve = risk_coverage([0.1, 0.9, 0.4], [0.0, 1.0, 0.5])
    >>> curve.risk.tolist(), curve.aurc, curve.random_aurc
    ([0.0, 0.25, 0.5], 0.25, 0.5)
    """
    score, loss = np.asarray(abnormality, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if score.ndim != 1 or score.shape != loss.shape or not score.size:
        raise InputError(f"risk–coverage needs one loss a score, not shapes {loss.shape} and {score.shape}")
    if np.isnan(score).any() or not np.isfinite(loss).all():
        raise InputError("a score or a loss is not a number: give every scan both, +inf for a scan without a score")
    group = np.unique(score, return_inverse=True)[1]
    shared = (np.bincount(group, loss) / np.bincount(group))[np.sort(group)]
    risk = _mean_risk(shared)
    n = loss.size
    return RiskCoverage(
        coverage=np.arange(1, n + 1) / n,
        risk=risk,
        aurc=float(risk.mean()),
        best_aurc=float(_mean_risk(np.sort(loss)).mean()),
        random_aurc=float(loss.mean()),
    )
