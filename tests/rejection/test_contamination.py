"""Trimmed and mixture references, and whitening."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anatrust.rejection.contamination import split_classes, trim_atypical
from anatrust.rejection.features import graded_intensity, whiten


def _noise(seed, shape=(60, 60)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    return noise / noise.std()


@pytest.mark.parametrize("share", [0.03, 0.08, 0.15])
def test_trimming_takes_the_cyst_first(share):
    image = _noise(0)
    side = round((share * image.size) ** 0.5)
    cyst = np.zeros(image.shape, bool)
    cyst[20 : 20 + side, 20 : 20 + side] = True
    image[cyst] -= 6
    kept = trim_atypical(image, np.ones(image.shape, bool), 0.2)
    core = ndimage.binary_erosion(cyst, iterations=2)
    assert not kept[core].any()
    assert kept.mean() >= 0.8
    # The rest of the tissue keeps its statistics.
    assert abs(image[kept].mean() - image[~cyst].mean()) < 0.15


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0, 0.5))
def test_trimming_never_takes_more_than_asked(seed, fraction):
    image = _noise(seed, (24, 24))
    tissue = np.random.default_rng(seed).random((24, 24)) < 0.7
    kept = trim_atypical(image, tissue, fraction)
    assert not (kept & ~tissue).any()
    assert kept.sum() >= (1 - fraction) * tissue.sum() - 1e-9


def test_trimming_does_not_depend_on_orientation():
    image, tissue = _noise(3), np.ones((60, 60), bool)
    kept = trim_atypical(image, tissue, 0.1)
    flipped = trim_atypical(np.ascontiguousarray(image[::-1].T), tissue, 0.1)
    assert np.array_equal(flipped, kept[::-1].T)


def test_nothing_to_trim():
    flat = np.zeros((5, 5))
    assert trim_atypical(flat, np.ones((5, 5), bool), 0.3).all()
    assert not trim_atypical(flat, np.zeros((5, 5), bool), 0.3).any()
    assert trim_atypical(_noise(1), np.ones((60, 60), bool), 0.0).all()


def test_classes_are_found_and_cover_the_tissue():
    image = _noise(5)
    image[:20] += 12
    image[45:] -= 12
    tissue = np.ones(image.shape, bool)
    tissue[:, :3] = False
    classes = split_classes(image, tissue, 3)
    assert len(classes) == 3
    assert np.array_equal(np.sum(classes, axis=0), tissue.astype(int))
    assert classes[0][50:, 10:].all()
    assert classes[1][25:40, 10:].all()
    assert classes[2][:15, 10:].all()
    assert len(split_classes(image, tissue, 1)) == 1


def test_one_kind_of_tissue_stays_whole():
    for seed in range(5):
        classes = split_classes(_noise(seed), np.ones((60, 60), bool), 3)
        assert len(classes) == 1
        assert classes[0].all()
    assert not split_classes(np.zeros((4, 4)), np.zeros((4, 4), bool), 3)[0].any()
    assert len(split_classes(np.zeros((4, 4)), np.ones((4, 4), bool), 3)) == 1


def test_graded_intensity_is_graded_and_monotone():
    image = np.random.default_rng(0).normal(size=(50, 50))
    graded = graded_intensity(image, np.ones((50, 50), bool))
    assert graded.dtype == np.float32
    assert graded.min() == 0
    assert graded.max() == 1
    np.testing.assert_allclose(graded * 255, np.rint(graded * 255), atol=1e-4)
    order = np.argsort(image, axis=None)
    assert (np.diff(graded.reshape(-1)[order]) >= 0).all()
    # A linear change of the scale changes nothing.
    np.testing.assert_allclose(graded_intensity(image * 37 - 5, np.ones((50, 50), bool)), graded, atol=1 / 255 + 1e-6)


def test_constant_regions():
    image = np.zeros((30, 30))
    assert not graded_intensity(image, np.ones((30, 30), bool)).any()
    image[0, :2] = 5
    # Two voxels lie beyond both percentiles and must still be seen.
    assert graded_intensity(image, np.ones((30, 30), bool))[0, 0] == 1


def test_whitening_drops_what_does_not_vary():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(400, 2))
    features = np.column_stack([base[:, 0], 1000 * base[:, 1], base[:, 0] * 2, np.full(400, 7.0)])
    white = whiten(features, np.ones(400, bool))
    assert np.isfinite(white).all()
    values = np.linalg.eigvalsh(np.cov(white.T))
    np.testing.assert_allclose(sorted(values), [0, 0, 1, 1], atol=1e-3)
    constant = whiten(np.full((5, 2), 3.0), np.ones(5, bool))
    assert not constant.any()
