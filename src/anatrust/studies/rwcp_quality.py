"""Study `rwcp-quality`: how close outer sets lie to the truth, every score beside its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.lattice import gaussian_smooth
from anatrust.conformal.recipe import ScoreRecipe
from anatrust.studies.rwcp_cases import NEEDS, Unit, calibration_size, cases, units
from anatrust.studies.rwcp_methods import Method, choices
from anatrust.studies.rwcp_resplits import (
    METRICS,
    Scored,
    calibration_draws,
    equal_loss_threshold,
    improvement,
    percent,
    resplit_thresholds,
    scored,
)
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "matched_width"]

_Floats = npt.NDArray[np.float64]
_ALPHA = 0.1
_KNOTS = 6
_PLAIN, _BEST = "plain CRC", "best on tuning"
_MATCHED = {
    "RW-CP published, encoder": "Gaussian matched to RW-CP published",
    "RW-CP tuned, encoder": "Gaussian matched to RW-CP tuned",
    _BEST: "Gaussian matched to best",
}


def matched_width(method: Method, unit: Unit, context: Context) -> float:
    """Width of the Gaussian that smooths as much as a method's smoothing, on the tuning patients.

    As much: the same total variation of the score maps (sum of absolute differences of neighbours).
    Temperature and core are no smoothing and are left out. 0 where the method does not smooth.
    """
    recipe = ScoreRecipe(method.recipe.name, method.recipe.parameters)
    given = list(cases(unit, "tuning", context, method.encoder))[::3]
    aim = sum(_variation(recipe.score(c.probabilities, c.image, c.grid, c.features)) for c in given)

    def reached(width: float) -> float:
        return sum(_variation(gaussian_smooth(c.probabilities, c.grid.spacing, width=width)) for c in given)

    low, high = 0.0, 16.0
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > aim else (low, middle)
    return round((low + high) / 2, 2) if reached(0.0) > aim * 1.001 else 0.0


def _variation(score: _Floats) -> float:
    return float(sum(np.abs(np.diff(score, axis=axis)).sum() for axis in range(score.ndim)))


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rwcp_methods", "anatrust.studies.rwcp_quality")
    return [
        Cell(u.key, {"set": u.image_set, "strength": u.strength, "label": u.label}, u.files(context), needs)
        for u in units(context)
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    unit = Unit(p["set"], p["strength"], p["label"])
    tuned = choices(unit, context)
    methods = {name: Method.from_json(values) for name, values in tuned["chosen"].items()}
    for name, matched in _MATCHED.items():
        if name in methods:
            methods[matched] = Method(ScoreRecipe("gaussian", {"width": matched_width(methods[name], unit, context)}))
    known: dict[str, Any] = {}
    rows = {}
    for name, method in methods.items():
        if method.label not in known:
            pool = scored(cases(unit, "pool", context, method.encoder), method.recipe)
            known[method.label] = _measured(pool, 200 if context.quick else 1000, context.seed)
        rows[name] = {"method": method.label, **known[method.label]}
    n = calibration_size(rows[_PLAIN]["patients"])
    return {"n": n, "alpha": _ALPHA, "aim": tuned["aim"], "tuning_patients": tuned["patients"], "methods": rows}


def _measured(pool: Scored, splits: int, seed: int) -> dict[str, Any]:
    """Quality with the guarantee (mean over re-splits in which a patient is tested) and at equal missed share."""
    count = len(pool.patients)
    draws = calibration_draws(count, calibration_size(count), splits, seed)
    thresholds, losses = resplit_thresholds(pool.outer, draws, _ALPHA, safe="low")
    tested = ~draws
    promised = _over_resplits(pool, thresholds, tested)
    equal = pool.quality(equal_loss_threshold(pool.outer, _ALPHA))
    return {
        "patients": count,
        "missed": round(float(((losses * tested).sum(axis=0) / tested.sum(axis=0)).mean()), 4),
        "promised": _plain(promised),
        "equal": _plain(equal),
    }


def _over_resplits(pool: Scored, thresholds: npt.NDArray[np.int64], tested: npt.NDArray[np.bool_]) -> _Floats:
    """Mean quality of each patient over re-splits; measured at six thresholds, linear in between."""
    knots = np.unique(np.quantile(thresholds, np.linspace(0, 1, _KNOTS)).round().astype(np.int64))
    measured = np.array([pool.quality(int(q)) for q in knots])
    place = np.interp(thresholds, knots, np.arange(len(knots)))
    below = np.minimum(place.astype(np.int64), len(knots) - 1)
    part = place - below
    weights = np.zeros((len(knots), len(pool.patients)))
    np.add.at(weights, below, (1 - part)[:, None] * tested)
    np.add.at(weights, np.minimum(below + 1, len(knots) - 1), part[:, None] * tested)
    weights /= weights.sum(axis=0)
    result: _Floats = np.einsum("tp,tpm->pm", weights, measured)
    return result


def _plain(quality: _Floats) -> dict[str, Any]:
    return {name: quality[:, k].round(3).tolist() for k, name in enumerate(METRICS)}


def _pooled(results: Sequence[Mapping[str, Any]], name: str, mode: str, metric: str) -> _Floats:
    """A pair's value of each patient: its structures side by side."""
    return np.concatenate([np.asarray(r["methods"][name][mode][metric]) for r in results])


