"""Study `rfdeep-main`: every detector, 20 + 20 scans, 100 re-splits, near shifts of four strengths and far scans."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anatrust.ood.cross import fit_cross_screener
from anatrust.ood.features import ScanFeatures
from anatrust.ood.splits import ScanKey
from anatrust.statistics.conformal_p import conformal_p_value
from anatrust.studies.intervals import allowance
from anatrust.studies.rfdeep_methods import METHODS, Method, Placements, panel, resplit, scores, settle
from anatrust.studies.rfdeep_scans import FAR, NEAR_LEVEL, STRENGTHS, SetName, Unit, data_files, units
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["NEEDS", "SIZES", "STUDY", "all_datasets", "every_unit", "near_and_far", "placed", "sizes"]

SIZES: Mapping[SetName, tuple[int, int]] = {"hippocampus": (20, 20), "cardiac": (6, 4)}
"""Usual and strange patients fitted on; the cardiac set has 22 held-out patients, too few for the paper's 20 + 20."""
NEEDS = (
    "anatrust.studies.rfdeep_scans",
    "anatrust.studies.rfdeep_methods",
    "anatrust.ood.detectors",
    "anatrust.ood.regimes",
    "anatrust.ood.splits",
    "anatrust.ood.synthetic",
    "anatrust.ood.crops",
    "anatrust.models.stage_features",
)
_LEVELS = (1, 2, 3, 4)
_VALIDITY = ("Mahalanobis, deep", "forest, deep")
_RATES = (0.05, 0.1, 0.2)


def all_datasets(*, quick: bool) -> tuple[str, ...]:
    """Every data set of a study; the quick form has few."""
    kinds = tuple(STRENGTHS)[:3] if quick else tuple(STRENGTHS)
    levels = (NEAR_LEVEL,) if quick else _LEVELS
    return ("usual", "unshifted", *(f"{kind} {level}" for kind in kinds for level in levels), *FAR)


@cache
def every_unit(name: SetName, data: Path, quick: bool) -> Mapping[ScanKey, Unit]:
    """All described scans of a set by key."""
    return {u.key: u for d in all_datasets(quick=quick) for u in units(name, d, data, quick=quick)}


def near_and_far(names: list[str]) -> dict[str, list[str]]:
    """Pooled data sets: each level of the near shifts, and all far ones."""
    pooled = {f"near {level}": [n for n in names if n.endswith(f" {level}")] for level in _LEVELS}
    pooled["far"] = [n for n in names if n in FAR]
    return {name: members for name, members in pooled.items() if members}


def placed(placements: Placements) -> dict[str, dict[str, float]]:
    """Mean placements of every patient; short names, for the JSON."""
    return {
        side: {str(i): round(total / count, 3) for i, (total, count) in enumerate(_sorted(kept))}
        for side, kept in (("inside", placements.inside), ("outside", placements.outside))
    }


def _sorted(kept: Mapping[str, list[float]]) -> list[list[float]]:
    return [kept[name] for name in sorted(kept)]


def _cells(context: Context) -> list[Cell]:
    sets: tuple[SetName, ...] = ("hippocampus",) if context.quick else ("hippocampus", "cardiac")
    cells = []
    for name in sets:
        files = data_files(name, context.path(), quick=context.quick)
        for dataset in all_datasets(quick=context.quick):
            parameters: dict[str, Any] = {"set": name, "dataset": dataset}
            cells.append(Cell(f"scans/{name}/{dataset}", parameters, files=files, needs=NEEDS))
        wanted = [m for m in METHODS.values() if not context.quick or m.name in _QUICK]
        for method in wanted:
            parameters = {"set": name, "method": method.name, "resplits": 2 if context.quick else 100}
            cells.append(Cell(f"resplits/{name}/{method.name}", parameters, files=files, needs=NEEDS))
        if name == "hippocampus":
            for text in _VALIDITY[: 1 if context.quick else None]:
                parameters = {"set": name, "method": text, "resplits": 20 if context.quick else 1000}
                cells.append(Cell(f"validity/{name}/{text}", parameters, files=files, needs=NEEDS))
            parameters = {"set": name, "method": _VALIDITY[0], "resplits": 10 if context.quick else 300}
            needs = (*NEEDS, "anatrust.ood.cross", "anatrust.ood.screen")
            cells.append(Cell(f"cross/{name}/{_VALIDITY[0]}", parameters, files=files, needs=needs))
    return cells


_QUICK = ("forest, deep", "Mahalanobis, deep", "forest, histogram", "entropy mean")


