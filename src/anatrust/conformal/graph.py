"""The k-nearest-neighbour graph of features and its random walk (RW-CP, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Engine", "Neighbours", "Symmetry", "cosine_neighbours", "transition_matrix", "volume_neighbours"]

Symmetry = Literal["none", "max", "mean"]
Engine = Literal["blocks", "faiss"]
_BLOCK_ROWS = 1024
_TILE = 512
_MANY_NODES = 32_768


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each of M nodes its k nearest others, most similar first.

    ``indices`` is ``(M, k)`` int64 and ``cosines`` ``(M, k)`` float32; a node is never its own
    neighbour.
    """

    indices: npt.NDArray[np.int64]
    cosines: npt.NDArray[np.float32]


def _unit_rows(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True).astype(np.float32)
    # A zero vector has no direction; cosine 0 to everything is the honest value.
    return np.asarray(features / np.where(lengths > 0, lengths, np.float32(1)), dtype=np.float32)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _insert(
    indices: npt.NDArray[np.int64], cosines: npt.NDArray[np.float32], row: int, candidate: int, value: np.float32
) -> None:
    """Put a candidate into a row's descending list, after its equals; the last one falls out."""
    place = cosines.shape[1] - 1
    while place > 0 and cosines[row, place - 1] < value:
        cosines[row, place] = cosines[row, place - 1]
        indices[row, place] = indices[row, place - 1]
        place -= 1
    cosines[row, place] = value
    indices[row, place] = candidate


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _merge(
    tile: npt.NDArray[np.float32],
    first: int,
    second: int,
    indices: npt.NDArray[np.int64],
    cosines: npt.NDArray[np.float32],
) -> None:
    """Offer the cosines of two blocks of nodes (starting at ``first`` <= ``second``) to the lists of both."""
    rows, columns = tile.shape
    last = cosines.shape[1] - 1
    for i in range(rows):
        for j in range(columns):
            value = tile[i, j]
            if value > cosines[first + i, last] and first + i != second + j:
                _insert(indices, cosines, first + i, second + j, value)
            if first != second and value > cosines[second + j, last]:
                _insert(indices, cosines, second + j, first + i, value)


def engine_for(count: int, slab: int | None) -> Engine:
    """``"faiss"`` where every one of many nodes is a candidate and faiss (extra ``deep``) is installed.

    On one core the blocks are 1.4 to 1.8 times as fast at every size measured (up to 32 768 nodes), but their
    merging stays on it, while faiss's search takes all cores there are.
    """
    if slab is not None or count <= _MANY_NODES:
        return "blocks"
    try:
        import faiss  # noqa: F401
    except ImportError:
        return "blocks"
    return "faiss"


