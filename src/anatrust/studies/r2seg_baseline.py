"""Study `r2seg-baseline`: how much segmenters propose on their own, in the full frame and in the organ's region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.r2seg_ablation import AXIS_JUDGES, JUDGES_OF_ABLATION
from anatrust.studies.r2seg_cells import NEEDS, evaluate
from anatrust.studies.r2seg_numbers import row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["STUDY"]

# Population, segmenter, proposal, tested patients (None: all), and the judges of the ablation that share the cell.
_CELLS: tuple[tuple[str, str, str, int | None, tuple[str, ...]], ...] = (
    ("phantom", "pixels", "regions", None, JUDGES_OF_ABLATION),
    ("phantom", "pixels", "full frame", 40, ("segmenter alone",)),
    ("phantom", "pixels, several scales", "regions", None, JUDGES_OF_ABLATION),
    ("phantom", "pixels, several scales", "full frame", 40, ("segmenter alone",)),
    ("phantom", "threshold", "regions", 40, ("segmenter alone",)),
    ("phantom", "threshold", "full frame", 40, ("segmenter alone",)),
    ("hippocampus", "pixels", "regions", None, JUDGES_OF_ABLATION),
    ("hippocampus", "pixels", "full frame", None, JUDGES_OF_ABLATION),
    ("hippocampus", "unet", "regions", None, JUDGES_OF_ABLATION),
    ("hippocampus", "unet", "full frame", None, AXIS_JUDGES),
    ("cardiac", "pixels", "regions", None, JUDGES_OF_ABLATION),
    ("cardiac", "pixels", "full frame", None, ("segmenter alone",)),
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
    wanted = [c for c in _CELLS if c[0] == "hippocampus" and c[1] == "pixels"] if context.quick else _CELLS
    return [
        Cell(
            f"{world}/{name}/{variant}",
            {"world": world, "segmenter": name, "variant": variant, "limit": limit, "judges": list(judges)},
            files=source_files(world, context),
            needs=NEEDS,
        )
        for world, name, variant, limit, judges in wanted
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    judges = ("segmenter alone",) if context.quick else tuple(p["judges"])
    found = evaluate(p["world"], p["segmenter"], p["variant"], judges, context, limit=p["limit"])
    return {"segmenter alone": found["judges"]["segmenter alone"]}


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
