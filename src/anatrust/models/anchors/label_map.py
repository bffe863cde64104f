"""Anchors from a label map that somebody already has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.anatomy.plausibility import structure_of
from anatrust.errors import GeometryError
from anatrust.image.region import label_boxes
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.anchor import Anchor

__all__ = ["LabelMapAnchors", "with_parts"]


class LabelMapAnchors:
    """The organs of a label map, found by the names of its labels.

    A paired or divided organ is the union of its parts: "kidney" is found where the map has a left
    and a right one.

    Parameters
    ----------
    labels
        Named structures on the scan's grid.
    table
        The knowledge that the names are looked up in; the built-in one by default.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((2, 2), np.eye(4))
    >>> organs = LabelMap(np.array([[1, 2], [0, 5]]), grid, {1: "kidney_left", 2: "kidney_right"})
    >>> found = LabelMapAnchors(organs).find(Scan(np.zeros((2, 2)), grid), ["kidney", "liver"])
    >>> [(a.structure, a.status) for a in found], int(found[0].mask.array.sum())
    ([('kidney', 'ok'), ('liver', 'missing')], 2)
    """

    name: ClassVar[str] = "label-map"

    def __init__(self, labels: LabelMap, table: Knowledge | None = None) -> None:
        self.labels = labels
        self.table = table or knowledge()

    @property
    def identity(self) -> str:
        """The name alone: which map it was stands among the inputs of a run."""
        return self.name

    @cached_property
    def _boxes(self) -> dict[int, tuple[slice, ...]]:
        """The box of every label that the map holds."""
        return label_boxes(self.labels.array)

    def find(self, scan: Scan, structures: Sequence[str]) -> tuple[Anchor, ...]:
        """One anchor for each structure; cost: one pass over the map, and one over the box of each structure.

        Raises
        ------
        GeometryError
            If map and scan lie on different grids.
        """
        if not self.labels.grid.same_as(scan.grid):
            raise GeometryError(f"the anatomy lies on {self.labels.grid!r}, the scan on {scan.grid!r}: resample it")
        numbers: dict[str, list[int]] = {}
        for number, name in self.labels.names.items():
            key = structure_of(name, self.table)
            if key is not None:
                numbers.setdefault(key, []).append(number)
        if not numbers:
            reason = "no label of the map has the name of an organ: say what its numbers mean (--anatomy-names)"
            return tuple(Anchor.missing(key, self.name, reason) for key in structures)
        return tuple(self._one(key, numbers) for key in structures)

    def _one(self, structure: str, numbers: dict[str, list[int]]) -> Anchor:
        wanted = [n for key in with_parts(structure, self.table) for n in numbers.get(key, [])]
        if not wanted:
            return Anchor.missing(structure, self.name, "the label map does not hold it")
        boxes = [self._boxes[n] for n in wanted if n in self._boxes]
        if not boxes:
            return Anchor.missing(structure, self.name, "the label map does not hold it")
        found = np.zeros(self.labels.array.shape, dtype=bool)
        for box in boxes:
            # Only the structure's own box is touched: a frame is a hundred times as large.
            found[box] |= np.isin(self.labels.array[box], wanted)
        return Anchor(structure, Mask(found, self.labels.grid, structure), self.name)


def with_parts(structure: str, table: Knowledge) -> tuple[str, ...]:
    """A structure and all its parts, however deep.

    >>> with_parts("kidney", knowledge())
    ('kidney', 'kidney_left', 'kidney_right')
    """
    found, waiting = [], [structure]
    while waiting:
        key = waiting.pop(0)
        found.append(key)
        waiting += table.parts(key)
    return tuple(found)
