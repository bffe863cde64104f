"""What the viewer needs: volumes as text, layers to toggle, windows, and where things lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.report.embed import OUTLINE, base64_size, nifti_base64, overlay
from anatrust.report.layers import Layer
from anatrust.report.listed import Entry
from anatrust.report.refine import Finer, choose_finer
from anatrust.report.shown import Shown
from anatrust.report.windows import Window

__all__ = ["Viewer", "viewer"]

# Maps that fade from clear to full colour: yellow for probability, vermilion for entropy.
_SHADES: Mapping[str, tuple[int, int, int]] = {"probability": (240, 228, 66), "entropy": (235, 110, 30)}


@dataclass(frozen=True)
class Viewer:
    """Volumes by name (base64 NIfTI), the toggles for the page, and the script's settings."""

    volumes: Mapping[str, str]
    toggles: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]


def viewer(
    scan: Scan,
    shown: Shown,
    layers: Sequence[Layer],
    maps: Mapping[str, npt.NDArray[Any]],
    windows: Sequence[Window],
    entries: Sequence[Entry],
    *,
    budget: int,
) -> Viewer:
    """The viewer of a page.

    Parameters
    ----------
    scan, shown
        The scan, and what of it is shown.
    layers
        Masks to draw, in the order of their toggles.
    maps
        Further maps in [0, 1] by name (``"probability"``, ``"entropy"``), off at first; one that does
        not fit the budget is left out.
    windows, entries
        The first window is the one at the start; the view goes to the entries.
    budget
        Bytes for scan and maps together.
    """
    finer = choose_finer(shown, budget=int(0.8 * budget), size_of=base64_size)
    volumes = {"scan": nifti_base64(finer.levels, finer.grid, slope=shown.step, intercept=shown.low)}
    drawn: list[dict[str, Any]] = []
    for layer in layers:
        fine = finer.mask(shown.region.any(layer.mask))
        drawing = overlay(fine, finer.grid, layer.style.pattern, lids=min(finer.times) > 1 and fine.ndim == 3)
        volumes[layer.key] = nifti_base64(drawing, finer.grid)
        drawn.append(_layer(layer.key, layer.title, layer.group, layer.style.colour, layer.style.pattern, layer.on))
    left = budget - len(volumes["scan"])
    for name, values in maps.items():
        levels = np.rint(shown.region.mean(values) * 100).astype(np.uint8)
        text = nifti_base64(finer.mask(levels), finer.grid, slope=0.01)
        if len(text) <= left:
            left -= len(text)
            volumes[name] = text
            drawn.append(_layer(name, name.capitalize(), "", _SHADES[name], "shade", False))
    return Viewer(volumes, tuple(drawn), _settings(scan, shown, finer, windows, drawn, entries))


def _layer(key: str, title: str, group: str, colour: tuple[int, int, int], pattern: str, on: bool) -> dict[str, Any]:
    return {
        "name": key,
        "title": title,
        "group": group,
        "colour": colour,
        "hex": "#{:02x}{:02x}{:02x}".format(*colour),
        "pattern": pattern,
        "top": 1 if pattern == "shade" else OUTLINE,
        "on": on,
    }


def _settings(
    scan: Scan,
    shown: Shown,
    finer: Finer,
    windows: Sequence[Window],
    drawn: Sequence[Mapping[str, Any]],
    entries: Sequence[Entry],
) -> dict[str, Any]:
    """What the page's script needs to know."""
    order, _ = shown.grid.canonical_axes()
    extent = [n * s for n, s in zip(shown.grid.shape, shown.grid.spacing, strict=True)]
    return {
        "plane": _plane(scan.grid),
        # A picture's rows and columns are no directions in a patient.
        "raster": [*scan.grid.spacing] if scan.grid.layout == "raster" else None,
        "unit": scan.grid.unit,
        "units": scan.units,
        # Along the patient's axes: right to left, back to front, feet to head.
        "extent": [extent[axis] for axis in order],
        "step": [finer.times[axis] for axis in order],
        "windows": [{"name": w.name, "low": w.low, "high": w.high} for w in windows],
        "layers": [*drawn],
        "entries": [{"number": entry.number, "world": entry.world} for entry in entries],
    }


def _plane(grid: Grid) -> str:
    """The anatomical plane of a 2-D image; ``"all"`` for a volume."""
    if grid.ndim == 3:
        return "all"
    letters = set(grid.orientation)
    if letters & {"S", "I"}:
        return "coronal" if letters & {"L", "R"} else "sagittal"
    return "axial"
