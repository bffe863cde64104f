"""The bytes of voxels: out of a file, gzip or not, into one array, never more than the file can hold."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.adapter import check_claim, one_line

__all__ = ["read_voxels"]


def _open(path: Path) -> tuple[IO[bytes], bool]:
    stream = path.open("rb")
    compressed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    if not compressed:
        return stream, False
    from isal import igzip

    stream.close()
    return igzip.open(path, "rb"), True


def read_voxels(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    """Read ``shape`` values of ``dtype``, first axis fastest, from ``offset`` (after gunzip).

    Returns
    -------
    ndarray
        Fortran-ordered, in native byte order; long doubles become float64. Cost: one pass;
        memory: the voxels, once.

    Raises
    ------
    FormatError
        If the file is cut off or damaged, or cannot hold as much as ``shape`` claims (found
        out before memory is taken).
    InputError
        If the voxels do not fit into memory.
    """
    from isal import igzip_lib

    count = 1
    for n in shape:
        count *= n  # Python integers: a hostile header must not overflow
    size = count * dtype.itemsize
    try:
        stream, compressed = _open(path)
        with stream:
            check_claim(offset + size, path.stat().st_size, where, compressed=compressed)
            stream.seek(offset)
            flat = np.empty(size, dtype=np.uint8)
            view, filled = flat.data, 0
            while filled < size:
                got = stream.readinto(view[filled:])  # type: ignore[attr-defined]
                if not got:
                    break
                filled += got
            if filled == size and compressed:
                stream.read(1)  # reaching the end is what checks the checksum
    except (EOFError, igzip_lib.IsalError) as error:  # type: ignore[misc]
        raise FormatError(f"{where}: the gzip data are cut off or damaged ({one_line(error)}): get it again") from None
    except MemoryError:
        raise InputError(f"{where}: {size:,} bytes of voxels do not fit into memory") from None
    except OSError as error:
        raise FormatError(f"{where}: the voxels cannot be read ({one_line(error)}): get it again") from None
    if filled < size:
        raise FormatError(f"{where}: cut off, {filled:,} of {size:,} bytes of voxels are there: get it again")
    array = flat.view(dtype)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    if dtype.kind == "f" and dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.reshape(shape, order="F")
