"""Made-up patients as labelled scans, the reasoners asked about them, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Annotation, Reference
from anatrust.models.protocols import Reasoner
from anatrust.models.registration import RegistrationSettings
from anatrust.reference.adaptive_memory import AdaptiveMemory
from anatrust.reference.correspondence_reasoner import CorrespondenceReasoner
from anatrust.reference.pairs import LabelledPicture
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.studies.intervals import patient_bootstrap

__all__ = ["ASKED", "REFERENCES", "SIDE", "as_reference", "interval", "judged", "reasoner"]

SIDE = 72
"""Pixels of a picture's side."""

REFERENCES, ASKED = 300_000, 310_000
"""First patients of the references and of the targets; no training has seen them."""

_PIXEL = 5.0  # millimetres: the trunk is 36 cm wide


def as_reference(picture: LabelledPicture) -> Reference:
    """A made-up patient as a coronal slice with its labels; the patient's right is on the left."""
    affine = np.array([[-_PIXEL, 0, 0, 0], [0, 0, 1, 0], [0, -_PIXEL, 0, 0], [0, 0, 0, 1]])
    grid = Grid(picture.image.T.shape, affine, True, "slice")
    scan = Scan(np.ascontiguousarray(picture.image.T), grid, identifier=picture.patient)
    labels = LabelMap(np.ascontiguousarray(picture.labels.T), grid, picture.names)
    return Reference(scan, labels, picture.patient)


def reasoner(way: str) -> Reasoner:
    """The reasoner of a study's way, e.g. ``"correspondence, adaptive"``; none leaves a reference out."""
    kind, _, how = way.partition(", ")
    base: Reasoner
    if kind == "registration":
        base = RegistrationReasoner(RegistrationSettings(turned=how == "searched"), least_similarity=-1.0)
    else:
        base = CorrespondenceReasoner(least_likeness=-1.0)
    if how == "adaptive":
        return AdaptiveMemory(base)
    return AdaptiveMemory(base, views=0, again=True) if how == "again" else base


def judged(truth: LabelMap, answer: Annotation) -> dict[str, Any]:
    """Mean Dice of the structures that are there, and the share whose innermost place carries their name."""
    overlaps, right = [], []
    for number in truth.labels():
        wanted = truth.array == number
        overlaps.append(float(dice(wanted, answer.labels.array == number)))
        places = np.argwhere(wanted)
        centre = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
        right.append(bool(answer.labels.array[tuple(centre)] == number))
    return {"dice": round(float(np.mean(overlaps)), 4), "named": round(float(np.mean(right)), 4)}


def interval(values: Sequence[float], seed: int) -> Mapping[str, Any]:
    """Mean of one number a patient; from five patients on with a bootstrap interval."""
    found: dict[str, Any] = {"mean": round(float(np.mean(values)), 4), "n": len(values)}
    if len(values) >= 5:
        low, high = patient_bootstrap(np.array(values)[:, None], lambda v: float(v.mean()), seed=seed)
        found["interval"] = [round(low, 4), round(high, 4)]
    return found
