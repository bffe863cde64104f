"""Study `rfdeep-blind`: cohorts nothing was learnt from, scored by one forest or by an ensemble of forests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.ood.regimes import Regime
from anatrust.studies.rfdeep_lodo import cheaper, level_units
from anatrust.studies.rfdeep_main import NEEDS, sizes
from anatrust.studies.rfdeep_methods import METHODS, panel, resplit, scores, settle
from anatrust.studies.rfdeep_scans import FAR, data_files
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_BLIND = ("lesion 3", "contrast 3", *FAR)
_REGIMES: tuple[Regime, ...] = ("unified", "ensemble-mean", "ensemble-max")
_METHODS = ("forest, deep", "logistic, deep", "forest, histogram", "Mahalanobis, deep", "Mahalanobis, histogram")


def _cells(context: Context) -> list[Cell]:
    files = data_files("hippocampus", context.path(), quick=context.quick)
    needs = (*NEEDS, "anatrust.studies.rfdeep_lodo", "anatrust.studies.rfdeep_blind")
    cells = []
    for method in _METHODS[: 2 if context.quick else None]:
        for regime in _REGIMES if METHODS[method].exposed else ("usual-only",):
            parameters = {"method": method, "regime": regime, "resplits": 2 if context.quick else 10}
            cells.append(Cell(f"{method}/{regime}", parameters, files=files, needs=needs))
    return cells


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    known = {k: u for k, u in level_units("hippocampus", context).items() if k.dataset != "unshifted"}
    method = cheaper(p["method"], quick=context.quick)
    found: dict[str, list[dict[str, float]]] = {}
    fit, strange = sizes("hippocampus", context.quick)
    for number in range(p["resplits"]):
        seed = context.seed * 100_000 + number
        split = resplit(known, seed=seed, fit=fit, fit_outside=strange, test_only=_BLIND)
        made = scores(method, split, known, regime=p["regime"])
        for dataset in sorted(set(_BLIND) & set(made.outside)):
            found.setdefault(dataset, []).append(panel(made.inside[dataset], made.outside[dataset]))
    return {d: {m: settle([row[m] for row in rows]) for m in ("auroc", "fpr95")} for d, rows in found.items()}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    del context
    means = {k: round(sum(row["auroc"]["mean"] for row in v.values()) / len(v), 4) for k, v in results.items()}
    return {"mean_auroc": means, "targets": []}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    datasets = list(next(iter(result["cells"].values())))
    rows = [
        [*key.split("/"), *(f"{f[d]['auroc']['mean']:.2f} / {f[d]['fpr95']['mean']:.2f}" for d in datasets)]
        for key, f in result["cells"].items()
    ]
    return {"cohorts": markdown_table(["detector", "taught", *datasets], rows)}


STUDY = Study(
    name="rfdeep-blind",
    question="Are cohorts found that nothing was learnt from?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
