"""Organs redrawn by the scan's own grey values, and kept out of air."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anatrust.models.organ_unet_sharpen import sharpened, without_air


def drawn(shift: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ball that is brighter than what surrounds it, and a network's shares that lie beside it."""
    rng = np.random.default_rng(seed)
    x, y, z = np.indices((32, 30, 28))
    ball = (x - 15) ** 2 + (y - 15) ** 2 + (z - 14) ** 2 < 64
    image = (np.where(ball, 130.0, 80.0) + rng.normal(0, 10, ball.shape)).astype(np.float32)
    share = ndimage.gaussian_filter(np.roll(ball, shift, 0).astype(np.float32), 1.5).clip(0.01, 0.9)
    return image, ball, np.stack([1 - share, share])


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.integers(-4, 4), st.sampled_from([-1.0, 1.0]), st.floats(0.1, 20))
def test_grey_values_put_a_displaced_organ_right_in_any_contrast(seed, shift, sign, gain):
    image, ball, shares = drawn(shift, seed)
    found = sharpened(shares, sign * gain * image)
    assert np.allclose(found.sum(axis=0), 1, atol=1e-5)
    after, before = dice(found[1] > 0.5, ball), dice(shares[1] > 0.5, ball)
    assert after >= min(before, 0.9)
    if abs(shift) >= 3:
        assert after > before + 0.05


def test_no_organ_appears_where_the_network_saw_none_and_a_flat_scan_changes_nothing():
    image, _, shares = drawn(0, 5)
    other = image.copy()
    other[26:31, 24:29, 22:27] = 130  # looks alike, far away
    assert not (sharpened(shares, other)[1, 26:31, 24:29, 22:27] > 0.5).any()
    flat = sharpened(shares, np.full_like(image, 3.0))
    assert np.array_equal(flat[1] > 0.5, shares[1] > 0.5)
    nothing = np.stack([np.ones_like(image), np.zeros_like(image)])
    assert not (sharpened(nothing, image)[1] > 0.5).any()


@pytest.mark.parametrize("window", [None, (-160, 240)])
def test_solid_organs_hold_no_air_in_hounsfield_units_and_windowed(window):
    """Liver drawn into the lung above it: the air is taken away, and fat, which is dark too, is not."""
    image = np.full((10, 10, 30), 60.0, np.float32)
    image[:, :, 18:], image[:, :, :6] = -860, -100
    image[0] = -1000
    if window:
        image = np.clip((image - window[0]) / (window[1] - window[0]), 0, 1) * 255
    shares = np.full((3, *image.shape), 0.1, np.float32)
    shares[1] = 0.8
    found = without_air(shares, image, [1])
    assert np.allclose(found.sum(axis=0), 1, atol=1e-6)
    assert not found[1, :, :, 18:].any()
    assert not found[1, 0].any()
    assert np.array_equal(found[:, 1:, :, :18], shares[:, 1:, :, :18])
    # Who may hold air takes what is left.
    assert (found[2, :, :, 18:] > 0.45).all()
