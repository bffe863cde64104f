"""Move images between grids of the same patient space, and refuse where that is not proven.

Resampling itself is done by SimpleITK in index space, so sheared and left-handed affines are
treated like any other. Labels are never mixed; a voxel of the new grid whose centre lies
outside the old one is background.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical, canonical_grid, restore
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan

__all__ = ["align_to", "resample_labels", "resample_mask", "resample_probabilities", "resample_scan"]

_Image = TypeVar("_Image", Scan, Mask, LabelMap, ProbabilityMap)

_LEAST_OVERLAP = 0.5
_HALF_VOXEL = 0.5
_IN_PLANE = 1e-3


def align_to(grid: Grid, image: _Image) -> _Image:
    """Bring an image to ``grid`` if the geometry proves that both lie in the same patient space.

    What counts as proof, in this order:

    1. Same grid up to header rounding: taken over as it is.
    2. The same voxels stored in another axis order: reordered exactly, no interpolation.
    3. Otherwise both must state millimetres and a real position, and at least half of the
       smaller field of view must lie inside the other (for 2-D: in the same plane).

    What is refused although a matrix could be applied, because the header is then as likely
    wrong as the voxels:

    - the same shape with voxels half a voxel or more apart: as a rule a mask that lost its
      affine on the way (or whose scan was resampled after it was drawn);
    - an identity affine against another grid: it was most likely never set;
    - a mask of which a labelled voxel lies outside ``grid``, or a label that would vanish
      between coarser voxels: something would be lost unseen.

    Parameters
    ----------
    grid
        The target, as a rule the scan's.
    image
        A scan, mask, label map or probability map.

    Returns
    -------
    same type as ``image``
        On ``grid``. Labels by nearest neighbour, scans and probabilities linear.

    Raises
    ------
    GeometryError
        One line that says why the same space is not proven, and how to mend it.

    Examples
    --------
    >>> import numpy as np
    >>> scan = Grid((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> fine = Mask(np.ones((8, 8, 8), bool), Grid((8, 8, 8), [[1, 0, 0, -0.5], [0, 1, 0, -0.5],
    ...     [0, 0, 1, -0.5], [0, 0, 0, 1]]))
    >>> align_to(scan, fine).array.all()
    np.True_
    """
    if image.grid.same_as(grid):
        return replace(image, grid=grid)
    if image.grid.spacing_known and grid.spacing_known and canonical_grid(image.grid).same_as(canonical_grid(grid)):
        return replace(image, array=_reordered(grid, image), grid=grid)
    _prove(grid, image)
    return cast(_Image, _resampled_image(grid, image))


def _resampled_image(grid: Grid, image: Scan | Mask | LabelMap | ProbabilityMap) -> object:
    if isinstance(image, Scan):
        return resample_scan(image, grid)
    if isinstance(image, ProbabilityMap):
        return resample_probabilities(image, grid)
    _nothing_outside(image, grid)
    moved = resample_labels(image, grid) if isinstance(image, LabelMap) else resample_mask(image, grid)
    _nothing_vanished(image, moved)
    return moved


def _reordered(grid: Grid, image: Scan | Mask | LabelMap | ProbabilityMap) -> npt.NDArray[Any]:
    if isinstance(image, ProbabilityMap):
        return np.stack([restore(canonical(channel, image.grid)[0], grid) for channel in image.array])
    return restore(canonical(image.array, image.grid)[0], grid)


def _prove(grid: Grid, image: Scan | Mask | LabelMap | ProbabilityMap) -> None:
    own, what = image.grid, {Scan: "scan", ProbabilityMap: "probability map"}.get(type(image), "mask")
    pair = f"the {what} ({own!r}) and the scan ({grid!r})"
    if own.ndim != grid.ndim:
        raise GeometryError(f"{pair} have {own.ndim} and {grid.ndim} axes: give an image of the same kind")
    if not (own.spacing_known and grid.spacing_known):
        raise GeometryError(f"{pair} differ and a spacing is unknown, so no place can be compared: give equal shapes")
    if own.shape == grid.shape:
        apart = _corners_apart(own, grid)
        if apart >= _HALF_VOXEL:
            raise GeometryError(
                f"the {what} has the scan's shape {grid.shape} but its header puts it {apart:.2f} voxels away:"
                " if it was drawn on this scan, copy the scan's affine into it; else resample it first"
            )
    for one, name in ((own, what), (grid, "scan")):
        if _never_set(one):
            raise GeometryError(f"{pair} differ, and the {name}'s affine was never set (identity): write its geometry")
    if own.ndim == 2:
        _same_plane(own, grid, pair)
    share = _overlap(own, grid)
    if share < _LEAST_OVERLAP:
        raise GeometryError(
            f"{pair} share only {share:.0%} of the smaller field of view: they are not of one scan, or a header"
            " is wrong"
        )


def _corners(grid: Grid) -> npt.NDArray[np.float64]:
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij"), dtype=np.float64)
    return ends.reshape(grid.ndim, -1).T


def _corners_apart(one: Grid, other: Grid) -> float:
    """Largest distance of matching corners, in the smallest voxel edge of ``other``."""
    corners = _corners(one)
    apart = np.linalg.norm(one.to_world(corners) - other.to_world(corners), axis=1).max()
    return float(apart / min(other.spacing))


def _never_set(grid: Grid) -> bool:
    return np.array_equal(np.abs(grid.affine), np.eye(4))


def _same_plane(one: Grid, other: Grid, pair: str) -> None:
    heights = []
    for a, b in ((one, other), (other, one)):
        normal = np.cross(b.affine[:3, 0], b.affine[:3, 1])
        normal /= np.linalg.norm(normal)
        heights.append(np.abs((a.to_world(_corners(a)) - b.affine[:3, 3]) @ normal).max())
    if max(heights) > _HALF_VOXEL * min(*one.spacing, *other.spacing):
        raise GeometryError(f"{pair} lie in different planes, up to {max(heights):.1f} mm apart: give the same slice")


def _overlap(one: Grid, other: Grid) -> float:
    """Share of the smaller field of view that lies inside the other, from a lattice of points."""
    if one.voxel_volume * np.prod(one.shape) > other.voxel_volume * np.prod(other.shape):
        one, other = other, one
    steps = [(np.arange(24) + 0.5) / 24 * n - 0.5 for n in one.shape]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, one.ndim)
    return float(_inside(other, one.to_world(points)).mean())


def _inside(grid: Grid, world: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    index = grid.to_index(world)
    within = (index >= -_HALF_VOXEL - _IN_PLANE) & (index <= np.array(grid.shape) - _HALF_VOXEL + _IN_PLANE)
    return np.asarray(within.all(axis=-1))


def _nothing_outside(image: Mask | LabelMap, grid: Grid) -> None:
    marked = outside = 0
    for first in range(image.grid.shape[0]):  # plane by plane: an organ map has very many labelled voxels
        index = np.argwhere(image.array[first] != 0)
        index = np.insert(index, 0, first, axis=1)
        marked += len(index)
        outside += int(len(index) - _inside(grid, image.grid.to_world(index)).sum())
    if outside:
        raise GeometryError(
            f"{outside} of {marked} labelled voxels of the mask lie outside the scan ({grid!r}):"
            " is it the mask of this scan? If so, crop it to the scan first"
        )


def _nothing_vanished(before: Mask | LabelMap, after: Mask | LabelMap) -> None:
    gone = set(np.unique(before.array).tolist()) - set(np.unique(after.array).tolist()) - {0}
    if gone:
        raise GeometryError(
            f"label {', '.join(str(int(v)) for v in sorted(gone))} falls between the coarser voxels of {after.grid!r}:"
            " resample the scan to the mask's grid instead"
        )


def resample_labels(labels: LabelMap, grid: Grid, *, method: Literal["nearest", "linear"] = "nearest") -> LabelMap:
    """Resample a label map; every label of the result is one of the source.

    Parameters
    ----------
    labels
        The source.
    grid
        The target; both must state millimetres.
    method
        ``"nearest"`` takes the label of the nearest voxel. ``"linear"`` interpolates each
        label's own mask and takes the largest share (smoother borders, cost: one pass a label).

    Returns
    -------
    LabelMap
        Same dtype and names; 0 outside the source.

    Raises
    ------
    GeometryError
        If a spacing is unknown or the number of axes differs.
    InputError
        If the method is unknown.
    """
    if method == "nearest":
        return replace(labels, array=_resampled(labels.array, labels.grid, grid, linear=False), grid=grid)
    if method != "linear":
        raise InputError(f"unknown method {method!r}: choose 'nearest' or 'linear'")
    result = np.zeros(grid.shape, labels.array.dtype)
    best = np.zeros(grid.shape, np.float32)
    rest = np.ones(grid.shape, np.float32)  # share of background, the outside included
    for label in labels.labels():
        share = _resampled((labels.array == label).astype(np.float32), labels.grid, grid, linear=True)
        rest -= share
        wins = share > best
        result[wins], best[wins] = label, share[wins]
    result[best <= rest] = 0
    return replace(labels, array=result, grid=grid)


def resample_mask(mask: Mask, grid: Grid) -> Mask:
    """Resample a yes/no mask by nearest neighbour; see :func:`resample_labels`."""
    moved = _resampled(mask.array.astype(np.uint8), mask.grid, grid, linear=False)
    return replace(mask, array=moved.astype(np.bool_), grid=grid)


def resample_scan(scan: Scan, grid: Grid) -> Scan:
    """Resample a scan linearly.

    Parameters
    ----------
    scan
        The source. It is not smoothed first, so a much coarser grid aliases.
    grid
        The target; both must state millimetres.

    Returns
    -------
    Scan
        In the source dtype, whole numbers rounded to nearest; the source's smallest value
        outside it.

    Raises
    ------
    GeometryError
        If a spacing is unknown or the number of axes differs.
    """
    outside = float(scan.array.min())
    moved = _resampled(scan.array, scan.grid, grid, linear=True, outside=outside)
    return replace(scan, array=moved, grid=grid)


def resample_probabilities(probabilities: ProbabilityMap, grid: Grid) -> ProbabilityMap:
    """Resample each channel linearly; outside the source it is background for certain.

    Returns
    -------
    ProbabilityMap
        In the source dtype. Channels that summed to one still do.

    Raises
    ------
    GeometryError
        If a spacing is unknown or the number of axes differs.
    """
    background = probabilities.classes[0].lower() == "background" and len(probabilities.classes) > 1
    channels = [
        _resampled(channel, probabilities.grid, grid, linear=True, outside=float(background and number == 0))
        for number, channel in enumerate(probabilities.array)
    ]
    return replace(probabilities, array=np.clip(np.stack(channels), 0, 1), grid=grid)


def _resampled(
    array: npt.NDArray[Any], source: Grid, target: Grid, *, linear: bool, outside: float = 0.0
) -> npt.NDArray[Any]:
    import SimpleITK

    if source.ndim != target.ndim:
        raise GeometryError(f"cannot resample {source.ndim}-D ({source!r}) to {target.ndim}-D ({target!r})")
    if not (source.spacing_known and target.spacing_known):
        raise GeometryError(f"cannot resample {source!r} to {target!r}: a spacing is unknown, give it")
    if source.ndim == 2:
        _same_plane(source, target, f"the image ({source!r}) and its target ({target!r})")
    n = source.ndim
    stored = array.dtype
    work: npt.NDArray[Any] = array
    if linear and stored.kind in "iu":
        work = array.astype(np.float64 if stored.itemsize > 2 else np.float32)
    elif stored == np.float16:
        work = array.astype(np.float32)
    elif stored == np.bool_:
        work = array.astype(np.uint8)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(work.transpose(*range(n - 1, -1, -1))))
    across = np.linalg.inv(source.affine) @ target.affine  # target index -> source index
    transform = SimpleITK.AffineTransform(n)
    transform.SetMatrix([float(v) for v in across[:n, :n].ravel()])
    transform.SetTranslation([float(v) for v in across[:n, 3]])
    resampler = SimpleITK.ResampleImageFilter()
    resampler.SetSize([int(v) for v in target.shape])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(SimpleITK.sitkLinear if linear else SimpleITK.sitkNearestNeighbor)
    resampler.SetDefaultPixelValue(outside)
    moved = SimpleITK.GetArrayFromImage(resampler.Execute(image)).transpose(*range(n - 1, -1, -1))
    if stored.kind in "iu" and linear:
        moved = np.rint(moved)
    result: npt.NDArray[Any] = moved.astype(stored, copy=False)
    return result
