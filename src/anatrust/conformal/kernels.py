"""What the array functions of NumPy and torch do not share, or NumPy does too slowly.

Graph and walk are written once, for the arrays of either library (`anatrust.statistics.array_backend`).
Five small steps of them differ and stand here, side by side: a compiled loop for NumPy, torch's own functions
for tensors, on whatever device these lie.
"""

from __future__ import annotations

import warnings
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from anatrust.statistics.array_backend import is_torch, like

__all__ = ["lift", "offer", "sparse_matrix", "sum_patches", "tile_edge", "walk"]

_Images = npt.NDArray[Any]
_Owners = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _in_host_memory(array: Any) -> bool:
    return str(array.device) == "cpu"


def tile_edge(rows: Any) -> int:
    """Nodes a side of the tiles of cosines: what stays in a processor's cache, or keeps an accelerator busy."""
    return 512 if _in_host_memory(rows) else 4096


def offer(tile: Any, first: int, second: int, indices: Any, cosines: Any) -> None:
    """Offer the cosines of two blocks of nodes (starting at ``first`` <= ``second``) to the lists of both, in place.

    ``indices`` and ``cosines``, ``(M, k)``, hold each node's best so far in falling order; among equals the one
    that was there before, then the lower index stands first. No node is offered to itself.
    """
    if _in_host_memory(tile):  # NumPy sees a tensor there without a copy
        _merge(np.asarray(tile), first, second, np.asarray(indices), np.asarray(cosines))
        return
    _merge_rows(tile, first, second, indices, cosines)
    if first != second:
        _merge_rows(tile.T, second, first, indices, cosines)


def _merge_rows(tile: Any, first: int, second: int, indices: Any, cosines: Any) -> None:
    """`offer` to the rows of a tensor. ``topk`` breaks ties as it likes, so cosine and place make one whole number."""
    import torch

    rows, k = slice(first, first + tile.shape[0]), cosines.shape[1]
    others = torch.arange(second, second + tile.shape[1], device=tile.device)
    own = torch.arange(first, first + tile.shape[0], device=tile.device)
    offered = torch.where(own[:, None] == others, -torch.inf, tile)
    # Adding 0 turns -0 into 0; the bits of a float, its sign mended, are in the order of the floats.
    values = torch.concat([cosines[rows], offered], dim=1) + 0.0
    bits = values.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    places = torch.arange(ordered.shape[1], 0, -1, device=tile.device)
    best = k + tile.shape[1] - ((ordered << 32) + places).topk(k, dim=1).values % 2**32
    candidates = torch.concat([indices[rows], others.expand(tile.shape)], dim=1)
    cosines[rows] = values.gather(1, best)
    indices[rows] = candidates.gather(1, best)


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
    """`offer` to the lists of both blocks, in one pass over the tile."""
    rows, columns = tile.shape
    last = cosines.shape[1] - 1
    for i in range(rows):
        for j in range(columns):
            value = tile[i, j]
            if value > cosines[first + i, last] and first + i != second + j:
                _insert(indices, cosines, first + i, second + j, value)
            if first != second and value > cosines[second + j, last]:
                _insert(indices, cosines, second + j, first + i, value)


def sparse_matrix(pointers: Any, columns: Any, weights: Any) -> Any:
    """A square CSR matrix: SciPy's, or torch's sparse tensor."""
    count = len(pointers) - 1
    if not is_torch(weights):
        from scipy.sparse import csr_array

        whole = np.int32 if len(columns) < 2**31 else np.int64
        return csr_array((weights, columns.astype(whole), pointers.astype(whole)), shape=(count, count))
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its CSR layout a beta
        return torch.sparse_csr_tensor(pointers, columns, weights, size=(count, count))


