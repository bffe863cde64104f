"""Random-walk diffusion of a probability map, on nodes and lifted to voxels (RW-CP, section 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Patches", "diffuse", "diffuse_lifted"]


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
    rows on the simplex stay there. Rounding is clipped. O(steps·M·k·classes).

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
    low, high = current.min(axis=0), current.max(axis=0)
    for _ in range(steps):
        current = laziness * current + (1 - laziness) * (transition @ current)
    return np.clip(current, low, high)


class Patches:
    """The division of an image into patches, the nodes of the graph.

    Averages voxels to patches and spreads patch values back; patches at the border may be
    smaller. ``average(spread(x)) == x`` exactly, which is what makes a walk on patches equal to a
    walk on voxels.

    Parameters
    ----------
    shape
        Shape of the image.
    size
        Patch edge along each axis, in voxels.
    """

    def __init__(self, shape: Sequence[int], size: Sequence[int]) -> None:
        if len(shape) != len(size) or min(size) < 1:
            raise InputError(f"patches of {tuple(size)} do not divide an image of shape {tuple(shape)}")
        self.shape = tuple(shape)
        self.grid = tuple(-(-n // p) for n, p in zip(shape, size, strict=True))
        self._starts = [np.arange(0, n, p) for n, p in zip(shape, size, strict=True)]
        self._owner = [np.arange(n) // p for n, p in zip(shape, size, strict=True)]
        counts = np.ones(())
        for n, starts in zip(shape, self._starts, strict=True):
            counts = np.multiply.outer(counts, np.diff(starts, append=n))
        self._counts = counts

    @property
    def nodes(self) -> int:
        """Number of patches."""
        return int(np.prod(self.grid))

    def average(self, image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Patch means, ``(nodes, ...)``, of an image ``(*shape, ...)``."""
        total = np.asarray(image, dtype=np.float64)
        for axis, starts in enumerate(self._starts):
            total = np.add.reduceat(total, starts, axis=axis)
        tail = image.shape[len(self.shape) :]
        means = total / self._counts.reshape(self._counts.shape + (1,) * len(tail))
        result: npt.NDArray[np.float64] = means.reshape(self.nodes, *tail)
        return result

    def spread(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Image ``(*shape, ...)`` in which every voxel has the value of its patch."""
        result = np.asarray(values).reshape(*self.grid, *values.shape[1:])
        for axis, owner in enumerate(self._owner):
            result = np.take(result, owner, axis=axis)
        return result


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
    image = np.asarray(scores, dtype=np.float64)
    if image.shape[: len(patches.shape)] != patches.shape:
        raise InputError(f"scores of shape {image.shape} but patches of an image of shape {patches.shape}")
    coarse = patches.average(image)
    walked: npt.NDArray[np.float64] = patches.spread(diffuse(coarse, transition, steps=steps, laziness=laziness))
    kept = laziness**steps  # 1 for a walk of no steps, lazy or not
    if kept > 0:
        walked = walked + kept * (image - patches.spread(coarse))
    return np.clip(walked, image.min(), image.max())
