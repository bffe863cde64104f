"""The tissue of a surrogate test: cropped, and averaged over blocks until it is small enough to simulate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.ball_scan import block_sums
from anatrust.statistics.pieces import Piece

__all__ = ["CoarseTissue", "grown"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Voxels at which the tissue is simulated at most, for one feature and for several.
_MAX_VOXELS, _MAX_VOXELS_MANY = 30_000, 8_000


@dataclass(frozen=True, eq=False)
class CoarseTissue:
    """The tissue cropped and averaged over blocks.

    Attributes
    ----------
    mask
        ``(*shape,)``: blocks at least half of which is tissue or candidate.
    spacing
        Of the blocks.
    fields
        ``(d, *shape)`` means of the features over the tissue in each block.
    candidates
        ``(*shape,)`` each: the share of each block's tissue that is the candidate.
    """

    mask: BoolArray
    spacing: tuple[float, ...]
    fields: FloatArray
    candidates: list[FloatArray]

    @classmethod
    def of(
        cls,
        features: npt.NDArray[np.floating],
        domain: BoolArray,
        candidates: Sequence[BoolArray | Piece],
        spacing: Sequence[float] | None,
    ) -> CoarseTissue:
        """Check the input of a surrogate test and make it small.

        Parameters
        ----------
        features, domain, candidates, spacing
            As in `anatrust.statistics.surrogate.surrogate_max_test`.

        Raises
        ------
        InputError
            If shapes do not agree, a candidate is empty, a feature is not finite or the spacing is not positive.
        """
        ndim = domain.ndim
        if ndim not in (2, 3) or features.ndim not in (ndim, ndim + 1) or features.shape[:ndim] != domain.shape:
            raise InputError(f"features {features.shape} do not fit a domain of shape {domain.shape}")
        voxels = []
        for number, candidate in enumerate(candidates):
            piece = Piece.of(candidate)
            if piece.shape != domain.shape:
                raise InputError(f"candidate {number} has shape {piece.shape}, the domain {domain.shape}")
            voxels.append(piece.flat())
            if not voxels[-1].size:
                raise InputError(f"candidate {number} is empty: there is nothing to test")
        step = np.ones(ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
        if step.shape != (ndim,) or not (np.isfinite(step).all() and (step > 0).all()):
            raise InputError(f"the spacing must be {ndim} positive numbers, not {spacing}")
        tissue = domain.astype(bool)
        tissue.reshape(-1)[np.concatenate(voxels)] = True
        box = []
        for axis in range(ndim):
            along = np.flatnonzero(tissue.any(axis=tuple(a for a in range(ndim) if a != axis)))
            box.append(slice(int(along[0]), int(along[-1]) + 1))
        tissue = tissue[tuple(box)]
        values = features[tuple(box)].reshape(*tissue.shape, -1)
        if not np.isfinite(values[tissue]).all():
            raise InputError("a feature in the domain is NaN or infinite: leave such voxels out of the domain")
        limit = _MAX_VOXELS if values.shape[-1] == 1 else _MAX_VOXELS_MANY
        inside, factors = tissue.astype(np.float32), np.ones(ndim, dtype=int)
        share = inside
        while np.count_nonzero(share >= 0.5 * factors.prod()) > limit:
            # One finest axis at a time becomes a voxel coarser until the tissue is small enough.
            factors[int(np.argmin(np.round(step * factors, 6)))] += 1
            share = block_sums(inside, factors)
        mask = share >= 0.5 * factors.prod()
        amount = np.where(mask, share, np.float32(1.0))
        sums = block_sums(np.where(tissue[..., None], values, 0).astype(np.float32), factors)
        fields = np.moveaxis(np.where(mask[..., None], sums / amount[..., None], np.float32(0.0)), -1, 0)
        held = []
        for own in voxels:
            where = [i - edge.start for i, edge in zip(np.unravel_index(own, domain.shape), box, strict=True)]
            blocks = np.ravel_multi_index([i // f for i, f in zip(where, factors, strict=True)], mask.shape)
            counts = np.bincount(blocks, minlength=mask.size).reshape(mask.shape).astype(np.float32)
            held.append(np.where(mask, counts / amount, np.float32(0.0)))
        return cls(mask, tuple(step * factors), np.ascontiguousarray(fields), held)


def grown(mask: BoolArray) -> BoolArray:
    """A mask and its neighbours, which a blurred object also reaches."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(mask.ndim))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(mask.ndim))
        grown[ahead] |= mask[behind]
        grown[behind] |= mask[ahead]
    return grown
