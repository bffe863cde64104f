"""Study `rwcp-coverage`: the promised mean loss against the observed one, outer and inner, for several scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import PUBLISHED_WALK
from anatrust.statistics.loss_curves import LossCurve
from anatrust.statistics.risk_control import patients_needed, simultaneous_curve
from anatrust.studies.rwcp_cases import NEEDS, PLAIN, Unit, calibration_size, cases, units
from anatrust.studies.rwcp_methods import Method, choices
from anatrust.studies.rwcp_resplits import Scored, calibration_draws, mean_and_error, resplit_thresholds, scored
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_ALPHAS = (0.02, 0.05, 0.1, 0.2)
_METHODS = ("plain CRC", "RW-CP published, encoder", "best on tuning")


def _cells(context: Context) -> list[Cell]:
    needs = (
        *NEEDS,
        "anatrust.studies.rwcp_methods",
        "anatrust.studies.rwcp_coverage",
        "anatrust.statistics.risk_control",
    )
    found = []
    for u in units(context):
        parameters = {"set": u.image_set, "strength": u.strength}
        found.append(Cell(u.key, parameters | {"label": u.label}, u.files(context), needs))
        if u.label == 2:
            found.append(Cell(f"{u.image_set}/{u.strength}/all at once", parameters, u.files(context), needs))
    return found


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    splits = 200 if context.quick else 1000
    if "label" not in p:
        return {"all classes at once": _simultaneous(p, context, splits)}
    unit = Unit(p["set"], p["strength"], p["label"])
    chosen = choices(unit, context)["chosen"]
    result: dict[str, Any] = {}
    for name in _METHODS:
        method = Method.from_json(chosen[name])
        pool = scored(cases(unit, "pool", context, method.encoder), method.recipe)
        result[name] = {"method": method.label, "rows": _rows(pool.outer, pool.inner, splits, context.seed)}
        if name == "plain CRC":
            result["groups"] = _grouped(pool, splits, context.seed)
    return result


def _rows(
    outer: Sequence[LossCurve], inner: Sequence[LossCurve] | None, splits: int, seed: int
) -> list[dict[str, Any]]:
    """Mean loss of test patients at each α, or that the α is infeasible here."""
    n = calibration_size(len(outer))
    draws = calibration_draws(len(outer), n, splits, seed)
    rows = []
    for side, curves in (("outer", outer), ("inner", inner)):
        if curves is None:
            continue
        for alpha in _ALPHAS:
            row: dict[str, Any] = {"side": side, "alpha": alpha, "n": n, "patients": len(outer)}
            if n < patients_needed(alpha):
                row["infeasible"] = f"{patients_needed(alpha)} patients are needed"
            else:
                thresholds, losses = resplit_thresholds(curves, draws, alpha, safe="low" if side == "outer" else "high")
                row |= _tested(losses, draws)
                row["safe_end"] = round(float(np.mean(thresholds == (0 if side == "outer" else 65_536))), 4)
            rows.append(row)
    return rows


def _tested(losses: npt.NDArray[np.float64], draws: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Over re-splits where a patient is tested: mean, error and spread over patients, and over re-splits."""
    tested = ~draws
    by_patient = (losses * tested).sum(axis=0) / tested.sum(axis=0)
    some = tested.any(axis=1)  # of a small group a re-split may test nobody
    by_split = (losses * tested)[some].sum(axis=1) / tested[some].sum(axis=1)
    found = mean_and_error(by_patient)
    found["splits_quantiles"] = np.quantile(by_split, [0.05, 0.5, 0.95]).round(4).tolist()
    return found


def _grouped(pool: Scored, splits: int, seed: int) -> dict[str, Any]:
    """Thirds of the patients by the size of the *predicted* structure, each with its own threshold and without."""
    size = np.zeros(len(pool.patients))
    np.add.at(size, pool.owner, [np.count_nonzero(levels > 32_767) for levels in pool.levels])
    third = np.searchsorted(np.quantile(size, [1 / 3, 2 / 3]), size)
    n = calibration_size(len(pool.patients))
    everybody = calibration_draws(len(pool.patients), n, splits, seed)
    result: dict[str, Any] = {}
    for group, name in enumerate(("small", "middle", "large")):
        members = np.flatnonzero(third == group)
        own = [pool.outer[k] for k in members]
        inside = calibration_size(len(members))
        for alpha in (0.1, 0.2):
            row: dict[str, Any] = {"patients": len(members), "n": inside}
            _, losses = resplit_thresholds(pool.outer, everybody, alpha, safe="low")
            row["marginal"] = _tested(losses[:, members], everybody[:, members])
            if inside >= patients_needed(alpha):
                draws = calibration_draws(len(members), inside, splits, seed)
                row["mondrian"] = _tested(resplit_thresholds(own, draws, alpha, safe="low")[1], draws)
            result[f"{name}, α = {alpha:g}"] = row
    return result


