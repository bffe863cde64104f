"""How odd the oddest ball of a field is, and how odd the balls within a candidate are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from anatrust.statistics.ball_scan import BallScan, Measure

__all__ = ["SHARES", "Members", "ScanStatistic", "evenness", "steepest_growth"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
SlotArray = npt.NDArray[np.uint32]
Combination = tuple[int, int]

SHARES = np.array([0.0, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
"""Shares of the places that may be left out around a candidate before centre and spread are taken."""

# Centre: the median. Spread: half the distance between the deciles, which a few lesions cannot move far.
_RANKS = (0.1, 0.5, 0.9)
_MANY, _FEW = 4096, 512
_GRADES = 512
_NUDGE = 2.0**-44
# Values compared side by side, and how long stretches of places must be on average to be read as such.
_ABREAST = 128
_LONG = 8
# Steps of sorting (Ciura, 2001).
_GAPS = (701, 301, 132, 57, 23, 10, 4, 1)
_FEWEST = 20
# A candidate that touches up to this share of the places stays among them.
_NEGLIGIBLE = 0.05
# A ball belongs to a candidate when half of it does.
_HALF = 0.5
# Balls down to this share of the largest fitting radius describe a candidate.
_WINDOW = 0.33


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def ends(values: FloatArray) -> tuple[np.float32, np.float32]:
    """Smallest and largest value."""
    lowest = highest = values[0]
    # Many side by side first: in a single chain each comparison waits for the one before.
    whole = values.size - values.size % _ABREAST
    if whole:
        low, high = values[:_ABREAST].copy(), values[:_ABREAST].copy()
        for start in range(_ABREAST, whole, _ABREAST):
            part = values[start : start + _ABREAST]
            for i in range(part.size):
                low[i] = min(low[i], part[i])
            for i in range(part.size):
                high[i] = max(high[i], part[i])
        for i in range(_ABREAST):
            lowest, highest = min(lowest, low[i]), max(highest, high[i])
    for i in range(whole, values.size):
        lowest, highest = min(lowest, values[i]), max(highest, values[i])
    return lowest, highest


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def deciles(values: FloatArray, step: int) -> tuple[float, float]:
    """Median of every `step`-th value and half the distance between the outer deciles, by counting."""
    count = -(-values.size // step)
    sample = np.empty(count, dtype=np.float32)
    for i in range(count):
        sample[i] = values[i * step]
    lowest, highest = ends(sample)
    width = float(highest - lowest) / _GRADES
    if width <= 0:
        return float(lowest), 1e-9
    # Two loops, as many values can be graded at a time but not many counted. Products are made many times as fast as
    # quotients; those of two numbers of 24 bits are whole or at least 2^-24 off, so the nudge moves none but up to a
    # whole number that rounding would miss: all grades are those of the quotients.
    grades = np.empty(count, dtype=np.int32)
    share = (1.0 + _NUDGE) / width
    for i in range(count):
        grades[i] = np.int32(float(sample[i] - lowest) * share)
    counts = np.zeros(_GRADES + 1, dtype=np.int64)
    for i in range(count):
        counts[np.uint32(grades[i])] += 1
    found = np.empty(3)
    seen, rank = 0.0, 0
    for grade in range(_GRADES + 1):
        while rank < 3 and seen + counts[grade] > _RANKS[rank] * count:
            found[rank] = lowest + width * (grade + (_RANKS[rank] * count - seen) / counts[grade])
            rank += 1
        seen += counts[grade]
    return found[1], max((found[2] - found[0]) / 2, 1e-9)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def contrast(
    own: FloatArray, wider: FloatArray, around: SlotArray, stretches: IntArray, weight: FloatArray, into: FloatArray
) -> None:
    """Means of one field less those of the wider balls around them, times a weight for each place, into an array.

    `stretches` are first and length of those of the places whose surroundings follow one another too; none where
    there are too many of them to be worth it.
    """
    for stretch in range(stretches.shape[0]):
        first, length = stretches[stretch]
        start = np.int64(around[first])
        mine, theirs = own[first : first + length], wider[start : start + length]
        each, found = weight[first : first + length], into[first : first + length]
        for i in range(length):
            found[i] = (mine[i] - theirs[i]) * each[i]
    if not stretches.shape[0]:
        for i in range(own.size):
            into[i] = (own[i] - wider[around[i]]) * weight[i]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def contrasted(
    own: FloatArray, wider: FloatArray, around: SlotArray, stretches: IntArray, weight: FloatArray
) -> FloatArray:
    """`contrast` of each of the fields ``(n, places)``."""
    found = np.empty(own.shape, dtype=np.float32)
    for row in range(own.shape[0]):
        contrast(own[row], wider[row], around, stretches, weight, found[row])
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def ascend(values: npt.NDArray[np.float64]) -> None:
    """Sort in place (Shell's way): some hundreds of values as fast as NumPy, whose sort takes seconds to compile."""
    for gap in _GAPS:
        for i in range(gap, values.size):
            value, j = values[i], i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def extremes(
    own: FloatArray,
    wider: FloatArray,
    around: SlotArray,
    stretches: IntArray,
    weight: FloatArray,
    step: int,
    few: IntArray,
    where: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Largest standardised deviation upwards and downwards of each field's contrasts, ``(fields, len(shares), 2)``.

    The first five as in `contrasted`. Each of the ascending shares of the places around the extreme one is left out
    before centre and spread are taken from the places `few`; share 0 leaves out none and takes every `step`-th place.
    `where` are the positions of all places.
    """
    result = np.zeros((own.shape[0], shares.size, 2))
    distance, ascending = np.empty(few.size), np.empty(few.size)
    # One field at a time, so that it stays in the cache.
    field, left = np.empty(own.shape[1], dtype=np.float32), np.empty(few.size, dtype=np.float32)
    for row in range(own.shape[0]):
        contrast(own[row], wider[row], around, stretches, weight, field)
        lowest, highest = ends(field)
        whole = deciles(field, step)
        for side in range(2):
            sign, end = (1.0, highest) if side == 0 else (-1.0, lowest)
            if shares[-1] > 0.0:
                extreme = 0
                while field[extreme] != end:
                    extreme += 1
                for i in range(few.size):
                    squared = 0.0
                    for axis in range(where.shape[1]):
                        squared += (where[few[i], axis] - where[extreme, axis]) ** 2
                    distance[i] = ascending[i] = squared
                ascend(ascending)
            for j in range(shares.size):
                middle, spread = whole
                if shares[j] > 0.0:
                    reach, count = ascending[int(np.ceil(shares[j] * few.size)) - 1], 0
                    for i in range(few.size):
                        if distance[i] > reach:
                            left[count] = field[few[i]]
                            count += 1
                    if not count:
                        continue
                    middle, spread = deciles(left[:count], 1)
                result[row, j, side] = sign * (float(end) - middle) / spread
    return result


@dataclass(frozen=True, eq=False)
class _Link:
    """Which place of the wider balls surrounds each place of a measure, and how to read them fast; see `contrast`."""

    around: SlotArray
    stretches: IntArray

    @classmethod
    def of(cls, measure: Measure, places: int) -> _Link:
        """That of a measure; without surroundings a single place of the wider balls stands for all."""
        around = measure.around if measure.wider is not None else np.zeros(places, dtype=np.int64)
        first = np.flatnonzero(np.diff(around, prepend=-2) != 1)
        stretches = np.stack([first, np.diff(first, append=places)], axis=1)
        worth = len(stretches) * _LONG <= places
        return cls(around.astype(np.uint32), stretches if worth else np.empty((0, 2), dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Members:
    """The balls that belong to a candidate.

    Attributes
    ----------
    combinations
        Numbers of the measures that describe it, each with the number of the share (in
        `SHARES`) of places that is left out; ascending.
    own
        For each, the numbers of the places of its balls.
    apart
        For each, the places from which centre and spread are taken; None for the usual ones.
    """

    combinations: tuple[Combination, ...]
    own: tuple[IntArray, ...]
    apart: tuple[IntArray | None, ...]


class ScanStatistic:
    """Standardised ball contrasts of one tissue.

    Parameters
    ----------
    scan
        The balls and the places.
    sample
        ``(n, voxels)`` fields of the tissue's texture, from which it is learnt how much more the contrasts of some
        places vary than those of others; none: all vary alike.

    Notes
    -----
    Balls at the rim hold less tissue, and so do surroundings there: their contrasts vary up to twice as much, and
    the oddest place of a texture would mostly be one of them. So each contrast is divided by the spread of contrasts
    of places laid out alike: a quadratic in the layout fitted to the logarithm of the variance over the sample.

    A measure's centre and spread come from the field itself, the same way for observed and
    surrogate fields, so its variance never has to be known. The places near the extreme are
    left out as those near a candidate are, by their number.
    """

    def __init__(self, scan: BallScan, sample: FloatArray | None = None) -> None:
        self.scan = scan
        self._scales = [scan.scales[measure.scale] for measure in scan.measures]
        counts = [scale.weight.size for scale in self._scales]
        self._steps = [-(-count // _MANY) for count in counts]
        self._few = [np.arange(0, count, -(-count // _FEW)) for count in counts]
        self._links = [_Link.of(m, count) for m, count in zip(scan.measures, counts, strict=True)]
        self._weights = [np.ones(count, dtype=np.float32) for count in counts]
        if sample is not None:
            found = scan.contrasts(sample)
            self._weights = [evenness(m.layout, own) for m, own in zip(scan.measures, found, strict=True)]

    def contrasts(self, values: FloatArray) -> list[FloatArray]:
        """Every measure of each field ``(n, voxels)`` at places that vary alike, ``(n, places)`` each."""
        means = self.scan.means(values)
        return [self._contrasts(means, number) for number in range(len(self._scales))]

    def _contrasts(self, means: list[FloatArray], number: int) -> FloatArray:
        """One measure at places that vary alike."""
        return np.asarray(contrasted(*self._linked(means, number)))

    def _linked(
        self, means: list[FloatArray], number: int
    ) -> tuple[FloatArray, FloatArray, SlotArray, IntArray, FloatArray]:
        """Means of a measure's balls and surroundings, and what else `contrasted` needs."""
        measure, link = self.scan.measures[number], self._links[number]
        own = means[measure.scale]
        wider = np.zeros((len(own), 1), dtype=np.float32) if measure.wider is None else means[measure.wider]
        return own, wider, link.around, link.stretches, self._weights[number]

    def maxima(self, values: FloatArray, combinations: Iterable[Combination]) -> npt.NDArray[np.float64]:
        """Largest deviations up and down for ascending combinations of measure and share.

        ``(fields, combinations, 2)`` of ``(fields, voxels)``.
        """
        shares: dict[int, list[int]] = {}
        for measure, share in combinations:
            shares.setdefault(measure, []).append(share)
        means = self.scan.means(values)
        found = [
            extremes(*self._linked(means, i), self._steps[i], self._few[i], self._scales[i].positions, SHARES[chosen])
            for i, chosen in shares.items()
        ]
        return np.concatenate(found, axis=1)

    def members(self, held: list[FloatArray]) -> Members:
        """Find the balls of a candidate.

        Parameters
        ----------
        held
            Ball means of the candidate's indicator: the share of each ball that it holds.
        """
        radii = np.array([scale.radius for scale in self._scales])
        inside = [np.flatnonzero(share >= _HALF) for share in held]
        if not any(inside[m.scale].size for m in self.scan.measures):
            # Smaller than any ball: the smallest ball is all there is.
            inside[0] = np.flatnonzero(held[0] >= max(float(held[0].max()), 1e-9))
        own = [inside[m.scale] for m in self.scan.measures]
        fitting = np.array([places.size > 0 for places in own])
        found: list[tuple[Combination, IntArray, IntArray | None]] = []
        for i in np.flatnonzero(fitting & (radii >= _WINDOW * radii[fitting].max(initial=0.0))):
            touched = held[self.scan.measures[i].scale] > 0
            share = float(touched.mean())
            if share <= _NEGLIGIBLE:
                found.append(((int(i), 0), own[i], None))
                continue
            apart = self._few[i][~touched[self._few[i]]]
            j = int(np.searchsorted(SHARES, share))
            if j < SHARES.size and apart.size >= _FEWEST:
                found.append(((int(i), j), own[i], apart))
        combinations, places, rest = zip(*found, strict=True) if found else ((), (), ())
        return Members(combinations, places, rest)

    def scores(self, values: FloatArray, candidates: Iterable[Members]) -> list[npt.NDArray[np.float64]]:
        """The oddest ball of each candidate upwards and downwards, ``(combinations, 2)`` for each.

        `values` are ``(voxels,)``.
        """
        contrasts = [own for [own] in self.contrasts(values[None])]
        usual = [deciles(own, step) for own, step in zip(contrasts, self._steps, strict=True)]
        result = []
        for candidate in candidates:
            scores = np.empty((len(candidate.combinations), 2))
            for row, ((i, _), own, apart) in enumerate(
                zip(candidate.combinations, candidate.own, candidate.apart, strict=True)
            ):
                middle, spread = usual[i] if apart is None else deciles(contrasts[i][apart], 1)
                mine = contrasts[i][own]
                scores[row] = (mine.max() - middle) / spread, (middle - mine.min()) / spread
            result.append(scores)
        return result


def steepest_growth(scan: BallScan, values: FloatArray) -> npt.NDArray[np.float64]:
    """How fast contrasts of fields ``(n, voxels)`` grow with the size of the balls, where they grow fastest; ``(n,)``.

    The largest logarithm of the ratio of the spreads of two neighbouring scales: near 1 or above
    for smooth fields, whose contrasts grow with the square of the radius, near 0.3 for rough ones,
    below 0 for noise. Infinite where too few scales have surroundings to tell.
    """
    # Single voxels are left out: their step to the smallest ball depends on the grid.
    spreads = [
        [deciles(own, 1)[1] for own in contrasts]
        for contrasts, measure in zip(scan.contrasts(values), scan.measures, strict=True)
        if measure.wider is not None and measure.wider - measure.scale > 1
    ][1:]
    if len(spreads) < 2:
        return np.full(len(values), np.inf)
    return np.asarray(np.diff(np.log(spreads), axis=0).max(axis=0))


def evenness(layout: npt.NDArray[np.float64], sample: FloatArray) -> FloatArray:
    """1 / how much the contrasts of each place vary, relative to one another, from few fields.

    `layout` is ``(places, k)``, `sample` ``(fields, places)``. The logarithm of the variance is fitted by a quadratic
    in the layout, so that a few fields suffice for thousands of places.
    """
    squares = np.square(sample, dtype=np.float64).mean(axis=0)
    terms = [np.ones(len(layout)), *layout.T]
    terms += [layout[:, i] * layout[:, j] for i in range(layout.shape[1]) for j in range(i + 1)]
    # A place whose surroundings are the ball itself has no contrast at all.
    logarithm = np.log(np.maximum(squares, 1e-6 * squares.mean() + 1e-30))
    design = np.stack(terms, axis=1)
    fitted = design @ np.linalg.lstsq(design, logarithm, rcond=1e-6)[0]
    return np.asarray(np.exp(-0.5 * (fitted - fitted.mean())), dtype=np.float32)
