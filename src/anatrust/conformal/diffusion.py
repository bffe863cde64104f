"""Random-walk diffusion of a probability map, on nodes and lifted to voxels (RW-CP, section 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Patches", "diffuse", "diffuse_lifted"]

_Images = npt.NDArray[Any]
_Owners = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _check_walk(steps: int, laziness: float) -> None:
    if steps < 0 or not 0 <= laziness <= 1:
        raise InputError(f"a walk has 0 or more steps and a laziness in [0, 1], not {steps} and {laziness}")


def diffuse(scores: npt.ArrayLike, transition: Any, *, steps: int = 10, laziness: float = 0.0) -> npt.NDArray[Any]:
    """``S(t+1) = laziness S(t) + (1 - laziness) P S(t)``, ``steps`` times.

    Parameters
    ----------
    scores
        ``(M, classes)`` or ``(M,)`` scores.
    transition
        Row-stochastic ``(M, M)`` sparse matrix of :func:`~anatrust.conformal.graph.transition_matrix`.
    steps, laziness
        Length of the walk; share of it spent standing still (0 is the published walk).

    Notes
    -----
    Rows of P sum to one, hence the maximum principle (no score leaves the range of the input) and
    rows on the simplex stay there. Rounding is clipped. O(steps·M·k·classes), compiled: the product, the
    standing still and four classes at a time in one pass, where sparse libraries make several
    (``benchmarks/conformal.py`` times it against two of them).

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> swap = csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> diffuse([1.0, 0.0], swap, steps=1, laziness=0.25).tolist()
    [0.25, 0.75]
    """
    _check_walk(steps, laziness)
    current = np.asarray(scores, dtype=np.float64)
    if current.shape[0] != transition.shape[0]:
        raise InputError(f"{current.shape[0]} scores but a graph of {transition.shape[0]} nodes")
    rows = np.ascontiguousarray(current).reshape(len(current), -1)
    # Unsigned numbers: signed ones may count from the end, and the compiled loop would ask about each. Short ones:
    # reading the matrix is what takes the time.
    short = np.uint32 if transition.nnz < 2**32 else np.uint64
    pointers, columns = (np.asarray(v).astype(short) for v in (transition.indptr, transition.indices))
    weights = transition.data
    if rows.shape[1] == 1:
        walked: npt.NDArray[Any] = _steps_of_one(pointers, columns, weights, rows.ravel().copy(), steps, laziness)
    else:
        walked = _steps(pointers, columns, weights, rows.copy(), steps, laziness)
    return walked.reshape(current.shape)


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
    moving = 1 - laziness
    moved = np.empty_like(current)
    low, high = np.inf, -np.inf
    for value in current:
        low, high = min(low, value), max(high, value)
    for _ in range(steps):
        for i in range(current.size):
            total = 0.0
            for at in range(pointers[i], pointers[i + 1]):
                total += weights[at] * current[columns[at]]
            # Rounding must not leave the range of the input.
            moved[i] = min(max(laziness * current[i] + moving * total, low), high)
        current, moved = moved, current
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
    """The walk of `diffuse` on the rows of a CSR matrix; ``current``, ``(M, classes)``, is overwritten."""
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
            # Sums in registers, four classes a pass over the row, then two, then one.
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
            while c + 2 <= classes:
                s0 = s1 = 0.0
                for at in range(pointers[i], pointers[i + 1]):
                    j, w = columns[at], weights[at]
                    s0 += w * current[j, c]
                    s1 += w * current[j, c + 1]
                moved[i, c] = laziness * current[i, c] + moving * s0
                moved[i, c + 1] = laziness * current[i, c + 1] + moving * s1
                c += 2
            if c < classes:
                s0 = 0.0
                for at in range(pointers[i], pointers[i + 1]):
                    s0 += weights[at] * current[columns[at], c]
                moved[i, c] = laziness * current[i, c] + moving * s0
        current, moved = moved, current
    for i in range(count):
        for c in range(classes):
            current[i, c] = min(max(current[i, c], low[c]), high[c])
    return current


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _sums(image: _Images, owners: _Owners, total: _Images) -> None:
    """Add every voxel, ``(a, b, c, channels)``, to its patch."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            for k in range(image.shape[2]):
                for c in range(image.shape[3]):
                    total[owners[0][i], owners[1][j], owners[2][k], c] += image[i, j, k, c]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _lift(
    image: _Images, coarse: _Images, walked: _Images, owners: _Owners, kept: float, ends: tuple[float, float]
) -> _Images:
    """``walked + kept (image - coarse)`` at every voxel, the last two by patch, clipped to the ends."""
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


