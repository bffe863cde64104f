"""Hashes that say exactly which weights answered."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["file_digest", "folder_digest"]


def file_digest(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def folder_digest(folder: Path, pattern: str = "*") -> str:
    """The same of all files of a folder that fit a pattern, by name."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.glob(pattern) if p.is_file()):
        digest.update(path.name.encode())
        digest.update(file_digest(path).encode())
    return digest.hexdigest()[:16]