def sizes(name: SetName, quick: bool) -> tuple[int, int]:
    """Usual and strange patients fitted on."""
    return (4, 3) if quick else SIZES[name]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    name: SetName = p["set"]
    if "dataset" in p:
        return _described(units(name, p["dataset"], context.path(), quick=context.quick))
    known = every_unit(name, context.path(), context.quick)
    method = METHODS[p["method"]]
    if context.quick and method.detector == "forest":
        method = Method(method.name, method.kind, "forest", {"trees": 50})
    if cell.key.startswith("cross"):
        return _crossed(known, method, p["resplits"], context)
    if cell.key.startswith("validity"):
        return _validity(known, method, p["resplits"], context)
    return _compared(known, method, p["resplits"], name, context)


def _described(found: list[Unit]) -> Mapping[str, Any]:
    scored: dict[str, list[float]] = {}
    for unit in found:
        if unit.dice is not None:
            scored.setdefault(unit.key.patient, []).append(unit.dice)
    return {
        "scans": len(found),
        "patients": len({u.key.patient for u in found}),
        "empty": sum(u.empty for u in found),
        "dice": round(float(np.mean([np.mean(v) for v in scored.values()])), 4) if scored else None,
    }


def _measurable(known: Mapping[ScanKey, Unit], method: Method) -> dict[ScanKey, Unit]:
    """Scans that are compared by this method: those with its features, at all strengths for the methods shown so."""
    curve = method.logit or method.name in _SHOWN
    return {
        k: u
        for k, u in known.items()
        if (u.empty or method.logit or method.kind in u.features)
        and (curve or k.dataset.rpartition(" ")[0] not in STRENGTHS or k.dataset.endswith(f" {NEAR_LEVEL}"))
    }


def _compared(
    known: Mapping[ScanKey, Unit], method: Method, resplits: int, name: SetName, context: Context
) -> Mapping[str, Any]:
    usable = _measurable(known, method)
    empty = {d: sum(u.empty for u in usable.values() if u.key.dataset == d) for d in all_datasets(quick=context.quick)}
    panels: dict[str, list[dict[str, float]]] = {}
    counted: dict[str, list[float]] = {}
    placements = {f"near {NEAR_LEVEL}": Placements(), "far": Placements()}
    for number in range(resplits):
        fit, strange = sizes(name, context.quick)
        split = resplit(usable, seed=context.seed * 100_000 + number, fit=fit, fit_outside=strange)
        found = scores(method, split, usable)
        groups = {d: [d] for d in found.outside} | near_and_far(list(found.outside))
        for group, members in groups.items():
            inside = found.inside[members[0]]
            outside = np.concatenate([found.outside[m] for m in members])
            panels.setdefault(group, []).append(panel(inside, outside))
            lost_in, lost_out = empty["usual"], sum(empty[m] for m in members)
            widened = np.append(inside, np.full(lost_in, np.inf)), np.append(outside, np.full(lost_out, np.inf))
            counted.setdefault(group, []).append(panel(*widened)["auroc"])
            if group in placements:
                people = [k.patient for m in members for k in split.outside_test[m]]
                placements[group].add(inside, outside, [k.patient for k in split.test], people)
    rows = {
        group: {measure: settle([p[measure] for p in own]) for measure in (own[0] if group in _pooled() else ["auroc"])}
        | {"auroc with no-prediction counted": settle(counted[group])["mean"]}
        for group, own in panels.items()
    }
    intervals = {group: own.interval(seed=context.seed) for group, own in placements.items() if own.outside}
    return {
        "exposed": method.exposed,
        "rows": rows,
        "intervals": intervals,
        "placements": {group: placed(own) for group, own in placements.items() if own.outside},
    }


def _pooled() -> tuple[str, ...]:
    return (*(f"near {level}" for level in _LEVELS), "far")


def _validity(known: Mapping[ScanKey, Unit], method: Method, resplits: int, context: Context) -> Mapping[str, Any]:
    """How often a usual patient, drawn at random with those fitted and calibrated on, gets p ≤ t."""
    n = 5 if context.quick else 19
    if method.detector == "forest" and not context.quick:
        method = Method(method.name, method.kind, "forest", {"trees": 10})
    usable = _measurable(known, method)
    values = []
    for number in range(resplits):
        fit, strange = sizes("hippocampus", context.quick)
        seed = 7_000_000 + context.seed * 100_000 + number
        split = resplit(usable, seed=seed, fit=fit, calibrate=n, fit_outside=strange)
        one = split.__class__(split.fit, split.calibrate, split.test[:1], split.outside_fit, {}, split.seed)
        dataset = next(iter(split.outside_test))
        asked = one.__class__(
            one.fit, one.calibrate, one.test, one.outside_fit, {dataset: split.outside_test[dataset][:1]}, one.seed
        )
        found = scores(method, asked, usable)
        values.append(float(conformal_p_value(np.sort(found.calibration[dataset]), float(found.inside[dataset][0]))))
    shares = {str(t): round(float(np.mean([v <= t + 1e-9 for v in values])), 4) for t in _RATES}
    return {"calibration": n, "resplits": resplits, "shares": shares}


