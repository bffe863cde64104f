"""MMD² of a shape at many places of a tissue, by level counts or by Fourier features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numba
import numpy as np
import numpy.typing as npt

from anatrust.statistics.embedding_mmd import Embedding, fit_embedding, mmd2_from_embedding_sums
from anatrust.statistics.kernels import Kernel
from anatrust.statistics.mmd import mmd2_from_sums
from anatrust.statistics.places import Shape, TissueField

__all__ = ["Placed", "fourier_statistics", "histogram_statistics"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MAX_LEVELS = 1024
_LEVELS = 256
# Fourier features: blocks small enough that the table of a whole liver stays near 50 MB.
_BLOCK = 32
_BLOCKS = 4
_CHUNK = 65_536
_THREADS = 4


@dataclass(frozen=True, eq=False)
class Placed:
    """A shape and the places where its statistic is wanted.

    Attributes
    ----------
    shape
        The candidate's shape.
    anchors
        Flat indices of all places, the candidate's own first.
    left_out
        Part of the domain that is not part of this candidate's tissue, or None.
    n
        Voxels of its tissue without the shape.
    """

    shape: Shape
    anchors: IntArray
    left_out: Shape | None
    n: int


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _histograms(
    codes: npt.NDArray[np.uint16], anchors: IntArray, offsets: IntArray, lengths: IntArray, levels: int
) -> npt.NDArray[np.float64]:
    """Histogram of the codes under the shape at each anchor."""
    counts = np.zeros((anchors.size, levels))
    for i in range(anchors.size):
        for run in range(offsets.size):
            start = anchors[i] + offsets[run]
            for j in range(start, start + lengths[run]):
                counts[i, codes[j]] += 1.0
    return counts


def histogram_statistics(
    whole: TissueField, trials: Sequence[Placed], kernels: tuple[Kernel, ...], seed: int
) -> list[FloatArray]:
    """MMD² of every place of every trial from level counts.

    Parameters
    ----------
    whole
        A domain with one feature. Up to 1 024 different values are taken as they are, more are
        graded to 256 levels between the 0.1 and 99.9 percentiles.
    trials
        Shapes and places.
    kernels
        Kernels; one row of the result each.
    seed
        Passed to the embedding; changes nothing here.

    Returns
    -------
    list of ndarray
        For each trial ``(kernels, places)``: exact for the graded values to 1e-10.
    """
    values = whole.values[:, 0]
    levels = np.unique(values)
    if levels.size <= _MAX_LEVELS:
        inverse = np.searchsorted(levels, values)
    else:
        low, high = np.quantile(values, (0.001, 0.999))
        step = (high - low) / (_LEVELS - 1) if high > low else 1.0
        inverse = np.clip(np.rint((values - low) / step), 0, _LEVELS - 1).astype(np.int64)
        levels = low + step * np.arange(_LEVELS)
    codes = np.zeros(whole.domain.size, dtype=np.uint16)
    codes[whole.domain.reshape(-1)] = inverse
    everywhere = np.bincount(inverse, minlength=levels.size).astype(np.float64)
    tables = []
    for kernel in kernels:
        table = fit_embedding(levels, kernel, tolerance=1e-11, seed=seed)(levels)
        # MMD² does not see a shift of the embedding; without its mean little is left to cancel.
        tables.append(table - everywhere @ table / everywhere.sum())
    # All kernels in one product; the last columns sum the squared norms.
    joint = np.concatenate([*tables, np.stack([(table**2).sum(axis=1) for table in tables], axis=1)], axis=1)
    edges = np.cumsum([0, *(table.shape[1] for table in tables)])

    def one(trial: Placed) -> FloatArray:
        shape, gone = trial.shape, trial.left_out
        counts = _histograms(codes, trial.anchors, shape.offsets, shape.lengths, levels.size)
        pool = everywhere
        if gone is not None:
            pool = pool - _histograms(codes, np.array([gone.anchor]), gone.offsets, gone.lengths, levels.size)[0]
        sums, total, size = counts @ joint, pool @ joint, trial.n + shape.size
        statistics = np.empty((len(kernels), len(counts)))
        for k in range(len(kernels)):
            columns, norms = slice(edges[k], edges[k + 1]), edges[-1] + k
            statistics[k] = mmd2_from_embedding_sums(
                sums[:, columns], sums[:, norms], shape.size, total[columns], total[norms], size
            )
        return statistics

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(one, trials))


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[misc, unused-ignore]
def _run_sums(
    prefix: npt.NDArray[np.float32],
    where: npt.NDArray[np.int32],
    anchors: IntArray,
    offsets: IntArray,
    lengths: IntArray,
) -> npt.NDArray[np.float32]:
    """Sum of the embedding under the shape at each anchor, run by run from prefix sums along rows."""
    width = prefix.shape[1]
    sums = np.zeros((anchors.size, width), dtype=np.float32)
    for i in range(anchors.size):
        for run in range(offsets.size):
            start = where[anchors[i] + offsets[run]]
            end = start + lengths[run]
            for j in range(width):
                sums[i, j] += prefix[end, j] - prefix[start, j]
    return sums


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _accumulate(prefix: npt.NDArray[np.float32], restarts: npt.NDArray[np.bool_]) -> None:
    """Turn rows of values into running sums in place; a restart holds the zero before a new row."""
    for i in range(prefix.shape[0]):
        for j in range(prefix.shape[1]):
            if restarts[i]:
                prefix[i, j] = 0.0
            else:
                prefix[i, j] += prefix[i - 1, j]


def fourier_statistics(
    whole: TissueField, trials: Sequence[Placed], kernels: tuple[Kernel, ...], seed: int
) -> list[FloatArray]:
    """MMD² of every place of every trial by random Fourier features, a block of them at a time.

    Parameters
    ----------
    whole
        A domain with any number of features.
    trials, kernels
        As for `histogram_statistics`.
    seed
        Seed of the frequencies.

    Returns
    -------
    list of ndarray
        For each trial ``(kernels, places)``. The kernel is approximated by 64 frequencies, the
        same for all places.
    """
    voxels = np.flatnonzero(whole.domain.reshape(-1))
    row = voxels // whole.domain.shape[2]
    # One zero before each row, so that a run's sum never reaches into another row and stays accurate.
    slot = np.arange(voxels.size) + np.cumsum(np.diff(row, prepend=-1) != 0)
    restarts = np.ones(int(slot[-1]) + 1, dtype=bool)
    restarts[slot] = False
    where = np.zeros(whole.domain.size, dtype=np.int32)
    where[voxels] = slot - 1
    prefix = np.zeros((restarts.size, _BLOCK), dtype=np.float32)
    sums = [np.zeros((len(kernels), 3, trial.anchors.size)) for trial in trials]
    row_ends = np.append(np.flatnonzero(np.diff(slot) != 1), slot.size - 1)

    def fill(start: int, embedding: Embedding) -> FloatArray:
        part = slice(start, start + _CHUNK)
        vectors = embedding(whole.values[part]) / np.sqrt(_BLOCKS)
        prefix[slot[part]] = vectors
        return np.asarray(vectors.sum(axis=0))

    # Each thread writes its own rows or its own trial, so the result does not depend on their number.
    with ThreadPoolExecutor(_THREADS) as threads:
        for k, kernel in enumerate(kernels):
            for block in range(_BLOCKS):
                own = int(np.random.SeedSequence([seed, k, block]).generate_state(1)[0])
                # Fourier features do not depend on the pool; one point tells the number of columns.
                embedding = fit_embedding(whole.values[:1], kernel, method="fourier", rank=_BLOCK, seed=own)
                starts = range(0, len(voxels), _CHUNK)
                means = np.sum(list(threads.map(partial(fill, embedding=embedding), starts)), axis=0) / len(voxels)
                mean = means.astype(np.float32)
                prefix -= mean
                _accumulate(prefix, restarts)
                everywhere = prefix[slot[row_ends]].sum(axis=0, dtype=np.float64)
                add = partial(_block_sums, prefix, where, everywhere, mean.astype(np.float64))
                for s, more in zip(sums, threads.map(add, trials), strict=True):
                    s[k] += more
    return [
        mmd2_from_sums(s[:, 0], s[:, 1], s[:, 2], trial.shape.size, trial.n)
        for s, trial in zip(sums, trials, strict=True)
    ]


def _block_sums(
    prefix: npt.NDArray[np.float32],
    where: npt.NDArray[np.int32],
    everywhere: FloatArray,
    mean: FloatArray,
    trial: Placed,
) -> FloatArray:
    """What one block of features adds to wᵀKw, wᵀr and 1ᵀr (see `mmd2_from_sums`) at each place: ``(3, places)``."""

    def norms(total: FloatArray, count: int) -> FloatArray:
        # Σ‖z − mean‖² from Σ‖z‖² = count / blocks and the sum of z − mean.
        return np.asarray(count / _BLOCKS - 2.0 * (total @ mean) - count * (mean @ mean))

    shape, gone = trial.shape, trial.left_out
    pool, size = everywhere, trial.n + shape.size
    if gone is not None:
        pool = pool - _run_sums(prefix, where, np.array([gone.anchor]), gone.offsets, gone.lengths)[0]
    placed = _run_sums(prefix, where, trial.anchors, shape.offsets, shape.lengths).astype(np.float64)
    own = norms(placed, shape.size)
    within = np.einsum("ij,ij->i", placed, placed) - own
    return np.stack([within, placed @ pool - own, np.full_like(own, pool @ pool - norms(pool, size))])
