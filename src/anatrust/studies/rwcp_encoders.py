"""Study `rwcp-encoders`: the feature graph on different encoders and layers, and on random features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anatrust.conformal.recipe import PUBLISHED_WALK, ScoreRecipe
from anatrust.conformal.tuning import border_crossing
from anatrust.studies.rwcp_cases import ENCODERS, NEEDS, PLAIN, Unit, cases, units
from anatrust.studies.rwcp_resplits import equal_loss_threshold, improvement, percent, scored
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_WALKS = {"published": PUBLISHED_WALK, "lazy": ScoreRecipe("graph", {"laziness": 0.5, "steps": 10})}
_ALPHA = 0.1
_EVERY = 2  # of the images: nothing is calibrated here


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rwcp_encoders")
    return [
        Cell(u.key, {"set": u.image_set, "strength": u.strength, "label": u.label}, u.files(context), needs)
        for u in units(context)
        if u.label == 1
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    unit = Unit(p["set"], p["strength"], p["label"])
    every = _EVERY
    plain = scored(list(cases(unit, "pool", context))[::every], PLAIN)
    reference = plain.quality(equal_loss_threshold(plain.outer, _ALPHA))
    rows: dict[str, Any] = {}
    for encoder in list(ENCODERS)[:2] if context.quick else ENCODERS:
        pool = list(cases(unit, "pool", context, encoder))[::every]
        rows[encoder] = {"crossing": round(float(np.mean([border_crossing(c, PUBLISHED_WALK) for c in pool])), 3)}
        for name, recipe in _WALKS.items():
            own = scored(pool, recipe)
            quality = own.quality(equal_loss_threshold(own.outer, _ALPHA))
            owner = np.arange(len(own.patients))
            rows[encoder][name] = {
                metric: improvement(quality[:, k], reference[:, k], owner, seed=context.seed)
                for metric, k in (("assd", 2), ("hd95", 3))
            }
    return {"images": len(plain.levels), "rows": rows}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    targets = []
    for key, found in results.items():
        if "random" in found["rows"]:
            crossing = {name: row["crossing"] for name, row in found["rows"].items()}
            met = all(value < crossing["random"] for name, value in crossing.items() if name != "random")
            targets.append({"what": f"{key}: every encoder crosses borders less than chance", "met": met})
    return {"targets": targets or [{"what": "quick form: nothing is decided", "met": True}]}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, found in sorted(result["cells"].items()):
        for encoder, row in found["rows"].items():
            gains = [percent(row[walk][metric]) for walk in _WALKS for metric in ("assd", "hd95")]
            rows.append([f"{key}: {ENCODERS[encoder]}", f"{100 * row['crossing']:.0f} %", *gains])
    header = ["structure and encoder", "affinity across the border", "published walk: ASSD better, %", "HD95"]
    targets = [[t["what"], t["met"]] for t in result["summary"]["targets"]]
    return {
        "gains": markdown_table([*header, "lazy walk: ASSD", "HD95"], rows),
        "targets": markdown_table(["target", "met"], targets),
    }


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels = []
    for key, found in sorted(result["cells"].items()):
        names = list(found["rows"])
        bars = {
            walk: {
                "y": names,
                "x": [100 * found["rows"][n][walk]["hd95"]["share"] for n in names],
                "error": [[100 * v for v in found["rows"][n][walk]["hd95"]["interval"]] for n in names],
            }
            for walk in _WALKS
        }
        panels.append({"title": key, "bars": bars})
    return {
        "gains": {
            "panels": panels,
            "xlabel": "HD95: % better than plain, equal missed share",
            "ylabel": "",
            "columns": 2,
        }
    }


STUDY = Study(
    name="rwcp-encoders",
    question="Which encoder and which layer makes a graph that keeps to the anatomy?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