def walk(matrix: Any, scores: Any, steps: int, laziness: float) -> Any:
    """``laziness S + (1 - laziness) P S``, ``steps`` times, of ``(M, classes)`` scores, which are left as they are.

    Rounding must not leave the range of the input: the result is clipped to that of each class.
    """
    if is_torch(scores):
        walked = scores
        for _ in range(steps):
            walked = laziness * walked + (1 - laziness) * (matrix @ walked)
        return walked.clip(scores.amin(0), scores.amax(0))
    # Unsigned numbers: signed ones may count from the end, and the compiled loop would ask about each. Short ones:
    # reading the matrix is what takes the time.
    pointers, columns = (v.view(f"u{v.itemsize}") for v in (matrix.indptr, matrix.indices))
    columns = columns.astype(np.uint16) if len(scores) <= 2**16 else columns
    if scores.shape[1] == 1:
        return _steps_of_one(pointers, columns, matrix.data, scores[:, 0].copy(), steps, laziness)[:, None]
    return _steps(pointers, columns, matrix.data, scores.copy(), steps, laziness)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _steps_of_one(
    pointers: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    weights: npt.NDArray[np.float64],
    current: npt.NDArray[np.float64],
    steps: int,
    laziness: float,
) -> npt.NDArray[np.float64]:
    """`_steps` for one class, ``(M,)``: a structure at a time is what calibration walks."""
    low, high = current.min(), current.max()
    moving = 1 - laziness
    moved = np.empty_like(current)
    for _ in range(steps):
        for i in range(current.size):
            at, end = pointers[i], pointers[i + 1]
            even = odd = 0.0  # two sums: neither waits for the other
            while at + 1 < end:
                even += weights[at] * current[columns[at]]
                odd += weights[at + 1] * current[columns[at + 1]]
                at += 2
            if at < end:
                even += weights[at] * current[columns[at]]
            moved[i] = laziness * current[i] + moving * (even + odd)
        current, moved = moved, current
    for i in range(current.size):
        current[i] = min(max(current[i], low), high)
    return current


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _steps(
    pointers: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    weights: npt.NDArray[np.float64],
    current: npt.NDArray[np.float64],
    steps: int,
    laziness: float,
) -> npt.NDArray[np.float64]:
    """`walk` on the rows of a CSR matrix: product and standing still in one pass; ``current`` is overwritten."""
    count, classes = current.shape
    moving = 1 - laziness
    moved = np.empty_like(current)
    low, high = np.full(classes, np.inf), np.full(classes, -np.inf)
    for i in range(count):
        for c in range(classes):
            low[c], high[c] = min(low[c], current[i, c]), max(high[c], current[i, c])
    for _ in range(steps):
        for i in range(count):
            c = 0
            # Sums in registers, four classes a pass over the row, then one by one.
            while c + 4 <= classes:
                s0 = s1 = s2 = s3 = 0.0
                for at in range(pointers[i], pointers[i + 1]):
                    j, w = columns[at], weights[at]
                    s0 += w * current[j, c]
                    s1 += w * current[j, c + 1]
                    s2 += w * current[j, c + 2]
                    s3 += w * current[j, c + 3]
                moved[i, c] = laziness * current[i, c] + moving * s0
                moved[i, c + 1] = laziness * current[i, c + 1] + moving * s1
                moved[i, c + 2] = laziness * current[i, c + 2] + moving * s2
                moved[i, c + 3] = laziness * current[i, c + 3] + moving * s3
                c += 4
            while c < classes:
                s0 = 0.0
                for at in range(pointers[i], pointers[i + 1]):
                    s0 += weights[at] * current[columns[at], c]
                moved[i, c] = laziness * current[i, c] + moving * s0
                c += 1
        current, moved = moved, current
    for i in range(count):
        for c in range(classes):
            current[i, c] = min(max(current[i, c], low[c]), high[c])
    return current


def sum_patches(image: Any, owners: _Owners, total: Any) -> None:
    """Add every voxel of ``image``, ``(a, b, c, channels)``, to its patch in ``total``, in place.

    ``owners`` number the patch of each place along each axis.
    """
    if not is_torch(image):
        _sums(np.ascontiguousarray(image), owners, total)
        return
    _, middle, last, channels = total.shape
    places = np.add.outer(np.add.outer(owners[0] * middle, owners[1]) * last, owners[2])
    total.view(-1, channels).index_add_(0, like(places.ravel(), image), image.reshape(-1, channels).to(total.dtype))


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _sums(image: _Images, owners: _Owners, total: _Images) -> None:
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            for k in range(image.shape[2]):
                for c in range(image.shape[3]):
                    total[owners[0][i], owners[1][j], owners[2][k], c] += image[i, j, k, c]


def lift(image: Any, coarse: Any, walked: Any, owners: _Owners, kept: float) -> Any:
    """``walked + kept (image - coarse)`` at every voxel, the last two by patch, within the range of the image."""
    ends = float(image.min()), float(image.max())
    if not is_torch(image):
        return _lift(np.ascontiguousarray(image), coarse, walked, owners, kept, ends)
    near, far = (v[owners[0]][:, owners[1]][:, :, owners[2]] for v in (walked, coarse))
    return (near + kept * (image - far)).clip(*ends)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _lift(
    image: _Images, coarse: _Images, walked: _Images, owners: _Owners, kept: float, ends: tuple[float, float]
) -> _Images:
    result = np.empty(image.shape, dtype=np.float64)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            for k in range(image.shape[2]):
                a, b, d = owners[0][i], owners[1][j], owners[2][k]
                for c in range(image.shape[3]):
                    value = walked[a, b, d, c]
                    if kept > 0:
                        value += kept * (image[i, j, k, c] - coarse[a, b, d, c])
                    result[i, j, k, c] = min(max(value, ends[0]), ends[1])
    return result
