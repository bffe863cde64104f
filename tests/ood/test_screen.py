"""Screening: its verdicts, its promise by simulation, and that fit, calibration and patients stay apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.ood.combination import RankAverage
from anatrust.ood.crops import NoPrediction
from anatrust.ood.detectors import make_detector
from anatrust.ood.explain import explain, permutation_importance
from anatrust.ood.features import ScanFeatures
from anatrust.ood.screen import Screener, fit_screener, patients_for_rate

LEVELS = (("fine", 2), ("coarse", 3))


def cohort(n: int, shift: float = 0.0, *, seed: int = 0, crops: int = 8, at: slice = slice(0, 2)) -> list[ScanFeatures]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 1, 5)) + rng.normal(size=(n, crops, 5))
    values[:, :, at] += shift
    return [ScanFeatures(f"scan{seed}-{i}", v, LEVELS, "made so") for i, v in enumerate(values)]


def names(n: int, start: int = 0) -> list[str]:
    return [f"patient {i}" for i in range(start, start + n)]


def screener(*kinds: str, n: int = 20, calibrated: int = 19, **more: Any) -> Screener:
    detectors = [make_detector(kind) for kind in kinds or ("mahalanobis",)]
    fitted = fit_screener(detectors, cohort(n, seed=1), names(n), cohort(10, 6.0, seed=2), **more)
    return fitted.conformalize(cohort(calibrated, seed=3), names(calibrated, 100)) if calibrated else fitted


@pytest.mark.parametrize("kinds", [("mahalanobis",), ("logistic",), ("mahalanobis", "knn", "logistic")])
def test_verdicts(kinds: tuple[str, ...]) -> None:
    ready = screener(*kinds)
    strange = [ready.screen(scan) for scan in cohort(10, 8.0, seed=4)]
    assert {found.verdict for found in strange} == {"strange"}
    assert all(found.p_value == found.p_floor == 0.05 for found in strange)
    assert not strange[0].passed
    usual = [ready.screen(scan) for scan in cohort(60, seed=5)]
    assert sum(found.passed for found in usual) > 45
    assert "nothing that was tested failed" in next(found for found in usual if found.passed).reasons[0]
    assert json.loads(json.dumps(strange[0].to_json()))["verdict"] == "strange"


def test_p_and_threshold_say_the_same() -> None:
    ready = screener(calibrated=39)
    threshold = ready.threshold()
    assert threshold is not None
    assert ready.n_calibration == 39
    for scan in cohort(200, 1.0, seed=6):
        found = ready.screen(scan)
        assert found.abnormality is not None
        assert (found.verdict == "strange") == (found.abnormality > threshold)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 45), rate=st.floats(0.02, 0.5))
def test_infeasible_exactly_when_no_scan_could_be_flagged(n: int, rate: float) -> None:
    scores = GIVEN.conformalize(given_scans(np.arange(n, dtype=float)), names(n, 10), flag_rate=rate)
    found = scores.screen(given_scans([1e9])[0])
    assert (found.verdict == "infeasible") == (n < patients_for_rate(rate)) == (scores.threshold() is None)
    assert found.p_value == 1 / (n + 1)
    if found.verdict == "infeasible":
        assert f"{patients_for_rate(rate)} are needed" in found.reasons[0]
        assert not found.passed


def given_scans(scores: Any) -> list[ScanFeatures]:
    return [ScanFeatures(f"g{i}", np.array([[s]]), (("score", 1),), "given") for i, s in enumerate(scores)]


GIVEN = fit_screener([make_detector("given")], given_scans([0.0, 1.0]), names(2))


def test_the_promise_holds_and_is_not_wasted() -> None:
    """P(p ≤ t) ≤ t + 2 se over fits and calibrations, and no lower than the lattice of p allows."""
    rng = np.random.default_rng(8)
    n, trials = 19, 1500
    p = np.empty(trials)
    detector = make_detector("mahalanobis")
    for i in range(trials):
        scans = (rng.normal(size=(6 + n + 1, 1, 3)) + rng.normal(size=(6 + n + 1, 2, 3))).astype(np.float32)
        if i % 25 == 0:
            detector.fit(list(scans[:6]))
        scores = detector.score(list(scans[6:]))
        ready = GIVEN.conformalize(given_scans(scores[:-1]), names(n, 10))
        found = ready.screen(given_scans(scores[-1:])[0])
        assert found.p_value is not None
        p[i] = found.p_value
    for t in (0.05, 0.1, 0.2):
        error = 2 * np.sqrt(t * (1 - t) / trials)
        assert np.mean(p <= t + 1e-9) <= t + error
        assert np.mean(p <= t + 1e-9) >= np.floor(t * (n + 1) + 1e-9) / (n + 1) - error


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("mahalanobis", "knn"), ("logistic",)])
def test_the_promise_holds_over_resplits(kinds: tuple[str, ...]) -> None:
    """Fit, combination and calibration anew in each of 1000 re-splits of usual patients with scans of their own."""
    rng = np.random.default_rng(10)
    fit, n, trials = 10, 19, 1000
    p = np.empty(trials)
    strange = [cohort(6, 2.0, seed=2, crops=2)[i] for i in range(6)]
    pool = cohort(400, seed=1, crops=2)
    for i in range(trials):
        drawn = [pool[k] for k in rng.choice(len(pool), fit + n + 1, replace=False)]
        detectors = [make_detector(kind) for kind in kinds]
        fitted = fit_screener(detectors, drawn[:fit], names(fit), strange, folds=2, seed=i)
        found = fitted.conformalize(drawn[fit:-1], names(n, 100)).screen(drawn[-1])
        assert found.p_value is not None
        p[i] = found.p_value
    for t in (0.05, 0.1, 0.2):
        error = 2 * np.sqrt(t * (1 - t) / trials)
        assert np.floor(t * (n + 1) + 1e-9) / (n + 1) - error <= np.mean(p <= t + 1e-9) <= t + error


def test_the_simulation_would_see_scores_of_fit_patients() -> None:
    """Calibrating on the patients fitted on, more features than crops: far too many are flagged."""
    rng = np.random.default_rng(9)
    flagged = []
    for _ in range(60):
        scans = list(rng.normal(size=(24, 2, 60)))
        detector = make_detector("mahalanobis", covariance="empirical").fit(scans[:19])
        ready = GIVEN.conformalize(given_scans(detector.score(scans[:19])), names(19, 10))
        flagged += [ready.screen(scan).verdict == "strange" for scan in given_scans(detector.score(scans[19:]))]
    assert np.mean(flagged) > 0.5


def test_a_patient_counts_once_by_the_strangest_scan() -> None:
    scans = given_scans([1.0, 5.0, 2.0])
    ready = GIVEN.conformalize(scans, ["a", "a", "b"], flag_rate=0.4)
    assert ready.n_calibration == 2
    assert ready.screen(given_scans([4.0])[0]).p_value == pytest.approx(2 / 3)


def test_groups_are_judged_among_themselves() -> None:
    scans = given_scans([*range(9), *range(100, 109)])
    ready = GIVEN.conformalize(scans, names(18, 10), groups=["A"] * 9 + ["B"] * 9, flag_rate=0.1)
    scan = given_scans([50.0])[0]
    assert ready.screen(scan, group="A").verdict == "strange"
    assert ready.screen(scan, group="B").p_value == 1.0
    with pytest.raises(InputError, match="not calibrated"):
        ready.screen(scan, group="C")
    with pytest.raises(InputError, match="two groups"):
        GIVEN.conformalize(given_scans([1.0, 2.0]), ["a", "a"], groups=["A", "B"])


def test_no_prediction_is_a_verdict_of_its_own() -> None:
    found = screener().screen(NoPrediction("scan", "the mask is empty"))
    assert (found.verdict, found.abnormality, found.p_value) == ("no_prediction", None, None)
    assert found.reasons == ("the mask is empty",)
    assert not found.passed


def test_patients_are_never_split_and_never_named() -> None:
    fitted = screener(calibrated=0)
    with pytest.raises(InputError, match="hold patients out") as error:
        fitted.conformalize(cohort(2, seed=3), ["patient 3", "patient 999"])
    assert "patient 3" not in str(error.value)
    assert not any("patient" in key for key in fitted.fit_patients)


def test_training_uses_four_crops_and_scoring_all() -> None:
    scans = cohort(8, seed=1)
    four = fit_screener([make_detector("mahalanobis")], scans, names(8))
    cut = fit_screener([make_detector("mahalanobis")], [s.first(4) for s in scans], names(8), training_crops=None)
    new = cohort(3, seed=2)
    np.testing.assert_array_equal(four.abnormality(new), cut.abnormality(new))
    assert not np.array_equal(four.abnormality(new), four.abnormality([s.first(4) for s in new]))


def test_features_of_another_making_are_refused() -> None:
    ready = screener()
    scan = cohort(1)[0]
    other = ScanFeatures(scan.identifier, scan.values, LEVELS, "made differently")
    with pytest.raises(InputError, match="made otherwise"):
        ready.screen(other)
    with pytest.raises(InputError, match="made otherwise"):
        fit_screener([make_detector("knn")], [scan, other], names(2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: fit_screener([], cohort(4), names(4)),
        lambda: fit_screener([make_detector("knn")], cohort(4), names(3)),
        lambda: fit_screener([make_detector("knn")], [], []),
        lambda: fit_screener([make_detector("knn"), make_detector("levels")], cohort(4), names(3) + names(1)),
        lambda: fit_screener([make_detector("knn")], cohort(4), names(4), flag_rate=0.0),
        lambda: screener(calibrated=0).screen(cohort(1)[0]),
        lambda: screener(calibrated=0).conformalize([], []),
        lambda: screener(calibrated=0).conformalize(cohort(2), names(1, 50)),
        lambda: screener(calibrated=0).conformalize(cohort(2), names(2, 50), flag_rate=1.0),
        lambda: explain(screener(), cohort(1)[0], neighbours=0),
        lambda: permutation_importance(screener(), cohort(2), []),
        lambda: RankAverage(np.empty((2, 0))),
        lambda: RankAverage(np.ones((2, 3))).of(np.ones((3, 1))),
    ],
)
def test_bad_input_is_one_line(call: Any) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=9))
def test_rank_average_keeps_the_order(reference: list[float], scores: list[float]) -> None:
    given_scores = np.sort(scores)
    ranks = RankAverage(np.array([reference])).of(given_scores[None])
    assert (np.diff(ranks) >= 0).all()
    assert (np.abs(ranks) <= 1 + 1 / len(reference)).all()


def test_explanations_point_at_the_cause() -> None:
    ready = screener("mahalanobis", "knn")
    scan = cohort(1, 9.0, seed=11, at=slice(2, 5))[0]
    values = scan.values.copy()
    values[3] += 20
    found = explain(ready, ScanFeatures("x", values, LEVELS, "made so"), neighbours=2)
    assert found.levels[0][0] == "coarse"
    assert int(np.argmax(found.crops)) == 3
    assert len(found.nearest) == 2
    assert found.nearest[0][1] <= found.nearest[1][1]
    twin = explain(ready, cohort(20, seed=1)[7])
    assert twin.nearest[0][0] == "scan1-7"
    assert twin.nearest[0][1] == pytest.approx(0, abs=1e-6)
    json.dumps(found.to_json())


def test_importance_is_lost_only_by_the_level_that_matters() -> None:
    ready = screener("logistic")
    found = dict(permutation_importance(ready, cohort(20, seed=12), cohort(20, 6.0, seed=13), repeats=3))
    assert found["fine"] > 0.2
    assert abs(found["coarse"]) < 0.1
