"""What the patches of `rau-nano` tell about outlined regions, one by one and all of a patient together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.reference.coordinates import box_of_mask
from anatrust.reference.pairs import Pair, draw_pairs
from anatrust.statistics.assignment import assign
from anatrust.studies.nano_anatomy import Look
from anatrust.studies.nano_lessons import patch_states, read_patches
from anatrust.studies.nano_sight import patch_shares
from anatrust.studies.nano_training import Asked, Plan, patients_asked

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["asked_together", "told_by_patches", "transported"]


def told_by_patches(model: VisionLanguageModel, asked: Sequence[Asked], batch: int = 50) -> list[dict[str, Any]]:
    """The number that the patches of the outlined region tell together, as :func:`ask` tells what words say.

    Each patch weighs by the share of it that the region covers; the region is the outline's, so no label is used
    that the question does not show.

    Parameters
    ----------
    model
        After lessons.
    asked
        Questions under legends without names.
    """
    import torch

    patch, rows = int(model.model.config.vision_config.patch_size), []
    for begin in range(0, len(asked), batch):
        part = asked[begin : begin + batch]
        with torch.inference_mode():
            given = model.inputs([one.sample.prompt for one in part], [one.sample.pictures for one in part])
            patches = patch_states(model, given)[1][-len(part) :]
            told = torch.log_softmax(read_patches(model, patches, 2), -1).numpy()
        for one, scores in zip(part, told, strict=True):
            assert one.sample.number is not None
            cover = patch_shares(one.sample.masks[one.sample.number].astype(np.uint8), 2, patch)[:, 1]
            numbers = [n for n, _ in one.sample.legend.entries]
            said = numbers[int((cover @ scores)[numbers].argmax())]
            rows.append(
                {
                    "patient": one.patient, "organ": one.organ, "said": said, "right": said == one.sample.number,
                    "shown": said == one.shown, "choices": len(numbers),
                }
            )  # fmt: skip
    return rows


def asked_together(
    model: VisionLanguageModel, looks: tuple[Look, ...], patients: int, seed: int, plan: Plan
) -> list[dict[str, Any]]:
    """Every region of each target asked about by number, and what transport makes of what its patches tell.

    Returns
    -------
    list of dict
        For each region the patient, the organ, and whether it was named rightly by the ``answer`` alone, by
        ``boxes`` alone (transport of the outlined regions' boxes to the reference's) and by ``both``.
    """
    rng, rows = np.random.default_rng([seed, 61]), []
    for pair in islice(draw_pairs(patients_asked(looks, plan), seed, hidden=1.0, absent=0.0), patients):
        numbers = [n for n in pair.labels if pair.mask(n).any()]
        asked = [
            Asked(pair.sample("name", rng, label=pair.labels[n]), pair.target.patient, pair.target.names[label], n)
            for n in numbers
            for label in [pair.labels[n]]
        ]
        told = told_by_patches(model, asked)
        alone, both = (transported(pair, numbers, said) for said in (None, [row["said"] for row in told]))
        for row, number, boxes, together in zip(told, numbers, alone, both, strict=True):
            rows.append(
                {
                    "patient": row["patient"], "organ": row["organ"], "answer": row["right"],
                    "boxes": boxes == number, "both": together == number,
                }
            )  # fmt: skip
    return rows


def transported(pair: Pair, numbers: Sequence[int], said: Sequence[int | None] | None) -> list[int | None]:
    """The legend number that each region of the target gets when each number is given once at most.

    Parameters
    ----------
    pair
        Reference and target.
    numbers
        The target's regions, of which the boxes are looked at and nothing else.
    said
        What a model answered about each; its agreement takes the place of likeness in the cost (Eq. 4).
        A region that transport leaves over keeps its answer.
    """
    slots = list(pair.labels)
    size = np.array(pair.target.labels.shape[::-1], dtype=np.float64)

    def boxes(masks: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.float64]:
        found = [box for box in map(box_of_mask, masks) if box is not None]
        return np.array([[(b[0], b[1]), (b[2], b[3])] for b in found]) / size

    own = boxes([pair.mask(n) for n in numbers])
    known = boxes([np.asarray(pair.reference.labels == pair.labels[n]) for n in slots])
    if said is None:
        match = assign(own, known).match
    else:
        likes = np.array([[float(n == answer) for n in slots] for answer in said])
        # Another answer costs 0.5 (Eq. 4), so that much more leaves a region over.
        match = assign(own, known, features=likes, prototype_features=np.eye(len(slots)), dustbin=1.1).match
    found: list[int | None] = list(said) if said is not None else [None] * len(numbers)
    for slot, box in zip(slots, match.tolist(), strict=True):
        if box >= 0:
            found[box] = slot
    return found
