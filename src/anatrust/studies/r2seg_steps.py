"""Study `r2seg-steps`: which step loses lesions, and what a better-taught segmenter changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.r2seg_cells import NEEDS, VARIANTS, nulls_of, outcomes_of
from anatrust.studies.r2seg_judge import JUDGES, Outcome
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers, row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_WORLD = "phantom"
_STEPS = {"proposed": "segmenter alone", "past the gates": "gates alone", "kept": "gates + cohort"}
# Their descriptors do not change when an image is flipped, so that mean and maximum over views are the same.
_WAYS = (("pixels", "regions"), ("pixels, rest taught more", "regions"), ("pixels, 80 teachers", "regions"))
_BINS = {"< 10 mm": (0.0, 10.0), "10–16 mm": (10.0, 16.0), "≥ 16 mm": (16.0, 1e9)}
_SHOWN = ("clear lesions", "specificity", "false a scan", "dice")


def _cells(context: Context) -> list[Cell]:
    ways = _WAYS[1:2] if context.quick else _WAYS
    needs = (*NEEDS, "anatrust.studies.r2seg_steps")
    return [Cell(f"{name}: {variant}", {"segmenter": name, "variant": variant}, needs=needs) for name, variant in ways]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    name, variant = cell.parameters["segmenter"], cell.parameters["variant"]
    assert variant in VARIANTS
    model = segmenter(name, _WORLD, context)
    judges = {how: JUDGES[how] for how in _STEPS.values()}
    nulls = nulls_of(_WORLD, model, variant, judges, context)
    outcomes = outcomes_of(_WORLD, model, variant, judges, nulls, context)
    return {
        step: {**numbers(outcomes[how], seed=context.seed), "by size": _by_size(outcomes[how])}
        for step, how in _STEPS.items()
    }


def _by_size(outcomes: list[Outcome]) -> dict[str, list[int]]:
    """Lesions found, and lesions, by class of diameter."""
    every = [lesion for one in outcomes for lesion in one.lesions]
    sizes = {name: [le for le in every if low <= le[0] < high] for name, (low, high) in _BINS.items()}
    return {name: [sum(le[2] for le in mine), len(mine)] for name, mine in sizes.items()}


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
            sizes = ["{} of {}".format(*found[step]["by size"][name]) for name in _BINS]
            rows.append([f"{key}: {step}", *row(found[step], _SHOWN), *sizes])
    return {"steps": markdown_table(["segmenter: proposal: step", *_SHOWN, *_BINS], rows)}


STUDY = Study(
    name="r2seg-steps",
    question="Which step loses lesions, and does a better-taught segmenter keep them?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
