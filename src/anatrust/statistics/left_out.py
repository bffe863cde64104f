"""The tissue of one candidate after another: what each leaves out of the tissue they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numba
import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.pieces import Claims, Piece
from anatrust.statistics.places import Shape, Tissue, TissueField

__all__ = ["ClaimedTissue", "MaskedTissue"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def join_voxels(right: npt.NDArray[np.int32], voxels: IntArray, row: int) -> None:
    """Run lengths of the tissue with further voxels (ascending, none of them in it), in place."""
    for k in range(voxels.size - 1, -1, -1):
        voxel = voxels[k]
        right[voxel] = 1 + (right[voxel + 1] if (voxel + 1) % row else 0)
        # What ran up to the gap now goes on.
        i, first = voxel - 1, voxel - voxel % row
        while i >= first and right[i]:
            right[i] = right[i + 1] + 1
            i -= 1


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def cut_voxels(right: npt.NDArray[np.int32], voxels: IntArray, row: int) -> None:
    """Undo `join_voxels`."""
    for voxel in voxels:
        right[voxel] = 0
        i, first = voxel - 1, voxel - voxel % row
        while i >= first and right[i] >= voxel - i:
            right[i] = voxel - i
            i -= 1


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def runs_without(starts: IntArray, lengths: IntArray, voxels: IntArray) -> tuple[IntArray, IntArray]:
    """Runs (ascending) without some of their voxels (ascending): starts and lengths of what is left."""
    first = np.empty(starts.size + voxels.size, dtype=np.int64)
    size = np.empty(starts.size + voxels.size, dtype=np.int64)
    count = k = 0
    for run in range(starts.size):
        start, end = starts[run], starts[run] + lengths[run]
        while k < voxels.size and voxels[k] < end:
            if voxels[k] > start:
                first[count], size[count] = start, voxels[k] - start
                count += 1
            start = voxels[k] + 1
            k += 1
        if start < end:
            first[count], size[count] = start, end - start
            count += 1
    return first[:count], size[:count]


class MaskedTissue:
    """The tissue of each candidate where a mask says what it leaves out: O(voxels of the box) a candidate."""

    def __init__(self, whole: TissueField, excluded: Sequence[BoolArray | None]) -> None:
        self._whole = whole
        self._excluded = excluded
        self._tissue = Tissue.of(whole.domain)

    @contextmanager
    def of_candidate(self, number: int, voxels: IntArray) -> Iterator[tuple[Tissue, Shape | None]]:
        """The tissue of a candidate of these voxels, and what is left out of it, if anything."""
        left_out = self._excluded[number]
        # What is left out may reach beyond the tissue; only what lies in it matters.
        gone = np.empty(0, dtype=np.int64) if left_out is None else self._whole.shared(left_out)
        if not gone.size:
            yield self._tissue, None
            return
        # Both are ascending.
        if (gone[np.minimum(np.searchsorted(gone, voxels), gone.size - 1)] == voxels).any():
            raise InputError("what is left out of the domain touches the candidate: exclude the others only")
        removed = Shape.of(gone, self._tissue.shape)
        yield self._tissue.without(removed), removed


@dataclass(frozen=True, eq=False)
class ClaimedTissue:
    """The tissue of each candidate where all leave out what the others claim.

    `base` is the tissue that nobody claims, and `starts` and `lengths` are the runs of what somebody does: for one
    candidate a few voxels near it change sides, and afterwards back. O(candidate + runs) a candidate.
    """

    whole: TissueField
    own: Sequence[Piece]
    counts: npt.NDArray[np.integer]
    base: Tissue
    starts: IntArray
    lengths: IntArray

    @classmethod
    def of(cls, whole: TissueField, claims: Claims) -> ClaimedTissue:
        """Prepare what all candidates share; O(voxels)."""
        if claims.counts.shape != whole.shape:
            raise InputError(f"the claims have shape {claims.counts.shape}, the domain {whole.shape}")
        counts = whole.arranged(claims.counts)
        claimed = whole.domain & (counts > 0)
        edges = np.diff(claimed.view(np.int8), axis=2, prepend=0, append=0).reshape(-1)
        row = counts.shape[2]
        # With the edge after its last voxel each row has one more.
        first, last = (np.flatnonzero(edges == sign) for sign in (1, -1))
        starts, ends = first - first // (row + 1), last - last // (row + 1)
        base = Tissue.of(whole.domain & ~claimed)
        return cls(whole, claims.own, counts.reshape(-1), base, starts, ends - starts)

    @contextmanager
    def of_candidate(self, number: int, voxels: IntArray) -> Iterator[tuple[Tissue, Shape | None]]:
        """The tissue of a candidate of these voxels, valid until the context ends, and what is left out of it."""
        near = self.whole.shared(self.own[number])
        # What it alone claims is not left out, nor are its own voxels where others come close.
        back = np.union1d(near[self.counts[near] == 1], voxels)
        back = back[self.counts[back] > 0]
        row = int(self.base.shape[2])
        join_voxels(self.base.right, back, row)
        try:
            yield replace(self.base, added=back), self._left(back)
        finally:
            cut_voxels(self.base.right, back, row)

    def _left(self, back: IntArray) -> Shape | None:
        """What is left out when some voxels are not."""
        starts, lengths = runs_without(self.starts, self.lengths, back)
        if not starts.size:
            return None
        anchor, extent = int(starts[0]), self.base.shape
        place = np.array(np.unravel_index(anchor, tuple(extent)))
        # It is never laid anywhere else, so any box that holds it will do.
        return Shape(anchor, int(lengths.sum()), starts - anchor, lengths, -place, extent - 1 - place)
