"""Means of a field over balls of many sizes at every place of a tissue, normalised by the tissue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

__all__ = ["BallScan", "Measure", "Scale", "block_sums"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
# Unsigned, so that compiled code need not ask whether an index counts from the end.
SlotArray = npt.NDArray[np.uint32]

# Radii of a level in its voxels; the next level halves the resolution and takes the larger ones again.
_FIRST_RADII: tuple[float, ...] = (0.0, 1.0, 1.42, 2.0, 2.83)
_LATER_RADII: tuple[float, ...] = (2.0, 2.83)
# A ball's surroundings are the balls of the scales so much further on, 1.41 and twice as wide.
_NEAR, _FAR = 1, 2
# Of more terms NumPy adds up every eighth.
_FEW_TERMS = 8
# A field is summed in tiles, stretches of its memory that stay in the cache: up to this many voxels, and cut where so
# many between two lines belong to no tissue.
_TILE, _GAP = 4096, 64


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def spread_out(values: FloatArray, share: FloatArray, slots: SlotArray, size: int) -> FloatArray:
    """Fields ``(n, voxels)`` times the share of each voxel, as ``(n, size)`` with each voxel in its slot; else 0."""
    fields = np.zeros((values.shape[0], size), dtype=np.float32)
    for row in range(values.shape[0]):
        own, field = values[row], fields[row]
        for i in range(slots.size):
            field[slots[i]] = own[i] * share[i]
    return fields


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def merged(fields: FloatArray, children: SlotArray, slots: SlotArray, size: int) -> FloatArray:
    """Means of 2, 4 or 8 children each ``(voxels, children)``, summed in pairs, as ``(n, size)``."""
    coarse = np.zeros((fields.shape[0], size), dtype=np.float32)
    scale = np.float32(1.0 / children.shape[1])
    for row in range(fields.shape[0]):
        fine, own = fields[row], coarse[row]
        if children.shape[1] == 2:
            for i in range(slots.size):
                own[slots[i]] = (fine[children[i, 0]] + fine[children[i, 1]]) * scale
        else:
            for i in range(slots.size):
                total = (fine[children[i, 0]] + fine[children[i, 1]]) + (fine[children[i, 2]] + fine[children[i, 3]])
                if children.shape[1] == 8:
                    more = (fine[children[i, 4]] + fine[children[i, 5]]) + (fine[children[i, 6]] + fine[children[i, 7]])
                    total = total + more
                own[slots[i]] = total * scale
    return coarse


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def ball_means(
    fields: FloatArray,
    tiles: IntArray,
    shells: IntArray,
    ends: IntArray,
    stretches: IntArray,
    limits: IntArray,
    counts: IntArray,
    weights: FloatArray,
) -> FloatArray:
    """Weighted sums over nested balls around their centres, for each ball ``(n, places)``, one after the other.

    `tiles` are the first slot of each tile and one past its last, `shells[: ends[b]]` the slots of ball b relative to
    its centre: each ball is the one before it and a shell. Its places are the slots in
    ``stretches[limits[b] : limits[b + 1]]``, first slot and length, each within a tile; `counts` are the numbers of
    places, `weights` those of all, ball by ball.
    """
    n = fields.shape[0]
    means = np.empty(weights.size * n, dtype=np.float32)
    longest = 0
    for tile in range(tiles.shape[0]):
        longest = max(longest, tiles[tile, 1] - tiles[tile, 0])
    total = np.empty(longest, dtype=np.float32)
    before = np.cumsum(counts) - counts
    for row in range(n):
        field = fields[row]
        # Of each ball: the stretch that comes next, and the number of its first place.
        following, place = limits[:-1].copy(), np.zeros(ends.size, dtype=np.int64)
        for tile in range(tiles.shape[0]):
            start, stop = tiles[tile]
            own = total[: stop - start]
            own[:] = 0.0
            k = 0
            for ball in range(ends.size):
                # Four at a time, so that the sums need not be fetched and put back for each; in the same order.
                while k + 4 <= ends[ball]:
                    first = field[start + shells[k] : stop + shells[k]]
                    second = field[start + shells[k + 1] : stop + shells[k + 1]]
                    third = field[start + shells[k + 2] : stop + shells[k + 2]]
                    fourth = field[start + shells[k + 3] : stop + shells[k + 3]]
                    for i in range(own.size):
                        own[i] = own[i] + first[i] + second[i] + third[i] + fourth[i]
                    k += 4
                while k < ends[ball]:
                    first = field[start + shells[k] : stop + shells[k]]
                    for i in range(own.size):
                        own[i] += first[i]
                    k += 1
                stretch = following[ball]
                while stretch < limits[ball + 1] and stretches[stretch, 0] < stop:
                    offset, length = stretches[stretch, 0] - start, stretches[stretch, 1]
                    slot = before[ball] * n + row * counts[ball] + place[ball]
                    weight = weights[before[ball] + place[ball] : before[ball] + place[ball] + length]
                    found, sums = means[slot : slot + length], own[offset : offset + length]
                    for i in range(length):
                        found[i] = sums[i] * weight[i]
                    place[ball] += length
                    stretch += 1
                following[ball] = stretch
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
    """One resolution of the pyramid, each voxel in a slot of its own, and the balls whose means are taken on it.

    Attributes
    ----------
    size
        Slots, with those of the empty voxels around the tissue; slot 0 is always empty.
    slots
        Of the voxels that hold tissue.
    children
        ``(len(slots), 2, 4 or 8)`` slots of what they were on the level before; empty on the first.
    tiles
        ``(n, 2)`` first slot of each stretch of memory that is summed at a time, and one past its last.
    shells, ends
        Slots of the balls relative to their centre: `shells[: ends[b]]`.
    stretches, limits
        ``(n, 2)`` first slot and length of each stretch of centres: ``stretches[limits[b] : limits[b + 1]]`` are the
        places of ball b.
    counts
        Places of each ball.
    weights
        1 / (tissue within each ball), ball by ball.
    """

    size: int
    slots: SlotArray
    children: SlotArray
    tiles: IntArray
    shells: IntArray
    ends: IntArray
    stretches: IntArray
    limits: IntArray
    counts: IntArray
    weights: FloatArray

    def of_places(self, centres: Sequence[IntArray], weights: Sequence[FloatArray]) -> _Level:
        """The same level with the slots of each ball's places, ascending, and their weights."""
        stretches = [_stretches(own) for own in centres]
        return replace(
            self,
            stretches=np.concatenate(stretches),
            limits=np.cumsum([0, *(len(own) for own in stretches)]),
            counts=np.array([own.size for own in centres]),
            weights=np.concatenate(weights),
        )

    def means(self, fields: FloatArray) -> list[FloatArray]:
        """Means of fields ``(n, size)`` over the balls of each radius, ``(n, places)`` each."""
        found = ball_means(
            fields, self.tiles, self.shells, self.ends, self.stretches, self.limits, self.counts, self.weights
        )
        edges = len(fields) * np.cumsum(self.counts)[:-1]
        return [own.reshape(len(fields), -1) for own in np.split(found, edges)]


