"""The card of bounds: how good each structure's mask is at least, how large the true structure is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anatrust.report.rows import number, size_words

__all__ = ["bounds_card"]

_NOTHING = "nothing can be promised"


def bounds_card(bounds: Sequence[Mapping[str, Any]], ndim: int) -> dict[str, Any] | None:
    """Everything the card says about the verdict's ``bounds``; None where it has none."""
    if not bounds:
        return None
    share = f"{100 * (1 - bounds[0]['alpha']):g} %"
    several = ", for all structures at once" if len(bounds) > 1 else ""
    return {
        "sentence": (
            f"Each column holds for at least {share} of scans like those calibrated on{several}: it is no promise "
            "about this one scan."
        ),
        "rows": [
            {
                "structure": b["structure"],
                "dice": _at("≥", b["dice_lower"], ""),
                "hd95": _at("≤", b["hd95_upper"], b["unit"]),
                "volume": _volume(b, "volume", ndim),
                "volume_range": _between(_volume(b, "volume_lower", ndim), _volume(b, "volume_upper", ndim)),
                "diameter": f"{number(b['diameter'])} {b['unit']}",
                "diameter_range": _between(_length(b, "diameter_lower"), _length(b, "diameter_upper")),
            }
            for b in bounds
        ],
    }


def _at(sign: str, value: float | None, unit: str) -> str:
    return _NOTHING if value is None else f"{sign} {number(value)} {unit}".strip()


def _volume(b: Mapping[str, Any], key: str, ndim: int) -> str | None:
    if b[key] is None:
        return None
    return size_words(b[key] if b["unit"] == "mm" else None, round(b[key]), ndim)


def _length(b: Mapping[str, Any], key: str) -> str | None:
    return None if b[key] is None else f"{number(b[key])} {b['unit']}"


def _between(low: str | None, high: str | None) -> str:
    return _NOTHING if low is None or high is None else f"{low} to {high}"