def cosine_neighbours(
    features: Any, k: int = 20, *, slab: int | None = None, engine: Engine | None = None
) -> Neighbours:
    """Exact k nearest neighbours by cosine similarity.

    Parameters
    ----------
    features
        ``(M, d)`` finite features, a NumPy array or a torch tensor (then the products run on its
        device). Constant or zero vectors are allowed.
    k
        Neighbours a node; at most as many are returned as a node can have.
    slab
        Nodes of a volume's slice, which follow each other: only nodes of the same slice and of the two
        beside it can then be neighbours, and the cost grows with M instead of M². None: all can.
    engine
        ``"blocks"``, the reference, or ``"faiss"``, its flat inner product: the same neighbours up to the last bit
        of a cosine and, where many are exactly as near as the k-th, up to which of these are kept. None: faiss
        where it is installed above 32 768 nodes without slabs. Torch tensors have their own.

    Raises
    ------
    InputError
        If the features are not two-dimensional, not finite, k is below 1, M is not made of slabs, or faiss is asked
        for slabs or is not installed.

    Notes
    -----
    Tiles of 512 x 512 cosines stay in the cache and are offered to the lists of both their blocks, so
    half of the products suffice: O(M² d / 2) time (O(3 M slab d / 2) with slabs) and O(M k) memory. Among
    equals the lower index wins. Similarities are float32, because bfloat16 errs by up to 10 % in
    ``exp(50 cos)``.

    Examples
    --------
    >>> import numpy as np
    >>> cosine_neighbours(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1).indices.ravel().tolist()
    [1, 0, 1]
    """
    if k < 1:
        raise InputError(f"a graph needs at least one neighbour, not k = {k}")
    if getattr(features, "ndim", 0) != 2:
        raise InputError("features have the shape (nodes, dimensions)")
    count = features.shape[0]
    if slab is not None and (slab < 1 or count % slab):
        raise InputError(f"{count} nodes do not divide into slabs of {slab}")
    # The first slice of a volume has one neighbour, so no node is sure of more others than those of two slices.
    k = min(k, (count if slab is None else min(count, 2 * slab)) - 1)
    if type(features).__module__.startswith("torch"):
        return _torch_neighbours(features, k, slab)
    rows = np.asarray(features, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise InputError("features hold NaN or infinite values: check the encoder's input range")
    rows = _unit_rows(rows)
    if (engine or engine_for(count, slab)) == "faiss":
        return _faiss_neighbours(rows, k, slab)
    indices = np.zeros((count, k), dtype=np.int64)
    cosines = np.full((count, k), -np.inf, dtype=np.float32)
    if k > 0:
        edge = min(_TILE, slab or count)
        size = slab or count
        starts = [start + own for start in range(0, count, size) for own in range(0, size, edge)]
        stops = [min(start + edge, (start // size + 1) * size) for start in starts]
        for a, (first, end) in enumerate(zip(starts, stops, strict=True)):
            for second, last in zip(starts[a:], stops[a:], strict=True):
                if second // size - first // size > 1:
                    break
                _merge(rows[first:end] @ rows[second:last].T, first, second, indices, cosines)
    return Neighbours(indices, cosines)


def _faiss_neighbours(rows: npt.NDArray[np.float32], k: int, slab: int | None) -> Neighbours:
    """All products by faiss's flat index; nodes find themselves, wherever in the list, and are taken out."""
    try:
        import faiss
    except ImportError:
        raise InputError("faiss is not installed: add the extra 'deep', or leave the engine to anatrust") from None
    if slab is not None:
        raise InputError("faiss knows no slabs: use the engine 'blocks' for them")
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    cosines, indices = index.search(rows, k + 1)
    cosines[indices == np.arange(len(rows))[:, None]] = -np.inf
    order = np.lexsort((indices, -cosines))[:, :k]
    return Neighbours(np.take_along_axis(indices, order, axis=1), np.take_along_axis(cosines, order, axis=1))


def _torch_neighbours(features: Any, k: int, slab: int | None) -> Neighbours:
    import torch

    rows = features.detach().to(torch.float32)
    if not bool(torch.isfinite(rows).all()):
        raise InputError("features hold NaN or infinite values: check the encoder's input range")
    lengths = rows.norm(dim=1, keepdim=True)
    rows = rows / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    count = rows.shape[0]
    indices = np.zeros((count, k), dtype=np.int64)
    cosines = np.zeros((count, k), dtype=np.float32)
    if k > 0:
        for start in range(0, count, slab or _BLOCK_ROWS):
            stop = min(start + (slab or _BLOCK_ROWS), count)
            low, high = (0, count) if slab is None else (max(0, start - slab), min(count, stop + slab))
            similarity = rows[start:stop] @ rows[low:high].T
            here = torch.arange(stop - start, device=rows.device)
            similarity[here, here + start - low] = -torch.inf
            best = similarity.topk(k, dim=1)
            indices[start:stop] = best.indices.cpu().numpy() + low
            cosines[start:stop] = best.values.cpu().numpy()
    return Neighbours(indices, cosines)


def volume_neighbours(features: Any, grid: Sequence[int], axis: int, k: int = 20) -> Neighbours:
    """Neighbours within a slice of a volume and the slices beside it.

    Parameters
    ----------
    features
        ``(M, d)`` in the order of :class:`~anatrust.conformal.diffusion.Patches`.
    grid, axis
        Patches along each axis of the volume, and the axis across slices.
    k
        As in :func:`cosine_neighbours`.
    """
    order = np.moveaxis(np.arange(int(np.prod(grid))).reshape(tuple(grid)), axis, 0).ravel()
    found = cosine_neighbours(features[order], k, slab=order.size // grid[axis])
    indices, cosines = np.empty_like(found.indices), np.empty_like(found.cosines)
    indices[order], cosines[order] = order[found.indices], found.cosines
    return Neighbours(indices, cosines)


def transition_matrix(
    neighbours: Neighbours, *, beta: float = 50.0, self_loops: bool = False, symmetry: Symmetry = "none"
) -> Any:
    """Row-stochastic matrix P of the walk, ``(M, M)`` SciPy CSR, float64.

    ``w_ij = exp(beta (cos_ij - max_j cos_ij))`` normalised by row; the shift by the row maximum
    cancels and keeps the exponential in range. With ``self_loops`` a node is its own neighbour of
    cosine 1 (as indices that return the query itself have it). A node without neighbours keeps
    its value. ``symmetry`` makes the weights symmetric before they are normalised.

    Raises
    ------
    InputError
        If beta is negative or not finite, or the symmetry unknown.
    """
    from scipy.sparse import csr_array

    if not (np.isfinite(beta) and beta >= 0):
        raise InputError(f"beta is finite and not negative, not {beta}")
    count, k = neighbours.indices.shape
    rows = np.arange(count)[:, None]
    columns = np.hstack([rows, neighbours.indices]) if self_loops or k == 0 else neighbours.indices
    cosines = neighbours.cosines.astype(np.float64)
    if columns.shape[1] > k:
        cosines = np.hstack([np.ones((count, 1)), cosines])
    # Symmetric weights need one common scale; a row's own maximum would undo the symmetry.
    top = cosines.max(axis=1, keepdims=True) if symmetry == "none" else cosines.max()
    weights = np.exp(beta * (cosines - top))
    pointers = np.arange(count + 1) * columns.shape[1]
    matrix = csr_array((weights.ravel(), columns.ravel(), pointers), shape=(count, count))
    if symmetry == "max":
        matrix = matrix.maximum(matrix.T)
    elif symmetry == "mean":
        matrix = (matrix + matrix.T) / 2
    elif symmetry != "none":
        raise InputError(f"symmetry '{symmetry}' is unknown: choose none, max or mean")
    matrix = csr_array(matrix)
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    # A common scale can underflow far-away rows to 0; such a node keeps its value.
    lost = np.flatnonzero(sums < np.finfo(np.float64).tiny)
    if lost.size:
        matrix = csr_array(matrix + csr_array((np.ones(lost.size), (lost, lost)), shape=matrix.shape))
        sums = np.asarray(matrix.sum(axis=1)).ravel()
    matrix.data /= np.repeat(sums, np.diff(matrix.indptr))
    return matrix
