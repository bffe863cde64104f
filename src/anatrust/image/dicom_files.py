"""Which files of a folder or zip are DICOM, without trusting their names or sizes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from anatrust.errors import FormatError, InputError
from anatrust.image.adapter import MAX_INFLATION, one_line

__all__ = ["dicom_files"]

_MOST_FILES = 100_000
_MOST_BYTES = 16 * 2**30
_PREAMBLE = 132


@contextlib.contextmanager
def dicom_files(path: Path) -> Iterator[list[Path]]:
    """Give the DICOM files of a file, a folder (with its subfolders) or a zip, sorted by name.

    Members of a zip are unpacked into a temporary folder under names made here, so that no
    name in the archive can lead anywhere, and removed afterwards.

    Raises
    ------
    InputError
        If a folder or zip cannot be read, is damaged, encrypted, or unpacks to more than
        16 GiB or 100 000 files.
    """
    if path.is_dir():
        yield [found for found in _walk(path) if _is_dicom(found)]
    elif zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory(prefix="anatrust-") as folder:
            yield _unpack(path, Path(folder))
    else:
        yield [path]


def _walk(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}")

    found: list[Path] = []
    for place, _, names in os.walk(folder, onerror=refuse, followlinks=False):
        found.extend(Path(place) / name for name in names)
        if len(found) > _MOST_FILES:
            raise InputError(f"{folder}: more than {_MOST_FILES:,} files: give the folder of one series")
    return sorted(found)


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE)[128:] == b"DICM"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _unpack(path: Path, folder: Path) -> list[Path]:
    found: list[Path] = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda m: m.filename)
            total = sum(m.file_size for m in members)
            if len(members) > _MOST_FILES or total > _MOST_BYTES:
                raise InputError(f"{path}: unpacks to {total:,} bytes in {len(members):,} files: give one series alone")
            if total > path.stat().st_size * MAX_INFLATION:
                raise FormatError(f"{path}: claims to unpack to {total:,} bytes, which it cannot hold: get it again")
            for member in members:
                with archive.open(member) as stream:
                    start = stream.read(_PREAMBLE)
                    if start[128:] != b"DICM":
                        continue
                    target = folder / f"{len(found):06d}.dcm"
                    with target.open("wb") as out:  # zipfile ends at the size it states, checked above
                        out.write(start)
                        shutil.copyfileobj(stream, out)
                found.append(target)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        reason = "it is encrypted" if "password" in str(error) else one_line(error)
        raise FormatError(f"{path}: the zip cannot be unpacked ({reason}): unpack it and give the folder") from None
    return found
