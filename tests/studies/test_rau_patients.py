"""Made-up patients as scans: directions are the patient's, and judging an answer by the truth gives one."""

from __future__ import annotations

import numpy as np

from anatrust.models.annotation import Annotation, Structure, boxes_of
from anatrust.reference.relations import layout_of
from anatrust.studies.nano_anatomy import ORGANS, draw_patient
from anatrust.studies.rau_patients import as_reference, interval, judged


def test_the_liver_lies_right_of_the_spleen_and_the_heart_above_the_bladder() -> None:
    one = as_reference(draw_patient(1, size=64))
    number = {name: ORGANS.index(name) + 1 for name in ("liver", "spleen", "heart", "bladder")}
    pairs = [(number["liver"], number["spleen"]), (number["heart"], number["bladder"])]
    told = layout_of(one.labels, pairs)
    assert (number["liver"], "right of", number["spleen"]) in told
    assert (number["heart"], "above", number["bladder"]) in told


def test_the_truth_is_judged_right_and_an_empty_answer_wrong() -> None:
    one = as_reference(draw_patient(2, size=64))
    structures = tuple(
        Structure(n, one.names()[n], box, 1.0, voxels=int((one.labels.array == n).sum()))
        for n, box in boxes_of(one.labels).items()
    )
    right = Annotation(one.labels, structures, (), "truth", ())
    assert judged(one.labels, right) == {"dice": 1.0, "named": 1.0}
    none = Annotation.none(one.scan, one.names(), "nobody", "no reason")
    assert judged(one.labels, none) == {"dice": 0.0, "named": 0.0}
    assert interval(list(np.linspace(0, 1, 9)), 0)["mean"] == 0.5
