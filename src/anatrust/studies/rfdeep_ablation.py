"""Study `rfdeep-ablation`: crops, their size and place, training scans, and levels, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from anatrust.studies.rfdeep_lodo import cheaper
from anatrust.studies.rfdeep_main import NEEDS
from anatrust.studies.rfdeep_methods import panel, resplit, scores, settle, without_last_levels
from anatrust.studies.rfdeep_scans import FAR, NEAR_LEVEL, STRENGTHS, data_files, units
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_USUAL: Mapping[str, Any] = {"crops": 8, "variant": "main", "fit": 20, "levels": None, "trees": 300}
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "as in the main study": {},
    "1000 trees": {"trees": 1000},
    **{f"{n} crops": {"crops": n} for n in (1, 2, 4)},
    "crops of 64 mm": {"variant": "voxel 64"},
    **{f"crops {mode}": {"variant": f"{mode} 32"} for mode in ("component", "spatial", "center")},
    **{f"{n} + {n} scans": {"fit": n} for n in (5, 10, 25)},
    "first level alone": {"levels": 1},
    "first two levels": {"levels": 2},
}
_QUICK = ("as in the main study", "1 crops", "first level alone")


def _cells(context: Context) -> list[Cell]:
    files = data_files("hippocampus", context.path(), quick=context.quick)
    needs = (*NEEDS, "anatrust.studies.rfdeep_ablation", "anatrust.studies.rfdeep_lodo")
    chosen = _QUICK if context.quick else tuple(_SETTINGS)
    return [
        Cell(name, {**_USUAL, **_SETTINGS[name], "resplits": 2 if context.quick else 20}, files=files, needs=needs)
        for name in chosen
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    kinds = tuple(STRENGTHS)[:3] if context.quick else tuple(STRENGTHS)
    datasets = ("usual", *(f"{kind} {NEAR_LEVEL}" for kind in kinds), *FAR)
    rows = [
        u for d in datasets for u in units("hippocampus", d, context.path(), quick=context.quick, variant=p["variant"])
    ]
    known = {u.key: u for u in rows}
    method = replace(cheaper("forest, deep", quick=context.quick), draws=p["crops"])
    if not context.quick:
        method = replace(method, settings={"trees": p["trees"]})
    if p["levels"] is not None:
        method = without_last_levels(method, rows[0], p["levels"])
    fit = 4 if context.quick else p["fit"]
    near: list[dict[str, float]] = []
    far: list[dict[str, float]] = []
    for number in range(p["resplits"]):
        share = 0.5 if fit <= 20 else 0.65
        split = resplit(known, seed=context.seed * 100_000 + number, fit=fit, fit_outside=fit, share_outside=share)
        made = scores(method, split, known, most=fit)
        inside = next(iter(made.inside.values()))
        for found, wanted in ((near, False), (far, True)):
            outside = [v for d, v in made.outside.items() if (d in FAR) == wanted]
            if outside:  # the quick form may have no far scan left to test
                found.append(panel(inside, np.concatenate(outside)))
    return {
        group: {m: settle([row[m] for row in found]) for m in ("auroc", "fpr95")}
        for group, found in (("near", near), ("far", far))
        if found
    }


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    del context
    base = results["as in the main study"]["near"]["auroc"]["mean"]
    return {"gain": {k: round(v["near"]["auroc"]["mean"] - base, 4) for k, v in results.items()}, "targets": []}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = [
        [
            key,
            *(
                f"{v[g]['auroc']['mean']:.3f} ({v[g]['auroc']['low']:.2f}–{v[g]['auroc']['high']:.2f})"
                for g in ("near", "far")
            ),
            f"{v['near']['fpr95']['mean']:.2f}",
            f"{result['summary']['gain'][key]:+.3f}",
        ]
        for key in _SETTINGS
        if (v := result["cells"].get(key)) is not None
    ]
    return {"settings": markdown_table(["setting", "AUROC near", "AUROC far", "FPR95 near", "change, near"], rows)}


STUDY = Study(
    name="rfdeep-ablation",
    question="Which parts of RF-Deep carry it: crops, anchors, training scans, levels?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
