"""Layout priors: true bodies break nothing, planted errors are mended, and what is truly strange stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, Reference, Structure, boxes_of
from anatrust.models.protocols import Reasoner
from anatrust.reference.layout_prior import LayoutPrior, RepairedReasoner
from anatrust.studies.nano_anatomy import ORGANS, Event, draw_patient
from anatrust.studies.rau_patients import as_reference


def labels_of(seed: int, event: Event = "none") -> LabelMap:
    return as_reference(draw_patient(seed, event=event, size=64)).labels


@pytest.fixture(scope="module")
def prior() -> LayoutPrior:
    return LayoutPrior.learn([labels_of(seed) for seed in range(20)])


@pytest.mark.parametrize("event", ["none", "missing", "displaced", "resected", "lesion", "mirrored"])
def test_true_bodies_stay_as_they_are(prior: LayoutPrior, event: Event) -> None:
    for seed in range(100, 106):
        labels = labels_of(seed, event)
        repaired = prior.repair(labels)
        assert np.array_equal(repaired.labels.array, labels.array)
        if event == "mirrored":
            assert "mirrored body" in repaired.done[0]
            assert prior.violations(labels) > 10
        elif event in ("none", "lesion"):
            assert prior.violations(labels) == 0


def test_exchanged_kidneys_get_their_names_back(prior: LayoutPrior) -> None:
    labels = labels_of(101)
    left, right = ORGANS.index("left kidney") + 1, ORGANS.index("right kidney") + 1
    table = np.arange(256, dtype=np.uint8)
    table[[left, right]] = right, left
    wrong = replace(labels, array=table[labels.array])
    repaired = prior.repair(wrong)
    assert np.array_equal(repaired.labels.array, labels.array)
    assert repaired.before > repaired.after == 0
    assert repaired.done == ("right kidney and left kidney exchanged names",)


def test_a_stray_piece_is_taken_away(prior: LayoutPrior) -> None:
    labels = labels_of(102)
    heart = ORGANS.index("heart") + 1
    array = labels.array.copy()
    # The heart's corner of the picture is at the top; this is at the bottom.
    assert not array[31:34, 60:63].any()
    array[31:34, 60:63] = heart
    repaired = prior.repair(replace(labels, array=array))
    assert np.array_equal(repaired.labels.array, labels.array)
    assert repaired.done == ("a piece of heart was taken away",)


def test_repair_never_loses_a_structure_and_never_breaks_more(prior: LayoutPrior) -> None:
    rng = np.random.default_rng(0)
    for seed in range(4):
        labels = labels_of(200 + seed)
        array = labels.array.copy()
        for _ in range(5):
            row, column = rng.integers(5, 55, 2)
            array[row : row + 5, column : column + 5] = rng.integers(1, len(ORGANS) + 1)
        spoilt = replace(labels, array=array)
        repaired = prior.repair(spoilt)
        assert repaired.labels.labels() == spoilt.labels()
        assert repaired.after <= repaired.before


def test_storage_order_changes_nothing(prior: LayoutPrior) -> None:
    labels = labels_of(103)
    array = labels.array.copy()
    array[31:34, 60:63] = 1
    affine = labels.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
    affine[:3, 0] *= -1
    turned = LabelMap(array[::-1].copy(), Grid(array.shape, affine, True, "slice"), labels.names)
    one, other = prior.repair(replace(labels, array=array)), prior.repair(turned)
    assert np.array_equal(one.labels.array, other.labels.array[::-1])
    assert (one.before, one.after, one.done) == (other.before, other.after, other.done)


class Planted:
    """A reasoner that answers what it was given."""

    name = identity = "planted"

    def __init__(self, labels: LabelMap) -> None:
        self.labels = labels

    def annotate(self, target: Scan, references: object, progress: object = None) -> Annotation:
        boxes = boxes_of(self.labels)
        found = tuple(
            Structure(n, self.labels.names[n], box, 0.9, voxels=int((self.labels.array == n).sum()))
            for n, box in boxes.items()
        )
        return Annotation(self.labels, found, (), self.identity, (("other", 1.0),))


def test_a_repaired_answer_is_whole(prior: LayoutPrior) -> None:
    patient = as_reference(draw_patient(104, size=64))
    array = patient.labels.array.copy()
    array[31:34, 60:63] = ORGANS.index("heart") + 1
    reasoner = RepairedReasoner(Planted(replace(patient.labels, array=array)), prior)
    assert isinstance(reasoner, Reasoner)
    answer = reasoner.annotate(patient.scan, [Reference(patient.scan, patient.labels)])
    assert np.array_equal(answer.labels.array, patient.labels.array)
    assert answer.remarks == ("a piece of heart was taken away",)
    heart = next(s for s in answer.structures if s.name == "heart")
    assert heart.box == boxes_of(patient.labels)[heart.number]
    assert heart.voxels == int((patient.labels.array == heart.number).sum())


def test_what_cannot_be_learnt_or_judged_is_refused(prior: LayoutPrior) -> None:
    with pytest.raises(InputError, match="from 5 labelled scans at least"):
        LayoutPrior.learn([labels_of(0)])
    volume = LabelMap(np.ones((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)), {1: "a"})
    with pytest.raises(InputError, match="in the plane"):
        prior.violations(volume)
