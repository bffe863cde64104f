"""Two looks into what `rau-nano` does: all regions of a patient asked together, and thoughts changed by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.reference.coordinates import box_of_mask
from anatrust.reference.pairs import Pair, draw_pairs
from anatrust.reference.prompts import name_answer, read_name
from anatrust.statistics.assignment import assign
from anatrust.studies.nano_anatomy import Look
from anatrust.studies.nano_lessons import patch_states, read_patches
from anatrust.studies.nano_sight import patch_shares
from anatrust.studies.nano_training import Asked, Plan, patients_asked

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["answers_after", "asked_together", "changed_thoughts", "opposite", "told_by_patches", "transported"]

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_RELATION = re.compile("|".join(_OPPOSITE))


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
    """Every region of each target asked about by number, and what transport makes of it.

    Returns
    -------
    list of dict
        For each region the patient, the organ, and whether it was named rightly by the ``answer`` alone, by
        ``boxes`` alone (transport of the outlined regions' boxes to the reference's) and by ``both``.
    """
    rng, rows = np.random.default_rng([seed, 61]), []
    for pair in islice(draw_pairs(patients_asked(looks, plan), seed, hidden=1.0, absent=0.0), patients):
        numbers = [n for n in pair.labels if pair.mask(n).any()]
        samples = [pair.sample("name", rng, label=pair.labels[n]) for n in numbers]
        texts = model.answer([s.prompt for s in samples], [s.pictures for s in samples], most_tokens=20)
        said: list[int | None] = []
        for text in texts:
            try:
                said.append(read_name(text, pair.legend))
            except InputError:
                said.append(None)
        alone, both = (transported(pair, numbers, given) for given in (None, said))
        for k, number in enumerate(numbers):
            rows.append(
                {
                    "patient": pair.target.patient, "organ": pair.target.names[pair.labels[number]],
                    "answer": said[k] == number, "boxes": alone[k] == number, "both": both[k] == number,
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


def opposite(thought: str) -> str:
    """The same thought with every relation turned round.

    Examples
    --------
    >>> opposite("In the reference 3 lies left of 1 and below 2")
    'In the reference 3 lies right of 1 and above 2'
    """
    return _RELATION.sub(lambda found: _OPPOSITE[found[0]], thought)


def changed_thoughts(model: VisionLanguageModel, asked: Sequence[Asked]) -> dict[str, float]:
    """What the model thinks before it answers, and whether another thought changes the answer.

    Returns
    -------
    dict
        ``relational``: words of its thoughts that say a relation. ``stated``: thoughts whose region is the
        one answered. ``swapped``: answers that change when every relation is turned round. ``renamed``: answers
        that follow when the thought says another number. Shares, the last two of the questions with a relation.
    """
    texts = model.answer([a.sample.prompt for a in asked], [a.sample.pictures for a in asked], most_tokens=20)
    words = relations = stated = 0
    kept: list[tuple[Asked, str, str]] = []
    for one, text in zip(asked, texts, strict=True):
        found = re.fullmatch(r"<think>(.*)</think><answer>(.*)</answer>", text.strip())
        if found is None:
            continue
        thought, answer = found[1], found[2]
        words += len(thought.split())
        relations += sum(len(r[0].split()) for r in _RELATION.finditer(thought))
        region = re.match(r"In the reference (\d+) lies ", thought)
        stated += region is not None and region[1] == answer
        if region is not None and _RELATION.search(thought):
            kept.append((one, thought, answer))
    swapped = answers_after(model, [(one, opposite(thought)) for one, thought, _ in kept])
    others, renamed = [], []
    for one, thought, _ in kept:
        said = re.match(r"In the reference (\d+) lies ", thought)
        numbers = [n for n, _ in one.sample.legend.entries]
        other = str(next(n for n in numbers if said is None or str(n) != said[1]))
        others.append(other)
        renamed.append((one, re.sub(r"(?<=In the reference )\d+", other, thought)))
    followed = answers_after(model, renamed)
    count = max(1, len(kept))
    return {
        "relational": round(relations / max(1, words), 4),
        "stated": round(stated / max(1, len(asked)), 4),
        "swapped": round(sum(a != said for a, (_, _, said) in zip(swapped, kept, strict=True)) / count, 4),
        "renamed": round(sum(a == other for a, other in zip(followed, others, strict=True)) / count, 4),
        "n": len(kept),
    }


def answers_after(model: VisionLanguageModel, thoughts: Sequence[tuple[Asked, str]]) -> list[str]:
    """The word that the model finds most likely after ``<answer>``, each after the thought given."""
    import torch

    if not thoughts:
        return []
    given = model.inputs(
        [one.sample.prompt for one, _ in thoughts],
        [one.sample.pictures for one, _ in thoughts],
        [name_answer(thought, "").removesuffix("</answer>") for _, thought in thoughts],
    )
    with torch.inference_mode():
        # The last token is the end of the turn; what stands before it foretells the answer.
        best = model.model(**given).logits[:, -2].argmax(-1)
    return [model.processor.tokenizer.decode([token]).strip() for token in best.tolist()]