def _crossed(known: Mapping[ScanKey, Unit], method: Method, resplits: int, context: Context) -> Mapping[str, Any]:
    """The same where the patients that are fitted on calibrate too, each left out in turn."""
    usual = [
        ScanFeatures(f"{k.patient} {k.scan}", u.features[method.kind], u.levels[method.kind], method.name)
        for k, u in sorted(known.items(), key=lambda pair: pair[0])
        if k.dataset == "usual" and method.kind in u.features
    ]
    n = 5 if context.quick else 19
    values = []
    for number in range(resplits):
        rng = np.random.default_rng([context.seed, 8, number])
        drawn = [usual[i] for i in rng.permutation(len(usual))[: n + 1]]
        ready = fit_cross_screener([method.make()], drawn[:n], [s.identifier for s in drawn[:n]], seed=number)
        values.append(ready.screen(drawn[n]).p_value or 0.0)
    shares = {str(t): round(float(np.mean([v <= t + 1e-9 for v in values])), 4) for t in _RATES}
    return {"calibration": n, "resplits": resplits, "shares": shares}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    summary: dict[str, Any] = {}
    targets = []
    for name in ("hippocampus", "cardiac"):
        if not any(key.startswith(f"scans/{name}/") for key in results):
            continue
        described = {k.split("/")[2]: v for k, v in results.items() if k.startswith(f"scans/{name}/")}
        compared = {k.split("/", 2)[2]: v for k, v in results.items() if k.startswith(f"resplits/{name}/")}
        base = described["unshifted"]["dice"]
        lost = {
            d: round(100 * (base - v["dice"]), 1)
            for d, v in described.items()
            if v["dice"] is not None and d not in ("usual", "unshifted")
        }
        first = METHODS["forest, deep"].name
        ten = {}
        for kind in STRENGTHS:
            reached = [level for level in _LEVELS if lost.get(f"{kind} {level}", -1.0) >= 10]
            ten[kind] = reached[0] if reached else None
        differences = {
            group: {
                other: _difference(compared[first], compared[other], group, context.seed)
                for other in compared
                if other != first and group in compared[other]["placements"]
            }
            for group in (f"near {NEAR_LEVEL}", "far")
            if group in compared[first]["placements"]
        }
        summary[name] = {"dice_lost": lost, "level_of_ten_points": ten, "differences": differences}
        rows = compared[first]["rows"]
        if "far" in rows:
            value = rows["far"]["auroc"]["mean"]
            targets.append(_target(f"{name}: far AUROC of the forest", ">= 0.99", value, value >= 0.99))
        for kind, level in ten.items():
            if level is not None:
                value = rows[f"{kind} {level}"]["auroc"]["mean"]
                what = f"{name}: {kind} at level {level}, where the segmenter has lost {lost[f'{kind} {level}']} points"
                targets.append(_target(what, ">= 0.93", value, value >= 0.93))
    for key, found in results.items():
        if key.startswith("validity/"):
            for t, share in found["shares"].items():
                n, trials = found["calibration"], found["resplits"]
                lowest = np.floor(float(t) * (n + 1) + 1e-9) / (n + 1)
                slack = allowance(float(t), trials) - float(t)
                good = lowest - slack <= share <= float(t) + slack
                words = f"{lowest:.2f} - {slack:.3f} to {float(t):.2f} + {slack:.3f}"
                targets.append(_target(f"{key.split('/', 1)[1]}: P(p <= {t})", words, share, bool(good)))
        if key.startswith("cross/"):
            for t, share in found["shares"].items():
                most = allowance(2 * float(t), found["resplits"])
                what = f"{key.split('/', 1)[1]}, cross-conformal: P(p <= {t})"
                targets.append(_target(what, f"<= {2 * float(t):g} + {most - 2 * float(t):.3f}", share, share <= most))
    return summary | {"targets": targets}


