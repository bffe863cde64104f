"""Bounds on a mean risk: their level by simulation, their power, and where a peer's bound fails."""

from __future__ import annotations

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.statistics.loss_curves import EMPTY_SET, LossCurve
from anatrust.statistics.risk_bounds import (
    betting_p_value,
    hoeffding_bentkus_p_value,
    mean_upper_bound,
    risk_p_value,
)
from anatrust.statistics.risk_testing import assured_threshold, learn_then_test

REPEATS = 4000


def draws(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """``(REPEATS, n)`` losses of mean 0.1."""
    if kind == "bernoulli":
        return (rng.random((REPEATS, n)) < 0.1).astype(float)
    return rng.beta(0.5, 4.5, (REPEATS, n))


class TestLevel:
    @pytest.mark.parametrize("bound", ["betting", "hoeffding-bentkus"])
    @pytest.mark.parametrize("kind", ["bernoulli", "beta"])
    @pytest.mark.parametrize("n", [20, 50, 101, 200])
    def test_a_risk_at_the_border_is_rarely_called_safe(self, bound: str, kind: str, n: int) -> None:
        p = risk_p_value(draws(kind, n, np.random.default_rng(n)), 0.1, bound=bound)  # type: ignore[arg-type]
        for level in (0.05, 0.1, 0.2):
            assert (p <= level).mean() <= level + 2 * np.sqrt(level * (1 - level) / REPEATS)

    def test_betting_keeps_the_level_where_restarted_products_lose_it(self) -> None:
        """MAPIE 1.6 adds the maxima of two restarted halves: at δ = 0.1 it is wrong in more than 0.15 of cases."""
        methods = pytest.importorskip("mapie.risk_control.methods")
        rng = np.random.default_rng(0)
        losses = (rng.random((600, 101)) < 0.1).astype(float)
        grid = np.array([0.02, 0.05, 0.1, 0.15, 0.5])
        theirs = 0
        for row in losses:
            _, bound = methods.get_r_hat_plus(np.repeat(row[:, None], grid.size, 1), grid, "rcps", "wsr", 0.1, 0.25)
            theirs += bound[0] <= 0.1
        ours = (betting_p_value(losses, 0.1, delta=0.1) <= 0.1).mean()
        error = np.sqrt(0.1 * 0.9 / len(losses))
        assert theirs / len(losses) > 0.1 + 4 * error
        assert ours <= 0.1 + 2 * error

    def test_safe_risks_are_found(self) -> None:
        rng = np.random.default_rng(1)
        losses = rng.beta(0.5, 9.5, (500, 100))  # mean 0.05
        assert (betting_p_value(losses, 0.1) <= 0.1).mean() > 0.9
        # Hoeffding–Bentkus does not use the small variance and needs a wider gap.
        assert (hoeffding_bentkus_p_value(losses * 0.4, 0.1) <= 0.1).mean() > 0.9


class TestUpperBound:
    @pytest.mark.parametrize("bound", ["betting", "hoeffding-bentkus"])
    def test_it_is_the_edge_of_what_is_rejected(self, bound: str, rng: np.random.Generator) -> None:
        losses = rng.beta(1, 9, 80)
        edge = mean_upper_bound(losses, 0.1, bound=bound)  # type: ignore[arg-type]
        assert risk_p_value(losses, edge, bound=bound, delta=0.1) <= 0.1  # type: ignore[arg-type]
        assert risk_p_value(losses, edge - 1e-4, bound=bound, delta=0.1) > 0.1  # type: ignore[arg-type]

    def test_total_loss_has_no_bound_below_one(self) -> None:
        assert mean_upper_bound([1.0] * 50, 0.1) == 1.0

    def test_odd_arguments_are_refused(self) -> None:
        for call in (
            lambda: mean_upper_bound([0.1], 0),
            lambda: betting_p_value([], 0.1),
            lambda: betting_p_value([np.nan], 0.1),
            lambda: betting_p_value(0.1, 0.1),
            lambda: hoeffding_bentkus_p_value([0.1], 1.0),
            lambda: risk_p_value([0.1], 0.1, bound="normal"),  # type: ignore[arg-type]
        ):
            with pytest.raises(InputError):
                call()


def curves_of(levels: np.ndarray, safe: str) -> list[LossCurve]:
    """Patients who lose everything from their own threshold on: the risk at q is the share of levels below q."""
    if safe == "low":
        return [LossCurve(np.array([0, v]), np.array([0.0, 1.0])) for v in levels]
    return [LossCurve(np.array([0, EMPTY_SET - v]), np.array([1.0, 0.0])) for v in levels]


class TestAssuredThreshold:
    @pytest.mark.parametrize("bound", ["betting", "hoeffding-bentkus"])
    @pytest.mark.parametrize("safe", ["low", "high"])
    def test_the_risk_is_below_alpha_with_the_promised_confidence(self, bound: str, safe: str) -> None:
        rng = np.random.default_rng(4)
        too_risky = 0
        for _ in range(400):
            levels = rng.integers(1, 10_001, 60)
            found = assured_threshold(curves_of(levels, safe), 0.2, 0.1, safe=safe, bound=bound)  # type: ignore[arg-type]
            depth = found.threshold if safe == "low" else EMPTY_SET - found.threshold
            too_risky += min(depth, 10_000) / 10_000 > 0.2 + (0 if safe == "low" else 1e-4)
        assert too_risky / 400 <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 400)

    def test_it_goes_as_far_as_the_bound_allows(self) -> None:
        levels = np.arange(1, 2001) * 10
        found = assured_threshold(curves_of(levels, "low"), 0.2, 0.1, safe="low", bound="hoeffding-bentkus")
        assert found.feasible
        assert 0.17 < found.threshold / 20_000 < 0.2
        all_safe = assured_threshold([LossCurve([0], [0.0])] * 60, 0.2, 0.1, safe="low")
        assert all_safe.threshold == EMPTY_SET
        assert assured_threshold([LossCurve([0], [0.0])] * 60, 0.2, 0.1, safe="high").threshold == 0

    @pytest.mark.parametrize("safe", ["low", "high"])
    def test_few_patients_are_infeasible_in_words(self, safe: str) -> None:
        for curves in ([], curves_of(np.array([5, 6]), safe)):
            found = assured_threshold(curves, 0.1, 0.1, safe=safe)  # type: ignore[arg-type]
            assert not found.feasible
            assert found.threshold == (0 if safe == "low" else EMPTY_SET)
            assert found.sentence.startswith("infeasible")

    def test_odd_arguments_are_refused(self) -> None:
        with pytest.raises(InputError, match="delta"):
            assured_threshold([], 0.1, 0.0, safe="low")
        with pytest.raises(InputError, match="monotone"):
            assured_threshold([LossCurve([0, 5], [1.0, 0.0])], 0.1, 0.1, safe="low")


class TestLearnThenTest:
    def test_no_accepted_setting_is_too_risky_with_the_promised_confidence(self) -> None:
        """Risks that are not monotone in the setting; the second one is at the border."""
        rng = np.random.default_rng(9)
        risks = np.array([0.02, 0.1, 0.04, 0.3])
        wrong = 0
        for _ in range(2000):
            table = (rng.random((4, 100)) < risks[:, None]).astype(float)
            wrong += any(i in (1, 3) for i in learn_then_test(table, 0.1, 0.1).accepted)
        assert wrong / 2000 <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 2000)

    def test_the_first_failure_ends_the_walk(self) -> None:
        found = learn_then_test(np.array([[0.0] * 60, [0.9] * 60, [0.0] * 60]), 0.1, 0.1)
        assert found.accepted == (0,)
        assert len(found.p_values) == 2
        assert learn_then_test(np.zeros((2, 60)), 0.1, 0.1).accepted == (0, 1)
        with pytest.raises(InputError, match="settings"):
            learn_then_test(np.zeros(5), 0.1, 0.1)
