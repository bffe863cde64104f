"""Where else in a tissue a candidate's shape would fit: translations as runs of voxels.

A shape is a list of *runs*, stretches of voxels along the last axis. A place is named by the
flat index of the shape's anchor voxel. All arrays are three-dimensional (an image has a
first axis of length 1), C-ordered and flattened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.pieces import Piece

__all__ = ["Places", "Shape", "Tissue", "TissueField", "draw_places"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Anchors tried before all of them are: with one admissible anchor in sixteen this still succeeds.
_TRIES = 16


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def run_lengths(domain: npt.NDArray[np.uint8], row: int) -> npt.NDArray[np.int32]:
    """Number of tissue voxels in a row from each voxel on, itself included; 0 outside the tissue."""
    right = np.zeros(domain.size, dtype=np.int32)
    for start in range(0, domain.size, row):
        length = 0
        for i in range(start + row - 1, start - 1, -1):
            length = length + 1 if domain[i] else 0
            right[i] = length
    return right


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def cut_runs(
    right: npt.NDArray[np.int32], anchor: int, offsets: IntArray, lengths: IntArray, row: int
) -> npt.NDArray[np.int32]:
    """Run lengths of the tissue without the runs of a shape."""
    cut = right.copy()
    for run in range(offsets.size):
        start = anchor + offsets[run]
        cut[start : start + lengths[run]] = 0
        first = start - start % row
        # What runs up to the cut now ends there.
        i = start - 1
        while i >= first and cut[i] >= start - i:
            cut[i] = start - i
            i -= 1
    return cut


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def admissible(
    anchors: IntArray,
    right: npt.NDArray[np.int32],
    offsets: IntArray,
    lengths: IntArray,
    low: IntArray,
    high: IntArray,
    shape: IntArray,
    limit: int,
) -> IntArray:
    """Those of the anchors whose shape lies within the tissue; stops when `limit` are found."""
    found = np.empty(min(limit, anchors.size), dtype=np.int64)
    count = 0
    for anchor in anchors:
        if count == limit:
            break
        x = anchor % shape[2]
        y = (anchor // shape[2]) % shape[1]
        z = anchor // (shape[2] * shape[1])
        fits = (
            z + low[0] >= 0
            and y + low[1] >= 0
            and x + low[2] >= 0
            and z + high[0] < shape[0]
            and y + high[1] < shape[1]
            and x + high[2] < shape[2]
        )
        run = 0
        while fits and run < offsets.size:
            fits = right[anchor + offsets[run]] >= lengths[run]
            run += 1
        if fits:
            found[count] = anchor
            count += 1
    return found[:count]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def admissible_anywhere(
    right: npt.NDArray[np.int32], offsets: IntArray, lengths: IntArray, low: IntArray, high: IntArray, shape: IntArray
) -> IntArray:
    """All anchors whose shape lies within the tissue, ascending.

    Where a run of the shape does not fit, it fits nowhere before the end of the tissue's run either, so rows are
    crossed in leaps; and the run that failed last is looked at first, for it mostly fails at the next place too.
    """
    found = np.empty(right.size, dtype=np.int64)
    count = suspect = 0
    for z in range(-low[0], shape[0] - high[0]):
        for y in range(-low[1], shape[1] - high[1]):
            row = (z * shape[1] + y) * shape[2]
            anchor, end = row - low[2], row + shape[2] - high[2]
            while anchor < end:
                length = right[anchor + offsets[suspect]]
                if length < lengths[suspect]:
                    anchor += length + 1
                    continue
                run = 0
                while run < offsets.size and right[anchor + offsets[run]] >= lengths[run]:
                    run += 1
                if run == offsets.size:
                    found[count] = anchor
                    count += 1
                    anchor += 1
                else:
                    suspect = run
    return found[:count]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def overlapping(
    anchors: IntArray,
    origin: int,
    offsets: IntArray,
    lengths: IntArray,
    extent: IntArray,
    shape: IntArray,
    candidate: npt.NDArray[np.uint8],
) -> BoolArray:
    """Whether the shape placed at each anchor shares a voxel with the candidate (anchored at `origin`)."""
    shares = np.zeros(anchors.size, dtype=np.bool_)
    x0, y0, z0 = origin % shape[2], (origin // shape[2]) % shape[1], origin // (shape[2] * shape[1])
    for i in range(anchors.size):
        anchor = anchors[i]
        x, y, z = anchor % shape[2], (anchor // shape[2]) % shape[1], anchor // (shape[2] * shape[1])
        if abs(x - x0) >= extent[2] or abs(y - y0) >= extent[1] or abs(z - z0) >= extent[0]:
            continue
        for run in range(offsets.size):
            start = anchor + offsets[run]
            for j in range(start, start + lengths[run]):
                if candidate[j]:
                    shares[i] = True
                    break
            if shares[i]:
                break
    return shares


@dataclass(frozen=True, eq=False)
class TissueField:
    """A domain cropped to its bounding box, in three dimensions, with the features of its voxels.

    Attributes
    ----------
    box
        Where the domain lies in the full grid.
    shape
        Shape of the full grid.
    domain
        Three-dimensional bool, C-ordered; its last axis is the one with the fewest runs.
    values
        ``(voxels, d)`` float64 features, in the order of the flat index of `domain`.
    order
        Axes of the cropped grid in `domain`.
    """

    box: tuple[slice, ...]
    shape: tuple[int, ...]
    domain: BoolArray
    values: npt.NDArray[np.float64]
    order: tuple[int, ...]

    @classmethod
    def of(cls, features: npt.NDArray[np.floating], domain: BoolArray) -> TissueField:
        """Crop and arrange features ``(*shape,)`` or ``(*shape, d)`` of a domain ``(*shape,)``."""
        if domain.ndim not in (1, 2, 3) or features.ndim not in (domain.ndim, domain.ndim + 1):
            raise InputError(f"features {features.shape} do not fit a domain of shape {domain.shape}")
        if features.shape[: domain.ndim] != domain.shape:
            raise InputError(f"features {features.shape} do not fit a domain of shape {domain.shape}")
        domain = domain.astype(bool, copy=False)
        if not domain.any():
            raise InputError("the domain is empty: there is no tissue to compare with")
        box = []
        for axis in range(domain.ndim):
            along = np.flatnonzero(domain.any(axis=tuple(a for a in range(domain.ndim) if a != axis)))
            box.append(slice(int(along[0]), int(along[-1]) + 1))
        inside = domain[tuple(box)]
        inside = inside.reshape((1,) * (3 - domain.ndim) + inside.shape)
        # Work is proportional to the runs, so these should be long: along the axis where the tissue has the fewest.
        runs = [_count_runs(inside, axis) for axis in range(3)]
        last = int(np.argmin(runs))
        order = (*(axis for axis in range(3) if axis != last), last)
        values = features[tuple(box)].reshape(*inside.shape, -1).transpose(*order, 3)
        inside = np.ascontiguousarray(inside.transpose(order))
        chosen: npt.NDArray[np.float64] = values[inside].astype(np.float64)
        if not np.isfinite(chosen).all():
            raise InputError("a feature in the domain is NaN or infinite: leave such voxels out of the domain")
        return cls(tuple(box), domain.shape, inside, chosen, order)

    def voxels(self, mask: BoolArray | Piece, name: str) -> IntArray:
        """Flat indices, in the box, of a mask on the full grid that must lie within the domain."""
        piece = Piece.of(mask)
        if piece.shape != self.shape:
            raise InputError(f"the {name} has shape {piece.shape}, the domain {self.shape}")
        inside, total = self._numbers(piece)
        if inside.size != total or not self.domain.reshape(-1)[inside].all():
            raise InputError(f"the {name} leaves the domain: add its voxels to the tissue")
        return inside

    def shared(self, mask: BoolArray | Piece) -> IntArray:
        """Flat indices, in the box, of what a mask on the full grid shares with the domain."""
        inside, _ = self._numbers(Piece.of(mask))
        return inside[self.domain.reshape(-1)[inside]]

    def arranged(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array on the full grid cropped and arranged like `domain`."""
        inside = array[self.box]
        inside = inside.reshape((1,) * (3 - inside.ndim) + inside.shape)
        return np.ascontiguousarray(inside.transpose(self.order))

    def _numbers(self, piece: Piece) -> tuple[IntArray, int]:
        """Flat indices, in the box, of a piece of the full grid, ascending, and how many voxels it has anywhere."""
        where = piece.index()
        total = where[0].size
        held = np.ones(total, dtype=bool)
        for index, edge in zip(where, self.box, strict=True):
            held &= (index >= edge.start) & (index < edge.stop)
        zero = np.zeros(np.count_nonzero(held), dtype=np.int64)
        cropped = [index[held] - edge.start for index, edge in zip(where, self.box, strict=True)]
        axes = [*[zero] * (3 - len(where)), *cropped]
        flat = np.ravel_multi_index([axes[axis] for axis in self.order], self.domain.shape)
        return np.sort(flat), total