def _target(what: str, required: str, observed: float, met: bool) -> dict[str, Any]:
    return {"what": what, "required": required, "observed": observed, "met": met}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], group: str, seed: int) -> dict[str, Any]:
    """Paired difference of AUROCs on the same scans and re-splits, with an interval over patients."""
    a, b = (_again(found["placements"][group]) for found in (one, other))
    return {
        "difference": round(one["rows"][group]["auroc"]["mean"] - other["rows"][group]["auroc"]["mean"], 4),
        "interval": a.interval(minus=b, seed=seed),
    }


def _again(kept: Mapping[str, Mapping[str, float]]) -> Placements:
    sides = ({k: [v, 1.0] for k, v in kept[side].items()} for side in ("inside", "outside"))
    return Placements(*sides)


def _number(row: Mapping[str, float]) -> str:
    return f"{row['mean']:.3f} ({row['low']:.2f}–{row['high']:.2f})"


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    made = {}
    for name, own in result["summary"].items():
        if name == "targets":
            continue
        compared = {k.split("/", 2)[2]: v for k, v in result["cells"].items() if k.startswith(f"resplits/{name}/")}
        near = f"near {NEAR_LEVEL}"
        rows = []
        for method, found in compared.items():
            interval = found["intervals"].get(near, [0, 0])
            gap = own["differences"][near].get(method)
            rows.append(
                [
                    method,
                    "yes" if found["exposed"] else "no",
                    _number(found["rows"][near]["auroc"]),
                    f"{interval[0]:.3f}–{interval[1]:.3f}",
                    f"{found['rows'][near]['fpr95']['mean']:.2f}",
                    f"{found['rows'][near]['aupr_out']['mean']:.2f} / {found['rows'][near]['aupr_in']['mean']:.2f}",
                    _number(found["rows"]["far"]["auroc"]),
                    "–"
                    if gap is None
                    else f"{gap['difference']:+.3f} ({gap['interval'][0]:+.2f} to {gap['interval'][1]:+.2f})",
                ]
            )
        header = ["detector", "learns from strange scans", f"AUROC {near} (re-splits)", "95 % over patients", "FPR95"]
        made[f"{name}"] = markdown_table([*header, "AUPR out / in", "AUROC far", "forest minus it, near"], rows)
        curve = []
        shown = [m for m in (*_SHOWN, _best_logit(compared, near)) if m in compared]
        for kind in STRENGTHS:
            for level in _LEVELS:
                dataset = f"{kind} {level}"
                if dataset not in own["dice_lost"]:
                    continue
                curve.append(
                    [
                        f"{kind}, {STRENGTHS[kind][level - 1]:g}",
                        f"{own['dice_lost'][dataset]:.1f}",
                        *(f"{compared[m]['rows'][dataset]['auroc']['mean']:.3f}" for m in shown),
                    ]
                )
        made[f"{name}-strength"] = markdown_table(["shift", "Dice points lost", *shown], curve)
    rows = [
        [t["what"], t["required"], f"{t['observed']:.3f}", "yes" if t["met"] else "**no**"]
        for t in result["summary"]["targets"]
    ]
    made["targets"] = markdown_table(["target", "required", "observed", "met"], rows)
    return made


_SHOWN = ("forest, deep", "forest, histogram", "Mahalanobis, deep", "Mahalanobis, histogram")


def _best_logit(compared: Mapping[str, Any], group: str) -> str:
    logits = [m for m in compared if METHODS[m].logit]
    return max(logits, key=lambda m: compared[m]["rows"][group]["auroc"]["mean"])


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    made = {}
    for name, own in result["summary"].items():
        if name == "targets":
            continue
        compared = {k.split("/", 2)[2]: v for k, v in result["cells"].items() if k.startswith(f"resplits/{name}/")}
        shown = [m for m in (*_SHOWN, _best_logit(compared, f"near {NEAR_LEVEL}")) if m in compared]
        panels = []
        for kind in STRENGTHS:
            levels = [level for level in _LEVELS if f"{kind} {level}" in own["dice_lost"]]
            lines = {
                method: {
                    "x": levels,
                    "y": [compared[method]["rows"][f"{kind} {level}"]["auroc"]["mean"] for level in levels],
                }
                for method in shown
            }
            if levels:
                panels.append({"title": kind, "lines": lines})
        made[f"{name}-strength"] = {"panels": panels, "xlabel": "level of the shift", "ylabel": "AUROC", "level": 0.93}
    return made


STUDY = Study(
    name="rfdeep-main",
    question="Which detectors tell shifted and foreign scans from usual ones, and how early?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
