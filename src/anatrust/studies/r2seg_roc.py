"""Study `r2seg-roc`: the test over its level, by size and contrast, and beside the published one at one specificity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anatrust.studies.r2seg_ablation import JUDGES_OF_ABLATION
from anatrust.studies.r2seg_cells import NEEDS, evaluate
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["STUDY"]

_ALPHAS = (0.0125, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
_NULLS = {"cohort, no gates": "cohort", "iid, as published": "iid"}
_PAIRS = (
    ("phantom", "pixels"),
    ("phantom", "pixels, several scales"),
    ("hippocampus", "pixels"),
    ("hippocampus", "unet"),
    ("cardiac", "pixels"),
)
# Beside the curves of a cell: the cohort null at the level at which it spares as many as the published test.
_MATCHED = "matched"
_BINS: dict[str, Callable[[float, float], bool]] = {
    "all lesions": lambda d, c: True,  # noqa: ARG005
    "< 10 mm": lambda d, c: d < 10,  # noqa: ARG005
    "10–16 mm": lambda d, c: 10 <= d < 16,  # noqa: ARG005
    "≥ 16 mm": lambda d, c: d >= 16,  # noqa: ARG005
    "1–2 SD": lambda d, c: abs(c) < 2,  # noqa: ARG005
    "≥ 2 SD": lambda d, c: abs(c) >= 2,  # noqa: ARG005
}


def _cells(context: Context) -> list[Cell]:
    pairs = (("hippocampus", "pixels"),) if context.quick else _PAIRS
    needs = (*NEEDS, "anatrust.studies.r2seg_roc")
    return [
        Cell(f"{w}/{n}", {"world": w, "segmenter": n}, files=source_files(w, context), needs=needs) for w, n in pairs
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    # The judges of the ablation, so that the cell it has computed serves here too.
    judges: tuple[str, ...] = JUDGES_OF_ABLATION
    if context.quick:
        judges = ("cohort, no gates", "iid, as published")
    made = evaluate(p["world"], p["segmenter"], "regions", judges, context)
    found = made["p"]
    curves: dict[str, Any] = {}
    for judge, null in _NULLS.items():
        values = found[judge]
        healthy = np.array(values["healthy"])
        false = np.array(values["false"])
        lesions = np.array(values["lesions"], dtype=float).reshape(-1, 3)
        curve: dict[str, Any] = {"alpha": list(_ALPHAS)}
        curve["specificity"] = [round(float((healthy > a).mean()), 4) for a in _ALPHAS]
        curve["false a scan"] = [round(float((false <= a).sum() / values["scans"]), 4) for a in _ALPHAS]
        for name, inside in _BINS.items():
            chosen = np.array([p for d, c, p in lesions if inside(float(d), float(c))])
            if len(chosen):
                curve[name] = [round(float((chosen <= a).mean()), 4) for a in _ALPHAS]
        every = lesions[:, 2]
        f1 = [
            2 * (every <= a).sum() / max(2 * (every <= a).sum() + (false <= a).sum() + (every > a).sum(), 1)
            for a in _ALPHAS
        ]
        curve["f1"] = [round(float(v), 4) for v in f1]
        curve["best alpha"] = _ALPHAS[int(np.argmax(f1))]
        curves[null] = curve
    return {**curves, _MATCHED: made.get("matched")}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    return {"best": {key: {n: found[n]["best alpha"] for n in _NULLS.values()} for key, found in results.items()}}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, found in result["cells"].items():
        for null in _NULLS.values():
            curve = found[null]
            at = curve["alpha"].index(0.1)
            best = curve["alpha"].index(curve["best alpha"])
            shares = [f"{curve[name][at]:.2f}" if name in curve else "–" for name in _BINS]
            rows.append(
                [
                    f"{key.replace('/', ', ')}: {null}",
                    f"{curve['specificity'][0]:.2f}",
                    f"{curve['specificity'][at]:.2f}",
                    *shares,
                    f"{curve['best alpha']:g} ({curve['f1'][best]:.2f})",
                ]
            )
    levels = (f"specificity at {_ALPHAS[0]:g}", "specificity at 0.10")
    header = ["population, segmenter: null", *levels, *_BINS, "α of best lesion F1 (F1)"]
    made = {"roc": markdown_table(header, rows)}
    cells = {key: same for key, found in result["cells"].items() if (same := found.get(_MATCHED)) is not None}
    if cells:
        header = [
            "cell",
            "specificity of both",
            "iid: clear lesions",
            "cohort: clear lesions",
            "gain",
            "kept if p below",
        ]
        made["matched"] = markdown_table(header, [_levelled(key, same) for key, same in cells.items()])
    return made


def _levelled(key: str, same: Mapping[str, Any]) -> list[str]:
    """A row for the two tests at the specificity of the published one."""
    gain = f"{same['difference']['value']:+.3f}"
    if "interval" in same["difference"]:
        gain += " ({:+.3f} to {:+.3f})".format(*same["difference"]["interval"])
    shares = [f"{same['specificity']:.2f}", f"{same['theirs']:.3f}", f"{same['ours']:.3f}"]
    return [f"{key.replace('/', ', ')}, regions", *shares, gain, f"{same['below']:.3f}"]


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels, free = [], []
    for key, found in result["cells"].items():
        lines: dict[str, Any] = {}
        response: dict[str, Any] = {}
        for null in _NULLS.values():
            curve = found[null]
            lines[f"{null}: lesions kept"] = {"x": curve["alpha"], "y": curve["all lesions"]}
            lines[f"{null}: healthy left empty"] = {"x": curve["alpha"], "y": curve["specificity"]}
            for size, label in (("all lesions", "all lesions"), ("< 10 mm", "below 10 mm")):
                if size in curve:
                    response[f"{null}: {label}"] = {"x": curve["false a scan"], "y": curve[size]}
        panels.append({"title": key.replace("/", ", "), "lines": lines})
        free.append({"title": key.replace("/", ", "), "lines": response})
    return {
        "froc": {"panels": free, "xlabel": "false candidates kept a scan", "ylabel": "share of lesions kept"},
        "roc": {"panels": panels, "xlabel": "level α", "ylabel": "share of lesions, of healthy patients", "level": 0.9},
    }


STUDY = Study(
    name="r2seg-roc",
    question="How do sensitivity and specificity of the test alone depend on its level?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
