"""The embedded segmenter: whatever stands out from its organ, on several scales; needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, minimum_filter1d, uniform_filter1d

from anatrust.errors import InputError
from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, crop_grid, crop_scan
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.blob import Side
from anatrust.models.segmentation import Capabilities, Prompt

__all__ = ["BlobSegmenter", "load"]

_MOST_VALUES = 2_000_000
_SLAB_VOXELS = 8_000_000
_WIDE = 2.5
# Voxels: below this a Gaussian smooths nothing, and every noisy voxel stands out.
_NARROW = 0.8


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

    contrast: float = 3.0
    side: Side = "both"
    smoothings: tuple[float, ...] = (2.0, 4.0, 8.0)
    margin: float = 5.0
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
        """Probability of standing out, 0 outside the organ.

        Cost: about 20 passes over the region a smoothing; memory: two float32 copies of it.
        """
        part = crop_scan(scan, region)
        array, grid = canonical(part.array, part.grid)
        if prompt.organ is None:
            inside = np.ones(array.shape, dtype=bool)
            core = inside
        else:
            inside = canonical(prompt.organ.array[region.slices], part.grid)[0]
            core = _eroded(inside, self.margin, grid.spacing)
        # Half precision holds standard deviations to a hundredth, and a whole body in half the memory.
        best = np.zeros(array.shape, dtype=np.float16)
        stands_out = False
        if core.any():
            middle = _middle(array, core)[0]
            for smoothing in self.smoothings:
                smooth = _smooth_inside(
                    array, inside, middle, [max(smoothing / step, _NARROW) for step in grid.spacing]
                )
                centre, spread = _middle(smooth, core)
                if spread > 0:
                    stands_out = True
                    smooth -= np.float32(centre)
                    smooth /= np.float32(spread)
                    if self.side == "both":
                        np.abs(smooth, out=smooth)
                    elif self.side == "dark":
                        np.negative(smooth, out=smooth)
                    np.clip(smooth, 0, 15 + self.contrast, out=smooth)
                    np.maximum(best, smooth, out=best, casting="same_kind")
                del smooth
        found = best.astype(np.float32)
        del best
        if stands_out:
            found -= np.float32(self.contrast)
            np.clip(found, -15, 15, out=found)
            found *= -2
            np.exp(found, out=found)
            found += 1
            np.reciprocal(found, out=found)
            found[~core] = 0
        here = crop_grid(scan.grid, region)
        return ProbabilityMap(restore(found, here)[None], here)


def _eroded(inside: npt.NDArray[np.bool_], margin: float, spacing: Sequence[float]) -> npt.NDArray[np.bool_]:
    """The organ without its rim; the region's border is no rim."""
    core = inside.astype(np.uint8)
    for axis, step in enumerate(spacing):
        width = int(margin // step)
        if width:
            minimum_filter1d(core, 2 * width + 1, axis=axis, output=core, mode="nearest")
    return core.astype(bool)


def _middle(values: npt.NDArray[Any], core: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Median and robust standard deviation inside, of every n-th voxel where there are very many."""
    step = max(1, int(np.ceil((np.count_nonzero(core) / _MOST_VALUES) ** (1 / core.ndim))))
    every = (slice(None, None, step),) * core.ndim
    sample = values[every][core[every]].astype(np.float64)
    if sample.size == 0:
        sample = values[core].astype(np.float64)
    middle = float(np.median(sample))
    return middle, 1.4826 * float(np.median(np.abs(sample - middle)))


def _smooth_inside(
    array: npt.NDArray[Any], inside: npt.NDArray[np.bool_], middle: float, sigma: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Gaussian mean over the organ's own voxels only (normalised convolution), less a constant."""
    found = np.empty(array.shape, dtype=np.float32)
    # Slab by slab along the last axis, each with what the filter reaches beyond it.
    length, reach = array.shape[-1], int(np.ceil(4 * sigma[-1])) + 4
    step = max(1, _SLAB_VOXELS // (array.size // length))
    for first in range(0, length, step):
        last = min(first + step, length)
        low, high = max(0, first - reach), min(length, last + reach)
        weight = inside[..., low:high].astype(np.float32)
        total = array[..., low:high].astype(np.float32)
        total -= np.float32(middle)
        total *= weight
        for axis, width in enumerate(sigma):
            for part in (weight, total):
                _smooth_axis(part, width, axis)
        np.maximum(weight, 1e-6, out=weight)
        total /= weight
        found[..., first:last] = total[..., first - low : last - low]
    return found


def _smooth_axis(values: npt.NDArray[np.float32], sigma: float, axis: int) -> None:
    """A Gaussian along one axis, in place; a wide one as three running means, whose cost has no width."""
    if sigma < _WIDE:
        gaussian_filter1d(values, sigma, axis=axis, output=values, mode="constant")
        return
    size = 2 * round((np.sqrt(4 * sigma**2 + 1) - 1) / 2) + 1
    for _ in range(3):
        uniform_filter1d(values, size, axis=axis, output=values, mode="constant")


def load(_weights: Path | None, _device: str) -> BlobSegmenter:
    """The segmenter with its defaults; it has neither weights nor a device."""
    return BlobSegmenter()
