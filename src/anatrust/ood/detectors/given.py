"""A score that needs no fitting, for instance of logits, as a detector like the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors.base import Arrays, Detector, Levels, Rows

__all__ = ["GivenScore"]


@dataclass
class GivenScore(Detector):
    """The one feature there is *is* the abnormality (see :mod:`anatrust.ood.logit_scores`)."""

    name: ClassVar[str] = "given"

    def _fit(self, inside: list[Rows], outside: list[Rows], levels: Levels, seed: int) -> None:
        del outside, levels, seed
        if inside[0].shape[1] != 1:
            raise InputError(f"the detector 'given' takes one score a crop, not {inside[0].shape[1]} features")

    def _score(self, rows: Rows) -> Rows:
        return rows[:, 0].copy()

    def _arrays(self) -> Arrays:
        return {}

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]], width: int, levels: Levels) -> None:
        del arrays, levels
        if width != 1:
            raise InputError(f"the detector 'given' takes one score, not {width}")
