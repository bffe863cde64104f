"""The front door of the two-sample tests whose null relabels points or blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.aggregation import aggregate, at_least
from anatrust.statistics.array_backend import is_torch, namespace, to_numpy
from anatrust.statistics.embedding_mmd import embedding_statistics, fit_embedding
from anatrust.statistics.histogram_mmd import draw_counts, histogram_statistics
from anatrust.statistics.kernels import Kernel, as_points, median_bandwidth
from anatrust.statistics.label_draws import MIN_BLOCKS, BlockDesign, block_design, block_labels, permuted_labels
from anatrust.statistics.matrix_mmd import Precision, matrix_statistics
from anatrust.statistics.result import VALID_FOR, TestResult

__all__ = ["Engine", "two_sample_test"]

FloatArray = npt.NDArray[np.float64]
Engine = Literal["auto", "histogram", "matrix", "embedding"]

# Above, drawing a count for every level costs more than shuffling the points.
_MAX_LEVELS = 2048
# Above, N² kernel values cost more than the power that an approximate kernel loses.
_MAX_MATRIX_POINTS = 20_000


def two_sample_test(
    x: Any,
    y: Any,
    *,
    null: Literal["iid", "block"] = "iid",
    kernels: Sequence[Kernel] | None = None,
    n_draws: int = 999,
    blocks: npt.ArrayLike | None = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    seed: int = 0,
) -> TestResult:
    """Test whether two samples come from one distribution: unbiased MMD² under relabelling.

    Parameters
    ----------
    x, y
        Features, ``(m,)`` and ``(n,)`` or ``(m, d)`` and ``(n, d)``: NumPy arrays, or torch
        tensors (CPU or CUDA; the matrix engine then computes on their device).
    null
        ``"iid"`` relabels single points, ``"block"`` whole blocks.
    kernels
        Kernels whose statistics are aggregated inside every draw (see `aggregate`).
        Default: one Gaussian kernel at the median distance of the pool.
    n_draws
        Number B ≥ 1 of null draws; p is (1 + #{draws ≥ observed}) / (B + 1).
    blocks
        For ``"block"``: integer block id of every point, x first, shape ``(m + n,)``. Blocks
        should be longer than the correlation length and of about equal size; a block with
        points of both samples is cut into two.
    engine
        ``"histogram"`` (1-D; exact, any number of points), ``"matrix"`` (exact, any d),
        ``"embedding"`` (approximate kernel, still an exact level), or ``"auto"``: histogram
        for 1-D features of at most 2 048 levels and at most a quarter as many levels as points
        (256 are always allowed), matrix up to 20 000 points, else embedding. The engine
        used is named in the result.
    precision
        Of the matrix engine; see `matrix_statistics`.
    seed
        Seed of the draws (and of bandwidth thinning and embeddings).

    Returns
    -------
    TestResult
        ``statistic`` is MMD² for one kernel, the aggregate for several. Degenerate input
        (fewer than 2 points in a sample, NaN or infinite values, all features equal, fewer
        than 20 blocks) gives an abstained result with the reason.

    Raises
    ------
    InputError
        If the *arguments* are wrong: unknown null or engine, no draws, other than 1 or 2 axes,
        different numbers of columns, block ids missing or of another length.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> result = two_sample_test(rng.normal(0, 1, 100), rng.normal(1, 1, 400))
    >>> result.p_value, result.engine
    (0.001, 'matrix')
    >>> two_sample_test([1.0], [1.0, 2.0]).abstained
    'a sample has 1 point: a test needs at least 2'

    Guarantee
    ---------
    ``"iid"``: P(p ≤ t) ≤ t exactly, for every engine and for aggregated kernels, *if the points
    are exchangeable*. Pixels are not: on normal CT organs this null called 35–100 % of normal
    discs different at the 5 % level. ``"block"``: approximate, if blocks are exchangeable.
    Neither holds for places chosen by looking at the image.

    References
    ----------
    Gretton et al., JMLR 13 (2012), equation 3 (statistic); Phipson & Smyth, Stat. Appl.
    Genet. Mol. Biol. 9 (2010) (why p counts the observation itself); Schrab et al., JMLR
    24 (2023) (aggregation). Cost: histogram O(B G²), matrix O(N² B / 2), embedding O(N B R).
    """
    if null not in ("iid", "block"):
        raise InputError(f"this test has no null called '{null}': choose iid or block")
    if engine not in get_args(Engine):
        raise InputError(f"no engine is called '{engine}': choose one of {', '.join(get_args(Engine))}")
    if n_draws < 1:
        raise InputError(f"a test needs at least 1 null draw, not {n_draws}")
    if kernels is not None and not kernels:
        raise InputError("kernels is empty: give at least one, or None for the median bandwidth")
    a, b = as_points(to_numpy(x)), as_points(to_numpy(y))
    if a.shape[1] != b.shape[1]:
        raise InputError(f"samples of {a.shape[1]} and {b.shape[1]} feature columns cannot be compared")
    design = _design(blocks, len(a), len(b)) if null == "block" else None
    reason = _why_not(a, b, design)
    if reason:
        return TestResult.abstain(reason, null=null)
    pool = np.concatenate([a, b])
    levels, codes = np.unique(pool[:, 0], return_inverse=True) if pool.shape[1] == 1 else (None, None)
    if engine == "auto":
        engine = _chosen(len(pool), None if levels is None else len(levels))
    if engine == "histogram" and levels is None:
        raise InputError(f"the histogram engine needs 1-D features, not {pool.shape[1]} columns: use 'matrix'")
    family = kernels or (Kernel("gaussian", median_bandwidth(pool, seed=seed)),)
    rng = np.random.default_rng(seed)
    if engine == "histogram" and levels is not None and codes is not None:
        statistics = _by_histogram(levels, codes, len(a), design, family, n_draws, rng)
    else:
        # MMD² is symmetric; the smaller sample first lets the matrix engine gather.
        swap = design is None and len(b) < len(a)
        order = (y, x) if swap else (x, y)
        if design is None:
            labels = permuted_labels(*((len(b), len(a)) if swap else (len(a), len(b))), n_draws, rng)
        else:
            labels = block_labels(design, n_draws, rng)[:, design.index]
        if engine == "matrix":
            statistics = matrix_statistics(_joined(*order), labels, family, precision=precision)
        else:
            joined = np.concatenate([b, a]) if swap else pool
            vectors = (fit_embedding(joined, kernel, seed=seed)(joined) for kernel in family)
            statistics = np.stack([embedding_statistics(v, labels) for v in vectors])
    scores = aggregate(statistics)
    p = (1 + at_least(scores[1:], float(scores[0]))) / (n_draws + 1)
    floor = 1.0 / (n_draws + 1)
    if design is not None:
        # With few arrangements the observed one itself keeps coming back.
        floor = max(floor, 1.0 / design.arrangements)
        p = max(p, floor)
    return TestResult(float(scores[0]), p, floor, n_draws, null, engine, VALID_FOR[null])


def _design(blocks: npt.ArrayLike | None, m: int, n: int) -> BlockDesign:
    if blocks is None:
        raise InputError("the block null needs a block id for every point: pass blocks")
    ids = to_numpy(blocks)
    if ids.shape != (m + n,):
        raise InputError(f"{m + n} points need {m + n} block ids, not shape {ids.shape}")
    return block_design(ids, m)


def _why_not(a: FloatArray, b: FloatArray, design: BlockDesign | None) -> str | None:
    """Why no test can be made, or None."""
    smaller = min(len(a), len(b))
    if smaller < 2:
        return f"a sample has {smaller} point{'s' * (smaller != 1)}: a test needs at least 2"
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return "the features hold NaN or infinite values"
    if (a == a[0]).all() and (b == a[0]).all():
        return "all features are equal, so the samples cannot be told apart"
    if design is not None and design.count < MIN_BLOCKS:
        return f"there are {design.count} blocks: the block null needs at least {MIN_BLOCKS}"
    return None


def _chosen(points: int, levels: int | None) -> Engine:
    if levels is not None and levels <= min(_MAX_LEVELS, max(256, points // 4)) and levels < points:
        return "histogram"
    return "matrix" if points <= _MAX_MATRIX_POINTS else "embedding"


def _by_histogram(
    levels: FloatArray,
    codes: npt.NDArray[np.intp],
    m: int,
    design: BlockDesign | None,
    kernels: Sequence[Kernel],
    n_draws: int,
    rng: np.random.Generator,
) -> FloatArray:
    size = len(levels)
    if design is None:
        counts = np.bincount(codes[:m], minlength=size), np.bincount(codes[m:], minlength=size)
        first, second = counts if m * 2 <= len(codes) else counts[::-1]
        draws = draw_counts(first, second, n_draws, rng)
    else:
        table = np.zeros((design.count, size), dtype=np.int64)
        np.add.at(table, (design.index, codes), 1)
        draws = block_labels(design, n_draws, rng).astype(np.int64) @ table
    return histogram_statistics(levels, np.bincount(codes, minlength=size), draws, kernels)


def _joined(x: Any, y: Any) -> Any:
    """Both samples in one array, in their own library and on their own device."""
    if is_torch(x) and is_torch(y):
        parts = [t.detach()[:, None] if t.ndim == 1 else t.detach() for t in (x, y)]
        return namespace(x).concatenate(parts, axis=0)
    return np.concatenate([as_points(to_numpy(x)), as_points(to_numpy(y))])
