"""Means of a field over balls of many sizes at every place of a tissue, normalised by the tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["LANES", "BallScan", "Measure", "Scale", "block_sums"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Radii of a level in its voxels; the next level halves the resolution and takes the larger ones again.
_FIRST_RADII: tuple[float, ...] = (0.0, 1.0, 1.42, 2.0, 2.83)
_LATER_RADII: tuple[float, ...] = (2.0, 2.83)
# A ball's surroundings are the balls of the scales so much further on, 1.41 and twice as wide.
_NEAR, _FAR = 1, 2
# Fields are summed so many at a time, side by side in memory: a run of neighbours is then one long stretch.
LANES = 16


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def side_by_side(values: FloatArray, share: FloatArray, rows: IntArray, size: int) -> FloatArray:
    """Fields ``(n, voxels)`` times the share of each voxel, as ``(size, LANES)`` with each voxel in its row."""
    lanes = np.zeros((size, LANES), dtype=np.float32)
    for i in range(rows.size):
        for field in range(values.shape[0]):
            lanes[rows[i], field] = values[field, i] * share[i]
    return lanes


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def merged(lanes: FloatArray, children: IntArray, rows: IntArray, size: int) -> FloatArray:
    """Means of 2, 4 or 8 children each, summed in pairs, as ``(size, LANES)``."""
    found = np.zeros((size, LANES), dtype=np.float32)
    part = np.empty((children.shape[1], LANES), dtype=np.float32)
    scale = np.float32(1.0 / children.shape[1])
    for i in range(rows.size):
        for child in range(children.shape[1]):
            for lane in range(LANES):
                part[child, lane] = lanes[children[i, child], lane]
        count = children.shape[1] // 2
        while count:
            for pair in range(count):
                for lane in range(LANES):
                    part[pair, lane] = part[2 * pair, lane] + part[2 * pair + 1, lane]
            count //= 2
        for lane in range(LANES):
            found[rows[i], lane] = part[0, lane] * scale
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def ball_means(
    lanes: FloatArray,
    n: int,
    runs: IntArray,
    shells: IntArray,
    ends: IntArray,
    numbers: npt.NDArray[np.int32],
    counts: IntArray,
    weights: FloatArray,
) -> FloatArray:
    """Weighted sums over nested balls around their centres, for each ball ``(n, places)``, one after the other.

    `runs` are the first row and the length of each stretch of centres, `shells[: ends[b]]` the rows of ball b
    relative to its centre: each ball is the one before it and a shell. `numbers[b, c]` is the place of ball b around
    centre c, -1 where it is not wanted; `counts` are the numbers of places, `weights` those of all, ball by ball.
    """
    means = np.empty(weights.size * n, dtype=np.float32)
    flat = lanes.reshape(-1)
    longest = 0
    for run in range(runs.shape[0]):
        longest = max(longest, runs[run, 1])
    total = np.empty(LANES * longest, dtype=np.float32)
    before = np.cumsum(counts) - counts
    centre = 0
    for run in range(runs.shape[0]):
        start, length = runs[run]
        own = total[: length * LANES]
        own[:] = 0.0
        first = 0
        for ball in range(ends.size):
            for k in range(first, ends[ball]):
                at = (start + shells[k]) * LANES
                part = flat[at : at + own.size]
                for i in range(own.size):
                    own[i] += part[i]
            first = ends[ball]
            for i in range(length):
                place = numbers[ball, centre + i]
                if place >= 0:
                    weight, slot = weights[before[ball] + place], before[ball] * n + place
                    for field in range(n):
                        means[slot] = own[i * LANES + field] * weight
                        slot += counts[ball]
        centre += length
    return means


@dataclass(frozen=True, eq=False)
class Scale:
    """Balls of one radius.

    Attributes
    ----------
    radius
        In the unit of the spacing; 0 means single voxels.
    places
        About how many disjoint balls the tissue holds.
    positions
        ``(places, ndim)`` centres of the balls at least half of which is tissue, in the unit of the spacing.
    weight
        1 / (tissue within each ball).
    share
        How much of each ball is tissue, 0.5 to 1.
    """

    radius: float
    places: float
    positions: npt.NDArray[np.float64]
    weight: FloatArray
    share: FloatArray


@dataclass(frozen=True, eq=False)
class Measure:
    """What is measured of the balls of one scale: how far their means lie above those of wider balls.

    Attributes
    ----------
    scale
        Number of the scale of the balls.
    wider
        Number of the scale of the surroundings, one or two further on; None: the means themselves.
    around
        For each ball the number of the place of the wider ball whose centre is nearest; empty without one.
    layout
        ``(places, 3)``: the logarithms of the shares of ball and surroundings that are tissue, and how far the
        two centres lie apart, in radii of the surroundings. On these depends how much noise a place has.
    """

    scale: int
    wider: int | None
    around: IntArray
    layout: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Level:
    """One resolution of the pyramid, each of its voxels in a row of its own, and the balls whose means are taken on it.

    Attributes
    ----------
    size
        Rows, with those of the empty voxels around the tissue; row 0 is always empty.
    rows
        Of the voxels that hold tissue.
    children
        ``(len(rows), 2, 4 or 8)`` rows of what they were on the level before; empty on the first.
    runs
        ``(n, 2)`` first row and length of each stretch of voxels at least half of which is tissue: the centres.
    shells, ends
        Rows of the balls relative to their centre: `shells[: ends[b]]`.
    numbers
        ``(balls, centres)`` number of the place of each ball; -1 where too little of it is tissue.
    counts
        Places of each ball.
    weights
        1 / (tissue within each ball), ball by ball.
    """

    size: int
    rows: IntArray
    children: IntArray
    runs: IntArray
    shells: IntArray
    ends: IntArray
    numbers: npt.NDArray[np.int32]
    counts: IntArray
    weights: FloatArray

    def means(self, lanes: FloatArray, n: int) -> list[FloatArray]:
        """Means of n fields over the balls of each radius, ``(n, places)`` each."""
        found = ball_means(lanes, n, self.runs, self.shells, self.ends, self.numbers, self.counts, self.weights)
        return [own.reshape(n, -1) for own in np.split(found, n * np.cumsum(self.counts)[:-1])]


class BallScan:
    """Plan of the ball means of a tissue.

    Parameters
    ----------
    tissue
        ``(*shape,)`` share of each voxel that is tissue, 0 to 1; at least `min_places` voxels.
    spacing
        Voxel size along each axis.
    min_places
        The largest ball that is measured is one of which the tissue holds this many; wider ones are surroundings only.

    Attributes
    ----------
    scales
        By radius.
    measures
        By scale: against the surroundings 1.41 and twice as wide; the mean itself where there are none so wide.
    """

    def __init__(self, tissue: FloatArray, spacing: Sequence[float], min_places: float = 10.0) -> None:
        tissue = np.asarray(tissue, dtype=np.float32)
        self.share = tissue[tissue > 0]
        self.scales: list[Scale] = []
        self._levels: list[_Level] = []
        # Of each scale: its level, and which of that level's centres are its places.
        self._chosen: list[tuple[int, IntArray]] = []
        self._centres: list[npt.NDArray[np.float64]] = []
        volume = float(tissue.sum()) * float(np.prod(spacing))
        # One scale more, whose balls have twice (2-D) or 2.83 times (3-D) the volume.
        least = 0.9 * min_places / 2 ** (0.5 * tissue.ndim)
        level, step, radii = tissue, np.array(spacing, dtype=float), _FIRST_RADII
        children = np.empty((0, 0), dtype=np.int64)
        while True:
            # The finest axis, so that radii follow one another without a gap where slices are thick.
            unit = float(step.min())
            shells = [
                _shell(inner * unit, outer * unit, step) for inner, outer in zip((-1.0, *radii), radii, strict=False)
            ]
            sizes = np.cumsum([len(shell) for shell in shells])
            wide = volume >= least * sizes * float(np.prod(step))
            count = int(np.argmin(wide)) if not wide.all() else len(radii)
            if count:
                rows = self._add(level, step, children, np.array(radii[:count]) * unit, shells[:count], volume)
            if count < len(radii):
                break
            halved = [int(a) for a in np.flatnonzero(step < 1.5 * step.min())]
            children, level, radii = _children(rows, halved), halve(level, halved), _LATER_RADII
            step = step * np.where(np.isin(range(step.size), halved), 2.0, 1.0)
        self.measures = self._measures(min_places)

    def _add(
        self,
        level: FloatArray,
        step: npt.NDArray[np.float64],
        children: IntArray,
        radii: npt.NDArray[np.float64],
        shells: list[IntArray],
        volume: float,
    ) -> IntArray:
        """Plan one level and its scales; the row of each of its voxels, 0 where there is no tissue."""
        pad = [(int(radii.max() / s) + 1,) * 2 for s in step]
        padded = np.pad(level, pad)
        strides = np.append(np.cumprod(np.array(padded.shape[:0:-1]))[::-1], 1)
        flat = padded.reshape(-1)
        rows, centres = np.flatnonzero(flat > 0), np.flatnonzero(flat >= 0.5)
        # Rows are padded, so stretches never go on from one line of voxels to the next.
        first = np.flatnonzero(np.diff(centres, prepend=-2) != 1)
        runs = np.stack([centres[first], np.diff(first, append=centres.size)], axis=1)
        offsets = np.concatenate([np.sort(shell @ strides) for shell in shells])
        ends = np.cumsum([len(shell) for shell in shells])
        everywhere = np.tile(np.arange(centres.size, dtype=np.int32), (len(ends), 1))
        counts, ones = np.full(len(ends), centres.size), np.ones(everywhere.size, dtype=np.float32)
        plan = _Level(flat.size, rows, children, runs, offsets, ends, everywhere, counts, ones)
        where = np.stack(np.unravel_index(centres, padded.shape), axis=1) - [before for before, _ in pad]
        # The middle of a voxel of this level, in the unit of the spacing.
        positions = (where + 0.5) * step
        lanes = side_by_side(flat[None, rows], np.ones(rows.size, dtype=np.float32), rows, flat.size)
        numbers = np.full(everywhere.shape, -1, dtype=np.int32)
        for number, (radius, size, [held]) in enumerate(zip(radii, ends, plan.means(lanes, 1), strict=True)):
            half = np.flatnonzero(held >= 0.5 * size)
            numbers[number, half] = np.arange(half.size)
            ball = float(size) * float(np.prod(step))
            weight = (1.0 / held[half]).astype(np.float32)
            share = (held[half] / size).astype(np.float32)
            self.scales.append(Scale(float(radius), volume / ball, positions[half], weight, share))
            self._chosen.append((len(self._levels), half))
        own = [scale.weight for scale in self.scales[-len(ends) :]]
        counts = np.array([weight.size for weight in own])
        self._levels.append(replace(plan, numbers=numbers, counts=counts, weights=np.concatenate(own)))
        self._centres.append(positions)
        inner = np.zeros(flat.size, dtype=np.int64)
        inner[rows] = rows
        return inner.reshape(padded.shape)[tuple(slice(before, -after) for before, after in pad)]

    def _measures(self, min_places: float) -> list[Measure]:
        """What is measured at each scale, and find the surroundings of every ball."""
        measures = []
        nearest = cache(self._nearest)
        measured = list(takewhile(lambda scale: scale.places >= min_places and scale.weight.size, self.scales))
        # The smallest balls are measured however small the tissue is.
        for number, scale in enumerate(measured or self.scales[:1]):
            own = np.log(scale.share.astype(np.float64))
            level, chosen = self._chosen[number]
            for wider in (number + _NEAR, number + _FAR):
                if wider < len(self.scales) and self.scales[wider].weight.size:
                    outer = self.scales[wider]
                    away, places = nearest(level, wider)
                    around, apart = places[chosen], away[chosen] / outer.radius
                    layout = np.stack([own, np.log(outer.share.astype(np.float64))[around], apart], axis=1)
                    measures.append(Measure(number, wider, around, layout))
                elif wider == number + _FAR:
                    layout = np.stack([own, np.zeros_like(own), np.zeros_like(own)], axis=1)
                    measures.append(Measure(number, None, np.empty(0, dtype=np.int64), layout))
        return measures

    def _nearest(self, level: int, wider: int) -> tuple[npt.NDArray[np.float64], IntArray]:
        """How far the nearest place of a wider scale lies from each centre of a level, and its number."""
        from scipy.spatial import cKDTree

        positions = self._centres[level]
        away, around = np.zeros(len(positions)), np.full(len(positions), -1)
        own, chosen = self._chosen[wider]
        if own == level:
            # Its own centre where it is a place, as it mostly is.
            around[chosen] = np.arange(chosen.size)
        left = np.flatnonzero(around < 0)
        away[left], around[left] = cKDTree(self.scales[wider].positions).query(positions[left])
        return away, around

    def means(self, values: FloatArray) -> list[FloatArray]:
        """Tissue-weighted mean over each ball, one array ``(n, places)`` a scale.

        `values` are ``(n, voxels)``, those of the voxels that hold tissue.
        """
        parts = [self._means(values[first : first + LANES]) for first in range(0, len(values), LANES)]
        return [np.concatenate(own) for own in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]

    def _means(self, values: FloatArray) -> list[FloatArray]:
        """Of at most `LANES` fields."""
        found: list[FloatArray] = []
        for plan in self._levels:
            if not found:
                lanes = side_by_side(values, self.share, plan.rows, plan.size)
            else:
                lanes = merged(lanes, plan.children, plan.rows, plan.size)
            found += plan.means(lanes, len(values))
        return found

    def contrasts(self, values: FloatArray) -> list[FloatArray]:
        """Every measure of each field ``(n, voxels)`` at each place, one array ``(n, places)`` a measure."""
        means = self.means(values)
        return [
            means[m.scale] if m.wider is None else means[m.scale] - means[m.wider].take(m.around, axis=1)
            for m in self.measures
        ]


def _children(rows: IntArray, axes: Sequence[int]) -> IntArray:
    """For each voxel of a halved level that holds tissue the rows ``(voxels, 2, 4 or 8)`` it is the mean of.

    `rows` are those of the voxels of the level before, 0 where there is no tissue. Pairs along the first axis
    stand next to each other, then those along the second.
    """
    stack = rows[..., None]
    for axis in axes:
        if stack.shape[axis] % 2:
            stack = np.pad(stack, [(0, int(a == axis)) for a in range(stack.ndim)])
        even, odd = (stack.take(range(start, stack.shape[axis], 2), axis=axis) for start in (0, 1))
        stack = np.concatenate([even, odd], axis=-1)
    return np.asarray(stack[stack.any(axis=-1)])


def halve(array: FloatArray, axes: Sequence[int]) -> FloatArray:
    """Mean of pairs of voxels along the axes; an odd last voxel is paired with an empty one."""
    for axis in axes:
        if array.shape[axis] % 2:
            array = np.pad(array, [(0, int(a == axis)) for a in range(array.ndim)])
        even = tuple(slice(0, None, 2) if a == axis else slice(None) for a in range(array.ndim))
        odd = tuple(slice(1, None, 2) if a == axis else slice(None) for a in range(array.ndim))
        array = (array[even] + array[odd]) * np.float32(0.5)
    return array


def block_sums(array: FloatArray, factors: Sequence[int] | npt.NDArray[np.int64]) -> FloatArray:
    """Sums over blocks of voxels; the last block of an axis is filled up with zeros.

    Parameters
    ----------
    array
        ``(*shape, ...)``; further axes are kept.
    factors
        Voxels of a block along each of the first axes.

    Examples
    --------
    >>> block_sums(np.ones((3, 4), dtype=np.float32), (2, 2)).tolist()
    [[4.0, 4.0], [2.0, 2.0]]
    """
    for axis, factor in enumerate(factors):
        if factor > 1:
            array = np.add.reduceat(array, np.arange(0, array.shape[axis], factor), axis=axis)
    return array


def _shell(inner: float, outer: float, step: npt.NDArray[np.float64]) -> IntArray:
    """Voxels farther than `inner` (below 0: none is left out) and up to `outer` from a voxel, ``(n, ndim)``."""
    reach = [int(outer / s + 1e-9) for s in step]
    where = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, step.size)
    squares = ((where * step) ** 2).sum(axis=1)
    slack = 1e-9 * float(step.min()) ** 2
    within = squares <= outer**2 + slack
    if inner >= 0:
        within &= squares > inner**2 + slack
    return np.asarray(where[within], dtype=np.int64)
