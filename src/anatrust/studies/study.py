"""The study framework: cells that are cached one by one, and one JSON that holds every number."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from anatrust.errors import InputError
from anatrust.studies import provenance

__all__ = ["Cell", "Context", "Study", "read_result", "run_study", "study_names"]

SCHEMA_VERSION = 1

_STUDIES = {
    "null-validity": "anatrust.studies.null_validity",
    "organ-anchors": "anatrust.studies.organ_anchors",
    "planted-lesions": "anatrust.studies.planted_lesions",
    "r2seg-abdomen": "anatrust.studies.r2seg_abdomen",
    "r2seg-ablation": "anatrust.studies.r2seg_ablation",
    "r2seg-anchors": "anatrust.studies.r2seg_anchors",
    "r2seg-baseline": "anatrust.studies.r2seg_baseline",
    "r2seg-contamination": "anatrust.studies.r2seg_contamination",
    "r2seg-left-out": "anatrust.studies.r2seg_left_out",
    "r2seg-level": "anatrust.studies.r2seg_level",
    "r2seg-many-contrasts": "anatrust.studies.r2seg_many_contrasts",
    "r2seg-planner": "anatrust.studies.r2seg_planner",
    "r2seg-questions": "anatrust.studies.r2seg_questions",
    "r2seg-roc": "anatrust.studies.r2seg_roc",
    "r2seg-scores": "anatrust.studies.r2seg_scores",
    "r2seg-separability": "anatrust.studies.r2seg_separability",
    "r2seg-steps": "anatrust.studies.r2seg_steps",
    "r2seg-transfer": "anatrust.studies.r2seg_transfer",
    "rau-anchors": "anatrust.studies.rau_anchors",
    "rau-bank": "anatrust.studies.rau_bank",
    "rau-lessons": "anatrust.studies.rau_lessons",
    "rau-nano": "anatrust.studies.rau_nano",
    "rau-nano-finite": "anatrust.studies.rau_nano_finite",
    "rau-nano-masks": "anatrust.studies.rau_nano_masks",
    "rau-nano-places": "anatrust.studies.rau_nano_places",
    "rau-priors": "anatrust.studies.rau_priors",
    "rau-references": "anatrust.studies.rau_references",
    "rau-registration": "anatrust.studies.rau_registration",
    "rau-tubes": "anatrust.studies.rau_tubes",
    "rau-volume": "anatrust.studies.rau_volume",
    "rau-warp": "anatrust.studies.rau_warp",
    "real-tumours": "anatrust.studies.real_tumours",
    "rfdeep-ablation": "anatrust.studies.rfdeep_ablation",
    "rfdeep-blind": "anatrust.studies.rfdeep_blind",
    "rfdeep-default": "anatrust.studies.rfdeep_default",
    "rfdeep-failure": "anatrust.studies.rfdeep_failure",
    "rfdeep-fair": "anatrust.studies.rfdeep_fair",
    "rfdeep-holdout": "anatrust.studies.rfdeep_holdout",
    "rfdeep-lodo": "anatrust.studies.rfdeep_lodo",
    "rfdeep-main": "anatrust.studies.rfdeep_main",
    "rfdeep-panels": "anatrust.studies.rfdeep_panels",
    "rfdeep-scores": "anatrust.studies.rfdeep_scores",
    "rwcp-bounds": "anatrust.studies.rwcp_bounds",
    "rwcp-conditional": "anatrust.studies.rwcp_conditional",
    "rwcp-coverage": "anatrust.studies.rwcp_coverage",
    "rwcp-encoders": "anatrust.studies.rwcp_encoders",
    "rwcp-maps": "anatrust.studies.rwcp_maps",
    "rwcp-quality": "anatrust.studies.rwcp_quality",
    "rwcp-shift": "anatrust.studies.rwcp_shift",
    "rwcp-stability": "anatrust.studies.rwcp_stability",
    "rwcp-sweep": "anatrust.studies.rwcp_sweep",
}

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Context:
    """What a cell may use: the seed, whether it must be quick, and where the real images are."""

    seed: int
    quick: bool
    data: Path | None

    def path(self, *parts: str) -> Path:
        """A file or folder of the real images.

        Raises
        ------
        InputError
            If the real images are not there.
        """
        if self.data is None:
            raise InputError("the real images are missing: put them at ../shared/data or set ANATRUST_TEST_DATA")
        return self.data.joinpath(*parts)


@dataclass(frozen=True)
class Cell:
    """One independent piece of a study, cached on disk when finished.

    Parameters
    ----------
    key
        Unique within the study, e.g. ``"random/amos/liver/4px"``.
    parameters
        JSON values handed to the study's ``run``.
    files
        Real images it reads, relative to the data folder; their hashes enter the result.
    needs
        Modules whose source decides the numbers: a change there makes the cell run again.
    """

    key: str
    parameters: Mapping[str, Any]
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A named experiment.

    ``cells(context)`` lists the pieces, ``run(cell, context)`` computes one piece (JSON
    values), ``summarise(results, context)`` turns all pieces into the numbers that are
    quoted, among them ``"targets"``: what was required, what was observed. Where ``columns``
    are named, the ``"rows"`` of all cells are written under them to ``NAME.csv`` beside the
    result, which keeps their number only.
    """

    name: str
    question: str
    cells: Callable[[Context], Sequence[Cell]]
    run: Callable[[Cell, Context], Mapping[str, Any]]
    summarise: Callable[[Mapping[str, Mapping[str, Any]], Context], Mapping[str, Any]]
    tables: Callable[[Mapping[str, Any]], Mapping[str, str]] = field(default=lambda _: {})
    figures: Callable[[Mapping[str, Any]], Mapping[str, Any]] = field(default=lambda _: {})
    columns: tuple[str, ...] = ()


