"""Random-walk diffusion of a probability map, on nodes and lifted to voxels (RW-CP, section 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anatrust.conformal.kernels import lift, sum_patches, walk
from anatrust.errors import InputError
from anatrust.statistics.array_backend import as_array, like, namespace

__all__ = ["Patches", "diffuse", "diffuse_lifted"]


def _check_walk(steps: int, laziness: float) -> None:
    if steps < 0 or not 0 <= laziness <= 1:
        raise InputError(f"a walk has 0 or more steps and a laziness in [0, 1], not {steps} and {laziness}")


def diffuse(scores: Any, transition: Any, *, steps: int = 10, laziness: float = 0.0) -> Any:
    """``S(t+1) = laziness S(t) + (1 - laziness) P S(t)``, ``steps`` times.

    Parameters
    ----------
    scores
        ``(M, classes)`` or ``(M,)`` scores, in the library of the matrix.
    transition
        Row-stochastic ``(M, M)`` sparse matrix of :func:`~anatrust.conformal.graph.transition_matrix`.
    steps, laziness
        Length of the walk; share of it spent standing still (0 is the published walk).

    Notes
    -----
    Rows of P sum to one, hence the maximum principle (no score leaves the range of the input) and
    rows on the simplex stay there. Rounding is clipped. O(steps·M·k·classes); ``benchmarks/conformal.py`` times it
    against two sparse libraries.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> swap = csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> diffuse([1.0, 0.0], swap, steps=1, laziness=0.25).tolist()
    [0.25, 0.75]
    """
    _check_walk(steps, laziness)
    xp = namespace(scores)
    current = xp.asarray(as_array(scores), dtype=xp.float64)
    if current.shape[0] != transition.shape[0]:
        raise InputError(f"{current.shape[0]} scores but a graph of {transition.shape[0]} nodes")
    return walk(transition, current.reshape(len(current), -1), steps, laziness).reshape(current.shape)


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
        self._owners = (owners[0], owners[1], owners[2])
        sizes = [np.bincount(owner) for owner in owners]
        self._counts = np.einsum("i,j,k->ijk", *sizes)[..., None]

    @property
    def nodes(self) -> int:
        """Number of patches."""
        return int(np.prod(self.grid))

    def average(self, image: Any) -> Any:
        """Patch means, ``(nodes, ...)``, of an image ``(*shape, ...)``; one pass, sums in float64."""
        tail = image.shape[len(self.shape) :]
        xp = namespace(image)
        total = xp.zeros((*self._coarse, int(np.prod(tail))), dtype=xp.float64, device=image.device)
        sum_patches(image.reshape(*self._volume, -1), self._owners, total)
        return (total / like(self._counts, image)).reshape(self.nodes, *tail)

    def spread(self, values: Any) -> Any:
        """Image ``(*shape, ...)`` in which every voxel has the value of its patch."""
        a, b, c = self._owners
        return values.reshape(*self._coarse, -1)[a][:, b][:, :, c].reshape(*self.shape, *values.shape[1:])

    def lift(self, image: Any, coarse: Any, walked: Any, kept: float) -> Any:
        """``spread(walked) + kept (image - spread(coarse))`` within the image's range, in one pass."""
        before, after = coarse.reshape(*self._coarse, -1), walked.reshape(*self._coarse, -1)
        return lift(image.reshape(*self._volume, -1), before, after, self._owners, kept).reshape(image.shape)


def diffuse_lifted(scores: Any, transition: Any, patches: Patches, *, steps: int = 10, laziness: float = 0.5) -> Any:
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
    xp = namespace(scores)
    image = as_array(scores)
    if image.dtype not in (xp.float32, xp.float64):
        image = xp.asarray(image, dtype=xp.float64)
    if image.shape[: len(patches.shape)] != patches.shape:
        raise InputError(f"scores of shape {image.shape} but patches of an image of shape {patches.shape}")
    coarse = patches.average(image)
    walked = diffuse(coarse, transition, steps=steps, laziness=laziness)
    return patches.lift(image, coarse, walked, laziness**steps)  # 1 for a walk of no steps, lazy or not
