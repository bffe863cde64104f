"""Boxes in every system a model speaks, converted in one place.

Here a box is ``(x1, y1, x2, y2)``: x grows to the right, y downwards, in pixels of the image as
it is shown, edges at pixel borders, so that the whole image is ``(0, 0, width, height)``. Models
speak others: Qwen2.5-VL absolute pixels of the *resized* image, Qwen3-VL whole numbers from 0 to
1000. Rows and columns of arrays come from :func:`box_of_mask` and go to :func:`slices_of_box`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Convention", "PixelBox", "box_of_mask", "clamped", "from_model", "slices_of_box", "to_model"]

Convention = Literal["pixels", "thousand", "unit"]
"""``pixels`` of the image the model saw, ``thousand`` (0 to 1000) or ``unit`` (0 to 1) of its sides."""

PixelBox = tuple[float, float, float, float]


def from_model(
    box: Sequence[float], convention: Convention, *, seen: tuple[int, int], shown: tuple[int, int]
) -> PixelBox:
    """A model's box in pixels of the image as shown, inside it.

    Parameters
    ----------
    box
        ``(x1, y1, x2, y2)`` as the model wrote it.
    convention
        What its numbers mean.
    seen, shown
        ``(width, height)`` of the image the model saw (after its resizing) and as shown.

    Raises
    ------
    InputError
        If it is no box: not four finite numbers, or x1 ≥ x2 or y1 ≥ y2 once it is clamped.

    Examples
    --------
    >>> from_model((100, 200, 300, 400), "thousand", seen=(448, 448), shown=(512, 256))
    (51.2, 51.2, 153.6, 102.4)
    >>> from_model((0, 0, 900, 84), "pixels", seen=(448, 84), shown=(896, 168))
    (0.0, 0.0, 896.0, 168.0)
    """
    if len(box) != 4 or not all(math.isfinite(v) for v in box):
        raise InputError(f"a box is four finite numbers x1, y1, x2, y2, not {list(box)}")
    width, height = _full(convention, seen)
    scale = (shown[0] / width, shown[1] / height) * 2
    return clamped([v * s for v, s in zip(box, scale, strict=True)], shown)


def to_model(
    box: Sequence[float], convention: Convention, *, seen: tuple[int, int], shown: tuple[int, int]
) -> PixelBox:
    """The inverse of :func:`from_model`; whole numbers for ``pixels`` and ``thousand``.

    Examples
    --------
    >>> to_model((51.2, 51.2, 153.6, 102.4), "thousand", seen=(448, 448), shown=(512, 256))
    (100.0, 200.0, 300.0, 400.0)
    """
    width, height = _full(convention, seen)
    scale = (width / shown[0], height / shown[1]) * 2
    values = [v * s for v, s in zip(clamped(box, shown), scale, strict=True)]
    if convention != "unit":
        values = [float(round(v)) for v in values]
    return (values[0], values[1], values[2], values[3])


def clamped(box: Sequence[float], size: tuple[int, int]) -> PixelBox:
    """The part of a box inside an image of ``(width, height)``.

    Raises
    ------
    InputError
        If nothing of it is inside, or its corners are in the wrong order.
    """
    x1, y1, x2, y2 = (min(max(float(v), 0.0), float(end)) for v, end in zip(box, size * 2, strict=True))
    if not (x1 < x2 and y1 < y2):
        raise InputError(f"the box {[round(float(v), 2) for v in box]} has no area inside the image of {size}")
    return (x1, y1, x2, y2)


def box_of_mask(mask: npt.NDArray[np.bool_]) -> PixelBox | None:
    """Box of a picture's mask, shape ``(rows, columns)``; None where it is empty.

    Examples
    --------
    >>> mask = np.zeros((6, 8), bool)
    >>> mask[2:4, 1:7] = True
    >>> box_of_mask(mask)
    (1.0, 2.0, 7.0, 4.0)
    """
    if mask.ndim != 2:
        raise InputError(f"a picture's mask has two axes, not {mask.ndim}: take one slice")
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def slices_of_box(box: Sequence[float], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns that a box covers, each at least one pixel.

    Examples
    --------
    >>> slices_of_box((1.0, 2.0, 7.0, 4.0), (8, 6))
    (slice(2, 4, None), slice(1, 7, None))
    """
    x1, y1, x2, y2 = clamped(box, size)
    left, top = min(math.floor(x1 + 0.5), size[0] - 1), min(math.floor(y1 + 0.5), size[1] - 1)
    right, bottom = max(left + 1, math.floor(x2 + 0.5)), max(top + 1, math.floor(y2 + 0.5))
    return slice(top, bottom), slice(left, right)


def _full(convention: Convention, seen: tuple[int, int]) -> tuple[float, float]:
    if convention == "pixels":
        return float(seen[0]), float(seen[1])
    if convention not in ("thousand", "unit"):
        raise InputError(f"unknown coordinates {convention!r}: choose pixels, thousand or unit")
    return (1000.0, 1000.0) if convention == "thousand" else (1.0, 1.0)
