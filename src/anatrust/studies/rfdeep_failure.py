"""Study `rfdeep-failure`: where screening fails, and whether abnormality tells a low Dice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr

from anatrust.metrics import auroc, risk_coverage
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.rfdeep_lodo import cheaper
from anatrust.studies.rfdeep_main import NEEDS, every_unit, sizes
from anatrust.studies.rfdeep_methods import resplit, scores
from anatrust.studies.rfdeep_scans import FAR, SetName, Unit, data_files
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_METHODS = ("forest, deep", "forest, histogram", "Mahalanobis, deep", "entropy mean", "maxlogit mean")
_TINY = 0.25  # of the median usual volume
_FAILED = 0.7  # Dice below this is a failure here


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rfdeep_lodo", "anatrust.studies.rfdeep_failure")
    cells = []
    for name in ("hippocampus",):
        files = data_files(name, context.path(), quick=context.quick)
        parameters = {"set": name, "resplits": 2 if context.quick else 20}
        cells.append(Cell(name, parameters, files=files, needs=needs))
    return cells


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    name: SetName = cell.parameters["set"]
    known = {k: u for k, u in every_unit(name, context.path(), context.quick).items() if k.dataset != "unshifted"}
    wanted = _METHODS[:2] + _METHODS[3:4] if context.quick else _METHODS
    fit, strange = sizes(name, context.quick)
    ranks: dict[str, dict[Any, list[float]]] = {m: {} for m in wanted}
    for number in range(cell.parameters["resplits"]):
        split = resplit(known, seed=context.seed * 100_000 + number, fit=fit, fit_outside=strange)
        for text in wanted:
            made = scores(cheaper(text, quick=context.quick), split, known)
            inside = next(iter(made.inside.values()))
            for keys, own in ((split.test, inside), *((split.outside_test[d], made.outside[d]) for d in made.outside)):
                # Share of the usual test scans below: one scale for all re-splits and methods.
                shares = (np.searchsorted(np.sort(inside), own) / inside.size).tolist()
                for key, share, raw in zip(keys, shares, own.tolist(), strict=True):
                    ranks[text].setdefault(key, []).append(share + 1e-3 * float(np.tanh(raw / 10)))
    tested = sorted(set.intersection(*(set(r) for r in ranks.values())))
    rows = [known[k] for k in tested]
    values = {text: np.array([np.mean(ranks[text][k]) for k in tested]) for text in wanted}
    lead, unsure = "forest, deep", "entropy mean"
    values["forest and entropy together"] = rankdata(values[lead]) + rankdata(values[unsure])
    empty = [u for u in known.values() if u.empty]
    return {
        "scans": len(rows),
        "no_prediction": {
            "usual": sum(u.key.dataset == "usual" for u in empty),
            "strange": sum(u.key.dataset != "usual" for u in empty),
        },
        "by_size": {text: _by_size(rows, values[text]) for text in wanted},
        "dice": {text: _against_dice(rows, own, context.seed) for text, own in values.items()},
    }


def _by_size(rows: Sequence[Unit], value: npt.NDArray[np.float64]) -> dict[str, Any]:
    """AUROC among scans whose prediction has a like volume, or as many components."""
    usual = np.array([u.key.dataset == "usual" for u in rows])
    volume = np.array([u.volume for u in rows])
    parts = np.array([u.components for u in rows])
    low, high = np.percentile(volume[usual], (33.3, 66.7))
    tiny = _TINY * float(np.median(volume[usual]))
    bins: Mapping[str, Callable[[], npt.NDArray[np.bool_]]] = {
        "small": lambda: volume <= low,
        "middle": lambda: (volume > low) & (volume <= high),
        "large": lambda: volume > high,
        "1 component": lambda: parts == 1,
        "2 to 5 components": lambda: (parts >= 2) & (parts <= 5),
        "more than 5 components": lambda: parts > 5,
    }
    found: dict[str, Any] = {"tiny strange scans": int(((volume < tiny) & ~usual).sum())}
    for name, chosen in bins.items():
        own = chosen()
        inside, outside = value[own & usual], value[own & ~usual]
        enough = min(inside.size, outside.size) >= 5
        found[name] = {
            "usual": int(inside.size),
            "strange": int(outside.size),
            "auroc": round(auroc(inside, outside), 3) if enough else None,
        }
    return found


def _against_dice(rows: Sequence[Unit], value: npt.NDArray[np.float64], seed: int) -> dict[str, Any]:
    """Rank correlation with Dice, risk–coverage, and AUROC of finding failures, over scans with a truth."""
    kept = [i for i, u in enumerate(rows) if u.dice is not None and u.key.dataset not in FAR]
    dice = np.array([float(rows[i].dice or 0.0) for i in kept])
    own = value[kept]
    curve = risk_coverage(own, 1 - dice)
    failed = dice < _FAILED
    people = [rows[i].key.patient for i in kept]
    table = [
        np.array([[d, v] for d, v, p in zip(dice, own, people, strict=True) if p == q]) for q in sorted(set(people))
    ]
    index = np.arange(len(table), dtype=np.float64)[:, None]

    def correlation(rows_of: npt.NDArray[np.float64]) -> float:
        both = np.concatenate([table[int(i)] for i in rows_of[:, 0]])
        return float(spearmanr(both[:, 0], both[:, 1]).statistic)

    low, high = patient_bootstrap(index, correlation, seed=seed, draws=300)
    return {
        "spearman": round(correlation(index), 3),
        "interval": [round(low, 3), round(high, 3)],
        "aurc": round(curve.aurc, 4),
        "best": round(curve.best_aurc, 4),
        "random": round(curve.random_aurc, 4),
        "failures": int(failed.sum()),
        "auroc of failures": round(auroc(own[~failed], own[failed]), 3)
        if 5 <= failed.sum() <= failed.size - 5
        else None,
        "curve": [round(float(v), 4) for v in np.interp(np.linspace(0.05, 1, 20), curve.coverage, curve.risk)],
    }


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    del context
    best = {name: min(found["dice"], key=lambda m: found["dice"][m]["aurc"]) for name, found in results.items()}
    return {"lowest_aurc": best, "targets": []}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    made = {}
    for name, found in result["cells"].items():
        rows = [
            [
                text,
                f"{own['spearman']:+.2f} ({own['interval'][0]:+.2f} to {own['interval'][1]:+.2f})",
                f"{own['aurc']:.3f}",
                f"{own['best']:.3f} / {own['random']:.3f}",
                "–" if own["auroc of failures"] is None else f"{own['auroc of failures']:.2f}",
            ]
            for text, own in found["dice"].items()
        ]
        header = [
            "abnormality",
            "rank correlation with Dice",
            "AURC",
            "perfect / random order",
            f"AUROC of Dice < {_FAILED}",
        ]
        made[f"{name}-dice"] = markdown_table(header, rows)
        bins = [b for b in next(iter(found["by_size"].values())) if b != "tiny strange scans"]
        sizes_of = [
            [b, *(f"{found['by_size'][next(iter(found['by_size']))][b][side]}" for side in ("usual", "strange"))]
            + ["–" if own[b]["auroc"] is None else f"{own[b]['auroc']:.2f}" for own in found["by_size"].values()]
            for b in bins
        ]
        made[f"{name}-size"] = markdown_table(["prediction", "usual", "strange", *found["by_size"]], sizes_of)
    return made


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    x = [round(float(v), 2) for v in np.linspace(0.05, 1, 20)]
    panels = [
        {"title": name, "lines": {m: {"x": x, "y": own["curve"]} for m, own in found["dice"].items()}}
        for name, found in result["cells"].items()
    ]
    return {"risk": {"panels": panels, "xlabel": "share of scans kept", "ylabel": "mean 1 - Dice of those kept"}}


STUDY = Study(
    name="rfdeep-failure",
    question="Where does screening fail, and does abnormality tell a low Dice?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