@dataclass(frozen=True, eq=False)
class _Centres:
    """Voxels of one level at least half of which is tissue.

    Attributes
    ----------
    shape, step
        Voxels of the level along each axis, and their size.
    where
        ``(n, ndim)`` indices.
    positions
        ``(n, ndim)`` their middles, in the unit of the spacing.
    """

    shape: tuple[int, ...]
    step: npt.NDArray[np.float64]
    where: IntArray
    positions: npt.NDArray[np.float64]


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
        self._centres: list[_Centres] = []
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
                slots = self._add(level, step, children, np.array(radii[:count]) * unit, shells[:count], volume)
            if count < len(radii):
                break
            halved = [int(a) for a in np.flatnonzero(step < 1.5 * step.min())]
            children, level, radii = _children(slots, halved), halve(level, halved), _LATER_RADII
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
        """Plan one level and its scales; the slot of each of its voxels, 0 where there is no tissue."""
        pad = [(int(radii.max() / s) + 1,) * 2 for s in step]
        padded = np.pad(level, pad)
        strides = np.append(np.cumprod(np.array(padded.shape[:0:-1]))[::-1], 1)
        flat = padded.reshape(-1)
        slots, centres = np.flatnonzero(flat > 0), np.flatnonzero(flat >= 0.5)
        plan = _Level(
            flat.size,
            slots.astype(np.uint32),
            children.astype(np.uint32),
            _tiles(_stretches(centres)),
            np.concatenate([np.sort(shell @ strides) for shell in shells]),
            np.cumsum([len(shell) for shell in shells]),
            stretches=np.empty((0, 2), dtype=np.int64),
            limits=np.zeros(1, dtype=np.int64),
            counts=np.empty(0, dtype=np.int64),
            weights=np.empty(0, dtype=np.float32),
        )
        where: IntArray = np.stack(np.unravel_index(centres, padded.shape), axis=1)
        where -= [before for before, _ in pad]
        # The middle of a voxel of this level, in the unit of the spacing.
        positions = (where + 0.5) * step
        everywhere = plan.of_places([centres] * len(shells), [np.ones(centres.size, dtype=np.float32)] * len(shells))
        chosen = []
        for radius, size, [held] in zip(radii, plan.ends, everywhere.means(flat[None]), strict=True):
            half = np.flatnonzero(held >= 0.5 * size)
            chosen.append(half)
            ball = float(size) * float(np.prod(step))
            weight = (1.0 / held[half]).astype(np.float32)
            share = (held[half] / size).astype(np.float32)
            self.scales.append(Scale(float(radius), volume / ball, positions[half], weight, share))
            self._chosen.append((len(self._levels), half))
        weights = [scale.weight for scale in self.scales[-len(shells) :]]
        self._levels.append(plan.of_places([centres[half] for half in chosen], weights))
        self._centres.append(_Centres(level.shape, step, where, positions))
        inner = np.zeros(flat.size, dtype=np.int64)
        inner[slots] = slots
        return inner.reshape(padded.shape)[tuple(slice(before, -after) for before, after in pad)]

    def _measures(self, min_places: float) -> list[Measure]:
        """What is measured at each scale, and find the surroundings of every ball."""
        measures = []
        nearest, tree = cache(self._nearest), cache(self._tree)
        measured = list(takewhile(lambda scale: scale.places >= min_places and scale.weight.size, self.scales))
        # The smallest balls are measured however small the tissue is.
        for number, scale in enumerate(measured or self.scales[:1]):
            own = np.log(scale.share.astype(np.float64))
            level, chosen = self._chosen[number]
            for wider in (number + _NEAR, number + _FAR):
                if wider < len(self.scales) and self.scales[wider].weight.size:
                    outer = self.scales[wider]
                    away, places = nearest(level, wider, tree)
                    around, apart = places[chosen], away[chosen] / outer.radius
                    layout = np.stack([own, np.log(outer.share.astype(np.float64))[around], apart], axis=1)
                    measures.append(Measure(number, wider, around, layout))
                elif wider == number + _FAR:
                    layout = np.stack([own, np.zeros_like(own), np.zeros_like(own)], axis=1)
                    measures.append(Measure(number, None, np.empty(0, dtype=np.int64), layout))
        return measures

    def _nearest(
        self, level: int, wider: int, tree: Callable[[int], cKDTree]
    ) -> tuple[npt.NDArray[np.float64], IntArray]:
        """How far the nearest place of a wider scale lies from each centre of a level, and its number."""
        centres, (own, chosen) = self._centres[level], self._chosen[wider]
        outer, places = self._centres[own], self.scales[wider].positions
        # The voxel of the wider scale's level that holds the centre is nearer than any other, and mostly a place.
        numbers = np.full(outer.shape, -1)
        numbers[tuple(outer.where[chosen].T)] = np.arange(chosen.size)
        around = numbers[tuple((centres.where // np.rint(outer.step / centres.step).astype(int)).T)]
        away = np.sqrt(((centres.positions - places[around]) ** 2).sum(axis=1))
        left = np.flatnonzero(around < 0)
        if left.size:
            away[left], around[left] = tree(wider).query(centres.positions[left])
        return away, around

    def _tree(self, scale: int) -> cKDTree:
        """The places of a scale, to be searched."""
        from scipy.spatial import cKDTree

        return cKDTree(self.scales[scale].positions)

    def means(self, values: FloatArray) -> list[FloatArray]:
        """Tissue-weighted mean over each ball, one array ``(n, places)`` a scale.

        `values` are ``(n, voxels)``, those of the voxels that hold tissue.
        """
        found: list[FloatArray] = []
        for plan in self._levels:
            if not found:
                fields = spread_out(values, self.share, plan.slots, plan.size)
            else:
                fields = merged(fields, plan.children, plan.slots, plan.size)
            found += plan.means(fields)
        return found

    def contrasts(self, values: FloatArray) -> list[FloatArray]:
        """Every measure of each field ``(n, voxels)`` at each place, one array ``(n, places)`` a measure."""
        means = self.means(values)
        return [
            means[m.scale] if m.wider is None else means[m.scale] - means[m.wider].take(m.around, axis=1)
            for m in self.measures
        ]


def _children(slots: IntArray, axes: Sequence[int]) -> IntArray:
    """For each voxel of a halved level that holds tissue the slots ``(voxels, 2, 4 or 8)`` it is the mean of.

    `slots` are those of the voxels of the level before, 0 where there is no tissue. Pairs along the first axis
    stand next to each other, then those along the second.
    """
    stack = slots[..., None]
    for axis in axes:
        if stack.shape[axis] % 2:
            stack = np.pad(stack, [(0, int(a == axis)) for a in range(stack.ndim)])
        even, odd = (stack.take(range(start, stack.shape[axis], 2), axis=axis) for start in (0, 1))
        stack = np.concatenate([even, odd], axis=-1)
    return np.asarray(stack[stack.any(axis=-1)])


def _stretches(slots: IntArray) -> IntArray:
    """First and length of each stretch of consecutive slots (ascending), ``(n, 2)``."""
    first = np.flatnonzero(np.diff(slots, prepend=-2) != 1)
    return np.stack([slots[first], np.diff(first, append=slots.size)], axis=1)


def _tiles(stretches: IntArray) -> IntArray:
    """First slot, and one past the last, of tiles that hold whole stretches each, ``(n, 2)``."""
    tiles: list[list[int]] = []
    for start, length in stretches.tolist():
        if tiles and start - tiles[-1][1] <= _GAP and start + length - tiles[-1][0] <= _TILE:
            tiles[-1][1] = start + length
        else:
            tiles.append([start, start + length])
    return np.array(tiles, dtype=np.int64).reshape(-1, 2)


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
        if factor > _FEW_TERMS:
            array = np.add.reduceat(array, np.arange(0, array.shape[axis], factor), axis=axis)
        elif factor > 1:
            # Ten times as fast, and rounded alike: the first of each block, and the others added up beside it.
            terms = [array[(*(slice(None),) * axis, slice(start, None, factor))] for start in range(factor)]
            others = np.zeros_like(terms[0])
            for term in terms[1:]:
                others[(*(slice(None),) * axis, slice(0, term.shape[axis]))] += term
            array = terms[0] + others
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
