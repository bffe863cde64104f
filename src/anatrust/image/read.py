"""The front door: anything a person or a program has becomes a scan, a label map or probabilities.

Formats are told apart by what their first bytes say; the file name decides only where the bytes
say nothing. Objects in memory are told apart by their type. Each kind is one entry of a registry,
:func:`register_adapter` adds more.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.adapter import Adapter, FileHead, RawImage, Request
from anatrust.image.dicom import is_dicom, read_dicom
from anatrust.image.grid import Grid
from anatrust.image.itk import is_itk, read_itk
from anatrust.image.memory import (
    is_array,
    is_monai,
    is_nibabel,
    is_own,
    is_sitk,
    read_array,
    read_monai,
    read_nibabel,
    read_own,
    read_sitk,
)
from anatrust.image.mgh import is_mgh, read_mgh
from anatrust.image.nifti import is_nifti, read_nifti
from anatrust.image.probabilities import is_npy, is_npz, read_npy, read_npz, to_probabilities
from anatrust.image.raster import is_raster, read_raster
from anatrust.image.resample import align_to
from anatrust.image.volumes import LabelMap, Modality, ProbabilityMap, Scan

__all__ = ["read_mask", "read_probabilities", "read_scan", "register_adapter"]

# Asked in this order, by content first and by name second. DICOM SEG and RTSTRUCT are to become
# entries before "DICOM", whose reader refuses them until then.
_FILES: list[Adapter] = [
    Adapter("nnU-Net .npz", is_npz, read_npz),
    Adapter("DICOM", is_dicom, read_dicom),
    Adapter(".npy", is_npy, read_npy),
    Adapter("MGH/MGZ", is_mgh, read_mgh),
    Adapter("PNG/JPEG/TIFF", is_raster, read_raster),
    Adapter("NRRD/MHA/MHD/GIPL", is_itk, read_itk),
    Adapter("NIfTI", is_nifti, read_nifti),
]
_OBJECTS: list[Adapter] = [
    Adapter("an anatrust image", is_own, read_own),
    Adapter("a nibabel image", is_nibabel, read_nibabel),
    Adapter("a SimpleITK image", is_sitk, read_sitk),
    Adapter("a MONAI MetaTensor", is_monai, read_monai),
    Adapter("(array or tensor, affine)", is_array, read_array),
]


def register_adapter(adapter: Adapter, *, in_memory: bool = False) -> None:
    """Add a kind of source; it is asked before the ones that exist.

    Parameters
    ----------
    adapter
        Its ``claims`` gets a :class:`~anatrust.image.adapter.FileHead` (or the object itself
        with ``in_memory``) and its ``read`` returns a :class:`~anatrust.image.adapter.RawImage`.
    in_memory
        Whether it reads Python objects rather than files and folders.
    """
    (_OBJECTS if in_memory else _FILES).insert(0, adapter)


def read_scan(
    source: object,
    *,
    modality: str | None = None,
    spacing: float | Sequence[float] | None = None,
    series: int | str | None = None,
) -> Scan:
    """Read a scan.

    Parameters
    ----------
    source
        Path of a NIfTI, MGH/MGZ, NRRD, MHA/MHD, GIPL, PNG, JPEG or TIFF file, of a DICOM file,
        folder or zip; or an object: ``(array, affine)``, a nibabel or SimpleITK image, a torch
        tensor with affine, a MONAI ``MetaTensor``, a :class:`Scan`.
    modality
        ``"CT"``, ``"MR"``, ``"PET"``, ``"US"``, ``"photo"`` or ``"unknown"``. Only DICOM stores
        it; it is never guessed. It must not contradict DICOM.
    spacing
        Pixel size in mm, one number or (row step, column step), for pictures, which store none.
    series
        Which of several images: the number in the list that the refusal prints (DICOM), the
        page (TIFF) or the volume (4-D NIfTI), counted from 1.

    Returns
    -------
    Scan
        In the stored dtype; physical units only where the format or the modality gives them
        (``"HU"`` for CT from DICOM). One slice, ``(nx, ny, 1)``, makes a 2-D scan.

    Raises
    ------
    InputError
        One line that says what is wrong, where, and how to mend it.

    Examples
    --------
    >>> read_scan((np.zeros((4, 5, 6), np.int16), np.eye(4)), modality="CT").grid
    Grid(4x5x6 voxels of 1x1x1 mm, RAS)
    """
    if isinstance(source, Scan) and modality is None:
        return source
    wanted = _modality(modality)
    raw = _load(source, Request("scan", _numbers(spacing), series))
    if raw.array.ndim != raw.grid.ndim:
        raise FormatError(f"{raw.where}: a scan has one value a voxel, not {raw.array.shape[-1]}: take one channel")
    if wanted and raw.modality != "unknown" and wanted != raw.modality:
        raise InputError(f"{raw.where}: DICOM says {raw.modality}, not {wanted}: leave out the modality or correct it")
    try:
        return Scan(raw.array, raw.grid, wanted or raw.modality, raw.units, raw.identifier, raw.metadata)
    except FormatError as error:
        raise FormatError(f"{raw.where}: {error}") from None


def read_mask(source: object, *, reference: Grid | None = None, series: int | str | None = None) -> LabelMap:
    """Read a mask as a label map; a yes/no mask has the labels 0 and 1.

    Parameters
    ----------
    source
        As for :func:`read_scan`; also a bare array where ``reference`` is given.
    reference
        Grid of the scan. A mask on another grid is resampled to it only when the geometry
        proves the same patient space, see :func:`~anatrust.image.resample.align_to`.
    series
        As for :func:`read_scan`.

    Returns
    -------
    LabelMap
        Whole numbers of the smallest fitting unsigned type. An 8-bit picture of nothing but
        0 and 255 has the labels 0 and 1. Names where the format has them (Slicer ``.seg.nrrd``).

    Raises
    ------
    InputError
        If the values are not whole numbers from 0, the format is not readable, or the mask
        does not lie on the reference.
    """
    if isinstance(source, LabelMap):
        labels = source
    elif isinstance(source, ProbabilityMap):
        raise InputError("probabilities are no mask: threshold them, or give them as probabilities")
    else:
        raw = _load(source, Request("labels", None, series, reference))
        if raw.array.ndim != raw.grid.ndim:
            raise FormatError(f"{raw.where}: a mask has one label a voxel, not {raw.array.shape[-1]}: merge them")
        labels = LabelMap(_whole(raw), raw.grid, raw.names)
    return labels if reference is None else _onto(reference, labels)


def read_probabilities(
    source: object, *, reference: Grid | None = None, series: int | str | None = None
) -> ProbabilityMap:
    """Read the probabilities of a segmenter.

    Parameters
    ----------
    source
        A 3-D image (one foreground probability) or one with channels: 4-D NIfTI, vector NRRD,
        nnU-Net ``.npz``, ``.npy`` ``(channels, *shape)``, or an object as for
        :func:`read_scan`, channels first.
    reference
        Grid of the scan; needed for ``.npz``, ``.npy`` and bare arrays, which have no geometry.
    series
        As for :func:`read_scan`.

    Returns
    -------
    ProbabilityMap
        In the stored float dtype. Channels that sum to one are ``background, class 1, ...``,
        others ``region 1, ...``.

    Raises
    ------
    InputError
        If values are not in [0, 1] (logits need a softmax or sigmoid first), the shape does
        not fit, or the geometry does not prove the same patient space.
    """
    if isinstance(source, ProbabilityMap):
        probabilities = source
    else:
        probabilities = to_probabilities(_load(source, Request("probabilities", None, series, reference)))
    return probabilities if reference is None else _onto(reference, probabilities)


_OnGrid = TypeVar("_OnGrid", LabelMap, ProbabilityMap)


def _onto(reference: Grid, image: _OnGrid) -> _OnGrid:
    grid = image.grid
    if grid.layout == reference.layout == "raster" and grid.shape == reference.shape and not grid.spacing_known:
        return replace(image, grid=reference)  # a picture has no geometry but its pixels
    return align_to(reference, image)


def _modality(modality: str | None) -> Modality | None:
    if modality is None:
        return None
    known = {name.lower(): name for name in get_args(Modality)}
    if str(modality).lower() not in known:
        raise InputError(f"unknown modality {modality!r}: choose one of {', '.join(get_args(Modality))}")
    return cast(Modality, known[str(modality).lower()])


def _numbers(spacing: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    try:
        return tuple(float(v) for v in np.atleast_1d(np.asarray(spacing, dtype=np.float64)))
    except (TypeError, ValueError):
        raise InputError(f"spacing is numbers in mm, not {spacing!r}") from None


def _load(source: object, request: Request) -> RawImage:
    if isinstance(source, str | os.PathLike):
        head = FileHead.of(Path(source))
        for adapter in _FILES:
            if adapter.claims(head):
                return _checked_spacing(_quietly(adapter, head, request), request)
        what = "a folder" if head.path.is_dir() else "an unknown format"
        known = ", ".join(adapter.name for adapter in _FILES)
        raise FormatError(f"{head.path}: {what}: give one of {known}")
    for adapter in _OBJECTS:
        if adapter.claims(source):
            return _checked_spacing(_quietly(adapter, source, request), request)
    known = ", ".join(adapter.name for adapter in _OBJECTS)
    raise InputError(f"cannot read an object of type {type(source).__name__}: give a path, or one of {known}")


def _quietly(adapter: Adapter, source: object, request: Request) -> RawImage:
    # pydicom, nibabel and Pillow warn about what is checked here, or does not matter.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapter.read(source, request)


def _checked_spacing(raw: RawImage, request: Request) -> RawImage:
    if request.spacing is not None and raw.grid.layout != "raster":
        raise InputError(f"{raw.where}: spacing= is for pictures; this one stores its own ({raw.grid.spacing} mm)")
    return raw


def _whole(raw: RawImage) -> npt.NDArray[Any]:
    array = raw.array
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise FormatError(f"{raw.where}: the mask holds NaN or infinite values: write it again")
        rounded = np.rint(array)
        if not np.array_equal(rounded, array):
            raise FormatError(
                f"{raw.where}: the mask holds fractions, e.g. {float(array[rounded != array][0]):g}:"
                " threshold it, or give it as probabilities"
            )
        array = rounded
    low, high = int(array.min()), int(array.max())
    if low < 0:
        raise FormatError(f"{raw.where}: labels start at 0 but the smallest is {low}: is this an image?")
    if high > np.iinfo(np.uint32).max:
        raise FormatError(f"{raw.where}: the largest label is {high}: is this an image?")
    if raw.metadata.get("format") == "JPEG" and not ((array == 0) | (array == 255)).all():
        raise FormatError(f"{raw.where}: JPEG changes values, so its labels are lost: save the mask as PNG")
    if raw.grid.layout == "raster" and raw.array.dtype == np.uint8 and bool(((array == 0) | (array == 255)).all()):
        return np.asarray(array == 255, dtype=np.uint8)
    return array.astype(np.min_scalar_type(high), copy=False)
