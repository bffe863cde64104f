"""NIfTI files, written about as fast as the machine compresses."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError
from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid

__all__ = ["NO_SPACING", "write_nifti"]

NO_SPACING = b"anatrust: spacing unknown, unit pixel"
"""Description that marks a file whose unit is the pixel."""

_BLOCK = 1 << 20
_LARGEST_NIFTI1_AXIS = 32767


def write_nifti(path: str | os.PathLike[str], array: npt.NDArray[Any], grid: Grid) -> None:
    """Write voxels on their grid as ``.nii`` or ``.nii.gz``, whole or not at all.

    Parameters
    ----------
    path
        Target; ``.gz`` compresses (one gzip member, level 1, two threads; the bytes depend
        on the voxels only).
    array
        ``grid.shape``, or ``(*grid.shape, channels)`` for a 4-D file. Booleans are stored as
        uint8, half floats as float32, everything else as it is.
    grid
        Stored as sform, and as qform too where a quaternion can express it, in float32 as
        the format prescribes. A grid without spacing is marked so in the description.

    Raises
    ------
    InputError
        If the folder is missing or the dtype cannot be stored.
    """
    from isal import igzip_threaded

    array = np.asarray(array)
    array = (
        array.astype({"b": np.uint8, "f": np.float32}[array.dtype.kind]) if array.dtype in (bool, np.float16) else array
    )
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise FormatError(f"cannot write {array.dtype} voxels to {path}: convert them to real numbers")
    if grid.ndim == 2 and (grid.layout != "plain" or array.ndim > 2):
        array = array[:, :, np.newaxis]
    header = _make_header(array, grid)
    gz = str(path).lower().endswith(".gz")
    # No ExitStack here: isal raises one and the same exception at write and at close, and an ExitStack
    # that follows the chain of contexts of such an exception never ends (seen on a full disk).
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        igzip_threaded.open(file, "wb", compresslevel=1, threads=2, block_size=_BLOCK)
        if gz
        else contextlib.nullcontext(file) as stream,
    ):
        stream.write(header.binaryblock + b"\0" * 4)
        if array.flags.f_contiguous:
            stream.write(array.T.data.cast("B"))
        else:  # reorder slab by slab rather than hold a second copy
            step = max(1, _BLOCK * 8 * array.shape[-1] // max(array.nbytes, 1))
            for first in range(0, array.shape[-1], step):
                slab = np.ascontiguousarray(array[..., first : first + step].T)
                stream.write(slab.data.cast("B"))


def _make_header(array: npt.NDArray[Any], grid: Grid) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    second = max(array.shape) > _LARGEST_NIFTI1_AXIS
    header = (Nifti2Header if second else Nifti1Header)(endianness="<")
    header.set_data_dtype(array.dtype.newbyteorder("="))
    header.set_data_shape(array.shape)
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    header["pixdim"][1 : 1 + array.ndim] = [*spacing, 1.0][: array.ndim]
    header.set_qform(grid.affine, code=1)
    if not np.allclose(header.get_qform(), grid.affine, rtol=1e-5, atol=1e-4 * spacing.min()):
        header["qform_code"] = 0  # sheared: a quaternion cannot say it
    header["pixdim"][1:4] = spacing
    header.set_sform(grid.affine, code=1)
    header.set_slope_inter(1.0, 0.0)
    if grid.spacing_known:
        header.set_xyzt_units("mm")
    else:
        header["descrip"] = NO_SPACING
    header["magic"] = b"n+2" if second else b"n+1"
    header["vox_offset"] = header.sizeof_hdr + 4
    return header
