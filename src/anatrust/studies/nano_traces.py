"""What `rau-nano` thinks before it answers, and whether a thought changed by hand changes the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anatrust.reference.prompts import name_answer
from anatrust.reference.traces import relational_share, swapped
from anatrust.studies.nano_training import Asked

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["answers_after", "changed_thoughts"]

_FORM = re.compile(r"<think>(.*)</think><answer>(.*)</answer>")
_REGION = re.compile(r"(?<=^In the reference )\d+(?= lies )")


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
    stated = right = 0
    kept: list[tuple[Asked, str, str, str]] = []
    others: list[tuple[Asked, str, str]] = []
    for one, text in zip(asked, texts, strict=True):
        form, turned = _FORM.fullmatch(text.strip()), swapped(text)
        if form is None:
            continue
        thought, answer = form[1], form[2]
        region = _REGION.search(thought)
        stated += region is not None and region[0] == answer
        right += f"<think>{thought}</think>" == one.sample.answer.partition("<answer>")[0]
        if region is not None and turned is not None:
            kept.append((one, thought, turned, answer))
            other = next(str(n) for n, _ in one.sample.legend.entries if str(n) != region[0])
            others.append((one, _REGION.sub(other, thought), other))
    after = answers_after(model, [(one, turned) for one, _, turned, _ in kept])
    followed = answers_after(model, [(one, thought) for one, thought, _ in others])
    count = max(1, len(kept))
    return {
        "relational": round(float(np.mean([relational_share(text) for text in texts])), 4),
        "stated": round(stated / max(1, len(asked)), 4),
        "right": round(right / max(1, len(asked)), 4),
        "swapped": round(sum(a != said for a, (_, _, _, said) in zip(after, kept, strict=True)) / count, 4),
        "renamed": round(sum(a == other for a, (_, _, other) in zip(followed, others, strict=True)) / count, 4),
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
