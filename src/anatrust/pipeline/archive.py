"""One zip of a JSON document and named arrays: reproducible, checked, bounded, without pickle."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.atomic import replacing

__all__ = ["read_archive", "write_archive"]

Arrays = Mapping[str, npt.NDArray[Any]]

# Far above any honest profile, far below what would hurt a small machine.
_MOST_BYTES = 512 * 2**20
_MOST_MEMBERS = 64
_MOST_ARRAYS = 1024
_DTYPES = frozenset({"<f8", "<f4", "<i8", "<i4", "|b1", "|u1"})
# A fixed date: the same content gives the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def write_archive(
    path: str | Path, document_name: str, document: Mapping[str, Any], arrays: Mapping[str, Arrays]
) -> None:
    """Write ``document`` and groups of arrays as one zip, whole or not at all.

    Parameters
    ----------
    path
        The file; replaced in one step.
    document_name
        Member that holds the JSON document, e.g. ``"profile.json"``.
    document
        JSON values. The keys ``checksum`` and ``arrays`` are added.
    arrays
        Groups ``{"rejection": {"scores": array}}``; each becomes one ``.npz`` member.
    """
    packed = {f"{group}.npz": _pack(members) for group, members in arrays.items()}
    full = dict(document)
    full["arrays"] = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(packed.items())}
    full["checksum"] = _checksum(full)
    text = json.dumps(full, indent=2, sort_keys=True, allow_nan=False).encode()
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [(document_name, text), *sorted(packed.items())]:
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)


def read_archive(
    path: str | Path,
    document_name: str,
    *,
    limit: int = _MOST_BYTES,
    wanted: str = "a profile written by 'anatrust fit'",
) -> tuple[dict[str, Any], dict[str, dict[str, npt.NDArray[Any]]]]:
    """Read what :func:`write_archive` wrote, checking every byte before using it.

    Never more than ``limit`` bytes (512 MB) are unpacked, no name becomes a file, no pickle is read.
    ``wanted`` says in messages what was meant.

    Raises
    ------
    InputError
        If there is no such file.
    FormatError
        If it is no such archive, is truncated or tampered with, or would unpack to too much.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}: give {wanted}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path.name, limit, _MOST_MEMBERS)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        noun = document_name.partition(".")[0]
        raise FormatError(f"{path.name} is no {noun} or is damaged ({error}): give {wanted}") from None
    if document_name not in members:
        raise FormatError(f"{path.name} is a zip without {document_name}: give {wanted}")
    try:
        document = json.loads(members.pop(document_name).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{path.name}: {document_name} is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise FormatError(f"{path.name}: {document_name} is not a JSON object")
    checksum = document.pop("checksum", None)
    if checksum != _checksum(document):
        raise FormatError(f"{path.name}: the checksum of {document_name} is wrong, it was changed; fit it again")
    expected = document.pop("arrays", {})
    if not isinstance(expected, dict) or sorted(expected) != sorted(members):
        raise FormatError(f"{path.name}: arrays are missing or were added; fit it again")
    arrays = {}
    for name, data in members.items():
        if hashlib.sha256(data).hexdigest() != expected[name]:
            raise FormatError(f"{path.name}: the checksum of {name} is wrong, it was changed; fit it again")
        arrays[name.removesuffix(".npz")] = _unpack(data, f"{path.name}/{name}")
    return document, arrays


def _checksum(document: Mapping[str, Any]) -> str:
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def _members(archive: zipfile.ZipFile, name: str, limit: int, most: int) -> dict[str, bytes]:
    """All members, bounded by what is really unpacked and not by what the headers promise."""
    infos = archive.infolist()
    if len(infos) > most:
        raise FormatError(f"{name} holds more than {most} parts: this is no profile")
    if sum(info.file_size for info in infos) > limit:
        raise FormatError(f"{name} would unpack to more than {limit >> 20} MB: this is no profile")
    found: dict[str, bytes] = {}
    left = limit
    for info in infos:
        with archive.open(info) as handle:
            data = handle.read(left + 1)
        left -= len(data)
        if left < 0:
            raise FormatError(f"{name} would unpack to more than {limit >> 20} MB: this is no profile")
        if info.filename in found:
            raise FormatError(f"{name}: {info.filename} stands twice in it; fit it again")
        found[info.filename] = data
    return found


def _pack(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            little = np.ascontiguousarray(array).astype(np.asarray(array).dtype.newbyteorder("<"))
            if little.dtype.str not in _DTYPES:
                raise InputError(f"the array {name} has dtype {little.dtype}, which a profile cannot hold")
            np.lib.format.write_array(member, little, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), member.getvalue())
    return buffer.getvalue()


def _unpack(data: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, where, len(data), _MOST_ARRAYS)
    except zipfile.BadZipFile as error:
        raise FormatError(f"{where} is damaged ({error})") from None
    return {name.removesuffix(".npy"): _array(member, f"{where}/{name}") for name, member in members.items()}


def _array(data: bytes, where: str) -> npt.NDArray[Any]:
    """One ``.npy`` member; the header is believed only if it accounts for exactly the bytes there are."""
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise FormatError(f"{where}: not an array of version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise FormatError(f"{where}: not an array ({str(error).splitlines()[0]})") from None
    body = data[stream.tell() :]
    if dtype.str not in _DTYPES or fortran or math.prod(shape) * dtype.itemsize != len(body):
        raise FormatError(f"{where}: {dtype} of shape {shape} does not fit its {len(body)} bytes")
    array = np.frombuffer(body, dtype=dtype).reshape(shape)
    array.setflags(write=False)
    return array
