"""Components, their sizes and their canonical order."""

from __future__ import annotations

import itertools
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection import Candidate, find_candidates
from anatrust.rejection.candidates import find_components, largest_diameter


def _grid(shape, spacing=None):
    steps = (spacing or (1.0,) * len(shape)) + (1.0,) * (4 - len(shape))
    return Grid(shape, np.diag(steps))


def _components(mask, image=None, grid=None, **options):
    grid = grid or _grid(mask.shape)
    return find_components(mask, mask.astype(np.float32) if image is None else image, grid, grid, **options)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7), elements=st.integers(0, 2)),
    st.booleans(),
)
def test_components_agree_with_scipy(mask, full):
    connectivity = {2: (4, 8), 3: (6, 26)}[mask.ndim][full]
    structure = ndimage.generate_binary_structure(mask.ndim, mask.ndim if full else 1)
    expected = []
    image = np.arange(mask.size, dtype=np.float64).reshape(mask.shape)
    for label in (1, 2):
        numbered, count = ndimage.label(mask == label, structure)
        expected += [(label, np.flatnonzero(numbered == k).tolist()) for k in range(1, count + 1)]
    found = _components(mask, image, connectivity=connectivity)
    got = [(c.label, v.tolist()) for c, v in zip(found.candidates, found.voxels, strict=True)]
    assert sorted(got) == sorted(expected)
    assert [c.voxels for c in found.candidates] == sorted((len(v) for _, v in expected), reverse=True)
    for position, candidate in enumerate(found.candidates):
        inside = np.zeros(mask.size, bool)
        inside[found.voxels[position]] = True
        inside = inside.reshape(mask.shape)
        assert candidate.mean_intensity == pytest.approx(image[inside].mean())
        np.testing.assert_allclose(candidate.centroid_index, np.argwhere(inside).mean(axis=0))
        low, high = np.argwhere(inside).min(axis=0), np.argwhere(inside).max(axis=0) + 1
        assert candidate.bounding_box == tuple(zip(low.tolist(), high.tolist(), strict=True))
        assert np.array_equal(found.within(position, tuple(slice(0, n) for n in mask.shape)), inside)
        assert candidate.touches_border == bool((low == 0).any() or (high == mask.shape).any())
    everything = found.union(tuple(range(len(found.candidates))))
    assert np.array_equal(everything, mask > 0)


@pytest.mark.parametrize("shape", [(9, 9), (2, 2, 2), (6, 5, 4)])
def test_boolean_masks_are_labelled_like_bytes(shape, rng):
    """The component library mislabels boolean images; a mask must not reach it as such, nor read-only."""
    structure = ndimage.generate_binary_structure(len(shape), len(shape))
    for _ in range(300):
        mask = rng.random(shape) < 0.4
        mask.setflags(write=False)
        assert len(_components(mask).candidates) == ndimage.label(mask, structure)[1]


def test_volume_diameter_and_names():
    mask = np.zeros((12, 12, 6), np.uint8)
    mask[2:8, 3, 2] = 3
    grid = _grid(mask.shape, (2.0, 1.0, 3.0))
    scan = Scan(np.full(mask.shape, 7, np.int16), grid)
    (candidate,) = find_candidates(LabelMap(mask, grid, {3: "metastasis"}), scan)
    assert (candidate.volume, candidate.diameter) == (36.0, 12.0)
    assert (candidate.name, candidate.label, candidate.mean_intensity) == ("metastasis", 3, 7.0)
    (unnamed,) = find_candidates(LabelMap(mask, grid), scan)
    assert unnamed.name == "label 3"
    (of_mask,) = find_candidates(Mask(mask > 0, grid, "lesion"), scan)
    assert of_mask.name == "lesion"


def test_unknown_spacing_gives_no_mm():
    grid = Grid.without_spacing((9, 9))
    mask = np.zeros((9, 9), np.uint8)
    mask[4:6, 4:6] = 1
    (candidate,) = find_candidates(LabelMap(mask, grid), Scan(mask, grid))
    assert candidate.volume is None
    assert candidate.diameter is None
    assert candidate.voxels == 4


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)), st.integers(0, 10**6))
def test_diameter_equals_brute_force(mask, seed):
    if not mask.any():
        mask.flat[0] = True
    axes = np.random.default_rng(seed).normal(size=(3, mask.ndim))
    index = np.argwhere(mask)
    half = 0.5 * np.eye(mask.ndim)
    points = (index[:, None] + np.concatenate([half, -half])[None]).reshape(-1, mask.ndim) @ axes.T
    expected = max(np.linalg.norm(points - p, axis=1).max() for p in points)
    assert largest_diameter(index, axes) == pytest.approx(expected)


