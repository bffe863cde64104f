"""Anchors from the segmenter itself: it is asked for the organ, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.errors import InputError
from anatrust.image.region import Region
from anatrust.image.volumes import Mask, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.asking import check_readable, view_answers
from anatrust.models.planner import PlanModality
from anatrust.models.prompts import anchor_prompts
from anatrust.models.protocols import Segmenter
from anatrust.models.segmentation import Prompt
from anatrust.models.views import View, ViewSet, views_of

__all__ = ["PromptedAnchors", "agreement"]


class PromptedAnchors:
    """Asks a segmenter with text prompts for the organ over the whole frame (R²Seg's M_a = 1{P_a ≥ τ_a}).

    The views' masks are compared: where mirrored images give other organs, the answer is a guess.

    Parameters
    ----------
    segmenter
        One whose capabilities say that organs are answered.
    views
        Which views are asked.
    threshold
        τ_a. The paper's value is unknown; ours is 0.5.
    least_agreement
        An anchor whose views agree to less than this is unreliable.
    table
        The knowledge; the built-in one by default.

    Raises
    ------
    InputError
        If the segmenter cannot be asked for organs.
    """

    name: ClassVar[str] = "prompted"

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        views: ViewSet = "paper",
        threshold: float = 0.5,
        least_agreement: float = 0.7,
        table: Knowledge | None = None,
    ) -> None:
        if not segmenter.capabilities.organs:
            raise InputError(f"the segmenter {segmenter.name!r} cannot be asked for an organ: give anchors otherwise")
        if not 0 < threshold < 1:
            raise InputError(f"the anchor threshold is {threshold:g}: give a number between 0 and 1")
        self.segmenter = segmenter
        self.views: ViewSet = views
        self.threshold = threshold
        self.least_agreement = least_agreement
        self.table = table or knowledge()

    @property
    def identity(self) -> str:
        """Name, segmenter, threshold and views."""
        return f"prompted({self.segmenter.identity},threshold={self.threshold:g},views={self.views})"

    def find(self, scan: Scan, structures: Sequence[str]) -> tuple[Anchor, ...]:
        """One anchor for each structure; cost: one answer of the segmenter a view and structure."""
        check_readable(self.segmenter, scan)
        return tuple(self._one(scan, key) for key in structures)

    def _one(self, scan: Scan, structure: str) -> Anchor:
        modality: PlanModality = "unknown" if scan.modality == "photo" else scan.modality
        wording = self.segmenter.capabilities.wording
        if not anchor_prompts(structure, wording, modality, table=self.table):
            return Anchor.missing(structure, self.name, f"{self.segmenter.name} has no words for it")

        def prompt(view: View) -> Prompt:
            words = anchor_prompts(structure, wording, modality, mirrored=view.swaps_sides, table=self.table)
            return Prompt(self.table.structure(structure).name, words)

        views = views_of(scan.grid, self.views if self.segmenter.capabilities.mirrors else "identity")
        masks, top = [], 0.0
        best: npt.NDArray[np.float32] | None = None
        whole = Region.whole(scan.grid.shape)
        for _, answer in view_answers(self.segmenter, scan, whole, prompt, views):
            top = max(top, float(answer.max()))
            masks.append(np.packbits(answer >= self.threshold))
            best = answer.copy() if best is None else np.maximum(best, answer, out=best)
        assert best is not None
        mask = Mask(best >= self.threshold, scan.grid, structure)
        if not mask.array.any():
            return Anchor.missing(
                structure, self.name, f"{self.segmenter.name} does not draw it (largest probability {top:.2f})"
            )
        agree = agreement(masks)
        if agree < self.least_agreement:
            reason = f"mirrored views of the image agree only to a Dice of {agree:.2f}"
            return Anchor(structure, mask, self.name, "unreliable", agree, (reason,))
        return Anchor(structure, mask, self.name, "ok", agree)


def agreement(masks: Sequence[npt.NDArray[np.uint8]]) -> float:
    """Smallest Dice between any two of several masks packed with :func:`numpy.packbits`; 1 for a single one.

    >>> agreement([np.packbits([1, 1, 0, 0]), np.packbits([1, 0, 0, 0])])
    0.6666666666666666
    """
    worst = 1.0
    counts = [int(np.bitwise_count(m).sum()) for m in masks]
    for i, one in enumerate(masks):
        for j in range(i + 1, len(masks)):
            total = counts[i] + counts[j]
            shared = int(np.bitwise_count(one & masks[j]).sum())
            worst = min(worst, 2 * shared / total if total else 1.0)
    return worst
