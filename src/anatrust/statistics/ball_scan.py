"""Means of a field over balls of many sizes at every place of a tissue, normalised by the tissue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["BallScan", "Measure", "Scale", "block_sums"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Radii of a level in its voxels; the next level halves the resolution and takes the larger ones again.
_FIRST_RADII: tuple[float, ...] = (0.0, 1.0, 1.42, 2.0, 2.83)
_LATER_RADII: tuple[float, ...] = (2.0, 2.83)
# A ball's surroundings are the balls of the scales so much further on, 1.41 and twice as wide.
_NEAR, _FAR = 1, 2
# Voxels summed at a time: they stay in the first cache.
_BLOCK = 512


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[misc, unused-ignore]
def shell_sums(
    fields: FloatArray, blocks: IntArray, offsets: IntArray, ends: IntArray, centres: IntArray, stops: IntArray
) -> FloatArray:
    """Sums over nested balls around their centres, row by row; each ball is the one before it and a shell.

    `offsets[: ends[r]]` are the voxels of ball r relative to its centre, `centres[stops[r - 1] : stops[r]]`
    (ascending) where it is wanted; `blocks` are the starts of the blocks of voxels that hold a centre.
    """
    sums = np.empty((fields.shape[0], centres.size), dtype=np.float32)
    total = np.empty(_BLOCK, dtype=np.float32)
    done = np.zeros(stops.size, dtype=np.int64)
    for row in range(fields.shape[0]):
        done[1:] = stops[:-1]
        done[0] = 0
        for start in blocks:
            total[:] = 0.0
            first = 0
            for ball in range(ends.size):
                for k in range(first, ends[ball]):
                    part = fields[row, start + offsets[k] : start + offsets[k] + _BLOCK]
                    for i in range(_BLOCK):
                        total[i] += part[i]
                first = ends[ball]
                j = done[ball]
                while j < stops[ball] and centres[j] < start + _BLOCK:
                    sums[row, j] = total[centres[j] - start]
                    j += 1
                done[ball] = j
    return sums


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
    """One resolution of the pyramid: how it is padded, and which sums are taken on it."""

    halved: tuple[int, ...]
    pad: tuple[tuple[int, int], ...]
    ends: IntArray
    offsets: IntArray
    blocks: IntArray
    centres: IntArray
    stops: IntArray

    def sums(self, level: FloatArray) -> list[FloatArray]:
        """Sums over the balls of every radius at this level, of each of the fields ``(n, *shape)``."""
        # Blocks may reach past the end and balls past the beginning of the flat array.
        margin = int(np.abs(self.offsets).max(initial=0)) + _BLOCK
        shape = [n + before + after for n, (before, after) in zip(level.shape[1:], self.pad, strict=True)]
        padded = np.zeros((len(level), math.prod(shape) + 2 * margin), dtype=np.float32)
        inner = tuple(slice(before, before + n) for n, (before, _) in zip(level.shape[1:], self.pad, strict=True))
        padded[:, margin:-margin].reshape(-1, *shape)[(slice(None), *inner)] = level
        found = shell_sums(padded, self.blocks + margin, self.offsets, self.ends, self.centres + margin, self.stops)
        return np.split(found, self.stops[:-1], axis=1)


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
        self.tissue = np.ascontiguousarray(tissue, dtype=np.float32)
        self.scales: list[Scale] = []
        self._levels: list[_Level] = []
        volume = float(self.tissue.sum()) * float(np.prod(spacing))
        # One scale more, whose balls have twice (2-D) or 2.83 times (3-D) the volume.
        least = 0.9 * min_places / 2 ** (0.5 * self.tissue.ndim)
        level, step, radii = self.tissue, np.array(spacing, dtype=float), _FIRST_RADII
        halved: tuple[int, ...] = ()
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
                self._add(level, step, halved, np.array(radii[:count]) * unit, shells[:count], volume)
            if count < len(radii):
                break
            halved = tuple(int(a) for a in np.flatnonzero(step < 1.5 * step.min()))
            level, radii = halve(level, halved), _LATER_RADII
            step = step * np.where(np.isin(range(step.size), halved), 2.0, 1.0)
        self.measures = self._measures(min_places)

    def _add(
        self,
        level: FloatArray,
        step: npt.NDArray[np.float64],
        halved: tuple[int, ...],
        radii: npt.NDArray[np.float64],
        shells: list[IntArray],
        volume: float,
    ) -> None:
        """Plan one level and its scales."""
        pad = tuple((int(radii.max() / s) + 1,) * 2 for s in step)
        padded = np.pad(level, pad)
        strides = np.append(np.cumprod(np.array(padded.shape[:0:-1]))[::-1], 1)
        offsets = np.concatenate([np.sort(shell @ strides) for shell in shells])
        ends = np.cumsum([len(shell) for shell in shells])
        inside = np.flatnonzero(padded.reshape(-1) >= 0.5)
        everywhere = _Level(
            halved,
            pad,
            ends,
            offsets,
            _blocks(inside),
            np.tile(inside, len(ends)),
            inside.size * np.arange(1, len(ends) + 1),
        )
        centres = []
        for radius, size, [held] in zip(radii, ends, everywhere.sums(level[None]), strict=True):
            half = held >= 0.5 * size
            where = np.stack(np.unravel_index(inside[half], padded.shape), axis=1) - [before for before, _ in pad]
            # The middle of a voxel of this level, in the unit of the spacing.
            positions = (where + 0.5) * step
            ball = float(size) * float(np.prod(step))
            weight = (1.0 / held[half]).astype(np.float32)
            share = (held[half] / size).astype(np.float32)
            self.scales.append(Scale(float(radius), volume / ball, positions, weight, share))
            centres.append(inside[half])
        stops = np.cumsum([part.size for part in centres])
        self._levels.append(replace(everywhere, centres=np.concatenate(centres), stops=stops))

    def _measures(self, min_places: float) -> list[Measure]:
        """What is measured at each scale, and find the surroundings of every ball."""
        from scipy.spatial import cKDTree

        measures = []
        measured = list(takewhile(lambda scale: scale.places >= min_places and scale.weight.size, self.scales))
        # The smallest balls are measured however small the tissue is.
        for number, scale in enumerate(measured or self.scales[:1]):
            own = np.log(scale.share.astype(np.float64))
            for wider in (number + _NEAR, number + _FAR):
                if wider < len(self.scales) and self.scales[wider].weight.size:
                    outer = self.scales[wider]
                    away, around = cKDTree(outer.positions).query(scale.positions)
                    layout = np.stack(
                        [own, np.log(outer.share.astype(np.float64))[around], away / outer.radius], axis=1
                    )
                    measures.append(Measure(number, wider, around.astype(np.int64), layout))
                elif wider == number + _FAR:
                    layout = np.stack([own, np.zeros_like(own), np.zeros_like(own)], axis=1)
                    measures.append(Measure(number, None, np.empty(0, dtype=np.int64), layout))
        return measures

    def means(self, fields: FloatArray) -> list[FloatArray]:
        """Tissue-weighted mean of each field ``(n, *shape)`` over each ball, one array ``(n, places)`` a scale."""
        level, sums = fields * self.tissue, []
        for plan in self._levels:
            level = halve(level, [axis + 1 for axis in plan.halved])
            sums += plan.sums(level)
        return [total * scale.weight for total, scale in zip(sums, self.scales, strict=True)]

    def contrasts(self, fields: FloatArray) -> list[FloatArray]:
        """Every measure of each field ``(n, *shape)`` at each place, one array ``(n, places)`` a measure."""
        means = self.means(fields)
        return [
            means[m.scale] if m.wider is None else means[m.scale] - means[m.wider].take(m.around, axis=1)
            for m in self.measures
        ]


def _blocks(centres: IntArray) -> IntArray:
    return np.asarray(np.unique(centres // _BLOCK) * _BLOCK, dtype=np.int64)


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
