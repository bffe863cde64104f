"""Small scans on a finer grid, so that outlines and patterns are drawn as sharply as a screen can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.grid import Grid
from anatrust.report.shown import Shown

__all__ = ["Finer", "choose_finer"]

# An odd number puts the middle of every voxel on the middle of a finer one: its value stays exact.
_TIMES = 3
_MOST_FINER = {2: 1_500_000, 3: 3_000_000}


@dataclass(frozen=True, eq=False)
class Finer:
    """By how much each axis is divided (1 or 3), and the grey values of :class:`Shown` on that grid."""

    times: tuple[int, ...]
    levels: npt.NDArray[Any]
    grid: Grid

    def mask(self, mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A mask, or any map, of the coarser grid: its voxels keep their edges."""
        for axis, times in enumerate(self.times):
            if times > 1:
                mask = np.repeat(mask, times, axis=axis)
        return mask


def choose_finer(shown: Shown, *, budget: int, size_of: Callable[[npt.NDArray[Any]], int]) -> Finer:
    """The finest of three grids that fits the budget: three times finer everywhere, in the plane, or not.

    Grey values between voxels are interpolated linearly, as a viewer does it; at the middle of each
    voxel they are those of the scan.

    Examples
    --------
    >>> from anatrust.report.shown import Region
    >>> grid = Grid((4, 5), np.eye(4))
    >>> levels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    >>> shown = Shown(levels, 1.0, 0.0, Region((0, 0), (4, 5), (1, 1)), grid, ())
    >>> finer = choose_finer(shown, budget=10_000, size_of=lambda array: array.nbytes)
    >>> finer.times, finer.grid.shape, bool((finer.levels[1::3, 1::3] == levels).all())
    ((3, 3), (12, 15), True)
    """
    grid = shown.grid
    order, _ = grid.canonical_axes()
    in_plane = tuple(_TIMES if axis in order[:2] else 1 for axis in range(grid.ndim))
    for times in ((_TIMES,) * grid.ndim, in_plane):
        if np.prod(grid.shape) * np.prod(times) > _MOST_FINER[grid.ndim]:
            continue
        levels = _interpolated(shown.levels, times)
        if size_of(levels) <= budget:
            return Finer(times, levels, _finer_grid(grid, times))
    return Finer((1,) * grid.ndim, shown.levels, grid)


def _interpolated(levels: npt.NDArray[Any], times: tuple[int, ...]) -> npt.NDArray[Any]:
    from scipy.ndimage import zoom

    fine = zoom(levels.astype(np.float32), times, order=1, mode="nearest", grid_mode=True)
    return np.asarray(np.rint(fine).astype(levels.dtype))


def _finer_grid(grid: Grid, times: tuple[int, ...]) -> Grid:
    step = np.eye(4)
    for axis, n in enumerate(times):
        step[axis, axis] = 1 / n
        step[axis, 3] = -(n - 1) / (2 * n)
    shape = tuple(size * n for size, n in zip(grid.shape, times, strict=True))
    return Grid(shape, grid.affine @ step, grid.spacing_known)
