"""Does a promised mean hold here? Exact intervals of a mean of losses, and pass, fail or too few in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.risk_bounds import mean_upper_bound

__all__ = ["Outcome", "PromiseCheck", "check_promise", "mean_interval"]

Outcome = Literal["pass", "fail", "too few"]


def mean_interval(losses: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of independent losses in [0, 1].

    Clopper–Pearson where every loss is 0 or 1, else the betting bound from both sides (Waudby-Smith & Ramdas 2024).

    Parameters
    ----------
    losses
        ``(n,)``, one a patient, in an order that does not depend on them.
    confidence
        Of the interval; each side errs in at most half of the rest.

    Returns
    -------
    Lower and upper end.

    Guarantee
    ---------
    Holds the true mean with at least this probability, in finite samples.

    Examples
    --------
    >>> [round(v, 3) for v in mean_interval([0] * 47 + [1] * 3)]
    [0.013, 0.165]
    """
    from scipy.stats import beta

    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not ((values >= 0) & (values <= 1)).all() or not 0 < confidence < 1:
        raise InputError("an interval needs at least one loss in [0, 1] and a confidence between 0 and 1")
    side, n = (1 - confidence) / 2, values.size
    if np.isin(values, (0.0, 1.0)).all():
        k = int(values.sum())
        low = float(beta.ppf(side, k, n - k + 1)) if k else 0.0
        return low, float(beta.ppf(1 - side, k + 1, n - k)) if k < n else 1.0
    return 1 - mean_upper_bound(1 - values, side), mean_upper_bound(values, side)


@dataclass(frozen=True)
class PromiseCheck:
    """One promise against what was seen.

    Parameters
    ----------
    promise
        In words.
    level
        The promised mean.
    patients
        How many it was measured on.
    realised
        Mean loss over them; None where there are none.
    lower, upper
        Interval of the true mean.
    outcome
        ``"fail"``: the interval lies above the level. ``"too few"``: it does not, but reaches beyond the tolerated
        multiple of the level. ``"pass"``: neither; there is no evidence against the promise.
    sentence
        All of it in words.
    """

    promise: str
    level: float
    patients: int
    realised: float | None
    lower: float
    upper: float
    outcome: Outcome
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_promise(
    promise: str, losses: npt.ArrayLike, level: float, *, confidence: float = 0.95, tolerance: float = 2.0
) -> PromiseCheck:
    """Whether a promised mean loss holds for the patients at hand.

    Parameters
    ----------
    promise
        In words, without the level.
    losses
        ``(n,)`` one mean loss in [0, 1] a patient.
    level
        What was promised of their mean.
    confidence
        Of the interval. A promise that holds fails with at most half of what is left of it.
    tolerance
        A pass means that the true mean is shown to be below this multiple of the level.

    Examples
    --------
    >>> check_promise("missed share", [0.05] * 60, 0.1).outcome
    'pass'
    >>> check_promise("missed share", [0.0, 1.0], 0.1).outcome
    'too few'
    >>> check_promise("missed share", [0.4] * 60, 0.1).outcome
    'fail'
    """
    values = np.asarray(losses, dtype=np.float64)
    if not 0 < level < 1 or not tolerance > 1:
        raise InputError(f"a promised level lies between 0 and 1 and the tolerance above 1, not {level}, {tolerance}")
    if values.size == 0:
        return PromiseCheck(promise, level, 0, None, 0.0, 1.0, "too few", f"{promise}: no patient to measure it on")
    low, high = mean_interval(values, confidence)
    mean, n = float(values.mean()), values.size
    seen = f"{promise}: promised at most {level:g}, seen {mean:.3f} in {n} patients (interval {low:.3f} to {high:.3f})"
    if low > level:
        return PromiseCheck(promise, level, n, mean, low, high, "fail", f"{seen}: the promise does not hold here")
    if high > tolerance * level:
        words = f"{seen}: too few patients to tell it from {tolerance:g} times as much"
        return PromiseCheck(promise, level, n, mean, low, high, "too few", words)
    return PromiseCheck(promise, level, n, mean, low, high, "pass", f"{seen}: no evidence against it")
