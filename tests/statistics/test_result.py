import dataclasses
import math

import pytest

from anatrust.errors import InputError
from anatrust.statistics.result import VALID_FOR, TestResult


def make(**changes):
    values = {
        "statistic": 0.1,
        "p_value": 0.05,
        "floor": 0.01,
        "n_draws": 99,
        "null": "iid",
        "engine": "histogram",
        "valid_for": VALID_FOR["iid"],
    }
    return TestResult(**(values | changes))


def test_a_result_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().p_value = 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"p_value": 0.0}, "must lie in"),
        ({"p_value": 1.5}, "must lie in"),
        ({"p_value": math.nan}, "must lie in"),
        ({"floor": 0.0}, "floor"),
        ({"floor": 0.06}, "floor"),
        ({"statistic": math.nan}, "finite"),
        ({"abstained": "too small"}, "p = 1"),
    ],
)
def test_impossible_values_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        make(**changes)


def test_p_at_its_floor_is_allowed_despite_rounding():
    assert make(p_value=0.1 * 3 / 3, floor=0.1).p_value == pytest.approx(0.1)


@pytest.mark.parametrize("null", sorted(VALID_FOR))
def test_abstaining_rejects_nothing_and_says_for_whom(null):
    result = TestResult.abstain("nothing to compare", null=null, n_draws=5)
    assert result.p_value == 1.0
    assert result.floor == 1.0
    assert math.isnan(result.statistic)
    assert result.valid_for == VALID_FOR[null]
    assert result.abstained == "nothing to compare"


def test_the_pixel_nulls_are_marked_invalid():
    assert "invalid" in VALID_FOR["iid"]
    assert "invalid" in VALID_FOR["block"]
    with pytest.raises(TypeError):
        VALID_FOR["iid"] = "fine"
