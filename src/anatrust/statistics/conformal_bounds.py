"""Bounds of an unknown number from label-free evidence: conformalised quantile regression, by patient.

Guarantee
---------
For exchangeable patients the expected share of the next patient's scans in which any structure breaks its
bound is at most α (Romano, Patterson, Candès 2019, with the loss "share of a patient's scans" controlled
by conformal risk control; one scan a patient gives split-conformal prediction). Exact in finite samples,
whatever the regression is worth, as long as it was learnt on other patients. It says nothing about
one scan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.quantile_regression import LinearQuantile, fit_quantile
from anatrust.statistics.risk_control import patients_needed

__all__ = [
    "BoundSide",
    "ConformalBound",
    "LearntBound",
    "PatientEvidence",
    "conformal_margin",
    "fit_bound",
    "learn_bound",
]

BoundSide = Literal["lower", "upper", "interval"]
_SLACK = 1e-12
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PatientEvidence:
    """What is known of one patient's scans.

    Parameters
    ----------
    evidence
        ``(scans, structures, d)`` finite label-free numbers.
    targets
        ``(scans, structures)`` the numbers to bound: NaN where there is nothing to bound, ±inf
        where the number is infinite.
    """

    evidence: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        evidence, targets = np.asarray(self.evidence, np.float64), np.asarray(self.targets, np.float64)
        if evidence.ndim != 3 or evidence.shape[:2] != targets.shape or not np.isfinite(evidence).all():
            raise InputError(f"evidence {evidence.shape} and targets {targets.shape} of a patient do not fit")
        object.__setattr__(self, "evidence", evidence)
        object.__setattr__(self, "targets", targets)


def conformal_margin(scores: Sequence[npt.ArrayLike], alpha: float) -> float:
    """Smallest margin such that, of the next patient's scores, at most a share α is above it on average.

    Parameters
    ----------
    scores
        One row of scores a calibration patient, none NaN.
    alpha
        Promised share.

    Returns
    -------
    float
        ``inf`` where nothing finite can be promised (fewer than ``1/α - 1`` patients, or infinite scores).

    Examples
    --------
    >>> conformal_margin([[k] for k in range(1, 20)], 0.1)
    18.0
    >>> conformal_margin([[1.0], [2.0]], 0.1)
    inf
    """
    rows = [np.asarray(row, dtype=np.float64).ravel() for row in scores]
    rows = [row for row in rows if row.size]
    n = len(rows)
    if n < patients_needed(alpha):
        return float("inf")
    if any(np.isnan(row).any() for row in rows):
        raise InputError("scores are never NaN: leave out scans without a number")
    pooled = np.concatenate(rows)
    shares = np.concatenate([np.full(row.size, 1 / row.size) for row in rows])
    order = np.argsort(pooled, kind="stable")
    values, above = pooled[order], shares.sum() - np.cumsum(shares[order])
    # Equal scores fall together: the share above a value is what is left after the last of them.
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), values.size - 1)
    fits = above[last] <= (n + 1) * alpha - 1 + _SLACK * n
    return float(values[last][int(np.argmax(fits))]) if fits.any() else float("inf")


@dataclass(frozen=True)
class ConformalBound:
    """One number of every structure, bounded for at least 1 - α of scans.

    Parameters
    ----------
    side
        ``"lower"``, ``"upper"`` or ``"interval"``.
    alpha
        Promised share of scans in which any structure may break its bound.
    predictors
        For each structure its one quantile regression, or two for an interval.
    scales
        What a margin is worth for each structure, so that one margin serves all (their bounds hold together).
    margin
        Calibrated; ``inf`` where nothing can be promised.
    constant
        The bounds no evidence would give, by the same calibration, ``(lower, upper)`` a structure.
    patients
        Calibrated on.
    """

    side: BoundSide
    alpha: float
    predictors: tuple[tuple[LinearQuantile, ...], ...]
    scales: tuple[float, ...]
    margin: float
    constant: tuple[tuple[float, float], ...]
    patients: int

    @property
    def feasible(self) -> bool:
        """Whether anything finite is promised."""
        return bool(np.isfinite(self.margin))

    def bounds(self, evidence: npt.ArrayLike) -> _Array:
        """Lower and upper bounds ``(..., structures, 2)`` from evidence ``(..., structures, d)``."""
        rows = np.asarray(evidence, dtype=np.float64)
        return np.stack(
            [
                _widened(_quantiles(one, rows[..., k, :]), self.side, self.margin * self.scales[k])
                for k, one in enumerate(self.predictors)
            ],
            axis=-2,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinite ones are None."""
        return {
            "side": self.side,
            "alpha": self.alpha,
            "predictors": [[p.to_json() for p in one] for one in self.predictors],
            "scales": list(self.scales),
            "margin": _plain(self.margin),
            "constant": [[_plain(v) for v in pair] for pair in self.constant],
            "patients": self.patients,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ConformalBound:
        """The one :meth:`to_json` wrote."""
        if plain["side"] not in get_args(BoundSide):
            raise InputError(f"a bound is {', '.join(get_args(BoundSide))}, not {plain['side']!r}")
        infinite = float("inf")
        return cls(
            plain["side"],
            float(plain["alpha"]),
            tuple(tuple(LinearQuantile.from_json(p) for p in one) for one in plain["predictors"]),
            tuple(float(v) for v in plain["scales"]),
            infinite if plain["margin"] is None else float(plain["margin"]),
            tuple(
                (-infinite if low is None else float(low), infinite if high is None else float(high))
                for low, high in plain["constant"]
            ),
            int(plain["patients"]),
        )


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _levels(side: BoundSide, alpha: float) -> tuple[float, ...]:
    return {"lower": (alpha,), "upper": (1 - alpha,), "interval": (alpha / 2, 1 - alpha / 2)}[side]


def _quantiles(predictors: Sequence[LinearQuantile], rows: _Array) -> _Array:
    """``(..., 1 or 2)`` quantiles; those of an interval never cross."""
    return np.sort(np.stack([p.predict(rows) for p in predictors], axis=-1), axis=-1)


def _widened(quantiles: _Array, side: BoundSide, margin: float) -> _Array:
    low, high = quantiles[..., 0] - margin, quantiles[..., -1] + margin
    if side == "lower":
        high = np.full_like(low, np.inf)
    elif side == "upper":
        low = np.full_like(high, -np.inf)
    # A negative margin can turn an interval inside out; its middle stands for what is then empty.
    inside_out = low > high
    middle = quantiles.mean(axis=-1)
    return np.stack([np.where(inside_out, middle, low), np.where(inside_out, middle, high)], axis=-1)


def _shortfall(quantiles: _Array, targets: _Array, side: BoundSide) -> _Array:
    """By how much each target lies beyond its quantiles, negative within; NaN where there is no target."""
    below, beyond = quantiles[..., 0] - targets, targets - quantiles[..., -1]
    return below if side == "lower" else beyond if side == "upper" else np.maximum(below, beyond)


def fit_bound(
    learn: Sequence[PatientEvidence],
    calibrate: Sequence[PatientEvidence],
    side: BoundSide,
    alpha: float,
    *,
    directions: Sequence[int] | None = None,
) -> ConformalBound:
    """Learn what evidence says about a number on some patients, and calibrate it on others.

    Parameters
    ----------
    learn, calibrate
        Patients, none in both, with the same structures and evidence.
    side
        Which side is bounded.
    alpha
        Promised share of scans with a broken bound.
    directions
        As in :func:`~anatrust.statistics.quantile_regression.fit_quantile`.

    Returns
    -------
    ConformalBound
        With several structures all bounds hold together: the calibrated score of a scan is its worst structure's.

    Raises
    ------
    InputError
        If there is no patient to learn from, or shapes differ.

    Guarantee
    ---------
    See the module.
    """
    return learn_bound(learn, side, alpha, directions=directions).conformalize(calibrate)


@dataclass(frozen=True)
class LearntBound:
    """What evidence says about a number, not yet calibrated: believed as it is it promises nothing.

    ``predictors`` and ``scales`` are those of the `ConformalBound` to come, ``constants`` the same without evidence.
    """

    side: BoundSide
    alpha: float
    predictors: tuple[tuple[LinearQuantile, ...], ...]
    constants: tuple[tuple[LinearQuantile, ...], ...]
    scales: tuple[float, ...]

    def conformalize(self, patients: Sequence[PatientEvidence]) -> ConformalBound:
        """Calibrated on patients that were not learnt from."""
        width = len(self.predictors[0][0].coefficients)
        expected = (len(self.predictors), width)
        if any((p.targets.shape[1], p.evidence.shape[2]) != expected for p in patients):
            raise InputError("bounds are calibrated on patients with the same structures and evidence as learnt from")
        made, flat = (
            ConformalBound(self.side, self.alpha, one, self.scales, 0.0, (), 0)
            for one in (self.predictors, self.constants)
        )
        scores = _scores(made, patients)
        constant = replace(flat, margin=conformal_margin(_scores(flat, patients), self.alpha))
        pairs = tuple((float(low), float(high)) for low, high in constant.bounds(np.zeros(expected)))
        return replace(made, margin=conformal_margin(scores, self.alpha), constant=pairs, patients=len(scores))


def learn_bound(
    learn: Sequence[PatientEvidence], side: BoundSide, alpha: float, *, directions: Sequence[int] | None = None
) -> LearntBound:
    """The first half of `fit_bound`: learn what evidence says, parameters as there."""
    if not learn or len({(p.targets.shape[1], p.evidence.shape[2]) for p in learn}) != 1:
        raise InputError("a bound is learnt from at least one patient, all with the same structures and evidence")
    structures, width = learn[0].targets.shape[1], learn[0].evidence.shape[2]
    predictors, constants, scales = [], [], []
    for k in range(structures):
        rows, values, weights = _stacked(learn, k)
        levels = _levels(side, alpha)
        if values.size == 0:
            nothing = tuple(LinearQuantile(0.0, (0.0,) * width, 0.0, 0.0) for _ in levels)
            predictors.append(nothing)
            constants.append(nothing)
            scales.append(1.0)
            continue
        one = tuple(fit_quantile(rows, values, q, weights=weights, directions=directions) for q in levels)
        predictors.append(one)
        constants.append(tuple(fit_quantile(np.zeros_like(rows), values, q, weights=weights) for q in levels))
        rest = values - _quantiles(one, rows)[..., 0]
        scales.append(max(float(np.median(np.abs(rest - np.median(rest)))), 1e-6) if structures > 1 else 1.0)
    return LearntBound(side, alpha, tuple(predictors), tuple(constants), tuple(scales))


def _stacked(patients: Sequence[PatientEvidence], structure: int) -> tuple[_Array, _Array, _Array]:
    """Evidence, targets and weights of one structure; a patient weighs one, however many scans it has."""
    rows, values, weights = [], [], []
    for patient in patients:
        known = np.isfinite(patient.targets[:, structure])
        if known.any():
            rows.append(patient.evidence[known, structure])
            values.append(patient.targets[known, structure])
            weights.append(np.full(int(known.sum()), 1 / known.sum()))
    if not rows:
        return np.zeros((0, patients[0].evidence.shape[2])), np.zeros(0), np.zeros(0)
    return np.concatenate(rows), np.concatenate(values), np.concatenate(weights)


def _scores(bound: ConformalBound, patients: Sequence[PatientEvidence]) -> list[_Array]:
    """Scaled score of each scan of each patient that has anything to bound: its worst structure's."""
    found = []
    for patient in patients:
        scaled = np.stack(
            [
                _shortfall(_quantiles(one, patient.evidence[:, k]), patient.targets[:, k], bound.side) / bound.scales[k]
                for k, one in enumerate(bound.predictors)
            ],
            axis=1,
        )
        known = ~np.isnan(scaled).all(axis=1)
        if known.any():
            found.append(np.nanmax(scaled[known], axis=1))
    return found
