"""What is shown: boxes, coarse voxels and rounded grey values, against plain recomputation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.report.embed import GAP, INSIDE, OUTLINE, base64_size, nifti_base64, overlay
from anatrust.report.pictures import key_slices
from anatrust.report.rows import number, probability
from anatrust.report.shown import Region, choose_shown
from anatrust.report.windows import presets


@st.composite
def regions(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9))
    start = tuple(draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    factor = tuple(draw(st.integers(1, 4)) for _ in shape)
    return shape, Region(start, stop, factor)


@given(regions(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_blocks_hold_the_mean_and_every_mask_voxel(case, seed):
    shape, region = case
    rng = np.random.default_rng(seed)
    values, mask = rng.normal(size=shape), rng.random(shape) < 0.3
    means, kept = region.mean(values), region.any(mask)
    assert means.shape == kept.shape == region.shape
    for index in np.ndindex(*region.shape):
        places = [
            np.minimum(np.arange(a + i * f, a + (i + 1) * f), b - 1)
            for i, a, b, f in zip(index, region.start, region.stop, region.factor, strict=True)
        ]
        assert means[index] == pytest.approx(values[np.ix_(*places)].mean(), abs=1e-5)
        assert kept[index] == mask[np.ix_(*places)].any()


@given(regions())
@settings(deadline=None, max_examples=60)
def test_coarse_voxels_lie_where_their_fine_voxels_lie(case):
    shape, region = case
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0.2, 7], [0, 0, 3, -4], [0, 0, 0, 1]])
    grid = Grid(shape, affine)
    coarse = region.grid(grid)
    index = np.array([n - 1 for n in region.shape])
    fine = [a + i * f + (f - 1) / 2 for i, a, f in zip(index, region.start, region.factor, strict=True)]
    np.testing.assert_allclose(coarse.to_world(index), grid.to_world(fine), atol=1e-9)


def scan_of(array, modality="MR", units="", spacing=(1.0, 1.0, 1.0)):
    return Scan(array, Grid(array.shape, np.diag([*spacing, 1.0])), modality, units)


def test_whole_grey_values_are_exact_where_there_is_room(rng):
    array = rng.integers(-1000, 2000, (12, 13, 14)).astype(np.int16)
    shown = choose_shown(scan_of(array, "CT", "HU"), np.ones(array.shape, bool), budget=10**6, size_of=base64_size)
    np.testing.assert_array_equal(shown.values(), array)
    assert shown.notes == ()


def test_rounding_is_at_most_half_a_step(rng):
    array = rng.normal(0, 300, (20, 20, 20))
    shown = choose_shown(scan_of(array), np.ones(array.shape, bool), budget=10**6, size_of=base64_size)
    assert np.abs(shown.values() - array).max() <= shown.step * 0.501
    array[0, 0, 0] = 1e6  # one wild voxel does not coarsen the others
    wild = choose_shown(scan_of(array), np.ones(array.shape, bool), budget=10**6, size_of=base64_size)
    assert wild.step < 2 * shown.step
    assert "are shown as these limits" in wild.notes[-1]


def test_a_smaller_budget_gives_fewer_levels_then_the_surroundings_then_coarser_voxels(rng):
    array = (rng.normal(0, 1, (160, 160, 60)) * 500).astype(np.float32)
    focus = np.zeros(array.shape, bool)
    focus[70:80, 70:80, 30:33] = True
    scan = scan_of(array, spacing=(2.0, 2.0, 2.0))
    stages, sizes = [], []
    for budget in (5_000_000, 2_500_000, 600_000, 100_000):
        shown = choose_shown(scan, focus, budget=budget, size_of=base64_size)
        assert base64_size(shown.levels) <= budget
        assert all(a <= 70 and b >= 80 for a, b in zip(shown.region.start[:2], shown.region.stop[:2], strict=True))
        text = " ".join(shown.notes)
        stages.append([word in text for word in ("steps of", "surroundings", "averaged")])
        sizes.append(base64_size(shown.levels))
    assert stages[0] == [False, False, False]
    assert stages[1] == [True, False, False]
    assert stages[2][1:] == [True, False]
    assert stages[3][1:] == [True, True]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(InputError, match="raise it"):
        choose_shown(scan, focus, budget=10, size_of=base64_size)


@pytest.mark.parametrize("shape", [(700, 700), (90, 80, 40)])
def test_axial_pixels_stay_square(rng, shape):
    array = (rng.normal(0, 1, shape) * 500).astype(np.float32)
    scan = Scan(array, Grid(shape, np.eye(4)))
    for budget in (150_000, 40_000, 12_000):
        factor = choose_shown(scan, np.ones(shape, bool), budget=budget, size_of=base64_size).region.factor
        assert max(factor) > 1
        assert factor[0] == factor[1]


def test_the_same_array_makes_the_same_text():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    grid = Grid(array.shape, np.eye(4))
    assert nifti_base64(array, grid) == nifti_base64(array.copy(), grid)


def test_patterns_differ_without_colour():
    mask = np.zeros((40, 40, 12), bool)
    mask[5:35, 5:35, 3:9] = True
    grid = Grid(mask.shape, np.eye(4))
    drawn = {name: overlay(mask, grid, name) for name in ("solid", "stripes", "dots")}
    share = {name: (d == INSIDE).sum() / mask.sum() for name, d in drawn.items()}
    assert share["solid"] > 0.8 > share["stripes"] > 0.3 > share["dots"] > 0.05
    for d in drawn.values():
        np.testing.assert_array_equal(d > 0, mask)
        assert (d[5, 5:35, 5] == OUTLINE).all()
        assert set(np.unique(d)) <= {0, GAP, INSIDE, OUTLINE}
    # An end slice is an outline with an inside, not a lid.
    assert (drawn["solid"][:, :, 3] == INSIDE).sum() > 0.7 * 30 * 30


def test_a_mask_of_one_voxel_is_drawn():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert overlay(mask, Grid(mask.shape, np.eye(4)), "dots")[4, 4] == OUTLINE


def test_a_ct_is_windowed_as_one_where_air_has_the_value_of_air(rng):
    from anatrust.report.shown import in_hounsfield

    array = rng.normal(40, 20, (20, 20, 20)).astype(np.int16)
    for air, wanted in ((-1000, True), (-2000, True), (0, False), (-9000, False)):
        array[0] = air
        assert in_hounsfield(scan_of(array, "CT")) == wanted
        assert not in_hounsfield(scan_of(array, "MR"))


@pytest.mark.parametrize(("modality", "units", "first"), [("CT", "HU", "Soft tissue"), ("PET", "", "Automatic")])
def test_windows_have_room(rng, modality, units, first):
    array = np.abs(rng.normal(0, 300, (20, 20, 20))).astype(np.float32)
    scan = scan_of(array, modality, units)
    shown = choose_shown(scan, array > 0, budget=10**6, size_of=base64_size)
    found = presets(scan, shown)
    assert found[0].name == first
    assert all(w.high > w.low for w in found)
    assert found[-1].name == "Full range"


def test_pictures_cut_the_slice_where_the_candidate_is_largest(rng):
    from anatrust.report.layers import outcome_layers
    from anatrust.report.listed import Entry

    array = np.zeros((30, 30, 20), np.float32)
    mask = np.zeros(array.shape, bool)
    mask[14, 14, 4:12] = True
    mask[10:20, 10:20, 9] = True
    array[:, :, 9] = 100
    scan = scan_of(array)
    entry = Entry(1, "kept", (14.5, 14.5, 7.0), (14.5, 14.5, 7.0), ((10, 20), (10, 20), (4, 12)), {})
    from anatrust.report.windows import Window

    (shown,) = key_slices(scan, outcome_layers({"kept": mask}), [entry], Window("", 0, 100))
    import base64
    import io

    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.png))).convert("RGB"))
    assert (pixels.shape[1], pixels.shape[0]) == (shown.width, shown.height)
    assert pixels[2, 2].tolist() == [255, 255, 255]
    assert (np.abs(pixels.astype(int) - (86, 180, 233)).sum(-1) == 0).sum() > 100


def test_outlines_close_around_pieces_and_holes():
    from anatrust.report.pictures import _outlines

    mask = np.zeros((9, 9), bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False
    mask[8, 8] = True  # at the edge of the picture
    loops = _outlines(mask)
    assert sorted(len(loop) for loop in loops) == [4, 4, 20]
    for loop in loops:
        steps = np.abs(np.diff(np.vstack([loop, loop[:1]]), axis=0)).sum(axis=1)
        assert (steps == 1).all()
    assert _outlines(np.zeros((3, 3), bool)) == []


def test_figures_in_words():
    assert [probability(p) for p in (1.0, 0.2, 0.05, 0.0101, 0.001, 0.0001)] == [
        "1.00",
        "0.20",
        "0.05",
        "0.01",
        "0.001",
        "0.0001",
    ]
    assert [number(v) for v in (0, 0.5, 99.95, 12345.6, float("inf"))] == ["0", "0.5", "100.0", "12,346", "inf"]
