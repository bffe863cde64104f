"""The pixel classifier as a segmenter: trained from a labelled cohort in minutes, needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, canonical_region, crop_grid
from anatrust.image.volumes import Mask, ProbabilityMap, Scan
from anatrust.models.pixel_classifier import PixelClassifier
from anatrust.models.segmentation import Capabilities, Prompt

__all__ = ["PixelTarget", "load"]


class PixelTarget:
    """A :class:`~anatrust.models.pixel_classifier.PixelClassifier` that looks inside the anchor organ.

    Where the prompt holds no organ it looks everywhere in the region.

    Parameters
    ----------
    model
        The trained classifier; what it was trained on is what it looks for.
    """

    name: ClassVar[str] = "pixel-classifier"

    def __init__(self, model: PixelClassifier) -> None:
        self._model = model
        # Gaussians, gradients' lengths and eigenvalues do not know left from right.
        self.capabilities = Capabilities(mirrors=False, ndim=model.ndim)
        self.identity = f"pixel-classifier(sha256={model.digest[:16]})"

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """Probability of the target, 0 outside the organ; cost: the descriptors of region and organ."""
        # Sums in another order round otherwise, and trees have thresholds: the file's axes must not matter.
        array, grid = canonical(scan.array, scan.grid)
        organ = None if prompt.organ is None else Mask(canonical(prompt.organ.array, scan.grid)[0], grid)
        found = self._model.probabilities(Scan(array, grid), canonical_region(region, scan.grid), organ)
        here = crop_grid(scan.grid, region)
        return ProbabilityMap(restore(found, here)[None], here)


def load(weights: Path | None, _device: str) -> PixelTarget:
    """The classifier saved in a file; it computes on the CPU."""
    assert weights is not None
    return PixelTarget(PixelClassifier.load(weights))