def _count_runs(mask: BoolArray, axis: int) -> int:
    along = np.moveaxis(mask, axis, 0)
    return int(np.count_nonzero(along) - np.count_nonzero(along[1:] & along[:-1]))


@dataclass(frozen=True, eq=False)
class Tissue:
    """A domain ready to be searched for places.

    Attributes
    ----------
    shape
        ``(3,)`` voxels along each axis.
    voxels
        Flat indices of the tissue's voxels, ascending.
    right
        Run lengths, see `run_lengths`.
    added
        Flat indices of voxels that belong to it besides `voxels`, ascending: a copy of all for the few of one
        candidate would cost more than the search.
    """

    shape: IntArray
    voxels: IntArray
    right: npt.NDArray[np.int32]
    added: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def size(self) -> int:
        """Number of its voxels."""
        return int(self.voxels.size + self.added.size)

    def numbered(self, ranks: IntArray) -> IntArray:
        """Flat indices of the voxels with these ranks in ascending order."""
        if not self.added.size:
            return self.voxels[ranks]
        own = np.searchsorted(self.voxels, self.added) + np.arange(self.added.size)
        before = np.searchsorted(own, ranks, side="right")
        last = np.maximum(before - 1, 0)
        found = self.voxels[np.minimum(ranks - before, self.voxels.size - 1)] if self.voxels.size else self.added[last]
        return np.where((before > 0) & (own[last] == ranks), self.added[last], found)

    @classmethod
    def of(cls, domain: BoolArray) -> Tissue:
        """Prepare a three-dimensional domain; O(voxels)."""
        flat = np.ascontiguousarray(domain).reshape(-1)
        return cls(
            np.array(domain.shape, dtype=np.int64),
            np.flatnonzero(flat),
            run_lengths(flat.view(np.uint8), domain.shape[2]),
        )

    def without(self, gone: Shape) -> Tissue:
        """The tissue without a shape at its own place."""
        right = cut_runs(self.right, gone.anchor, gone.offsets, gone.lengths, int(self.shape[2]))
        return Tissue(self.shape, np.flatnonzero(right != 0), right)


