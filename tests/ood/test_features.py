"""Features without torch: what they are, and that stored ones are checked."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.models.descriptors import LocalDescriptors
from anatrust.ood.crops import Crops, CropSettings, anchored_crops
from anatrust.ood.features import (
    DescriptorFeatures,
    FeatureExtractor,
    HistogramFeatures,
    ScanFeatures,
    describe,
)


@pytest.fixture(params=[(40, 36), (20, 24, 12)], ids=["2-D", "3-D"])
def crops(request: pytest.FixtureRequest, rng: np.random.Generator) -> Crops:
    array = rng.random(request.param).astype(np.float32)
    scan = Scan(array, Grid(array.shape, np.eye(4)), identifier="a")
    found = anchored_crops(scan, Mask(array > 0.9, scan.grid), CropSettings(edge=32, draws=3))
    assert isinstance(found, Crops)
    return found


@pytest.mark.parametrize("extractor", [HistogramFeatures(), DescriptorFeatures(), HistogramFeatures(bins=5)])
def test_a_row_a_crop(extractor: FeatureExtractor, crops: Crops) -> None:
    found = describe(crops, extractor)
    assert isinstance(extractor, FeatureExtractor)
    assert found.values.shape == (3, sum(width for _, width in extractor.levels))
    assert extractor.identity in found.identity
    assert '"edge": 32' in found.identity
    np.testing.assert_array_equal(found.values, describe(crops, extractor).values)
    np.testing.assert_array_equal(found.first(2).values, found.values[:2])
    np.testing.assert_allclose(describe(crops.first(1), extractor).values, found.values[:1], rtol=1e-6)


def test_histogram_is_numpys(crops: Crops) -> None:
    found = describe(crops, HistogramFeatures(bins=16)).values
    expected = [np.histogram(np.clip(i, 0, 1), bins=16, range=(0, 1))[0] / i.size for i in crops.images]
    np.testing.assert_allclose(found, expected, atol=2e-3)  # float32 borders of bins
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_descriptors_are_pooled(crops: Crops) -> None:
    grid = crops.grids[1]
    maps = LocalDescriptors().encode(Scan(crops.images[1], Grid(grid.shape, np.eye(4)))).astype(float)
    axes = tuple(range(maps.ndim - 1))
    row = describe(crops, DescriptorFeatures()).values[1]
    np.testing.assert_allclose(row[0::2], maps.mean(axis=axes), atol=1e-5)
    np.testing.assert_allclose(row[1::2], maps.std(axis=axes), atol=1e-5)


def test_features_are_stored_with_their_description(crops: Crops) -> None:
    found = describe(crops, HistogramFeatures(bins=4))
    assert found.values.shape == (3, 4)
    assert found.levels == (("histogram", 4),)
    again = ScanFeatures.from_arrays(found.to_arrays())
    np.testing.assert_array_equal(again.values, found.values)
    assert (again.levels, again.identity, again.identifier) == (found.levels, found.identity, "a")


@pytest.mark.parametrize("damage", ["missing", "foreign", "newer", "text", "shape"])
def test_damaged_features_are_refused(damage: str) -> None:
    arrays = ScanFeatures("a", np.ones((2, 3)), (("l", 3),), "i").to_arrays()
    header = json.loads(arrays["header"].tobytes())
    if damage == "missing":
        del arrays["values"]
    elif damage == "shape":
        arrays["values"] = arrays["values"][:, :2]
    elif damage == "text":
        arrays["header"] = np.frombuffer(b"{", dtype=np.uint8)
    else:
        header = {"newer": {**header, "schema": 2}, "foreign": {"a": 1}}[damage]
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with pytest.raises(FormatError, match="extract again") as error:
        ScanFeatures.from_arrays(arrays)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.ones(3), (("a", 3),)),
        (np.ones((0, 3)), (("a", 3),)),
        (np.ones((1, 3)), (("a", 2),)),
        (np.ones((1, 3)), (("a", 3), ("b", 0))),
        (np.array([[1.0, np.nan]]), (("a", 2),)),
    ],
)
def test_impossible_features(values: np.ndarray, levels: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(InputError):
        ScanFeatures("a", values, levels, "i")


def test_other_refusals() -> None:
    with pytest.raises(InputError, match="2 bins"):
        HistogramFeatures(bins=1)
    with pytest.raises(InputError, match="at least one"):
        ScanFeatures("a", np.ones((2, 3)), (("l", 3),), "i").first(0)
