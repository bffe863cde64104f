"""Where a study's numbers come from: the commit, the real images and their hashes, the versions."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from anatrust.errors import InputError

__all__ = ["commit", "data_folder", "file_hash", "fingerprint", "source_hash", "versions"]

_PACKAGES = ("numpy", "scipy", "scikit-learn", "numba")


def data_folder(data: str | Path | None = None) -> Path | None:
    """Folder of the real images, or None where there is none.

    ``data`` where given, else the environment variable ``ANATRUST_TEST_DATA``, else
    ``../shared/data`` beside the checkout.

    Raises
    ------
    InputError
        If ``data`` is given and is no folder.
    """
    if data is not None:
        folder = Path(data)
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give the folder that holds amos_ct, hippocampus_mr, …")
        return folder
    places = [os.environ.get("ANATRUST_TEST_DATA"), Path(__file__).parents[4] / "shared" / "data"]
    return next((Path(p) for p in places if p and Path(p).is_dir()), None)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def commit() -> str | None:
    """The commit of the checkout that is running, with ``+changes`` where files differ; None without git."""
    root = Path(__file__).parents[3]
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "src"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if dirty else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    found.update({name: importlib.metadata.version(name) for name in _PACKAGES})
    return found


def source_hash(modules: Iterable[str]) -> str:
    """SHA-256 over the code of modules; for a package, over all its files.

    Comments, docstrings, layout and type hints of functions do not count: they change no number.

    Raises
    ------
    InputError
        If a module does not exist.
    """
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise InputError(f"the study names a module that does not exist: {name}")
        origin = Path(spec.origin)
        files = sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
        for file in files:
            digest.update(name.encode() + file.name.encode() + _code(file, file.stat().st_mtime_ns))
    return digest.hexdigest()


@cache
def _code(file: Path, changed: int) -> bytes:  # noqa: ARG001 - part of the cache's key
    """Hash of a module's syntax tree without docstrings and type hints."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).digest()


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short name for a set of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]
