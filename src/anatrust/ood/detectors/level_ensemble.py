"""One Mahalanobis detector a level of the encoder, averaged: no single layer is best for every shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows, taken
from anatrust.ood.detectors.gaussian import Covariance
from anatrust.ood.detectors.mahalanobis import Mahalanobis, Normalisation

__all__ = ["LevelEnsemble", "PartEnsemble", "held_out_scores"]


def held_out_scores(make: Any, scans: list[Rows], folds: int, seed: int) -> Rows:
    """Crop scores of each usual scan by a detector fitted on the other folds, all in one row.

    Crops a detector was fitted on score far too low when there are more features than crops.
    """
    order = np.random.default_rng(seed).permutation(len(scans))
    found: list[Rows] = []
    for fold in np.array_split(order, min(folds, len(scans) // 2)):
        rest = [scans[i] for i in order if i not in set(fold.tolist())]
        detector = make().fit(rest, seed=seed)
        found += [detector.score_crops(scans[i]) for i in fold]
    return np.concatenate(found)


@dataclass
class LevelEnsemble(Detector):
    """Mean over levels of the Mahalanobis distance, each in units of its spread on unseen usual scans.

    FRODO (Çallı et al., TMI 2022) averages layers; Lambert et al. 2023 and Anthony & Kamnitsas
    2023 find several layers better than any one. The unit of each level is the mean and deviation
    of the distance (its square root) of usual scans left out in turn.

    Parameters
    ----------
    covariance, normalise
        Of each level's detector.
    folds
        How usual scans are left out; at least four scans are needed.
    """

    name: ClassVar[str] = "levels"

    covariance: Covariance = "ledoit_wolf"
    normalise: Normalisation = "none"
    folds: int = 5
    _parts: list[Mahalanobis] = field(default_factory=list, init=False, repr=False, compare=False)
    _units: Rows = field(init=False, repr=False, compare=False)
    _ends: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._part()  # refuses unknown settings
        if self.folds < 2:
            raise InputError(f"usual scans are left out in at least 2 folds, not {self.folds}")

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"covariance": self.covariance, "normalise": self.normalise, "folds": self.folds}

    def _part(self) -> Mahalanobis:
        return Mahalanobis(covariance=self.covariance, normalise=self.normalise)

    def _columns(self, rows: Rows) -> list[Rows]:
        return [np.ascontiguousarray(part) for part in np.split(rows, self._ends, axis=1)]

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        del outside
        if len(inside) < 4:
            raise InputError(f"the detector 'levels' needs at least four usual scans, there are {len(inside)}")
        self._ends = tuple(np.cumsum([width for _, width in levels])[:-1].tolist())
        split = [self._columns(scan) for scan in inside]
        units = []
        self._parts = []
        for k in range(len(levels)):
            scans = [parts[k] for parts in split]
            unseen = np.sqrt(held_out_scores(self._part, scans, self.folds, seed))
            spread = float(unseen.std())
            units.append((float(unseen.mean()), spread if spread > 0 else 1.0))
            self._parts.append(self._part().fit(scans, seed=seed))
        self._units = np.array(units)

    def level_scores(self, scan: npt.ArrayLike) -> Rows:
        """``(crops, levels)``: how many deviations further than an unseen usual crop, level by level."""
        columns = self._columns(np.asarray(scan, dtype=np.float64))
        distances = np.stack([np.sqrt(p.score_crops(c)) for p, c in zip(self._parts, columns, strict=True)], axis=1)
        return np.asarray((distances - self._units[:, 0]) / self._units[:, 1])

    def _score(self, rows: Rows) -> Rows:
        return np.asarray(self.level_scores(rows).mean(axis=1))

    def _arrays(self) -> Arrays:
        arrays: Arrays = {"units": self._units}
        for k, part in enumerate(self._parts):
            arrays |= {f"level{k}_{name}": value for name, value in part.to_arrays()[1].items()}
        return arrays

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        del width
        self._units = taken(arrays, "units", (len(levels), 2))
        if not (self._units[:, 1] > 0).all():
            raise InputError("the units of the levels are not positive")
        self._ends = tuple(np.cumsum([w for _, w in levels])[:-1].tolist())
        self._parts = []
        for k, (_, w) in enumerate(levels):
            prefix = f"level{k}_"
            own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            document = {**self._part_document(), "features": w, "levels": [["features", w]]}
            self._parts.append(Mahalanobis.restore(document, own))

    def _part_document(self) -> dict[str, Any]:
        return {"schema": 1, "settings": self._part().settings()}


@dataclass
class PartEnsemble(LevelEnsemble):
    """As `LevelEnsemble`, all levels of one part together: what stands before ``": "`` in their names.

    Parts are features of different kinds side by side (a network's stages, the mask, the quality of the image). In
    one covariance the kind with most columns would drown the others.
    """

    name: ClassVar[str] = "parts"

    normalise: Normalisation = "zscore"

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        super()._fit(inside, outside, _parts(levels), seed)

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        super()._restore(arrays, width, _parts(levels))


def _parts(levels: Levels) -> Levels:
    widths: dict[str, int] = {}
    for name, width in levels:
        part = name.partition(": ")[0] if ": " in name else ""
        if part in widths and part != list(widths)[-1]:
            raise InputError(f"the levels of the part {part!r} do not stand side by side: join whole parts")
        widths[part] = widths.get(part, 0) + width
    return tuple(widths.items())
