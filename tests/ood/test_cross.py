"""Cross-conformal screening: its promise by simulation, and that a patient is never judged by what has seen them."""

from __future__ import annotations

import numpy as np
import pytest

from anatrust.errors import FormatError, InputError
from anatrust.ood.crops import NoPrediction
from anatrust.ood.cross import CrossCalibration, fit_cross_screener
from anatrust.ood.detectors import make_detector
from anatrust.ood.features import ScanFeatures
from anatrust.ood.persistence import screener_from_arrays, screener_to_arrays
from anatrust.ood.screen import fit_screener

LEVELS = (("a", 3), ("b", 9))


TWO = [make_detector("mahalanobis"), make_detector("knn", normalise="zscore")]


def scans(values: np.ndarray, name: str = "s") -> list[ScanFeatures]:
    return [ScanFeatures(f"{name}{i}", v, LEVELS, "made so") for i, v in enumerate(values)]


def usual(rng: np.random.Generator, n: int, shift: float = 0.0) -> list[ScanFeatures]:
    return scans(shift + rng.normal(size=(n, 1, 12)) + 0.5 * rng.normal(size=(n, 2, 12)))


def names(n: int) -> list[str]:
    return [f"patient {i:02d}" for i in range(n)]


@pytest.mark.parametrize(
    ("kind", "trials"),
    [
        ("knn", 120),
        pytest.param("mahalanobis", 800, marks=pytest.mark.slow),
        pytest.param("knn", 800, marks=pytest.mark.slow),
        pytest.param("logistic", 250, marks=pytest.mark.slow),
    ],
)
def test_at_most_twice_the_rate_is_flagged_and_in_practice_about_the_rate(kind: str, trials: int) -> None:
    """Nineteen usual patients, the fewest that can flag at 0.05; everything fitted anew in each trial."""
    rng = np.random.default_rng(31)
    n = 19
    p = np.empty(trials)
    strange = usual(rng, 8, 2.0)
    for trial in range(trials):
        drawn = usual(rng, n + 1)
        detector = make_detector(kind, **({"normalise": "zscore"} if kind == "mahalanobis" else {}))
        ready = fit_cross_screener([detector], drawn[:n], names(n), strange, seed=trial)
        found = ready.screen(drawn[n])
        assert found.p_value is not None
        p[trial] = found.p_value
    for t in (0.05, 0.1, 0.2):
        error = 2 * np.sqrt(t * (1 - t) / trials)
        assert np.mean(p <= t + 1e-9) <= 2 * t + 2 * np.sqrt(2 * t * (1 - 2 * t) / trials)  # the promise
        assert np.mean(p <= t + 1e-9) <= t + 2 * error  # what is seen, for these detectors
        assert np.mean(p <= t + 1e-9) >= t - 2 * error - 0.02


def test_the_simulation_would_see_patients_judged_by_detectors_that_know_them() -> None:
    """One detector fitted on all, its own patients as calibration: twice the rate is broken by far."""
    rng = np.random.default_rng(32)
    flagged = []
    for _ in range(60):
        drawn = usual(rng, 20)
        whole = fit_screener([make_detector("mahalanobis", covariance="empirical")], drawn[:19], names(19))
        known = CrossCalibration((whole,) * 19, whole.abnormality(drawn[:19]))
        flagged.append(known.p_value(drawn[19]) <= 0.05)
    assert np.mean(flagged) > 0.3


def test_a_patient_and_what_was_made_of_them_leave_together() -> None:
    rng = np.random.default_rng(33)
    inside, people = usual(rng, 6), ["a", "a", "b", "c", "d", "e"]
    outside = usual(rng, 5, 3.0)
    ready = fit_cross_screener([make_detector("logistic")], inside, people, outside, outside_patients=list("abcde"))
    assert ready.cross is not None
    assert [len(m.fit_patients) for m in ready.cross.members] == [4] * 5
    without_a = fit_screener([make_detector("logistic")], inside[2:], people[2:], outside[1:])
    expected = without_a.abnormality(inside[:2]).max()
    assert ready.cross.scores[0] == pytest.approx(expected, rel=1e-4)  # two scans, the stranger one
    assert ready.n_calibration == 5
    assert ready.promise == 0.1
    np.testing.assert_array_equal(
        ready.abnormality(inside),
        fit_screener([make_detector("logistic")], inside, people, outside).abnormality(inside),
    )


def test_verdicts_say_the_factor_two() -> None:
    rng = np.random.default_rng(34)
    ready = fit_cross_screener(TWO, usual(rng, 19), names(19))
    found = ready.screen(usual(rng, 1, 9.0)[0])
    assert (found.verdict, found.p_value) == ("strange", pytest.approx(0.05))
    assert "up to 0.1 of usual scans" in found.reasons[1]
    assert ready.screen(NoPrediction("x", "nothing")).verdict == "no_prediction"
    few = fit_cross_screener([make_detector("knn", k=2)], usual(rng, 9), names(9))
    assert few.screen(usual(rng, 1, 9.0)[0]).verdict == "infeasible"
    with pytest.raises(InputError, match="at least three usual patients"):
        fit_cross_screener([make_detector("knn")], usual(rng, 4), ["a", "a", "b", "b"])
    with pytest.raises(InputError, match="as many scores"):
        CrossCalibration((ready,), np.zeros(2))


def test_held_out_patients_take_the_place_of_left_out_ones() -> None:
    rng = np.random.default_rng(35)
    ready = fit_cross_screener([make_detector("knn")], usual(rng, 12), names(12))
    held = ready.conformalize(usual(rng, 19), [f"other {i}" for i in range(19)])
    assert held.cross is None
    assert held.promise == 0.05


def test_a_file_gives_the_same_verdicts_and_tampering_is_seen() -> None:
    rng = np.random.default_rng(36)
    detectors = [make_detector("forest", trees=5), make_detector("mahalanobis", normalise="zscore")]
    ready = fit_cross_screener(detectors, usual(rng, 8), names(8), usual(rng, 6, 3.0), flag_rate=0.2)
    document, arrays = screener_to_arrays(ready)
    again = screener_from_arrays(document, arrays)
    for scan in usual(rng, 5, 1.0):
        assert again.screen(scan) == ready.screen(scan)
    name = next(n for n in arrays if n.startswith("cross3."))
    changed = {**arrays, name: np.roll(arrays[name].ravel(), 1).reshape(arrays[name].shape)}
    with pytest.raises(FormatError, match="changed"):
        screener_from_arrays(document, changed)
