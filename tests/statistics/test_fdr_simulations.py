"""Realised false discovery rates, on data where a wrong procedure would fail."""

import numpy as np
import pytest
from scipy.stats import norm

from anatrust.statistics.multiple_testing import (
    benjamini_hochberg,
    benjamini_yekutieli,
    calibrate_e,
    e_benjamini_hochberg,
    focused_bh,
    holm,
    weighted_benjamini_hochberg,
)

ALPHA, REPEATS, NULLS, SIGNALS = 0.10, 2000, 12, 8
TRUE = np.arange(NULLS + SIGNALS) >= NULLS


def p_values(rng, correlation, effect=2.5):
    """One-sided normal tests with a common factor: independent (0) or PRDS (> 0)."""
    common, own = rng.standard_normal(), rng.standard_normal(len(TRUE))
    return norm.sf(np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own + effect * TRUE)


def opposed(rng, effect=2.5):
    """Half of the nulls mirror the other half: negative dependence."""
    half = rng.standard_normal(NULLS // 2)
    return norm.sf(np.concatenate([half, -half, rng.standard_normal(SIGNALS) + effect]))


def simulate(rejects, draw):
    """Mean and standard error of the false discovery proportion, and the power."""
    rng = np.random.default_rng(5)
    shares, power = [], []
    for _ in range(REPEATS):
        rejected = rejects(draw(rng))
        shares.append((rejected & ~TRUE).sum() / max(1, rejected.sum()))
        power.append((rejected & TRUE).sum() / SIGNALS)
    return np.mean(shares), np.std(shares) / np.sqrt(REPEATS), np.mean(power)


DRAWS = {
    "independent": lambda rng: p_values(rng, 0.0),
    "PRDS": lambda rng: p_values(rng, 0.5),
    "opposed": opposed,
}
# Weights from a covariate that knows something about the truth and nothing about the nulls' p-values.
WEIGHTS = np.where(TRUE, 2.0, 0.5)


@pytest.mark.parametrize("dependence", ["independent", "PRDS"])
@pytest.mark.parametrize(
    "procedure", [benjamini_hochberg, lambda p: weighted_benjamini_hochberg(p, WEIGHTS)], ids=["bh", "weighted"]
)
def test_bh_controls_the_fdr_under_positive_dependence(procedure, dependence):
    fdr, error, power = simulate(lambda p: procedure(p) <= ALPHA, DRAWS[dependence])
    assert fdr <= ALPHA + 2 * error
    assert power > 0.4


def test_independent_bh_reaches_its_bound():
    fdr, error, _ = simulate(lambda p: benjamini_hochberg(p) <= ALPHA, DRAWS["independent"])
    assert fdr == pytest.approx(ALPHA * NULLS / len(TRUE), abs=3 * error)


def test_informed_weights_gain_power():
    plain = simulate(lambda p: benjamini_hochberg(p) <= ALPHA, DRAWS["independent"])[2]
    weighted = simulate(lambda p: weighted_benjamini_hochberg(p, WEIGHTS) <= ALPHA, DRAWS["independent"])[2]
    assert weighted > plain + 0.05


@pytest.mark.parametrize("dependence", DRAWS)
@pytest.mark.parametrize(
    ("procedure", "least_power"),
    [(benjamini_yekutieli, 0.2), (lambda p: e_benjamini_hochberg(calibrate_e(p)), 0.005), (holm, 0.2)],
    ids=["by", "e-bh", "holm"],
)
def test_by_ebh_and_holm_control_the_fdr_under_any_dependence(procedure, least_power, dependence):
    fdr, error, power = simulate(lambda p: procedure(p) <= ALPHA, DRAWS[dependence])
    assert fdr <= ALPHA + 2 * error
    assert power > least_power


def test_e_values_from_likelihood_ratios_have_power():
    rng = np.random.default_rng(8)
    shares, power = [], []
    for _ in range(REPEATS):
        z = rng.standard_normal(len(TRUE)) + 4.0 * TRUE
        rejected = e_benjamini_hochberg(np.exp(4.0 * z - 8.0)) <= ALPHA
        shares.append((rejected & ~TRUE).sum() / max(1, rejected.sum()))
        power.append((rejected & TRUE).mean() * len(TRUE) / SIGNALS)
    assert np.mean(shares) <= ALPHA + 2 * np.std(shares) / np.sqrt(REPEATS)
    assert np.mean(power) > 0.7


def test_a_wrong_order_of_dependence_breaks_bh_but_not_by():
    """The simulation can fail: BH on p-values that share one draw of their sign exceeds a level."""
    k = 40

    def adversary(rng):
        # Guo and Rao's construction: with probability α H_k / k each, exactly j p-values are at most α j / k.
        weights = 1.0 / np.arange(1, k + 1)
        total = ALPHA * weights.sum()
        p = rng.uniform(ALPHA, 1.0, k)
        if rng.random() < total:
            j = 1 + rng.choice(k, p=weights / weights.sum())
            p[rng.choice(k, j, replace=False)] = rng.uniform(ALPHA * (j - 1) / k, ALPHA * j / k)
        return p

    rng = np.random.default_rng(6)
    draws = [adversary(rng) for _ in range(4000)]
    any_bh = np.mean([(benjamini_hochberg(p) <= ALPHA).any() for p in draws])
    any_by = np.mean([(benjamini_yekutieli(p) <= ALPHA).any() for p in draws])
    error = np.sqrt(ALPHA * (1 - ALPHA) / len(draws))
    assert any_bh > 2 * ALPHA
    assert any_by <= ALPHA + 2 * error


def test_a_filter_after_bh_breaks_the_fdr_and_focused_bh_does_not():
    """The gate of the specification: it drops six of the eight true findings after the test."""
    dropped = TRUE & (np.arange(len(TRUE)) < len(TRUE) - 2)

    def plain(p):
        return (benjamini_hochberg(p) <= ALPHA) & ~dropped

    def focused(p):
        return focused_bh(p, lambda rejected: rejected & ~dropped, ALPHA)

    strong = {"independent": lambda rng: p_values(rng, 0.0, 3.5), "PRDS": lambda rng: p_values(rng, 0.5, 3.5)}
    naive, error, _ = simulate(plain, strong["independent"])
    assert naive > ALPHA + 5 * error
    for draw in strong.values():
        fdr, error, power = simulate(focused, draw)
        assert fdr <= ALPHA + 2 * error
        assert power > 0.1
