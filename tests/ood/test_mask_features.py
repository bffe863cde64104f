"""What is measured in a mask, in its rim, and of the segmenter's certainty over it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, ProbabilityMap, Scan
from anatrust.ood import mask_features
from anatrust.ood.certainty import CERTAINTY_LEVELS, certainty
from anatrust.ood.crops import NoPrediction
from anatrust.ood.features import ScanFeatures
from anatrust.ood.mask_features import MaskFeatures

GRID = Grid((40, 36, 30), np.diag([1.0, 1.0, 1.0, 1.0]))


def ball(centre: tuple[int, int, int] = (20, 18, 15), radius: float = 6.0) -> np.ndarray:
    places = np.moveaxis(np.indices(GRID.shape), 0, -1) - np.array(centre)
    return np.asarray((places**2).sum(axis=-1) < radius**2)


def measured(array: np.ndarray, mask: np.ndarray, grid: Grid = GRID) -> ScanFeatures:
    found = MaskFeatures().of(Scan(array.astype(np.float32), grid), Mask(mask, grid), identifier="a")
    assert isinstance(found, ScanFeatures)
    return found


def texture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, GRID.shape)


def columns(found: ScanFeatures) -> dict[str, np.ndarray]:
    ends = np.cumsum([width for _, width in found.levels])[:-1]
    return dict(zip([name for name, _ in found.levels], np.split(found.values[0], ends), strict=True))


def test_intensity_inside_and_in_the_rim_is_what_numpy_says() -> None:
    array = texture()
    mask = ball()
    found = columns(measured(array, mask))
    low, high = np.percentile(array[array > array.min()], (0.5, 99.5))
    scaled = (np.clip(array, low, high) - low) / (high - low)
    inside = scaled[mask]
    expected = [inside.mean(), inside.std(), inside.max(), inside.min()]
    np.testing.assert_allclose(found["intensity, inside"], expected, atol=1e-5)
    apart = np.sqrt(((np.moveaxis(np.indices(GRID.shape), 0, -1)[:, :, :, None] - np.argwhere(mask)) ** 2).sum(-1)).min(
        -1
    )
    rim = scaled[(apart > 0) & (apart <= 3)]
    np.testing.assert_allclose(found["intensity, rim"], [rim.mean(), rim.std(), rim.max(), rim.min()], atol=1e-5)


def test_a_small_change_moves_what_lies_there_and_nothing_far_away_does() -> None:
    array, mask = texture(), ball()
    before = columns(measured(array, mask))
    changed = array.copy()
    changed[19:22, 17:20, 14:17] = 160
    after = columns(measured(changed, mask))
    # In units of the intensity range; the average over the whole image moves by 0.0004.
    assert after["local mean, inside"][2] - before["local mean, inside"][2] > 0.05
    assert after["intensity, inside"][0] - before["intensity, inside"][0] > 0.01
    far = array.copy()
    far[:3, :3, :3] = 130
    np.testing.assert_allclose(measured(far, mask).values, measured(array, mask).values, atol=0.02)


def test_axes_may_be_stored_in_another_order() -> None:
    array, mask = texture(1), ball((15, 20, 12), 5)
    turned = Grid((30, 40, 36), GRID.affine[:, [2, 0, 1, 3]])
    other = measured(np.moveaxis(array, 2, 0).copy(), np.moveaxis(mask, 2, 0).copy(), turned)
    np.testing.assert_allclose(other.values, measured(array, mask).values, atol=1e-5)


def test_large_boxes_are_described_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((90, 20, 18), GRID.affine)
    rng = np.random.default_rng(5)
    array, mask = rng.normal(100, 10, grid.shape), np.zeros(grid.shape, bool)
    mask[5:85, 6:14, 5:12] = True
    whole = measured(array, mask, grid).values
    monkeypatch.setattr(mask_features, "_AT_ONCE", 1)
    slabs = measured(array, mask, grid).values
    np.testing.assert_allclose(slabs, whole, atol=1e-5)


def test_nothing_and_nearly_nothing_marked_is_no_prediction() -> None:
    few = np.zeros(GRID.shape, bool)
    scan = Scan(texture().astype(np.float32), GRID)
    found = MaskFeatures().of(scan, Mask(few, GRID), identifier="a")
    assert isinstance(found, NoPrediction)
    assert "empty" in found.reason
    few[5, 5, 5] = True
    found = MaskFeatures().of(scan, Mask(few, GRID), identifier="a")
    assert isinstance(found, NoPrediction)
    assert "fewer than 8" in found.reason
    everything = np.ones(GRID.shape, bool)
    assert np.isfinite(measured(texture(), everything).values).all()
    with pytest.raises(GeometryError, match="align"):
        MaskFeatures().of(scan, Mask(few, Grid(GRID.shape, np.diag([2.0, 1, 1, 1]))), identifier="a")
    with pytest.raises(InputError, match="positive"):
        MaskFeatures(rim=0)


def test_certainty_is_the_spread_of_the_entropy_over_the_mask() -> None:
    rng = np.random.default_rng(3)
    soft = rng.dirichlet([2, 1, 1], GRID.shape).transpose(3, 0, 1, 2)
    mask = ball()
    found = certainty(ProbabilityMap(soft, GRID, ("background", "a", "b")), Mask(mask, GRID))
    assert found.shape == (CERTAINTY_LEVELS[0][1],)
    values = entropy(soft[:, mask], axis=0)
    expected = [values.mean(), values.std(), *np.percentile(values, (2, 10, 25, 50, 75, 90, 98))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_certainty_of_one_channel_of_regions_and_of_half_precision() -> None:
    rng = np.random.default_rng(4)
    share = rng.uniform(size=GRID.shape)
    mask = Mask(ball(), GRID)
    one = certainty(ProbabilityMap(share[None], GRID), mask)
    two = certainty(ProbabilityMap(np.stack([1 - share, share]), GRID, ("background", "a")), mask)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    regions = certainty(ProbabilityMap(np.stack([share, share / 2]), GRID, ("whole", "core")), mask)
    np.testing.assert_allclose(regions, one, rtol=1e-5)
    half = ProbabilityMap(np.stack([1 - share, share]).astype(np.float16), GRID, ("background", "a"))
    np.testing.assert_allclose(certainty(half, mask), two, atol=2e-3)
    with pytest.raises(InputError, match="no prediction"):
        certainty(half, Mask(np.zeros(GRID.shape, bool), GRID))
    with pytest.raises(GeometryError, match="align"):
        certainty(half, Mask(np.ones((4, 4, 4), bool), Grid((4, 4, 4), np.eye(4))))
