"""Anchors from TotalSegmentator: its output, or a run of it in its own environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.image.volumes import Mask, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.totalsegmentator import TotalSegmentator

__all__ = ["TotalSegmentatorAnchors", "load"]


class TotalSegmentatorAnchors:
    """Organs as TotalSegmentator draws them; all that are asked for in one run.

    Parameters
    ----------
    tool
        Its output or its program.
    table
        The knowledge; the built-in one by default.
    """

    name: ClassVar[str] = "totalsegmentator"

    def __init__(self, tool: TotalSegmentator, table: Knowledge | None = None) -> None:
        self.tool = tool
        self.table = table or knowledge()

    @property
    def identity(self) -> str:
        """As of the tool."""
        return self.tool.identity

    def find(self, scan: Scan, structures: Sequence[str]) -> tuple[Anchor, ...]:
        """One anchor for each structure; a structure is the union of its classes."""
        classes = {key: tuple(self.table.labels(key, self.tool.table(scan)).values()) for key in structures}
        wanted = sorted({name for names in classes.values() for name in names})
        masks = self.tool.masks(scan, wanted) if wanted else {}
        found = []
        for key in structures:
            parts = [masks[name] for name in classes[key] if name in masks]
            if not classes[key]:
                found.append(Anchor.missing(key, self.name, "TotalSegmentator has no class for it"))
            elif not parts or not any(part.any() for part in parts):
                found.append(Anchor.missing(key, self.name, "TotalSegmentator does not draw it"))
            else:
                mask = Mask(np.logical_or.reduce(parts), scan.grid, key)
                short = len(parts) < len(classes[key])
                # A class that is absent from the folder makes the organ smaller than it is.
                quality = len(parts) / len(classes[key])
                reasons = (f"of its classes {', '.join(classes[key])} not all are there",) if short else ()
                found.append(Anchor(key, mask, self.name, "unreliable" if short else "ok", quality, reasons))
        return tuple(found)


def load(weights: Path | None, _device: str) -> TotalSegmentatorAnchors:
    """From its output, its program, or a JSON file that describes it."""
    assert weights is not None
    return TotalSegmentatorAnchors(TotalSegmentator(weights))
