"""Images on a grid: scans, masks, label maps and probability maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, GeometryError
from anatrust.image.grid import Grid

__all__ = ["LabelMap", "Mask", "Modality", "ProbabilityMap", "Scan", "value_range"]

Modality = Literal["CT", "MR", "PET", "US", "photo", "unknown"]


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that cannot be written through; the caller's own array is left writable."""
    view = array.view()
    view.setflags(write=False)
    return view


def _check_shape(array: npt.NDArray[Any], grid: Grid, what: str) -> None:
    if array.shape != grid.shape:
        raise GeometryError(f"the {what} has shape {array.shape} but its grid {grid.shape}: give both the same")


@dataclass(frozen=True, eq=False)
class Scan:
    """A grey-value image of a patient.

    ``array`` has the grid's shape and a real dtype (its stored dtype is kept: an int16 CT
    stays int16); values must be finite. ``modality`` is ``"unknown"`` unless the format or
    the user says it. ``units`` is ``"HU"``, ``"SUV"`` or empty. ``identifier`` is a name for
    the scan made by us (file stem), never a patient name.
    """

    array: npt.NDArray[Any]
    grid: Grid
    modality: Modality = "unknown"
    units: str = ""
    identifier: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        _check_shape(array, self.grid, "scan")
        if array.dtype.kind not in "iuf":
            raise FormatError(f"a scan holds real numbers, not {array.dtype}: convert it to one grey channel")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.size(array) - np.isfinite(array).sum())
            raise FormatError(f"the scan holds {bad} NaN or infinite voxels: replace them before judging it")
        object.__setattr__(self, "array", _frozen(array))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))


@dataclass(frozen=True, eq=False)
class Mask:
    """A yes/no image of one structure; ``array`` is boolean with the grid's shape."""

    array: npt.NDArray[np.bool_]
    grid: Grid
    name: str = "mask"

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        _check_shape(array, self.grid, "mask")
        if array.dtype != np.bool_:
            raise FormatError(f"a Mask is boolean, not {array.dtype}: use LabelMap for numbered structures")
        object.__setattr__(self, "array", _frozen(array))

    @property
    def volume(self) -> float:
        """Volume in mm³ (area in mm² in 2-D; pixels where spacing is unknown)."""
        return float(np.count_nonzero(self.array)) * self.grid.voxel_volume


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Numbered structures; 0 is background. ``names`` maps a number to its name where known."""

    array: npt.NDArray[Any]
    grid: Grid
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        _check_shape(array, self.grid, "label map")
        if array.dtype.kind not in "iu":
            raise FormatError(f"labels are whole numbers, not {array.dtype}: round or threshold them first")
        if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
            raise FormatError(f"labels start at 0 but the smallest is {int(array.min())}: is this an image?")
        object.__setattr__(self, "array", _frozen(array))
        object.__setattr__(self, "names", MappingProxyType({int(k): str(v) for k, v in self.names.items()}))

    def labels(self) -> tuple[int, ...]:
        """The labels present, without the background, ascending."""
        return tuple(int(v) for v in np.unique(_not_zero(self.array)))

    def mask(self, *labels: int | str) -> Mask:
        """The union of the given labels (numbers or names) as one mask; all of them if none given."""
        numbers = {name: number for number, name in self.names.items()}
        wanted = [numbers.get(v, -1) if isinstance(v, str) else v for v in labels]
        array = np.isin(self.array, wanted) if labels else self.array != 0
        return Mask(array, self.grid, name="+".join(str(v) for v in labels) or "all labels")


@dataclass(frozen=True, eq=False)
class ProbabilityMap:
    """Per-class probabilities of a segmenter.

    ``array`` is float of shape ``(classes, *grid.shape)`` with values in [0, 1]; ``classes``
    names the channels. A single foreground probability is stored as one channel. Where the
    channels exclude each other, the first is named ``"background"``; where they may overlap
    (regions), there is none.
    """

    array: npt.NDArray[np.floating[Any]]
    grid: Grid
    classes: tuple[str, ...] = ("foreground",)

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.shape[1:] != self.grid.shape:
            raise GeometryError(
                f"probabilities have shape {array.shape} but need (classes, {', '.join(map(str, self.grid.shape))})"
            )
        if array.dtype.kind != "f":
            raise FormatError(f"probabilities are floating point, not {array.dtype}")
        if len(self.classes) != array.shape[0]:
            raise GeometryError(f"{array.shape[0]} probability channels but {len(self.classes)} class names")
        low, high = value_range(array)
        if not np.isfinite([low, high]).all():
            raise FormatError("probabilities hold NaN or infinite values: replace them, or write the file again")
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            whole = 0 if low < 0 or high < 50 or high > 255 else 100 if high <= 100 else 255
            cure = f"divide them by {whole}" if whole else "apply softmax or sigmoid to logits"
            raise FormatError(f"probabilities lie in [{low:.3g}, {high:.3g}], not [0, 1]: {cure}")
        object.__setattr__(self, "array", _frozen(array))

    @property
    def foreground(self) -> npt.NDArray[np.floating[Any]]:
        """Probability of any structure, shape ``grid.shape``.

        The single channel; else one minus the channel named ``"background"`` where that is the
        first; else (overlapping regions) the largest of the channels. Half floats, as nnU-Net
        stores them, become float32: sums and histograms need it.
        """
        found: npt.NDArray[np.floating[Any]] = self.array[0]
        if self.array.shape[0] > 1:
            found = 1 - found if self.classes[0].lower() == "background" else self.array.max(axis=0)
        return found.astype(np.float32) if found.dtype == np.float16 else found


def value_range(array: npt.NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value, NaN where one is; slab by slab, so that large arrays are read from memory once.

    Examples
    --------
    >>> value_range(np.arange(24).reshape(2, 3, 4))
    (0.0, 23.0)
    """
    slabs = [slab for part in array for slab in part] if array.ndim > 3 else array if array.ndim > 2 else [array]
    ends = [(slab.min(), slab.max()) for slab in slabs]
    return float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))


def _not_zero(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values that are not 0, most of which a label map's are, looked at eight bytes at a time."""
    flat = array.ravel(order="K")
    each = 8 // flat.itemsize
    whole = flat.size - flat.size % each
    words = flat[:whole].view(np.uint64)
    busy = flat[:whole].reshape(-1, each)[words != 0].ravel()
    values = np.concatenate([busy, flat[whole:]])
    left: npt.NDArray[Any] = values[values != 0]
    return left
