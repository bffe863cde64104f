"""Small monotone quantile regressions that fit into a profile as a handful of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["LinearQuantile", "fit_quantile"]

_LEAST_ROWS = 12
_PENALTY = 0.2


@dataclass(frozen=True)
class LinearQuantile:
    """``intercept + coefficients · evidence``, cut to the range seen when it was learnt.

    Outside that range a line would promise what nobody measured.
    """

    intercept: float
    coefficients: tuple[float, ...]
    lowest: float
    highest: float

    def predict(self, evidence: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Quantiles ``(...)`` of evidence ``(..., d)``."""
        rows = np.asarray(evidence, dtype=np.float64)
        line = self.intercept + rows @ np.array(self.coefficients, dtype=np.float64)
        result: npt.NDArray[np.float64] = np.clip(line, self.lowest, self.highest)
        return result

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "intercept": self.intercept,
            "coefficients": list(self.coefficients),
            "lowest": self.lowest,
            "highest": self.highest,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> LinearQuantile:
        """The one :meth:`to_json` wrote."""
        coefficients = tuple(float(v) for v in plain["coefficients"])
        return cls(float(plain["intercept"]), coefficients, float(plain["lowest"]), float(plain["highest"]))


def fit_quantile(
    evidence: npt.ArrayLike,
    target: npt.ArrayLike,
    level: float,
    *,
    weights: npt.ArrayLike | None = None,
    directions: Sequence[int] | None = None,
) -> LinearQuantile:
    """Linear quantile regression in which evidence works in the stated direction or not at all.

    Parameters
    ----------
    evidence
        ``(n, d)`` finite numbers.
    target
        ``(n,)`` finite numbers.
    level
        Quantile in (0, 1).
    weights
        Of the rows; equal if None.
    directions
        +1 where more evidence can only mean a larger target, -1 a smaller one, 0 either. Evidence whose
        coefficient comes out against it is left out and the others are fitted again.

    Returns
    -------
    LinearQuantile
        A constant, the weighted quantile, from fewer than 12 rows.

    Raises
    ------
    InputError
        If shapes do not fit, there is no row, or a value is not finite.

    Notes
    -----
    Pinball loss with an L1 penalty of ``0.2 / sqrt(n)`` on standardised evidence and targets of unit deviation
    (scikit-learn's ``QuantileRegressor``): evidence that says nothing gets no coefficient, whatever n.

    Examples
    --------
    >>> x = np.linspace(0, 1, 40)[:, None]
    >>> found = fit_quantile(x, 2 * x.ravel(), 0.5)
    >>> round(float(found.predict([0.5])), 1)
    1.0
    >>> fit_quantile(x, 2 * x.ravel(), 0.5, directions=[-1]).coefficients
    (0.0,)
    """
    rows, values = np.asarray(evidence, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if rows.ndim != 2 or values.shape != rows.shape[:1] or values.size == 0:
        raise InputError(f"evidence of shape {rows.shape} and targets of {values.shape} do not make a regression")
    mass = np.ones(values.size) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(rows).all() and np.isfinite(values).all()) or mass.shape != values.shape or not 0 < level < 1:
        raise InputError("a quantile regression needs finite numbers, a weight a row and a level in (0, 1)")
    wanted = np.zeros(rows.shape[1], dtype=int) if directions is None else np.asarray(directions, dtype=int)
    coefficients, intercept = np.zeros(rows.shape[1]), _quantile(values, mass, level)
    centre, scale = rows.mean(axis=0), rows.std(axis=0)
    used = np.flatnonzero(scale > 1e-9) if values.size >= _LEAST_ROWS else np.array([], dtype=int)
    while used.size:
        from sklearn.linear_model import QuantileRegressor

        spread = max(float(values.std()), 1e-12)  # the penalty is meant on one scale
        model = QuantileRegressor(quantile=level, alpha=_PENALTY / np.sqrt(values.size), solver="highs")
        model.fit((rows[:, used] - centre[used]) / scale[used], values / spread, sample_weight=mass)
        against = model.coef_ * wanted[used] < 0
        if not against.any():
            coefficients[used] = model.coef_ * spread / scale[used]
            intercept = float(model.intercept_ * spread - coefficients @ centre)
            break
        used = used[~against]
    fitted = intercept + rows @ coefficients
    return LinearQuantile(float(intercept), tuple(coefficients.tolist()), float(fitted.min()), float(fitted.max()))


def _quantile(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], level: float) -> float:
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(share, level - 1e-12)), values.size - 1)])
