"""Key slices as small pictures: what the page shows in print and where WebGL2 is missing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.report.layers import Layer, Style
from anatrust.report.listed import Entry
from anatrust.report.windows import Window

__all__ = ["Picture", "boxed_slices", "key_slices", "map_slice"]

_SIDE = 300
_LEAST_MM, _TIMES = 120.0, 4.0
_GREYS = 64


@dataclass(frozen=True)
class Picture:
    """A slice through one entry; ``number`` is 0 and ``outcome`` empty for the scan's middle."""

    number: int
    png: str
    width: int
    height: int
    outcome: str = ""

    @property
    def uri(self) -> str:
        """The picture as a data address."""
        return f"data:image/png;base64,{self.png}"


def key_slices(scan: Scan, layers: Sequence[Layer], entries: Sequence[Entry], window: Window) -> tuple[Picture, ...]:
    """One picture for each entry, cut from the full-resolution scan; the middle slice without entries.

    The masks of ``layers`` are drawn as contours. Volumes are cut axially: the patient's right is
    on the left, front up. A 2-D image is shown as it is.
    """
    if not entries:
        middle = tuple((n - 1) / 2 for n in scan.grid.shape)
        return (_picture(scan, layers, 0, _cut(scan.grid, middle), window),)
    return tuple(
        _picture(scan, layers, e.number, _around(scan.grid, layers, e.index, e.box), window, e.outcome) for e in entries
    )


def boxed_slices(
    scan: Scan, layers: Sequence[Layer], boxes: Sequence[Grid], window: Window
) -> tuple[tuple[Picture, tuple[float, ...]], ...]:
    """The middle slice of each box, cut to the box, with the world position of its middle.

    ``boxes`` are grids somewhere in the scan's world, as crops have them.
    """
    made = []
    for number, box in enumerate(boxes, start=1):
        corners = np.array([np.zeros(box.ndim), np.array(box.shape) - 1.0])
        centre = box.to_world(corners.mean(axis=0))
        ends = scan.grid.to_index(box.to_world(corners))
        low = np.clip(np.rint(ends.min(axis=0)), 0, np.array(scan.grid.shape) - 1).astype(int)
        high = np.clip(np.rint(ends.max(axis=0)) + 1, low + 1, scan.grid.shape).astype(int)
        slices = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        picture = _picture(scan, layers, number, _cut(scan.grid, scan.grid.to_index(centre), slices), window)
        made.append((picture, tuple(float(v) for v in centre)))
    return tuple(made)


def map_slice(
    values: npt.NDArray[Any], grid: Grid, layers: Sequence[Layer], entry: Entry, window: Window, number: int
) -> Picture:
    """The slice of :func:`key_slices` for an entry, of another map on the same grid."""
    scan = Scan(np.ascontiguousarray(values, dtype=np.float32), grid)
    return _picture(scan, layers, number, _around(grid, layers, entry.index, entry.box), window)


def _cut(
    grid: Grid, index: Sequence[float] | npt.NDArray[np.float64], box: Sequence[slice] | None = None
) -> tuple[Any, ...]:
    """A slice through ``index`` in the plane that is shown, of a box or of the whole grid."""
    order, _ = grid.canonical_axes()
    cut: list[Any] = list(box) if box else [slice(None)] * grid.ndim
    if grid.ndim == 3:
        cut[order[2]] = int(np.clip(round(index[order[2]]), 0, grid.shape[order[2]] - 1))
    return tuple(cut)


def _around(
    grid: Grid, layers: Sequence[Layer], index: Sequence[float], box: Sequence[tuple[int, int]]
) -> tuple[Any, ...]:
    """The slice in which an entry is largest, with its surroundings."""
    order, _ = grid.canonical_axes()
    plane = order[0], order[1]
    cut: list[Any] = [slice(None)] * grid.ndim
    if grid.ndim == 3:
        cut[order[2]] = _slice_index([layer.mask for layer in layers], box, order[2], index)
    for axis in plane:
        cut[axis] = _frame(grid, axis, index[axis], box, plane)
    return tuple(cut)


def _picture(
    scan: Scan, layers: Sequence[Layer], number: int, cut: tuple[Any, ...], window: Window, outcome: str = ""
) -> Picture:
    grid = scan.grid
    order, flips = grid.canonical_axes()
    plane = order[0], order[1]
    upright = _upright(grid, plane, flips)
    grey = upright(scan.array[cut].astype(np.float32))
    height, width = _size(grey.shape, grid, plane)
    canvas = _grey(grey, window, (width, height))
    for place, layer in enumerate(layers):
        _draw(canvas, _smooth_mask(upright(layer.mask[cut]), (width, height)), layer.style, _GREYS + place)
    return Picture(number, _png(canvas, [layer.style for layer in layers]), width, height, outcome)


