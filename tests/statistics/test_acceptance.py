"""Intervals and outcomes of an acceptance test: exact where they can be, honest where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from anatrust.errors import InputError
from anatrust.statistics.acceptance import check_promise, mean_interval
from anatrust.statistics.loss_curves import LossCurve
from anatrust.statistics.risk_control import conformal_threshold


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 50), (10, 10), (1, 1)])
def test_zeros_and_ones_get_clopper_and_pearson(k: int, n: int) -> None:
    theirs = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert mean_interval([1] * k + [0] * (n - k)) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_intervals_of_shares_hold_the_mean() -> None:
    """2 000 samples of 40 skewed losses: the interval misses their mean in at most 5 %."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(2000):
        low, high = mean_interval(rng.beta(0.5, 4.5, 40))
        missed += not low <= 0.1 <= high
    assert missed / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_a_valid_profile_rarely_fails() -> None:
    """Calibration and site drawn anew each time, from one population: "fail" stays rare, and pass is common."""
    rng = np.random.default_rng(1)
    outcomes = []
    for _ in range(300):
        # A patient's missed share grows with the threshold at its own pace.
        def patients(count: int) -> list[LossCurve]:
            paces = rng.gamma(2.0, 1.0, count)
            at = np.arange(0, 60_000, 500)
            return [LossCurve(at, np.minimum(1, (at / 60_000) ** 3 * pace)) for pace in paces]

        threshold = conformal_threshold(patients(70), 0.1, safe="low").threshold
        outcomes.append(check_promise("x", [c.at(threshold) for c in patients(60)], 0.1).outcome)
    assert outcomes.count("fail") / 300 < 0.05
    assert outcomes.count("pass") / 300 > 0.8


def test_a_broken_promise_is_found() -> None:
    rng = np.random.default_rng(2)
    found = [check_promise("x", rng.beta(3, 7, 40), 0.1).outcome for _ in range(100)]
    assert found.count("fail") > 95


def test_words_never_say_more_than_was_seen() -> None:
    passed = check_promise("the share", [0.0] * 100, 0.1)
    assert "no evidence against it" in passed.sentence
    assert "exchangeable" not in passed.sentence
    few = check_promise("the share", [0.0, 0.1], 0.1)
    assert few.outcome == "too few"
    assert "too few patients" in few.sentence
    nobody = check_promise("the share", [], 0.1)
    assert (nobody.outcome, nobody.realised, nobody.patients) == ("too few", None, 0)
    failed = check_promise("the share", [1.0] * 10, 0.1)
    assert "does not hold here" in failed.sentence
    assert failed.to_json()["outcome"] == "fail"


@pytest.mark.parametrize("losses", [[], [1.5], [np.nan]])
def test_what_is_no_loss_is_refused(losses: list[float]) -> None:
    with pytest.raises(InputError):
        mean_interval(losses)


@pytest.mark.parametrize("options", [{"level": 0.0}, {"level": 0.1, "tolerance": 1.0}])
def test_levels_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="level lies between"):
        check_promise("x", [0.1], **options)
