"""The losses of a cohort's structures, gathered one patient after another: memory does not grow with the patients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from anatrust.pipeline.patient_record import PatientRecord
from anatrust.pipeline.set_curves import SetCurves
from anatrust.statistics.loss_curves import LossCurve, SafeEnd
from anatrust.statistics.risk_control import LossSketch, RiskThreshold, simultaneous_curve
from anatrust.statistics.risk_testing import assured_threshold

__all__ = ["CohortLosses", "LossKind"]

LossKind = Literal["outer", "inner", "lesions"]
_SAFE: dict[LossKind, SafeEnd] = {"outer": "low", "inner": "high", "lesions": "low"}
_WORST = -1  # the number under which each patient's worst structure is kept


class CohortLosses:
    """Sums of the losses of every structure, 0.5 MB for each kind of loss, whatever the number of patients.

    Parameters
    ----------
    labels
        Of the structures.
    assurance
        δ: then every patient's curves are kept too, for an assured threshold needs each of them.
    simultaneous
        Whether each patient's worst structure is counted as well.
    """

    def __init__(self, labels: Iterable[int], *, assurance: float | None = None, simultaneous: bool = False) -> None:
        self.labels, self.assurance, self.simultaneous = tuple(labels), assurance, simultaneous
        self.patients = 0
        self._sketches: dict[tuple[int, LossKind], LossSketch] = {}
        self._kept: dict[tuple[int, LossKind], list[LossCurve]] = {}

    def add(self, record: PatientRecord) -> None:
        """One more patient."""
        self.patients += 1
        for kind in _SAFE:
            own = {
                label: curve
                for label in self.labels
                if label in record.structures and (curve := getattr(record.structures[label], kind)) is not None
            }
            for label, curve in own.items():
                self._count(label, kind, curve)
            if self.simultaneous and own and kind != "lesions":
                self._count(_WORST, kind, simultaneous_curve([*own.values()]))

    def _count(self, label: int, kind: LossKind, curve: LossCurve) -> None:
        self._sketches.setdefault((label, kind), LossSketch(_SAFE[kind])).add(curve)
        if self.assurance is not None:
            self._kept.setdefault((label, kind), []).append(curve)

    def _sketch(self, label: int, kind: LossKind) -> LossSketch:
        return self._sketches.get((label, kind), LossSketch(_SAFE[kind]))

    def having(self, label: int) -> int:
        """Patients that have the structure."""
        return self._sketch(label, "outer").patients

    def total(self, label: int, kind: LossKind) -> tuple[npt.NDArray[np.float64], int]:
        """Sum of a structure's losses at every threshold, and the patients it is over."""
        sketch = self._sketch(label, kind)
        return sketch.total, sketch.patients

    def threshold(self, label: int, kind: LossKind, alpha: float) -> RiskThreshold:
        """The exact threshold of one structure's loss, on average or assured."""
        if self.assurance is None:
            return self._sketch(label, kind).threshold(alpha)
        return assured_threshold(self._kept.get((label, kind), []), alpha, self.assurance, safe=_SAFE[kind])

    def worst(self, kind: LossKind, alpha: float) -> RiskThreshold:
        """The threshold of each patient's worst structure; counted where ``simultaneous`` was asked for."""
        return self.threshold(_WORST, kind, alpha)

    def curves(self, label: int) -> SetCurves | None:
        """How a structure's mean errors depend on the threshold; None where no patient has it."""
        (missed, count), (invented, _) = self.total(label, "outer"), self.total(label, "inner")
        return SetCurves.of_means(missed / count, invented / count) if count else None
