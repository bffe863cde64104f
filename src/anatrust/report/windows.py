"""Grey-value windows: which values are black and which are white."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatrust.image.volumes import Scan
from anatrust.report.shown import Shown, body_threshold, in_hounsfield

__all__ = ["Window", "presets"]

_CT = (
    ("Soft tissue", 40, 400),
    ("Liver", 80, 180),
    ("Lung", -600, 1500),
    ("Bone", 400, 1800),
    ("Brain", 40, 80),
)


@dataclass(frozen=True)
class Window:
    """A named range of grey values: ``low`` is black, ``high`` white."""

    name: str
    low: float
    high: float


def presets(scan: Scan, shown: Shown) -> tuple[Window, ...]:
    """Windows to offer for a scan; the first is the one the page opens with.

    CT in Hounsfield units gets the usual five. Anything else is windowed by its own
    percentiles within the body.
    """
    values = shown.values().ravel()
    values = values[:: max(1, values.size // 1_000_000)]
    low, high = float(values.min()), float(values.max())
    full = Window("Full range", low, high if high > low else low + 1)
    if in_hounsfield(scan):
        return (*(Window(name, centre - width / 2, centre + width / 2) for name, centre, width in _CT), full)
    body = values[values > body_threshold(scan)] if scan.grid.ndim == 3 else values
    if body.size < 100:
        return (full,)
    found = []
    shares = [("Automatic", 1, 99.5), ("Dim details", 1, 90), ("Bright details", 60, 99.95)]
    if scan.modality == "PET":
        shares = [("Automatic", 0, 99.8), ("Dim details", 0, 97)]
    for name, bottom, top in shares:
        a, b = (float(v) for v in np.percentile(body, (bottom, top)))
        if b > a:
            found.append(Window(name, 0.0 if scan.modality == "PET" and low >= 0 else a, b))
    return (*found, full)