def test_a_large_ball_uses_the_hull():
    x = np.indices((41, 41, 41)) - 20
    index = np.argwhere((x**2).sum(axis=0) <= 18**2)
    assert largest_diameter(index, np.diag([0.5, 0.5, 0.5])) == pytest.approx(18.5, abs=0.01)


def test_concentric_components_of_equal_size_keep_one_order():
    mask = np.zeros((9, 9), np.uint8)
    mask[0, 0] = mask[8, 8] = 1
    mask[0, 8] = mask[8, 0] = 1
    found = _components(mask)
    assert [tuple(round(v) for v in c.centroid_world[:2]) for c in found.candidates] == [(0, 0), (0, 8), (8, 0), (8, 8)]


def test_stored_orientation_changes_nothing_but_indices(flat, solid):
    for phantom in (flat, solid):
        array, grid = canonical(phantom.labels.array, phantom.labels.grid)
        image = canonical(phantom.scan.array, phantom.scan.grid)[0]
        reference = find_candidates(LabelMap(array, grid), Scan(image, grid))
        for order in itertools.permutations(range(grid.ndim)):
            for flips in itertools.product((False, True), repeat=grid.ndim):
                affine = np.array(grid.affine)
                moved, picture = array, image
                for axis, flip in enumerate(flips):
                    if flip:
                        affine[:3, 3] += affine[:3, axis] * (grid.shape[axis] - 1)
                        affine[:3, axis] *= -1
                        moved, picture = np.flip(moved, axis), np.flip(picture, axis)
                affine[:3, : grid.ndim] = affine[:3, list(order)]
                stored = Grid(tuple(grid.shape[a] for a in order), affine)
                moved, picture = np.transpose(moved, order), np.transpose(picture, order)
                found = find_candidates(LabelMap(moved, stored), Scan(picture, stored))
                for a, b in zip(found, reference, strict=True):
                    assert replace(a, centroid_index=b.centroid_index, bounding_box=b.bounding_box) == b
                    np.testing.assert_allclose(stored.to_world(a.centroid_index), a.centroid_world, atol=1e-5)
                    box = tuple(slice(*edge) for edge in a.bounding_box)
                    assert np.count_nonzero(moved[box]) >= a.voxels


def test_probabilities_are_averaged():
    mask = np.zeros((6, 6), np.uint8)
    mask[1:3, 1:3] = 1
    grid = _grid((6, 6))
    chance = np.zeros((1, 6, 6), np.float32)
    chance[0, 1:3, 1:3] = [[0.5, 0.7], [0.9, 0.9]]
    probabilities = ProbabilityMap(chance, grid)
    (candidate,) = find_candidates(LabelMap(mask, grid), Scan(mask, grid), probabilities=probabilities)
    assert candidate.mean_probability == pytest.approx(0.75)


def test_empty_masks_and_wrong_arguments():
    grid = _grid((4, 4))
    empty = LabelMap(np.zeros((4, 4), np.uint8), grid)
    scan = Scan(np.zeros((4, 4), np.float32), grid)
    assert find_candidates(empty, scan) == ()
    with pytest.raises(InputError, match="connectivity 26 does not exist in 2-D"):
        find_candidates(empty, scan, connectivity=26)
    other = Scan(np.zeros((4, 4), np.float32), _grid((4, 4), (2.0, 2.0)))
    with pytest.raises(GeometryError, match="mask and the scan lie on different grids"):
        find_candidates(empty, other)


def test_impossible_candidates_are_refused():
    good = Candidate(1, 1, "x", 4, 4.0, 2.0, (0.5, 0.5), (0.5, 0.5, 0.0), ((0, 2), (0, 2)), 1.0)
    assert good.to_json()["bounding_box"] == [[0, 2], [0, 2]]
    with pytest.raises(InputError, match="at least 1"):
        replace(good, voxels=0)
    with pytest.raises(InputError, match="box axes"):
        replace(good, bounding_box=((0, 2),))
    with pytest.raises(InputError, match="p_value is 1"):
        replace(good, p_value=1.5)
