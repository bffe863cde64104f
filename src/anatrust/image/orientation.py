"""Bring arrays to the orientation closest to RAS+, and back, without changing a value."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError
from anatrust.image.grid import Grid

__all__ = ["canonical", "canonical_grid", "restore"]

# Voxels along each edge of a cube that stays in the cache while its axes are exchanged.
_CUBE = 32


def canonical_grid(grid: Grid) -> Grid:
    """The same voxels with their axes ordered and pointed closest to RAS+.

    Parameters
    ----------
    grid
        Any 2-D or 3-D grid. A 2-D image is transposed and flipped among its own two axes.

    Returns
    -------
    Grid
        Grid on which every voxel keeps its world position. Cost: constant.
    """
    order, flip = grid.canonical_axes()
    affine = grid.affine.copy()
    affine[:3, : grid.ndim] = grid.affine[:3, list(order)]
    shape = tuple(grid.shape[axis] for axis in order)
    for axis, reverse in enumerate(flip):
        if reverse:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    affine += 0.0  # no negative zeros
    return replace(grid, shape=shape, affine=affine, layout="slice" if grid.layout == "slice" else "plain")


def canonical(array: npt.NDArray[Any], grid: Grid) -> tuple[npt.NDArray[Any], Grid]:
    """Reorder an array to the axes closest to RAS+.

    Parameters
    ----------
    array
        Values of shape ``grid.shape`` or ``(*grid.shape, channels, ...)``, any dtype.
    grid
        Where they lie.

    Returns
    -------
    array, grid
        A C-contiguous array and its grid. Values are only moved, never computed. The results
        for all 48 storage orders of one volume are the same. Cost: one copy.

    Raises
    ------
    GeometryError
        If the array does not have the grid's shape.

    Examples
    --------
    >>> grid = Grid((2, 3, 1), np.diag([-1.0, 1.0, 1.0, 1.0]))
    >>> array, straight = canonical(np.arange(6).reshape(2, 3, 1), grid)
    >>> straight.orientation, array[0, 0, 0]
    ('RAS', np.int64(3))
    """
    array = np.asarray(array)
    if array.shape[: grid.ndim] != grid.shape:
        raise GeometryError(f"the array has shape {array.shape} but its grid {grid.shape}: give both the same")
    order, flip = grid.canonical_axes()
    moved = array.transpose(*order, *range(grid.ndim, array.ndim))
    moved = moved[tuple(slice(None, None, -1) if reverse else slice(None) for reverse in flip)]
    return _in_order(moved), canonical_grid(grid)


def restore(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """Undo :func:`canonical`.

    Parameters
    ----------
    array
        Values in canonical order: shape ``canonical_grid(grid).shape``, further axes allowed.
    grid
        The *original* grid to go back to.

    Returns
    -------
    ndarray
        C-contiguous array of shape ``(*grid.shape, ...)``; ``restore(canonical(a, g)[0], g)`` is ``a``.

    Raises
    ------
    GeometryError
        If the array does not have the shape of the canonical grid.
    """
    array = np.asarray(array)
    order, flip = grid.canonical_axes()
    if array.shape[: grid.ndim] != tuple(grid.shape[axis] for axis in order):
        raise GeometryError(f"the array has shape {array.shape}, which is not the canonical order of {grid.shape}")
    turned = array[tuple(slice(None, None, -1) if reverse else slice(None) for reverse in flip)]
    back = turned.transpose(*np.argsort(order).tolist(), *range(grid.ndim, array.ndim))
    return _in_order(back)


def _in_order(moved: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array C-contiguous, copied cube by cube.

    Read along one axis and written along another, rows would be fetched from memory again for each of their voxels.
    """
    if moved.flags.c_contiguous or moved.ndim < 3:
        return np.ascontiguousarray(moved)
    copy = np.empty(moved.shape, moved.dtype)
    for corner in itertools.product(*(range(0, n, _CUBE) for n in moved.shape[:3])):
        cube = tuple(slice(start, start + _CUBE) for start in corner)
        copy[cube] = moved[cube]
    return copy
