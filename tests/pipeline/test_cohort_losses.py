"""Losses gathered patient by patient: the same thresholds as from all curves at once, in memory that does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from anatrust.pipeline.cohort_losses import CohortLosses
from anatrust.pipeline.patient_record import PatientRecord, StructureRecord
from anatrust.statistics.loss_curves import LossCurve
from anatrust.statistics.risk_control import conformal_threshold, simultaneous_curve
from anatrust.statistics.risk_testing import assured_threshold

EVIDENCE, TARGETS = np.zeros((1, 5)), np.zeros((1, 4))


def curve(rng: np.random.Generator, rising: bool, breaks: int) -> LossCurve:
    at = np.unique(np.append(0, rng.integers(1, 65_536, breaks)))
    losses = np.sort(rng.random(at.size) ** 4)
    losses[0] = 0.0
    return LossCurve(at, losses if rising else losses[::-1])


def record(number: int, breaks: int = 40) -> PatientRecord:
    """A patient with structure 1, with structure 2 in two of three; half of the lesions have curves."""
    rng = np.random.default_rng(number)
    found = {}
    for label in (1, 2):
        there = label == 1 or number % 3
        outer, inner = (curve(rng, rising, breaks) if there else None for rising in (True, False))
        lesions = curve(rng, True, 5) if number % 2 else None
        found[label] = StructureRecord(outer, inner, lesions, EVIDENCE, TARGETS)
    return PatientRecord(found, 1, 10.0, 1.0)


@pytest.mark.parametrize("assurance", [None, 0.2])
def test_thresholds_are_those_of_all_curves_at_once(assurance: float | None) -> None:
    patients = [record(n) for n in range(60)]
    losses = CohortLosses((1, 2), assurance=assurance, simultaneous=True)
    for one in patients:
        losses.add(one)
    assert (losses.patients, losses.having(1), losses.having(2)) == (60, 60, 40)

    def reference(curves: list[LossCurve], safe: str) -> object:
        if assurance is None:
            return conformal_threshold(curves, 0.1, safe=safe)  # type: ignore[arg-type]
        return assured_threshold(curves, 0.1, assurance, safe=safe)  # type: ignore[arg-type]

    for kind, safe in (("outer", "low"), ("inner", "high"), ("lesions", "low")):
        for label in (1, 2):
            own = [c for one in patients if (c := getattr(one.structures[label], kind)) is not None]
            found = losses.threshold(label, kind, 0.1)  # type: ignore[arg-type]
            assert found == reference(own, safe)
            assert found.feasible
        if kind != "lesions":
            both = [[getattr(s, kind) for s in one.structures.values() if s.outer is not None] for one in patients]
            worst = losses.worst(kind, 0.1)  # type: ignore[arg-type]
            assert worst == reference([simultaneous_curve(c) for c in both], safe)
    drawn = losses.curves(2)
    assert drawn is not None
    k = 50
    at = drawn.thresholds[k]
    assert drawn.missed[k] == pytest.approx(
        np.mean([one.structures[2].outer.at(at) for one in patients if one.structures[2].outer is not None]), abs=1e-5
    )


def test_a_structure_nobody_has_is_infeasible() -> None:
    losses = CohortLosses((7,))
    losses.add(record(1))
    assert not losses.threshold(7, "outer", 0.1).feasible
    assert losses.curves(7) is None
    assert losses.having(7) == 0


def test_ten_times_the_patients_take_no_more_memory() -> None:
    def peak(patients: int) -> int:
        tracemalloc.start()
        losses = CohortLosses((1, 2))
        kept = []
        for number in range(patients):
            one = record(number, breaks=20_000)
            losses.add(one)
            kept.append(one.without_losses())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert all(s.outer is None and s.evidence is EVIDENCE for one in kept for s in one.structures.values())
        return most

    peak(5)
    assert peak(80) <= 1.1 * peak(8)
