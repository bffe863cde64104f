import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from anatrust.errors import InputError
from anatrust.statistics.multiple_testing import (
    benjamini_hochberg,
    benjamini_yekutieli,
    calibrate_e,
    e_benjamini_hochberg,
    focused_bh,
    holm,
    undecidable,
    weighted_benjamini_hochberg,
)

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=30)
procedures = [benjamini_hochberg, benjamini_yekutieli, holm]


@given(p_lists)
@settings(deadline=None, max_examples=200)
def test_bh_and_by_equal_scipy(p):
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p, method="bh"), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(benjamini_yekutieli(p), false_discovery_control(p, method="by"), rtol=1e-12, atol=1e-300)


@given(p_lists)
@settings(deadline=None, max_examples=100)
def test_holm_equals_its_step_down_definition(p):
    p = np.array(p)
    order, adjusted, running = np.argsort(p, kind="stable"), np.empty(len(p)), 0.0
    for i, k in enumerate(order):
        running = max(running, min(1.0, (len(p) - i) * p[k]))
        adjusted[k] = running
    np.testing.assert_allclose(holm(p), adjusted, rtol=1e-12, atol=1e-300)


@given(p_lists, st.randoms(), st.sampled_from(procedures))
@settings(deadline=None, max_examples=100)
def test_order_does_not_matter_and_q_is_at_least_p(p, random, procedure):
    p = np.array(p)
    order = list(range(len(p)))
    random.shuffle(order)
    np.testing.assert_allclose(procedure(p[order]), procedure(p)[order])
    assert (procedure(p) >= p).all()
    assert (procedure(p) <= 1).all()


@given(p_lists)
@settings(deadline=None, max_examples=50)
def test_equal_weights_are_bh(p):
    np.testing.assert_allclose(
        weighted_benjamini_hochberg(p, [3.0] * len(p)), benjamini_hochberg(p), rtol=1e-9, atol=1e-300
    )


def test_a_weight_of_zero_never_rejects():
    assert weighted_benjamini_hochberg([0.0, 0.001], [0, 1])[0] == 1.0
    assert weighted_benjamini_hochberg([0.0, 0.001], [0, 1])[1] == pytest.approx(0.001)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0.01, 0.5))
@settings(deadline=None, max_examples=100)
def test_e_bh_equals_its_definition(e, alpha):
    e = np.array(e)
    ordered = np.sort(e)[::-1]
    counts = [k for k in range(1, len(e) + 1) if k * ordered[k - 1] / len(e) >= 1 / alpha]
    # A tie with the level is decided by rounding; leave these out.
    if not any(np.isclose(k * ordered[k - 1] / len(e), 1 / alpha) for k in range(1, len(e) + 1)):
        expected = e >= ordered[max(counts) - 1] if counts else np.zeros(len(e), dtype=bool)
        np.testing.assert_array_equal(e_benjamini_hochberg(e) <= alpha, expected)


def test_e_values_may_be_zero_or_infinite():
    assert e_benjamini_hochberg([np.inf, 0.0]).tolist() == [0.0, 1.0]
    assert calibrate_e([0.0]).tolist() == [np.inf]


def test_calibrated_e_values_have_mean_at_most_one(rng):
    for kappa in (0.25, 0.5, 0.75):
        p = (1 + rng.integers(0, 200, 10**5)) / 200
        e = calibrate_e(p, kappa=kappa)
        assert e.mean() <= 1 + 2 * e.std() / np.sqrt(len(e))


@given(p_lists, st.floats(0.01, 0.5))
@settings(deadline=None, max_examples=100)
def test_focused_bh_without_a_filter_is_bh(p, alpha):
    q = benjamini_hochberg(p)
    if not np.isclose(q, alpha).any():
        np.testing.assert_array_equal(focused_bh(p, lambda rejected: rejected, alpha), q <= alpha)


def test_focused_bh_pays_for_what_the_filter_drops():
    p = np.array([0.001] * 8 + [0.02] * 2)
    last = np.arange(10) >= 8
    assert (benjamini_hochberg(p) <= 0.05).all()
    assert not focused_bh(p, lambda rejected: rejected & last, 0.05).any()
    assert focused_bh(p, lambda rejected: rejected & ~last, 0.05).tolist() == (~last).tolist()


def test_focused_bh_refuses_a_filter_that_invents():
    with pytest.raises(InputError, match="subset"):
        focused_bh([0.01, 0.9], lambda rejected: ~rejected, 0.05)
    with pytest.raises(InputError, match="subset"):
        focused_bh([0.01, 0.9], lambda rejected: rejected[:1], 0.05)


def test_undecidable_compares_the_floor_with_the_hardest_threshold():
    assert undecidable([0.001, 0.0011], 0.05, 50).tolist() == [False, True]
    assert not undecidable(0.05, 0.05, 1)
    assert undecidable(0.051, 0.05, 1)
    # 1/(B+1) with B = K/alpha − 1 reaches the threshold exactly.
    assert not any(undecidable(1 / (k / 0.05), 0.05, k) for k in range(1, 200))


def test_nothing_to_test_gives_nothing():
    for procedure in (*procedures, e_benjamini_hochberg, calibrate_e):
        assert procedure([]).shape == (0,)
    assert weighted_benjamini_hochberg([], []).shape == (0,)
    assert focused_bh([], lambda rejected: rejected, 0.1).shape == (0,)


@pytest.mark.parametrize("bad", [[np.nan], [-0.1], [1.1], [[0.1]]])
def test_impossible_p_values_are_refused(bad):
    for procedure in procedures:
        with pytest.raises(InputError, match="p-value"):
            procedure(bad)


def test_impossible_settings_are_refused():
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0], [np.inf, 1.0]):
        with pytest.raises(InputError, match="weights"):
            weighted_benjamini_hochberg([0.1, 0.2], weights)
    for bad in ([-1.0], [np.nan], [[1.0]]):
        with pytest.raises(InputError, match="e-value"):
            e_benjamini_hochberg(bad)
    for alpha in (0.0, 1.0):
        with pytest.raises(InputError, match="alpha"):
            undecidable(0.1, alpha, 1)
    with pytest.raises(InputError, match="kappa"):
        calibrate_e([0.5], kappa=1.0)
    with pytest.raises(InputError, match="number of tests"):
        undecidable(0.1, 0.05, 0)
