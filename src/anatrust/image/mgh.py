"""FreeSurfer volumes, MGH and MGZ: header by nibabel, voxels by our own reader."""

from __future__ import annotations

import numpy as np

from anatrust.errors import FormatError, GeometryError
from anatrust.image.adapter import FileHead, RawImage, Request, choose_one, drop_slice_axis, one_line, stem
from anatrust.image.voxels import read_voxels

__all__ = ["is_mgh", "read_mgh"]

_VOXELS_AT = 284


def is_mgh(head: FileHead) -> bool:
    """Whether a file is MGH or MGZ, by its name (the content has no magic number)."""
    return head.name.endswith((".mgh", ".mgz", ".mgh.gz"))


def read_mgh(head: FileHead, request: Request) -> RawImage:
    """Read a FreeSurfer volume.

    Parameters
    ----------
    head
        The file.
    request
        ``series`` chooses one of several frames, counted from 1.

    Returns
    -------
    RawImage
        Voxels ``(x, y, z[, frames])`` in the stored dtype and native byte order. A file whose
        header has no valid geometry ("goodRASFlag" 0) gets FreeSurfer's coronal default, as
        in nibabel.

    Raises
    ------
    FormatError, GeometryError
        If the file is cut off or is no MGH.
    """
    from nibabel.freesurfer.mghformat import MGHError, MGHHeader
    from nibabel.spatialimages import HeaderDataError

    where = str(head.path)
    if len(head.inner) < _VOXELS_AT or head.inner[:4] != b"\0\0\0\1":
        what = "the file is empty" if not head.raw else "its content is no FreeSurfer volume"
        raise FormatError(f"{where}: {what}: get it again")
    try:
        header = MGHHeader(head.inner[:_VOXELS_AT] + bytes(20), check=False)
        dtype = header.get_data_dtype()
        affine = header.get_affine()
    except (MGHError, HeaderDataError, KeyError, ValueError) as error:
        raise FormatError(f"{where}: the FreeSurfer header is damaged ({one_line(error)})") from None
    shape = tuple(int(n) for n in header["dims"])
    if min(shape) < 1:
        raise GeometryError(f"{where}: the image is empty: its shape is {shape}")
    array = read_voxels(head.path, _VOXELS_AT, shape, dtype, where)
    array = array[..., 0] if shape[3] == 1 else array
    if request.purpose != "probabilities":
        array = choose_one(array, request, where)
    array, grid = drop_slice_axis(array, affine)
    facts = {"format": "MGH", "stored_dtype": str(np.dtype(dtype).newbyteorder("="))}
    return RawImage(array, grid, where, identifier=stem(head.path), metadata=facts)
