"""RF-Deep: a random forest taught by a few strange scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows
from anatrust.ood.detectors.trees import packed, unpacked

__all__ = ["Forest"]


@dataclass
class Forest(Detector):
    """Mean over crops of the forest's probability "strange" (RF-Deep, arXiv 2512.08216).

    Parameters
    ----------
    trees, depth
        1000 trees of depth 20 at most, classes balanced, all else scikit-learn's default.
    jobs
        Threads while fitting; the forest does not depend on it.
    """

    name: ClassVar[str] = "forest"

    trees: int = 1000
    depth: int = 20
    jobs: int = field(default=-1, compare=False)
    _model: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.trees < 1 or self.depth < 1 or self.jobs == 0:
            raise InputError("a forest needs at least one tree, a depth of at least 1, and jobs other than 0")

    @property
    def needs_outliers(self) -> bool:
        """Yes: it learns the difference."""
        return True

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"trees": self.trees, "depth": self.depth}

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        from sklearn.ensemble import RandomForestClassifier

        del levels
        rows = np.concatenate(inside + outside).astype(np.float32)
        strange = np.zeros(len(rows), dtype=np.int64)
        strange[sum(len(scan) for scan in inside) :] = 1
        model = RandomForestClassifier(
            n_estimators=self.trees,
            max_depth=self.depth,
            class_weight="balanced",
            random_state=seed,
            n_jobs=self.jobs,
        )
        self._model = model.fit(rows, strange)

    def _score(self, rows: Rows) -> Rows:
        ready = np.ascontiguousarray(rows, dtype=np.float32)
        # Added tree by tree: scikit-learn's threads add in the order they finish.
        total = np.zeros(len(ready))
        for tree in self._model.estimators_:
            leaf = tree.tree_.predict(ready).reshape(len(ready), 2)
            total += leaf[:, 1] / leaf.sum(axis=1)
        return np.asarray(total / len(self._model.estimators_))

    def _arrays(self) -> Arrays:
        return {"forest": packed(self._model)}

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        from sklearn.ensemble import RandomForestClassifier

        del levels
        self._model = unpacked(arrays, RandomForestClassifier, width)
        for tree in self._model.estimators_:
            value = tree.tree_.value
            if value.shape[1:] != (1, 2) or (value < 0).any() or not (value.sum(axis=2) > 0).all():
                raise FormatError("a tree of the forest does not tell two kinds apart: the file was changed, fit again")