def _simultaneous(p: Mapping[str, Any], context: Context, splits: int) -> dict[str, Any]:
    """The largest of a patient's class losses, one threshold for all classes."""
    pools = [scored(cases(Unit(p["set"], p["strength"], label), "pool", context), PLAIN) for label in (1, 2)]
    by_patient = [dict(zip(pool.patients, pool.outer, strict=True)) for pool in pools]
    common = [name for name in by_patient[0] if name in by_patient[1]]
    curves = [simultaneous_curve([known[name] for known in by_patient]) for name in common]
    return {"method": PLAIN.label, "rows": _rows(curves, None, splits, context.seed)}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    targets, infeasible = [], []
    for key, found in results.items():
        for name, values in found.items():
            for row in values.get("rows", ()):
                what = f"{key}, {name}, {row['side']} set, α = {row['alpha']:g}, n = {row['n']}"
                if "infeasible" in row:
                    infeasible.append(f"{what}: {row['infeasible']}")
                else:
                    met = row["mean"] <= row["alpha"] + 2 * row["se"]
                    what = f"mean loss of {what}"
                    targets.append({"what": what, "observed": row["mean"], "se": row["se"], "met": bool(met)})
    return {"targets": targets, "infeasible": infeasible, "published": PUBLISHED_WALK.label}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows, groups = [], []
    for key, found in sorted(result["cells"].items()):
        for name, values in found.items():
            if name == "groups":
                for group, row in values.items():
                    own = row.get("mondrian")
                    groups.append(
                        [
                            f"{key}, {group}",
                            row["patients"],
                            _share(row["marginal"]),
                            f"{_share(own)} (n = {row['n']})" if own else f"infeasible (n = {row['n']})",
                        ]
                    )
                continue
            for side in ("outer", "inner"):
                mine = {r["alpha"]: r for r in values["rows"] if r["side"] == side}
                if mine:
                    n = next(iter(mine.values()))["n"]
                    cells = ["infeasible" if "infeasible" in mine[a] else _share(mine[a]) for a in _ALPHAS]
                    rows.append([f"{key}, {name}", side, n, *cells])
    met = [t["met"] for t in result["summary"]["targets"]]
    spread = [
        [
            f"{key}, {name}",
            row["n"],
            *(f"{q:.3f}" for q in row["quantiles"]),
            *(f"{q:.3f}" for q in row["splits_quantiles"]),
        ]
        for key, found in sorted(result["cells"].items())
        for name, values in found.items()
        for row in values.get("rows", ())
        if row["side"] == "outer" and row["alpha"] == 0.1 and "mean" in row
    ]
    return {
        "losses": markdown_table(["structure and score", "set", "n", *(f"α = {a:g}" for a in _ALPHAS)], rows),
        "spread": markdown_table(
            ["outer set, α = 0.1", "n", "patients: 10 %", "50 %", "90 %", "re-splits: 5 %", "50 %", "95 %"], spread
        ),
        "groups": markdown_table(
            ["group by predicted size", "patients", "one threshold for all", "own threshold"], groups
        ),
        "targets": markdown_table(
            ["targets", "met", "of"], [["mean loss ≤ α + 2 standard errors", sum(met), len(met)]]
        ),
    }


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.3f} ± {row['se']:.3f}"


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels = []
    for key, found in sorted(result["cells"].items()):
        if "all at once" in key:
            continue
        lines = {}
        for name in _METHODS:
            mine = [r for r in found[name]["rows"] if r["side"] == "outer" and "mean" in r]
            lines[name] = {"x": [r["alpha"] for r in mine], "y": [r["mean"] for r in mine]}
        lines["promised"] = {"x": list(_ALPHAS), "y": list(_ALPHAS)}
        panels.append({"title": key, "lines": lines})
    return {"losses": {"panels": panels, "xlabel": "α promised", "ylabel": "mean missed share", "ylim": [0, 0.21]}}


STUDY = Study(
    name="rwcp-coverage",
    question="Do calibrated sets keep the promised mean loss on fresh patients, whatever the score?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
