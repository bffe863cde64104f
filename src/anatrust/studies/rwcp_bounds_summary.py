"""What study `rwcp-bounds` concludes: tables, a figure and targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anatrust.pipeline.bounds_evidence import QUANTITIES
from anatrust.studies.study import Context
from anatrust.studies.tables import markdown_table

__all__ = ["ALPHA", "figures", "summarise", "tables"]

ALPHA = 0.10
"""Promised share of scans that may break a bound."""


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Rows by image set and quantity, and the targets: broken bounds at most α and two standard errors."""
    targets = []
    for key, found in results.items():
        for name, one in found["quantities"].items():
            limit = round(ALPHA + 2 * one["se"], 4)
            targets.append(
                {
                    "what": f"{key}: broken bounds of {name}",
                    "observed": one["broken"],
                    "limit": limit,
                    "met": one["broken"] <= limit,
                }
            )
    return {"alpha": ALPHA, "rows": {key: found["quantities"] for key, found in results.items()}, "targets": targets}


def tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    """Whether bounds hold, and what they are worth beside one bound for all."""
    kept, worth = [], []
    units = {"dice": "", "hd95": " mm", "volume": "×", "diameter": "×"}
    for key, quantities in sorted(result["summary"]["rows"].items()):
        name = key.replace("/", " ")
        shares = [f"{quantities[q]['broken']:.3f} ± {quantities[q]['se']:.3f}" for q in QUANTITIES]
        kept.append([name, quantities["dice"]["calibrated_on"], *shares])
        for what in QUANTITIES:
            one = quantities[what]
            unit = " px" if what == "hd95" and "cardiac" in key else units[what]
            gain, low, high = one["difference"]
            worth.append(
                [
                    f"{name}, {what}",
                    f"{one['bound']:.2f}{unit}",
                    f"{one['constant']:.2f}{unit}",
                    f"{gain:+.2f} ({low:+.2f} to {high:+.2f})",
                    f"{one['vacuous']:.0%}",
                    f"{one['vacuous_constant']:.0%}",
                ]
            )
    return {
        "kept": markdown_table(["segmenter", "calibrated on", *QUANTITIES], kept),
        "worth": markdown_table(
            ["what", "mean bound", "constant bound", "difference (95 %)", "vacuous", "constant vacuous"], worth
        ),
    }


def figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """One figure: Dice of scans nobody calibrated on, against the bound that was shown for them."""
    panels = []
    for key, quantities in sorted(result["summary"]["rows"].items()):
        points = quantities["dice"].get("points")
        if not points:
            continue
        bound, dice = np.array(points["bound"]), np.array(points["dice"])
        bins = np.array_split(np.argsort(bound, kind="stable"), 6)
        bins = [one for one in bins if one.size]
        middle = [round(float(bound[one].mean()), 3) for one in bins]
        lines = {
            "median Dice": {"x": middle, "y": [round(float(np.median(dice[one])), 3) for one in bins]},
            "lowest tenth": {"x": middle, "y": [round(float(np.quantile(dice[one], 0.1)), 3) for one in bins]},
            "bound": {"x": middle, "y": middle},
        }
        panels.append({"title": key.replace("/", " "), "lines": lines})
    return {"dice": {"panels": panels, "xlabel": "bound shown", "ylabel": "Dice", "columns": 2}} if panels else {}
