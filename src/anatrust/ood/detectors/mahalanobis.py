"""Mahalanobis distance to the usual crops, with the published preparations of the features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows, Standardiser, taken, times
from anatrust.ood.detectors.gaussian import Covariance, LowRankGaussian

__all__ = ["Mahalanobis", "Normalisation", "Transform", "unit_length"]

Normalisation = Literal["none", "zscore", "l2"]
Transform = Literal["none", "react", "react-per-feature", "ash-p", "ash-s"]


def unit_length(rows: Rows) -> Rows:
    """Rows divided by their Euclidean length; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


@dataclass
class Mahalanobis(Detector):
    """Squared distance to the Gaussian of usual crops; needs no strange scans unless ``relative``.

    Parameters
    ----------
    covariance
        ``"ledoit_wolf"`` or ``"empirical"`` (with a ridge of 1e-5 of the mean variance).
    normalise
        ``"l2"`` unit length (Mahalanobis++, ICML 2025), ``"zscore"``, ``"none"``.
    transform
        ``"react"``: clip at one percentile of all activations together (Sun et al. 2021);
        ``"react-per-feature"``: at each feature's own (as RF-Deep's baseline does);
        ``"ash-p"``: zero the smaller part of each row by size; ``"ash-s"``: that, and scale by
        exp(sum before / sum after) (Djurisic et al. 2023, on non-negative activations).
    percentile
        Of ``transform``.
    pca
        Share of the variance whose directions are kept, 1 for all (Woodland et al. 2024 use few).
    relative
        Subtract the distance to the Gaussian of usual and strange crops together (Ren et al.
        2021; the background there is all classes, of which a segmenter has one). Needs strange
        scans.

    Raises
    ------
    InputError
        If a setting is unknown or impossible.
    """

    name: ClassVar[str] = "mahalanobis"

    covariance: Covariance = "ledoit_wolf"
    normalise: Normalisation = "none"
    transform: Transform = "none"
    percentile: float = 90.0
    pca: float = 1.0
    relative: bool = False
    _scales: Standardiser | None = field(default=None, init=False, repr=False, compare=False)
    _cuts: Rows = field(default_factory=lambda: np.empty(0), init=False, repr=False, compare=False)
    _basis: Rows | None = field(default=None, init=False, repr=False, compare=False)
    _gaussian: LowRankGaussian = field(init=False, repr=False, compare=False)
    _background: LowRankGaussian | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for value, known in (
            (self.covariance, Covariance),
            (self.normalise, Normalisation),
            (self.transform, Transform),
        ):
            if value not in get_args(known):
                raise InputError(
                    f"unknown setting {value!r} of mahalanobis: choose one of {', '.join(get_args(known))}"
                )
        if not 0 < self.percentile < 100 or not 0 < self.pca <= 1:
            raise InputError("the percentile lies between 0 and 100 and the share of variance in (0, 1]")

    @property
    def needs_outliers(self) -> bool:
        """Only the relative distance does."""
        return self.relative

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        names = ("covariance", "normalise", "transform", "percentile", "pca", "relative")
        return {name: getattr(self, name) for name in names}

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        del levels, seed
        rows = np.concatenate(inside)
        self._scales = Standardiser.of(rows) if self.normalise == "zscore" else None
        rows = self._normalised(rows)
        if self.transform == "react":
            self._cuts = np.full(rows.shape[1], np.percentile(rows, self.percentile))
        elif self.transform == "react-per-feature":
            self._cuts = np.percentile(rows, self.percentile, axis=0)
        rows = self._transformed(rows)
        self._basis = None
        if self.pca < 1:
            _, singular, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
            explained = np.cumsum(singular**2)
            kept = int(np.searchsorted(explained, self.pca * explained[-1])) + 1
            self._basis = directions[:kept]
        self._gaussian = LowRankGaussian.fit(self._projected(rows), self.covariance)
        self._background = None
        if self.relative:
            both = self._projected(self._prepared(np.concatenate(inside + outside)))
            self._background = LowRankGaussian.fit(both, self.covariance)

    def _normalised(self, rows: Rows) -> Rows:
        if self.normalise == "l2":
            return unit_length(rows)
        return self._scales.apply(rows) if self._scales is not None else rows

    def _transformed(self, rows: Rows) -> Rows:
        if self.transform == "none":
            return rows
        if self.transform.startswith("react"):
            return np.minimum(rows, self._cuts)
        size = np.abs(rows)
        pruned = np.where(size < np.percentile(size, self.percentile, axis=1, keepdims=True), 0.0, rows)
        if self.transform == "ash-p":
            return pruned
        before, after = rows.sum(axis=1, keepdims=True), pruned.sum(axis=1, keepdims=True)
        # With negative activations the ratio can mean nothing: 1 is taken then, and 10 keeps exp from overflowing.
        ratio = np.divide(before, after, out=np.ones_like(before), where=after > 0)
        return np.asarray(pruned * np.exp(np.clip(ratio, 0.0, 10.0)))

    def _prepared(self, rows: Rows) -> Rows:
        return self._transformed(self._normalised(rows))

    def _projected(self, rows: Rows) -> Rows:
        return rows if self._basis is None else np.array([times(self._basis, row) for row in rows])

    def _score(self, rows: Rows) -> Rows:
        ready = self._projected(self._prepared(rows))
        distances = self._gaussian.distances(ready)
        return distances if self._background is None else distances - self._background.distances(ready)

    def _arrays(self) -> Arrays:
        arrays = self._gaussian.to_arrays("")
        if self._background is not None:
            arrays |= self._background.to_arrays("background_")
        if self._basis is not None:
            arrays["basis"] = self._basis
        if self._scales is not None:
            arrays |= self._scales.to_arrays()
        if self._cuts.size:
            arrays["cuts"] = self._cuts
        return arrays

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        del levels
        if self.normalise == "zscore":
            self._scales = Standardiser.read(arrays, width)
        if self.transform.startswith("react"):
            self._cuts = taken(arrays, "cuts", (width,))
        inner = width
        if self.pca < 1:
            self._basis = taken(arrays, "basis", (None, width))
            inner = len(self._basis)
        self._gaussian = LowRankGaussian.from_arrays(arrays, "", inner)
        if self.relative:
            self._background = LowRankGaussian.from_arrays(arrays, "background_", inner)
