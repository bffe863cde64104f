"""How many patients a promise needs, and what those at hand allow."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anatrust.errors import InputError
from anatrust.pipeline.cohort import Cohort
from anatrust.statistics.risk_bounds import betting_p_value
from anatrust.statistics.risk_control import patients_needed

__all__ = ["Need", "acceptance_patients_needed", "assured_patients_needed", "learning_patients", "plan"]

_MOST_PATIENTS = 100_000
_LEARNING_SHARE = 0.3
_MOST_LEARNING = 60
_FEWEST_LEARNING = 3


@dataclass(frozen=True)
class Need:
    """One promise: the patients it needs and, with a cohort, those there are.

    Parameters
    ----------
    promise
        In words.
    who
        Which patients count.
    needed
        Fewest of them at the level asked for.
    have
        How many the cohort has; None without a cohort, and where others than the cohort's count.
    best_level
        Smallest level those at hand allow, ``1 / (have + 1)``; None without any.
    """

    promise: str
    who: str
    needed: int
    have: int | None = None
    best_level: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether there are enough; None without a cohort."""
        return None if self.have is None else self.have >= self.needed

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "met": self.met}


def assured_patients_needed(alpha: float, delta: float) -> int:
    """Fewest patients with which a mean loss of α can be assured with confidence 1 - δ, if none loses anything.

    Real cohorts lose something and need more; with fewer than this nothing can be assured.

    Examples
    --------
    >>> assured_patients_needed(0.1, 0.1)
    25
    """
    if not (0 < alpha < 1 and 0 < delta < 1):
        raise InputError(f"alpha and assurance lie between 0 and 1, not at {alpha} and {delta}")
    low, high = 0, 1
    while betting_p_value(np.zeros(high), alpha, delta=delta) > delta:
        low, high = high, 2 * high
        if high > _MOST_PATIENTS:
            raise InputError(f"assuring {alpha:g} at {delta:g} needs more than {_MOST_PATIENTS} patients: raise one")
    while high - low > 1:
        middle = (low + high) // 2
        if betting_p_value(np.zeros(middle), alpha, delta=delta) <= delta:
            high = middle
        else:
            low = middle
    return high


def learning_patients(patients: int, alpha: float) -> int:
    """How many of so many patients `fit` learns from; the others calibrate.

    30 % and 60 at most, and never so many that too few are left for α; 0 where fewer than three could be spared:
    then all calibrate the plain score, and there are no bounds.

    Examples
    --------
    >>> [learning_patients(n, 0.1) for n in (9, 14, 15, 100, 1000)]
    [0, 0, 3, 30, 60]
    """
    spare = patients - patients_needed(alpha)
    count = min(_MOST_LEARNING, round(_LEARNING_SHARE * patients), spare // 2)
    return count if count >= _FEWEST_LEARNING else 0


def acceptance_patients_needed(
    alpha: float, *, promises: int = 6, confidence: float = 0.95, tolerance: float = 2.0
) -> int:
    """Fewest local patients with whom `verify` can pass promises at one level, if none of them loses anything.

    Real patients lose something and more are needed. Six promises: both sets and four bounds of one structure.

    Examples
    --------
    >>> acceptance_patients_needed(0.1), acceptance_patients_needed(0.1, tolerance=4)
    (25, 11)
    """
    side = (1 - confidence) / promises / 2
    count = 1
    while 1 - side ** (1 / count) > tolerance * alpha:  # Clopper and Pearson's upper end for no loss at all
        count += 1
    return count


def plan(alpha: float, cohort: Cohort | None = None, *, assurance: float | None = None) -> tuple[Need, ...]:
    """What each promise needs at one level.

    Parameters
    ----------
    alpha
        Level of every promise.
    cohort
        Counted by patient: rows with ``lesion_free = true`` and a mask serve the cohort null, other
        rows with a truth beside probabilities or a mask serve the sets, and the bounds, for which others of them
        are learnt from. Each group of the table with patients for sets gets a line of its own: its share of those
        that `fit` calibrates on.
    assurance
        δ; adds the assured version of the sets.

    Examples
    --------
    >>> [need.needed for need in plan(0.1)]
    [9, 9, 15, 25]
    """
    count = patients_needed(alpha)
    healthy = labelled = None
    groups: dict[str, set[str]] = {}
    if cohort is not None:
        healthy = len({row.patient for row in cohort if row.lesion_free and row.mask is not None})
        rows = [
            row
            for row in cohort
            if row.truth is not None
            and not row.lesion_free
            and not row.outlier
            and (row.probabilities is not None or row.mask is not None)
        ]
        labelled = len({row.patient for row in rows})
        for row in rows:
            if row.group:
                groups.setdefault(row.group, set()).add(row.patient)
    needs = [
        _need(
            f"at most {alpha:g} of healthy scans keep any candidate",
            "lesion-free patients with masks",
            count,
            healthy,
        ),
        _need(f"sets that miss and invent at most {alpha:g} on average", "patients with truth", count, labelled),
    ]
    learning = learning_patients(labelled or 0, alpha)
    needs += [
        _need(
            f"the same within group {group}",
            f"patients with truth in {group} to calibrate on",
            count,
            round(len(patients) * (1 - learning / (labelled or 1))),
        )
        for group, patients in sorted(groups.items())
    ]
    more = 2 * _FEWEST_LEARNING
    needs.append(
        Need(
            f"bounds of quality that at most {alpha:g} of scans break",
            "patients with truth",
            next(n for n in range(count, count + 100) if learning_patients(n, alpha)),
            labelled,
            1 / (labelled - more + 1) if labelled and labelled > more else None,
        )
    )
    if assurance is not None:
        fewest = assured_patients_needed(alpha, assurance)
        words = f"the same sets, assured with confidence {1 - assurance:g} over calibrations (more if any is missed)"
        needs.append(_need(words, "patients with truth", fewest, labelled))
    words = "that 'anatrust verify' can pass them elsewhere, one structure"
    needs.append(Need(words, "patients there, more if any errs", acceptance_patients_needed(alpha)))
    return tuple(needs)


def _need(promise: str, who: str, needed: int, have: int | None) -> Need:
    return Need(promise, who, needed, have, 1 / (have + 1) if have else None)
