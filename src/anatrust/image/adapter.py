"""The seam where a kind of input is plugged in: what an adapter is told and what it returns.

An adapter turns one kind of source (a file format, a folder, an object in memory) into a
:class:`RawImage`; the front door (:mod:`anatrust.image.read`) makes a scan, a label map or
probabilities of it. A new format is one function and one registry entry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Modality

__all__ = [
    "MAX_INFLATION",
    "Adapter",
    "FileHead",
    "RawImage",
    "Request",
    "check_claim",
    "choose_one",
    "drop_slice_axis",
    "one_line",
    "stem",
    "written_name",
]

MAX_INFLATION = 1032
"""Deflate never packs more than 1032 bytes into one, so a larger claim is false."""

_HEAD_BYTES = 540
_PACKED_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Request:
    """What the caller wants and said about the source.

    ``purpose`` is what the image is for; ``spacing`` the pixel size in mm that the caller
    gave for a format without one; ``series`` which of several images to take, counted from 1
    (or a DICOM series UID).
    """

    purpose: Literal["scan", "labels", "probabilities"]
    spacing: tuple[float, ...] | None = None
    series: int | str | None = None
    reference: Grid | None = None


@dataclass(frozen=True, eq=False)
class RawImage:
    """Voxels as stored, on their grid.

    ``array`` has the grid's shape, or ``(*grid.shape, channels)``. ``where`` names the source
    in error messages; ``names`` are label names where the format has them.
    """

    array: npt.NDArray[Any]
    grid: Grid
    where: str
    modality: Modality = "unknown"
    units: str = ""
    identifier: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileHead:
    """The first bytes of a file, by which its format is known.

    ``raw`` are the file's own bytes, ``inner`` the same after gunzip where it is gzip.
    """

    path: Path
    raw: bytes
    inner: bytes

    @classmethod
    def of(cls, path: Path) -> FileHead:
        """Peek into a file (a folder has an empty head). Cost: one small read.

        Raises
        ------
        InputError
            If it is missing or cannot be read.
        """
        if _is_folder(path):
            return cls(path, b"", b"")
        try:
            with path.open("rb") as stream:
                raw = stream.read(_PACKED_HEAD_BYTES)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist: check the path") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        inner = _gunzip_head(raw) if raw[:2] == b"\x1f\x8b" else raw[:_HEAD_BYTES]
        return cls(path, raw[:_HEAD_BYTES], inner)

    @property
    def name(self) -> str:
        """Lower-case file name."""
        return self.path.name.lower()


@dataclass(frozen=True)
class Adapter:
    """One kind of source: its name, whether a source is of that kind, and how to read it.

    ``claims`` gets a :class:`FileHead` for paths and the object itself otherwise.
    """

    name: str
    claims: Callable[[Any], bool]
    read: Callable[[Any, Request], RawImage]


def _gunzip_head(packed: bytes) -> bytes:
    """The first unpacked bytes, as far as the packed ones go; nothing where they are damaged."""
    from isal import igzip_lib, isal_zlib

    try:
        return bytes(isal_zlib.decompressobj(31).decompress(packed, _HEAD_BYTES))
    except igzip_lib.IsalError:  # type: ignore[misc]
        return b""


def one_line(error: BaseException) -> str:
    """An exception of another library as one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def stem(path: str | os.PathLike[str]) -> str:
    """File name without its suffixes, e.g. ``case7`` of ``case7.nii.gz``.

    Examples
    --------
    >>> stem("scans/case7.nii.gz"), stem("a.b.png")
    ('case7', 'a.b')
    """
    name = written_name(path)
    if name.lower().endswith(".gz"):
        name = name[:-3]
    return Path(name).stem


def written_name(path: str | os.PathLike[str]) -> str:
    r"""File name as it can be written into a report: bytes that are no UTF-8 become U+FFFD.

    Archives from other systems leave such names, which Python keeps as lone surrogates.

    Examples
    --------
    >>> print(ascii(written_name("scans/m\udcfcller.nii")))
    'm\ufffdller.nii'
    """
    return Path(path).name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def check_claim(claimed: int, available: int, where: str, *, compressed: bool) -> None:
    """Refuse a header that claims more bytes than its file can hold, before memory is taken.

    Raises
    ------
    FormatError
        If ``claimed`` bytes cannot come out of ``available`` stored ones.
    """
    if claimed > available * (MAX_INFLATION if compressed else 1) + (1024 if compressed else 0):
        raise FormatError(
            f"{where}: the header claims {claimed:,} bytes of voxels but the file has {available:,} bytes:"
            " it is damaged or cut off, get it again"
        )


def choose_one(array: npt.NDArray[Any], request: Request, where: str) -> npt.NDArray[Any]:
    """Take the frame ``request.series`` of an image; one with at most three axes has only one.

    Raises
    ------
    FormatError
        If no frame was chosen.
    InputError
        If there is no such frame.
    """
    if array.ndim <= 3:
        if request.series not in (None, 1):
            raise InputError(
                f"{where}: holds one volume, there is no {request.series!r}: leave the choice of series out"
            )
        return array
    count = array.shape[-1]
    if request.series is None:
        raise FormatError(
            f"{where}: holds {count} volumes (shape {array.shape}): choose one with series=1..{count} (--series)"
        )
    if not isinstance(request.series, int) or not 1 <= request.series <= count:
        raise InputError(f"{where}: there is no volume {request.series!r}: choose series=1..{count} (--series)")
    return array[..., request.series - 1]


def drop_slice_axis(
    array: npt.NDArray[Any], affine: npt.ArrayLike, spacing_known: bool = True
) -> tuple[npt.NDArray[Any], Grid]:
    """Put ``(x, y)``, ``(x, y, z)`` or ``(x, y, z, channels)`` on a grid; one slice makes a 2-D image.

    The rule for all formats: a volume whose third axis has one voxel is a 2-D image, and
    its grid remembers to be written back as ``(nx, ny, 1)``.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if array.ndim >= 3 and array.shape[2] == 1:
        flat = array[:, :, 0]
        return flat, Grid(flat.shape[:2], matrix, spacing_known, layout="slice")
    return array, Grid(array.shape[:3], matrix, spacing_known)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder; a path that may not be looked at is left to the reading, which says so."""
    try:
        return path.is_dir()
    except OSError:
        return False
