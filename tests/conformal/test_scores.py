"""Lattice walks and scores: bounded, sensitive to edges, and what each one promises."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label

from anatrust.conformal import lattice as lattice_room
from anatrust.conformal import scores as scores_room
from anatrust.conformal.lattice import gaussian_smooth, joint_bilateral, lattice_walk
from anatrust.conformal.scores import adaptive_score, distance_score, reconstruction_score, temperature_score
from anatrust.errors import InputError

shapes = st.sampled_from([(1, 1), (1, 7), (9, 8), (5, 6, 4)])


@given(shape=shapes, seed=st.integers(0, 300), beta=st.sampled_from([0.0, 1.0, 1e6]), steps=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_lattice_methods_keep_the_range_and_constants(
    shape: tuple[int, ...], seed: int, beta: float, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    scores, guide, spacing = rng.random(shape), rng.normal(size=shape), rng.uniform(0.5, 3, len(shape))
    for result in (
        lattice_walk(scores, guide, spacing, beta=beta, steps=steps),
        joint_bilateral(scores, guide, spacing, width=1.5, beta=beta),
    ):
        assert result.shape == shape
        assert result.min() >= scores.min()
        assert result.max() <= scores.max()
    flat = np.full(shape, 0.3)
    np.testing.assert_allclose(lattice_walk(flat, guide, spacing, beta=beta, steps=steps), 0.3)
    np.testing.assert_allclose(joint_bilateral(flat, guide, spacing, beta=beta), 0.3)


def test_walks_stop_at_edges_of_the_guide() -> None:
    guide = np.zeros((20, 20))
    guide[:, 10:] = 100
    guide += np.random.default_rng(0).normal(size=guide.shape)
    scores = np.zeros((20, 20))
    scores[:, :10] = 1
    for result in (
        lattice_walk(scores, guide, (1, 1), beta=1.0, steps=30),
        joint_bilateral(scores, guide, (1, 1), width=3, beta=1.0),
    ):
        np.testing.assert_allclose(result, scores, atol=1e-6)
    assert abs(gaussian_smooth(scores, (1, 1), width=3)[10, 9] - 1) > 0.3


def test_without_a_guide_the_walk_spreads_like_a_gaussian_of_its_width() -> None:
    """Face-neighbour steps of a d-dimensional walk have variance 1/d a step and axis."""
    scores = np.zeros((41, 41))
    scores[20, 20] = 1
    walked = lattice_walk(scores, np.zeros_like(scores), (1, 1), steps=40, laziness=0.5)
    expected = gaussian_filter(scores, np.sqrt(40 * 0.5 * 0.5))
    np.testing.assert_allclose(walked, expected, atol=2e-3)
    assert walked.sum() == pytest.approx(1, abs=1e-6)


def test_far_axes_are_walked_more_slowly() -> None:
    scores = np.zeros((21, 21))
    scores[10, 10] = 1
    walked = lattice_walk(scores, np.zeros_like(scores), (1.0, 3.0), steps=10)
    along, across = (np.indices(scores.shape) - 10) ** 2
    # A weight of 1/9 a step: the variance in voxels is a ninth, in mm² the walk spreads evenly.
    assert (walked * along).sum() / (walked * across).sum() == pytest.approx(9, rel=1e-3)


@given(seed=st.integers(0, 300), temperature=st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=30, deadline=None)
def test_temperature_never_reorders(seed: int, temperature: float) -> None:
    p = np.sort(np.random.default_rng(seed).uniform(1e-6, 1 - 1e-6, 50))
    assert (np.diff(temperature_score(p, temperature)) >= 0).all()


@given(shape=st.sampled_from([(12,), (9, 8), (6, 5, 7)]), seed=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_distance_sets_are_nested_and_hold_the_mask_at_a_half(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, spacing = rng.random(shape) < 0.4, rng.uniform(0.5, 3, len(shape))
    score = distance_score(mask, spacing, reach=8.0)
    if mask.any():
        np.testing.assert_array_equal(score > 0.5, mask)
        assert score.min() >= 0
        assert score.max() <= 1
    else:
        assert not score.any()
    with_ties = distance_score(mask, spacing, reach=8.0, probabilities=rng.random(shape))
    assert np.abs(with_ties - score).max() <= min(spacing) / 32 + 1e-12


def test_a_threshold_of_the_distance_score_is_a_dilation_in_mm() -> None:
    mask = np.zeros((41, 41), bool)
    mask[20, 20] = True
    grown = distance_score(mask, (1.0, 2.0), reach=10.0) >= 0.5 - (6.0 - 0.5) / 20
    x, y = np.indices(mask.shape)
    np.testing.assert_array_equal(grown, (x - 20) ** 2 + (2 * (y - 20)) ** 2 <= 36)


def test_the_adaptive_score_is_the_share_of_mass_below(rng: np.random.Generator) -> None:
    p = rng.random((8, 9)).round(1)
    score = adaptive_score(p)
    for value in np.unique(p):
        np.testing.assert_allclose(score[p == value], p[p <= value].sum() / p.sum())
    assert not adaptive_score(np.zeros((3, 3))).any()


@given(shape=st.sampled_from([(9, 8), (5, 6, 4)]), seed=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_every_reconstructed_set_is_one_piece_with_the_peak(shape: tuple[int, ...], seed: int) -> None:
    p = np.random.default_rng(seed).random(shape)
    score = reconstruction_score(p)
    assert (score <= p + 1e-12).all()
    for threshold in (0.2, 0.5, 0.8):
        kept = score >= threshold
        labels = cc3d.connected_components((p >= threshold).astype(np.uint8), connectivity=8 if p.ndim == 2 else 26)
        np.testing.assert_array_equal(kept, labels == labels.flat[p.argmax()] if p.max() >= threshold else kept & False)


@given(
    shape=st.sampled_from([(1, 1), (1, 9), (12, 11), (6, 5, 7)]),
    seed=st.integers(0, 500),
    core=st.sampled_from([0, 0.5, 0.9]),
)
@settings(max_examples=60, deadline=None)
def test_reconstruction_agrees_with_simpleitk(shape: tuple[int, ...], seed: int, core: float) -> None:
    """Oracle: reconstruction by dilation of the same marker; ties and plateaus included."""
    p = np.random.default_rng(seed).integers(0, 12, shape) / 11
    score = reconstruction_score(p, core=core)
    marker = p == p.max()
    if core and p.max() > 0:
        labels, count = label(p >= core * p.max(), structure=np.ones((3,) * p.ndim))
        marker = labels == 1 + np.argmax([p[labels == k].sum() for k in range(1, count + 1)])
    seeds = sitk.GetImageFromArray(np.where(marker, p, 0.0))
    filled = sitk.ReconstructionByDilation(seeds, sitk.GetImageFromArray(p), True)
    np.testing.assert_array_equal(score, sitk.GetArrayFromImage(filled))


def test_the_heaviest_core_survives_a_brighter_speck() -> None:
    p = np.zeros((20, 20))
    p[3:10, 3:10], p[16, 16] = 0.8, 0.95
    by_peak, by_weight = reconstruction_score(p), reconstruction_score(p, core=0.5)
    assert by_peak[5, 5] == 0
    assert by_peak[16, 16] == 0.95
    assert by_weight[5, 5] == 0.8
    assert by_weight[16, 16] == 0


def test_a_guide_of_many_channels_stops_where_any_of_them_does() -> None:
    rng = np.random.default_rng(0)
    guide = rng.normal(size=(20, 20, 3))
    guide[:, 10:, 1] += 100
    scores = np.zeros((20, 20))
    scores[:, :10] = 1
    np.testing.assert_allclose(lattice_walk(scores, guide, (1, 1), beta=1.0, steps=30), scores, atol=1e-6)
    one = lattice_walk(scores, guide[..., 0], (1, 1), steps=5)
    np.testing.assert_allclose(lattice_walk(scores, guide[..., :1], (1, 1), steps=5), one)


def test_a_lattice_step_is_the_weighted_mean_of_the_neighbours() -> None:
    """Analytic: one step from a single voxel, on a constant guide, in three dimensions."""
    scores = np.zeros((3, 3, 3))
    scores[1, 1, 1] = 1
    walked = lattice_walk(scores, np.zeros_like(scores), (1, 1, 2), steps=1, laziness=0.0)
    # The voxel below the middle has four neighbours at distance 1 and the middle at distance 2.
    assert walked[1, 1, 0] == pytest.approx(0.25 / 4.25)
    assert walked[1, 1, 1] == 0


@given(seed=st.integers(0, 100))
@settings(max_examples=8, deadline=None)
def test_compiled_loops_say_what_their_source_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 5, (3, 4, 5)) / 4
    flood = (p.ravel(), rng.random(60) < 0.1, np.argsort(-p.ravel(), kind="stable"), p.shape)
    np.testing.assert_array_equal(scores_room._flood(*flood), scores_room._flood.py_func(*flood))
    weights = rng.random((3, 3, 4, 5)) * (rng.random((3, 3, 4, 5)) < 0.5)
    weights[0, -1], weights[1, :, -1], weights[2, :, :, -1] = 0, 0, 0
    walked = lattice_room._walk(p.copy(), weights, 3, 0.2)
    np.testing.assert_allclose(walked, lattice_room._walk.py_func(p.copy(), weights, 3, 0.2))


def test_nonsense_is_refused() -> None:
    image = np.zeros((3, 3))
    for call in (
        lambda: lattice_walk(image, np.zeros((3, 3, 0)), (1, 1)),
        lambda: lattice_walk(image, np.zeros((4, 3)), (1, 1)),
        lambda: reconstruction_score(image, core=1.5),
        lambda: lattice_walk(image, image, (1,)),
        lambda: lattice_walk(image, image, (1, 1), steps=-1),
        lambda: joint_bilateral(image, image, (1, 1), width=0),
        lambda: gaussian_smooth(image, (1, 1), width=-1),
        lambda: temperature_score([0.5], 0),
        lambda: temperature_score([np.nan], 1),
        lambda: adaptive_score([]),
        lambda: distance_score(image, (1, 1), reach=0),
        lambda: reconstruction_score([0.5]),
    ):
        with pytest.raises(InputError):
            call()
    np.testing.assert_array_equal(distance_score(np.ones((2, 2)), (1, 1)), 1)
    np.testing.assert_array_equal(distance_score(np.zeros((2, 2)), (1, 1)), 0)
