"""The embedded segmenter: whatever stands out from its organ, on several scales; needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from anatrust.errors import InputError
from anatrust.image.region import Region, crop_grid, crop_scan
from anatrust.image.volumes import Mask, ProbabilityMap, Scan
from anatrust.models.blob import Side, contrast_probabilities
from anatrust.models.segmentation import Capabilities, Prompt

__all__ = ["BlobSegmenter", "load"]


@dataclass(frozen=True)
class BlobSegmenter:
    """Proposes everything in the anchor organ that is brighter or darker than the organ, at several sizes.

    It knows nothing about tumours: vessels, ducts and noise are proposed too, and rejection has to
    tell. Where the prompt holds no organ the whole region counts as one, which proposes every
    other organ in it.

    Parameters
    ----------
    contrast
        At how many robust standard deviations of the smoothed organ the probability is one half.
    side
        ``"bright"``, ``"dark"`` or ``"both"``.
    smoothings
        Standard deviations of the Gaussians, in mm (pixels where spacing is unknown); about half
        the radius of what each of them answers to best. The largest answer counts.
    margin
        Rim of the organ that is left out, in mm.

    Raises
    ------
    InputError
        If a value is impossible.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> image = np.random.default_rng(0).normal(size=(64, 64))
    >>> image[20:30, 20:30] += 3
    >>> grid = Grid((64, 64), np.eye(4))
    >>> region = Region((10, 10), (50, 50))
    >>> found = BlobSegmenter().segment(Scan(image, grid), Prompt("tumour"), region)
    >>> found.array.shape, bool(found.array[0, 15, 15] > 0.5)
    ((1, 40, 40), True)
    """

    contrast: float = 2.5
    side: Side = "both"
    smoothings: tuple[float, ...] = (1.5, 3.0, 6.0)
    margin: float = 3.0
    name: ClassVar[str] = "blob"
    # Gaussians and medians do not know left from right.
    capabilities: ClassVar[Capabilities] = Capabilities(mirrors=False)

    def __post_init__(self) -> None:
        sizes: Sequence[float] = self.smoothings
        if not sizes or min(sizes) <= 0 or not self.contrast > 0 or self.margin < 0:
            raise InputError(
                f"blobs need positive smoothings and contrast, not {tuple(sizes)} mm and {self.contrast:g}"
            )

    @property
    def identity(self) -> str:
        """Name and settings."""
        sizes = "-".join(f"{v:g}" for v in self.smoothings)
        return f"blob(contrast={self.contrast:g},side={self.side},smoothings={sizes},margin={self.margin:g})"

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """Probability of standing out, 0 outside the organ; cost: a few filters a smoothing."""
        part = crop_scan(scan, region)
        if prompt.organ is None:
            organ = Mask(np.ones(region.shape, dtype=bool), part.grid)
            margin = 0.0
        else:
            organ = Mask(prompt.organ.array[region.slices], part.grid)
            margin = self.margin
        best = np.zeros(region.shape, dtype=np.float32)
        for smoothing in self.smoothings:
            found = contrast_probabilities(
                part, organ, contrast=self.contrast, side=self.side, smoothing=smoothing, margin=margin
            )
            np.maximum(best, found.array[0], out=best)
        return replace(found, array=best[None], grid=crop_grid(scan.grid, region))


def load(_weights: Path | None, _device: str) -> BlobSegmenter:
    """The segmenter with its defaults; it has neither weights nor a device."""
    return BlobSegmenter()
