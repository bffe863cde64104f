"""NRRD, MetaImage (MHA, MHD) and GIPL through SimpleITK, and SimpleITK images in memory.

SimpleITK counts x fastest and gives arrays ``(z, y, x)`` in LPS+; here axes are ``(x, y, z)``
and the world is RAS+.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.adapter import (
    FileHead,
    RawImage,
    Request,
    check_claim,
    choose_one,
    drop_slice_axis,
    one_line,
    stem,
)
from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid

__all__ = ["from_sitk", "is_itk", "read_itk", "to_sitk", "write_itk"]

_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".gipl.gz")
_GIPL_MAGIC = tuple(number.to_bytes(4, "big") for number in (719555000, 4026526128))
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SPACING_KEY = "anatrust_spacing"  # marks a file whose unit is the pixel
_LONGEST_HEADER = 1 << 20
_BZIP2_INFLATION = 46_000


def is_itk(head: FileHead) -> bool:
    """Whether a file is NRRD, MetaImage or GIPL, by content (or name, so that it is refused as such)."""
    return _kind(head) != "" or head.name.endswith(_SUFFIXES)


def _kind(head: FileHead) -> str:
    if head.raw.startswith(b"NRRD"):
        return "NRRD"
    if head.raw[:200].lstrip().startswith((b"ObjectType", b"NDims")):
        return "Meta"
    return "GIPL" if head.inner[252:256] in _GIPL_MAGIC else ""


def read_itk(head: FileHead, request: Request) -> RawImage:
    """Read a NRRD, MHA, MHD or GIPL file.

    Parameters
    ----------
    head
        The file; the voxels of ``.mhd`` and ``.nhdr`` must lie in the same folder.
    request
        ``series`` chooses a volume, counted from 1, of a 4-D scan.

    Returns
    -------
    RawImage
        Voxels ``(x, y[, z][, channels])`` in the stored dtype. Where a NRRD or MetaImage
        header has no spacing, the grid says "unknown". Segment names of a Slicer
        ``.seg.nrrd`` are label names.

    Raises
    ------
    FormatError, InputError
        If the file is cut off, damaged, in colour, or points to voxels elsewhere.
    """
    import SimpleITK

    where = str(head.path)
    kind = _kind(head)
    if not kind:
        what = "the file is empty" if not head.raw else "its content is not the format of its name"
        raise FormatError(f"{where}: {what}: get it again")
    header = _header(head, kind)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO({"NRRD": "NrrdImageIO", "Meta": "MetaImageIO", "GIPL": "GiplImageIO"}[kind])
    reader.SetFileName(where)
    try:
        reader.ReadImageInformation()
        _check_size(head, header, reader)
        image = reader.Execute()
    except RuntimeError as error:
        raise FormatError(f"{where}: the {kind} file is damaged ({_reason(error)}): get it again") from None
    known = kind == "GIPL" or bool({"space directions", "spacings", "elementspacing", "elementsize"} & header.keys())
    if _SPACING_KEY in image.GetMetaDataKeys():
        known = False
    raw = from_sitk(image, where, request, spacing_known=known)
    facts = {"format": {"Meta": "MetaImage"}.get(kind, kind), "stored_dtype": str(raw.array.dtype)}
    return RawImage(raw.array, raw.grid, where, identifier=stem(head.path), metadata=facts, names=_segments(image))


def _reason(error: BaseException) -> str:
    # SimpleITK's message begins with where it was thrown; the last sentence says why.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("): ")[-1][:160] if lines else one_line(error)


def _header(head: FileHead, kind: str) -> dict[str, str]:
    """Fields of a text header, names in lower case."""
    if kind == "GIPL":
        return {}
    with head.path.open("rb") as stream:
        text = stream.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    used = 0
    for line in text.split(b"\n"):
        used += len(line) + 1
        name, _, value = line.decode("latin-1").strip().partition("=" if kind == "Meta" else ":")
        if kind == "NRRD" and not name:
            break
        fields[name.strip().lower()] = value.strip()
        if kind == "Meta" and name.strip() == "ElementDataFile":
            break
    fields["header bytes"] = str(used)
    return fields


def _check_size(head: FileHead, header: dict[str, str], reader: Any) -> None:
    import SimpleITK

    where = str(head.path)
    detached = header.get("elementdatafile", header.get("data file", header.get("datafile", "LOCAL")))
    data, used = head.path, int(header.get("header bytes", 256))
    if detached.upper() != "LOCAL":
        if detached.upper().startswith("LIST") or "%" in detached:
            raise FormatError(f"{where}: its voxels are spread over several files: convert it to one file")
        data, used = head.path.parent / detached, 0
        if Path(detached).name != detached:
            raise InputError(f"{where}: points to voxels in another folder: put {Path(detached).name} beside it")
        if not data.is_file():
            raise InputError(f"{where}: its voxels are missing: put {detached} beside it")
    available = max(data.stat().st_size - used, 0)
    claimed = reader.GetNumberOfComponents() * _bytes_of(reader.GetPixelIDValue(), where)
    for n in reader.GetSize():
        claimed *= int(n)
    encoding = header.get("encoding", "raw").lower()
    packed = encoding not in ("raw", "hex", "ascii", "text", "txt") or head.raw[:2] == b"\x1f\x8b"
    if header.get("compresseddata", "").lower() == "true":
        packed = True
        available = _whole_stream(int(header.get("compresseddatasize") or 0), available, where)
    if encoding.startswith("bz"):
        available *= _BZIP2_INFLATION
    elif encoding in ("ascii", "text", "txt") or header.get("binarydata", "").lower() == "false":
        available *= 8  # a digit and a blank may stand for a double
    check_claim(claimed, available, where, compressed=packed)
    if reader.GetPixelIDValue() == SimpleITK.sitkUnknown:
        raise FormatError(f"{where}: an unknown type of voxel: convert it to whole or real numbers")


def _whole_stream(stated: int, available: int, where: str) -> int:
    if stated > available:
        raise FormatError(f"{where}: cut off, {available:,} of {stated:,} compressed bytes are there: get it again")
    return available


def _bytes_of(pixel_id: int, where: str) -> int:
    import SimpleITK

    name = SimpleITK.GetPixelIDValueAsString(pixel_id).lower()
    if "complex" in name:
        raise FormatError(f"{where}: holds complex numbers, not real grey values: convert it, e.g. to magnitude")
    return 1 if "8-bit" in name else 2 if "16-bit" in name else 4 if "32-bit" in name else 8


def from_sitk(image: Any, where: str, request: Request, *, spacing_known: bool = True) -> RawImage:
    """Take voxels and geometry out of a SimpleITK image.

    Returns
    -------
    RawImage
        Array ``(x, y[, z][, channels])`` (a copy) and its RAS+ grid.

    Raises
    ------
    FormatError
        If it is complex, in colour where one value is needed, or has more than four axes.
    """
    import SimpleITK

    _bytes_of(image.GetPixelID(), where)
    axes, channels = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if axes not in (2, 3, 4):
        raise FormatError(f"{where}: an image with {axes} axes cannot be used: choose one volume")
    array = SimpleITK.GetArrayFromImage(image)
    array = array.transpose(*range(axes - 1, -1, -1), *range(axes, array.ndim))
    if channels > 1 and request.purpose != "probabilities":
        raise FormatError(f"{where}: holds {channels} values a voxel (colour or vectors): convert it to one")
    if axes == 4:
        if channels > 1:
            raise FormatError(f"{where}: vectors in time cannot be used: choose one volume")
        if array.shape[3] == 1:
            array = array[..., 0]
    if request.purpose != "probabilities":
        array = choose_one(array, request, where)
    n = min(axes, 3)
    affine = np.eye(4)
    affine[:n, :n] = np.reshape(image.GetDirection(), (axes, axes))[:n, :n] * np.array(image.GetSpacing())[:n]
    affine[:n, 3] = image.GetOrigin()[:n]
    if axes == 2 and array.ndim == 3:  # (x, y, channels): give it its slice axis, so that axes are told apart
        array = array[:, :, np.newaxis]
    if array.ndim == 2:
        return RawImage(array, Grid(array.shape, _LPS_TO_RAS @ affine, spacing_known), where)
    array, grid = drop_slice_axis(array, _LPS_TO_RAS @ affine, spacing_known)
    return RawImage(array, grid, where)


def _segments(image: Any) -> dict[int, str]:
    keys = set(image.GetMetaDataKeys())
    names: dict[int, str] = {}
    number = 0
    while f"Segment{number}_LabelValue" in keys and f"Segment{number}_Name" in keys:
        value = image.GetMetaData(f"Segment{number}_LabelValue")
        if value.isdigit():
            names[int(value)] = image.GetMetaData(f"Segment{number}_Name")
        number += 1
    return names


def to_sitk(array: npt.NDArray[Any], grid: Grid) -> Any:
    """Make a SimpleITK image of voxels on a grid; a 2-D image becomes a volume with one slice.

    Parameters
    ----------
    array
        Shape ``grid.shape``, any real dtype (booleans become uint8, half floats float32).
    grid
        Where they lie; the image is in LPS+ as SimpleITK has it.
    """
    import SimpleITK

    array = np.asarray(array)
    if array.dtype in (np.bool_, np.float16):
        array = array.astype(np.uint8 if array.dtype == np.bool_ else np.float32)
    if grid.ndim == 2:
        array = array[:, :, np.newaxis]
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = _LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(v) for v in spacing])
    image.SetOrigin([float(v) for v in affine[:3, 3]])
    image.SetDirection([float(v) for v in (affine[:3, :3] / spacing).ravel()])
    return image


def write_itk(path: str | os.PathLike[str], array: npt.NDArray[Any], grid: Grid) -> None:
    """Write voxels on their grid as ``.nrrd`` or ``.mha``, compressed, whole or not at all.

    Raises
    ------
    FormatError
        If the dtype cannot be stored.
    InputError
        If the folder cannot be written to.
    """
    import SimpleITK

    if np.asarray(array).dtype.kind not in "biuf" or np.asarray(array).dtype.itemsize > 8:
        raise FormatError(f"cannot write {np.asarray(array).dtype} voxels to {path}: convert them to real numbers")
    image = to_sitk(array, grid)
    if not grid.spacing_known:
        image.SetMetaData(_SPACING_KEY, "unknown")
    with replacing(path) as temporary:
        try:
            SimpleITK.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise InputError(f"cannot write {path}: {_reason(error)}") from None
