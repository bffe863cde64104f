"""The view of a reference that fits a target is found by grey values alone."""

from __future__ import annotations

import numpy as np

from anatrust.metrics import dice
from anatrust.studies.nano_anatomy import bent, draw_patient
from anatrust.studies.rau_warp import best_view


def test_the_view_that_fits_undoes_a_turn_and_a_zoom() -> None:
    gains = []
    for seed in range(4):
        reference, patient = draw_patient(seed, size=72), draw_patient(seed + 50, size=72)
        target = bent(patient, turn=45, scale=0.7)
        view = best_view(reference, target)
        overlap = [dice(target.labels > 0, one.labels > 0) for one in (reference, view)]
        gains.append(overlap[1] - overlap[0])
    assert np.mean(gains) > 0.1


def test_an_upright_patient_needs_no_other_view() -> None:
    reference, target = draw_patient(1, size=72), draw_patient(60, size=72)
    assert np.array_equal(best_view(target, target).labels, target.labels)
    assert dice(target.labels > 0, best_view(reference, target).labels > 0) > 0.5
