"""How a structure's mean errors and the size of its sets depend on the threshold, kept in a profile to be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.loss_curves import EMPTY_SET

__all__ = ["SetCurves"]

_POINTS = 127
_ENDS = 9.5  # logits: scores below 0.0001 and above 0.9999 lie together at the ends


@dataclass(frozen=True)
class SetCurves:
    """Means over the calibration patients of one structure, from the whole image to the empty set.

    Parameters
    ----------
    thresholds
        Ascending levels 0..65536; denser towards the ends, where sure segmenters put their scores.
    missed
        Share of the structure that the set at each threshold misses.
    invented
        What it invents, over the structure's size, at most 1 for each patient.

    Examples
    --------
    >>> levels = np.arange(EMPTY_SET + 1)
    >>> found = SetCurves.of_means(0.5 * (levels >= 40000), 1.0 * (levels < 30000))
    >>> found.thresholds[64], found.missed[64], found.invented[64], found.size[64]
    (32768, 0.0, 0.0, 1.0)
    """

    thresholds: tuple[int, ...]
    missed: tuple[float, ...]
    invented: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.thresholds)
        if count < 2 or len(self.missed) != count or len(self.invented) != count:
            raise InputError("curves of sets have a missed and an invented share for each of two or more thresholds")

    @classmethod
    def of_means(cls, missed: npt.NDArray[np.float64], invented: npt.NDArray[np.float64]) -> SetCurves:
        """From the mean losses at every threshold, ``(65537,)``."""
        scores = 1 / (1 + np.exp(-np.linspace(-_ENDS, _ENDS, _POINTS)))
        at = np.concatenate([[0], (EMPTY_SET * scores).round(), [EMPTY_SET]]).astype(np.int64)
        shares = (tuple(np.clip(mean[at], 0, 1).round(5).tolist()) for mean in (missed, invented))
        return cls(tuple(at.tolist()), *shares)

    @property
    def size(self) -> tuple[float, ...]:
        """Mean size of the set over the structure's: a lower bound where what is invented was counted as 1."""
        return tuple(1 - m + i for m, i in zip(self.missed, self.invented, strict=True))

    def place(self, threshold: int) -> float:
        """Where a threshold lies among those of the curves, 0 to 1: the axis they are drawn on."""
        index = np.interp(threshold, self.thresholds, np.arange(len(self.thresholds)))
        return float(index / (len(self.thresholds) - 1))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a profile."""
        return {"thresholds": list(self.thresholds), "missed": list(self.missed), "invented": list(self.invented)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> SetCurves:
        """The curves :meth:`to_json` wrote."""
        missed, invented = (tuple(float(v) for v in plain[name]) for name in ("missed", "invented"))
        return cls(tuple(int(v) for v in plain["thresholds"]), missed, invented)
