"""Re-splits of a pool: equal to calibrating each of them, quality interpolated truly, improvements paired."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import LabelledCase
from anatrust.image.grid import Grid
from anatrust.metrics import assd, dice, hd95
from anatrust.statistics.loss_curves import LEVELS, LossCurve
from anatrust.statistics.risk_control import conformal_threshold
from anatrust.studies import rwcp_quality
from anatrust.studies.rwcp_resplits import (
    METRICS,
    calibration_draws,
    equal_loss_threshold,
    improvement,
    mean_and_error,
    resplit_thresholds,
    scored,
)

GRID = Grid((20, 20), np.diag([1.0, 2.0, 1.0, 1.0]))
PLAIN = ScoreRecipe("probability")


def pool(patients: int, slices: int = 2) -> list[LabelledCase]:
    cases = []
    for number in range(patients):
        rng = np.random.default_rng([9, number])
        for _ in range(slices):
            x, y = np.indices(GRID.shape)
            truth = (x - rng.uniform(8, 12)) ** 2 + (y - rng.uniform(8, 12)) ** 2 < rng.uniform(3, 6) ** 2
            noise = gaussian_filter(rng.normal(size=GRID.shape), 1)
            p = 1 / (1 + np.exp(-(4 * truth - 2 + 4 * noise)))
            cases.append(LabelledCase(f"p{number}", p, p, truth, GRID))
    return cases


def test_a_pool_is_scored_by_patient() -> None:
    made = scored(pool(5, slices=3), PLAIN)
    assert made.patients == tuple(f"p{k}" for k in range(5))
    assert np.bincount(made.owner).tolist() == [3] * 5
    by_hand = [np.mean([levels[truth] < 30_000]) for levels, truth in zip(made.levels, made.truths, strict=True)]
    sizes = [truth.sum() for truth in made.truths]
    assert made.outer[0].at(30_000) == pytest.approx(np.average(by_hand[:3], weights=sizes[:3]))


@pytest.mark.parametrize("safe", ["low", "high"])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.2, 0.5])
def test_every_resplit_is_a_calibration(safe: str, alpha: float) -> None:
    made = scored(pool(24, slices=1), PLAIN)
    curves = made.outer if safe == "low" else made.inner
    draws = calibration_draws(24, 15, 30, seed=1)
    assert (draws.sum(axis=1) == 15).all()
    thresholds, losses = resplit_thresholds(curves, draws, alpha, safe=safe)
    for draw, threshold, loss in zip(draws, thresholds, losses, strict=True):
        own = conformal_threshold([c for c, d in zip(curves, draw, strict=True) if d], alpha, safe=safe)
        assert threshold == own.threshold
        assert loss.tolist() == [c.at(own.threshold) for c in curves]


def test_losses_that_do_not_fit_give_the_safe_end() -> None:
    curves = [LossCurve([0], [0.6])] * 12
    thresholds, losses = resplit_thresholds(curves, calibration_draws(12, 10, 3, seed=0), 0.2, safe="low")
    assert (thresholds == 0).all()
    assert (losses == 0.6).all()


def test_quality_is_the_metrics_of_each_image() -> None:
    made = scored(pool(3), PLAIN)
    found = dict(zip(METRICS, made.quality(20_000).T, strict=True))
    chosen = [levels >= 20_000 for levels in made.levels]
    pairs = list(zip(made.truths, chosen, strict=True))
    spacing = GRID.spacing
    assert found["dice"] == pytest.approx(np.mean(np.reshape([dice(t, c) for t, c in pairs], (3, 2)), axis=1))
    assert found["assd"][1] == pytest.approx(np.mean([assd(t, c, spacing=spacing) for t, c in pairs[2:4]]))
    assert found["hd95"][2] == pytest.approx(np.mean([hd95(t, c, spacing=spacing) for t, c in pairs[4:]]))
    assert found["stretch"][0] == pytest.approx(np.mean([c.sum() / t.sum() for t, c in pairs[:2]]))
    nothing = dict(zip(METRICS, made.quality(LEVELS).T, strict=True))
    assert nothing["assd"] == pytest.approx(np.hypot(20, 40))
    assert not nothing["components"].any()
    sizes = made.sizes(steps=10)
    assert sizes.shape == (3, 11)
    assert (np.diff(sizes, axis=1) >= 0).all()
    total = sum(int(t.sum()) for t in made.truths[:2])
    assert sizes[0, -1] == pytest.approx(800 / total)


def test_equal_loss_is_the_last_threshold_within() -> None:
    made = scored(pool(10), PLAIN)
    threshold = equal_loss_threshold(made.outer, 0.1)
    mean = [np.mean([c.at(q) for c in made.outer]) for q in (threshold, threshold + 1)]
    assert mean[0] <= 0.1 < mean[1]
    assert equal_loss_threshold(made.outer, 1.0) == LEVELS


def test_interpolated_resplits_are_close_to_measuring_each() -> None:
    made = scored(pool(14, slices=1), PLAIN)
    draws = calibration_draws(14, 10, 40, seed=2)
    thresholds, _ = resplit_thresholds(made.outer, draws, 0.2, safe="low")
    quick = rwcp_quality._over_resplits(made, thresholds, ~draws)
    exact = np.array([made.quality(int(q)) for q in thresholds])
    slow = (exact * ~draws[..., None]).sum(axis=0) / (~draws).sum(axis=0)[:, None]
    np.testing.assert_allclose(quick.mean(axis=0), slow.mean(axis=0), rtol=0.03)


def test_an_improvement_is_paired(rng: np.random.Generator) -> None:
    rival = rng.uniform(1, 10, 40)
    found = improvement(0.8 * rival, rival, np.arange(40), seed=0)
    assert found["share"] == pytest.approx(0.2)
    assert found["interval"] == pytest.approx([0.2, 0.2])
    unpaired = improvement(rng.permutation(rival), rival, np.arange(40), seed=0)
    assert unpaired["interval"][0] < 0 < unpaired["interval"][1]
    together = improvement(0.8 * rival, rival, np.repeat(np.arange(20), 2), seed=0)
    assert together["share"] == pytest.approx(0.2)
    assert mean_and_error([1.0])["se"] == 0
