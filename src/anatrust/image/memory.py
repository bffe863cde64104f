"""Images that are already in memory: arrays with an affine, nibabel, torch, MONAI, our own types.

Nothing is imported to recognise an object: its class says where it comes from. Several values a
voxel are told by a *leading* axis, as in torch and in :class:`ProbabilityMap`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.adapter import RawImage, Request, choose_one, drop_slice_axis
from anatrust.image.grid import Grid
from anatrust.image.itk import from_sitk
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan

__all__ = [
    "is_array",
    "is_monai",
    "is_nibabel",
    "is_own",
    "is_sitk",
    "read_array",
    "read_monai",
    "read_nibabel",
    "read_own",
    "read_sitk",
]


def _is_instance(source: object, module: str, name: str) -> bool:
    """Whether ``source`` is an instance of a class of a module that the caller must have loaded."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(source, kind)


def is_own(source: object) -> bool:
    """Whether it is one of our own image types."""
    return isinstance(source, Scan | Mask | LabelMap | ProbabilityMap)


def read_own(source: Any, _request: Request) -> RawImage:
    """Take one of our own types as it is; probabilities keep their channels last."""
    where = f"the {type(source).__name__}"
    if isinstance(source, ProbabilityMap):
        return RawImage(np.moveaxis(source.array, 0, -1), source.grid, where)
    if isinstance(source, Scan):
        return RawImage(
            source.array, source.grid, where, source.modality, source.units, source.identifier, source.metadata
        )
    names = {1: source.name} if isinstance(source, Mask) else source.names
    return RawImage(source.array, source.grid, where, names=names)


def is_nibabel(source: object) -> bool:
    """Whether it is a nibabel image."""
    return _is_instance(source, "nibabel.spatialimages", "SpatialImage")


def read_nibabel(source: Any, request: Request) -> RawImage:
    """Take a nibabel image: the scaled values nibabel gives and its affine.

    Raises
    ------
    FormatError, GeometryError
        If it has no affine, or is in colour, complex, empty, or 4-D without a choice.
    """
    where = "the nibabel image"
    if source.affine is None:
        raise GeometryError(f"{where} has no affine: give it one, or read the file by its path")
    array = np.asanyarray(source.dataobj)
    if array.dtype.names or array.dtype.kind not in "biuf":
        raise FormatError(f"{where}: holds {array.dtype}, not real grey values: convert it to one channel")
    shape = array.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    array = array.reshape(shape, order="F") if array.flags.f_contiguous else array.reshape(shape)
    if array.ndim > 3 and request.purpose != "probabilities":
        array = choose_one(array, request, where)
    array, grid = drop_slice_axis(array, source.affine)
    return RawImage(array, grid, where)


def is_sitk(source: object) -> bool:
    """Whether it is a SimpleITK image."""
    return _is_instance(source, "SimpleITK", "Image")


def read_sitk(source: Any, request: Request) -> RawImage:
    """Take a SimpleITK image (LPS+, ``(z, y, x)``) over to ``(x, y, z)`` in RAS+."""
    return from_sitk(source, "the SimpleITK image", request)


def is_array(source: object) -> bool:
    """Whether it is an array or tensor, or a pair of one with an affine."""
    first = source[0] if isinstance(source, tuple) and len(source) == 2 else source
    return isinstance(first, np.ndarray) or _is_instance(first, "torch", "Tensor")


def read_array(source: Any, request: Request) -> RawImage:
    """Take ``(array, affine)``: numpy or torch voxels ``([channels,] x, y[, z])`` and a matrix.

    The affine is 4x4 (3x3 for an image) from voxel indices to RAS+ millimetres, or None where
    it is unknown. A bare array is taken only on the grid of a reference.

    Raises
    ------
    GeometryError, FormatError, InputError
        If affine and array do not fit, or the affine is missing.
    """
    where = "the array"
    if isinstance(source, tuple):
        array, affine = _numpy(source[0], where), source[1]
        if affine is None:
            return _with_channels(array, None, 2 if array.ndim == 2 else 3, where, request)
        matrix = _numpy(affine, "the affine").astype(np.float64)
        return _with_channels(array, matrix, 2 if matrix.shape == (3, 3) else min(array.ndim, 3), where, request)
    array, reference = _numpy(source, where), request.reference
    if reference is None:
        raise InputError("a bare array has no place in space: give (array, affine), or (array, None) if unknown")
    if array.shape[-reference.ndim :] != reference.shape:
        raise GeometryError(f"{where} has shape {array.shape} but the scan {reference.shape}: give both the same")
    return RawImage(_last(array, reference.ndim, where), reference, where)


def is_monai(source: object) -> bool:
    """Whether it is a MONAI ``MetaTensor``."""
    return _is_instance(source, "monai.data.meta_tensor", "MetaTensor")


def read_monai(source: Any, request: Request) -> RawImage:
    """Take a MONAI ``MetaTensor`` with its affine, channel first or without channels.

    Whether the first axis counts channels follows from the spatial shape that MONAI's
    reader recorded, else from the number of axes (four: channels and a volume).
    """
    where = "the MetaTensor"
    affine = _numpy(source.affine, "the affine").astype(np.float64)
    array = _numpy(source.as_tensor(), where)
    recorded = source.meta.get("spatial_shape")
    axes = len(np.atleast_1d(recorded)) if recorded is not None else 2 if affine.shape == (3, 3) else 3
    axes = min(axes, array.ndim)
    if str(source.meta.get("space", "RAS")).upper().endswith("LPS"):
        flip = np.diag([-1.0, -1.0, *[1.0] * (len(affine) - 2)])
        affine = flip @ affine
    return _with_channels(array, affine, axes, where, request)


def _numpy(values: Any, where: str) -> npt.NDArray[Any]:
    if _is_instance(values, "torch", "Tensor"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        return np.asarray(values.numpy())
    try:
        array = np.asarray(values)
    except ValueError:
        raise FormatError(f"{where} is not one rectangular array of numbers") from None
    if array.dtype.kind not in "biuf":
        raise FormatError(f"{where} holds {array.dtype}, not real numbers: convert it")
    return array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else array


def _last(array: npt.NDArray[Any], axes: int, where: str) -> npt.NDArray[Any]:
    """Move a leading channel axis to the end; drop it where it is one."""
    if array.ndim == axes:
        return array
    if array.ndim != axes + 1:
        raise FormatError(f"{where} has {array.ndim} axes, but {axes} or {axes + 1} are needed: leave out the batch")
    return array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)


def _with_channels(
    array: npt.NDArray[Any], affine: npt.NDArray[np.float64] | None, axes: int, where: str, request: Request
) -> RawImage:
    array = _last(array, axes, where)
    if array.ndim > axes and request.purpose != "probabilities":
        raise FormatError(f"{where} has {array.shape[-1]} channels in its first axis: take one, or squeeze the others")
    if affine is None:
        grid = Grid.without_spacing(array.shape[:axes])
        return RawImage(array, grid, where)
    if axes == 2:
        return RawImage(array, Grid(array.shape[:2], _four(affine)), where)
    array, grid = drop_slice_axis(array, affine)
    return RawImage(array, grid, where)


def _four(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if affine.shape != (3, 3):
        return affine
    four = np.eye(4)
    four[:2, :2], four[:2, 3] = affine[:2, :2], affine[:2, 2]
    return four
