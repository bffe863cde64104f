"""Probabilities of a segmenter: multi-channel images, nnU-Net ``.npz``, ``.npy``.

Nothing is ever unpickled: not the arrays, and not the ``.pkl`` that nnU-Net writes beside them.
"""

from __future__ import annotations

import zipfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.adapter import FileHead, RawImage, Request, check_claim, one_line, stem
from anatrust.image.grid import Grid
from anatrust.image.volumes import ProbabilityMap

__all__ = ["is_npy", "is_npz", "read_npy", "read_npz", "to_probabilities"]

_KEYS = ("probabilities", "softmax")
_SUM_TOLERANCE = 0.02  # half floats of many classes


def is_npz(head: FileHead) -> bool:
    """Whether a file is a NumPy archive, by its name (DICOM comes in zips too)."""
    return head.name.endswith(".npz")


def is_npy(head: FileHead) -> bool:
    """Whether a file is a NumPy array."""
    return head.raw.startswith(b"\x93NUMPY") or head.name.endswith(".npy")


def read_npz(head: FileHead, request: Request) -> RawImage:
    """Read the probabilities that nnU-Net saves (``--save_probabilities``).

    nnU-Net stores ``(channels, z, y, x)``: axes reversed against NIfTI. For a picture it
    stores ``(channels, 1, rows, columns)``.

    Parameters
    ----------
    head
        The file; the array is named ``probabilities`` (nnU-Net v2) or ``softmax`` (v1).
    request
        ``reference`` is needed: the archive holds no geometry.

    Returns
    -------
    RawImage
        ``(*reference.shape, channels)`` in the stored dtype; one copy of the array at most.

    Raises
    ------
    InputError
        If no reference is given, or an archive member is missing, pickled or damaged.
    GeometryError
        If the shape is not that of the reference.
    """
    reference = _reference(head, request)
    where = str(head.path)
    try:
        with zipfile.ZipFile(head.path) as archive:
            names = archive.namelist()
            key = next((key for key in _KEYS if f"{key}.npy" in names), None)
            if key is None:
                found = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "nothing"
                raise FormatError(f"{where}: holds {found}, but no array 'probabilities' or 'softmax': save it so")
            info = archive.getinfo(f"{key}.npy")
            with archive.open(info) as stream:
                array = _array(stream, where, info.compress_size, packed=info.compress_type != zipfile.ZIP_STORED)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise FormatError(f"{where}: the archive is damaged ({one_line(error)}): get it again") from None
    if array.ndim == reference.ndim:
        array = array[np.newaxis]
    if reference.layout == "raster":
        spatial = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    else:
        if reference.ndim == 2 and array.ndim == 4 and array.shape[1] == 1:
            array = array[:, 0]
        spatial = array.transpose(0, *range(array.ndim - 1, 0, -1))
    if spatial.shape[1:] != reference.shape:
        raise GeometryError(
            f"{where}: nnU-Net probabilities {array.shape} in (channels, z, y, x) do not fit the scan"
            f" {reference.shape} in (x, y, z): give those of this scan, uncropped"
        )
    return RawImage(np.moveaxis(spatial, 0, -1), reference, where, identifier=stem(head.path))


def read_npy(head: FileHead, request: Request) -> RawImage:
    """Read ``(channels, *shape)`` or ``shape``, axes in the order of the reference, from ``.npy``.

    Raises
    ------
    InputError
        If no reference is given, or the file is pickled or damaged.
    GeometryError
        If the shape is not that of the reference.
    """
    reference = _reference(head, request)
    where = str(head.path)
    with head.path.open("rb") as stream:
        array = _array(stream, where, head.path.stat().st_size, packed=False)
    if array.shape[-reference.ndim :] != reference.shape or array.ndim not in (reference.ndim, reference.ndim + 1):
        reversed_fits = array.shape[: -reference.ndim - 1 : -1] == reference.shape
        hint = "its axes are reversed: save array.transpose(0, 3, 2, 1)" if reversed_fits else "give those of this scan"
        raise GeometryError(f"{where}: shape {array.shape} does not fit the scan {reference.shape}: {hint}")
    channels_last = array if array.ndim == reference.ndim else np.moveaxis(array, 0, -1)
    return RawImage(channels_last, reference, where, identifier=stem(head.path))


def _reference(head: FileHead, request: Request) -> Grid:
    if request.purpose != "probabilities":
        raise InputError(f"{head.path}: a NumPy file holds no geometry: save scans and masks as NIfTI")
    if request.reference is None:
        raise InputError(f"{head.path}: a NumPy file holds no geometry: give the scan that it belongs to")
    return request.reference


def _array(stream: IO[bytes], where: str, stored: int, *, packed: bool) -> npt.NDArray[Any]:
    """Read an array in NumPy's format, its claim checked before memory is taken."""
    read_header: Any = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        if version not in read_header:
            raise FormatError(f"{where}: NumPy format {version} is not known: save it with a current NumPy")
        shape, fortran, dtype = read_header[version](stream)
    except (ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise FormatError(f"{where}: no NumPy array, or a damaged one ({one_line(error)}): save it again") from None
    if dtype.hasobject:
        raise FormatError(f"{where}: holds pickled Python objects, which are never loaded: save plain numbers")
    size = dtype.itemsize
    for n in shape:
        size *= int(n)
    check_claim(size, stored, where, compressed=packed)
    flat = np.empty(size, np.uint8)
    view, filled = flat.data, 0
    while filled < size:
        got = stream.readinto(view[filled : filled + (1 << 24)])  # type: ignore[attr-defined]
        if not got:
            raise FormatError(f"{where}: cut off, {filled:,} of {size:,} bytes are there: get it again")
        filled += got
    array: npt.NDArray[Any] = flat.view(dtype).reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def to_probabilities(raw: RawImage) -> ProbabilityMap:
    """Make a probability map of channels-last voxels.

    Whole numbers (0 and 1) become float32. Channels that sum to one everywhere exclude each
    other: the first is then ``"background"``. Else they are regions that may overlap.

    Raises
    ------
    FormatError
        If values lie outside [0, 1] (logits, percentages) or are not numbers.
    """
    array = raw.array
    if array.dtype.kind not in "biuf":
        raise FormatError(f"{raw.where}: probabilities are numbers, not {array.dtype}")
    if array.dtype.kind != "f":
        array = array.astype(np.float32)
    array = array[np.newaxis] if array.ndim == raw.grid.ndim else np.moveaxis(array, -1, 0)
    classes: tuple[str, ...] = ("foreground",)
    if array.shape[0] > 1:
        total = np.zeros(raw.grid.shape, np.float32)
        for channel in array:
            total += channel
        exclusive = bool(np.abs(total - 1).max() <= _SUM_TOLERANCE)
        first, rest = ("background", "class") if exclusive else ("region 1", "region")
        offset = 0 if exclusive else 1
        classes = (first, *(f"{rest} {number + offset}" for number in range(1, array.shape[0])))
    try:
        return ProbabilityMap(array, raw.grid, classes)
    except FormatError as error:
        raise FormatError(f"{raw.where}: {error}") from None
