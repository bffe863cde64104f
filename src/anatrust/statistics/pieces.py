"""Parts of a grid told by a small mask and where it lies: hundreds of whole masks fit in no memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Claims", "Piece"]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Piece:
    """Some voxels of a grid.

    Attributes
    ----------
    shape
        Of the grid.
    start
        Where in it the first voxel of `mask` lies.
    mask
        Bool: which voxels of a box of the grid they are.

    Raises
    ------
    InputError
        If the mask reaches out of the grid.

    Examples
    --------
    >>> Piece((4, 5), (1, 2), np.ones((1, 3), dtype=bool)).flat()
    array([7, 8, 9])
    """

    shape: tuple[int, ...]
    start: tuple[int, ...]
    mask: BoolArray

    def __post_init__(self) -> None:
        ends = [a + n for a, n in zip(self.start, self.mask.shape, strict=True)]
        if min(self.start, default=0) < 0 or any(end > n for end, n in zip(ends, self.shape, strict=True)):
            raise InputError(f"a piece from {self.start} to {tuple(ends)} leaves its grid of {self.shape}")

    @classmethod
    def of(cls, mask: BoolArray | Piece) -> Piece:
        """A mask of the whole grid as a piece; a piece as it is."""
        if isinstance(mask, Piece):
            return mask
        mask = np.asarray(mask)
        return cls(mask.shape, (0,) * mask.ndim, mask)

    @property
    def box(self) -> tuple[slice, ...]:
        """The part of the grid that `mask` covers."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.mask.shape, strict=True))

    def index(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Index of each of its voxels in the grid, an array for each axis, in C order."""
        return tuple(along + start for along, start in zip(np.nonzero(self.mask), self.start, strict=True))

    def flat(self) -> npt.NDArray[np.int64]:
        """Flat indices of its voxels in the grid, ascending."""
        return np.asarray(np.ravel_multi_index(self.index(), self.shape), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Claims:
    """What each of several candidates leaves out of a tissue: all that the others claim.

    Candidate k leaves out the voxels that anyone but itself claims, and keeps its own voxels.

    Attributes
    ----------
    counts
        ``(*shape,)`` whole numbers: how many candidates claim each voxel.
    own
        What each of those to be tested claims itself: its voxels with a gap around them.
    """

    counts: npt.NDArray[np.integer]
    own: Sequence[Piece]
