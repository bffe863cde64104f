"""The card of grey values and of the segmenter's own doubt: histogram, entropy, largest probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import Scan
from anatrust.report.charts import histogram
from anatrust.report.layers import Layer
from anatrust.report.listed import Entry
from anatrust.report.pictures import map_slice
from anatrust.report.rows import number
from anatrust.report.shown import body_threshold
from anatrust.report.uncertainty import Uncertainty
from anatrust.report.windows import Window

__all__ = ["grey_values", "uncertainty_card"]

_BINS = 64
_TAILS = (0.2, 99.8)
_INSIDE_UNSURE = 0.3


def grey_values(scan: Scan, mask: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """Histogram of the grey values in the mask and in the rest of the body; None for an empty mask."""
    inside = scan.array[mask].astype(np.float64)
    beside = scan.array[~mask & (scan.array > body_threshold(scan))]
    if inside.size == 0 or beside.size == 0:
        return None
    rest = "the rest of the body" if scan.grid.ndim == 3 else "the rest of the picture"
    ends = np.array([np.percentile(values, _TAILS) for values in (inside, beside)])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not high > low:
        return None
    if scan.array.dtype.kind in "iu":
        # Bins of whole grey values: others hold now one value, now two, and look like a comb.
        low, step = np.floor(low) - 0.5, np.ceil((high - low + 1) / _BINS)
        edges = low + step * np.arange(int(np.ceil((high + 0.5 - low) / step)) + 1)
        low, high = float(edges[0]), float(edges[-1])
    else:
        edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(np.clip(v, low, high), edges)[0].astype(np.float64) for v in (inside, beside)]
    unit = f" {scan.units}" if scan.units else ""
    middle = [f"{number(float(np.median(v)))}{unit}" for v in (inside, beside)]
    return {
        "chart": histogram([("in the mask", counts[0]), (f"in {rest}", counts[1])], edges, scan.units),
        "rest": rest,
        "sentence": f"Half of the mask's voxels are below {middle[0]}; in {rest} half are below {middle[1]}.",
    }


def uncertainty_card(
    found: Uncertainty | None, scan: Scan, layers: Sequence[Layer], entries: Sequence[Entry]
) -> dict[str, Any] | None:
    """Maps and means of the segmenter's doubt, through the largest entry; None without probabilities."""
    if found is None:
        return None
    rows = [
        {
            "part": part.part[:1].upper() + part.part[1:],
            "entropy": f"{part.entropy:.2f}",
            "largest": f"{part.largest:.2f}",
            "unsure": _share(part.unsure),
        }
        for part in found.parts
    ]
    inside = next((part for part in found.parts if part.part == "inside"), None)
    sentence = ""
    if inside is not None:
        sentence = (
            "The segmenter is unsure inside what it drew, not only where the edge runs: look there."
            if inside.entropy > _INSIDE_UNSURE
            else "Inside what it drew the segmenter is sure; that it is right was not tested by this."
        )
    pictures = []
    if entries:
        size = [int(np.prod([b - a for a, b in entry.box])) for entry in entries]
        largest = entries[int(np.argmax(size))]
        for title, values, window in (
            ("Entropy: white is unsure", found.entropy, Window("", 0.0, 1.0)),
            ("Largest probability: black is unsure", found.largest, Window("", 0.5, 1.0)),
        ):
            pictures.append((title, map_slice(values, scan.grid, layers, largest, window, largest.number)))
    return {"rows": rows, "sentence": sentence, "pictures": pictures}


def _share(share: float) -> str:
    return "0 %" if share == 0 else "<1 %" if share < 0.01 else f"{100 * share:.0f} %"