def study_names() -> tuple[str, ...]:
    """Names that `run_study` knows."""
    return tuple(sorted(_STUDIES))


def load_study(name: str) -> Study:
    """The study of this name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in _STUDIES:
        raise InputError(f"there is no study '{name}': choose one of {', '.join(study_names())}")
    study: Study = importlib.import_module(_STUDIES[name]).STUDY
    return study


def run_study(
    name: str | Study,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a study, or finish one that was interrupted, and write its result.

    Parameters
    ----------
    name
        One of :func:`study_names`, or a `Study`.
    quick
        A small form (≤ 60 s) that shows that the study runs; its numbers decide nothing.
    out
        Folder for ``NAME.json``. Default ``studies/results`` for a full study and
        ``build/studies`` for a quick one, below the working directory.
    seed
        Seed of everything random.
    data
        Folder of the real images; see :func:`anatrust.studies.provenance.data_folder`.
    cache
        Folder for finished cells. Default ``build/studies/cells``. A cell is reused only if
        its parameters, seed, images and the source of the modules it names are the same.
    progress
        Called with (cells done, cells in all, key) before each cell and once at the end.

    Returns
    -------
    dict
        What was written: schema, study, question, command, commit, seed, quick, versions,
        data (file → SHA-256), duration in seconds, ``not_run`` (cells left out and why),
        cells and summary.

    Raises
    ------
    InputError
        If the study is unknown, or a full study lacks its images.
    """
    study = load_study(name) if isinstance(name, str) else name
    context = Context(seed=seed, quick=quick, data=provenance.data_folder(data))
    default = Path("build/studies") if quick else Path("studies/results")
    folder = Path(out) if out is not None else default
    cells_folder = (Path(cache) if cache is not None else Path("build/studies/cells")) / study.name
    cells = list(study.cells(context))
    _check_keys(cells)
    hashes = _hashes(cells, context)
    left_out = {c.key: "its images are missing" for c in cells if any(f not in hashes for f in c.files)}
    if left_out and not quick:
        missing = sorted({f for c in cells for f in c.files if f not in hashes})
        raise InputError(f"the full study needs {missing[0]} (and {len(missing) - 1} more): set ANATRUST_TEST_DATA")
    todo = [c for c in cells if c.key not in left_out]
    results: dict[str, Any] = {}
    spent = 0.0
    # Thousands of small matrices: threads of the linear algebra wait for each other (0.2 s become 28 s).
    with threadpool_limits(limits=1):
        for number, cell in enumerate(todo):
            if progress is not None:
                progress(number, len(todo), cell.key)
            results[cell.key], seconds = _run_cell(study, cell, context, hashes, cells_folder)
            spent += seconds
    if progress is not None:
        progress(len(todo), len(todo), "summary")
    result: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "study": study.name,
        "question": study.question,
        "command": f"anatrust study {study.name}{' --quick' if quick else ''} --seed {seed}",
        "commit": provenance.commit(),
        "seed": seed,
        "quick": quick,
        "versions": provenance.versions(),
        "data": dict(sorted(hashes.items())),
        "duration": round(spent, 1),
        "not_run": left_out,
        "cells": results,
        "summary": dict(study.summarise(results, context)),
    }
    if study.columns:
        _write(folder / f"{study.name}.csv", _table(study.columns, results))
        result["cells"] = {k: {**v, "rows": len(v["rows"])} if "rows" in v else v for k, v in results.items()}
    # Through JSON and back: what is returned is exactly what is on disk.
    text = _rows(json.loads(json.dumps(result, sort_keys=True, allow_nan=False))) + "\n"
    _write(folder / f"{study.name}.json", text)
    returned: dict[str, Any] = json.loads(text)
    return returned


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a study's JSON and check that it is one.

    Raises
    ------
    InputError
        If the file is no study result of a known schema version.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a study result: {error}") from None
    wanted = {"schema", "study", "command", "commit", "seed", "quick", "data", "duration", "cells", "summary"}
    if not isinstance(result, dict) or not wanted <= set(result) or result["schema"] != SCHEMA_VERSION:
        raise InputError(f"{path} is no study result of schema {SCHEMA_VERSION}: run the study again")
    return result


