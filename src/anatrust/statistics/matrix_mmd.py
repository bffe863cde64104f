"""MMD² of vector features for many labellings at once, from the kernel matrix in tiles.

All permutations are columns of one matrix product. Only the lower triangle of the kernel
matrix is computed, a block row at a time, and never stored; NumPy and torch (any device)
run the same code. A small first sample is cheaper by gathering its own m × m entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.statistics.array_backend import is_torch, like, namespace, to_numpy
from anatrust.statistics.kernels import Kernel
from anatrust.statistics.mmd import mmd2_from_sums

__all__ = ["Precision", "matrix_statistics"]

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.uint8]
Precision = Literal["auto", "single", "double"]

# 512 rows: a tile of the kernel matrix stays in the second-level cache (measured 256 to 2 000).
_TILE = 512
_INNER = 2048
# Below this pool size double precision costs next to nothing.
_DOUBLE_UP_TO = 1024
# Single-precision distances lose (‖x‖/σ)² × 6e-8; above this they are formed in double precision.
_SINGLE_UP_TO_RATIO = 1e3
_DOUBLE_DISTANCES_UP_TO = 4
# Points from which the mean kernel value is estimated before it is subtracted.
_LEVEL_POINTS = 64
# The gathered form stores the whole kernel matrix: 16 384² float32 are 1 GiB.
_GATHER_UP_TO = 16384
# Measured: 4 200 points, 1 000 draws; at a first sample of 1/20 of the pool both forms take the same time.
_GATHER_BELOW = 20
# Labels as floats: 64 Mi entries are 256 MiB in single precision.
_LABELS_AT_ONCE = 1 << 26


def matrix_statistics(
    pool: Any,
    labels: LabelArray,
    kernels: Sequence[Kernel],
    *,
    precision: Precision = "auto",
    gather: bool | None = None,
) -> FloatArray:
    """Unbiased MMD² of many labellings of one pool.

    Parameters
    ----------
    pool
        Finite features of all points, ``(N,)`` or ``(N, d)``; NumPy array or torch tensor (CPU
        or CUDA; the products then run on its device).
    labels
        0/1, shape ``(D, N)``: each row marks the first sample of one draw.
    kernels
        L kernels.
    precision
        ``"single"`` computes kernel values and products in float32 (sums over tiles in
        float64), ``"double"`` all in float64, ``"auto"`` double up to 1 024 points.
    gather
        Whether to gather the m × m entries of each first sample (numba, NumPy only) instead
        of multiplying. Default: where every row marks the same m < N/20 points and the matrix
        fits in 1 GiB.

    Returns
    -------
    ndarray of float64
        Shape ``(L, D)``; +inf where a sample has fewer than 2 points.

    Examples
    --------
    >>> x = np.array([0.0, 0.1, 5.0, 5.1])
    >>> labels = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=np.uint8)
    >>> matrix_statistics(x, labels, [Kernel("gaussian", 1.0)]).round(2)
    array([[ 1.99, -1.  ]])

    Guarantee
    ---------
    Equal to `mmd2_unbiased` up to rounding: about 1e-5 null standard deviations in single
    precision, 1e-12 in double. Observed and permuted labellings go through the same
    operations, so a permutation test keeps its exact level.

    References
    ----------
    The labels are centred (w − m/N), which equals the U-centring of the kernel matrix
    (Székely & Rizzo, Annals of Statistics 42, 2014) without a pass over it: MMD² does not
    change when a_i + a_j is added off the diagonal. Cost: N²/2 kernel values and N² D
    multiply-adds per kernel; memory O(N (D + 512)).
    """
    xp = namespace(pool)
    points = pool.detach() if is_torch(pool) else np.asarray(pool)
    points = points[:, None] if points.ndim == 1 else points
    size = points.shape[0]
    double = precision == "double" or (precision == "auto" and size <= _DOUBLE_UP_TO)
    sizes = labels.sum(axis=1, dtype=np.int64)
    small = int(sizes[0])
    if gather is None:
        gather = bool(
            not is_torch(pool)
            and (sizes == small).all()
            and small * _GATHER_BELOW < size <= _GATHER_UP_TO
            and not double
        )
    tiles = _Tiles(xp, points, kernels, xp.float64 if double else xp.float32)
    if gather:
        return _gathered(tiles, labels, sizes)
    rows = max(1, _LABELS_AT_ONCE // size)
    parts = [_multiplied(tiles, labels[i : i + rows]) for i in range(0, len(labels), rows)]
    return np.concatenate(parts, axis=1)


class _Tiles:
    """Block rows of the kernel matrices of a pool."""

    def __init__(self, xp: Any, points: Any, kernels: Sequence[Kernel], dtype: Any) -> None:
        self.xp, self.kernels, self.dtype, self.size = xp, kernels, dtype, points.shape[0]
        self.memory: dict[str, Any] = {}
        points = self._cast(points, xp.float64)
        points = points - points.mean(axis=0)
        halves = (points * points).sum(axis=1) / 2
        narrowest = min(kernel.bandwidth for kernel in kernels)
        wide = 2 * float(halves.max()) > _SINGLE_UP_TO_RATIO * narrowest**2
        # A square root turns a rounding of 1e-7 near 0 into 3e-4, and few columns cost nothing.
        rooted = any(kernel.family == "laplacian" for kernel in kernels)
        self.inner = xp.float64 if wide or rooted or points.shape[1] <= _DOUBLE_DISTANCES_UP_TO else dtype
        one = xp.ones_like(halves)
        # left_i · right_j = x_i·x_j − ‖x_i‖²/2 − ‖x_j‖²/2 = −‖x_i − x_j‖²/2, in one product.
        columns = [points, -halves[:, None], one[:, None]]
        self.left = self._cast(xp.concatenate(columns, axis=1), self.inner)
        self.right = self._cast(xp.concatenate([points, one[:, None], -halves[:, None]], axis=1), self.inner)
        step = max(1, self.size // _LEVEL_POINTS)
        sample = self._cast(xp.matmul(self.left[::step], self.right[::step].T), dtype)
        self.levels = [float(self._values(kernel, sample).mean()) for kernel in kernels]

    def _cast(self, array: Any, dtype: Any) -> Any:
        return array.astype(dtype, copy=False) if self.xp is np else array.to(dtype)

    def exponents(self, start: int, stop: int, until: int) -> Any:
        """−½ squared distances of points start..stop to points 0..until, up to rounding."""
        out = self._scratch("inner", self.inner, stop - start, until)
        product = self.xp.matmul(self.left[start:stop], self.right[:until].T, out=out)
        return self._cast(product, self.dtype)

    def _scratch(self, name: str, dtype: Any, rows: int, columns: int) -> Any:
        """Memory that is used again for every block; fresh pages would cost as much as the products."""
        if name not in self.memory:
            self.memory[name] = self.xp.empty(_TILE * self.size, dtype=dtype, device=self.left.device)
        return self.memory[name][: rows * columns].reshape(rows, columns)

    def kernel(self, number: int, exponents: Any) -> Any:
        """Kernel values of a block, less their approximate mean: MMD² is the same, sums of them lose less."""
        values = self._values(self.kernels[number], exponents)
        values -= self.levels[number]
        return values

    def _values(self, kernel: Kernel, exponents: Any) -> Any:
        xp = self.xp
        values = self._scratch("values", self.dtype, *exponents.shape)
        if kernel.family == "gaussian":
            xp.multiply(exponents, 1.0 / kernel.bandwidth**2, out=values)
        else:
            xp.multiply(exponents, -2.0 / kernel.bandwidth**2, out=values)
            # Rounding leaves some squared distances of equal points below 0.
            xp.clip(values, 0.0, None, out=values)
            xp.sqrt(values, out=values)
            values *= -1.0
        xp.exp(values, out=values)
        return values


def _multiplied(tiles: _Tiles, labels: LabelArray) -> FloatArray:
    """All labellings by matrix products with the lower triangle."""
    xp, size = tiles.xp, tiles.size
    m = labels.sum(axis=1, dtype=np.int64)
    share = m / size
    dtype = np.float64 if tiles.dtype == xp.float64 else np.float32
    weights = np.ones((len(labels) + 1, size), dtype=dtype)
    np.subtract(labels, share[:, None].astype(dtype), out=weights[:-1])
    # The last row, all ones, yields the row sums of the matrix in the same product.
    weights = like(weights, tiles.left)
    within = np.zeros((len(tiles.kernels), len(labels)))
    crossing, total = np.zeros_like(within), np.zeros(len(tiles.kernels))
    for start in range(0, size, _TILE):
        stop = min(start + _TILE, size)
        exponents = tiles.exponents(start, stop, stop)
        here = weights[:, start:stop]
        for k in range(len(tiles.kernels)):
            block = tiles.kernel(k, exponents)
            square = block[:, start:stop]
            # The square on the diagonal holds both triangles, hence its half; its own diagonal is left out.
            square *= 0.5
            index = xp.arange(stop - start)
            square[index, index] = 0.0
            product = xp.matmul(weights[:, : min(_INNER, stop)], block[:, :_INNER].T)
            for j in range(_INNER, stop, _INNER):
                product += xp.matmul(weights[:, j : min(j + _INNER, stop)], block[:, j : j + _INNER].T)
            sums = product[-1]
            within[k] += 2.0 * to_numpy((product[:-1] * here[:-1]).sum(axis=1))
            crossing[k] += to_numpy(product[:-1].sum(axis=1)) + to_numpy(xp.matmul(here[:-1], sums))
            total[k] += 2.0 * float(sums.sum())
    # Back from centred labels v = w − share: vᵀKv and vᵀr to wᵀKw and wᵀr.
    crossing += share * total[:, None]
    within += 2.0 * share * crossing - share**2 * total[:, None]
    return mmd2_from_sums(within, crossing, total[:, None], m, size - m)


def _gathered(tiles: _Tiles, labels: LabelArray, sizes: npt.NDArray[np.int64]) -> FloatArray:
    """All labellings by summing the entries of each first sample."""
    size, m = tiles.size, int(sizes[0])
    members = np.nonzero(labels)[1].reshape(len(labels), m)
    statistics = np.empty((len(tiles.kernels), len(labels)))
    full = np.empty((size, size), dtype=tiles.dtype)
    for k, out in enumerate(statistics):
        for start in range(0, size, _TILE):
            stop = min(start + _TILE, size)
            full[start:stop] = tiles.kernel(k, tiles.exponents(start, stop, size))
        np.fill_diagonal(full, 0.0)
        row = full.sum(axis=1, dtype=np.float64)
        within = _pair_sums()(full, members)
        out[:] = mmd2_from_sums(within, row[members].sum(axis=1), row.sum(), m, size - m)
    return statistics


def _pair_sums_python(full: npt.NDArray[Any], members: npt.NDArray[np.intp]) -> FloatArray:
    """Σ_{i≠j} K_ij over the members of each draw."""
    draws, m = members.shape
    sums = np.empty(draws)
    for b in range(draws):
        whole = 0.0
        for i in range(m):
            line = full[members[b, i]]
            for j in range(i):
                whole += line[members[b, j]]
        sums[b] = 2.0 * whole
    return sums


@cache
def _pair_sums() -> Callable[[npt.NDArray[Any], npt.NDArray[np.intp]], FloatArray]:
    """The compiled loop; numba is loaded when it is first needed."""
    import numba

    compiled: Callable[[npt.NDArray[Any], npt.NDArray[np.intp]], FloatArray] = numba.njit(cache=True, nogil=True)(
        _pair_sums_python
    )
    return compiled
