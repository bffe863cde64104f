"""Study `rfdeep-fair`: like against like: what was learnt from, which features, which learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anatrust.ood.regimes import Regime
from anatrust.studies.rfdeep_lodo import cheaper, level_units
from anatrust.studies.rfdeep_main import NEEDS, sizes
from anatrust.studies.rfdeep_methods import METHODS, Placements, panel, resplit, scores, settle
from anatrust.studies.rfdeep_scans import FAR, data_files
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_EXPOSED = (
    "forest, deep",
    "logistic, deep",
    "forest, histogram",
    "logistic, histogram",
    "forest, descriptors",
    "forest, radiomics",
)
_ALONE = (
    "Mahalanobis, deep",
    "level ensemble, deep",
    "kNN, deep",
    "isolation forest, deep",
    "Mahalanobis, histogram",
    "kNN, histogram",
    "Mahalanobis, descriptors",
    "Mahalanobis, radiomics",
    "maxlogit mean",
    "entropy mean",
)
_WORDS = {
    "unified": "strange scans of the same kinds",
    "lodo": "strange scans of other kinds",
    "usual-only": "usual scans",
}


def _cells(context: Context) -> list[Cell]:
    files = data_files("hippocampus", context.path(), quick=context.quick)
    needs = (*NEEDS, "anatrust.studies.rfdeep_lodo", "anatrust.studies.rfdeep_fair")
    pairs: list[tuple[str, Regime]] = [(m, r) for r in ("unified", "lodo") for m in _EXPOSED]
    pairs += [(m, "usual-only") for m in _ALONE]
    if context.quick:
        pairs = [pairs[0], pairs[7], *pairs[12:14]]
    count = 2 if context.quick else 10
    return [
        Cell(f"{regime}/{m}", {"method": m, "regime": regime, "resplits": count}, files=files, needs=needs)
        for m, regime in pairs
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    method = cheaper(p["method"], quick=context.quick)
    known = {
        k: u
        for k, u in level_units("hippocampus", context).items()
        if k.dataset != "unshifted" and not u.empty and (method.logit or method.kind in u.features)
    }
    fit, strange = sizes("hippocampus", context.quick)
    rows: list[dict[str, float]] = []
    places = Placements()
    for number in range(p["resplits"]):
        split = resplit(known, seed=context.seed * 100_000 + number, fit=fit, fit_outside=strange)
        made = scores(method, split, known, regime=p["regime"], most=5 if p["regime"] == "lodo" else 20)
        near = [d for d in made.outside if d not in FAR]
        each = [panel(made.inside[d], made.outside[d]) for d in near]
        rows.append({m: float(np.mean([row[m] for row in each])) for m in ("auroc", "fpr95")})
        usual = [k.patient for k in split.test]
        for d in near:
            places.add(made.inside[d], made.outside[d], usual, [k.patient for k in split.outside_test[d]])
    return {
        "near": {m: settle([row[m] for row in rows]) for m in ("auroc", "fpr95")},
        "interval": places.interval(seed=context.seed),
        "placements": {
            side: {str(i): [round(t, 2), n] for i, (_, (t, n)) in enumerate(sorted(kept.items()))}
            for side, kept in (("inside", places.inside), ("outside", places.outside))
        },
    }


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    gaps = {}
    for regime in ("unified", "lodo", "usual-only"):
        own = {k: v for k, v in results.items() if k.startswith(f"{regime}/")}
        if not own:
            continue
        lead = f"{regime}/forest, deep" if f"{regime}/forest, deep" in own else next(iter(own))
        for key, found in own.items():
            if key != lead:
                one, two = (Placements(**results[k]["placements"]) for k in (lead, key))
                gaps[key] = {
                    "lead": lead.split("/")[1],
                    "difference": round(results[lead]["near"]["auroc"]["mean"] - found["near"]["auroc"]["mean"], 4),
                    "interval": one.interval(minus=two, seed=context.seed),
                }
    simple = [k for k, gap in gaps.items() if gap["interval"][0] <= 0 and METHODS[k.split("/")[1]].kind != "deep"]
    return {"gaps": gaps, "as_good_and_simpler": simple, "targets": []}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, found in result["cells"].items():
        regime, method = key.split("/")
        gap = result["summary"]["gaps"].get(key)
        words = "–"
        if gap is not None:
            low, high = gap["interval"]
            words = f"{gap['difference']:+.3f} ({low:+.2f} to {high:+.2f})"
        auroc, (low, high) = found["near"]["auroc"], found["interval"]
        rows.append(
            [
                _WORDS[regime],
                method,
                f"{auroc['mean']:.3f} ({low:.2f}–{high:.2f})",
                f"{found['near']['fpr95']['mean']:.2f}",
                words,
            ]
        )
    header = ["learnt from", "detector", "AUROC near (95 % over patients)", "FPR95", "the first of its kind minus it"]
    return {"comparison": markdown_table(header, rows)}


STUDY = Study(
    name="rfdeep-fair",
    question="With the same knowledge of strange scans, do deep features and forests beat simple ones?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
