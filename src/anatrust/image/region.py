"""A box of voxels inside an image, and what lies in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan

__all__ = ["Region", "bounding_box", "canonical_region", "crop_grid", "crop_scan", "label_boxes", "labelled_as"]


@dataclass(frozen=True)
class Region:
    """A box of voxels: ``start`` is inside, ``stop`` is the first index outside, on each axis.

    Raises
    ------
    GeometryError
        If the box is empty, starts before the frame, or its corners have unequal numbers of axes.

    Examples
    --------
    >>> Region((2, 3), (5, 9)).shape
    (3, 6)
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        start, stop = tuple(int(v) for v in self.start), tuple(int(v) for v in self.stop)
        if len(start) != len(stop) or not start:
            raise GeometryError(f"a region has two corners with as many axes as the image, not {start} and {stop}")
        if any(low < 0 or high <= low for low, high in zip(start, stop, strict=True)):
            raise GeometryError(f"the region from {start} to {stop} is empty or starts outside the image")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", stop)

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Region:
        """The full frame."""
        return cls((0,) * len(shape), tuple(shape))

    @classmethod
    def of(cls, box: Sequence[slice]) -> Region:
        """The region of some slices, each with both ends."""
        return cls(tuple(edge.start for edge in box), tuple(edge.stop for edge in box))

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(high - low for low, high in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """For indexing an array of the whole frame."""
        return tuple(slice(low, high) for low, high in zip(self.start, self.stop, strict=True))

    def covers(self, other: Region) -> bool:
        """Whether every voxel of the other region is in this one; never where the axes differ in number."""
        if len(self.start) != len(other.start):
            return False
        below = all(a <= b for a, b in zip(self.start, other.start, strict=True))
        return below and all(a >= b for a, b in zip(self.stop, other.stop, strict=True))


def bounding_box(mask: npt.NDArray[Any]) -> tuple[slice, ...] | None:
    """The smallest box that holds all that is not 0 (or False); None where nothing is.

    Cost: one pass over the array, the later axes inside what the earlier ones left.

    Examples
    --------
    >>> import numpy as np
    >>> bounding_box(np.array([[0, 7, 0], [0, 7, 7]]))
    (slice(0, 2, None), slice(1, 3, None))
    """
    box: list[slice] = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if hit.size == 0:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
        mask = mask[(*(slice(None),) * axis, box[-1])]
    return tuple(box)


def label_boxes(labels: npt.NDArray[np.integer[Any]]) -> dict[int, tuple[slice, ...]]:
    """The smallest box of every label but 0, by number, ascending.

    Cost: `bounding_box`, and a slower pass inside of what that finds.

    Examples
    --------
    >>> import numpy as np
    >>> label_boxes(np.array([[0, 0, 0], [0, 7, 7]]))
    {7: (slice(1, 2, None), slice(1, 3, None))}
    """
    from scipy import ndimage

    hull = bounding_box(labels)
    if hull is None:
        return {}
    found = {}
    for number, box in enumerate(ndimage.find_objects(labels[hull]), start=1):
        if box is not None:
            edges = zip(box, hull, strict=True)
            found[number] = tuple(slice(edge.start + h.start, edge.stop + h.start) for edge, h in edges)
    return found


def labelled_as(labels: npt.NDArray[np.integer[Any]], numbers: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Where a label map has one of some numbers; the order in memory is kept, as reading across it takes much longer.

    Examples
    --------
    >>> import numpy as np
    >>> labelled_as(np.array([[0, 5], [2, 9]]), [5, 9])
    array([[False,  True],
           [False,  True]])
    """
    if labels.flags.f_contiguous:
        return np.isin(labels.T, numbers).T
    return np.isin(labels, numbers)


def crop_grid(grid: Grid, region: Region) -> Grid:
    """The grid of ``array[region.slices]``: every voxel keeps its place in the patient.

    Examples
    --------
    >>> import numpy as np
    >>> crop_grid(Grid((9, 9), np.eye(4)), Region((2, 3), (5, 9))).to_world((0, 0)).tolist()
    [2.0, 3.0, 0.0]
    """
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(region.start)
    return replace(grid, shape=region.shape, affine=affine)


def crop_scan(scan: Scan, region: Region) -> Scan:
    """The part of a scan that lies in a region; a view into its memory, no copy.

    Raises
    ------
    GeometryError
        If the region reaches beyond the scan.

    Examples
    --------
    >>> import numpy as np
    >>> scan = Scan(np.arange(16.0).reshape(4, 4), Grid((4, 4), np.eye(4)))
    >>> crop_scan(scan, Region((1, 2), (2, 4))).array
    array([[6., 7.]])
    """
    if not Region.whole(scan.grid.shape).covers(region):
        raise GeometryError(
            f"the region from {region.start} to {region.stop} does not lie in a scan of shape {scan.grid.shape}"
        )
    return replace(scan, array=scan.array[region.slices], grid=crop_grid(scan.grid, region))


def canonical_region(region: Region, grid: Grid) -> Region:
    """The same box of the patient in the canonical order of the axes, see :func:`anatrust.image.orientation.canonical`.

    Examples
    --------
    >>> import numpy as np
    >>> canonical_region(Region((0, 0), (2, 3)), Grid((9, 8), np.diag([-1.0, 1.0, 1.0, 1.0])))
    Region(start=(7, 0), stop=(9, 3))
    """
    order, flips = grid.canonical_axes()
    pairs = [(region.start[axis], region.stop[axis], grid.shape[axis]) for axis in order]
    ends = [(n - b, n - a) if flip else (a, b) for (a, b, n), flip in zip(pairs, flips, strict=True)]
    return Region(tuple(a for a, _ in ends), tuple(b for _, b in ends))
