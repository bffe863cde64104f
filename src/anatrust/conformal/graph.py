"""The k-nearest-neighbour graph of features and its random walk (RW-CP, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from anatrust.conformal.kernels import offer, sparse_matrix, tile_edge
from anatrust.errors import InputError
from anatrust.statistics.array_backend import as_array, like, namespace, to_numpy

__all__ = ["Engine", "Neighbours", "Symmetry", "cosine_neighbours", "transition_matrix", "volume_neighbours"]

Symmetry = Literal["none", "max", "mean"]
Engine = Literal["blocks", "faiss"]
_MANY_NODES = 32_768


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each of M nodes its k nearest others, most similar first.

    ``indices`` is ``(M, k)`` int64 and ``cosines`` ``(M, k)`` float32, in the library and on the device of the
    features; a node is never its own neighbour.
    """

    indices: Any
    cosines: Any


def _unit_rows(features: Any) -> Any:
    """Features of length 1 as float32, in the library and on the device they came in."""
    xp = namespace(features)
    rows = xp.asarray(as_array(features), dtype=xp.float32)
    if not xp.isfinite(rows).all():
        raise InputError("features hold NaN or infinite values: check the encoder's input range")
    lengths = xp.sqrt(xp.sum(rows * rows, axis=1, keepdims=True))
    # A zero vector has no direction; cosine 0 to everything is the honest value.
    return rows / xp.where(lengths > 0, lengths, xp.ones_like(lengths))


