"""Logistic regression taught by a few strange scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows, Standardiser, taken, times

__all__ = ["Logistic"]


@dataclass
class Logistic(Detector):
    """Log-odds of "strange" from standardised features, classes balanced, averaged over crops.

    Log-odds and not probabilities, so that clearly strange scans do not all tie at 1.

    Parameters
    ----------
    strength
        Inverse of the L2 penalty (scikit-learn's ``C``).
    """

    name: ClassVar[str] = "logistic"

    strength: float = 1.0
    _scales: Standardiser = field(init=False, repr=False, compare=False)
    _weights: Rows = field(init=False, repr=False, compare=False)
    _offset: float = field(default=0.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise InputError(f"the strength of logistic regression is positive, not {self.strength}")

    @property
    def needs_outliers(self) -> bool:
        """Yes: it learns the difference."""
        return True

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"strength": self.strength}

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        from sklearn.linear_model import LogisticRegression

        del levels, seed
        rows = np.concatenate(inside + outside)
        strange = np.zeros(len(rows), dtype=np.int64)
        strange[sum(len(scan) for scan in inside) :] = 1
        self._scales = Standardiser.of(rows)
        model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=5000)
        model.fit(self._scales.apply(rows), strange)
        self._weights, self._offset = model.coef_[0], float(model.intercept_[0])

    def _score(self, rows: Rows) -> Rows:
        return np.asarray(times(self._scales.apply(rows), self._weights) + self._offset)

    def _arrays(self) -> Arrays:
        return self._scales.to_arrays() | {"weights": self._weights, "offset": np.array([self._offset])}

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        del levels
        self._scales = Standardiser.read(arrays, width)
        self._weights = taken(arrays, "weights", (width,))
        self._offset = float(taken(arrays, "offset", (1,))[0])
