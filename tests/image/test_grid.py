import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from anatrust.errors import GeometryError
from anatrust.image import Grid, canonical, canonical_grid, restore

ALL_48 = ["".join(code) for order in itertools.permutations(("LR", "PA", "IS")) for code in itertools.product(*order)]


def rotation(angles):
    a, b, c = angles
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rx @ ry @ rz


@st.composite
def affines(draw):
    angles = draw(st.tuples(*[st.floats(-np.pi, np.pi, allow_nan=False)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 9.0)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.diag(np.array(spacing) * signs)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-900, 900)] * 3))
    return affine


def stored_as(array, affine, codes):
    """The RAS volume as a file with the given axes would hold it."""
    ornt = axcodes2ornt(codes)
    order = [int(v) for v in ornt[:, 0]]
    moved = array.transpose(order)
    for axis, (_, flip) in enumerate(ornt):
        if flip < 0:
            moved = np.flip(moved, axis)
    # inv_ornt_aff maps the new voxel indices to the old ones.
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for axis, (old, flip) in enumerate(ornt):
        back[int(old), axis] = flip
        if flip < 0:
            back[int(old), 3] = array.shape[int(old)] - 1
    assert inv_ornt_aff(ornt, array.shape).shape == (4, 4)
    return np.ascontiguousarray(moved), affine @ back


@pytest.mark.parametrize("codes", ALL_48)
def test_every_axis_order_gives_one_canonical_volume(codes, rng):
    array = rng.integers(0, 1000, (4, 5, 6)).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = rotation((0.1, -0.2, 0.15)) @ np.diag((0.7, 1.3, 2.5))
    affine[:3, 3] = (-10, 20, 30)
    moved, placed = stored_as(array, affine, codes)
    grid = Grid(moved.shape, placed)
    assert grid.orientation == codes
    straight, target = canonical(moved, grid)
    assert np.array_equal(straight, array)
    assert np.allclose(target.affine, affine, atol=1e-9)
    assert np.array_equal(restore(straight, grid), moved)


@pytest.mark.parametrize("codes", ALL_48)
@pytest.mark.parametrize("angle", [np.pi / 4, -np.pi / 4, 3 * np.pi / 4])
def test_exact_ties_do_not_depend_on_the_axis_order(codes, angle, rng):
    array = rng.integers(0, 1000, (3, 4, 5))
    affine = np.eye(4)
    affine[:3, :3] = rotation((0, 0, angle)) @ np.diag((1.0, 2.0, 3.0))
    first, target = canonical(array, Grid(array.shape, affine))
    moved, placed = stored_as(array, affine, codes)
    again, same = canonical(moved, Grid(moved.shape, placed))
    assert np.array_equal(first, again)
    assert np.allclose(target.affine, same.affine, atol=1e-9)


@given(affines(), st.lists(st.integers(1, 6), min_size=2, max_size=3), st.integers(0, 2))
@settings(deadline=None, max_examples=80)
def test_canonical_keeps_every_voxel_in_place(affine, shape, channels):
    shape = tuple(shape)
    grid = Grid(shape, affine)
    full = (*shape, channels) if channels else shape
    array = np.arange(np.prod(full)).reshape(full)
    straight, target = canonical(array, grid)
    index = np.argwhere(np.ones(shape, bool))
    there = np.rint(target.to_index(grid.to_world(index))).astype(int)
    assert np.array_equal(array[tuple(index.T)], straight[tuple(there.T)])
    assert np.array_equal(restore(straight, grid), array)
    assert canonical_grid(target).same_as(target)
    assert canonical(straight, target)[1].canonical_axes() == (tuple(range(len(shape))), (False,) * len(shape))


