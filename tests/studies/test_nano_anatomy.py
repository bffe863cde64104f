"""The synthetic atlas: the same patient every time, what happens to patients, looks, changes of view."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.studies.nano_anatomy import EVENTS, LOOKS, ORGANS, Event, Look, bent, cohort, draw_patient


def _number(name: str) -> int:
    return ORGANS.index(name) + 1


def _centre(labels: np.ndarray, name: str) -> np.ndarray:
    return np.argwhere(labels == _number(name)).mean(0)


def test_golden_patient() -> None:
    labels = draw_patient(7, "ct", size=72).labels
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == "e80b49539d9deef5"


@given(seed=st.integers(0, 10**6), look=st.sampled_from(LOOKS), event=st.sampled_from(EVENTS))
@settings(max_examples=25, deadline=None)
def test_a_patient_is_the_same_every_time_and_valid(seed: int, look: Look, event: Event) -> None:
    one, again = draw_patient(seed, look, event, size=48), draw_patient(seed, look, event, size=48)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.labels, again.labels)
    assert one.image.min() >= 0
    assert one.image.max() <= 1
    assert set(one.present) <= set(range(1, len(ORGANS) + 1))
    assert len(one.present) >= 10


def test_looks_share_anatomy_and_differ_in_grey() -> None:
    pictures = [draw_patient(5, look) for look in LOOKS]
    assert all(np.array_equal(pictures[0].labels, p.labels) for p in pictures[1:])
    liver = [float(np.median(p.image[p.labels == _number("liver")])) for p in pictures]
    bladder = [float(np.median(p.image[p.labels == _number("bladder")])) for p in pictures]
    assert np.ptp(liver) > 0.05
    assert bladder[2] < 0.1 < bladder[0], "fluid is black in ultrasound"


def test_what_happens_to_a_patient_is_seen_in_the_labels() -> None:
    plain = [draw_patient(seed, size=72) for seed in range(12)]
    for seed, before in enumerate(plain):
        mirrored = draw_patient(seed, event="mirrored", size=72)
        assert _centre(before.labels, "liver")[1] < 36 < _centre(mirrored.labels, "liver")[1]
        lesion = draw_patient(seed, event="lesion", size=72)
        assert np.array_equal(lesion.labels, before.labels)
        assert np.abs(lesion.image - before.image).max() > 0.1
        missing = draw_patient(seed, event="missing", size=72)
        assert len(set(before.present) - set(missing.present)) == 1
    moved = [np.abs(_centre(draw_patient(s, event="displaced", size=72).labels, "left kidney")
                    - _centre(p.labels, "left kidney")).max() for s, p in enumerate(plain)]  # fmt: skip
    assert max(moved) > 6
    cut = [(draw_patient(s, event="resected", size=72).labels > 0).sum() < (p.labels > 0).sum()
           for s, p in enumerate(plain)]  # fmt: skip
    assert sum(cut) >= 8


def test_another_view_of_the_same_patient() -> None:
    patient = draw_patient(2, size=72)
    same = bent(patient)
    assert np.array_equal(same.labels, patient.labels)
    turned = bent(patient, turn=90)
    assert abs(_centre(turned.labels, "heart")[0] - 36) < abs(_centre(patient.labels, "heart")[0] - 36)
    large, small = bent(patient, scale=1.3), bent(patient, scale=0.6)
    assert (large.labels == _number("liver")).sum() > (small.labels == _number("liver")).sum() * 2
    assert not np.array_equal(bent(patient, bend=0.05).labels, patient.labels)


def test_a_cohort_takes_looks_in_turn_and_shares_no_patient() -> None:
    one, other = cohort(range(6), ("ct", "x-ray"), size=48), cohort(range(6, 9), ("ct",), size=48)
    assert {p.patient for p in one}.isdisjoint(p.patient for p in other)
    assert one[1].image[0, 0] > 0.8 > one[0].image[0, 0], "a radiograph is bright outside"


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(InputError, match="choose ct"):
        draw_patient(0, "mri")  # type: ignore[arg-type]
    with pytest.raises(InputError):
        draw_patient(0, size=8)
