"""The card of screening: what it says of the scan, what drives it, and the crops it looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.report.charts import bars
from anatrust.report.layers import Layer
from anatrust.report.pictures import boxed_slices
from anatrust.report.rows import number, probability
from anatrust.report.windows import Window

if TYPE_CHECKING:
    from anatrust.ood.explain import Explanation

__all__ = ["screening_card"]

_MOST_LEVELS = 6
_HEADINGS = {
    "usual": ("info", "Usual", "Nothing strange was found about this scan."),
    "strange": ("warning", "Strange", "The model may not be fit for this scan."),
    "no_prediction": ("warning", "No prediction", "Nothing was segmented, so there was nothing to look at."),
    "infeasible": ("warning", "Cannot be said", "Too few patients were calibrated on to call any scan strange."),
}


def screening_card(
    screening: Mapping[str, Any] | None,
    explanation: Explanation | None,
    crops: Sequence[Grid],
    scan: Scan,
    layers: Sequence[Layer],
    window: Window,
) -> dict[str, Any] | None:
    """Everything the card says; None where the profile has no screening.

    Crops are pictured strangest first, with their place in the order of drawing.
    """
    if screening is None:
        return None
    severity, heading, meaning = _HEADINGS[screening["verdict"]]
    facts = []
    if screening["abnormality"] is not None:
        facts.append(("Abnormality", number(screening["abnormality"]), "higher is stranger"))
    if screening["p_value"] is not None:
        floor = screening["p_value"] <= screening["p_floor"] * (1 + 1e-9)
        facts.append(("p-value", probability(screening["p_value"]), "the smallest possible" if floor else ""))
    facts.append(("Flagged below", f"{screening['flag_rate']:g}", "share of usual scans that may be flagged"))
    card: dict[str, Any] = {
        "severity": severity,
        "heading": heading,
        "meaning": meaning,
        "reasons": [reason[:1].upper() + reason[1:] for reason in screening["reasons"]],
        "facts": facts,
        "explained": explanation is not None,
        "levels": "",
        "crops": [],
        "nearest": [],
    }
    if explanation is not None:
        rows = [(name, drop, _short(drop)) for name, drop in explanation.levels if drop > 0][:_MOST_LEVELS]
        card["levels"] = bars(rows, "How much of the abnormality each group of features carries") if rows else ""
        card["nearest"] = [(name, f"{distance:.2f}") for name, distance in explanation.nearest]
        card["crops"] = _crops(explanation.crops, crops, scan, layers, window)
    return card


def _crops(
    scores: Sequence[float], crops: Sequence[Grid], scan: Scan, layers: Sequence[Layer], window: Window
) -> list[dict[str, Any]]:
    """Strangest first; crops of the same place (all of them, where a scan is small) share a picture."""
    places: dict[str, dict[str, Any]] = {}
    pictures = boxed_slices(scan, layers, crops, window)
    scored = zip(pictures, scores, strict=True) if crops else ()
    for (picture, world), score in sorted(scored, key=lambda pair: -pair[1]):
        place = places.setdefault(
            picture.png, {"picture": picture, "world": world, "numbers": [], "abnormality": number(score)}
        )
        place["numbers"].append(picture.number)
    for place in places.values():
        numbers = sorted(place["numbers"])
        place["title"] = f"Crop {numbers[0]}" if len(numbers) == 1 else f"Crops {', '.join(map(str, numbers))}"
        if len(places) == 1 and len(numbers) > 1:
            place["title"] = f"All {len(numbers)} crops"
    return list(places.values())


def _short(value: float) -> str:
    """Two digits, or a whole number."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