def engine_for(count: int, slab: int | None, device: object = "cpu") -> Engine:
    """``"faiss"`` where every one of many nodes is a candidate and faiss (extra ``deep``) is installed.

    On one core the blocks are 1.4 to 1.8 times as fast at every size measured (up to 32 768 nodes), but their
    merging stays on it, while faiss's search takes all cores there are. On an accelerator the blocks stay there.
    """
    if slab is not None or count <= _MANY_NODES or str(device) != "cpu":
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
        ``(M, d)`` finite features, a NumPy array or a torch tensor (then all runs on its device). Constant or zero
        vectors are allowed.
    k
        Neighbours a node; at most as many are returned as a node can have.
    slab
        Nodes of a volume's slice, which follow each other: only nodes of the same slice and of the two
        beside it can then be neighbours, and the cost grows with M instead of M². None: all can.
    engine
        ``"blocks"``, the reference, or ``"faiss"``, its flat inner product: the same neighbours up to the last bit
        of a cosine and, where many are exactly as near as the k-th, up to which of these are kept. None: faiss
        where it is installed above 32 768 nodes without slabs, unless the features lie on an accelerator.

    Raises
    ------
    InputError
        If the features are not two-dimensional, not finite, k is below 1, M is not made of slabs, or faiss is asked
        for slabs or is not installed.

    Notes
    -----
    Tiles of cosines are computed one by one and offered to the lists of both their blocks, so
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
    xp, rows = namespace(features), _unit_rows(features)
    if (engine or engine_for(count, slab, rows.device)) == "faiss":
        return _faiss_neighbours(rows, k, slab)
    indices = xp.zeros((count, k), dtype=xp.int64, device=rows.device)
    cosines = xp.full((count, k), -xp.inf, dtype=xp.float32, device=rows.device)
    size = slab or count
    edge = min(tile_edge(rows), size)
    starts = [start + own for start in range(0, count, size) for own in range(0, size, edge)]
    stops = [min(start + edge, (start // size + 1) * size) for start in starts]
    for a, (first, end) in enumerate(zip(starts, stops, strict=True)):
        for second, last in zip(starts[a:], stops[a:], strict=True):
            if k == 0 or second // size - first // size > 1:
                break
            offer(rows[first:end] @ rows[second:last].T, first, second, indices, cosines)
    return Neighbours(indices, cosines)


def _faiss_neighbours(rows: Any, k: int, slab: int | None) -> Neighbours:
    """All products by faiss's flat index; nodes find themselves, wherever in the list, and are taken out."""
    try:
        import faiss
    except ImportError:
        raise InputError("faiss is not installed: add the extra 'deep', or leave the engine to anatrust") from None
    if slab is not None:
        raise InputError("faiss knows no slabs: use the engine 'blocks' for them")
    index, held = faiss.IndexFlatIP(rows.shape[1]), np.ascontiguousarray(to_numpy(rows))
    index.add(held)
    cosines, indices = index.search(held, k + 1)
    cosines[indices == np.arange(len(held))[:, None]] = -np.inf
    order = np.lexsort((indices, -cosines))[:, :k]
    return Neighbours(*(like(np.take_along_axis(found, order, axis=1), rows) for found in (indices, cosines)))


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
    places = np.moveaxis(np.arange(int(np.prod(grid))).reshape(tuple(grid)), axis, 0).ravel()
    order, back = like(places, features), like(np.argsort(places), features)
    found = cosine_neighbours(features[order], k, slab=len(places) // grid[axis])
    return Neighbours(order[found.indices][back], found.cosines[back])


def transition_matrix(
    neighbours: Neighbours, *, beta: float = 50.0, self_loops: bool = False, symmetry: Symmetry = "none"
) -> Any:
    """Row-stochastic matrix P of the walk, ``(M, M)``, float64.

    ``w_ij = exp(beta (cos_ij - max_j cos_ij))`` normalised by row; the shift by the row maximum
    cancels and keeps the exponential in range. With ``self_loops`` a node is its own neighbour of
    cosine 1 (as indices that return the query itself have it). A node without neighbours keeps
    its value. ``symmetry`` makes the weights symmetric before they are normalised: of a pair's two weights (one is 0
    where only one has chosen the other) the larger or the mean.

    Returns
    -------
    SciPy's CSR array, or torch's CSR tensor for neighbours that are tensors.

    Raises
    ------
    InputError
        If beta is negative or not finite, or the symmetry unknown.
    """
    if not (np.isfinite(beta) and beta >= 0):
        raise InputError(f"beta is finite and not negative, not {beta}")
    if symmetry not in get_args(Symmetry):
        raise InputError(f"symmetry '{symmetry}' is unknown: choose none, max or mean")
    columns, xp = neighbours.indices, namespace(neighbours.indices)
    cosines = xp.asarray(neighbours.cosines, dtype=xp.float64)
    count = len(columns)
    nodes = xp.arange(count, device=columns.device)
    if self_loops or columns.shape[1] == 0:
        columns = xp.concat([nodes[:, None], columns], axis=1)
        cosines = xp.concat([xp.ones_like(nodes, dtype=xp.float64)[:, None], cosines], axis=1)
    # Symmetric weights need one common scale; a row's own maximum would undo the symmetry.
    top = xp.amax(cosines, axis=1, keepdims=True) if symmetry == "none" else xp.amax(cosines)
    rows = xp.broadcast_to(nodes[:, None], columns.shape)
    entries = rows.reshape(-1), columns.reshape(-1), xp.exp(beta * (cosines - top)).reshape(-1)
    if symmetry != "none":
        entries = _symmetric(*entries, count, symmetry)
    rows, columns, weights = entries
    sums = xp.bincount(rows, weights=weights, minlength=count)
    # A common scale can underflow far-away rows to 0; such a node keeps its value.
    lost = nodes[sums < np.finfo(np.float64).tiny]
    if len(lost):
        rows, columns = xp.concat([rows, lost]), xp.concat([columns, lost])
        weights = xp.concat([weights, xp.ones_like(lost, dtype=xp.float64)])
        order = xp.argsort(rows, stable=True)
        rows, columns, weights = rows[order], columns[order], weights[order]
        sums = xp.bincount(rows, weights=weights, minlength=count)
    ends = xp.cumsum(xp.bincount(rows, minlength=count), 0)
    return sparse_matrix(xp.concat([xp.zeros_like(ends[:1]), ends]), columns, weights / sums[rows])


def _symmetric(rows: Any, columns: Any, weights: Any, count: int, symmetry: Symmetry) -> tuple[Any, Any, Any]:
    """Row, column and weight of every pair of the symmetric matrix, in the order of rows, then columns."""
    xp = namespace(weights)
    keys, both = xp.concat([rows * count + columns, columns * count + rows]), xp.concat([weights, weights])
    order = xp.argsort(keys, stable=True)
    keys, both = keys[order], both[order]
    # Now a pair stands here twice in a row where both have chosen each other, else once.
    again = keys[1:] == keys[:-1]
    no = xp.zeros_like(keys[:1], dtype=xp.bool)
    first = ~xp.concat([no, again])
    other = xp.where(xp.concat([again, no]), xp.roll(both, -1), xp.zeros_like(both))
    merged = xp.maximum(both, other) if symmetry == "max" else (both + other) / 2
    return keys[first] // count, keys[first] % count, merged[first]
