"""Means of a field over balls of many sizes at every place of a tissue, normalised by the tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["BallScan", "Scale", "block_sums"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Radii of a level in its voxels; the next level halves the resolution and takes the larger ones again.
_FIRST_RADII: tuple[float, ...] = (0.0, 1.0, 1.42, 2.0, 2.83)
_LATER_RADII: tuple[float, ...] = (2.0, 2.83)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def ball_sums(
    prefix: npt.NDArray[np.float64], centres: IntArray, first: IntArray, last: IntArray
) -> npt.NDArray[np.float64]:
    """Sum over a ball around each centre; the ball is runs [centre + first, centre + last)."""
    sums = np.zeros(centres.size)
    for i in range(centres.size):
        total = 0.0
        for run in range(first.size):
            total += prefix[centres[i] + last[run]] - prefix[centres[i] + first[run]]
        sums[i] = total
    return sums


@dataclass(frozen=True, eq=False)
class Scale:
    """Balls of one radius.

    Attributes
    ----------
    radius
        In the unit of the spacing; 0 means single voxels.
    level
        Level of the pyramid on which they are summed.
    places
        About how many disjoint balls the tissue holds.
    centres
        Flat indices, on the padded level, of the centres of balls at least half of which is tissue.
    first, last
        Runs of the ball relative to its centre.
    weight
        1 / (tissue within each ball).
    """

    radius: float
    level: int
    places: float
    centres: IntArray
    first: IntArray
    last: IntArray
    weight: npt.NDArray[np.float64]


class BallScan:
    """Plan of the ball means of a tissue.

    Parameters
    ----------
    tissue
        ``(*shape,)`` share of each voxel that is tissue, 0 to 1; at least `min_places` voxels.
    spacing
        Voxel size along each axis.
    min_places
        The largest ball is one of which the tissue holds this many.
    """

    def __init__(self, tissue: FloatArray, spacing: Sequence[float], min_places: float = 10.0) -> None:
        self.tissue = np.ascontiguousarray(tissue, dtype=np.float32)
        self._halvings: list[tuple[int, ...]] = []
        self._pads: list[tuple[tuple[int, int], ...]] = []
        self._shapes: list[tuple[int, ...]] = []
        self._steps: list[npt.NDArray[np.float64]] = []
        self.scales: list[Scale] = []
        volume = float(self.tissue.sum()) * float(np.prod(spacing))
        level, step, radii = self.tissue, np.array(spacing, dtype=float), _FIRST_RADII
        while True:
            # The finest axis, so that radii follow one another without a gap where slices are thick.
            unit = float(step.min())
            pad = tuple((int(max(radii) * unit / s) + 1,) * 2 for s in step)
            padded = np.pad(level, pad)
            self._shapes.append(padded.shape)
            self._steps.append(step)
            prefix = _prefix(padded)
            enough = True
            for radius in radii:
                first, last, size = _ball_runs(radius * unit, step, padded.shape)
                ball = size * float(np.prod(step))
                enough = volume >= min_places * ball
                if not enough:
                    break
                inside = np.flatnonzero(padded.reshape(-1) >= 0.5)
                held = ball_sums(prefix, inside, first, last)
                half = held >= 0.5 * size
                self.scales.append(
                    Scale(radius * unit, len(self._pads), volume / ball, inside[half], first, last, 1.0 / held[half])
                )
            self._pads.append(pad)
            if not enough:
                break
            axes = tuple(int(a) for a in np.flatnonzero(step < 1.5 * step.min()))
            self._halvings.append(axes)
            level, radii = halve(level, axes), _LATER_RADII
            step = step * np.where(np.isin(range(step.size), axes), 2.0, 1.0)

    def positions(self, scale: int) -> npt.NDArray[np.float64]:
        """``(places, ndim)`` positions of the centres of a scale, in the unit of the spacing."""
        level = self.scales[scale].level
        where = np.stack(np.unravel_index(self.scales[scale].centres, self._shapes[level]), axis=1)
        return np.asarray(where * self._steps[level])

    def means(self, field: FloatArray) -> list[npt.NDArray[np.float64]]:
        """Tissue-weighted mean of a field over each ball, one array a scale."""
        level, result = field * self.tissue, []
        for number in range(self.scales[-1].level + 1):
            if number:
                level = halve(level, self._halvings[number - 1])
            prefix = _prefix(np.pad(level, self._pads[number]))
            result += [
                ball_sums(prefix, scale.centres, scale.first, scale.last) * scale.weight
                for scale in self.scales
                if scale.level == number
            ]
        return result


def _prefix(padded: FloatArray) -> npt.NDArray[np.float64]:
    out = np.zeros(padded.size + 1)
    np.cumsum(padded.reshape(-1), out=out[1:], dtype=np.float64)
    return out


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


def _ball_runs(radius: float, step: npt.NDArray[np.float64], shape: tuple[int, ...]) -> tuple[IntArray, IntArray, int]:
    """Runs along the last axis of a ball, as flat offsets, and its number of voxels."""
    reach = [int(radius / s) for s in step]
    where = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach[:-1]], indexing="ij"), axis=-1)
    where = where.reshape(-1, len(reach) - 1)
    left = radius**2 - ((where * step[:-1]) ** 2).sum(axis=1)
    where, left = where[left >= -1e-9], left[left >= -1e-9]
    half = (np.sqrt(np.maximum(left, 0.0)) / step[-1] + 1e-9).astype(np.int64)
    strides = np.append(np.cumprod(np.array(shape[:0:-1]))[::-1], 1)
    middle = where @ strides[:-1]
    return middle - half, middle + half + 1, int((2 * half + 1).sum())
