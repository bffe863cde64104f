"""Study `rfdeep-lodo`: a kind of shift that no strange scan of the training shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anatrust.ood.regimes import Regime
from anatrust.studies.rfdeep_main import NEEDS, every_unit, sizes
from anatrust.studies.rfdeep_methods import METHODS, Method, panel, resplit, scores, settle
from anatrust.studies.rfdeep_scans import NEAR_LEVEL, SetName, data_files
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "cheaper", "level_units"]

_METHODS = ("forest, deep", "logistic, deep", "forest, histogram", "Mahalanobis, deep", "Mahalanobis, histogram")
_REGIMES: tuple[Regime, ...] = ("separate", "unified", "lodo")


def cheaper(name: str, *, quick: bool) -> Method:
    """The method, with 50 trees in the quick form."""
    method = METHODS[name]
    return replace(method, settings={"trees": 50}) if quick and method.detector == "forest" else method


def level_units(name: SetName, context: Context) -> Any:
    """Usual scans, near shifts at the compared level, far scans."""
    known = every_unit(name, context.path(), context.quick)
    return {k: u for k, u in known.items() if k.dataset[-1] not in "124" or k.dataset.endswith(f" {NEAR_LEVEL}")}


def _cells(context: Context) -> list[Cell]:
    files = data_files("hippocampus", context.path(), quick=context.quick)
    cells = []
    for method in _METHODS[: 2 if context.quick else None]:
        for regime in _REGIMES if METHODS[method].exposed else ("usual-only",):
            parameters = {"method": method, "regime": regime, "resplits": 2 if context.quick else 10}
            needs = (*NEEDS, "anatrust.studies.rfdeep_lodo")
            cells.append(Cell(f"{method}/{regime}", parameters, files=files, needs=needs))
    return cells


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    known = {k: u for k, u in level_units("hippocampus", context).items() if k.dataset != "unshifted"}
    method = cheaper(p["method"], quick=context.quick)
    found: dict[str, list[dict[str, float]]] = {}
    fit, strange = sizes("hippocampus", context.quick)
    for number in range(p["resplits"]):
        split = resplit(known, seed=context.seed * 100_000 + number, fit=fit, fit_outside=strange)
        made = scores(method, split, known, regime=p["regime"], most=5 if p["regime"] == "lodo" else 20)
        for dataset, outside in made.outside.items():
            found.setdefault(dataset, []).append(panel(made.inside[dataset], outside))
    return {d: {m: settle([row[m] for row in rows]) for m in ("auroc", "fpr95")} for d, rows in found.items()}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    del context
    means = {
        key: round(sum(row["auroc"]["mean"] for row in found.values()) / len(found), 4)
        for key, found in results.items()
    }
    lost = {
        method: round(means[f"{method}/separate"] - means[f"{method}/lodo"], 4)
        for method in _METHODS
        if f"{method}/lodo" in means
    }
    return {"mean_auroc": means, "lost_without_the_kind": lost, "targets": []}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    datasets = list(next(iter(result["cells"].values())))
    rows = []
    for key, found in result["cells"].items():
        method, regime = key.split("/")
        values = [f"{found[d]['auroc']['mean']:.2f}" for d in datasets]
        rows.append([method, regime, *values, f"{result['summary']['mean_auroc'][key]:.3f}"])
    return {"regimes": markdown_table(["detector", "taught", *datasets, "mean"], rows)}


STUDY = Study(
    name="rfdeep-lodo",
    question="Is a kind of shift found that no strange scan of the training shows?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
