"""From grey values to numbers near [0, 1]: a fixed window for CT, a stated rule for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["IntensityRule", "IntensityScale", "intensity_scale"]

IntensityRule = Literal["auto", "window", "percentile", "zscore", "standard"]

_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class IntensityScale:
    """Clip to [low, high], subtract ``offset``, divide by ``width``; ``sentence`` says it in words."""

    low: float
    high: float
    offset: float
    width: float
    sentence: str

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The scaled values, float32, same shape."""
        clipped = np.clip(values.astype(np.float32), np.float32(self.low), np.float32(self.high))
        return np.asarray((clipped - np.float32(self.offset)) / np.float32(self.width), dtype=np.float32)


def intensity_scale(
    array: npt.NDArray[Any], rule: IntensityRule, window: tuple[float, float], *, is_ct: bool
) -> IntensityScale:
    """The scale of one scan.

    Parameters
    ----------
    array
        The whole scan, so that all of its crops are scaled alike.
    rule
        ``"window"``: the HU window becomes [0, 1]. ``"percentile"``: the 0.5 and 99.5 percentiles
        of the voxels above the scan's smallest value (air, padding) become 0 and 1; it forgives
        other units, and cannot see a change of unit or gain. ``"zscore"``: the same two
        percentiles over *all* voxels, then zero mean and unit deviation of the clipped scan, as
        the U-Net of :mod:`anatrust.models.unet` was trained. ``"standard"``: zero mean and unit
        deviation without clipping, as nnU-Net scales MR. ``"auto"``: window for CT,
        percentile for all others.
    window
        In HU.
    is_ct
        Whether the scan is CT or states HU.

    Examples
    --------
    >>> scale = intensity_scale(np.array([-1000.0, 0.0, 3000.0]), "auto", (-400, 400), is_ct=True)
    >>> scale.apply(np.array([-1000, 0, 3000])).tolist()
    [0.0, 0.5, 1.0]
    """
    if rule == "window" or (rule == "auto" and is_ct):
        low, high = window
        return IntensityScale(low, high, low, high - low, f"grey values of {low:g} to {high:g} HU become 0 to 1")
    if rule == "zscore":
        low, high = (float(v) for v in np.percentile(array, _PERCENTILES))
        clipped = np.clip(array.astype(np.float32), low, high)
        deviation = float(clipped.std())
        sentence = "grey values between the scan's 0.5 and 99.5 percentiles, zero mean and unit deviation"
        return IntensityScale(low, high, float(clipped.mean()), deviation if deviation > 0 else 1.0, sentence)
    if rule == "standard":
        mean, deviation = float(array.mean()), float(array.std())
        low, high = float(array.min()), float(array.max())
        return IntensityScale(low, high, mean, deviation if deviation > 0 else 1.0, "zero mean and unit deviation")
    smallest = array.min()
    above = array[array > smallest]
    low, high = (float(v) for v in np.percentile(above, _PERCENTILES)) if above.size else (float(smallest),) * 2
    if not high > low:
        low, high = float(smallest), float(array.max())
    width = high - low if high > low else 1.0
    return IntensityScale(low, high, low, width, "the 0.5 and 99.5 percentiles of the scan's foreground become 0 and 1")
