"""Small phantoms: an organ of correlated texture, a lesion in it, and normal places called lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan


@dataclass(frozen=True)
class Phantom:
    scan: Scan
    labels: LabelMap
    anatomy: LabelMap


def disc(shape, centre, radius, spacing=None):
    spacing = spacing or (1.0,) * len(shape)
    squares = [((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)]
    return np.add.reduce(np.meshgrid(*squares, indexing="ij")) <= radius**2


def texture(shape, seed, smooth=1.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth, mode="wrap")
    return noise / noise.std()


def make_2d(seed=0, lift=40.0, smooth=0.8):
    """One bright lesion (radius 4) and three normal places (radius 3) in a disc-shaped liver beside a spleen."""
    shape = (128, 120)
    grid = Grid(shape, np.array([[-1.0, 0, 0, 60], [0, 1.0, 0, -50], [0, 0, 1, 7], [0, 0, 0, 1]]))
    liver = disc(shape, (50, 60), 44)
    spleen = disc(shape, (112, 60), 13)
    image = np.where(liver, 100.0, np.where(spleen, 140.0, -900.0)) + 10 * texture(shape, seed, smooth)
    labels = np.zeros(shape, np.uint8)
    lesion = disc(shape, (40, 60), 4)
    image[lesion] += lift
    labels[lesion] = 1
    for centre in ((60, 40), (60, 80), (72, 60)):
        labels[disc(shape, centre, 3)] = 1
    organs = np.where(liver, 5, np.where(spleen, 1, 0)).astype(np.uint8)
    return Phantom(
        Scan(image.astype(np.float32), grid, "CT", "HU"),
        LabelMap(labels, grid, {1: "tumour"}),
        LabelMap(organs, grid, {1: "spleen", 5: "liver"}),
    )


def make_3d(seed=0, lift=50.0):
    shape, spacing = (44, 40, 22), (1.5, 1.5, 3.0)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-30, -30, -30)
    grid = Grid(shape, affine)
    liver = disc(shape, (22, 20, 11), 27, spacing)
    image = np.where(liver, 100.0, -900.0) + 10 * texture(shape, seed, 0.7)
    labels = np.zeros(shape, np.uint8)
    lesion = disc(shape, (18, 18, 10), 4, spacing)
    image[lesion] += lift
    labels[lesion] = 1
    for centre in ((28, 26, 12), (28, 12, 10)):
        labels[disc(shape, centre, 3.2, spacing)] = 1
    return Phantom(
        Scan(image.astype(np.float32), grid, "CT", "HU"),
        LabelMap(labels, grid, {1: "tumour"}),
        LabelMap(liver.astype(np.uint8) * 5, grid, {5: "liver"}),
    )


@pytest.fixture(scope="session")
def flat():
    return make_2d()


@pytest.fixture(scope="session")
def solid():
    return make_3d()


@pytest.fixture(scope="session")
def phantom_2d():
    return make_2d


@pytest.fixture(scope="session")
def phantom_3d():
    return make_3d
