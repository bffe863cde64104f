"""Mirrored views: exact inverses, names by the patient's directions, fusion that only adds."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.models.views import View, fuse_views, views_of


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)), st.sampled_from(["paper", "flips"]))
def test_every_view_is_undone_exactly(array, which):
    for view in views_of(Grid(array.shape, np.eye(4)), which):
        np.testing.assert_array_equal(view.invert(view.apply(array)), array)
        stacked = np.stack([array, array + 1])
        np.testing.assert_array_equal(view.invert(view.apply(stacked)), stacked)
        np.testing.assert_array_equal(view.apply(stacked)[1], view.apply(array + 1))


def test_views_are_the_same_whatever_the_storage_order():
    image = np.random.default_rng(3).random((4, 5, 6))
    reference = Grid(image.shape, np.eye(4))
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.diag(signs)[:, list(order)]
        stored = np.transpose(image, order)
        stored = np.flip(stored, [a for a in range(3) if signs[order[a]] < 0])
        for mine, theirs in zip(
            views_of(Grid(stored.shape, affine), "flips"), views_of(reference, "flips"), strict=True
        ):
            assert (mine.name, mine.swaps_sides) == (theirs.name, theirs.swaps_sides)
            seen = np.flip(mine.apply(stored), [a for a in range(3) if signs[order[a]] < 0])
            np.testing.assert_array_equal(np.transpose(seen, np.argsort(order)), theirs.apply(image))


def test_only_left_right_flips_swap_sides():
    picture = Grid.without_spacing((8, 9))
    assert [(v.name, v.flips, v.swaps_sides) for v in views_of(picture)] == [
        ("identity", (), False),
        ("left-right", (1,), True),
        ("front-back", (0,), False),
    ]
    sagittal = np.eye(4)[:, [1, 2, 0, 3]]
    assert [v.name for v in views_of(Grid((8, 9), sagittal))] == ["identity", "front-back", "head-foot"]
    assert not any(v.swaps_sides for v in views_of(Grid((8, 9), sagittal), "flips"))
    assert [v.name for v in views_of(picture, "identity")] == ["identity"]
    assert len({v.flips for v in views_of(Grid((3, 3, 3), np.eye(4)), "flips")}) == 8


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_fusion_is_monotone_and_bounded_by_the_answers(image):
    views = views_of(Grid(image.shape, np.eye(4)), "flips")
    weights = np.linspace(0.2, 1, 12, dtype=np.float32).reshape(3, 4)

    def model(seen, view):
        return seen * weights  # sees the frame, so the views disagree

    answers = np.stack([view.invert(view.apply(image) * weights) for view in views])
    most, mean = (fuse_views(image, views, model, fusion) for fusion in ("max", "mean"))
    np.testing.assert_array_equal(most, answers.max(0))
    np.testing.assert_allclose(mean, answers.mean(0), rtol=1e-5, atol=1e-7)
    assert (fuse_views(image, views[:2], model) <= most).all()
    assert (fuse_views(image, views[:1], model) == answers[0]).all()


def test_an_equivariant_model_gains_nothing_from_views():
    image = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    views = views_of(Grid(image.shape, np.eye(4)), "flips")
    for fusion in ("max", "mean"):
        fused = fuse_views(image, views, lambda seen, view: np.stack([1 - seen, seen]), fusion)
        np.testing.assert_allclose(fused, np.stack([1 - image, image]), rtol=1e-6)


def test_the_model_gets_contiguous_images_and_the_view():
    seen = []

    def model(image, view):
        assert image.flags.c_contiguous
        seen.append(view.name)
        return image

    fuse_views(np.ones((2, 3)), views_of(Grid((2, 3), np.eye(4))), model)
    assert seen == ["identity", "left-right", "front-back"]


def test_what_does_not_fit_is_refused():
    grid = Grid((2, 3), np.eye(4))
    with pytest.raises(InputError, match="choose identity, paper or flips"):
        views_of(grid, "all")
    with pytest.raises(InputError, match="the fusion is 'sum'"):
        fuse_views(np.ones((2, 3)), views_of(grid), lambda a, v: a, "sum")
    with pytest.raises(InputError, match="no view"):
        fuse_views(np.ones((2, 3)), [], lambda a, v: a)
    with pytest.raises(GeometryError, match=r"answered shape \(3, 2\)"):
        fuse_views(np.ones((2, 3)), views_of(grid), lambda a, v: a.T)
    with pytest.raises(GeometryError, match="to views of one image"):
        fuse_views(np.ones((2, 3)), views_of(grid), lambda a, v: a if v.flips else a[None])
    with pytest.raises(GeometryError, match="fewer than the view's 2 axes"):
        View("identity", 2).apply(np.ones(3))
    for flips in ((2,), (0, 0)):
        with pytest.raises(GeometryError, match="flips axes"):
            View("odd", 2, flips)
