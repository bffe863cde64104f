"""How far one calibration cohort may be off its level, by chance alone."""

from __future__ import annotations

import math

from anatrust.errors import InputError

__all__ = ["realised_level", "realised_share"]


def realised_level(patients: int, level: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the level that one cohort null of so many patients realises.

    Conformal p-values keep their level on average over cohorts. With one cohort in hand the
    share of all healthy patients in whom something has p ≤ level is a number of its own: it
    varies from cohort to cohort as Beta(k, n + 1 − k) with k = ⌊level · (n + 1)⌋.

    Parameters
    ----------
    patients
        n, the lesion-free patients of the null.
    level
        In (0, 1).
    confidence
        Central probability of the interval.

    Returns
    -------
    Lower and upper end; (0, 0) where n is too small for any p-value to reach the level.

    Raises
    ------
    InputError
        If there is no patient, or level or confidence are not between 0 and 1.

    Guarantee
    ---------
    Exact for exchangeable patients whose strongest scores have no ties; ties, and patients
    without candidates, make the realised level smaller, never larger.

    References
    ----------
    Vovk, Conditional validity of inductive conformal predictors, Machine Learning 92 (2013),
    section 3; Bates et al. 2023 (as in `conformal_p_value`), section 3.

    Examples
    --------
    >>> [round(v, 3) for v in realised_level(79, 0.10)]
    [0.045, 0.174]
    >>> realised_level(5, 0.10)
    (0.0, 0.0)
    """
    from scipy.stats import beta

    k = _rank(patients, level, confidence)
    if k == 0:
        return 0.0, 0.0
    side = (1 - confidence) / 2
    law = beta(k, patients + 1 - k)
    return float(law.ppf(side)), float(law.ppf(1 - side))


def realised_share(patients: int, others: int, level: float, *, confidence: float = 0.95) -> tuple[int, int]:
    """Of so many further healthy patients, how many one cohort null may let through.

    Beta-binomial: the realised level varies with the cohort (`realised_level`), and the count
    with the patients at hand.

    Parameters
    ----------
    patients, level, confidence
        As in `realised_level`.
    others
        Healthy patients judged, none of them in the null.

    Returns
    -------
    Smallest and largest count of the interval, which holds at least ``confidence``.

    Raises
    ------
    InputError
        As `realised_level`, or if nobody is judged.

    Examples
    --------
    >>> realised_share(79, 50, 0.10)
    (1, 11)
    """
    from scipy.stats import betabinom

    k = _rank(patients, level, confidence)
    if others < 1:
        raise InputError(f"{others} patients to judge: at least one is needed")
    if k == 0:
        return 0, 0
    side = (1 - confidence) / 2
    law = betabinom(others, k, patients + 1 - k)
    return int(law.ppf(side)), int(law.ppf(1 - side))


def _rank(patients: int, level: float, confidence: float) -> int:
    """How many of the null's patients may outrank a score that is still kept, plus one."""
    if patients < 1 or not 0 < level < 1 or not 0 < confidence < 1:
        raise InputError(
            f"{patients} patients, level {level:g}, confidence {confidence:g}: give at least one patient, and a level "
            "and a confidence between 0 and 1"
        )
    # A level of 0.1 with 79 patients is 8 of 80, not 7.999….
    return math.floor(level * (patients + 1) * (1 + 1e-12))
