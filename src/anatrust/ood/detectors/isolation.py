"""Isolation forest on the usual crops (Liu, Ting, Zhou 2008)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows
from anatrust.ood.detectors.trees import packed, unpacked

__all__ = ["Isolation"]


@dataclass
class Isolation(Detector):
    """How quickly random cuts isolate a crop: scikit-learn's score with the sign turned; in (0, 1).

    Parameters
    ----------
    trees
        Number of random trees. No strange scans are needed.
    """

    name: ClassVar[str] = "isolation"

    trees: int = 200
    _model: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.trees < 1:
            raise InputError(f"an isolation forest needs at least one tree, not {self.trees}")

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"trees": self.trees}

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        from sklearn.ensemble import IsolationForest

        del outside, levels
        rows = np.concatenate(inside).astype(np.float32)
        self._model = IsolationForest(n_estimators=self.trees, random_state=seed).fit(rows)

    def _score(self, rows: Rows) -> Rows:
        return np.asarray(-self._model.score_samples(rows.astype(np.float32)), dtype=np.float64)

    def _arrays(self) -> Arrays:
        return {"forest": packed(self._model)}

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        from sklearn.ensemble import IsolationForest

        del levels
        self._model = unpacked(arrays, IsolationForest, width)
