"""Study `rwcp-sweep`: neighbours, steps and sharpness of the published walk (the paper's first ablation)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.diffusion import diffuse_lifted
from anatrust.conformal.graph import Neighbours, cosine_neighbours, transition_matrix
from anatrust.conformal.recipe import PUBLISHED_WALK
from anatrust.conformal.sets import LabelledCase
from anatrust.statistics.loss_curves import quantise
from anatrust.studies.rwcp_cases import NEEDS, PLAIN, Unit, cases, units
from anatrust.studies.rwcp_methods import chosen_method
from anatrust.studies.rwcp_resplits import Scored, equal_loss_threshold, improvement, percent, scored
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_K, _STEPS, _BETA = (5, 20, 50), (1, 10, 20), (10.0, 50.0, 200.0)
_ALPHA = 0.1
_WALK = "RW-CP published, encoder"
_EVERY = 2  # of the images: nothing is calibrated here


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rwcp_methods", "anatrust.studies.rwcp_sweep")
    return [
        Cell(u.key, {"set": u.image_set, "strength": u.strength, "label": u.label}, u.files(context), needs)
        for u in units(context)
        if u.label == 1
    ]


class _Walks:
    """Every setting of the walk on one image, the graph computed once."""

    def __init__(self, pool: list[LabelledCase]) -> None:
        self._pool = pool
        self._neighbours: dict[int, Neighbours] = {}

    def grade(self, k: int, steps: int, beta: float) -> Any:
        def levels(case: LabelledCase) -> npt.NDArray[np.uint16]:
            patches = PUBLISHED_WALK.patches(case.truth.shape, case.grid.spacing)
            number = id(case)
            if number not in self._neighbours:
                assert case.features is not None
                self._neighbours[number] = cosine_neighbours(patches.average(case.features()), max(_K))
            most = self._neighbours[number]
            matrix = transition_matrix(Neighbours(most.indices[:, :k], most.cosines[:, :k]), beta=beta)
            return quantise(diffuse_lifted(case.probabilities, matrix, patches, steps=steps, laziness=0.0))

        return levels


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    unit = Unit(p["set"], p["strength"], p["label"])
    encoder = chosen_method(unit, _WALK, context).encoder
    pool = list(cases(unit, "pool", context, encoder))[::_EVERY]
    walks = _Walks(pool)
    plain = scored(pool, PLAIN)
    reference = _measured(plain)
    rows = {}
    for k, steps, beta in _settings(context):
        own = _measured(scored(pool, walks.grade(k, steps, beta)))
        owner = np.arange(len(plain.patients))
        rows[f"{k}/{steps}/{beta:g}"] = {
            "steepness": round(float(own["steepness"].mean()), 3),
            **{m: improvement(own[m], reference[m], owner, seed=context.seed) for m in ("assd", "hd95")},
        }
    steepness = round(float(reference["steepness"].mean()), 3)
    return {"encoder": encoder, "plain_steepness": steepness, "images": len(pool), "rows": rows}


def _settings(context: Context) -> Iterator[tuple[int, int, float]]:
    return iter([(5, 1, 50.0), (20, 10, 50.0)]) if context.quick else product(_K, _STEPS, _BETA)


def _measured(pool: Scored) -> dict[str, npt.NDArray[np.float64]]:
    """Distances at equal missed share, and how fast the set grows where it grows fastest."""
    quality = pool.quality(equal_loss_threshold(pool.outer, _ALPHA))
    steepness = np.abs(np.diff(pool.sizes(), axis=1)).max(axis=1) * 100
    return {"assd": quality[:, 2], "hd95": quality[:, 3], "steepness": steepness}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    best, targets = {}, []
    for key, found in results.items():
        smoothest = min(found["rows"], key=lambda s: found["rows"][s]["steepness"])
        best[key] = {
            "smoothest": smoothest,
            "closest": max(found["rows"], key=lambda s: found["rows"][s]["hd95"]["share"]),
        }
        met = found["rows"][smoothest]["steepness"] < found["plain_steepness"]
        targets.append({"what": f"{key}: some walk grows less abruptly than the plain score", "met": bool(met)})
    return {"best": best, "targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    targets = [[t["what"], t["met"]] for t in result["summary"]["targets"]]
    tables = {"targets": markdown_table(["target", "met"], targets)}
    for key, found in result["cells"].items():
        rows = []
        for setting, row in found["rows"].items():
            ratio = f"{row['steepness'] / found['plain_steepness']:.2f}"
            rows.append([setting.replace("/", ", "), ratio, percent(row["assd"]), percent(row["hd95"])])
        header = [
            f"k, steps, β on {found['encoder']}",
            "steepest growth, times plain",
            "ASSD better, %",
            "HD95 better, %",
        ]
        tables[key.replace(" ", "-")] = markdown_table(header, rows)
    return tables


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels = []
    for key, found in sorted(result["cells"].items()):
        lines: dict[str, Any] = {}
        for setting, row in found["rows"].items():
            k, steps, beta = setting.split("/")
            line = lines.setdefault(f"k = {k}, β = {beta}", {"x": [], "y": []})
            line["x"].append(int(steps))
            line["y"].append(row["steepness"] / found["plain_steepness"])
        panels.append({"title": key, "lines": {n: v for n, v in lines.items() if "β = 50" in n or "k = 20" in n}})
    top = max(max(line["y"]) for panel in panels for line in panel["lines"].values())
    return {
        "steepness": {
            "panels": panels, "xlabel": "steps", "ylabel": "steepest growth, times plain", "ylim": [0, 1.05 * top],
            "level": 1.0, "columns": 2,
        }
    }  # fmt: skip


STUDY = Study(
    name="rwcp-sweep",
    question="How do neighbours, steps and sharpness of the published walk change stability and distance?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
