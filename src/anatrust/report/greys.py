"""The card of grey values and of the segmenter's own doubt: histogram, entropy, largest probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
# More whole grey values than these are sorted instead of counted one by one.
_MOST_LEVELS = 2**17


def grey_values(scan: Scan, mask: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """Histogram of the grey values in the mask and in the rest of the body; None for an empty mask."""
    inside, beside = _inside_and_beside(scan.array, mask, body_threshold(scan))
    if inside.counts.size == 0 or beside.counts.size == 0:
        return None
    rest = "the rest of the body" if scan.grid.ndim == 3 else "the rest of the picture"
    low = min(inside.percentile(_TAILS[0]), beside.percentile(_TAILS[0]))
    high = max(inside.percentile(_TAILS[1]), beside.percentile(_TAILS[1]))
    if not high > low:
        return None
    if scan.array.dtype.kind in "iu":
        # Bins of whole grey values: others hold now one value, now two, and look like a comb.
        low, step = np.floor(low) - 0.5, np.ceil((high - low + 1) / _BINS)
        edges = low + step * np.arange(int(np.ceil((high + 0.5 - low) / step)) + 1)
        low, high = float(edges[0]), float(edges[-1])
    else:
        edges = np.linspace(low, high, _BINS + 1)
    counts = [v.histogram(edges) for v in (inside, beside)]
    unit = f" {scan.units}" if scan.units else ""
    middle = [f"{number(v.percentile(50))}{unit}" for v in (inside, beside)]
    return {
        "chart": histogram([("in the mask", counts[0]), (f"in {rest}", counts[1])], edges, scan.units),
        "rest": rest,
        "sentence": f"Half of the mask's voxels are below {middle[0]}; in {rest} half are below {middle[1]}.",
    }


@dataclass(frozen=True, eq=False)
class _Greys:
    """Grey values, ascending, and how many voxels have each: a scan of 10^8 voxels has a few thousand of them."""

    levels: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    def percentile(self, share: float) -> float:
        """The grey value below which ``share`` % of the voxels lie, linear between neighbours."""
        ends = np.cumsum(self.counts)
        place = share / 100 * (ends[-1] - 1)
        before = int(place)
        low, high = self.levels[np.searchsorted(ends, [before, min(before + 1, ends[-1] - 1)], side="right")]
        return float(low + (high - low) * (place - before))

    def histogram(self, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Voxels in each bin; what lies beyond the bins is in the first or the last."""
        levels = np.clip(self.levels, edges[0], edges[-1])
        found: npt.NDArray[np.float64] = np.histogram(levels, edges, weights=self.counts)[0]
        return found


def _inside_and_beside(array: npt.NDArray[Any], mask: npt.NDArray[np.bool_], threshold: float) -> tuple[_Greys, _Greys]:
    """Grey values in a mask, and those above a threshold beside it."""
    whole = array.dtype.kind in "iu"
    low, span = (int(array.min()), int(array.max()) - int(array.min()) + 1) if whole else (0, 0)
    if not 0 < span <= _MOST_LEVELS:
        parts = (array[mask], array[~mask & (array > threshold)])
        one, other = (_greys(*np.unique(part, return_counts=True)) for part in parts)
        return one, other
    found = np.zeros((2, span), dtype=np.int64)
    # Slabs as they lie in memory, so that nothing as large as the scan is made.
    axis = int(np.argmax(np.abs(array.strides)))
    for slab, own in zip(np.moveaxis(array, axis, 0), np.moveaxis(mask, axis, 0), strict=True):
        for row, part in enumerate((own, ~own & (slab > threshold))):
            found[row] += np.bincount(slab[part].astype(np.int64) - low, minlength=span)
    inside, beside = (_greys(np.arange(span) + low, counts) for counts in found)
    return inside, beside


def _greys(levels: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> _Greys:
    there = counts > 0
    return _Greys(levels[there].astype(np.float64), counts[there])


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