def _against(results: Sequence[Mapping[str, Any]], name: str, rival: str, mode: str, seed: int) -> dict[str, Any]:
    """Improvement of ASSD and HD95 over a rival; a patient's structures are drawn together."""
    owner = np.concatenate([np.arange(len(r["methods"][name][mode]["assd"])) for r in results])
    return {
        metric: improvement(
            _pooled(results, name, mode, metric), _pooled(results, rival, mode, metric), owner, seed=seed
        )
        for metric in ("assd", "hd95")
    }


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    pairs: dict[str, list[Mapping[str, Any]]] = {}
    for key, found in sorted(results.items()):
        pairs.setdefault(key.rsplit("/", 1)[0], []).append(found)
    compared: dict[str, Any] = {}
    for key, own in [*pairs.items(), *((k, [r]) for k, r in sorted(results.items()))]:
        names = [n for n in own[0]["methods"] if n != _PLAIN]
        compared[key] = {
            name: {mode: _against(own, name, _PLAIN, mode, context.seed) for mode in ("promised", "equal")}
            for name in names
        }
        for name, matched in _MATCHED.items():
            if matched in names:
                compared[key][name]["matched"] = _against(own, name, matched, "equal", context.seed)
                compared[key][name]["matched promised"] = _against(own, name, matched, "promised", context.seed)
    return {"compared": compared, "targets": _targets({k: compared[k] for k in pairs})}


_AIMS: Mapping[str, tuple[str, str, int]] = {
    "not worse": ("the tuned choice is not worse than plain CRC beyond its interval", "promised", 4),
    "far better": ("HD95 ≥ 40 % and ASSD ≥ 20 % better than plain CRC at equal missed share", "equal", 2),
    "matched": ("better than the matched Gaussian, intervals off zero, at equal missed share", "matched", 2),
}
"""What was to be reached: in words, which comparison tells, and on how many of the four pairs."""


def _holds(aim: str, gains: Mapping[str, Any]) -> bool:
    """Whether a pair's improvements of ASSD and HD95 reach an aim."""
    if aim == "not worse":
        return all(gains[m]["interval"][1] >= 0 for m in ("assd", "hd95"))
    if aim == "far better":
        return bool(gains["hd95"]["share"] >= 0.4 and gains["assd"]["share"] >= 0.2)
    return all(gains[m]["interval"][0] > 0 for m in ("assd", "hd95"))


def _targets(pairs: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for aim, (what, mode, needed) in _AIMS.items():
        where = [key for key, own in pairs.items() if _holds(aim, own[_BEST][mode])]
        needed = min(needed, len(pairs)) if aim == "not worse" else needed
        found.append({"what": what, "needed": needed, "pairs": where, "met": len(where) >= needed})
    return found


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    compared = result["summary"]["compared"]
    tables = {}
    for key, found in result["cells"].items():
        rows = []
        for name, row in found["methods"].items():
            means = {m: np.mean(row["promised"][m]) for m in METRICS}
            gains = ["–"] * 4
            if name != _PLAIN:
                own = compared[key][name]
                gains = [percent(own[mode][m]) for mode in ("promised", "equal") for m in ("assd", "hd95")]
            shown = f"{name}: {row['method']}" if name != row["method"] else name
            numbers = [f"{row['missed']:.3f}", f"{means['stretch']:.2f}", f"{means['dice']:.3f}"]
            numbers += [f"{means['assd']:.2f}", f"{means['hd95']:.1f}", f"{means['components']:.1f}"]
            rows.append([shown, *numbers, *gains])
        header = [f"n = {found['n']}, α = {found['alpha']:g}", "missed", "stretch", "Dice", "ASSD", "HD95", "pieces"]
        header += ["ASSD better, %", "HD95 better, %", "ASSD, equal missed share, %", "HD95, equal missed share, %"]
        tables[key.replace(" ", "-")] = markdown_table(header, rows)
    summary = []
    for key, own in compared.items():
        if key in result["cells"]:
            continue
        for name, matched in _MATCHED.items():
            if name in own:
                row = own[name]
                cells = [percent(row[m][v]) for m in ("promised", "equal", "matched") for v in ("assd", "hd95")]
                summary.append([f"{key}: {name} (against {matched})", *cells])
    tables["pairs"] = markdown_table(
        ["set and segmenter", "ASSD better than plain, %", "HD95", "ASSD, equal missed share", "HD95",
         "ASSD against matched Gaussian, equal missed share", "HD95"],
        summary,
    )  # fmt: skip
    reach = [
        [key, what, *(percent(own[_BEST][mode][m]) for m in ("assd", "hd95")), _holds(aim, own[_BEST][mode])]
        for aim, (what, mode, _) in _AIMS.items()
        for key, own in compared.items()
        if key not in result["cells"]
    ]
    tables["reach"] = markdown_table(["set and segmenter", "aim", "ASSD better, %", "HD95 better, %", "reached"], reach)
    tables["targets"] = markdown_table(
        ["target", "pairs needed", "pairs that meet it", "met"],
        [[t["what"], t["needed"], ", ".join(t["pairs"]) or "none", t["met"]] for t in result["summary"]["targets"]],
    )
    return tables


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels = []
    for key, found in sorted(result["cells"].items()):
        names = [n for n in found["methods"] if n != _PLAIN]
        own = result["summary"]["compared"][key]
        bars = {
            metric.upper(): {
                "y": names,
                "x": [100 * own[n]["equal"][metric]["share"] for n in names],
                "error": [[100 * v for v in own[n]["equal"][metric]["interval"]] for n in names],
            }
            for metric in ("assd", "hd95")
        }
        panels.append({"title": key, "bars": bars})
    return {"equal": {"panels": panels, "xlabel": "% better than plain CRC at equal missed share", "ylabel": ""}}


STUDY = Study(
    name="rwcp-quality",
    question="How much closer to the truth are outer sets of a diffused score, against every rival and at equal error?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
