"""What a cell of the R²Seg studies was to reach: specificity, clear lesions, and the level in healthy patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.intervals import allowance

__all__ = ["target", "value"]


def target(what: str, judged: Mapping[str, Any], level: float) -> dict[str, Any]:
    """One row of a summary's targets from the numbers of one way to judge (`anatrust.studies.r2seg_numbers.numbers`).

    Reached are 0.9 of the clear lesions at a specificity of 0.9; the level is kept where no more healthy patients
    keep anything than `allowance` grants. None where nothing could be counted.
    """
    specificity, clear, kept = (value(judged, name) for name in ("specificity", "clear lesions", "any kept"))
    limit = allowance(level, judged["healthy"])
    return {
        "what": what,
        "specificity": specificity,
        "clear": clear,
        "reached": None if clear is None or specificity is None else bool(min(clear, specificity) >= 0.9),
        "any_kept": kept,
        "limit": round(limit, 4),
        "level_met": None if kept is None else bool(kept <= limit),
    }


def value(judged: Mapping[str, Any], name: str) -> float | None:
    """One number without its interval; None where nothing could be counted."""
    return None if judged.get(name) is None else float(judged[name]["value"])
