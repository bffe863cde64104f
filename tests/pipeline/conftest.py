"""A small trunk with spine, lungs and liver, in Hounsfield units, made in code."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan

SHAPE = (100, 80, 24)
AFFINE = np.array([[4.0, 0, 0, -200], [0, 4.0, 0, -160], [0, 0, 5.0, 30], [0, 0, 0, 1]])


def make_trunk(seed: int = 0) -> np.ndarray:
    """CT of a trunk in RAS: x to the right, y to the front, spine at the back."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    hu = np.full(SHAPE, -1000.0)
    hu[((x - 50) / 42) ** 2 + ((y - 40) / 27) ** 2 < 1] = -90
    hu[((x - 50) / 39) ** 2 + ((y - 40) / 24) ** 2 < 1] = 45
    for side in (30, 70):
        hu[((x - side) / 10) ** 2 + ((y - 45) / 13) ** 2 + ((z - 24) / 10) ** 2 < 1] = -850
    hu[((x - 32) / 13) ** 2 + ((y - 42) / 15) ** 2 + ((z - 4) / 9) ** 2 < 1] = 60
    hu[((x - 50) / 4.5) ** 2 + ((y - 20) / 4.5) ** 2 < 1] = 450
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), 0.8)
    return np.round(hu + 15 * noise / noise.std()).clip(-1024, 3071).astype(np.int16)


@pytest.fixture
def trunk() -> Scan:
    return Scan(make_trunk(), Grid(SHAPE, AFFINE), "CT", "HU", "trunk")


@pytest.fixture
def liver_lesion(trunk: Scan) -> LabelMap:
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    ball = ((x - 32) ** 2 + (y - 42) ** 2 + ((z - 6) * 1.25) ** 2) < 16
    return LabelMap(ball.astype(np.uint8), trunk.grid)
