"""What a whole scan looks like, in one vector and in patches: what the bank compares.

Two scans compare only if both are volumes or both are images. The embedded description needs no
weights: coarse grey values, directions of edges in cells, and the grey-value histogram, each
centred, so that a cosine is a weighted mean of correlations. Any encoder (DINO, for instance)
may take its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.orientation import canonical
from anatrust.image.volumes import Scan
from anatrust.models.protocols import Encoder

__all__ = ["Described", "ScanDescriptor", "mutual_share", "reduced"]

Floats = npt.NDArray[np.float32]

_CELLS = {2: 12, 3: 8}
_PIXELS = 4  # a cell's edge, in pixels of the reduced scan
_DIRECTIONS = {2: 8, 3: 6}
_BINS = 24
_SHARES = (0.5, 0.35, 0.15)
_REACH = 2


@dataclass(frozen=True, eq=False)
class Described:
    """One vector of length 1 for the whole scan, and one for each of its cells (rows, length 1)."""

    whole: Floats
    patches: Floats


@dataclass(frozen=True)
class ScanDescriptor:
    """Describes scans, with an encoder of patch features or, without one, by hand.

    Parameters
    ----------
    encoder
        Any `Encoder`; its features are averaged over the cells and over the scan. None: the
        embedded description.
    """

    encoder: Encoder | None = None

    @property
    def identity(self) -> str:
        """Equal identities give comparable vectors; stored in the bank."""
        return f"cells/1 {self.encoder.identity}" if self.encoder else "cells/1 greys, edges, histogram"

    def describe(self, scan: Scan) -> Described:
        """The vectors of a scan; the same whatever its storage order. Cost: one resampling, or the encoder's."""
        if self.encoder is None:
            return _by_hand(scan)
        features = np.asarray(self.encoder.encode(scan), dtype=np.float32)
        if features.shape[: scan.grid.ndim] != scan.grid.shape or not np.isfinite(features).all():
            raise InputError(f"the encoder {self.encoder.name} gave no finite features for every voxel")
        moved = canonical(features, scan.grid)[0]
        cells = np.stack([reduced(moved[..., f], _CELLS[scan.grid.ndim]) for f in range(moved.shape[-1])], axis=-1)
        patches = cells.reshape(-1, cells.shape[-1])
        return Described(_unit(np.concatenate([patches.mean(axis=0), patches.std(axis=0)])), _unit(patches))


def mutual_share(one: Floats, other: Floats, ndim: int) -> float:
    """Share of patches that choose each other, about where they should lie.

    Parameters
    ----------
    one, other
        Patches of two scans, ``(cells**ndim, d)``, rows of length 1, in the order of the cells.
    ndim
        2 or 3.

    Returns
    -------
    float
        Mutual nearest neighbours no more than two cells apart, over all patches. Cost: one
        matrix of patches × patches.
    """
    alike = one @ other.T
    there, back = alike.argmax(axis=1), alike.argmax(axis=0)
    own = np.arange(len(one))
    mutual = back[there] == own
    shape = (_CELLS[ndim],) * ndim
    apart = np.abs(np.stack(np.unravel_index(own, shape)) - np.stack(np.unravel_index(there, shape))).max(axis=0)
    return float((mutual & (apart <= _REACH)).mean())


def _by_hand(scan: Scan) -> Described:
    ndim = scan.grid.ndim
    cells, size = _CELLS[ndim], _CELLS[ndim] * _PIXELS
    array = canonical(scan.array, scan.grid)[0].astype(np.float32)
    low, high = (float(v) for v in np.percentile(array, (0.5, 99.5)))
    if not high > low:
        raise InputError("the scan has one grey value nearly everywhere: there is nothing to describe")
    small = reduced(np.clip((array - low) / (high - low), 0, 1), size)
    slopes = [np.asarray(s, dtype=np.float32) for s in np.gradient(small)]
    strength = np.sqrt(np.sum([s**2 for s in slopes], axis=0))
    kinds = _directions(slopes, strength)

    def in_cells(values: Floats) -> Floats:
        return np.asarray(_blocks(values, cells).mean(axis=-1))

    grey = in_cells(small)
    edges = np.stack([in_cells(np.where(kinds == k, strength, 0)) for k in range(_DIRECTIONS[ndim])], axis=-1)
    histogram = np.sqrt(np.histogram(small, bins=_BINS, range=(0, 1))[0] / small.size).astype(np.float32)
    parts = [_unit(_centred(p.ravel())) for p in (grey, edges, histogram)]
    whole = np.concatenate([np.sqrt(w) * p for w, p in zip(_SHARES, parts, strict=True)]).astype(np.float32)
    spread = _blocks(small, cells).std(axis=-1)
    scale = float(edges.std()) or 1.0
    local = np.concatenate([_centred(grey)[..., None], spread[..., None], 0.05 * edges / scale], axis=-1)
    return Described(whole, _unit(local.reshape(-1, local.shape[-1])))


def _directions(slopes: list[Floats], strength: Floats) -> npt.NDArray[np.intp]:
    """The direction of each edge: eight sectors in the plane, in space the axis and sign it is closest to."""
    if len(slopes) == 2:
        angle = np.arctan2(slopes[1], slopes[0])
        return np.asarray(np.floor((angle + np.pi) / (2 * np.pi) * 8).astype(np.intp) % 8)
    stacked = np.stack(slopes)
    axis = np.abs(stacked).argmax(axis=0)
    sign = np.take_along_axis(stacked, axis[None], axis=0)[0] > 0
    return np.asarray(2 * axis + sign, dtype=np.intp) if strength.size else axis


def reduced(array: Floats, size: int) -> Floats:
    """Block means on ``size`` cells an axis, exact for any number of voxels; linear where there are fewer.

    Examples
    --------
    >>> reduced(np.arange(6, dtype=np.float32), 3), reduced(np.array([1, 2, 6], np.float32), 2)
    (array([0.5, 2.5, 4.5], dtype=float32), array([1.3333334, 4.6666665], dtype=float32))
    """
    from scipy import ndimage

    work = array
    for axis, n in enumerate(array.shape):
        if n >= size:
            # Means over equal parts, edges shared between neighbours: exact whatever n / size is.
            total = np.concatenate(
                [np.zeros_like(np.take(work, [0], axis)), np.cumsum(work, axis, dtype=np.float64)], axis
            )
            at = np.linspace(0, n, size + 1)
            lower = np.floor(at).astype(int)
            part = (at - lower).reshape([-1 if a == axis else 1 for a in range(work.ndim)])
            upper = np.minimum(lower + 1, n)
            sums = np.take(total, lower, axis) * (1 - part) + np.take(total, upper, axis) * part
            work = np.diff(sums, axis=axis) / (n / size)
        else:
            factor = [1.0] * work.ndim
            factor[axis] = size / n
            work = ndimage.zoom(work, factor, order=1, grid_mode=True, mode="nearest")
    return np.asarray(work, dtype=np.float32)


def _blocks(values: Floats, cells: int) -> Floats:
    """Values of each cell along a last axis: shape ``(cells, ..., pixels)``."""
    ndim = values.ndim
    split = values.reshape([v for _ in range(ndim) for v in (cells, _PIXELS)])
    return split.transpose([*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2)]).reshape(*(cells,) * ndim, -1)


def _centred(values: Floats) -> Floats:
    return np.asarray(values - values.mean())


def _unit(values: Floats) -> Floats:
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.maximum(length, 1e-12), dtype=np.float32)
