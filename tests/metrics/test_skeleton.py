"""Centrelines against MONAI's soft skeleton, clDice in drawn cases; surface Dice against MONAI."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from anatrust.errors import GeometryError, InputError
from anatrust.metrics import EdgeCases, cldice, skeleton, surface_distances

masks = hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=9).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.bool_, shape)] * 2)
)


@pytest.mark.parametrize("shape", [(40, 50), (24, 20, 22)])
def test_equals_the_soft_skeleton_of_monai_on_masks(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    from monai.losses.cldice import soft_skel

    for threshold in (0.0, 0.03):
        mask = gaussian_filter(rng.normal(size=shape), 2.5) > threshold
        soft = soft_skel(torch.from_numpy(mask[None, None].astype(np.float32)), 12)[0, 0].numpy()
        np.testing.assert_array_equal(skeleton(mask), soft > 0.5)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_cldice_is_symmetric_bounded_and_one_for_equal_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert cldice(a, b) == pytest.approx(cldice(b, a))
    assert 0 <= cldice(a, b) <= 1
    assert cldice(a, a) == 1
    assert not (skeleton(a) & ~a).any()
    assert skeleton(a).any() == a.any()


def test_a_gap_in_a_thin_tube_costs_more_than_a_thinner_tube() -> None:
    tube = np.zeros((40, 11, 11), bool)
    tube[:, 3:8, 3:8] = True
    thinner, broken = np.zeros_like(tube), tube.copy()
    thinner[:, 4:7, 4:7] = True
    broken[15:25] = False
    assert cldice(tube, thinner) == 1
    assert cldice(tube, broken) == pytest.approx(2 * 0.75 / 1.75, abs=0.03)


def test_edge_cases_are_the_policys() -> None:
    full, empty = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    assert cldice(full, empty) == 0
    assert cldice(empty, empty) == 1
    assert np.isnan(cldice(empty, empty, edge_cases=EdgeCases.undefined()))
    with pytest.raises(GeometryError):
        cldice(full, np.ones((5, 4), bool))
    with pytest.raises(InputError):
        cldice(full, full.astype(int))  # type: ignore[arg-type]


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5])
def test_surface_dice_equals_monai(tolerance: float, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_surface_dice

    spacing = (1.5, 0.8, 1.0)
    for _ in range(3):
        a, b = (gaussian_filter(rng.normal(size=(20, 26, 18)), 2.5) > 0.02 for _ in range(2))
        # Away from the image's edge, which MONAI does not count as surface.
        for mask in (a, b):
            mask[[0, -1]] = mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
        one, two = (torch.from_numpy(m[None, None]) for m in (a, b))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI calls a function it has deprecated
            wanted = float(compute_surface_dice(two, one, [tolerance], include_background=True, spacing=spacing))
        found = surface_distances(a, b, spacing=spacing).surface_dice(tolerance)
        assert found == pytest.approx(wanted, abs=1e-6)


def test_surface_dice_of_empty_masks() -> None:
    full, empty = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    assert surface_distances(full, empty, spacing=(1, 1)).surface_dice(1.0) == 0
    assert surface_distances(empty, empty, spacing=(1, 1)).surface_dice(1.0) == 1
    assert np.isnan(surface_distances(empty, empty, spacing=(1, 1)).surface_dice(1.0, EdgeCases.undefined()))
    with pytest.raises(InputError, match="tolerance"):
        surface_distances(full, full, spacing=(1, 1)).surface_dice(-1)
