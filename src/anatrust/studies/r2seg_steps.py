"""Study `r2seg-steps`: which step loses lesions, and what a better-taught segmenter changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.r2seg_ablation import JUDGES_OF_ABLATION
from anatrust.studies.r2seg_cells import NEEDS, evaluate
from anatrust.studies.r2seg_numbers import SIZES, row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_WORLD = "phantom"
# Descriptors do not change when an image is flipped, so that mean and maximum over views are the same.
_VARIANT = "regions"
_STEPS = {
    "proposed": "segmenter alone",
    "past the gates": "gates alone",
    "kept": "gates + cohort",
    "kept, tissue trimmed": "gates + cohort, trimmed",
}
_SEGMENTERS = ("pixels", "pixels, several scales")
_SHOWN = ("clear lesions", "specificity", "false a scan", "dice")


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.r2seg_steps")
    return [
        Cell(f"{name}: {_VARIANT}", {"segmenter": name}, needs=needs)
        for name in _SEGMENTERS[: 1 if context.quick else 2]
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    # The judges of the ablation, so that the cell it has computed serves here too.
    judges = tuple(_STEPS.values()) if context.quick else JUDGES_OF_ABLATION
    found = evaluate(_WORLD, cell.parameters["segmenter"], _VARIANT, judges, context)
    return {step: {**found["judges"][how], "by size": found["sizes"][how]} for step, how in _STEPS.items()}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    reached = {}
    for key, found in results.items():
        values = [found["kept"][name] for name in ("clear lesions", "specificity")]
        reached[key] = None if None in values else bool(min(v["value"] for v in values) >= 0.9)
    return {"both at least 0.9": reached}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, found in result["cells"].items():
        for step in _STEPS:
            sizes = ["{} of {}".format(*found[step]["by size"][name]) for name in SIZES]
            rows.append([f"{key}: {step}", *row(found[step], _SHOWN), *sizes])
    return {"steps": markdown_table(["segmenter: proposal: step", *_SHOWN, *SIZES], rows)}


STUDY = Study(
    name="r2seg-steps",
    question="Which step loses lesions, and does a better-taught segmenter keep them?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
