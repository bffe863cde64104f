"""What `rau-nano` thinks before it answers, and whether a thought changed by hand changes the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anatrust.reference.prompts import name_answer
from anatrust.studies.nano_training import Asked

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["answers_after", "changed_thoughts", "opposite"]

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_RELATION = re.compile("|".join(_OPPOSITE))


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
        that follow when the thought says another number. ``right``: thoughts that are right in every word. Shares,
        ``swapped`` and ``renamed`` of the ``n`` questions with a relation.
    """
    texts = model.answer([a.sample.prompt for a in asked], [a.sample.pictures for a in asked], most_tokens=20)
    words = relations = stated = right = 0
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
        right += f"<think>{thought}</think>" == one.sample.answer.partition("<answer>")[0]
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
        "right": round(right / max(1, len(asked)), 4),
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
