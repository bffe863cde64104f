"""Regions: the paper's rule in millimetres, always inside the frame and around the anchor."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.anatomy.knowledge import knowledge
from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask
from anatrust.image.region import Region, crop_grid
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.views import fuse_views, views_of
from anatrust.rejection.regions import AnchorBox, anchor_box, bounding_region, fuse_regions, search_regions


@st.composite
def boxes(draw):
    ndim = draw(st.integers(2, 3))
    shape = tuple(draw(st.lists(st.integers(1, 60), min_size=ndim, max_size=ndim)))
    spacing = draw(st.lists(st.floats(0.2, 6.0), min_size=ndim, max_size=ndim))
    start = tuple(draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(draw(st.integers(low + 1, n)) for low, n in zip(start, shape, strict=True))
    affine = np.diag([*spacing, *(1.0,) * (4 - ndim)])
    return Region(start, stop), Grid(shape, affine)


@settings(deadline=None, max_examples=100)
@given(boxes(), st.floats(0, 100), st.lists(st.floats(0.05, 4), min_size=1, max_size=4).map(sorted), st.booleans())
def test_regions_lie_in_the_frame_cover_the_anchor_and_nest(case, pad, scales, square):
    box, grid = case
    frame = Region.whole(grid.shape)
    regions = search_regions(box, grid, pad=pad, scales=scales, square=square)
    assert 1 <= len(regions) <= len(scales)
    for region in regions:
        assert frame.covers(region)
        assert region.covers(box)
    for small, large in pairwise(regions):
        assert large.covers(small)
    if square:
        for region in regions:
            edges = [n * s for n, s in zip(region.shape, grid.spacing, strict=True)]
            for edge, n, length in zip(edges, region.shape, grid.shape, strict=True):
                # Square up to the coarsest voxel, unless the frame is too small.
                assert n == length or edge >= max(edges) - max(grid.spacing) - 1e-3


@settings(deadline=None, max_examples=50)
@given(boxes(), st.floats(0, 30), st.floats(0.1, 4))
def test_far_from_the_edges_the_margin_is_the_formula(case, pad, scale):
    box, grid = case
    far = tuple(2000 + n for n in grid.shape)
    shape = tuple(4000 + n for n in grid.shape)
    moved = Region(far, tuple(f + n for f, n in zip(far, box.shape, strict=True)))
    (region,) = search_regions(moved, Grid(shape, grid.affine), pad=pad, scales=[scale], square=False)
    for axis, step in enumerate(grid.spacing):
        margin = moved.start[axis] - region.start[axis]
        assert region.stop[axis] - moved.stop[axis] == margin
        assert np.ceil(pad / step - 1e-4) * scale - 0.01 <= margin <= np.ceil(pad / step) * scale + 1.0


def test_margins_are_the_same_length_on_coarse_and_fine_axes():
    grid = Grid((200, 100, 40), np.diag([0.5, 1.0, 5.0, 1.0]))
    (region,) = search_regions(Region((90, 45, 18), (110, 55, 20)), grid, pad=20.0, scales=[1.0])
    assert region == Region((50, 25, 14), (150, 75, 24))
    assert [n * s for n, s in zip(region.shape, grid.spacing, strict=True)] == [50.0, 50.0, 50.0]


def test_rounding_adds_no_voxel():
    grid = Grid((1000, 1000), np.diag([0.1, 0.1, 1.0, 1.0]))
    (region,) = search_regions(Region((500, 500), (510, 510)), grid, pad=20.0, scales=[1.0])
    assert region == Region((300, 300), (710, 710))


def test_a_box_at_the_edge_is_shifted_before_it_is_clipped():
    grid = Grid((50, 12), np.eye(4))
    (region,) = search_regions(Region((0, 5), (10, 7)), grid, pad=5.0, scales=[1.0])
    assert region == Region((0, 0), (20, 12))


def test_without_spacing_lengths_are_pixels_and_equal_regions_come_once():
    grid = Grid.without_spacing((40, 40))
    assert search_regions(Region((10, 10), (20, 20)), grid, pad=0, scales=(0.5, 1)) == (Region((10, 10), (20, 20)),)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"pad": -1.0}, "the padding is -1 mm"),
        ({"pad": float("nan")}, "the padding is nan"),
        ({"scales": [0.0]}, "a region scale is 0"),
        ({"scales": []}, "no region scale"),
    ],
)
def test_impossible_rules_are_refused(change, error):
    with pytest.raises(InputError, match=error):
        search_regions(Region((1, 1), (2, 2)), Grid((4, 4), np.eye(4)), **change)


@pytest.mark.parametrize("box", [Region((1, 1), (2, 5)), Region((1,), (2,)), Region((1, 1, 1), (2, 2, 2))])
def test_a_box_off_the_grid_is_refused(box):
    with pytest.raises(GeometryError, match="does not lie on a grid of shape"):
        search_regions(box, Grid((4, 4), np.eye(4)))


@pytest.mark.parametrize(("start", "stop"), [((1, 1), (1, 2)), ((-1, 0), (2, 2)), ((0,), (1, 1)), ((), ())])
def test_impossible_boxes_are_refused(start, stop):
    with pytest.raises(GeometryError):
        Region(start, stop)


def _organ(shape, *span):
    organ = np.zeros(shape, bool)
    organ[tuple(slice(*s) for s in span)] = True
    return organ


def test_a_good_anchor_gives_its_bounding_box():
    organ = _organ((30, 40, 20), (5, 12), (8, 30), (3, 9))
    organ[20, 35, 15] = True
    assert anchor_box(organ, probabilities=organ * 0.9) == AnchorBox(Region((5, 8, 3), (21, 36, 16)), "ok")


def test_a_slice_of_one_voxel_depth_has_no_edge():
    assert anchor_box(_organ((30, 40, 1), (5, 15), (8, 30), (0, 1))).status == "ok"


@pytest.mark.parametrize(
    ("anchor", "options", "reason"),
    [
        (_organ((40, 40), (3, 5), (3, 5)), {}, "the anchor has only 4 voxels"),
        (_organ((40, 40), (0, 2), (5, 40)), {}, "51 % of it lie on the edge"),
        (_organ((40, 40), (1, 39), (1, 39)), {}, "it fills 90 % of the image"),
        (_organ((40, 40), (5, 25), (5, 25)), {"probabilities": np.full((40, 40), 0.3)}, "probability is 0.30"),
    ],
)
def test_an_anchor_that_is_no_organ_falls_back_to_the_full_frame(anchor, options, reason):
    box = anchor_box(anchor, **options)
    assert box.status == "unreliable"
    assert box.region == Region.whole(anchor.shape)
    assert len(box.reasons) == 1
    assert reason in box.reasons[0]


def test_no_anchor_is_the_full_frame_and_shapes_must_agree():
    empty = np.zeros((9, 9), bool)
    assert anchor_box(empty) == AnchorBox(Region((0, 0), (9, 9)), "missing", ("no anchor was found",))
    with pytest.raises(GeometryError, match="but its probabilities"):
        anchor_box(empty, probabilities=np.zeros((9, 8)))


def test_crops_keep_their_place_in_the_patient(rng):
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4)) + 3 * np.eye(3, 4)
    grid = Grid((20, 30, 10), affine)
    region = Region((3, 4, 5), (9, 20, 10))
    crop = crop_grid(grid, region)
    assert crop.shape == (6, 16, 5)
    np.testing.assert_allclose(crop.to_world((2, 2, 2)), grid.to_world((5, 6, 7)))


@pytest.mark.parametrize("shape", [(12, 14), (8, 9, 7)])
def test_fusion_by_maximum_never_lowers_anything(shape, rng):
    grid = Grid(shape, np.eye(4))
    regions = search_regions(Region((3,) * len(shape), (5,) * len(shape)), grid, pad=1.0, scales=(0.5, 1, 2))
    parts = [(region, rng.random(region.shape)) for region in regions]
    full = rng.random(shape)
    alone = fuse_regions(shape, parts)
    both = fuse_regions(shape, iter(parts), full=full)
    assert alone.dtype == np.float32
    assert (both >= full.astype(np.float32)).all()
    assert (both >= alone).all()
    for region, values in parts:
        assert (alone[region.slices] >= values.astype(np.float32)).all()
    outside = np.ones(shape, bool)
    for region in regions:
        outside[region.slices] = False
    assert not alone[outside].any()
    np.testing.assert_array_equal(both[outside], full.astype(np.float32)[outside])
    np.testing.assert_array_equal(fuse_regions(shape, parts[::-1]), alone)


def test_an_anchor_of_the_full_frame_is_the_baseline(rng):
    full = rng.random((9, 11)).astype(np.float32)
    region = anchor_box(np.ones((9, 11), bool)).region
    regions = search_regions(region, Grid((9, 11), np.eye(4)))
    for fusion in ("max", "mean"):
        fused = fuse_regions((9, 11), [(r, full[r.slices]) for r in regions], fusion=fusion)
        np.testing.assert_array_equal(fused, full)


def test_fusion_by_mean_counts_what_covers_a_voxel():
    parts = [(Region((0,), (2,)), np.array([0.4, 0.6])), (Region((1,), (3,)), np.array([0.2, 0.8]))]
    np.testing.assert_allclose(fuse_regions((4,), parts, fusion="mean"), [0.4, 0.4, 0.8, 0.0], rtol=1e-6)


def test_fusion_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="the fusion is 'sum'"):
        fuse_regions((4,), [], fusion="sum")
    for region in (Region((0,), (3,)), Region((3,), (5,)), Region((0, 0), (1, 2))):
        with pytest.raises(GeometryError, match="do not fit the region from"):
            fuse_regions((4,), [(region, np.zeros(2) if region.shape != (1, 2) else np.zeros((1, 2)))])


@pytest.mark.parametrize(("target", "padding"), [("liver tumour", 20.0), ("left renal mass", 20.0), ("prostate", 10.0)])
def test_from_words_to_regions_on_a_real_scan(shared_data, target, padding):
    table = knowledge()
    labels = read_mask(shared_data / "abdomen_ct_mr" / "ct_abdomen_3mm_labels.nii.gz")
    plan = RulesPlanner(table).plan(target, "CT")
    anchor = np.isin(labels.array, [n for key in plan.anchors for n in table.labels(key, "totalsegmentator_ct")])
    box = anchor_box(anchor)
    assert (box.status, plan.pad) == ("ok", padding)
    regions = search_regions(box.region, labels.grid, pad=plan.pad, scales=plan.scales, square=plan.square)
    assert len(regions) == 3
    sizes = [np.prod(region.shape) for region in regions]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.5 * anchor.size
    for region in regions:
        assert np.count_nonzero(anchor[region.slices]) == np.count_nonzero(anchor)
        crop = crop_grid(labels.grid, region)
        seen = anchor[region.slices]
        views = views_of(crop)
        back = fuse_regions(anchor.shape, [(region, fuse_views(seen, views, lambda image, view: image * 1.0))])
        np.testing.assert_array_equal(back > 0.5, anchor)


def test_the_bounding_region_of_nothing_is_the_frame():
    empty = np.zeros((4, 6), bool)
    assert bounding_region(empty) == Region.whole((4, 6))
    empty[1, 2:5] = True
    assert bounding_region(empty) == Region((1, 2), (2, 5))
