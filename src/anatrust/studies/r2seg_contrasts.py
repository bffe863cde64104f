"""Scans under contrasts drawn at random, to teach a segmenter many of them (after SynthSeg)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.volumes import Scan

__all__ = ["random_contrast"]

_KNOTS = 8


def random_contrast(scan: Scan, rng: np.random.Generator) -> Scan:
    """The same anatomy in grey values that no scanner need have made.

    A curve through eight knots, half of them grey values of the scan and half spread evenly over its range, takes them
    to random values: rising, falling or neither, each in a third of draws. Then a smooth field of 0 to 15 % and
    Rician noise of 0.3 to 3 % of the range.

    References
    ----------
    Billot et al., SynthSeg, Medical Image Analysis 86 (2023), draw a grey value for each label; here the scan's own
    texture and its lesions, which have no label of their own, go through the curve.

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> scan = Scan(np.arange(64.0).reshape(4, 4, 4), Grid((4, 4, 4), np.eye(4)))
    >>> random_contrast(scan, np.random.default_rng(0)).array.shape
    (4, 4, 4)
    """
    low, high = (float(v) for v in np.percentile(scan.array, (0.5, 99.5)))
    drawn = rng.choice(scan.array.ravel(), _KNOTS // 2)
    knots = np.sort(np.concatenate([np.clip(drawn, low, high), np.linspace(low, high, _KNOTS // 2)]))
    # Two knots of one grey value would be a jump.
    knots += np.arange(_KNOTS) * 1e-6 * max(high - low, 1e-6)
    values = rng.uniform(0, 600, _KNOTS)
    kind = rng.integers(3)
    if kind < 2:
        values = np.sort(values)[:: 1 if kind == 0 else -1]
    image = np.interp(scan.array, knots, values) * np.exp(_field(scan.array.shape, rng.uniform(0, 0.15), rng))
    noise = rng.uniform(2, 18) * rng.standard_normal((2, *image.shape))
    return replace(scan, array=np.hypot(image + noise[0], noise[1]).astype(np.float32))


def _field(shape: tuple[int, ...], size: float, rng: np.random.Generator) -> npt.NDArray[Any]:
    coarse = rng.normal(0, size, (3,) * len(shape))
    zoom = [n / 3 for n in shape]
    return np.asarray(ndimage.zoom(coarse, zoom, order=2, grid_mode=True, mode="nearest"))
