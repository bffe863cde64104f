import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anatrust.errors import InputError
from anatrust.statistics.aggregation import aggregate, at_least

tables = arrays(np.float64, st.tuples(st.integers(2, 4), st.integers(2, 30)), elements=st.floats(-5, 5, width=32))


def test_one_statistic_is_passed_on():
    assert aggregate([3.0, 1.0, 2.0]).tolist() == [3.0, 1.0, 2.0]


def test_the_scores_are_smallest_ranks(rng):
    table = rng.normal(size=(3, 50))
    ranks = np.stack([[(row >= v).sum() for v in row] for row in table]).min(axis=0)
    scores = aggregate(table)
    # The tie-break moves a rank by less than 1.
    np.testing.assert_array_less(-np.log10(ranks / 50) - 1e-9, scores)
    better, worse = np.meshgrid(ranks, ranks, indexing="ij")
    assert (np.subtract.outer(scores, scores)[better < worse] > 0).all()


def test_a_column_best_in_every_statistic_wins_alone(rng):
    table = rng.normal(size=(6, 200))
    table[:, 17] = 9.0
    scores = aggregate(table)
    assert scores.argmax() == 17
    assert at_least(np.delete(scores, 17), scores[17]) == 0


def test_equal_ranks_are_ordered_by_how_far_out_they_are():
    table = np.zeros((2, 100)) + np.linspace(0, 1, 100)
    table[0, 0], table[1, 1] = 50.0, 3.0
    scores = aggregate(table)
    assert scores[0] > scores[1] > scores[2:].max()


@given(tables, st.randoms())
@settings(deadline=None, max_examples=80)
def test_the_scores_do_not_see_the_order_of_the_columns(table, random):
    order = list(range(table.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(aggregate(table[:, order]), aggregate(table)[order], atol=1e-9)


def test_a_weight_gives_a_statistic_a_larger_share(rng):
    table = rng.normal(size=(2, 100))
    table[0, 3], table[1, 4] = 9.0, 9.0
    heavy = aggregate(table, weights=[9.0, 1.0])
    assert heavy[3] > heavy[4]
    assert heavy[3] - heavy[4] == pytest.approx(np.log10(9), abs=1.0)
    np.testing.assert_allclose(aggregate(table, weights=[2.0, 2.0]), aggregate(table))


def test_infinite_and_constant_statistics_are_allowed():
    scores = aggregate([[np.inf, 1.0, 2.0], [1.0, 1.0, 1.0], [np.inf, np.inf, np.inf]])
    assert scores.argmax() == 0
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((2, 2, 2)), np.zeros((2, 0))])
def test_impossible_tables_are_refused(bad):
    with pytest.raises(InputError, match="shape"):
        aggregate(bad)


def test_nan_and_bad_weights_are_refused():
    with pytest.raises(InputError, match="NaN"):
        aggregate([[np.nan, 1.0]])
    for weights in ([1.0], [1.0, 0.0], [1.0, np.nan], [1.0, -1.0]):
        with pytest.raises(InputError, match="2 positive weights"):
            aggregate([[1.0, 2.0], [2.0, 1.0]], weights=weights)


def test_rounding_does_not_break_a_tie():
    draws = np.linspace(0, 1, 50)
    assert at_least(draws, draws[40] + 1e-7) == 10
    assert at_least(draws, draws[40] + 1e-2) == 9
    assert at_least([np.inf, 0.0], 1.0) == 1
    assert at_least([np.inf], np.inf) == 1
