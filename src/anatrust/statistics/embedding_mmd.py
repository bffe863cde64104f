"""MMD² by mean embeddings: k(u, v) ≈ z(u)·z(v), so a sample is summed up by Σz and Σ‖z‖².

Used where thousands of samples are compared (all places of an image): sums of z over any
shape come from an FFT or a summed table, and `mmd2_from_embedding_sums` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.kernels import Kernel, as_points
from anatrust.statistics.mmd import mmd2_from_sums

__all__ = [
    "Embedding",
    "EmbeddingMethod",
    "embed",
    "embedding_statistics",
    "fit_embedding",
    "mmd2_from_embedding_sums",
]

FloatArray = npt.NDArray[np.float64]
EmbeddingMethod = Literal["auto", "eigen", "nystrom", "fourier"]
# An eigendecomposition of 1 024 levels takes about 0.2 s.
_MAX_LEVELS = 1024
# Labels as floats: 16 Mi entries are 128 MiB.
_LABELS_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class Embedding:
    """A fitted map z with z(u)·z(v) ≈ k(u, v); call it on features to get their vectors.

    Attributes
    ----------
    kernel
        The kernel that is approximated.
    method
        ``"eigen"``, ``"nystrom"`` or ``"fourier"``.
    rank
        Length of a vector.
    error
        Largest |z(u)·z(v) − k(u, v)|: over all pairs of levels for ``"eigen"`` (so it bounds
        every pair), else over pairs of at most 500 points of the pool.
    """

    kernel: Kernel
    method: str
    rank: int
    error: float
    # Landmarks and the matrix that whitens them, or the frequencies of the Fourier features.
    _anchors: FloatArray
    _basis: FloatArray | None = None
    _table: FloatArray | None = None

    def __call__(self, features: npt.ArrayLike) -> FloatArray:
        """Vectors of features, shape ``(n, rank)``, float64; features as in the fit, same d."""
        points = as_points(features)
        d = self._anchors.shape[1] if self._basis is not None else self._anchors.shape[0]
        if points.shape[1] != d:
            raise InputError(f"the embedding was fitted to {d} feature columns, not {points.shape[1]}")
        if self._basis is None:
            phase = points @ self._anchors
            waves = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
            return np.asarray(waves / np.sqrt(self._anchors.shape[1]))
        if self._table is None:
            return self.kernel.matrix(points, self._anchors) @ self._basis
        levels = self._anchors[:, 0]
        code = np.searchsorted(levels, points[:, 0]).clip(max=len(levels) - 1)
        vectors: FloatArray = self._table[code]
        unseen = levels[code] != points[:, 0]
        if unseen.any():
            vectors[unseen] = self.kernel.matrix(points[unseen], self._anchors) @ self._basis
        return vectors


def fit_embedding(
    pool: npt.ArrayLike,
    kernel: Kernel,
    *,
    method: EmbeddingMethod = "auto",
    rank: int | None = None,
    tolerance: float = 1e-9,
    seed: int = 0,
) -> Embedding:
    """Fit the map z to a label-blind pool.

    Parameters
    ----------
    pool
        Features, ``(n,)`` or ``(n, d)``, finite, n ≥ 1. The fit does not depend on their order.
    kernel
        The kernel to approximate.
    method
        ``"eigen"``: 1-D features of at most 1 024 different values (a graded image has 256):
        eigendecomposition of the kernel matrix of the levels, exact up to ``tolerance``.
        ``"nystrom"``: the same with ``rank`` landmarks among the points, any d.
        ``"fourier"``: ``rank`` / 2 random frequencies, cosine and sine of each, so that
        z(u)·z(u) = 1 exactly; independent of the pool.
        ``"auto"``: eigen where it applies, else Nyström.
    rank
        Longest vector allowed. Default: as long as ``tolerance`` needs (eigen), 256 (others).
    tolerance
        Eigenvalues below ``tolerance`` times the largest are dropped. A Gaussian kernel at
        the median bandwidth needs about 15 of 256; a Laplacian kernel needs nearly all.
    seed
        Seed of landmarks and frequencies.

    Raises
    ------
    InputError
        If the pool is empty or not finite, the rank not positive, or ``"eigen"`` impossible.

    Examples
    --------
    >>> z = fit_embedding(np.arange(256.0), Kernel("gaussian", 85.0))
    >>> z.method, z.rank < 20, z.error < 1e-7
    ('eigen', True, True)

    Guarantee
    ---------
    Any embedding fitted to a label-blind pool keeps a permutation test exact: observed and
    null statistics use the same approximate kernel. Only power depends on ``error``.

    References
    ----------
    Williams & Seeger, NIPS 2000 (Nyström); Rahimi & Recht, NIPS 2007 (Fourier features; the
    frequencies of the Laplacian kernel of the Euclidean norm are multivariate Cauchy).
    """
    points = as_points(pool)
    if len(points) == 0 or not np.isfinite(points).all():
        raise InputError("an embedding needs a pool of finite features: remove NaN and infinite values first")
    if rank is not None and rank < 1:
        raise InputError(f"the rank of an embedding must be at least 1, not {rank}")
    levels = np.unique(points[:, 0])[:, None] if points.shape[1] == 1 else None
    graded = levels is not None and len(levels) <= _MAX_LEVELS
    if method == "eigen" and not graded:
        raise InputError(f"the eigen embedding needs 1-D features of at most {_MAX_LEVELS} values: use 'nystrom'")
    rng = np.random.default_rng(seed)
    if method == "fourier":
        return _fourier(points, kernel, rank or 256, rng)
    if method not in ("auto", "eigen", "nystrom"):
        raise InputError(f"no embedding is called '{method}': choose auto, eigen, nystrom or fourier")
    if levels is not None and graded and method != "nystrom":
        return _landmarks(levels, levels, kernel, "eigen", rank, tolerance)
    order = np.argsort(points @ rng.standard_normal(points.shape[1]), kind="stable")
    chosen = order[np.sort(rng.choice(len(points), min(len(points), rank or 256), replace=False))]
    return _landmarks(np.unique(points[chosen], axis=0), points[order], kernel, "nystrom", rank, tolerance)


def _landmarks(
    anchors: FloatArray, points: FloatArray, kernel: Kernel, method: str, rank: int | None, tolerance: float
) -> Embedding:
    """Embedding through the eigenvectors of the landmarks' kernel matrix."""
    values, vectors = np.linalg.eigh(kernel.matrix(anchors))
    keep = np.flatnonzero(values > tolerance * values[-1])[::-1][:rank]
    # The sign of an eigenvector is arbitrary; fixing it makes results the same on every machine.
    sign = np.where(vectors[np.abs(vectors[:, keep]).argmax(axis=0), keep] < 0, -1.0, 1.0)
    basis = vectors[:, keep] * (sign / np.sqrt(values[keep]))
    table = vectors[:, keep] * (sign * np.sqrt(values[keep])) if method == "eigen" else None
    fitted = Embedding(kernel, method, len(keep), 0.0, anchors, basis, table)
    return _with_error(fitted, points if method == "nystrom" else anchors)


