"""Crops: where they lie, that they repeat everywhere, and what happens when there is nothing to anchor to."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.ood.crops import Crops, CropSettings, NoPrediction, anchored_crops
from anatrust.ood.intensity import intensity_scale

RAW = CropSettings(edge=32, intensity="window", window=(0.0, 1000.0))


def scan_of(array: np.ndarray, spacing: tuple[float, ...] | None = None, **more: object) -> Scan:
    steps = [*(spacing or (1.0,) * array.ndim), 1.0, 1.0][:3]
    return Scan(array, Grid(array.shape, np.diag([*steps, 1.0])), identifier="scan-1", **more)  # type: ignore[arg-type]


def crops_of(scan: Scan, marked: np.ndarray, how: CropSettings = RAW, **more: object) -> Crops:
    found = anchored_crops(scan, Mask(marked, scan.grid), how, **more)  # type: ignore[arg-type]
    assert isinstance(found, Crops)
    return found


@pytest.fixture
def case(rng: np.random.Generator) -> tuple[Scan, np.ndarray]:
    scan = scan_of(rng.integers(1, 1000, size=(50, 60, 40)).astype(np.int16))
    marked = np.zeros(scan.grid.shape, bool)
    marked[10:13, 20:22, 30:33] = True
    marked[40, 50, 5] = True
    return scan, marked


def test_crops_are_cut_out_of_the_scan(case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case
    crops = crops_of(scan, marked)
    assert crops.images.shape == (8, 32, 32, 32)
    for image, grid, centre in zip(crops.images, crops.grids, crops.centres, strict=True):
        at = np.round(scan.grid.to_index(centre)).astype(int)
        assert marked[tuple(at)]
        first = np.round(scan.grid.to_index(grid.to_world([0, 0, 0]))).astype(int)
        part = tuple(slice(f, f + 32) for f in first)
        np.testing.assert_allclose(image, scan.array[part] / 1000, atol=1e-6)
        assert (np.abs(first + 16 - at) <= 16).all()


def test_a_crop_never_leaves_the_body_unless_it_is_larger(case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case
    crops = crops_of(scan, marked, CropSettings(edge=128, intensity="window", window=(0.0, 1000.0)))
    assert crops.images.shape == (8, 64, 64, 64)
    assert all((crop > 0).sum() == scan.array.size for crop in crops.images)  # the whole scan, zeros around
    air = np.zeros((200, 64), np.float32)
    air[50:150, 20:52] = 500
    scan = scan_of(air)
    marked2 = np.zeros(air.shape, bool)
    marked2[50, 20] = marked2[149, 51] = True
    for image in crops_of(scan, marked2).images:
        assert (image == 0.5).all()


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flip", [(), (0,), (1, 2)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.5)])
def test_storage_order_of_the_file_does_not_matter(
    order: tuple[int, ...], flip: tuple[int, ...], spacing: tuple[float, ...], rng: np.random.Generator
) -> None:
    array = rng.integers(0, 1000, size=(20, 24, 12)).astype(np.float32)
    marked = rng.random(array.shape) > 0.99
    plain = scan_of(array, spacing)
    affine = plain.grid.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    moved, moved_mask = array.transpose(order), marked.transpose(order)
    for axis in flip:
        affine[:3, 3] += affine[:3, axis] * (moved.shape[axis] - 1)
        affine[:3, axis] *= -1
        moved, moved_mask = np.flip(moved, axis), np.flip(moved_mask, axis)
    other = Scan(moved, Grid(moved.shape, affine), identifier="scan-1")
    one, two = crops_of(plain, marked), crops_of(other, moved_mask)
    np.testing.assert_allclose(one.images, two.images, atol=1e-5)
    np.testing.assert_allclose(one.centres, two.centres)


PROBE = """
import hashlib, numpy as np
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.ood.crops import CropSettings, anchored_crops
array = (np.arange(40 * 36 * 20).reshape(40, 36, 20) * 7919 % 1000).astype(np.int16)
grid = Grid(array.shape, np.diag([1.0, 1.0, 1.0, 1.0]))
crops = anchored_crops(Scan(array, grid, identifier="s"), Mask(array % 50 == 0, grid), CropSettings(edge=32), seed=4)
print(hashlib.sha256(crops.images.tobytes() + crops.centres.tobytes()).hexdigest())
"""


def test_the_same_bytes_in_every_process() -> None:
    done = [
        subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": salt}
        ).stdout
        for salt in ("1", "2")
    ]
    assert done[0] == done[1]
    assert len(done[0].strip()) == hashlib.sha256().digest_size * 2


def test_identifier_and_seed_decide(case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case
    base = crops_of(scan, marked).centres
    np.testing.assert_array_equal(base, crops_of(scan, marked, identifier="scan-1", seed=0).centres)
    assert not np.array_equal(base, crops_of(scan, marked, seed=1).centres)
    assert not np.array_equal(base, crops_of(scan, marked, identifier="scan-2").centres)
    assert crops_of(scan, marked).first(3).images.shape[0] == 3
    np.testing.assert_array_equal(crops_of(scan, marked).first(3).centres, base[:3])
    with pytest.raises(InputError, match="at least one crop"):
        crops_of(scan, marked).first(0)


def test_voxel_mode_is_uniform_over_voxels_and_component_mode_over_lesions(case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case  # 18 voxels and 1
    many = CropSettings(edge=32, draws=400, intensity="window", window=(0.0, 1000.0))
    lone = scan.grid.to_world([40, 50, 5])
    by_voxel = (crops_of(scan, marked, many).centres == lone).all(axis=1).mean()
    assert abs(by_voxel - 1 / 19) < 4 * np.sqrt(1 / 19 / 400)
    balanced = crops_of(scan, marked, CropSettings(mode="component", edge=32))
    assert (balanced.centres == lone).all(axis=1).sum() == 4


@pytest.mark.parametrize("mode", ["voxel", "component", "spatial", "center"])
def test_an_empty_mask_is_an_outcome_of_its_own(mode: str, case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case
    how = CropSettings(mode=mode, edge=32)  # type: ignore[arg-type]
    found = anchored_crops(scan, Mask(np.zeros_like(marked), scan.grid), how)
    assert isinstance(found, NoPrediction)
    assert "empty" in found.reason
    assert found.identifier == "scan-1"


def test_small_components_are_no_anchors(case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case
    for mode in ("voxel", "component"):
        kept = crops_of(scan, marked, CropSettings(mode=mode, edge=32, least_component=2))  # type: ignore[arg-type]
        assert not (kept.centres == scan.grid.to_world([40, 50, 5])).all(axis=1).any()
        none = anchored_crops(scan, Mask(marked, scan.grid), CropSettings(mode=mode, least_component=100))  # type: ignore[arg-type]
        assert isinstance(none, NoPrediction)
        assert "100 mm³" in none.reason


def test_modes_without_a_mask(case: tuple[Scan, np.ndarray]) -> None:
    scan, _ = case
    middle = anchored_crops(scan, None, CropSettings(mode="center", edge=32))
    assert isinstance(middle, Crops)
    assert middle.images.shape[0] == 1
    np.testing.assert_allclose(middle.centres[0], [24.5, 29.5, 19.5])
    anywhere = anchored_crops(scan, None, CropSettings(mode="spatial", edge=32))
    assert isinstance(anywhere, Crops)
    assert len(np.unique(anywhere.centres, axis=0)) == 8
    with pytest.raises(InputError, match="need a mask"):
        anchored_crops(scan, None)


def test_thick_slices_are_resampled_to_one_millimetre() -> None:
    x, y, z = np.meshgrid(*[np.arange(n) for n in (60, 60, 12)], indexing="ij")
    scan = scan_of((x * 0.8 * 3 + y * 0.8 * 2 + z * 5.0).astype(np.float32) + 100, (0.8, 0.8, 5.0))
    marked = np.zeros(scan.grid.shape, bool)
    marked[30, 30, 6] = True
    crops = crops_of(scan, marked)
    for image, grid in zip(crops.images, crops.grids, strict=True):
        assert grid.spacing == (1.0, 1.0, 1.0)
        index = np.stack(np.meshgrid(*[np.arange(1, 31, 7)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        world = grid.to_world(index)
        expected = (world @ [3.0, 2.0, 1.0] + 100) / 1000
        np.testing.assert_allclose(image[tuple(index.T)], expected, atol=1e-4)


def test_a_lesion_smaller_than_the_grid_is_still_an_anchor(rng: np.random.Generator) -> None:
    scan = scan_of(rng.random((120, 120)).astype(np.float32), (0.25, 0.25))
    marked = np.zeros(scan.grid.shape, bool)
    marked[61, 57] = True
    crops = crops_of(scan, marked)
    np.testing.assert_allclose(crops.centres, np.tile([61 * 0.25, 57 * 0.25, 0.0], (8, 1)))
    assert crops.images.shape == (8, 32, 32)


def test_pictures_without_spacing_keep_their_pixels(rng: np.random.Generator) -> None:
    array = rng.integers(0, 255, size=(70, 90)).astype(np.uint8)
    scan = Scan(array, Grid.without_spacing(array.shape), identifier="p")
    crops = crops_of(scan, array > 250, CropSettings(edge=64))
    assert crops.images.shape == (8, 64, 64)
    assert not crops.grids[0].spacing_known
    assert "percentiles" in crops.rule


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    mode=st.sampled_from(["voxel", "component"]),
    edge=st.sampled_from([32, 64]),
    steps=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (3.3, 1.0)]),
)
def test_any_shape_gives_crops_of_the_promised_size(
    shape: tuple[int, int], place: tuple[float, float], mode: str, edge: int, steps: tuple[float, float]
) -> None:
    array = np.ones(shape, np.float32)
    marked = np.zeros(shape, bool)
    marked[tuple(min(n - 1, int(n * p)) for n, p in zip(shape, place, strict=True))] = True
    crops = crops_of(scan_of(array, steps), marked, CropSettings(mode=mode, edge=edge))  # type: ignore[arg-type]
    field = [max(1, round(n * s)) for n, s in zip(shape, steps, strict=True)]
    assert crops.images.shape[1:] == tuple(min(edge, -(-f // 32) * 32) for f in field)
    assert np.isfinite(crops.images).all()


def test_rules_of_intensity(rng: np.random.Generator) -> None:
    array = np.concatenate([np.zeros(500), rng.normal(100, 10, 500)]).astype(np.float32)
    percentile = intensity_scale(array, "auto", (-400, 400), is_ct=False)
    assert percentile.low > 60  # the empty background does not count
    assert 0 <= percentile.apply(array).min() < percentile.apply(array).max() <= 1
    score = intensity_scale(array, "zscore", (-400, 400), is_ct=True)
    assert score.apply(array).mean() == pytest.approx(0, abs=1e-5)
    assert score.apply(array).std() == pytest.approx(1, abs=1e-5)
    for rule in ("percentile", "zscore"):
        flat = intensity_scale(np.full(5, 7.0), rule, (-400, 400), is_ct=False)  # type: ignore[arg-type]
        assert (flat.apply(np.full(5, 7.0)) == 0).all()
    two = intensity_scale(np.array([0.0, 1.0]), "percentile", (-400, 400), is_ct=False)
    assert two.apply(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("said", [{"modality": "CT"}, {"units": "HU"}])
def test_ct_gets_the_window(said: dict[str, str], case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case
    crops = crops_of(scan_of(scan.array, **said), marked, CropSettings(edge=32))
    assert crops.rule == "grey values of -400 to 400 HU become 0 to 1"


def test_settings_travel_as_json() -> None:
    how = CropSettings(mode="component", edge=96, window=(-175.0, 250.0))
    assert CropSettings.from_json(how.to_json()) == how
    for broken in ({}, {**how.to_json(), "more": 1}, {**how.to_json(), "edge": 33}, {**how.to_json(), "window": [1]}):
        with pytest.raises(InputError) as error:
            CropSettings.from_json(broken)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"mode": "middle"},
        {"intensity": "log"},
        {"edge": 100},
        {"edge": 0},
        {"draws": 0},
        {"spacing": 0.0},
        {"least_component": -1.0},
        {"window": (5.0, 5.0)},
    ],
)
def test_impossible_settings(bad: dict[str, object]) -> None:
    with pytest.raises(InputError) as error:
        CropSettings(**bad)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_what_is_refused(case: tuple[Scan, np.ndarray]) -> None:
    scan, marked = case
    with pytest.raises(InputError, match="identifier"):
        anchored_crops(Scan(scan.array, scan.grid), Mask(marked, scan.grid))
    with pytest.raises(GeometryError, match="align it first"):
        anchored_crops(scan, Mask(marked[:-1], Grid(marked[:-1].shape, np.eye(4))))
