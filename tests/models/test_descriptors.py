"""Local descriptors against closed forms, and the registry."""

from __future__ import annotations

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.protocols import Encoder
from anatrust.models.registry import ModelEntry, registered_models


def _blob(spacing: tuple[float, float], width: float) -> Scan:
    shape = tuple(round(80 / s) + 1 for s in spacing)
    x, y = np.meshgrid(*[np.arange(n) * s - 40.0 for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    image = 50.0 + 10.0 * np.exp(-(x**2 + y**2) / (2 * width**2))
    return Scan(image.astype(np.float32), Grid(shape, np.diag([*spacing, 1.0, 1.0])))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.0), (0.5, 1.25)])
def test_log_of_a_gaussian_blob_is_in_mm(spacing):
    width = 5.0
    encoder = LocalDescriptors(scales=(4.0, 6.0))
    scan = _blob(spacing, width)
    features = encoder.encode(scan)
    centre = tuple(n // 2 for n in scan.grid.shape)
    for i, scale in enumerate(encoder.scales):
        expected = -2 * 10.0 * scale**2 * width**2 / (width**2 + scale**2) ** 2
        assert features[centre][4 + i] == pytest.approx(expected, rel=0.02)
    # Smoothing a Gaussian by a Gaussian widens it and keeps its mass.
    mean = 50.0 + 10.0 * width**2 / (width**2 + encoder.window**2)
    assert features[centre][1] == pytest.approx(mean, rel=0.01)
    assert features[centre][3] == pytest.approx(0.0, abs=1e-3)


def test_a_ramp_has_constant_gradient_and_no_curvature():
    grid = Grid((40, 40, 20), np.diag([1.0, 2.0, 3.0, 1.0]))
    ramp = np.broadcast_to((3.0 * np.arange(40))[:, None, None], grid.shape)
    features = LocalDescriptors(scales=(1.5, 2.0)).encode(Scan(ramp.astype(np.int16), grid, "CT", "HU"))
    inner = features[15:25, 15:25, 8:12]
    np.testing.assert_allclose(inner[..., 3], 3.0, rtol=1e-4)
    np.testing.assert_allclose(inner[..., 4:], 0.0, atol=1e-3)
    # Deviation of a ramp of slope 3 under a Gaussian window of 2 mm.
    np.testing.assert_allclose(inner[..., 2], 6.0, rtol=0.02)


def test_large_offsets_leave_the_deviation_alone():
    noise = np.random.default_rng(0).normal(size=(30, 30))
    grid = Grid((30, 30), np.eye(4))
    low, high = (LocalDescriptors().encode(Scan(noise + offset, grid)) for offset in (0.0, 1e5))
    np.testing.assert_allclose(low[..., 2:], high[..., 2:], atol=1e-4)


def test_flipping_the_image_flips_the_features():
    image = np.random.default_rng(1).normal(size=(20, 24, 12)).astype(np.float32)
    grid = Grid(image.shape, np.diag([1.0, 1.0, 2.5, 1.0]))
    plain = LocalDescriptors().encode(Scan(image, grid))
    flipped = LocalDescriptors().encode(Scan(np.ascontiguousarray(image[::-1, :, ::-1]), grid))
    np.testing.assert_allclose(flipped[::-1, :, ::-1], plain, atol=1e-5)


def test_identity_names_and_bad_lengths():
    encoder = LocalDescriptors(scales=(2.0,))
    assert isinstance(encoder, Encoder)
    assert encoder.identity == "local-descriptors/1 window=2 gradient=1 scales=2"
    assert len(encoder.names) == 5
    assert encoder.margin == 8.0
    with pytest.raises(InputError, match="lengths must be positive"):
        LocalDescriptors(window=0.0)


def test_registry():
    names = [(entry.kind, entry.name) for entry in registered_models()]
    assert len(set(names)) == len(names)
    (entry,) = (entry for entry in registered_models() if entry.name == "local-descriptors")
    assert entry.installed
    assert entry.licence == "Apache-2.0"
    assert not ModelEntry("x", "encoder", "", "", requires=("no_such_package_at_all",)).installed
