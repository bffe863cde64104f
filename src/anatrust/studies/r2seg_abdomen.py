"""Study `r2seg-abdomen`: lesions planted in whole abdominal CT and MR, judged within each scan alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.image.volumes import Mask
from anatrust.models.pixel_classifier import PixelCase, PixelRecipe, train_pixel_classifier
from anatrust.models.protocols import Segmenter
from anatrust.models.segmenters.pixel_classifier import PixelTarget
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases
from anatrust.studies.r2seg_cells import NEEDS, VARIANTS
from anatrust.studies.r2seg_judge import JUDGES, Outcome, judge, outcome, proposal, tissue_of
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers, row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["STUDY"]

_WORLD = "abdomen"
_JUDGES = ("segmenter alone", "gates only", "iid, as published", "gates + surrogate")
_SHOWN = ("clear lesions", "lesions", "specificity", "slice sensitivity", "slice specificity", "area", "dice")
_COUNTS = ("patients", "healthy", "lesion count")


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.r2seg_abdomen")
    files = source_files(_WORLD, context)
    names = ("threshold",) if context.quick else ("pixels", "threshold")
    return [Cell(name, {"segmenter": name}, files=files, needs=needs) for name in names]


def _model(name: str, other: list[R2Case], context: Context) -> Segmenter:
    """The segmenter of a tested patient: taught by the others, or not at all."""
    if name == "threshold":
        return segmenter(name, _WORLD, context)
    organ = WORLDS[_WORLD].organ
    taught = [PixelCase(c.scan, Mask(c.target, c.scan.grid), c.anatomy.mask(organ)) for c in other if c.target.any()]
    return PixelTarget(train_pixel_classifier(taught, PixelRecipe(target=2000, other=12_000, trees=100)))


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    name = cell.parameters["segmenter"]
    patients = list(cases(_WORLD, "test", context))
    judges = _JUDGES[:3] if context.quick else _JUDGES
    found: dict[str, list[Outcome]] = {j: [] for j in judges}
    for number, patient in enumerate(patients):
        others = [case for k, scans in enumerate(patients) if k != number for case in scans]
        model = _model(name, others, context)
        for case in patient:
            made = proposal(case, _WORLD, model, settings=VARIANTS["regions"])
            for j in judges:
                seen = judge(case, made, tissue_of(case, _WORLD), JUDGES[j], seed=context.seed)
                found[j].append(outcome(case, seen))
    return {j: numbers(outcomes, seed=context.seed) for j, outcomes in found.items()}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    return {"judges": list(next(iter(results.values())))}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = [
        [f"{name}: {how}", *(values[c] for c in _COUNTS), *row(values, _SHOWN)]
        for name, found in result["cells"].items()
        for how, values in found.items()
    ]
    return {"abdomen": markdown_table(["segmenter: judged by", *_COUNTS, *_SHOWN], rows)}


STUDY = Study(
    name="r2seg-abdomen",
    question="What is found of lesions planted in whole abdomens when only the scan itself tells what is normal?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