def _slice_index(
    masks: Sequence[npt.NDArray[np.bool_]], box: Sequence[tuple[int, int]], axis: int, index: Sequence[float]
) -> int:
    """The slice in which the candidate is largest, so that the picture shows it at its clearest."""
    if not masks:
        return round(index[axis])
    place = tuple(slice(int(a), int(b)) for a, b in box)
    others = tuple(a for a in range(3) if a != axis)
    area = sum(mask[place].sum(axis=others) for mask in masks)
    middle = index[axis] - place[axis].start
    # Of equally large slices the one nearest to the centre.
    best = min(range(len(area)), key=lambda i: (-int(area[i]), abs(i - middle)))
    return place[axis].start + best


def _frame(grid: Grid, axis: int, centre: float, box: Sequence[tuple[int, int]], plane: tuple[int, int]) -> slice:
    """A square window around the candidate, wide enough to see where it lies."""
    extent = max((box[a][1] - box[a][0]) * grid.spacing[a] for a in plane)
    least = _LEAST_MM if grid.spacing_known else 0.5 * max(grid.shape[a] for a in plane)
    half = max(least, _TIMES * extent) / 2 / grid.spacing[axis]
    length = min(grid.shape[axis], round(2 * half))
    start = int(np.clip(round(centre - half), 0, grid.shape[axis] - length))
    return slice(start, start + length)


def _upright(grid: Grid, plane: tuple[int, int], flips: tuple[bool, ...]) -> Any:
    """Turns a slice so that front (or top) is up and the patient's right on the left."""
    mirrored = grid.orientation[plane[0]] in "LR"

    def turn(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        rows = array.T if plane[0] < plane[1] else array
        rows = rows[:: 1 if flips[1] else -1]
        return rows[:, :: -1 if mirrored != flips[0] else 1]

    return turn


def _size(shape: tuple[int, ...], grid: Grid, plane: tuple[int, int]) -> tuple[int, int]:
    height, width = shape[0] * grid.spacing[plane[1]], shape[1] * grid.spacing[plane[0]]
    scale = _SIDE / max(height, width)
    return max(16, round(height * scale)), max(16, round(width * scale))


def _grey(values: npt.NDArray[np.float32], window: Window, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    share = np.clip((values - window.low) / (window.high - window.low), 0, 1)
    picture = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    # Few grey levels keep the file small; the eye does not miss the others at this size.
    levels = np.rint(np.clip(np.asarray(picture), 0, 1) * (_GREYS - 1))
    return np.asarray(levels.astype(np.uint8))


def _smooth_mask(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    from PIL import Image

    picture = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(np.asarray(picture) >= 0.5)


def _draw(canvas: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], style: Style, entry: int) -> None:
    """Outline two pixels wide: unbroken, dashed or dotted, in an entry of the palette."""
    on, off = style.dash
    for loop in _outlines(mask):
        drawn = loop[np.arange(len(loop)) % (on + off) < on]
        for shift in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            rows, columns = np.clip(drawn + shift, 0, np.array(canvas.shape) - 1).T
            canvas[rows, columns] = entry


def _outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """Closed walks along pixel corners around each piece and hole, ``(corners, 2)`` each."""
    padded = np.pad(mask, 1)
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # One directed edge for each side at which a pixel of the mask meets one outside; the mask
    # stays on the same hand, so that the edges chain into loops.
    for (dr, dc), (start, end) in {
        (-1, 0): ((0, 0), (0, 1)),
        (0, 1): ((0, 1), (1, 1)),
        (1, 0): ((1, 1), (1, 0)),
        (0, -1): ((1, 0), (0, 0)),
    }.items():
        outside = ~np.roll(padded, (-dr, -dc), (0, 1))[1:-1, 1:-1]
        for row, column in np.argwhere(mask & outside).tolist():
            corner = (row + start[0], column + start[1])
            follow.setdefault(corner, []).append((row + end[0], column + end[1]))
    loops = []
    while follow:
        corner = next(iter(follow))
        walk = []
        while corner in follow:
            walk.append(corner)
            ways = follow[corner]
            if len(ways) == 1:
                del follow[corner]
            corner = ways.pop()
        loops.append(np.array(walk))
    return loops


def _png(canvas: npt.NDArray[np.uint8], styles: Sequence[Style]) -> str:
    from PIL import Image

    greys = [round(v * 255 / (_GREYS - 1)) for v in range(_GREYS)]
    picture = Image.fromarray(canvas)
    picture.putpalette([v for g in greys for v in (g, g, g)] + [v for style in styles for v in style.colour])
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")
