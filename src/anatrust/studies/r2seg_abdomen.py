"""Study `r2seg-abdomen`: lesions planted in whole abdominal CT and MR, judged within each scan alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.studies.r2seg_cases import cases
from anatrust.studies.r2seg_cells import NEEDS, VARIANTS
from anatrust.studies.r2seg_judge import JUDGES, Outcome, judge, outcome, proposal, tissue_of
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers, row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import SOURCES, source_files

__all__ = ["STUDY"]

_WORLD = "abdomen"
_JUDGES = ("segmenter alone", "gates only", "iid, as published", "gates + surrogate")
_SHOWN = ("slice sensitivity", "slice specificity", "area", "dice")


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.r2seg_abdomen")
    files = source_files(_WORLD, context)
    patients = tuple(SOURCES)[:1] if context.quick else tuple(SOURCES)
    return [Cell(name, {"patient": name}, files=files, needs=needs) for name in patients]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    """The segmenter needs no training, so that no patient teaches another."""
    model = segmenter("threshold", _WORLD, context)
    judges = _JUDGES[:3] if context.quick else _JUDGES
    found: dict[str, list[Outcome]] = {j: [] for j in judges}
    patients = cases(_WORLD, "test", context)
    for case in next(p for p in patients if p[0].patient == cell.parameters["patient"]):
        made = proposal(case, _WORLD, model, settings=VARIANTS["regions"])
        for j in judges:
            seen = judge(case, made, tissue_of(case, _WORLD), JUDGES[j], seed=context.seed)
            found[j].append(outcome(case, seen))
    return {j: {**_counts(outcomes), **numbers(outcomes, seed=context.seed)} for j, outcomes in found.items()}


def _counts(outcomes: Sequence[Outcome]) -> dict[str, list[int]]:
    """K of n of one patient: lesions found, and false candidates kept without and with a lesion planted."""
    lesions = [lesion for one in outcomes for lesion in one.lesions]
    return {
        "found": [sum(lesion[2] for lesion in lesions), len(lesions)],
        "false, as it is": [sum(one.false_kept for one in outcomes if not one.ill), sum(not o.ill for o in outcomes)],
        "false, lesion planted": [sum(one.false_kept for one in outcomes if one.ill), sum(o.ill for o in outcomes)],
    }


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Lesions found over all patients, by way to judge."""
    judges = next(iter(results.values()))
    found = {j: np.sum([values[j]["found"] for values in results.values()], axis=0) for j in judges}
    return {"found": {j: [int(k), int(n)] for j, (k, n) in found.items()}}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for name, judged in result["cells"].items():
        for how, values in judged.items():
            found = "{} of {}".format(*values["found"])
            false = ["{} in {}".format(*values[f"false, {k}"]) for k in ("as it is", "lesion planted")]
            rows.append([f"{name}: {how}", found, *false, *row(values, _SHOWN)])
    header = ["patient: judged by", "lesions found", "false kept, as it is", "false kept, lesion planted", *_SHOWN]
    return {"abdomen": markdown_table(header, rows)}


STUDY = Study(
    name="r2seg-abdomen",
    question="What is found of lesions planted in whole abdomens when only the scan itself tells what is normal?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
