"""The k-nearest-neighbour graph of features and its random walk (RW-CP, sections 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Neighbours", "Symmetry", "cosine_neighbours", "transition_matrix"]

Symmetry = Literal["none", "max", "mean"]
_BLOCK_ROWS = 1024


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


def _top_k(similarity: npt.NDArray[np.float32], k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Indices and values of the k largest entries of each row, descending, lower index first among equals."""
    part = np.argpartition(similarity, -k, axis=1)[:, -k:]
    part.sort(axis=1)
    values = np.take_along_axis(similarity, part, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1), np.take_along_axis(values, order, axis=1)


def cosine_neighbours(features: Any, k: int = 20) -> Neighbours:
    """Exact k nearest neighbours by cosine similarity.

    Parameters
    ----------
    features
        ``(M, d)`` finite features, a NumPy array or a torch tensor (then the products run on its
        device). Constant or zero vectors are allowed.
    k
        Neighbours a node; at most M - 1 are returned.

    Raises
    ------
    InputError
        If the features are not two-dimensional, not finite, or k is below 1.

    Notes
    -----
    Blocks of 1 024 rows are multiplied with all rows and reduced at once: O(M² d) time and
    4·1024·M bytes. Similarities are float32, because bfloat16 errs by up to 10 % in
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
    if type(features).__module__.startswith("torch"):
        return _torch_neighbours(features, k)
    rows = np.asarray(features, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise InputError("features hold NaN or infinite values: check the encoder's input range")
    rows = _unit_rows(rows)
    count = rows.shape[0]
    k = min(k, count - 1)
    indices = np.empty((count, k), dtype=np.int64)
    cosines = np.empty((count, k), dtype=np.float32)
    if k > 0:
        for start in range(0, count, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, count)
            similarity = rows[start:stop] @ rows.T
            similarity[np.arange(stop - start), np.arange(start, stop)] = -np.inf
            indices[start:stop], cosines[start:stop] = _top_k(similarity, k)
    return Neighbours(indices, cosines)


def _torch_neighbours(features: Any, k: int) -> Neighbours:
    import torch

    rows = features.detach().to(torch.float32)
    if not bool(torch.isfinite(rows).all()):
        raise InputError("features hold NaN or infinite values: check the encoder's input range")
    lengths = rows.norm(dim=1, keepdim=True)
    rows = rows / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    count = rows.shape[0]
    k = min(k, count - 1)
    indices = np.empty((count, k), dtype=np.int64)
    cosines = np.empty((count, k), dtype=np.float32)
    if k > 0:
        for start in range(0, count, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, count)
            similarity = rows[start:stop] @ rows.T
            here = torch.arange(stop - start, device=rows.device)
            similarity[here, here + start] = -torch.inf
            best = similarity.topk(k, dim=1)
            indices[start:stop] = best.indices.cpu().numpy()
            cosines[start:stop] = best.values.cpu().numpy()
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
