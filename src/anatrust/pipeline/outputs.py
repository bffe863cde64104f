"""What a run leaves in its folder, moved there file by file when all is done."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anatrust._version import __version__
from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.pipeline.verdict import Verdict
from anatrust.rejection.candidate import Candidate

__all__ = ["check_output_folder", "output_folder", "replace_json", "run_record", "write_candidates", "write_structures"]

RUN_SCHEMA_VERSION = 1
_PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "nibabel",
    "SimpleITK",
    "pydicom",
    "isal",
    "Pillow",
    "connected-components-3d",
)
# Written last: where it stands, the run was finished.
_LAST = "run.json"


def check_output_folder(path: str | Path) -> None:
    """See at the start of a long run whether its results will find a place; makes nothing.

    Raises
    ------
    InputError
        If ``path`` is a file, lies below one, or cannot be written to.
    """
    target = Path(path).absolute()
    if target.exists() and not target.is_dir():
        raise InputError(f"the output folder {path} is a file: give a folder")
    there = next((p for p in (target, *target.parents) if p.exists()), target)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write into {there}: give another output folder")


@contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder beside ``path`` whose files move to ``path`` when the block ends well.

    Each file is moved in one step and ``run.json`` last. What an earlier run left there and this
    one did not write (an inner set, say) goes: a folder holds the files of one run. After an
    exception or Ctrl-C the temporary folder is removed and ``path`` is as it was.

    Raises
    ------
    InputError
        If ``path`` is a file, or cannot be made or written to.
    """
    check_output_folder(path)
    target = Path(path)
    made = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".part-", dir=target))
    except OSError as error:
        raise InputError(f"cannot write into {target}: {error.strerror or error}") from None
    finished = False
    try:
        yield work
        written = {file.name for file in work.iterdir()}
        for name in _of_earlier_run(target) - written:
            (target / name).unlink(missing_ok=True)
        for file in sorted(work.iterdir(), key=lambda f: (f.name == _LAST, f.name)):
            file.replace(target / file.name)
        finished = True
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if made and not finished and not any(target.iterdir()):
            target.rmdir()


def _of_earlier_run(folder: Path) -> set[str]:
    """Files that the ``run.json`` of a folder says that run wrote."""
    try:
        outputs = json.loads((folder / _LAST).read_text(encoding="utf-8"))["outputs"]
        return {name for name in outputs if Path(name).name == name and (folder / name).is_file()}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def replace_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON that never holds NaN, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def write_candidates(path: Path, verdict: Verdict) -> None:
    """Write one row for each candidate; coordinates and box edges in columns of their own."""
    ndim = len(verdict.scan.shape)
    names = [field.name for field in fields(Candidate)]
    columns: list[str] = []
    for name in names:
        if name == "centroid_index":
            columns += [f"centroid_{axis}" for axis in "ijk"[:ndim]]
        elif name == "centroid_world":
            columns += [f"centroid_{axis}_mm" for axis in "xyz"]
        elif name == "bounding_box":
            columns += [f"box_{axis}_{end}" for axis in "ijk"[:ndim] for end in ("start", "stop")]
        else:
            columns.append(name)
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        for candidate in verdict.candidates:
            cells: list[Any] = []
            for name in names:
                value = getattr(candidate, name)
                if name == "bounding_box":
                    cells += [edge for pair in value for edge in pair]
                elif name in ("centroid_index", "centroid_world"):
                    cells += list(value)
                else:
                    cells.append("" if value is None else value)
            writer.writerow(cells)


def write_structures(path: Path, verdict: Verdict) -> None:
    """Write one row for each checked structure."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        rows = [{**s.to_json(), "failed": "; ".join(s.failed)} for s in verdict.structures]
        writer = csv.DictWriter(handle, list(rows[0]) if rows else ["label"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def run_record(
    *,
    command: str,
    configuration: Mapping[str, Any],
    inputs: Mapping[str, Mapping[str, str]],
    seed: int,
    timings: Mapping[str, float],
    outputs: Iterable[Path],
) -> dict[str, Any]:
    """What made this result: versions, resolved configuration, hashes, seed and timings.

    The SHA-256 of all files in ``outputs`` are recorded. Only file names are kept of paths, for
    folders may be named after patients.
    """
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "command": command,
        "anatrust": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "byte_order": sys.byteorder,
        "packages": _versions(),
        "configuration": dict(configuration),
        "inputs": {role: dict(about) for role, about in inputs.items()},
        "seed": seed,
        "timings": {stage: round(seconds, 3) for stage, seconds in timings.items()},
        "outputs": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(outputs)},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
