"""Scores of grey values that keep how far a value lies beyond the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

__all__ = ["tail_scores"]

FloatArray = npt.NDArray[np.float32]
Quantile = npt.NDArray[np.float64]

# Percentiles at which each half's width and tail are read: low enough that a few lesions do not reach them.
_INNER, _OUTER = 0.65, 0.85
_Z_INNER, _Z_OUTER = float(ndtri(_INNER)), float(ndtri(_OUTER))
# The tail parameter for each ratio of the two quantiles; at 0 the half is normal.
_TAILS = np.linspace(1e-6, 3.0, 601)
_RATIOS = np.expm1(_TAILS * _Z_OUTER) / np.expm1(_TAILS * _Z_INNER)


def tail_scores(
    values: FloatArray, reference: FloatArray | None = None, *, left_out: tuple[float, float] = (0.0, 0.0)
) -> FloatArray:
    """Normal scores by a marginal whose tails are extrapolated.

    Ranks forget how far the strangest value lies beyond the next: in a tissue of few independent
    patches one of them is always the brightest, so ranks alone can show nothing. Here each half
    of the marginal, below and above the median, is taken to be a shifted lognormal whose width
    and tail are read off at its 65th and 85th percentiles, counted from the far side; its tail
    is never taken to be lighter than the normal one.

    Parameters
    ----------
    values
        ``(..., n)``, n ≥ 1, of the whole tissue; each row is scored by itself.
    reference
        ``(..., m)`` values from which the marginal is taken; None: all.
    left_out
        Shares of the lowest and of the highest reference values that are left out as well.

    Returns
    -------
    ndarray of float32
        ``(..., n)``: 0 at the median, about standard normal where the tissue is as assumed, and unchanged
        when all values are scaled or shifted. O(n).

    References
    ----------
    Hoaglin, Summarizing shape numerically: the g-and-h distributions (1985) (the lognormal half
    is its g distribution, fitted by quantiles).

    Examples
    --------
    >>> ladder = ndtri((np.arange(999) + 0.5) / 999).astype(np.float32)
    >>> bool(np.abs(tail_scores(5 + 2 * ladder) - ladder).max() < 0.05)
    True
    >>> bool(np.abs(tail_scores(np.exp(ladder)) - ladder)[ladder > 0].max() < 0.05)
    True
    """
    ranks = left_out[0] + np.array([1 - _OUTER, 1 - _INNER, 0.5, _INNER, _OUTER]) * (1 - sum(left_out))
    found = np.quantile(values if reference is None else reference, ranks, axis=-1)
    low, lower, middle, upper, high = np.asarray(found, dtype=np.float64)[..., None]
    away = values - middle.astype(np.float32)
    above = _half(np.maximum(away, 0), upper - middle, high - middle)
    below = _half(np.maximum(-away, 0), middle - lower, middle - low)
    return np.asarray(above - below, dtype=np.float32)


def _half(away: FloatArray, inner: Quantile, outer: Quantile) -> FloatArray:
    """Scores of distances from the median, given the two quantiles of that half; 0 where it has no width."""
    wide = np.where(outer > 0, outer, 1.0)
    tail = np.interp(wide / np.maximum(inner, 1e-9 * wide), _RATIOS, _TAILS)
    width = wide * tail / np.expm1(tail * _Z_OUTER)
    scores = np.log1p(away * (tail / width).astype(np.float32)) / tail.astype(np.float32)
    return np.asarray(np.where(outer > 0, scores, 0), dtype=np.float32)
