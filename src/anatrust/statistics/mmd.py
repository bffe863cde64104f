"""The unbiased squared maximum mean discrepancy: its definition and its sums.

The fast engines live in `histogram_mmd`, `matrix_mmd` and `embedding_mmd`; all of them end
in `mmd2_from_sums`, and all of them are tested against `mmd2_unbiased`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.kernels import Kernel, as_points

__all__ = ["mmd2_from_sums", "mmd2_unbiased"]

FloatArray = npt.NDArray[np.float64]
_TILE = 1024


def mmd2_unbiased(x: npt.ArrayLike, y: npt.ArrayLike, kernel: Kernel) -> float:
    """Unbiased MMD² of two samples by its definition, in float64.

    1/(m(m−1)) Σ_{i≠i'} k(x_i, x_i') + 1/(n(n−1)) Σ_{j≠j'} k(y_j, y_j') − 2/(mn) Σ_{ij} k(x_i, y_j)

    Parameters
    ----------
    x, y
        Features, ``(m,)`` and ``(n,)``, or ``(m, d)`` and ``(n, d)``; m, n ≥ 2.
    kernel
        A kernel; its bandwidth in the unit of the features.

    Returns
    -------
    float
        The estimate; unbiased for MMD² ≥ 0, hence below 0 about half of the time when the
        samples come from one distribution.

    Raises
    ------
    InputError
        If a sample has fewer than 2 points.

    Examples
    --------
    >>> round(mmd2_unbiased([0.0, 0.1, 0.2], [1.0, 1.1, 1.2], Kernel("gaussian", 0.5)), 4)
    1.6304

    Guarantee
    ---------
    E[result] = MMD²(P, Q) for independent samples. Time O((m+n)² d), memory O(m+n) tiles: use
    an engine for anything but checking.

    References
    ----------
    Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), equation 3.
    """
    a, b = as_points(x), as_points(y)
    if min(len(a), len(b)) < 2:
        raise InputError(f"the unbiased MMD² needs 2 points in each sample, not {len(a)} and {len(b)}")
    m, n = len(a), len(b)
    # k(u, u) = 1, so the diagonal of a Gram matrix sums to its size.
    within_x = (_gram_sum(a, a, kernel) - m) / (m * (m - 1))
    within_y = (_gram_sum(b, b, kernel) - n) / (n * (n - 1))
    return float(within_x + within_y - 2.0 * _gram_sum(a, b, kernel) / (m * n))


def _gram_sum(a: FloatArray, b: FloatArray, kernel: Kernel) -> float:
    """Sum of all kernel values, tile by tile."""
    total = 0.0
    for i in range(0, len(a), _TILE):
        for j in range(0, len(b), _TILE):
            total += float(kernel.matrix(a[i : i + _TILE], b[j : j + _TILE]).sum())
    return total


def mmd2_from_sums(
    within: npt.ArrayLike, crossing: npt.ArrayLike, total: npt.ArrayLike, m: npt.ArrayLike, n: npt.ArrayLike
) -> FloatArray:
    """Unbiased MMD² of any labelling of a pool, from three sums over its kernel matrix.

    With K the symmetric matrix of the pool with a *zero diagonal*, w the 0/1 vector of the
    first sample and r = K1: ``within`` = wᵀKw, ``crossing`` = wᵀr, ``total`` = 1ᵀr. Hence the
    sum between the samples is wᵀr − wᵀKw, and within the second 1ᵀr − 2wᵀr + wᵀKw.

    Parameters
    ----------
    within, crossing, total
        The sums; scalars or arrays that broadcast.
    m, n
        Sizes of the first and the second sample; scalars or arrays.

    Returns
    -------
    ndarray of float64
        MMD², +inf where a sample has fewer than 2 points: as a null draw that counts as an
        exceedance, which is the safe side.

    Examples
    --------
    >>> float(mmd2_from_sums(within=2.0, crossing=2.0, total=4.0, m=2, n=2))
    2.0

    Guarantee
    ---------
    Algebraically equal to `mmd2_unbiased`, and unchanged when a_i + a_j is added to every
    off-diagonal K_ij.
    """
    within, crossing, total = (np.asarray(v, dtype=np.float64) for v in (within, crossing, total))
    m, n = np.asarray(m, dtype=np.float64), np.asarray(n, dtype=np.float64)
    enough = (m >= 2) & (n >= 2)
    # Sizes below 2 are replaced before dividing; their result is overwritten.
    m, n = np.where(enough, m, 2.0), np.where(enough, n, 2.0)
    value = (
        within / (m * (m - 1)) + (total - 2.0 * crossing + within) / (n * (n - 1)) - 2.0 * (crossing - within) / (m * n)
    )
    return np.where(enough, value, np.inf)