def _fourier(points: FloatArray, kernel: Kernel, rank: int, rng: np.random.Generator) -> Embedding:
    count, d = max(1, rank // 2), points.shape[1]
    frequencies = rng.standard_normal((d, count)) / kernel.bandwidth
    if kernel.family == "laplacian":
        frequencies /= np.abs(rng.standard_normal(count))
    return _with_error(Embedding(kernel, "fourier", 2 * count, 0.0, frequencies), points)


def _with_error(fitted: Embedding, points: FloatArray) -> Embedding:
    """The same embedding with its error measured."""
    if fitted.method != "eigen":
        points = points[np.linspace(0, len(points) - 1, min(len(points), 500)).round().astype(np.intp)]
    vectors = fitted(points)
    error = float(np.abs(vectors @ vectors.T - fitted.kernel.matrix(points)).max())
    return Embedding(fitted.kernel, fitted.method, fitted.rank, error, fitted._anchors, fitted._basis, fitted._table)


def embed(
    features: npt.ArrayLike,
    kernel: Kernel,
    *,
    method: EmbeddingMethod = "auto",
    rank: int | None = None,
    tolerance: float = 1e-9,
    seed: int = 0,
) -> FloatArray:
    """Vectors z with z_i·z_j ≈ k(x_i, x_j): `fit_embedding` on the features, applied to them.

    Parameters
    ----------
    features, kernel, method, rank, tolerance, seed
        As for `fit_embedding`.

    Returns
    -------
    ndarray of float64
        Shape ``(n, rank)``; ``rank`` is whatever the fit needed.

    Examples
    --------
    >>> x = np.array([0.0, 0.0, 3.0])
    >>> z = embed(x, Kernel("gaussian", 2.0))
    >>> np.allclose(z @ z.T, Kernel("gaussian", 2.0).matrix(x))
    True
    """
    return fit_embedding(features, kernel, method=method, rank=rank, tolerance=tolerance, seed=seed)(features)


def mmd2_from_embedding_sums(
    sum_x: FloatArray,
    norms_x: npt.ArrayLike,
    m: npt.ArrayLike,
    sum_pool: FloatArray,
    norms_pool: npt.ArrayLike,
    pool_size: npt.ArrayLike,
) -> FloatArray:
    """Unbiased MMD² of samples against the rest of their pool, from sums of embedded points.

    Parameters
    ----------
    sum_x
        Σ z over each sample, shape ``(..., rank)``.
    norms_x
        Σ ‖z‖² over each sample, shape ``(...)`` (for Fourier features this is m).
    m
        Sizes of the samples, shape ``(...)`` or a scalar.
    sum_pool, norms_pool, pool_size
        The same for the pool, *which contains the sample*; the second sample is the rest.

    Returns
    -------
    ndarray of float64
        Shape ``(...)``; +inf where a sample has fewer than 2 points.

    Examples
    --------
    >>> kernel = Kernel("gaussian", 1.0)
    >>> x, y = np.array([0.0, 0.5, 0.2]), np.array([1.0, 1.5, 0.9, 2.0])
    >>> z = embed(np.concatenate([x, y]), kernel)
    >>> sq = (z**2).sum(axis=1)
    >>> fast = mmd2_from_embedding_sums(z[:3].sum(axis=0), sq[:3].sum(), 3, z.sum(axis=0), sq.sum(), 7)
    >>> from anatrust.statistics.mmd import mmd2_unbiased
    >>> abs(float(fast) - mmd2_unbiased(x, y, kernel)) < 1e-9
    True
    """
    m, pool_size = np.asarray(m, dtype=np.float64), np.asarray(pool_size, dtype=np.float64)
    sum_pool, norms_x = np.asarray(sum_pool, dtype=np.float64), np.asarray(norms_x, dtype=np.float64)
    within = np.einsum("...r,...r->...", sum_x, sum_x) - norms_x
    crossing = np.einsum("...r,...r->...", sum_x, sum_pool) - norms_x
    total = np.einsum("...r,...r->...", sum_pool, sum_pool) - np.asarray(norms_pool, dtype=np.float64)
    return mmd2_from_sums(within, crossing, total, m, pool_size - m)


def embedding_statistics(vectors: FloatArray, labels: npt.NDArray[np.uint8]) -> FloatArray:
    """MMD² of many labellings of one embedded pool.

    Parameters
    ----------
    vectors
        Embedded pool, shape ``(N, rank)``.
    labels
        0/1, shape ``(D, N)``: each row marks the first sample of one draw.

    Returns
    -------
    ndarray of float64
        Shape ``(D,)``. Cost: one product of a ``(D, N)`` with an ``(N, rank)`` matrix.

    Examples
    --------
    >>> z = embed([0.0, 0.1, 5.0, 5.1], Kernel("gaussian", 1.0))
    >>> embedding_statistics(z, np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=np.uint8)).round(2)
    array([ 1.99, -1.  ])
    """
    # MMD² does not see a shift of all vectors; without their mean little is left to cancel.
    centred = vectors - vectors.mean(axis=0)
    norms = np.einsum("ij,ij->i", centred, centred)
    sums, squares, sizes = np.empty((len(labels), centred.shape[1])), np.empty(len(labels)), np.empty(len(labels))
    rows = max(1, _LABELS_AT_ONCE // len(centred))
    for start in range(0, len(labels), rows):
        part = slice(start, start + rows)
        weights = labels[part].astype(np.float64)
        sums[part], squares[part], sizes[part] = weights @ centred, weights @ norms, weights.sum(axis=1)
    return mmd2_from_embedding_sums(sums, squares, sizes, centred.sum(axis=0), float(norms.sum()), len(centred))
