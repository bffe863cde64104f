"""From grey values to what a vision transformer was trained on: window, size, three channels, normalisation.

No torchvision and no processor of transformers: the four steps stand here, so that features do not
change with a library's defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.volumes import Scan

__all__ = ["GrayWindow", "pixel_values", "slice_axis", "target_size"]


@dataclass(frozen=True)
class GrayWindow:
    """How grey values become [0, 1]: everything below the window is 0, above it 1, linear between.

    Parameters
    ----------
    hounsfield
        Window of scans in Hounsfield units; the default is abdominal soft tissue (centre 40, width 400).
    percentiles
        Of all other scans: percentiles of the whole scan (a slice's own would change from slice to slice).

    Raises
    ------
    InputError
        If a window is empty.

    Examples
    --------
    >>> GrayWindow().describe()
    'HU -160..240, else percentiles 0.5..99.5'
    """

    hounsfield: tuple[float, float] = (-160.0, 240.0)
    percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not (self.hounsfield[0] < self.hounsfield[1] and 0 <= low < high <= 100):
            raise InputError(f"a grey window ends above where it begins, not {self.hounsfield} or {self.percentiles}")

    def describe(self) -> str:
        """In words, for an identity."""
        return "HU {:g}..{:g}, else percentiles {:g}..{:g}".format(*self.hounsfield, *self.percentiles)

    def apply(self, scan: Scan) -> npt.NDArray[np.float32]:
        """The scan in [0, 1], float32; a constant scan is 0."""
        values = scan.array.astype(np.float32)
        low, high = self.hounsfield if scan.units == "HU" else map(float, np.percentile(values, self.percentiles))
        if not high > low:
            return np.zeros(values.shape, dtype=np.float32)
        return np.asarray(np.clip((values - low) / (high - low), 0, 1), dtype=np.float32)


def slice_axis(spacing: Sequence[float]) -> int:
    """The axis slices are stacked along: the one of the largest spacing; the last among equals.

    Examples
    --------
    >>> slice_axis((1.0, 5.0, 1.0)), slice_axis((1.0, 1.0, 1.0))
    (1, 2)
    """
    widest = max(spacing)
    return max(axis for axis, step in enumerate(spacing) if step > widest * (1 - 1e-3))


def target_size(extent: Sequence[float], resolution: int, patch: int) -> tuple[int, int]:
    """Pixels an image of this extent (in mm) is resized to: the longer edge ``resolution``, whole patches.

    Keeps the aspect in mm to within half a patch; at least one patch each way.

    Examples
    --------
    >>> target_size((200.0, 100.0), 224, 16)
    (224, 112)
    """
    longest = max(extent)
    height, width = (max(1, round(length / longest * resolution / patch)) * patch for length in extent)
    return height, width


def pixel_values(slices: Any, size: tuple[int, int], mean: Sequence[float], deviation: Sequence[float]) -> Any:
    """Network input ``(n, 3, *size)`` from a torch tensor of slices ``(n, height, width)`` in [0, 1].

    Bicubic with antialiasing (as the families' processors resize), clipped to [0, 1], repeated to
    three channels, then ``(x - mean) / deviation`` a channel.
    """
    import torch

    image = slices[:, None].float()
    if tuple(image.shape[2:]) != tuple(size):
        image = torch.nn.functional.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)
    image = image.clamp(0, 1).expand(-1, 3, -1, -1)
    centre = torch.tensor(mean, dtype=torch.float32, device=image.device)[:, None, None]
    scale = torch.tensor(deviation, dtype=torch.float32, device=image.device)[:, None, None]
    return (image - centre) / scale
