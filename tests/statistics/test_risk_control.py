"""Risk control against brute force, against the promise itself, and against MAPIE."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.statistics.loss_curves import (
    EMPTY_SET,
    LossCurve,
    inner_loss_curve,
    lesion_miss_curve,
    outer_loss_curve,
    quantise,
    total_loss,
)
from anatrust.statistics.risk_control import (
    LossSketch,
    OnlineThreshold,
    conformal_threshold,
    effective_sample_size,
    grouped_thresholds,
    patients_needed,
    simultaneous_curve,
    weighted_threshold,
)


def patient(rng: np.random.Generator, size: int = 400, sharp: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Levels and truth of one made-up patient, of random difficulty; levels on a coarse lattice so that ties occur."""
    truth = np.zeros(size, dtype=bool)
    truth[: rng.integers(1, size // 2)] = True
    logits = sharp * (2 * truth - 1) * rng.uniform(0.2, 1.5) + rng.normal(size=size)
    return quantise(np.round(1 / (1 + np.exp(-logits)), 2)), truth


class TestLossCurves:
    @given(seed=st.integers(0, 10_000), threshold=st.integers(0, EMPTY_SET))
    @settings(max_examples=60, deadline=None)
    def test_curves_equal_the_losses_of_the_sets(self, seed: int, threshold: int) -> None:
        levels, truth = patient(np.random.default_rng(seed))
        chosen = levels.astype(int) >= threshold
        outer, inner = outer_loss_curve([(levels, truth)]), inner_loss_curve([(levels, truth)])
        assert outer is not None
        assert inner is not None
        assert outer.at(threshold) == pytest.approx((truth & ~chosen).sum() / truth.sum(), abs=1e-15)
        assert inner.at(threshold) == pytest.approx(min(1, (chosen & ~truth).sum() / truth.sum()), abs=1e-15)
        assert outer.is_monotone("low")
        assert inner.is_monotone("high")

    def test_slices_of_one_patient_make_one_loss(self, rng: np.random.Generator) -> None:
        levels, truth = patient(rng)
        whole = outer_loss_curve([(levels, truth)])
        parts = outer_loss_curve([(levels[:100], truth[:100]), (levels[100:], truth[100:])])
        assert whole is not None
        assert parts is not None
        np.testing.assert_array_equal(whole.losses, parts.losses)
        np.testing.assert_array_equal(whole.breaks, parts.breaks)

    def test_empty_truth_has_no_curve(self) -> None:
        nothing = (quantise([0.5, 0.6]), np.zeros(2, dtype=bool))
        assert outer_loss_curve([nothing]) is None
        assert inner_loss_curve([nothing]) is None
        assert lesion_miss_curve([(nothing[0], np.zeros(2, dtype=int))]) is None

    def test_lesions_are_missed_one_by_one(self) -> None:
        levels = quantise([0.9, 0.9, 0.1, 0.1, 0.3, 0.3, 0.3])
        lesions = np.array([1, 1, 1, 1, 2, 2, 0])
        curve = lesion_miss_curve([(levels, lesions)], touched=0.5)
        assert curve is not None
        at = [int(quantise([v])[0]) for v in (0.2, 0.5, 0.95)]
        assert [curve.at(q) for q in at] == [0.0, 0.5, 1.0]
        with pytest.raises(InputError, match="share"):
            lesion_miss_curve([(levels, lesions)], touched=0)

    @pytest.mark.parametrize("safe", ["low", "high"])
    def test_supremum_is_the_smallest_monotone_loss_above(self, safe: str, rng: np.random.Generator) -> None:
        curve = LossCurve.from_function(lambda _q: float(rng.uniform()), range(0, EMPTY_SET, 4096))
        upper = curve.monotone(safe)  # type: ignore[arg-type]
        assert upper.is_monotone(safe)  # type: ignore[arg-type]
        assert not curve.is_monotone(safe)  # type: ignore[arg-type]
        assert (upper.losses >= curve.losses).all()
        order = slice(None) if safe == "low" else slice(None, None, -1)
        for i, value in enumerate(upper.losses[order]):
            assert value == curve.losses[order][: i + 1].max()

    def test_halves_of_a_cohort_add_up(self, rng: np.random.Generator) -> None:
        curves = [c for c in (outer_loss_curve([patient(rng)]) for _ in range(10)) if c]
        total, mass = total_loss(curves)
        first, second = total_loss(curves[:4]), total_loss(curves[4:])
        np.testing.assert_allclose(total, first[0] + second[0], atol=1e-12)
        assert mass == first[1] + second[1] == 10
        assert total[30_000] == pytest.approx(sum(c.at(30_000) for c in curves))

    @pytest.mark.parametrize(
        ("breaks", "losses"),
        [([1], [0.0]), ([0, 0], [0.0, 1.0]), ([0, 70_000], [0, 1]), ([0], [np.nan]), ([0], [1.5]), ([0, 1], [0.0])],
    )
    def test_impossible_curves_are_refused(self, breaks: list[int], losses: list[float]) -> None:
        with pytest.raises(InputError):
            LossCurve(np.array(breaks), np.array(losses))

    @pytest.mark.parametrize("score", [[np.nan], [1.2], [-0.1]])
    def test_scores_that_are_no_probabilities_are_refused(self, score: list[float]) -> None:
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            quantise(score)
        assert quantise([]).size == 0

    def test_wrong_arrays_are_refused(self) -> None:
        with pytest.raises(InputError, match="uint16"):
            outer_loss_curve([(np.array([0.5]), np.array([True]))])
        with pytest.raises(InputError, match="same shape"):
            lesion_miss_curve([(quantise([0.5]), np.array([1, 1]))])


def brute_force(curves: list[LossCurve], alpha: Fraction, safe: str, sizes: list[int]) -> int:
    """The definition, in exact rational arithmetic, over every threshold."""
    best = None
    walk = range(EMPTY_SET + 1) if safe == "low" else range(EMPTY_SET, -1, -1)
    stops = sorted({int(b) for c in curves for b in c.breaks} | {int(b) - 1 for c in curves for b in c.breaks[1:]})
    allowed = set(stops) | {0, EMPTY_SET}
    for q in walk:
        if q not in allowed:
            continue
        total = sum((Fraction(round(c.at(q) * s), s) for c, s in zip(curves, sizes, strict=True)), start=Fraction(0))
        if (total + 1) / (len(curves) + 1) > alpha:
            break
        best = q
    assert best is not None
    return best


class TestConformalThreshold:
    @given(seed=st.integers(0, 10_000), n=st.integers(4, 40), safe=st.sampled_from(["low", "high"]))
    @settings(max_examples=40, deadline=None)
    def test_equals_the_definition_in_rational_arithmetic(self, seed: int, n: int, safe: str) -> None:
        rng = np.random.default_rng(seed)
        patients = [patient(rng, size=40) for _ in range(n)]
        make = outer_loss_curve if safe == "low" else inner_loss_curve
        curves = [c for c in (make([p]) for p in patients) if c]
        found = conformal_threshold(curves, 0.2, safe=safe)  # type: ignore[arg-type]
        assert found.feasible
        assert found.threshold == brute_force(curves, Fraction(1, 5), safe, [int(p[1].sum()) for p in patients])

    def test_a_tie_with_the_budget_counts(self) -> None:
        # 19 patients at 0.1: one full miss is exactly the budget.
        curves = [LossCurve([0, 100 + i], [0.0, 1.0]) for i in range(19)]
        assert conformal_threshold(curves, 0.1, safe="low").threshold == 100

    @pytest.mark.parametrize("safe", ["low", "high"])
    def test_too_few_patients_is_infeasible_and_full(self, safe: str) -> None:
        curves = [LossCurve([0], [0.0])] * 8
        found = conformal_threshold(curves, 0.1, safe=safe)  # type: ignore[arg-type]
        assert not found.feasible
        assert found.threshold == (0 if safe == "low" else EMPTY_SET)
        assert "9 patients" in found.sentence
        # One more, and a loss of zero everywhere allows any set.
        enough = conformal_threshold([*curves, curves[0]], 0.1, safe=safe)  # type: ignore[arg-type]
        assert enough.feasible
        assert enough.threshold == (EMPTY_SET if safe == "low" else 0)

    def test_losses_that_never_vanish_are_infeasible(self) -> None:
        found = conformal_threshold([LossCurve([0], [0.5])] * 30, 0.1, safe="low")
        assert not found.feasible
        assert "safest set" in found.sentence

    def test_growing_losses_and_odd_alphas_are_refused(self) -> None:
        with pytest.raises(InputError, match="monotone"):
            conformal_threshold([LossCurve([0, 5], [1.0, 0.0])] * 20, 0.1, safe="low")
        falling = [LossCurve([0], [0.0]), LossCurve([0, 5], [1.0, 0.0])]
        with pytest.raises(InputError, match="curve 1 is not monotone"):
            weighted_threshold(falling, [1.0, 1.0], 1.0, 0.1, safe="low")
        with pytest.raises(InputError, match="alpha"):
            conformal_threshold([], 1.0, safe="low")

    @pytest.mark.parametrize("alpha", [0.02, 0.05, 0.1, 0.2])
    def test_patients_needed_is_the_first_feasible_number(self, alpha: float) -> None:
        zero = LossCurve([0], [0.0])
        n = patients_needed(alpha)
        assert conformal_threshold([zero] * n, alpha, safe="low").feasible
        assert not conformal_threshold([zero] * (n - 1), alpha, safe="low").feasible

    @pytest.mark.parametrize(("safe", "alpha", "n"), [("low", 0.1, 19), ("high", 0.1, 25), ("low", 0.2, 9)])
    def test_the_promise_holds_and_is_not_idle(self, safe: str, alpha: float, n: int) -> None:
        """Mean loss of a fresh patient over 800 calibrations: at most α, and near it."""
        rng = np.random.default_rng(7)
        make = outer_loss_curve if safe == "low" else inner_loss_curve
        losses = []
        for _ in range(800):
            curves = [c for c in (make([patient(rng, size=60)]) for _ in range(n + 1)) if c]
            losses.append(curves[-1].at(conformal_threshold(curves[:-1], alpha, safe=safe).threshold))  # type: ignore[arg-type]
        error = np.std(losses) / np.sqrt(len(losses))
        assert np.mean(losses) <= alpha + 2 * error
        # Angelopoulos et al.: no lower than α - 2/(n + 1) for losses without large jumps; ties cost a little more.
        assert np.mean(losses) >= alpha - 2 / (n + 1) - 0.03


class TestSketches:
    @pytest.mark.parametrize("safe", ["low", "high"])
    def test_parts_of_a_cohort_merge_into_the_whole(self, safe: str, rng: np.random.Generator) -> None:
        loss = outer_loss_curve if safe == "low" else inner_loss_curve
        curves = [c for c in (loss([patient(rng)]) for _ in range(40)) if c]
        parts = [LossSketch(safe) for _ in range(2)]  # type: ignore[arg-type]
        for k, curve in enumerate(curves):
            parts[k % 2].add(curve)
        parts[0].merge(parts[1])
        found, whole = parts[0].threshold(0.1), conformal_threshold(curves, 0.1, safe=safe)  # type: ignore[arg-type]
        assert (found.threshold, found.feasible, found.patients) == (whole.threshold, True, 40)
        assert found.mean_loss == pytest.approx(whole.mean_loss)

    def test_sketches_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(InputError, match="safe end"):
            LossSketch("low").merge(LossSketch("high"))
        with pytest.raises(InputError, match="monotone"):
            LossSketch("low").add(LossCurve([0, 5], [1.0, 0.0]))

    def test_a_cohort_streamed_ten_times_as_long_takes_no_more_memory(self) -> None:
        def peak(patients: int) -> int:
            def curves():
                breaks = np.arange(0, 60_000, 2)
                for k in range(patients):
                    yield LossCurve(breaks, np.linspace(0, 1 / (1 + k % 7), breaks.size))

            tracemalloc.start()
            conformal_threshold(curves(), 0.2, safe="low")
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return most

        peak(20)
        assert peak(200) <= 1.05 * peak(20) < 10e6


class TestVariants:
    def test_groups_stand_alone_and_thin_ones_say_so(self) -> None:
        low, high = LossCurve([0, 10], [0.0, 1.0]), LossCurve([0, 1000], [0.0, 1.0])
        found = grouped_thresholds(
            [low] * 10 + [high] * 10 + [low] * 3, ["a"] * 10 + ["b"] * 10 + ["c"] * 3, 0.1, safe="low"
        )
        assert {g: t.threshold for g, t in found.items()} == {"a": 9, "b": 999, "c": 0}
        assert not found["c"].feasible
        with pytest.raises(InputError, match="groups"):
            grouped_thresholds([low], [], 0.1, safe="low")

    def test_equal_weights_are_no_weights(self, rng: np.random.Generator) -> None:
        curves = [c for c in (outer_loss_curve([patient(rng)]) for _ in range(30)) if c]
        plain = conformal_threshold(curves, 0.1, safe="low")
        weighted = weighted_threshold(curves, np.full(30, 2.5), 2.5, 0.1, safe="low")
        assert weighted.threshold == plain.threshold
        assert "30.0" in weighted.sentence

    def test_a_scan_unlike_the_cohort_is_infeasible(self, rng: np.random.Generator) -> None:
        curves = [c for c in (outer_loss_curve([patient(rng)]) for _ in range(30)) if c]
        found = weighted_threshold(curves, np.ones(30), 100.0, 0.1, safe="low")
        assert not found.feasible
        assert found.threshold == 0

    @pytest.mark.slow
    def test_weights_restore_the_promise_under_shift(self) -> None:
        """Hard patients are 10 % at calibration and 50 % at test; known weights keep the mean loss at α."""
        rng = np.random.default_rng(3)
        plain, weighted = [], []
        for _ in range(1500):
            hard = rng.random(60) < 0.1
            curves = [outer_loss_curve([patient(rng, size=60, sharp=0.3 if h else 3.0)]) for h in hard]
            test_hard = rng.random() < 0.5
            fresh = outer_loss_curve([patient(rng, size=60, sharp=0.3 if test_hard else 3.0)])
            ratio = {True: 5.0, False: 0.5 / 0.9}
            args = [ratio[bool(h)] for h in hard]
            plain.append(fresh.at(conformal_threshold(curves, 0.1, safe="low").threshold))
            weighted.append(fresh.at(weighted_threshold(curves, args, ratio[test_hard], 0.1, safe="low").threshold))
        error = np.std(weighted) / np.sqrt(len(weighted))
        assert np.mean(plain) > 0.1 + 4 * error, "the shift must hurt, or this test shows nothing"
        assert np.mean(weighted) <= 0.1 + 2 * error

    @pytest.mark.parametrize(
        ("weights", "own"), [([1.0], 1.0), ([np.nan] * 2, 1.0), ([0.0] * 2, 1.0), ([1.0] * 2, -1.0)]
    )
    def test_odd_weights_are_refused(self, weights: list[float], own: float) -> None:
        with pytest.raises(InputError, match="weight"):
            weighted_threshold([LossCurve([0], [0.0])] * 2, weights, own, 0.1, safe="low")

    def test_effective_sample_size_of_one_dominant_patient(self) -> None:
        assert effective_sample_size([100, 1e-9, 1e-9]) == pytest.approx(1.0)

    def test_the_simultaneous_loss_is_the_largest(self, rng: np.random.Generator) -> None:
        a, b = (c for c in (outer_loss_curve([patient(rng)]) for _ in range(2)) if c)
        both = simultaneous_curve([a, b])
        for q in rng.integers(0, EMPTY_SET, 50):
            assert both.at(int(q)) == max(a.at(int(q)), b.at(int(q)))
        with pytest.raises(InputError, match="class"):
            simultaneous_curve([])

    def test_the_online_threshold_meets_its_long_run_average_under_drift(self) -> None:
        rng = np.random.default_rng(5)
        state = OnlineThreshold(EMPTY_SET / 2, alpha=0.1, step=0.02)
        losses = []
        for i in range(3000):
            curve = outer_loss_curve([patient(rng, size=60, sharp=3.0 if i < 1500 else 0.5)])
            losses.append(curve.at(int(state.threshold)))
            state = state.update(losses[-1])
        assert abs(np.mean(losses) - 0.1) < 0.02
        assert abs(np.mean(losses[2000:]) - 0.1) < 0.03
        with pytest.raises(InputError, match="loss"):
            state.update(2.0)


def test_mapie_agrees_where_it_means_the_same() -> None:
    """MAPIE's controller on a grid of 100 thresholds lies within one step below our exact threshold."""
    mapie = pytest.importorskip("mapie.risk_control")
    rng = np.random.default_rng(11)
    images, truths, curves = [], [], []
    for _ in range(30):
        truth = np.zeros((16, 16), dtype=int)
        truth[4:12, 4 : 4 + rng.integers(3, 9)] = 1
        score = np.clip(truth * 0.6 + rng.uniform(0, 0.4, truth.shape), 0.001, 0.999)
        images.append(score)
        truths.append(truth)
        curve = outer_loss_curve([(quantise(score), truth.astype(bool))])
        assert curve is not None
        curves.append(curve)
    ours = conformal_threshold(curves, 0.1, safe="low").threshold / 65_535
    controller = mapie.SemanticSegmentationController(
        predict_function=lambda x: x, risk="recall", method="crc", target_level=0.9
    )
    controller.calibrate(np.array(images)[:, None], np.array(truths)[:, None])
    theirs = float(np.ravel(controller.best_predict_param)[0])
    assert -1e-9 <= ours - theirs <= 0.011
