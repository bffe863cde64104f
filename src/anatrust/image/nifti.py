"""NIfTI files, read about as fast as gzip allows.

The header is parsed by nibabel's header classes, so its rules hold (sform before qform, slopes,
byte order); the voxels go through isal straight into one array. A claim in the header is
checked against the size of the file before memory is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.adapter import FileHead, RawImage, Request, choose_one, drop_slice_axis, one_line, stem
from anatrust.image.grid import Grid
from anatrust.image.nifti_write import NO_SPACING
from anatrust.image.voxels import read_voxels

__all__ = ["is_nifti", "read_nifti"]

_METRES_TO_MM = {1: 1e3, 3: 1e-3}  # xyzt_units: metre, micrometre; anything else is taken as mm


def is_nifti(head: FileHead) -> bool:
    """Whether a file is NIfTI, by its content (or by its name, so that it is refused as NIfTI)."""
    sizes = {int.from_bytes(head.inner[:4], order) for order in ("little", "big")}
    return bool(sizes & {348, 540}) or head.name.endswith((".nii", ".nii.gz", ".hdr", ".img", ".img.gz"))


def read_nifti(head: FileHead, request: Request) -> RawImage:
    """Read a NIfTI-1 or NIfTI-2 file, ``.nii``, ``.nii.gz`` or a pair ``.hdr``/``.img``.

    Parameters
    ----------
    head
        The file.
    request
        ``series`` chooses a volume, counted from 1, of a 4-D scan.

    Returns
    -------
    RawImage
        Voxels ``(x, y)``, ``(x, y, z)`` or, for probabilities, ``(x, y, z, channels)``, in the
        stored dtype and native byte order. Where the header has a slope, values equal
        nibabel's: float64, or an integer type when slope and intercept are whole numbers.
        Axes of one voxel after the third are dropped; ``(nx, ny, 1)`` is a 2-D image.

    Raises
    ------
    FormatError, GeometryError, InputError
        If the file is cut off, not NIfTI, in colour, complex, empty, or without valid geometry.
    """
    where = str(head.path)
    if head.name.endswith((".img", ".img.gz")):
        raise InputError(f"{where}: give the header file (.hdr) of a NIfTI pair, not its .img")
    header = _header(head)
    shape, dtype = _shape(header, where), _dtype(header, where)
    offset = int(header["vox_offset"])
    pair = bytes(header["magic"].item())[:2] == b"ni"
    data_path = _pair_data(head.path) if pair else head.path
    start = offset if pair else max(offset, header.sizeof_hdr + 4 if offset else 0)
    array = read_voxels(data_path, start, shape, dtype, where)
    array = _scaled(array, header, where)
    affine, spacing_known, source = _geometry(header, where)
    if array.ndim == 5 and array.shape[3] == 1:  # vectors lie on the fifth axis
        array = array[:, :, :, 0]
    if request.purpose != "probabilities":
        array = choose_one(array, request, where)
    if array.ndim > 4 or array.ndim < 2:
        raise FormatError(f"{where}: an image with {array.ndim} axes (shape {array.shape}) cannot be used")
    array, grid = drop_slice_axis(array, affine, spacing_known)
    version = 2 if header.sizeof_hdr == 540 else 1
    facts = {"format": f"NIfTI-{version}", "stored_dtype": str(dtype.newbyteorder("=")), "geometry": source}
    return RawImage(array, grid, where, identifier=stem(head.path), metadata=facts)


def _header(head: FileHead) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    where, size = str(head.path), None
    for order in ("little", "big"):
        size = size or {348: 348, 540: 540}.get(int.from_bytes(head.inner[:4], order))
    if not head.raw:
        raise FormatError(f"{where}: the file is empty: get it again")
    if size is None or len(head.inner) < size:
        named = head.name.endswith(".gz") and head.raw[:2] != b"\x1f\x8b"
        what = (
            "it is not gzip" if named and not head.inner[:4].strip(b"\0") else "it does not begin with a NIfTI header"
        )
        raise FormatError(f"{where}: not a NIfTI file, {what}: give the image itself, or get it again")
    kind = Nifti1Header if size == 348 else Nifti2Header
    try:
        header = kind(head.inner[:size], check=False)
    except HeaderDataError as error:
        raise FormatError(f"{where}: the NIfTI header is damaged ({one_line(error)})") from None
    magic = bytes(header["magic"].item())[:3]
    if magic not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        raise FormatError(
            f"{where}: an Analyze 7.5 file, not NIfTI (it stores no orientation): convert it with a tool"
            " that knows how it was acquired"
        )
    return header


def _shape(header: Any, where: str) -> tuple[int, ...]:
    sizes = [int(v) for v in header["dim"]]
    if not 1 <= sizes[0] <= 7:
        raise FormatError(f"{where}: the NIfTI header is damaged (it claims {sizes[0]} axes)")
    shape = sizes[1 : sizes[0] + 1]
    if min(shape) < 1:
        raise GeometryError(f"{where}: the image is empty: its shape is {tuple(shape)}")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _dtype(header: Any, where: str) -> np.dtype[Any]:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise FormatError(f"{where}: unknown NIfTI data type code {int(header['datatype'])}") from None
    if dtype.names:
        raise FormatError(
            f"{where}: holds colours ({''.join(dtype.names)}), not grey values: convert it to one grey channel"
        )
    if dtype.kind not in "iuf":
        kind = "complex numbers" if dtype.kind == "c" else f"data of type code {int(header['datatype'])}"
        raise FormatError(f"{where}: holds {kind}, not real grey values: convert it, e.g. to magnitude")
    return dtype


def _pair_data(path: Path) -> Path:
    base = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    for suffix in (".img", ".img.gz"):
        candidate = base.with_suffix(suffix)
        if candidate.exists():
            return candidate
    raise InputError(f"{path}: the voxels of this NIfTI pair are missing: put {base.stem}.img beside it")


def _scaled(array: npt.NDArray[Any], header: Any, where: str) -> npt.NDArray[Any]:
    from nibabel.spatialimages import HeaderDataError
    from nibabel.volumeutils import apply_read_scaling

    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise FormatError(f"{where}: the intensity scaling in the header is damaged ({one_line(error)})") from None
    slope, inter = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    if (slope, inter) == (1.0, 0.0):
        return array
    if array.dtype.kind in "iu" and slope.is_integer() and inter.is_integer():
        ends = [int(v) * int(slope) + int(inter) for v in (array.min(), array.max())]
        for kind in (np.int16, np.int32, np.int64):  # whole numbers stay whole: a CT with intercept -1024
            if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max and np.can_cast(array.dtype, kind):
                whole: npt.NDArray[Any] = array.astype(kind)
                whole *= kind(slope)
                whole += kind(inter)
                return whole
    scaled: npt.NDArray[Any] = apply_read_scaling(array, np.float64(slope), np.float64(inter))
    return scaled


def _geometry(header: Any, where: str) -> tuple[npt.NDArray[np.float64], bool, str]:
    from nibabel.spatialimages import HeaderDataError

    source = "sform" if header["sform_code"] > 0 else "qform" if header["qform_code"] > 0 else "none"
    try:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(f"{where}: the orientation in the header is damaged ({one_line(error)})") from None
    affine[:3] *= _METRES_TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    try:
        Grid((1, 1, 1), affine)
    except GeometryError as error:
        raise GeometryError(f"{where}: {error}") from None
    return affine, not bytes(header["descrip"].item()).startswith(NO_SPACING), source
