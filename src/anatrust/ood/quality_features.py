"""Image quality of the whole frame as features: noise, sharpness, grey-value curve; needs neither mask nor network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import Scan
from anatrust.ood.features import Levels, ScanFeatures
from anatrust.ood.intensity import intensity_scale

__all__ = ["QualityFeatures"]

_LAGS = (1, 2, 4)
_NOISE = (25, 50, 75, 95)
_GREY = (10, 25, 50, 75, 90)
_LEAST = 1e-3  # of the grey-value unit: below it differences are rounding


@dataclass(frozen=True)
class QualityFeatures:
    """How a scan looks as an image, whatever it shows: what noise, blur, thick slices and another grey curve change.

    Per axis the mean difference of voxels 1, 2 and 4 apart (a madogram: noise raises its start, blur lowers it), four
    percentiles of the second difference along all axes in turn (noise alone is left; Immerkaer, CVIU 64, 1996), and
    five percentiles of the grey values. The first two as logarithms. One row a scan, 12 + 3 a number of axes.

    Parameters
    ----------
    window
        HU of CT that become 0 to 1. Other scans are clipped at their 0.5 and 99.5 percentiles and get zero mean and
        unit deviation.
    """

    window: tuple[float, float] = (-400.0, 400.0)

    @property
    def identity(self) -> str:
        """Name, revision and settings."""
        return f"quality/1 window={self.window}"

    def levels(self, ndim: int) -> Levels:
        """Three groups of columns, for scans of this many axes."""
        return (("differences", len(_LAGS) * ndim), ("noise", len(_NOISE)), ("grey values", len(_GREY)))

    def of(self, scan: Scan, *, identifier: str) -> ScanFeatures:
        """Features of one scan, ``(1, d)``; 0.1 s of one core a million voxels, and 16 bytes a voxel.

        Examples
        --------
        >>> from anatrust.image.grid import Grid
        >>> ramp = np.add.outer(np.arange(30.0), np.arange(20.0))
        >>> noisy = ramp + 3 * np.random.default_rng(0).standard_normal(ramp.shape)
        >>> plain, changed = (
        ...     QualityFeatures().of(Scan(x, Grid(x.shape, np.eye(4))), identifier="a") for x in (ramp, noisy)
        ... )
        >>> plain.values.shape, bool((changed.values[0, 6:10] > plain.values[0, 6:10] + 1).all())
        ((1, 15), True)
        """
        is_ct = scan.modality == "CT" or scan.units == "HU"
        grey = intensity_scale(scan.array, "window" if is_ct else "zscore", self.window, is_ct=is_ct).apply(scan.array)
        rows = [_apart(grey, axis, lag) for axis in range(grey.ndim) for lag in _LAGS]
        noise = _percentiles(np.abs(_rough(grey)), _NOISE)
        values = np.concatenate([np.log(np.array([*rows, *noise]) + _LEAST), _percentiles(grey, _GREY)])
        return ScanFeatures(identifier, values[None], self.levels(grey.ndim), self.identity)


def _percentiles(values: npt.NDArray[np.float32], which: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.percentile(values, which).astype(np.float64) if values.size else np.zeros(len(which))


def _apart(grey: npt.NDArray[np.float32], axis: int, lag: int) -> float:
    """Mean absolute difference of voxels this far apart along an axis; 0 where there are none."""
    lines = np.moveaxis(grey, axis, 0)
    return float(np.abs(lines[lag:] - lines[:-lag]).mean(dtype=np.float64)) if len(lines) > lag else 0.0


def _rough(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Second differences along all axes in turn, of unit deviation where the scan is white noise of deviation 1."""
    found = grey
    for axis in range(grey.ndim):
        lines = np.moveaxis(found, axis, 0)
        # A single slice has no second difference along its normal.
        if len(lines) > 2:
            found = np.moveaxis((lines[2:] - 2 * lines[1:-1] + lines[:-2]) / np.float32(6**0.5), 0, axis)
    return found
