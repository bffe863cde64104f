"""Tests and bounds for a mean of losses in [0, 1] from n patients.

Both bounds hold in finite samples without a model of the losses: Hoeffding–Bentkus for independent
losses (Bates et al. 2021), and betting for exchangeable-in-law independent losses taken in a fixed
order (Waudby-Smith & Ramdas 2024), usually much the tighter of the two.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["BoundName", "betting_p_value", "hoeffding_bentkus_p_value", "mean_upper_bound", "risk_p_value"]

BoundName = Literal["betting", "hoeffding-bentkus"]


def _check(losses: npt.ArrayLike, alpha: float) -> npt.NDArray[np.float64]:
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 0 or not ((values >= 0) & (values <= 1)).all():
        raise InputError("give at least one loss, each in [0, 1] and none NaN")
    if not 0 < alpha < 1:
        raise InputError(f"the tested risk lies between 0 and 1, not at {alpha}")
    return values


def hoeffding_bentkus_p_value(losses: npt.ArrayLike, alpha: float) -> npt.NDArray[np.float64]:
    """P-value of "the mean loss exceeds α", from the tighter of Hoeffding's and Bentkus' inequalities.

    ``min(exp(-n h(min(R, α), α)), e P(Bin(n, α) <= ceil(n R)))`` with ``h`` the relative entropy
    (Bates, Angelopoulos, Lei, Malik, Jordan 2021, proposition 4). Losses ``(..., n)`` give p-values
    ``(...)``; cost O(n) each.

    Guarantee
    ---------
    ``P(p <= t) <= t`` for n independent losses in [0, 1] with mean above α.

    Examples
    --------
    >>> round(float(hoeffding_bentkus_p_value([0.0] * 50, 0.1)), 4)
    0.0052
    """
    from scipy.special import rel_entr
    from scipy.stats import binom

    values = _check(losses, alpha)
    n, mean = values.shape[-1], values.mean(axis=-1)
    low = np.minimum(mean, alpha)
    entropy = rel_entr(low, alpha) + rel_entr(1 - low, 1 - alpha)
    bentkus = np.e * binom.cdf(np.ceil(n * mean - 1e-9), n, alpha)
    result: npt.NDArray[np.float64] = np.minimum(1.0, np.minimum(np.exp(-n * entropy), bentkus))
    return result


def betting_p_value(losses: npt.ArrayLike, alpha: float, *, delta: float = 0.1) -> npt.NDArray[np.float64]:
    """P-value of "the mean loss exceeds α", from a bet against it.

    The capital ``K_t = Π (1 + ν_i (α - L_i))`` with predictable stakes
    ``ν_i = min(1, sqrt(2 log(1/δ) / (n σ²_{i-1})))`` is a supermartingale while the mean is above α,
    so ``1 / max_t K_t`` is a p-value by Ville's inequality. One product over all losses in the order
    given: restarting it or adding maxima of parts would break the inequality. ``delta`` tunes the
    stakes for that level; the p-value is valid for any. Losses ``(..., n)`` give p-values ``(...)``.

    Guarantee
    ---------
    ``P(p <= t) <= t`` for independent losses in [0, 1] with mean above α; the order must not depend
    on the losses (that of the cohort table does not).

    Examples
    --------
    >>> bool(betting_p_value([0.02] * 100, 0.1) < 0.01)
    True
    """
    values = _check(losses, alpha)
    n = values.shape[-1]
    counts = np.arange(1, n + 1)
    # Half a pseudo-loss keeps mean and variance away from 0 before anything is known.
    means = (0.5 + np.cumsum(values, axis=-1)) / (counts + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2, axis=-1)) / (counts + 1)
    known = np.concatenate([np.full((*values.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)
    stakes = np.minimum(1.0, np.sqrt(2 * np.log(1 / delta) / (n * known)))
    wealth = np.cumsum(np.log1p(stakes * (alpha - values)), axis=-1).max(axis=-1)
    result: npt.NDArray[np.float64] = np.exp(-np.maximum(wealth, 0.0))
    return result


def risk_p_value(
    losses: npt.ArrayLike, alpha: float, *, bound: BoundName = "betting", delta: float = 0.1
) -> npt.NDArray[np.float64]:
    """P-value of "the mean loss exceeds α" by the named bound; losses ``(..., n)`` give ``(...)``."""
    if bound == "betting":
        return betting_p_value(losses, alpha, delta=delta)
    if bound == "hoeffding-bentkus":
        return hoeffding_bentkus_p_value(losses, alpha)
    raise InputError(f"bound '{bound}' is unknown: choose betting or hoeffding-bentkus")


def mean_upper_bound(losses: npt.ArrayLike, delta: float, *, bound: BoundName = "betting") -> float:
    """Smallest risk that is rejected at level δ: the mean lies below it with probability at least 1 - δ.

    Found by bisection to 1e-6, rounded up. Returns 1.0 where no risk below 1 is rejected.

    Examples
    --------
    >>> losses = [0.0, 0.1] * 40
    >>> 0.05 < mean_upper_bound(losses, 0.1) < mean_upper_bound(losses, 0.1, bound="hoeffding-bentkus") < 0.2
    True
    """
    if not 0 < delta < 1:
        raise InputError(f"delta is a probability between 0 and 1, not {delta}")
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if risk_p_value(losses, middle, bound=bound, delta=delta) <= delta:
            high = middle
        else:
            low = middle
    return high