@pytest.mark.parametrize("shape", [(70, 33, 65), (33, 40, 3, 2), (50, 60)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_moved_whole(shape, order, rng):
    """Larger than one of the cubes they are copied in."""
    array = np.asarray(rng.integers(0, 9_999, shape, dtype=np.int16), order=order)
    ndim = min(len(shape), 3)
    affine = np.diag([1.0, -1.0, 1.0, 1.0])[[2, 0, 1, 3]] if ndim == 3 else np.diag([-1.0, -1.0, 1.0, 1.0])
    grid = Grid(shape[:ndim], affine)
    straight, _ = canonical(array, grid)
    axes, flips = grid.canonical_axes()
    moved = array.transpose(*axes, *range(ndim, array.ndim))
    assert np.array_equal(straight, np.flip(moved, [k for k, flip in enumerate(flips) if flip]))
    assert straight.flags.c_contiguous
    back = restore(straight, grid)
    assert np.array_equal(back, array)
    assert back.flags.c_contiguous


def test_canonical_of_the_wrong_shape_is_refused():
    grid = Grid((2, 3, 4), np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(GeometryError, match="shape"):
        canonical(np.zeros((3, 2, 4)), grid)
    with pytest.raises(GeometryError, match="canonical order"):
        restore(np.zeros((3, 2, 4)), grid)


@given(affines())
@settings(deadline=None, max_examples=50)
def test_index_and_world_are_inverse(affine):
    grid = Grid((5, 6, 7), affine)
    index = np.array([[0.0, 0, 0], [4, 5, 6], [1.5, 2.25, 3]])
    assert np.allclose(grid.to_index(grid.to_world(index)), index, atol=1e-6)
    assert grid.voxel_volume == pytest.approx(abs(np.linalg.det(affine[:3, :3])), rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "affine", "why"),
    [
        ((4,), np.eye(4), "2 or 3 axes"),
        ((4, 4, 4, 2), np.eye(4), "2 or 3 axes"),
        ((4, 0, 4), np.eye(4), "empty"),
        ((4, 4, 4), np.eye(3), "4x4"),
        ((4, 4, 4), np.diag([1.0, 1, np.nan, 1]), "NaN"),
        ((4, 4, 4), np.diag([1.0, 1, 0, 1]), "singular"),
        ((4, 4, 4), [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "singular"),
        ((4, 4, 4), np.ones((4, 4)), "0 0 0 1"),
    ],
)
def test_impossible_grids_are_refused(shape, affine, why):
    with pytest.raises(GeometryError, match=why):
        Grid(shape, affine)


def test_layout_describes_images_only():
    with pytest.raises(GeometryError, match="2-D"):
        Grid((2, 3, 4), np.eye(4), layout="slice")


def test_a_picture_runs_down_and_to_the_right():
    grid = Grid.without_spacing((480, 640))
    assert (grid.orientation, grid.layout, grid.unit, grid.spacing_known) == ("PL", "raster", "px", False)
    known = Grid.of_picture((480, 640), (0.2, 0.3))
    assert (known.spacing, known.unit) == ((0.2, 0.3), "mm")
    assert np.allclose(known.to_world([0, 1]) - known.to_world([0, 0]), (-0.3, 0, 0))
    assert np.allclose(known.to_world([1, 0]) - known.to_world([0, 0]), (0, -0.2, 0))
    assert Grid.without_spacing((3, 4, 5)).orientation == "RAS"


def test_same_as_forgives_rounding_and_nothing_else():
    affine = np.diag([0.7, 0.7, 2.5, 1.0])
    grid = Grid((64, 64, 20), affine)
    assert grid.same_as(Grid((64, 64, 20), affine.astype(np.float32)))
    assert not grid.same_as(Grid((64, 64, 21), affine))
    assert not grid.same_as(Grid((64, 64, 20), affine, spacing_known=False))
    shifted = affine.copy()
    shifted[0, 3] = 0.1
    assert not grid.same_as(Grid((64, 64, 20), shifted))


def test_the_affine_cannot_be_written_through():
    affine = np.eye(4)
    grid = Grid((2, 2, 2), affine)
    affine[0, 0] = 5
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2