@dataclass(frozen=True, eq=False)
class Shape:
    """A candidate as runs relative to its anchor, the voxel of it nearest to its centroid.

    Attributes
    ----------
    anchor
        Flat index of the anchor.
    size
        Number of voxels.
    offsets, lengths
        Flat offset from the anchor, and length, of each run; the outermost runs first, since
        they are the first to leave the tissue.
    low, high
        ``(3,)`` corners of the bounding box relative to the anchor, both inclusive.
    """

    anchor: int
    size: int
    offsets: IntArray
    lengths: IntArray
    low: IntArray
    high: IntArray

    @classmethod
    def of(cls, voxels: IntArray, shape: IntArray) -> Shape:
        """Shape of the voxels with these flat indices (ascending, at least one)."""
        where = np.unravel_index(voxels, tuple(shape))
        distance = np.sum([(index - index.mean()) ** 2 for index in where], axis=0)
        nearest = int(distance.argmin())
        # A run ends where the next voxel is not the next index, or begins a new row.
        first = np.flatnonzero((np.diff(voxels, prepend=voxels[0] - 2) != 1) | (where[2] == 0))
        lengths = np.diff(first, append=voxels.size)
        order = np.argsort(-distance[first], kind="stable")
        return cls(
            int(voxels[nearest]),
            int(voxels.size),
            (voxels[first] - voxels[nearest])[order],
            lengths[order].astype(np.int64),
            np.array([index.min() - index[nearest] for index in where]),
            np.array([index.max() - index[nearest] for index in where]),
        )


@dataclass(frozen=True, eq=False)
class Places:
    """Other places of a shape in a tissue.

    Attributes
    ----------
    anchors
        Flat indices, the candidate's own not among them.
    overlaps
        Which of them share a voxel with the candidate.
    enumerated
        True when these are all the admissible places there are, False for a uniform sample
        without replacement.
    """

    anchors: IntArray
    overlaps: BoolArray
    enumerated: bool


def draw_places(shape: Shape, tissue: Tissue, n_draws: int | None, rng: np.random.Generator) -> Places:
    """All other admissible places when they are at most `n_draws`, else `n_draws` of them at random.

    Parameters
    ----------
    shape
        The candidate's shape; its own place must be admissible.
    tissue
        Where it must lie.
    n_draws
        Places wanted; None for all of them.
    rng
        Generator of the sample.

    Returns
    -------
    Places
        By index.

    Guarantee
    ---------
    Given the candidate's place, the sample is uniform among the subsets of that size of the
    other admissible places: if the candidate's place is uniform too, the two together are
    exchangeable.
    """
    bounds = (shape.low, shape.high, tissue.shape)
    n_voxels = tissue.size
    wanted = n_voxels if n_draws is None else n_draws
    found = np.empty(0, dtype=np.int64)
    if n_voxels > 2 * _TRIES * wanted:
        tried = tissue.numbered(rng.integers(n_voxels, size=_TRIES * wanted))
        # Dropping repeats in order of appearance leaves a sample without replacement.
        tried = tried[np.sort(np.unique(tried, return_index=True)[1])]
        tried = tried[tried != shape.anchor]
        found = np.asarray(admissible(tried, tissue.right, shape.offsets, shape.lengths, *bounds, wanted))
    enumerated = False
    if found.size < wanted:
        found = np.asarray(admissible_anywhere(tissue.right, shape.offsets, shape.lengths, *bounds))
        found = found[found != shape.anchor]
        enumerated = found.size <= wanted
        if not enumerated:
            found = rng.choice(found, wanted, replace=False)
    found = np.sort(found)  # neighbours share memory
    candidate = np.zeros(tissue.right.size, dtype=np.uint8)
    for offset, length in zip(shape.offsets, shape.lengths, strict=True):
        candidate[shape.anchor + offset : shape.anchor + offset + length] = 1
    extent = shape.high - shape.low + 1
    overlaps = overlapping(found, shape.anchor, shape.offsets, shape.lengths, extent, tissue.shape, candidate)
    return Places(found, overlaps, enumerated)
