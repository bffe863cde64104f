"""How sure a study is of its numbers: binomial errors, patient bootstraps, k of n."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["allowance", "fell_to_chance", "patient_bootstrap", "rate", "rate_by_patient", "rate_of_answers"]


def rate(hits: int, trials: int) -> dict[str, float | int]:
    """A share with its binomial standard error.

    Returns
    -------
    dict with ``k``, ``n``, ``rate`` and ``se`` (of the observed share).

    Examples
    --------
    >>> rate(5, 100)
    {'k': 5, 'n': 100, 'rate': 0.05, 'se': 0.0218}
    """
    if not 0 <= hits <= trials or trials < 1:
        raise InputError(f"{hits} of {trials} is no share")
    share = hits / trials
    return {
        "k": int(hits),
        "n": int(trials),
        "rate": round(share, 4),
        "se": round((share * (1 - share) / trials) ** 0.5, 4),
    }


def allowance(level: float, trials: int) -> float:
    """The level plus two standard errors of a test that has exactly this level.

    The standard error is taken at the level, not at the observed share: a larger share must
    not excuse itself by its own larger error.

    Examples
    --------
    >>> round(allowance(0.05, 100), 4)
    0.0936
    """
    return float(level + 2 * math.sqrt(level * (1 - level) / trials))


def fell_to_chance(plain: Mapping[str, Any], control: Mapping[str, Any]) -> bool:
    """Whether a control brings an accuracy to chance that was above it: from chance to chance shows nothing.

    Each is ``{"accuracy": {"rate", "n"}, "chance"}``; chance reaches two standard errors up (`allowance`).

    Examples
    --------
    >>> plain, blank = ({"accuracy": {"rate": r, "n": 200}, "chance": 0.08} for r in (0.5, 0.1))
    >>> fell_to_chance(plain, blank), fell_to_chance(blank, blank)
    (True, False)
    """
    above, still = (r["accuracy"]["rate"] > allowance(r["chance"], r["accuracy"]["n"]) for r in (plain, control))
    return bool(above and not still)


def rate_by_patient(hits_by_patient: Mapping[str, Sequence[bool]], *, seed: int, draws: int = 2000) -> dict[str, Any]:
    """A pooled share over patients, with a bootstrap interval that resamples whole patients.

    With fewer than five patients no interval is given: k of n speaks for itself.

    Examples
    --------
    >>> rate_by_patient({"a": [True, False], "b": [False]}, seed=0)["patients"]
    2
    """
    pooled = [bool(h) for hits in hits_by_patient.values() for h in hits]
    result: dict[str, Any] = dict(rate(sum(pooled), len(pooled)))
    result["patients"] = len(hits_by_patient)
    if len(hits_by_patient) >= 5:
        sums = np.array([(sum(map(bool, h)), len(h)) for h in hits_by_patient.values()], dtype=np.float64)
        low, high = patient_bootstrap(sums, lambda s: float(s[:, 0].sum() / s[:, 1].sum()), seed=seed, draws=draws)
        result["interval"] = [round(low, 4), round(high, 4)]
    return result


def rate_of_answers(rows: Sequence[Mapping[str, Any]], field: str, *, seed: int) -> dict[str, Any]:
    """`rate_by_patient` of a yes or no that each answer holds, beside its ``"patient"``."""
    by_patient: dict[str, list[bool]] = {}
    for row in rows:
        by_patient.setdefault(row["patient"], []).append(bool(row[field]))
    return rate_by_patient(by_patient, seed=seed)


def patient_bootstrap(
    by_patient: npt.NDArray[np.float64],
    statistic: Callable[[npt.NDArray[np.float64]], float],
    *,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic, resampling rows (one row per patient).

    Parameters
    ----------
    by_patient
        Array whose first axis is the patient.
    statistic
        From such an array to a number.
    seed, draws, level
        Generator seed, bootstrap samples, coverage aimed at.

    Raises
    ------
    InputError
        If there are fewer than two patients.

    References
    ----------
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Examples
    --------
    >>> low, high = patient_bootstrap(np.arange(30.0)[:, None], lambda v: float(v.mean()), seed=0)
    >>> bool(low < 14.5 < high)
    True
    """
    n = len(by_patient)
    if n < 2:
        raise InputError(f"a bootstrap over patients needs at least 2, not {n}: report k of n instead")
    rng = np.random.default_rng(seed)
    values = [statistic(by_patient[rng.integers(0, n, n)]) for _ in range(draws)]
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
