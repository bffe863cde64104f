"""Study `r2seg-baseline`: how much segmenters propose on their own, in the full frame and in the organ's region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.r2seg_cells import NEEDS, evaluate
from anatrust.studies.r2seg_numbers import row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["STUDY"]

_PAIRS = (
    ("phantom", "pixels"),
    ("phantom", "unet"),
    ("phantom", "threshold"),
    ("hippocampus", "pixels"),
    ("hippocampus", "unet"),
    ("cardiac", "pixels"),
)
_SHOWN = (
    "scan sensitivity",
    "lesions",
    "specificity",
    "slice sensitivity",
    "slice specificity",
    "area",
    "dice",
    "accuracy",
    "class average",
    "f1 small",
)


def _cells(context: Context) -> list[Cell]:
    pairs = (("hippocampus", "pixels"),) if context.quick else _PAIRS
    return [
        Cell(
            f"{world}/{name}/{variant}",
            {"world": world, "segmenter": name, "variant": variant},
            files=source_files(world, context),
            needs=NEEDS,
        )
        for world, name in pairs
        for variant in ("full frame", "regions")
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    limit = 60 if p["world"] == "phantom" else None
    return dict(
        evaluate(p["world"], p["segmenter"], p["variant"], ("segmenter alone",), context, limit=limit)["judges"]
    )


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    targets = []
    for key, found in results.items():
        numbers = found["segmenter alone"]
        if key.endswith("full frame"):
            seen, empty = numbers["scan sensitivity"], numbers["specificity"]
            targets.append(
                {
                    "what": key,
                    "sensitivity": None if seen is None else seen["value"],
                    "specificity": None if empty is None else empty["value"],
                }
            )
    return {"targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, found in result["cells"].items():
        world, name, variant = key.split("/")
        numbers = found["segmenter alone"]
        rows.append([f"{world}, {name}, {variant}", numbers["patients"], *row(numbers, _SHOWN)])
    header = ["segmenter alone", "patients", *_SHOWN]
    return {"baseline": markdown_table(header, rows)}


STUDY = Study(
    name="r2seg-baseline",
    question="How often do segmenters draw something in patients without lesions?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
