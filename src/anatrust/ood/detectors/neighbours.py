"""Distance to the k-th nearest usual crop (Sun et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows, Standardiser, taken
from anatrust.ood.detectors.mahalanobis import Normalisation, unit_length

__all__ = ["NearestNeighbours"]


@dataclass
class NearestNeighbours(Detector):
    """Euclidean distance to the k-th nearest usual crop; needs no strange scans.

    Parameters
    ----------
    k
        Which neighbour; at most the number of usual crops.
    normalise
        ``"l2"`` (as published), ``"zscore"`` or ``"none"``.

    Exact, by brute force: O(usual crops · d) a crop.
    """

    name: ClassVar[str] = "knn"

    k: int = 5
    normalise: Normalisation = "l2"
    _scales: Standardiser | None = field(default=None, init=False, repr=False, compare=False)
    _rows: Rows = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.k < 1 or self.normalise not in get_args(Normalisation):
            raise InputError(f"knn needs k of at least 1 and one of {', '.join(get_args(Normalisation))}")

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"k": self.k, "normalise": self.normalise}

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        del outside, levels, seed
        rows = np.concatenate(inside)
        if self.k > len(rows):
            raise InputError(f"knn with k={self.k} needs as many usual crops, there are {len(rows)}")
        self._scales = Standardiser.of(rows) if self.normalise == "zscore" else None
        self._rows = self._prepared(rows)

    def _prepared(self, rows: Rows) -> Rows:
        if self.normalise == "l2":
            return unit_length(rows)
        return self._scales.apply(rows) if self._scales is not None else rows

    def _score(self, rows: Rows) -> Rows:
        ready = self._prepared(rows)
        squares = np.array([np.sort(((self._rows - row) ** 2).sum(axis=1))[self.k - 1] for row in ready])
        return np.asarray(np.sqrt(squares))

    def _arrays(self) -> Arrays:
        return {"rows": self._rows, **(self._scales.to_arrays() if self._scales else {})}

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        del levels
        self._rows = taken(arrays, "rows", (None, width))
        if len(self._rows) < self.k:
            raise InputError(f"there are {len(self._rows)} usual crops for k={self.k}")
        if self.normalise == "zscore":
            self._scales = Standardiser.read(arrays, width)
