"""Study `r2seg-scores`: what the segmenter's own probabilities add to the score that the cohort null ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.r2seg_cells import NEEDS, nulls_of, outcomes_of
from anatrust.studies.r2seg_judge import JUDGES
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import SIZES, by_size, matched, numbers, row
from anatrust.studies.r2seg_targets import target
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["STUDY"]

_PAIRS = (
    ("phantom", "pixels, several scales"),
    ("phantom", "threshold"),
    ("hippocampus", "pixels"),
    ("hippocampus", "unet"),
)
_IID = "iid, as published"
_RANKED = {"compact-contrast/1": "gates + cohort", "likely-contrast/1": "gates + cohort, likely"}
_LEVELS = {
    "gates + cohort": 0.10,
    "gates + cohort, likely": 0.10,
    "gates + cohort, level 0.05": 0.05,
    "gates + cohort, likely, level 0.05": 0.05,
}
_SHOWN = ("clear lesions", "lesions", "specificity", "dice", "false a scan")


def _cells(context: Context) -> list[Cell]:
    pairs = _PAIRS[2:3] if context.quick else _PAIRS
    needs = (*NEEDS, "anatrust.studies.r2seg_scores")
    return [
        Cell(f"{w}/{n}", {"world": w, "segmenter": n}, files=source_files(w, context), needs=needs) for w, n in pairs
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    world, name = cell.parameters["world"], cell.parameters["segmenter"]
    model = segmenter(name, world, context)
    judges = {judge: JUDGES[judge] for judge in (*_LEVELS, _IID)}
    nulls = nulls_of(world, model, "regions", judges, context)
    found = outcomes_of(world, model, "regions", judges, nulls, context)
    return {
        "judges": {judge: numbers(one, seed=context.seed) for judge, one in found.items()},
        "sizes": {judge: by_size(one) for judge, one in found.items()},
        "matched": {score: matched(found[judge], found[_IID], seed=context.seed) for score, judge in _RANKED.items()},
    }


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    return {
        "targets": [
            target(f"{key}, {name}", found["judges"][name], level)
            for key, found in results.items()
            for name, level in _LEVELS.items()
        ]
    }


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    judged, level = [], []
    for key, found in result["cells"].items():
        name = key.replace("/", ", ")
        for judge, each in found["judges"].items():
            sizes = ["{} of {}".format(*found["sizes"][judge][size]) for size in SIZES]
            judged.append([f"{name}: {judge}", *row(each, _SHOWN), *sizes])
        for score, same in found["matched"].items():
            if same is None:
                continue
            gain = f"{same['difference']['value']:+.3f}"
            if "interval" in same["difference"]:
                gain += " ({:+.3f} to {:+.3f})".format(*same["difference"]["interval"])
            shares = [f"{same['specificity']:.2f}", f"{same['theirs']:.3f}", f"{same['ours']:.3f}"]
            level.append([f"{name}: {score}", *shares, gain])
    made = {"judges": markdown_table(["patients, segmenter: judged by", *_SHOWN, *SIZES], judged)}
    if level:
        header = ["patients, segmenter: score", "specificity of both", "iid: clear lesions", "score: clear lesions"]
        made["matched"] = markdown_table([*header, "gain"], level)
    return made


STUDY = Study(
    name="r2seg-scores",
    question="Which lesions does the cohort null find when its score looks at the segmenter's probabilities too?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
