"""How odd the oddest ball of a field is, and how odd the balls within a candidate are."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from anatrust.statistics.ball_scan import BallScan

__all__ = ["SHARES", "CandidateScore", "ScanStatistic"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SHARES = np.array([0.0, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
"""Shares of the places that may be left out around a candidate before centre and spread are taken."""

# Centre: the median. Spread: half the distance between the deciles, which a few lesions cannot move far.
_LOW, _MIDDLE, _HIGH = 0.1, 0.5, 0.9
_MANY, _FEW = 2048, 512
_FEWEST = 20
# A candidate that touches up to this share of the places stays among them.
_NEGLIGIBLE = 0.05
# A ball belongs to a candidate when half of it does; its core is where that share is nearly the largest.
_HALF, _CORE = 0.5, 0.9
# Balls down to this share of the largest fitting radius describe a candidate.
_WINDOW = 0.33


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def extremes(
    means: FloatArray, many: IntArray, few: IntArray, where: FloatArray, shares: FloatArray, ranks: FloatArray
) -> FloatArray:
    """Largest standardised deviation, for each share of places left out around the extreme one.

    `many` and `few` index the places from which centre and spread are taken, `where` are their
    positions; `ranks` are the three quantile levels.
    """
    result = np.zeros(shares.size)
    ordered = np.sort(means[many])
    middle = ordered[int(ranks[1] * ordered.size)]
    spread = max((ordered[int(ranks[2] * ordered.size)] - ordered[int(ranks[0] * ordered.size)]) / 2, 1e-9)
    top, bottom = np.argmax(means), np.argmin(means)
    result[0] = max(means[top] - middle, middle - means[bottom]) / spread
    sample = means[few]
    order = np.argsort(sample)
    distance = np.empty(few.size)
    for extreme in (top, bottom):
        for i in range(few.size):
            squared = 0.0
            for axis in range(where.shape[1]):
                squared += (where[few[i], axis] - where[extreme, axis]) ** 2
            distance[i] = squared
        ranked = np.sort(distance)
        for j in range(1, shares.size):
            limit = ranked[int(np.ceil(shares[j] * few.size)) - 1]
            left = np.sum(distance > limit)
            if left == 0:
                continue
            kept = np.empty(left)
            seen = 0
            for i in order:
                if distance[i] > limit:
                    kept[seen] = sample[i]
                    seen += 1
            spread = max((kept[int(ranks[2] * left)] - kept[int(ranks[0] * left)]) / 2, 1e-9)
            result[j] = max(result[j], abs(means[extreme] - kept[int(ranks[1] * left)]) / spread)
    return result


@dataclass(frozen=True, eq=False)
class CandidateScore:
    """Where a candidate's balls are compared, and how odd they are.

    Attributes
    ----------
    scales
        Numbers of the scales that describe it.
    shares
        For each, the number of the share (in `SHARES`) that is left out.
    scores
        For each, |mean of its core − centre| / spread, at least 0.
    """

    scales: IntArray
    shares: IntArray
    scores: FloatArray


class ScanStatistic:
    """Standardised ball means of one tissue.

    Parameters
    ----------
    scan
        The balls and the places.

    Notes
    -----
    A scale's centre and spread come from the field itself, the same way for observed and
    surrogate fields, so its variance never has to be known. The places near the extreme are
    left out as those near a candidate are, by their number.
    """

    def __init__(self, scan: BallScan) -> None:
        self.scan = scan
        self._many = [np.arange(0, s.centres.size, -(-s.centres.size // _MANY)) for s in scan.scales]
        self._few = [np.arange(0, s.centres.size, -(-s.centres.size // _FEW)) for s in scan.scales]
        self._where = [scan.positions(i) for i in range(len(scan.scales))]
        self._ranks = np.array([_LOW, _MIDDLE, _HIGH])

    def maxima(self, field: npt.NDArray[np.float32]) -> FloatArray:
        """Largest standardised deviation of a field at each scale and share, ``(scales, len(SHARES))``."""
        return np.array(
            [
                extremes(means, many, few, where, SHARES, self._ranks)
                for means, many, few, where in zip(
                    self.scan.means(field), self._many, self._few, self._where, strict=True
                )
            ]
        )

    def candidate(self, means: list[FloatArray], held: list[FloatArray]) -> CandidateScore:
        """Score a candidate.

        Parameters
        ----------
        means
            Ball means of the field (`BallScan.means`).
        held
            Ball means of the candidate's indicator: the share of each ball that it holds.
        """
        largest = np.array([share.max() for share in held])
        radii = np.array([scale.radius for scale in self.scan.scales])
        fitting = np.flatnonzero(largest >= _HALF)
        if not fitting.size:
            # Smaller than any ball: the smallest ball is all there is.
            fitting = np.flatnonzero(largest[:1] > 0)
        scales, shares, scores = [], [], []
        for i in fitting[radii[fitting] >= _WINDOW * radii[fitting].max(initial=0.0)]:
            core = means[i][held[i] >= _CORE * largest[i]].mean()
            touched = held[i] > 0
            share = float(touched.mean())
            j = 0 if share <= _NEGLIGIBLE else int(np.searchsorted(SHARES, share))
            rest = means[i][self._many[i]] if j == 0 else means[i][self._few[i]][~touched[self._few[i]]]
            if j == SHARES.size or rest.size < _FEWEST:
                continue
            low, middle, high = np.sort(rest)[[int(rank * rest.size) for rank in self._ranks]]
            scales.append(int(i))
            shares.append(j)
            scores.append(abs(core - middle) / max((high - low) / 2, 1e-9))
        return CandidateScore(np.array(scales, dtype=int), np.array(shares, dtype=int), np.array(scores))
