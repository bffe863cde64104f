"""Features at the encoder's own resolution, and their lift to voxels or to the nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.volumes import Scan
from anatrust.models.protocols import Encoder

__all__ = ["PatchEncoder", "PatchFeatures", "cells_of"]


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Features of an image's cells (patches of slices), and which cell each voxel lies in.

    Parameters
    ----------
    values
        ``(*cells, d)`` float32, finite; one axis of cells an image axis.
    owners
        For each image axis the cell of every voxel along it, int64, in 0..cells-1.

    Raises
    ------
    InputError
        If they do not fit together or a value is not finite.

    Notes
    -----
    A volume of 512×512×300 voxels with 384 features a voxel is 121 GB; the same at 32×32 patches a
    slice is 0.5 GB. Both :meth:`lifted` and :meth:`block_means` see the same piecewise constant image.
    """

    values: npt.NDArray[np.float32]
    owners: tuple[npt.NDArray[np.int64], ...]

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float32)
        owners = tuple(np.asarray(owner, dtype=np.int64) for owner in self.owners)
        if values.ndim != len(owners) + 1 or any(o.ndim != 1 or o.size == 0 for o in owners):
            raise InputError(f"features of shape {values.shape} do not fit an image of {len(owners)} axes")
        if any(o.min() < 0 or o.max() >= n for o, n in zip(owners, values.shape, strict=False)):
            raise InputError("a voxel lies in a cell that has no features")
        if not np.isfinite(values).all():
            raise InputError("the encoder gave NaN or infinite features: check its weights and the scan's grey values")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "owners", owners)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""
        return tuple(owner.size for owner in self.owners)

    def lifted(self) -> npt.NDArray[np.float32]:
        """Features of every voxel, ``(*shape, d)``: those of its cell."""
        result = self.values
        for axis, owner in enumerate(self.owners):
            result = np.take(result, owner, axis=axis)
        return result

    def block_means(self, size: Sequence[int]) -> npt.NDArray[np.float64]:
        """Mean features of blocks of voxels, ``(blocks, d)``, without ever making :meth:`lifted`.

        The lift is separable, so the mean over a block is one small matrix an axis. Equal to
        averaging :meth:`lifted` over blocks of ``size`` voxels (those at the far border may be smaller).

        Examples
        --------
        >>> features = PatchFeatures(np.array([[1.0], [3.0]]), (np.array([0, 0, 0, 1]),))
        >>> features.block_means([2]).ravel().tolist()
        [1.0, 2.0]
        """
        if len(size) != len(self.owners) or min(size) < 1:
            raise InputError(f"blocks of {tuple(size)} voxels do not divide an image of {len(self.owners)} axes")
        result = self.values.astype(np.float64)
        for axis, (owner, edge) in enumerate(zip(self.owners, size, strict=True)):
            blocks = np.arange(owner.size) // edge
            shares = np.zeros((blocks[-1] + 1, self.values.shape[axis]))
            np.add.at(shares, (blocks, owner), 1.0)
            shares /= shares.sum(axis=1, keepdims=True)
            result = np.moveaxis(np.tensordot(shares, result, axes=(1, axis)), 0, axis)
        return result.reshape(-1, result.shape[-1])

    def standardised(self) -> PatchFeatures:
        """The same with zero mean and unit deviation of each feature over the image's voxels."""
        weights = np.ones(())
        for axis, owner in enumerate(self.owners):
            weights = np.multiply.outer(weights, np.bincount(owner, minlength=self.values.shape[axis]))
        flat = self.values.reshape(-1, self.values.shape[-1]).astype(np.float64)
        mass = weights.ravel() / weights.sum()
        mean = mass @ flat
        deviation = np.sqrt(mass @ (flat - mean) ** 2)
        scaled = (flat - mean) / np.where(deviation > 0, deviation, 1.0)
        return PatchFeatures(scaled.reshape(self.values.shape).astype(np.float32), self.owners)


@runtime_checkable
class PatchEncoder(Encoder, Protocol):
    """An encoder that also gives its features at its own resolution."""

    def encode_patches(self, scan: Scan) -> PatchFeatures:
        """Features of the scan's cells."""


def cells_of(voxels: int, cells: int) -> npt.NDArray[Any]:
    """The cell each of ``voxels`` voxels lies in when an axis is divided into ``cells`` equal cells."""
    return ((np.arange(voxels) + 0.5) * cells / voxels).astype(np.int64)
