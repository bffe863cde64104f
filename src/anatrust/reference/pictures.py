"""Scans as a reader sees them: patient's right on the left, front or head on top; and back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical, restore
from anatrust.image.volumes import Scan
from anatrust.models.annotation import Reference
from anatrust.reference.pairs import LabelledPicture

__all__ = ["from_view", "greys", "picture_of", "view_of"]


def greys(scan: Scan) -> npt.NDArray[np.float32]:
    """Grey values in canonical order; the 1st to the 99th percentile become 0 to 1."""
    image = canonical(scan.array, scan.grid)[0].astype(np.float32)
    low, high = np.percentile(image, (1, 99))
    return np.asarray(np.clip((image - low) / max(float(high - low), 1e-6), 0, 1), dtype=np.float32)


def view_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A canonical slice as rows and columns.

    Canonical axes run to the patient's right, front and head; a reader has them run to the left and downwards.

    Examples
    --------
    >>> view_of(np.array([[1, 2], [3, 4], [5, 6]])).tolist()
    [[6, 4, 2], [5, 3, 1]]
    """
    return np.ascontiguousarray(array[::-1, ::-1].T)


def from_view(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """Rows and columns back in the storage order of a 2-D grid: the inverse of `view_of` after `canonical`."""
    return restore(np.ascontiguousarray(array.T[::-1, ::-1]), grid)


def picture_of(reference: Reference, patient: str = "reference") -> LabelledPicture:
    """A labelled image as a picture with named regions.

    Raises
    ------
    GeometryError
        If it is a volume.
    """
    if reference.scan.grid.ndim != 2:
        raise GeometryError(f"the reference {reference.identifier} is a volume: take its slices")
    drawn = canonical(reference.labels.array, reference.labels.grid)[0]
    return LabelledPicture(view_of(greys(reference.scan)), view_of(drawn), reference.names(), patient)