def _check_keys(cells: Iterable[Cell]) -> None:
    seen: set[str] = set()
    for cell in cells:
        if cell.key in seen:
            raise InputError(f"two cells of the study are called '{cell.key}': keys must be unique")
        seen.add(cell.key)


def _hashes(cells: Iterable[Cell], context: Context) -> dict[str, str]:
    names = sorted({f for c in cells for f in c.files})
    if context.data is None:
        return {}
    return {n: provenance.file_hash(context.data / n) for n in names if (context.data / n).is_file()}


def _run_cell(
    study: Study, cell: Cell, context: Context, hashes: Mapping[str, str], folder: Path
) -> tuple[dict[str, Any], float]:
    """One cell's numbers and the seconds they took, from the cache where nothing has changed."""
    identity = {
        "study": study.name,
        "key": cell.key,
        "parameters": dict(cell.parameters),
        "seed": context.seed,
        "quick": context.quick,
        "files": {f: hashes[f] for f in cell.files},
        "source": provenance.source_hash(cell.needs),
    }
    name = provenance.fingerprint(identity)
    path = folder / f"{name}.json"
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["numbers"], float(stored["seconds"])
    start = time.perf_counter()
    numbers = json.loads(json.dumps(dict(study.run(cell, context)), allow_nan=False))
    seconds = time.perf_counter() - start
    _write(path, json.dumps({"identity": identity, "numbers": numbers, "seconds": seconds}) + "\n")
    return numbers, seconds


def _table(columns: Sequence[str], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of all cells as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for numbers in results.values():
        writer.writerows(numbers.get("rows", []))
    return buffer.getvalue()


def _rows(value: Any, depth: int = 0) -> str:
    """Indented JSON in which an object that holds no other stays on one line: a row of numbers is a row.

    Examples
    --------
    >>> print(_rows({"a": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}))
    {
     "a": [
      {"x": 1, "y": 2},
      {"x": 3, "y": 4}
     ]
    }
    """
    nested = any(isinstance(v, dict | list) for v in (value.values() if isinstance(value, dict) else ()))
    if not value or not (nested or isinstance(value, list)):
        return json.dumps(value)
    if isinstance(value, dict):
        lines, (left, right) = [f"{json.dumps(k)}: {_rows(v, depth + 1)}" for k, v in value.items()], "{}"
    else:
        lines, (left, right) = [_rows(v, depth + 1) for v in value], "[]"
    pad = "\n" + " " * (depth + 1)
    return f"{left}{pad}{(',' + pad).join(lines)}{pad[:-1]}{right}"


def _write(path: Path, text: str) -> None:
    """Write at once or not at all, so that an interrupted run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