class Patches:
    """The division of an image into patches, the nodes of the graph.

    Averages voxels to patches and spreads patch values back; patches at the border may be
    smaller. ``average(spread(x)) == x`` exactly, which is what makes a walk on patches equal to a
    walk on voxels.

    Parameters
    ----------
    shape
        Shape of the image, 2-D or 3-D.
    size
        Patch edge along each axis, in voxels.
    """

    def __init__(self, shape: Sequence[int], size: Sequence[int]) -> None:
        if len(shape) != len(size) or len(shape) not in (1, 2, 3) or min(size) < 1:
            raise InputError(f"patches of {tuple(size)} do not divide an image of shape {tuple(shape)}")
        self.shape = tuple(shape)
        self.grid = tuple(-(-n // p) for n, p in zip(shape, size, strict=True))
        lead = (1,) * (3 - len(self.shape))
        # The compiled loops see volumes with channels; missing axes are of length 1.
        self._volume, self._coarse = (*lead, *self.shape), (*lead, *self.grid)
        edges = (*lead, *size)
        owners = [np.arange(n) // p for n, p in zip(self._volume, edges, strict=True)]
        self._owners: _Owners = (owners[0], owners[1], owners[2])
        sizes = [np.bincount(owner) for owner in owners]
        self._counts = np.einsum("i,j,k->ijk", *sizes)[..., None]

    @property
    def nodes(self) -> int:
        """Number of patches."""
        return int(np.prod(self.grid))

    def average(self, image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Patch means, ``(nodes, ...)``, of an image ``(*shape, ...)``; one pass, sums in float64."""
        tail = image.shape[len(self.shape) :]
        total = np.zeros((*self._coarse, int(np.prod(tail))))
        _sums(np.ascontiguousarray(image).reshape(*self._volume, -1), self._owners, total)
        means: npt.NDArray[np.float64] = (total / self._counts).reshape(self.nodes, *tail)
        return means

    def spread(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Image ``(*shape, ...)`` in which every voxel has the value of its patch."""
        result = np.asarray(values).reshape(*self._coarse, *values.shape[1:])
        for axis, owner in enumerate(self._owners):
            result = np.take(result, owner, axis=axis)
        return result.reshape(*self.shape, *values.shape[1:])

    def lift(
        self, image: npt.NDArray[Any], coarse: npt.NDArray[Any], walked: npt.NDArray[Any], kept: float
    ) -> npt.NDArray[np.float64]:
        """``spread(walked) + kept (image - spread(coarse))`` within the image's range, in one pass."""
        voxels = np.ascontiguousarray(image).reshape(*self._volume, -1)
        ends = float(image.min()), float(image.max())
        before, after = coarse.reshape(*self._coarse, -1), walked.reshape(*self._coarse, -1)
        result: npt.NDArray[np.float64] = _lift(voxels, before, after, self._owners, kept, ends)
        return result.reshape(image.shape)


def diffuse_lifted(
    scores: npt.NDArray[Any], transition: Any, patches: Patches, *, steps: int = 10, laziness: float = 0.5
) -> npt.NDArray[np.float64]:
    """A voxel-level walk at the cost of a patch-level one, keeping detail finer than a patch.

    With U spreading patch values to voxels and D averaging them, ``D U = I`` gives exactly
    ``(a I + (1-a) U P D)^n S = U (a I + (1-a) P)^n D S + a^n (S - U D S)`` for laziness a (spec
    section 3). Without laziness the second term vanishes and the result is blocky.

    Parameters
    ----------
    scores
        ``(*shape, classes)`` or ``(*shape,)`` scores.
    transition, patches, steps, laziness
        Walk over the patches, in the order of :class:`Patches`.
    """
    _check_walk(steps, laziness)
    image = np.asarray(scores)
    if image.dtype not in (np.float32, np.float64):
        image = image.astype(np.float64)
    if image.shape[: len(patches.shape)] != patches.shape:
        raise InputError(f"scores of shape {image.shape} but patches of an image of shape {patches.shape}")
    coarse = patches.average(image)
    walked = diffuse(coarse, transition, steps=steps, laziness=laziness)
    return patches.lift(image, coarse, walked, laziness**steps)  # 1 for a walk of no steps, lazy or not
