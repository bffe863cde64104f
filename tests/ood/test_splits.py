"""Splits and regimes: nobody on both sides, the same for all methods, and what each regime learns from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.ood import ScanKey, ScreeningSplit, draw_split, make_detector, regime_scores


def keys(dataset: str, patients: int, scans: int = 1) -> list[ScanKey]:
    return [ScanKey(dataset, f"p{i}", f"s{j}") for i in range(patients) for j in range(scans)]


@given(st.integers(8, 30), st.integers(1, 3), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_no_patient_on_two_sides_and_every_scan_somewhere(patients: int, scans: int, seed: int) -> None:
    inside, outside = keys("in", patients, scans), keys("a", 9, scans) + keys("b", 5, scans)
    split = draw_split(inside, outside, seed=seed, fit=4, calibrate=3, fit_outside=4, test_only=("b",))
    assert sorted((*split.fit, *split.calibrate, *split.test)) == sorted(inside)
    assert len({key.patient for key in split.fit}) == 4
    assert sorted((*split.outside_fit["a"], *split.outside_test["a"])) == sorted(keys("a", 9, scans))
    assert "b" not in split.outside_fit
    shuffled = [inside[i] for i in np.random.default_rng(seed).permutation(len(inside))]
    assert draw_split(shuffled, outside[::-1], seed=seed, fit=4, calibrate=3, fit_outside=4, test_only=("b",)) == split


def test_changed_versions_of_a_patient_stay_on_the_patients_side() -> None:
    inside, outside = keys("in", 20), keys("noise", 20) + keys("bias", 20)
    split = draw_split(inside, outside, seed=3, fit=6, calibrate=5, shared_people=True)
    fitted, tested = {k.patient for k in split.fit}, {k.patient for k in split.test}
    for name in ("noise", "bias"):
        assert {k.patient for k in split.outside_fit[name]} == fitted
        assert {k.patient for k in split.outside_test[name]} == tested


def test_a_person_has_one_part_in_all_strange_sets() -> None:
    outside = [ScanKey(name, f"q{i}") for name in ("noise", "bias") for i in range(10)]
    split = draw_split(keys("in", 10), outside, seed=2, fit=4, shared_people=True, share_outside=0.3)
    for part in (split.outside_fit, split.outside_test):
        assert {k.patient for k in part["noise"]} == {k.patient for k in part["bias"]}
    assert len(split.outside_fit["noise"]) == 3


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(InputError, match="cannot give"):
        draw_split(keys("in", 5), [], seed=0, fit=4, calibrate=1)
    one = (ScanKey("in", "p"),)
    with pytest.raises(InputError, match="two parts"):
        ScreeningSplit(one, (), one, {}, {})


def features(split_keys: list[ScanKey], shift: dict[str, float], rng: np.random.Generator) -> dict[ScanKey, np.ndarray]:
    return {k: rng.normal(shift.get(k.dataset, 0.0), 1, (4, 5)) for k in split_keys}


def test_regimes_learn_from_what_they_say(rng: np.random.Generator) -> None:
    inside, outside = keys("in", 24), keys("up", 16) + keys("down", 16) + keys("new", 6)
    crops = features(inside + outside, {"up": 4.0, "down": -4.0, "new": 4.0}, rng)
    split = draw_split(inside, outside, seed=1, fit=8, fit_outside=8, test_only=("new",))

    def mean_of(regime: str) -> dict[str, float]:
        found = regime_scores(regime, split, crops, lambda: make_detector("logistic"), training_crops=2)  # type: ignore[arg-type]
        assert set(found.inside) == set(found.outside) == {"up", "down", "new"}
        assert all(len(s) == len(split.test) for s in found.inside.values())
        return {name: float((scores[:, None] > found.inside[name]).mean()) for name, scores in found.outside.items()}

    separate, unified, lodo = mean_of("separate"), mean_of("unified"), mean_of("lodo")
    assert min(separate.values()) > 0.95
    # Taught by the opposite shift alone, a linear detector calls the other one *more* usual.
    assert lodo["up"] < 0.2
    assert lodo["down"] < 0.2
    assert unified["up"] + unified["down"] < 1.6
    assert mean_of("ensemble-max")["new"] > 0.9
    usual = regime_scores("usual-only", split, crops, lambda: make_detector("mahalanobis"))
    assert all((usual.outside[n].min() > np.median(usual.inside[n])) for n in usual.outside)


def test_impossible_regimes_are_refused(rng: np.random.Generator) -> None:
    inside, outside = keys("in", 12), keys("a", 8)
    crops = features(inside + outside, {}, rng)
    split = draw_split(inside, outside, seed=1, fit=4)
    with pytest.raises(InputError, match="no regime"):
        regime_scores("other", split, crops, lambda: make_detector("forest"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs two"):
        regime_scores("lodo", split, crops, lambda: make_detector("forest", trees=5))
    with pytest.raises(InputError, match="no features"):
        regime_scores("separate", split, {}, lambda: make_detector("forest"))
    blind = draw_split(inside, outside, seed=1, fit=4, test_only=("a",))
    with pytest.raises(InputError, match="learnt from"):
        regime_scores("unified", blind, crops, lambda: make_detector("forest"))
