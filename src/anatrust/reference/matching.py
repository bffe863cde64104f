"""Dense matching of two scans by local features, without training: which place of one is which of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.protocols import Encoder
from anatrust.reference.descriptor import reduced

__all__ = ["Cells", "Matches", "cells_of", "label_shares", "match_cells"]

Floats = npt.NDArray[np.float32]

_CELLS = {2: 48, 3: 14}
_CONTEXTS = (3, 9)
_BEST = 5
_TEMPERATURE = 0.05
_ROUNDS = (0.35, 0.15, 0.08)
_PULL = 0.3


@dataclass(frozen=True, eq=False)
class Cells:
    """A scan in cells: features ``(cells, d)`` of length 1, and their centres ``(cells, axes)`` from 0 to 1."""

    features: Floats
    centres: Floats
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Matches:
    """What each cell of the target looks like in the reference.

    Parameters
    ----------
    best
        The most alike reference cells near the expected place, ``(cells, 5)``.
    weights
        Their weights, rows sum to 1.
    likeness
        Cosine with the best one, ``(cells,)``.
    mutual
        Whether the best one chooses this cell too.
    matrix
        Affine ``(axes, axes + 1)`` from target to reference places, fitted to mutual matches.
    """

    best: npt.NDArray[np.intp]
    weights: Floats
    likeness: Floats
    mutual: npt.NDArray[np.bool_]
    matrix: npt.NDArray[np.float64]


def cells_of(scan: Scan, encoder: Encoder) -> Cells:
    """Features of a scan's cells in canonical order, each with its surroundings at two scales.

    Every feature is brought to mean 0 and deviation 1 within the scan, so that brightness and
    contrast of two scanners compare. Cost: the encoder's, and one resampling a feature.
    """
    from scipy import ndimage

    count = _CELLS[scan.grid.ndim]
    features = canonical(np.asarray(encoder.encode(scan), dtype=np.float32), scan.grid)[0]
    small = np.stack([reduced(features[..., f], count) for f in range(features.shape[-1])], axis=-1)
    axes = tuple(range(scan.grid.ndim))
    small = (small - small.mean(axis=axes)) / np.maximum(small.std(axis=axes), 1e-6)
    around = [ndimage.uniform_filter(small, size=(*(size,) * scan.grid.ndim, 1), mode="nearest") for size in _CONTEXTS]
    every = np.concatenate([small, *around], axis=-1).reshape(count**scan.grid.ndim, -1)
    every /= np.maximum(np.linalg.norm(every, axis=1, keepdims=True), 1e-6)
    steps = np.meshgrid(*[(np.arange(count) + 0.5) / count] * scan.grid.ndim, indexing="ij")
    centres = np.stack([s.ravel() for s in steps], axis=-1).astype(np.float32)
    return Cells(every.astype(np.float32), centres, (count,) * scan.grid.ndim)


def match_cells(target: Cells, reference: Cells) -> Matches:
    """Match cells by likeness near where they are expected, and learn where that is.

    At first a cell is expected at the same share of the image; an affine fitted robustly to the
    matches that choose each other says it better, and the search narrows.

    Raises
    ------
    GeometryError
        If one is a volume and the other an image.

    References
    ----------
    Training-free matching as in Memory-SAM (arXiv 2510.15849), with a fitted affine in place of
    free nearest neighbours.
    """
    if target.shape != reference.shape:
        raise GeometryError("a volume and an image do not match: give a reference of the same kind")
    alike = target.features @ reference.features.T
    axes = len(target.shape)
    matrix: npt.NDArray[np.float64] = np.eye(axes, axes + 1)
    for reach in _ROUNDS:
        expected = target.centres @ matrix[:, :axes].T.astype(np.float32) + matrix[:, axes].astype(np.float32)
        score = alike - _apart(expected, reference.centres) * np.float32(_PULL / reach**2)
        there, back = score.argmax(axis=1), score.argmax(axis=0)
        mutual = back[there] == np.arange(len(there))
        matrix = _affine(target.centres[mutual], reference.centres[there[mutual]], alike[mutual, there[mutual]])
    order = np.argpartition(-score, _BEST, axis=1)[:, :_BEST]
    raw = np.take_along_axis(score, order, axis=1)
    weights = np.exp((raw - raw.max(axis=1, keepdims=True)) / _TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    likeness = alike[np.arange(len(there)), there]
    return Matches(order, weights.astype(np.float32), likeness, mutual, matrix)


def _apart(places: Floats, others: Floats) -> Floats:
    """Squared distances ``(places, others)``, by one product of matrices."""
    one = np.c_[-2.0 * places, np.ones(len(places)), (places.astype(np.float64) ** 2).sum(axis=1)]
    two = np.c_[others, (others.astype(np.float64) ** 2).sum(axis=1), np.ones(len(others))]
    return np.asarray(one @ two.T, dtype=np.float32)


def label_shares(labels: LabelMap, numbers: tuple[int, ...]) -> Floats:
    """Share of each label in each cell, background first: ``(cells, 1 + labels)``, rows sum to 1."""
    count = _CELLS[labels.grid.ndim]
    array = canonical(labels.array, labels.grid)[0]
    shares = np.stack([reduced((array == n).astype(np.float32), count).ravel() for n in numbers], axis=-1)
    return np.concatenate([np.clip(1 - shares.sum(axis=-1, keepdims=True), 0, 1), shares], axis=-1).astype(np.float32)


def _affine(places: Floats, others: Floats, alike: Floats) -> npt.NDArray[np.float64]:
    """An affine by iteratively reweighted least squares (Tukey's biweight), held near the identity."""
    axes = places.shape[1]
    design = np.concatenate([places, np.ones((len(places), 1))], axis=1).astype(np.float64)
    prior = np.eye(axes, axes + 1)
    weights = np.maximum(alike.astype(np.float64), 0)
    matrix: npt.NDArray[np.float64] = prior
    for _ in range(8):
        ridge = 1e-3 * max(len(places), 1)
        left = (design * weights[:, None]).T @ design + ridge * np.eye(axes + 1)
        right = (design * weights[:, None]).T @ others + ridge * prior.T
        matrix = np.asarray(np.linalg.solve(left, right).T, dtype=np.float64)
        off = np.linalg.norm(design @ matrix.T - others, axis=1)
        scale = 4.685 * max(1.4826 * float(np.median(off)), 0.01)
        weights = np.maximum(alike, 0) * np.where(off < scale, (1 - (off / scale) ** 2) ** 2, 0)
    return np.asarray(matrix)
