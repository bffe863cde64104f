"""Where a tumour is looked for: boxes around the anchor organs, grown in millimetres, at several scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region, bounding_box

__all__ = ["AnchorBox", "anchor_box", "bounding_region", "fuse_regions", "search_regions"]

# Lengths divided by spacings are whole numbers only up to rounding: 20 mm / 0.1 mm is not to become 201.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class AnchorBox:
    """The bounding box B_0 of the anchors, and whether they can be relied on.

    ``status`` is ``"ok"``, ``"missing"`` or ``"unreliable"``; in the last two cases ``region`` is
    the full frame (the paper's conservative fallback) and ``reasons`` says why, a phrase each.
    """

    region: Region
    status: Literal["ok", "missing", "unreliable"]
    reasons: tuple[str, ...] = ()


def anchor_box(
    anchor: npt.NDArray[np.bool_],
    *,
    probabilities: npt.NDArray[np.floating[Any]] | None = None,
    min_voxels: int = 64,
    min_probability: float = 0.5,
    max_border: float = 0.3,
    max_share: float = 0.6,
) -> AnchorBox:
    """Bounding box of the union of the anchors; the full frame where that union is no organ.

    Parameters
    ----------
    anchor
        Boolean union M_∪ of the anchor masks, 2-D or 3-D.
    probabilities
        Of the anchors, the same shape, in [0, 1]; None where the anchors are given as labels.
    min_voxels, min_probability
        Fewer voxels, or a smaller largest probability, are unreliable.
    max_border, max_share
        Unreliable if a larger share of the anchor lies on the edge of the frame, or if it fills a
        larger share of the frame. An axis shorter than 3 voxels has no edge.

    Returns
    -------
    AnchorBox
        Cost: one pass over the image.

    Raises
    ------
    GeometryError
        If the probabilities have another shape.

    References
    ----------
    R2Seg (arXiv 2511.12691), "Reason", B_0. The limits are our own: the paper's are unknown.

    Examples
    --------
    >>> organ = np.zeros((40, 40), bool)
    >>> organ[10:20, 15:30] = True
    >>> anchor_box(organ).region
    Region(start=(10, 15), stop=(20, 30))
    >>> anchor_box(np.zeros((40, 40), bool)).status
    'missing'
    """
    frame = Region.whole(anchor.shape)
    if probabilities is not None and probabilities.shape != anchor.shape:
        raise GeometryError(f"the anchor has shape {anchor.shape} but its probabilities {probabilities.shape}")
    size = int(np.count_nonzero(anchor))
    if size == 0:
        return AnchorBox(frame, "missing", ("no anchor was found",))
    reasons = []
    if size < min_voxels:
        reasons.append(f"the anchor has only {size} voxels")
    if probabilities is not None and (best := float(probabilities.max())) < min_probability:
        reasons.append(f"its largest probability is {best:.2f}")
    if (border := _border_voxels(anchor) / size) > max_border:
        reasons.append(f"{border:.0%} of it lie on the edge of the image".replace("%", " %"))
    if (share := size / anchor.size) > max_share:
        reasons.append(f"it fills {share:.0%} of the image".replace("%", " %"))
    if reasons:
        return AnchorBox(frame, "unreliable", tuple(reasons))
    return AnchorBox(bounding_region(anchor), "ok")


def bounding_region(mask: npt.NDArray[np.bool_]) -> Region:
    """The smallest region that holds a mask; the full frame where the mask is empty.

    >>> bounding_region(np.array([[False, True], [False, True]]))
    Region(start=(0, 1), stop=(2, 2))
    """
    box = bounding_box(mask)
    return Region.whole(mask.shape) if box is None else Region.of(box)


def _border_voxels(anchor: npt.NDArray[np.bool_]) -> int:
    inner = tuple(slice(1, -1) if n >= 3 else slice(None) for n in anchor.shape)
    return int(np.count_nonzero(anchor)) - int(np.count_nonzero(anchor[inner]))


def search_regions(
    box: Region, grid: Grid, *, pad: float = 20.0, scales: Iterable[float] = (0.5, 1.0, 2.0), square: bool = True
) -> tuple[Region, ...]:
    """The regions B_γ = Square(Dilate(B_0, ⌈δ/s⌉·γ)), one for each scale γ.

    δ is a length and s the voxel edge of each axis, so the margin is the same in mm along all
    axes; it is rounded up to whole voxels. Square extends the shorter sides (in mm) about the
    centre, to a cube in 3-D; what sticks out of the frame is shifted inside first and clipped then.

    Parameters
    ----------
    box
        B_0, inside the frame.
    grid
        Of the image; where its spacing is unknown lengths are pixels.
    pad
        δ in mm, not negative.
    scales
        Γ, all positive. Equal regions are returned once each, in the order of the scales.
    square
        False leaves out the last step.

    Returns
    -------
    tuple of Region
        Each inside the frame and covering ``box``; larger scales cover smaller ones.

    Raises
    ------
    GeometryError
        If the box does not lie on the grid.
    InputError
        If a length or a scale is impossible.

    References
    ----------
    R2Seg (arXiv 2511.12691), "Reason", B_γ; δ and Γ are our own defaults.

    Examples
    --------
    >>> grid = Grid((100, 100), np.diag([1.0, 2.0, 1.0, 1.0]))
    >>> search_regions(Region((40, 40), (50, 50)), grid, pad=10.0, scales=(1.0,))
    (Region(start=(25, 35), stop=(65, 55)),)
    """
    if not Region.whole(grid.shape).covers(box):
        raise GeometryError(f"the box from {box.start} to {box.stop} does not lie on a grid of shape {grid.shape}")
    if not 0 <= pad < float("inf"):
        raise InputError(f"the padding is {pad:g} mm: give a finite length that is not negative")
    regions: dict[Region, None] = {}
    for scale in scales:
        if not 0 < scale < float("inf"):
            raise InputError(f"a region scale is {scale:g}: give a positive number")
        regions[_grown(box, grid, pad, scale, square)] = None
    if not regions:
        raise InputError("no region scale is given: give at least one, for example 1")
    return tuple(regions)


def _grown(box: Region, grid: Grid, pad: float, scale: float, square: bool) -> Region:
    margins = [_up(_up(pad / step) * scale) for step in grid.spacing]
    sizes = [n + 2 * margin for n, margin in zip(box.shape, margins, strict=True)]
    if square:
        side = max(n * step for n, step in zip(sizes, grid.spacing, strict=True))
        sizes = [max(n, _up(side / step)) for n, step in zip(sizes, grid.spacing, strict=True)]
    start, stop = [], []
    for low, old, size, length in zip(box.start, box.shape, sizes, grid.shape, strict=True):
        kept = min(size, length)
        first = min(max(low - (size - old) // 2, 0), length - kept)
        start.append(first)
        stop.append(first + kept)
    return Region(tuple(start), tuple(stop))


def _up(length: float) -> int:
    return ceil(length - _ROUNDING * max(1.0, length))


def fuse_regions(
    shape: Sequence[int],
    parts: Iterable[tuple[Region, npt.NDArray[np.floating[Any]]]],
    *,
    full: npt.NDArray[np.floating[Any]] | None = None,
    fusion: Literal["max", "mean"] = "max",
) -> npt.NDArray[np.float32]:
    """Paste the regions' probabilities back into the frame.

    Parameters
    ----------
    shape
        Of the frame.
    parts
        Regions and their probabilities (of the region's shape, in [0, 1]); taken one by one, so
        they may come from a generator.
    full
        The full frame's probabilities where they are to be included (the formula
        P_final = max(P_full, max_γ P_γ)); None follows the readings that prompt in regions only.
    fusion
        ``"max"`` (paper), or the mean over what covers a voxel.

    Returns
    -------
    float32 array of ``shape``
        0 where nothing covers a voxel. With ``"max"`` nothing is ever lower than any of its
        inputs: with ``full`` a region can only add. Memory: one frame, with ``"mean"`` two.

    Raises
    ------
    InputError
        If the fusion is unknown.
    GeometryError
        If probabilities do not have the shape of their region.

    Examples
    --------
    >>> fuse_regions((4,), [(Region((0,), (2,)), np.array([0.5, 0.75])), (Region((1,), (3,)), np.array([0.25, 0.5]))])
    array([0.5 , 0.75, 0.5 , 0.  ], dtype=float32)
    """
    if fusion not in ("max", "mean"):
        raise InputError(f"the fusion is {fusion!r}: choose max or mean")
    out = np.zeros(tuple(shape), dtype=np.float32)
    covered = np.zeros(tuple(shape), dtype=np.uint16) if fusion == "mean" else None
    whole = [] if full is None else [(Region.whole(shape), full)]
    for number, (region, values) in enumerate(chain(whole, parts)):
        if values.shape != region.shape or not Region.whole(shape).covers(region):
            raise GeometryError(
                f"probabilities of shape {values.shape} do not fit the region from {region.start} to {region.stop}"
            )
        place = out[region.slices]
        if number == 0:
            # Nothing is there yet: the frame's untouched memory need not be read.
            place[...] = values
        elif fusion == "max":
            np.maximum(place, values, out=place, casting="same_kind")
        else:
            place += values.astype(np.float32, copy=False)
        if covered is not None:
            covered[region.slices] += 1
    if covered is not None:
        out /= np.maximum(covered, 1)
    return out
