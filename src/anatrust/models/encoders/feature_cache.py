"""Patch features kept on disk: one file a scan, found by content, with a header that says what made it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.image.volumes import Scan
from anatrust.models.encoders.patch_features import PatchEncoder, PatchFeatures

__all__ = ["CachedEncoder"]

_SCHEMA = "1"


def _scan_hash(scan: Scan) -> str:
    """SHA-256 of voxels, unit and geometry: all that an encoder sees."""
    digest = hashlib.sha256(f"{scan.array.dtype.str} {scan.array.shape} {scan.units}".encode())
    digest.update(np.ascontiguousarray(scan.array).tobytes())
    digest.update(np.ascontiguousarray(scan.grid.affine).tobytes())
    return digest.hexdigest()


class CachedEncoder:
    """An encoder whose features of a scan are computed once.

    A file is named by the hash of the encoder's identity and of the scan's content, never by a
    patient, is written whole or not at all, and says in its header what made it. A file that is
    damaged or says something else is made again.

    Parameters
    ----------
    encoder
        Asked for what is not there yet.
    folder
        Made if it is missing.

    Raises
    ------
    InputError
        If the folder cannot be made.
    """

    def __init__(self, encoder: PatchEncoder, folder: str | Path) -> None:
        self.encoder, self.folder = encoder, Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot keep features in {folder}: {error.strerror or error}") from None

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.name

    @property
    def identity(self) -> str:
        """The encoder's: features do not depend on where they are kept."""
        return self.encoder.identity

    def file_of(self, scan: Scan) -> Path:
        """Where the features of a scan are kept."""
        return self.folder / f"features-{hashlib.sha256(self._header(scan)['key'].encode()).hexdigest()}.safetensors"

    def encode_patches(self, scan: Scan) -> PatchFeatures:
        """Features of the scan's cells, from the folder where they are."""
        file, header = self.file_of(scan), self._header(scan)
        kept = _read(file, header)
        if kept is not None:
            return kept
        features = self.encoder.encode_patches(scan)
        _write(file, header, features)
        return features

    def encode(self, scan: Scan) -> npt.NDArray[np.float32]:
        """Features of every voxel, ``(*scan.grid.shape, d)``."""
        return self.encode_patches(scan).lifted()

    def _header(self, scan: Scan) -> dict[str, str]:
        content = _scan_hash(scan)
        return {
            "schema": _SCHEMA,
            "encoder": self.encoder.identity,
            "scan": content,
            "anatrust": __version__,
            "key": f"{_SCHEMA} {__version__} {self.encoder.identity} {content}",
        }


def _read(file: Path, header: dict[str, str]) -> PatchFeatures | None:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="numpy") as kept:
            if kept.metadata() != header:
                return None
            values = kept.get_tensor("values")
            owners = tuple(kept.get_tensor(f"owner_{axis}") for axis in range(values.ndim - 1))
        return PatchFeatures(values, owners)
    except (SafetensorError, OSError, ValueError, KeyError):
        return None  # only ever written whole; a damaged one is made again


def _write(file: Path, header: dict[str, str], features: PatchFeatures) -> None:
    from safetensors.numpy import save_file

    arrays = {"values": np.ascontiguousarray(features.values)}
    arrays |= {f"owner_{axis}": np.ascontiguousarray(owner) for axis, owner in enumerate(features.owners)}
    with replacing(file) as part:
        save_file(arrays, str(part), metadata=header)
