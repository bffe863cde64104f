"""The page of an annotation, and `annotate` with it: what `anatrust.annotate` and the command line call."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, Structure, some_of
from anatrust.pipeline import annotate as pipeline_annotate
from anatrust.report.embed import base64_size
from anatrust.report.layers import STYLES, outcome_layers
from anatrust.report.listed import Entry
from anatrust.report.page import FRAME_BYTES, render_page, write_page
from anatrust.report.rows import Cell, Column, Row, number
from anatrust.report.shown import choose_shown
from anatrust.report.viewer import viewer
from anatrust.report.windows import presets

__all__ = ["annotate", "write_annotation_report"]

P = ParamSpec("P")
R = TypeVar("R")

_TITLES = (
    Column("size", "Size", "Volume of the structure"),
    Column("confidence", "Confidence", "A ranking from 0 to 1, no probability"),
    Column("agreement", "Agreement", "Mean Dice of each reference's own say with what was decided"),
    Column("similarity", "Likeness", "How alike scan and moved references look there"),
)
_MEANING = {
    "accept": "Every structure was found, and nothing that was tested failed.",
    "review": "A person should look before this annotation is used.",
    "abstain": "No answer can be given: no reference suits this scan.",
}
_LIMITS = (
    "Where a line runs is not guaranteed: it was carried over from other people's scans.",
    "Confidences rank structures; they are no probabilities.",
    "Structures that the references do not show were not looked for.",
)
_NOT_REHEARSED = (
    "Not rehearsed: a structure that lies differently in everybody, such as a branching vessel, may be drawn badly and"
    " still seem sure. Four references or a bank and --rehearse tell what to expect of each."
)


def write_annotation_report(
    path: str | os.PathLike[str],
    annotation: Annotation,
    scan: Scan,
    *,
    run: Mapping[str, Any] | None = None,
    max_bytes: int = 12_000_000,
) -> Path:
    """Write the page that shows an annotation: one self-contained HTML file, as `write_report` does.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced in one step.
    annotation, scan
        What was found, and in which scan.
    run
        Facts of the run to list; give none that names a patient.
    max_bytes
        Largest size of the file.

    Raises
    ------
    GeometryError
        If the annotation is not on the scan's grid.
    """
    if not annotation.labels.grid.same_as(scan.grid):
        raise GeometryError("the annotation and the scan are on different grids: annotate this scan")
    entries = tuple(_entry(s, annotation.labels) for s in annotation.structures if s.found)
    masks = _masks(annotation, entries)
    rows = [_row(entry, scan) for entry in entries]
    layers = outcome_layers(masks)
    budget = max_bytes - FRAME_BYTES
    shown = choose_shown(scan, annotation.labels.array != 0, budget=int(0.8 * budget), size_of=base64_size)
    windows = presets(scan, shown)
    view = viewer(scan, shown, layers, {}, windows, entries, budget=budget)
    cards = dict.fromkeys(("sets", "screening", "greys", "doubt"))
    frame = _frame(annotation, entries, scan, run)
    return write_page(Path(path), render_page(frame, cards, _TITLES, rows, entries, scan, shown, view, windows, layers))


def _outcome(structure: Structure) -> str:
    return "sure" if structure.sure else "unsure"


def _entry(structure: Structure, labels: LabelMap) -> Entry:
    assert structure.box is not None
    cut = tuple(slice(a, b) for a, b in structure.box)
    places = np.argwhere(labels.array[cut] == structure.number) + [a for a, _ in structure.box]
    # The voxel nearest to the centre: bent organs do not hold their centroid.
    index = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
    world = tuple(float(v) for v in labels.grid.to_world(index))
    where = tuple(float(v) for v in index)
    return Entry(structure.number, _outcome(structure), where, world, structure.box, structure.to_json())


def _masks(annotation: Annotation, entries: tuple[Entry, ...]) -> dict[str, npt.NDArray[np.bool_]]:
    """Sure and unsure structures, each a voxel smaller where it meets one of a higher number: a line between them."""
    labels = annotation.labels.array
    border = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        lower = tuple(slice(0, -1) if a == axis else slice(None) for a in range(labels.ndim))
        upper = tuple(slice(1, None) if a == axis else slice(None) for a in range(labels.ndim))
        one, other = labels[lower], labels[upper]
        border[lower] |= (one != 0) & (one < other)
        border[upper] |= (other != 0) & (other < one)
    drawn = {o: np.isin(labels, [e.number for e in entries if e.outcome == o]) & ~border for o in ("sure", "unsure")}
    return {outcome: mask for outcome, mask in drawn.items() if mask.any()}


def _row(entry: Entry, scan: Scan) -> Row:
    plain = entry.plain
    volume = plain["voxels"] * scan.grid.voxel_volume
    if not scan.grid.spacing_known:
        size = f"{plain['voxels']:,} px"
    elif scan.grid.ndim == 2:
        size = f"{number(volume)} mm²" if volume < 1000 else f"{number(volume / 100)} cm²"
    else:
        size = f"{number(volume)} mm³" if volume < 100 else f"{number(volume / 1000)} mL"
    figures = {name: plain[name] for name in ("confidence", "agreement", "similarity")}
    cells = (Cell(size, volume), *(Cell("–" if v is None else f"{v:.2f}", v) for v in figures.values()))
    sort = {"number": float(entry.number), "size": volume, **figures}
    told = [] if plain["expected"] is None else [f"Dice to expect {plain['expected']:.2f}"]
    if plain["appearance"] is not None:
        told.append(f"grey values overlap by {100 * plain['appearance']:.0f} %")
    details = ", ".join(told)
    return Row(entry.number, entry.outcome, plain["name"], cells, "", details, sort)


def _frame(
    annotation: Annotation, entries: tuple[Entry, ...], scan: Scan, run: Mapping[str, Any] | None
) -> dict[str, Any]:
    lost: dict[str, list[str]] = {}
    for s in annotation.structures:
        if not s.found:
            lost.setdefault(s.reason, []).append(s.name)
    holding = sum(r.holds for r in annotation.relations)
    # What was remarked, and why there is no answer, stands at the top of the page already.
    notes = [] if annotation.abstained else [f"Not found: {some_of(names)}: {why}." for why, names in lost.items()]
    if annotation.relations:
        notes.append(f"{holding} of {len(annotation.relations)} relations that all references show hold here.")
    if entries and all(e.plain["expected"] is None for e in entries):
        notes.append(_NOT_REHEARSED)
    outcomes = [e.outcome for e in entries]
    spacing = f"{' × '.join(f'{s:.4g}' for s in scan.grid.spacing)} mm, stored {scan.grid.orientation}"
    facts = [
        ("Scan", f"{scan.identifier or 'unnamed'}, {' × '.join(str(n) for n in scan.grid.shape)} voxels"),
        ("Spacing", spacing if scan.grid.spacing_known else "unknown: the file states no physical size"),
        ("Modality", scan.modality),
        ("Reasoner", annotation.reasoner),
        ("References", ", ".join(f"{name} ({weight:.0%})" for name, weight in annotation.references) or "none"),
        *((str(key), str(value)) for key, value in (run or {}).items()),
    ]
    return {
        "decision": annotation.decision,
        "meaning": _MEANING[annotation.decision],
        "reasons": [text[:1].upper() + text[1:] for text in annotation.reasons],
        "counts": [(o, outcomes.count(o)) for o in STYLES if o in ("sure", "unsure")] if entries else [],
        "findings": None,
        "promises": [],
        "limits": list(_LIMITS),
        "notes": notes,
        "nulls": [],
        "facts": [("Scan and answer", facts)],
        "name": scan.identifier or "scan",
        "modality": "" if scan.modality == "unknown" else scan.modality,
        "noun": "structure",
        "heading": "Found",
        "legend": "An unbroken line means sure, dashes unsure.",
        "first": "unsure",
        "file": "annotation.json",
    }


def _with_page(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, writing the page of this room where none other is given."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        kwargs.setdefault("page", write_annotation_report)
        return function(*args, **kwargs)

    return call


# The rooms below do not know this one, so the page comes in as an argument.
annotate = _with_page(pipeline_annotate.annotate)
