"""TotalSegmentator as a segmenter: it answers for its own classes, organs and a few lesions."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.region import Region, crop_grid
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.totalsegmentator import TotalSegmentator

__all__ = ["TotalSegmentatorSegmenter", "load"]


class TotalSegmentatorSegmenter:
    """Asked by class names; answers yes or no over the whole scan.

    Parameters
    ----------
    tool
        Its output or its program. One run a question; the last answer is kept.
    """

    name: ClassVar[str] = "totalsegmentator"
    capabilities: ClassVar[Capabilities] = Capabilities(
        prompts=("text",), ndim=(3,), probabilities=False, mirrors=False, context="scan", organs=True,
        wording="totalsegmentator",
    )  # fmt: skip

    def __init__(self, tool: TotalSegmentator) -> None:
        self.tool = tool
        self._last: tuple[npt.NDArray[np.generic], tuple[str, ...], npt.NDArray[np.float32]] | None = None

    @property
    def identity(self) -> str:
        """As of the tool."""
        return self.tool.identity

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """The union of the classes in the prompt's words, cut to the region.

        Raises
        ------
        InputError
            If none of the classes is there, or the tool fails.
        """
        if self._last is None or self._last[0] is not scan.array or self._last[1] != prompt.words:
            masks = self.tool.masks(scan, prompt.words)
            if not masks:
                raise InputError(f"TotalSegmentator has nothing for {', '.join(prompt.words) or prompt.target}")
            found = np.logical_or.reduce(list(masks.values())).astype(np.float32)
            self._last = (scan.array, prompt.words, found)
        values = np.ascontiguousarray(self._last[2][region.slices])
        return ProbabilityMap(values[None], crop_grid(scan.grid, region))


def load(weights: Path | None, _device: str) -> TotalSegmentatorSegmenter:
    """From its output, its program, or a JSON file that describes it."""
    assert weights is not None
    return TotalSegmentatorSegmenter(TotalSegmentator(weights))
