"""Detection metrics against scikit-learn, ties included, and risk–coverage against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from anatrust.errors import InputError
from anatrust.metrics import aupr, auroc, compare_auroc, detection_metrics, fpr_at_tpr, risk_coverage

# Few distinct values: ties are the hard case.
scores = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=25)


@settings(deadline=None, max_examples=150)
@given(scores, scores)
def test_equals_scikit_learn(inside: list[float], outside: list[float]) -> None:
    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    pooled = np.r_[inside, outside]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, pooled))
    assert aupr(outside, inside) == pytest.approx(average_precision_score(truth, pooled))
    negated = aupr([-v for v in inside], [-v for v in outside])
    assert negated == pytest.approx(average_precision_score(1 - truth, -pooled))
    false, true, _ = roc_curve(truth, pooled, drop_intermediate=False)
    assert fpr_at_tpr(inside, outside) == pytest.approx(false[np.argmax(true >= 0.95)])


def test_nineteen_of_twenty_reach_95_percent() -> None:
    assert fpr_at_tpr([0.0, 2.0], [1.0] * 19 + [-1.0]) == 0.5


def test_intervals_hold_the_value_and_repeat(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=60), rng.normal(1.0, size=40)
    found = detection_metrics(inside, outside, draws=200, seed=3)
    assert found == detection_metrics(inside, outside, draws=200, seed=3)
    assert found != detection_metrics(inside, outside, draws=200, seed=4)
    for name in ("auroc", "aupr_out", "aupr_in", "fpr95"):
        low, high = getattr(found, f"{name}_interval")
        assert low <= getattr(found, name) <= high
        assert low < high
    assert (found.n_inside, found.n_outside) == (60, 40)
    assert found.auroc == auroc(inside, outside)


def test_the_interval_covers_the_true_auroc() -> None:
    true = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    rng = np.random.default_rng(5)
    hits = [
        low <= true <= high
        for low, high in (
            detection_metrics(rng.normal(size=60), rng.normal(1, size=60), draws=100, seed=i).auroc_interval
            for i in range(60)
        )
    ]
    assert np.mean(hits) > 0.85


def test_paired_comparison_is_tighter_than_its_parts(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=50), rng.normal(1.0, size=50)
    noisy = (inside + rng.normal(scale=0.1, size=50), outside + rng.normal(scale=0.1, size=50))
    gap, (low, high) = compare_auroc((inside, outside), noisy, draws=200)
    alone = detection_metrics(inside, outside, draws=200).auroc_interval
    assert low <= gap <= high
    assert high - low < (alone[1] - alone[0]) / 2
    assert compare_auroc((inside, outside), (inside, outside), draws=10) == (0.0, (0.0, 0.0))


def test_infinite_scores_are_ordered() -> None:
    assert auroc([0.0, 1.0], [np.inf, np.inf]) == 1.0
    assert fpr_at_tpr([0.0, np.inf], [np.inf]) == 0.5


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=6))
def test_risk_coverage_is_the_mean_over_orders_of_ties(rows: list[tuple[int, int]]) -> None:
    score, loss = np.array(rows, dtype=float).T
    curves = [
        np.cumsum(loss[list(order)]) / np.arange(1, len(loss) + 1)
        for order in permutations(range(len(rows)))
        if (np.diff(score[list(order)]) >= 0).all()
    ]
    found = risk_coverage(score, loss)
    np.testing.assert_allclose(found.risk, np.mean(curves, axis=0))
    assert found.best_aurc <= found.aurc + 1e-12
    assert found.risk[-1] == pytest.approx(found.random_aurc)
    assert found.coverage[-1] == 1.0


def test_a_perfect_order_is_the_best() -> None:
    losses = np.array([0.1, 0.5, 0.9])
    assert risk_coverage(losses, losses).aurc == risk_coverage(losses, losses).best_aurc
    assert risk_coverage([1, 1, 1], losses).aurc == pytest.approx(losses.mean())


@pytest.mark.parametrize(
    "call",
    [
        lambda: auroc([], [1.0]),
        lambda: auroc([np.nan], [1.0]),
        lambda: auroc([1.0], [[1.0]]),
        lambda: fpr_at_tpr([1.0], [1.0], tpr=0.0),
        lambda: detection_metrics([1.0], [1.0], draws=0),
        lambda: detection_metrics([1.0], [1.0], confidence=1.0),
        lambda: compare_auroc(([1.0], [1.0]), ([1.0, 2.0], [1.0])),
        lambda: risk_coverage([1.0], [1.0, 2.0]),
        lambda: risk_coverage([], []),
        lambda: risk_coverage([np.nan], [1.0]),
        lambda: risk_coverage([1.0], [np.inf]),
    ],
)
def test_bad_input_is_one_line(call: object) -> None:
    with pytest.raises(InputError) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)
