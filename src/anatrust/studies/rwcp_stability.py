"""Study `rwcp-stability`: set size against λ, and how abruptly it grows, plain and diffused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anatrust.studies.rwcp_cases import NEEDS, Unit, cases, units
from anatrust.studies.rwcp_methods import Method, choices
from anatrust.studies.rwcp_resplits import improvement, percent, scored
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NAMES = ("plain CRC", "RW-CP published, encoder", "RW-CP tuned, encoder", "Gaussian, tuned", "best on tuning")


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rwcp_methods", "anatrust.studies.rwcp_stability")
    return [
        Cell(u.key, {"set": u.image_set, "strength": u.strength, "label": u.label}, u.files(context), needs)
        for u in units(context)
        if u.label == 1
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    unit = Unit(p["set"], p["strength"], p["label"])
    chosen = choices(unit, context)["chosen"]
    rows: dict[str, Any] = {}
    plain = None
    for name in _NAMES:
        if name not in chosen:
            continue
        method = Method.from_json(chosen[name])
        sizes = scored(cases(unit, "pool", context, method.encoder), method.recipe).sizes()
        steepest = np.abs(np.diff(sizes, axis=1)).max(axis=1) * 100
        plain = steepest if plain is None else plain
        rows[name] = {
            "method": method.label,
            "sizes": np.median(sizes, axis=0).round(3).tolist(),
            "steepest": round(float(steepest.mean()), 3),
            "against_plain": improvement(steepest, plain, np.arange(len(plain)), seed=context.seed),
        }
    return rows


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    targets = []
    for key, found in results.items():
        row = found["RW-CP published, encoder"]["against_plain"]
        targets.append({"what": f"{key}: the published walk grows less abruptly", "met": row["interval"][0] > 0})
    return {"targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, found in sorted(result["cells"].items()):
        for name, row in found.items():
            rows.append([f"{key}, {name}: {row['method']}", f"{row['steepest']:.1f}", percent(row["against_plain"])])
    targets = [[t["what"], t["met"]] for t in result["summary"]["targets"]]
    return {
        "steepest": markdown_table(["structure and score", "max of d(size)/dλ", "less than plain, %"], rows),
        "targets": markdown_table(["target", "met"], targets),
    }


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels = []
    for key, found in sorted(result["cells"].items()):
        # λ = 1 is the whole image; where the curve leaves the panel says nothing more.
        lines = {n: {"x": [k / 100 for k in range(100)], "y": row["sizes"][:100]} for n, row in found.items()}
        panels.append({"title": key, "lines": lines})
    return {
        "sizes": {
            "panels": panels,
            "xlabel": "λ",
            "ylabel": "set size over structure",
            "ylim": [0, 4],
            "columns": 2,
        }
    }


STUDY = Study(
    name="rwcp-stability",
    question="Does diffusion make the set's size grow more smoothly with λ?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
