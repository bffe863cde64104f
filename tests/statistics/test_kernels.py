import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anatrust.errors import InputError
from anatrust.statistics.kernels import Kernel, as_points, kernel_ladder, median_bandwidth

floats = st.floats(-50, 50, width=32)


def test_points_have_two_axes_and_are_float64():
    assert as_points(np.arange(3, dtype=np.uint8)).dtype == np.float64
    assert as_points([True, False]).shape == (2, 1)
    assert as_points(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 2)), 3.0, np.zeros((3, 0)), ["a"], np.zeros(2, dtype=complex)])
def test_features_that_are_no_table_of_numbers_are_refused(bad):
    with pytest.raises(InputError, match="features must"):
        as_points(bad)


@pytest.mark.parametrize(("family", "power"), [("gaussian", 2), ("laplacian", 1)])
def test_kernel_values_are_those_of_the_formula(family, power, rng):
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    distance = np.linalg.norm(x[:, None] - y[None], axis=2)
    expected = np.exp(-(distance**2) / (2 * 0.7**2)) if power == 2 else np.exp(-distance / 0.7)
    np.testing.assert_allclose(Kernel(family, 0.7).matrix(x, y), expected, rtol=1e-12)


@pytest.mark.parametrize("family", ["gaussian", "laplacian"])
def test_kernel_matrices_are_positive_semidefinite(family, rng):
    x = rng.normal(size=(40, 3))
    assert np.linalg.eigvalsh(Kernel(family, 1.3).matrix(x)).min() > -1e-10


def test_impossible_kernels_are_refused():
    with pytest.raises(InputError, match="no kernel is called"):
        Kernel("cosine", 1.0)
    for bandwidth in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="bandwidth"):
            Kernel("gaussian", bandwidth)
    with pytest.raises(InputError, match="cannot be compared"):
        Kernel("gaussian", 1.0).matrix(np.zeros((2, 1)), np.zeros((2, 2)))


def test_the_median_is_that_of_all_pairs(rng):
    x = rng.normal(size=(60, 3))
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)[np.tril_indices(60, -1)]
    assert median_bandwidth(x) == pytest.approx(np.median(distance), rel=1e-9)


@given(arrays(np.float64, st.tuples(st.integers(2, 30), st.integers(1, 3)), elements=floats), st.randoms())
@settings(deadline=None, max_examples=60)
def test_the_bandwidth_is_positive_and_blind_to_order(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    assert median_bandwidth(points) > 0
    # Rounding of the subtracted mean may decide whether two nearly equal points coincide.
    rounded = np.round(points)
    assert median_bandwidth(rounded) == pytest.approx(median_bandwidth(rounded[order]), rel=1e-6)


@pytest.mark.parametrize("d", [1, 4])
def test_thinning_is_blind_to_order_and_close(d, rng):
    x = rng.normal(size=(3000, d))
    thinned = median_bandwidth(x, seed=3, max_points=500)
    assert thinned == pytest.approx(median_bandwidth(rng.permutation(x), seed=3, max_points=500), rel=1e-9)
    assert thinned == pytest.approx(median_bandwidth(x, max_points=3000), rel=0.05)


def test_a_far_outlier_does_not_hide_the_other_distances(rng):
    x = rng.normal(size=(100, 2))
    usual = median_bandwidth(x)
    x[0] = 1e9
    assert median_bandwidth(x) == pytest.approx(usual, rel=0.05)


def test_a_mostly_equal_pool_falls_back_to_the_distances_above_zero():
    assert median_bandwidth([0.0] * 10 + [2.0]) == pytest.approx(2.0)
    assert median_bandwidth([[3.0, 1.0]] * 5) == 1.0


@pytest.mark.parametrize("grades", [3, 40, 10_000])
def test_values_that_repeat_count_as_often_as_they_do(grades, rng):
    x = np.sort(rng.integers(0, grades, 400) / grades)
    # A second column of zeros changes no distance, and pairs of vectors are looked at one by one.
    assert median_bandwidth(x) == median_bandwidth(np.stack([x, np.zeros(400)], axis=1))


def test_bandwidths_of_impossible_pools_are_refused():
    with pytest.raises(InputError, match="at least 2 points"):
        median_bandwidth([1.0])
    with pytest.raises(InputError, match="NaN"):
        median_bandwidth([1.0, np.nan])
    with pytest.raises(InputError, match="max_points"):
        median_bandwidth([1.0, 2.0], max_points=1)


def test_the_ladder_has_every_family_at_every_factor():
    ladder = kernel_ladder([0.0, 1.0, 3.0], families=("gaussian", "laplacian"), factors=(0.5, 2))
    assert [(k.family, k.bandwidth) for k in ladder] == [
        ("gaussian", 1.0),
        ("gaussian", 4.0),
        ("laplacian", 1.0),
        ("laplacian", 4.0),
    ]
    for empty in ({"families": ()}, {"factors": ()}):
        with pytest.raises(InputError, match="at least one"):
            kernel_ladder([0.0, 1.0], **empty)
