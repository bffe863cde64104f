"""What every detector is: fitted on crops of scans, it gives one abnormality a scan, higher = stranger."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError

__all__ = ["Arrays", "Detector", "Levels", "Rows", "Standardiser", "taken", "times"]

Rows = npt.NDArray[np.float64]
"""Features of crops, ``(n, d)``."""
Arrays = dict[str, npt.NDArray[Any]]
Levels = tuple[tuple[str, int], ...]

_SCHEMA = 1


class Detector(ABC):
    """Base of all detectors; subclasses are dataclasses whose fields are the settings.

    Scan score = mean of its crops' scores (RF-Deep, arXiv 2512.08216), summed exactly, so it
    depends neither on the order of crops nor on what else is scored; fitting uses one thread of
    linear algebra, so it does not depend on their number either.
    """

    name: ClassVar[str]
    width_: int = 0
    levels_: Levels = ()

    @property
    def needs_outliers(self) -> bool:
        """Whether :meth:`fit` needs strange scans too."""
        return False

    @property
    def is_fitted(self) -> bool:
        """Whether it can score."""
        return self.width_ > 0

    def fit(
        self,
        inside: Sequence[npt.ArrayLike],
        outside: Sequence[npt.ArrayLike] = (),
        *,
        levels: Levels | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from usual scans and, where the detector needs them, strange ones.

        Parameters
        ----------
        inside, outside
            One ``(crops, d)`` array a scan. Detectors that need no strange scans ignore them.
        levels
            Names and widths of the groups of columns; one group if None.
        seed
            The same seed gives the same detector.

        Raises
        ------
        InputError
            If fewer than two usual scans (or, where needed, two strange ones) are given, widths
            differ, or a value is not finite.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        usual = [_checked(scan, f"usual scan {i}") for i, scan in enumerate(inside)]
        strange = [_checked(scan, f"strange scan {i}") for i, scan in enumerate(outside)]
        if len(usual) < 2:
            raise InputError(f"the detector '{self.name}' needs at least two usual scans, there are {len(usual)}")
        if self.needs_outliers and len(strange) < 2:
            raise InputError(
                f"the detector '{self.name}' needs at least two strange scans, there are {len(strange)}:"
                " mark some in the column outlier, or choose a detector that needs none"
            )
        widths = {scan.shape[1] for scan in usual + strange}
        if len(widths) > 1:
            raise InputError(f"scans have {sorted(widths)} features: extract all of them alike")
        width = widths.pop()
        groups = levels if levels is not None else (("features", width),)
        if sum(w for _, w in groups) != width:
            raise InputError(f"the levels {groups} do not add up to {width} features")
        with threadpool_limits(limits=1):
            self._fit(usual, strange, groups, seed)
        self.width_, self.levels_ = width, tuple((str(n), int(w)) for n, w in groups)
        return self

    def score_crops(self, scan: npt.ArrayLike) -> Rows:
        """``(crops,)`` abnormality of each crop of one scan.

        Raises
        ------
        InputError
            If the detector is not fitted or the features do not fit it.
        """
        if not self.is_fitted:
            raise InputError(f"the detector '{self.name}' is not fitted: call fit first")
        rows = _checked(scan, "the scan")
        if rows.shape[1] != self.width_:
            raise InputError(f"the scan has {rows.shape[1]} features, the detector was fitted on {self.width_}")
        return self._score(rows)

    def score(self, scans: Sequence[npt.ArrayLike]) -> Rows:
        """``(scans,)`` abnormality: the mean over each scan's crops."""
        return np.array([math.fsum(crops) / len(crops) for crops in map(self.score_crops, scans)])

    def settings(self) -> dict[str, Any]:
        """The settings as plain values; what the class is made again with."""
        return {}

    def to_arrays(self) -> tuple[dict[str, Any], Arrays]:
        """JSON values and plain arrays for a file (see :mod:`anatrust.ood.persistence`)."""
        if not self.is_fitted:
            raise InputError(f"the detector '{self.name}' is not fitted: there is nothing to keep")
        document = {
            "detector": self.name,
            "schema": _SCHEMA,
            "settings": self.settings(),
            "features": self.width_,
            "levels": [list(level) for level in self.levels_],
        }
        return document, self._arrays()

    @classmethod
    def restore(cls, document: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The detector :meth:`to_arrays` wrote.

        Raises
        ------
        FormatError
            If something is missing, newer, or does not fit.
        """
        if document.get("schema") != _SCHEMA:
            raise FormatError(f"the detector has schema {document.get('schema')!r}, newer than this version: fit again")
        try:
            detector = cls(**document["settings"])
            levels = tuple((str(n), int(w)) for n, w in document["levels"])
            width = int(document["features"])
            if width < 1 or sum(w for _, w in levels) != width:
                raise FormatError(f"the detector '{cls.name}' names {width} features but levels {levels}: fit again")
            detector._restore(arrays, width, levels)
        except FormatError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FormatError(f"the detector '{cls.name}' cannot be read ({reason}): fit it again") from None
        detector.width_, detector.levels_ = width, levels
        return detector

    @abstractmethod
    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        """Learn; inputs are checked."""

    @abstractmethod
    def _score(self, rows: Rows) -> Rows:
        """Score each row on its own, so that neighbours in the array do not matter to the last bit."""

    @abstractmethod
    def _arrays(self) -> Arrays:
        """What was learnt."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        """Take up what was learnt, checking shapes."""


def _checked(scan: npt.ArrayLike, what: str) -> Rows:
    rows = np.asarray(scan, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"{what} has features of shape {rows.shape}: give (crops, features)")
    if not np.isfinite(rows).all():
        raise InputError(f"{what} has features that are NaN or infinite: look at its grey values")
    return rows


class Standardiser:
    """Zero mean and unit deviation per feature; features that do not vary are only centred."""

    def __init__(self, mean: Rows, scale: Rows) -> None:
        if mean.shape != scale.shape or mean.ndim != 1 or not (scale > 0).all():
            raise FormatError("the feature scales are damaged: fit the detector again")
        self.mean, self.scale = np.asarray(mean, dtype=np.float64), np.asarray(scale, dtype=np.float64)

    @classmethod
    def of(cls, rows: Rows) -> Standardiser:
        """From rows; a deviation below 1e-10 counts as none."""
        scale = rows.std(axis=0)
        return cls(rows.mean(axis=0), np.where(scale < 1e-10, 1.0, scale))

    @classmethod
    def read(cls, arrays: Mapping[str, npt.NDArray[Any]], width: int) -> Standardiser:
        """The standardiser :meth:`to_arrays` wrote."""
        return cls(taken(arrays, "feature_mean", (width,)), taken(arrays, "feature_scale", (width,)))

    def to_arrays(self) -> Arrays:
        """Plain arrays for a file."""
        return {"feature_mean": self.mean, "feature_scale": self.scale}

    def apply(self, rows: Rows) -> Rows:
        """The standardised rows."""
        return np.asarray((rows - self.mean) / self.scale)


def times(matrix: Rows, vector: Rows) -> Rows:
    """Matrix times vector without BLAS, whose threads would add in another order elsewhere."""
    return np.asarray(np.einsum("ij,j->i", matrix, vector))


def taken(arrays: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int | None, ...]) -> Rows:
    """A float array of a file, of the shape it must have (None = any length)."""
    if name not in arrays:
        raise FormatError(f"the array '{name}' of a detector is missing: fit it again")
    array = np.asarray(arrays[name])
    if array.dtype.kind != "f" or array.ndim != len(shape) or not np.isfinite(array).all():
        raise FormatError(f"the array '{name}' of a detector is damaged: fit it again")
    if any(want is not None and want != have for want, have in zip(shape, array.shape, strict=True)):
        raise FormatError(f"the array '{name}' of a detector has shape {array.shape}, not {shape}: fit it again")
    return array.astype(np.float64)
