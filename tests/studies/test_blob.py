"""The simple segmenters: they find what is there, and invent freely where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.models.blob import blob_candidates, contrast_probabilities, threshold_candidates
from anatrust.studies.phantom import LesionSpec, phantom_scan
from anatrust.studies.textures import texture_field


def _flat(shape: tuple[int, ...], seed: int, spacing: float = 1.0) -> tuple[Scan, Mask]:
    grid = Grid(shape, np.diag([spacing, spacing, spacing, 1.0]))
    field = texture_field(shape, 4.0, np.random.default_rng(seed))
    return Scan(field, grid), Mask(np.ones(shape, dtype=bool), grid)


def test_they_find_a_lesion_and_invent_others() -> None:
    phantom = phantom_scan(5, lesions=[LesionSpec("liver", 24.0, -4.0)], quick=True)
    liver = phantom.anatomy.mask("liver")
    found = threshold_candidates(phantom.scan, liver)
    truth = phantom.truth.array == 1
    assert (found.array & truth).sum() > 0.5 * truth.sum()
    labels, n = ndimage.label(found.array, np.ones((3, 3, 3)))
    false = [k for k in range(1, n + 1) if not (truth & (labels == k)).any()]
    assert len(false) >= 3
    assert not (found.array & ~liver.array).any()


def test_probabilities_fit_the_mask() -> None:
    scan, organ = _flat((80, 80), 0)
    mask = threshold_candidates(scan, organ, contrast=2.0, minimum=0.1)
    probabilities = contrast_probabilities(scan, organ, contrast=2.0)
    np.testing.assert_array_equal(probabilities.array[0] >= 0.5, mask.array)


@pytest.mark.parametrize("side", ["bright", "dark"])
def test_blobs_are_k_separate_extreme_and_ranked(side: str) -> None:
    scan, organ = _flat((100, 100), 1)
    five = blob_candidates(scan, organ, 5, diameters=(8.0,), side=side)  # type: ignore[arg-type]
    labels, n = ndimage.label(five.array, np.ones((3, 3)))
    assert n == 5
    means = ndimage.mean(scan.array, labels, range(1, 6))
    assert (np.asarray(means) > 0.5).all() if side == "bright" else (np.asarray(means) < -0.5).all()
    one = blob_candidates(scan, organ, 1, diameters=(8.0,), side=side)  # type: ignore[arg-type]
    assert not (one.array & ~five.array).any()


def test_blobs_stay_in_the_organ_and_stop_when_it_is_full() -> None:
    grid = Grid((60, 60), np.eye(4))
    inside = np.zeros((60, 60), dtype=bool)
    inside[20:40, 20:40] = True
    scan = Scan(np.random.default_rng(2).normal(size=(60, 60)), grid)
    many = blob_candidates(scan, Mask(inside, grid), 50, diameters=(7.0,))
    assert not (many.array & ~inside).any()
    assert 1 <= ndimage.label(many.array, np.ones((3, 3)))[1] < 12
    assert not blob_candidates(scan, Mask(np.zeros_like(inside), grid)).array.any()
    assert not blob_candidates(scan, Mask(inside, grid), diameters=(80.0,)).array.any()


def test_sizes_are_millimetres() -> None:
    scan, organ = _flat((60, 60), 3, spacing=2.0)
    ball = blob_candidates(scan, organ, 1, diameters=(20.0,))
    assert abs(ball.array.sum() * 4 / (np.pi * 100) - 1) < 0.15


def test_nothing_is_found_in_nothing() -> None:
    grid = Grid((20, 20), np.eye(4))
    empty = Mask(np.zeros((20, 20), dtype=bool), grid)
    full = Mask(np.ones((20, 20), dtype=bool), grid)
    noise = Scan(np.random.default_rng(0).normal(size=(20, 20)), grid)
    constant = Scan(np.zeros((20, 20)), grid)
    assert not threshold_candidates(noise, empty).array.any()
    assert not threshold_candidates(constant, full).array.any()
    assert not threshold_candidates(noise, full, margin=50.0).array.any()
    assert blob_candidates(constant, full, 1, diameters=(5.0,)).array.any(), "ties still give a place"


def test_bad_arguments_are_refused() -> None:
    scan, organ = _flat((20, 20), 0)
    other = Mask(np.ones((20, 20), dtype=bool), Grid((20, 20), np.diag([2.0, 2, 2, 1])))
    with pytest.raises(GeometryError, match="different grids"):
        threshold_candidates(scan, other)
    with pytest.raises(GeometryError, match="different grids"):
        blob_candidates(scan, other)
    with pytest.raises(InputError, match="k >= 1"):
        blob_candidates(scan, organ, 0)
    with pytest.raises(InputError, match="unknown side"):
        threshold_candidates(scan, organ, side="up")  # type: ignore[arg-type]
