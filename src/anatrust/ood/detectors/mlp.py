"""A network of one hidden layer taught by a few strange scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows, Standardiser, taken, times

__all__ = ["MultilayerPerceptron"]


@dataclass
class MultilayerPerceptron(Detector):
    """Log-odds of "strange" from one hidden layer (1000 units as published), averaged over crops.

    Features are standardised and the rarer kind is repeated to balance, which the published code
    leaves out. Trained by scikit-learn, kept as plain arrays.

    Parameters
    ----------
    hidden
        Units.
    epochs
        At most.
    """

    name: ClassVar[str] = "mlp"

    hidden: int = 1000
    epochs: int = 1000
    _scales: Standardiser = field(init=False, repr=False, compare=False)
    _layers: tuple[Rows, Rows, Rows, Rows] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.epochs < 1:
            raise InputError("an mlp needs at least one hidden unit and one epoch")

    @property
    def needs_outliers(self) -> bool:
        """Yes: it learns the difference."""
        return True

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"hidden": self.hidden, "epochs": self.epochs}

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        del levels
        kinds = [np.concatenate(inside), np.concatenate(outside)]
        most = max(len(kind) for kind in kinds)
        rng = np.random.default_rng(seed)
        index = [np.r_[np.arange(len(k)), rng.choice(len(k), most - len(k))] for k in kinds]
        rows = np.concatenate([kind[i] for kind, i in zip(kinds, index, strict=True)])
        self._scales = Standardiser.of(np.concatenate(kinds))
        model = MLPClassifier((self.hidden,), batch_size=min(50, len(rows)), max_iter=self.epochs, random_state=seed)
        model.fit(self._scales.apply(rows), np.repeat([0, 1], most))
        (first, second), (bias, out) = model.coefs_, model.intercepts_
        self._layers = (np.ascontiguousarray(first.T), bias, np.ascontiguousarray(second[:, 0]), out)

    def _score(self, rows: Rows) -> Rows:
        first, bias, second, out = self._layers
        hidden = np.array([np.maximum(times(first, row) + bias, 0.0) for row in self._scales.apply(rows)])
        return np.asarray(times(hidden, second) + out[0])

    def _arrays(self) -> Arrays:
        layers = dict(zip(("first", "bias", "second", "offset"), self._layers, strict=True))
        return self._scales.to_arrays() | layers

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        del levels
        self._scales = Standardiser.read(arrays, width)
        self._layers = (
            taken(arrays, "first", (self.hidden, width)),
            taken(arrays, "bias", (self.hidden,)),
            taken(arrays, "second", (self.hidden,)),
            taken(arrays, "offset", (1,)),
        )
