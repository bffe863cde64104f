"""What a model's thoughts are worth: how much of them is about relations, and whether its answers follow them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from anatrust.errors import InputError
from anatrust.reference.prompts import Legend, read_name

__all__ = ["Continues", "TraceEffect", "relational_share", "swap_effect", "swapped"]

# Names of structures hold left and right too: only the whole phrase is a relation.
_OPPOSITES = {
    "left of": "right of",
    "above": "below",
    "in front of": "behind",
    "inside": "outside",
    "superior to": "inferior to",
    "anterior to": "posterior to",
    "medial to": "lateral to",
}
_OPPOSITES |= {other: one for one, other in _OPPOSITES.items()}
_RELATIONS = (*_OPPOSITES, "between", "beside", "next to", "adjacent to", "touches", "touching", "near")
_THOUGHT = re.compile(r"<think>(?P<thought>.*?)</think>", re.DOTALL)
_PHRASE = re.compile(r"\b(" + "|".join(sorted(_RELATIONS, key=len, reverse=True)) + r")\b", re.IGNORECASE)


class Continues(Protocol):
    """A model that answers, and goes on from the beginning of an answer: `VisionLanguageModel`."""

    def answer(
        self,
        prompts: Sequence[str],
        pictures: Sequence[Sequence[Image.Image]],
        *,
        most_tokens: int = 512,
        begun: Sequence[str] | None = None,
    ) -> list[str]:
        """What it says to each prompt, or how it goes on from ``begun``."""


@dataclass(frozen=True)
class TraceEffect:
    """What became of a model's answers when the relations in its thoughts were turned round.

    Parameters
    ----------
    asked
        Questions.
    relational
        Mean share of a thought's words that tell a relation.
    with_relations
        Answers whose thought holds a relation that has an opposite.
    steady
        Of these, answers that come again when the model is given its own thought unchanged.
    changed
        Of the steady ones, answers that become another, or unreadable, when each relation is its opposite.
    """

    asked: int
    relational: float
    with_relations: int
    steady: int
    changed: int

    @property
    def rate(self) -> float:
        """Share of steady answers that follow the thought; NaN where there is none."""
        return self.changed / self.steady if self.steady else float("nan")


def relational_share(text: str) -> float:
    """Share of the words of a thought that tell where something lies to something else; 0 without a thought.

    Examples
    --------
    >>> relational_share("<think>it lies left of the liver and above the left kidney</think><answer>x</answer>")
    0.2727272727272727
    """
    match = _THOUGHT.search(text)
    words = re.findall(r"\w+", match["thought"]) if match else []
    told = sum(len(phrase.split()) for phrase in _PHRASE.findall(match["thought"])) if match else 0
    return told / len(words) if words else 0.0


def swapped(text: str) -> str | None:
    """The thought of an answer with every relation turned into its opposite; None where it holds none that has one.

    Examples
    --------
    >>> swapped("<think>left of the liver, behind the left kidney</think><answer>spleen</answer>")
    'right of the liver, in front of the left kidney'
    """
    match = _THOUGHT.search(text)
    if match is None:
        return None

    def opposite(found: re.Match[str]) -> str:
        return _OPPOSITES.get(found[0].lower(), found[0])

    turned = _PHRASE.sub(opposite, match["thought"])
    return None if turned == match["thought"] else turned


def swap_effect(
    model: Continues,
    prompts: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    legends: Sequence[Legend],
    *,
    most_tokens: int = 256,
) -> TraceEffect:
    """Ask naming questions, turn the relations in the model's own thoughts round, and let it go on from there.

    Parameters
    ----------
    model
        Greedy, so that nothing but the thought changes.
    prompts, pictures, legends
        Of the questions, see `name_prompt`.
    most_tokens
        Longest answer.

    Returns
    -------
    TraceEffect
        Cost: an answer a question, and the ends of two more where its thought holds a relation.
    """
    first = model.answer(prompts, pictures, most_tokens=most_tokens)
    turned = {k: other for k, text in enumerate(first) if (other := swapped(text)) is not None}
    steady = changed = 0
    for k, other in turned.items():
        match = _THOUGHT.search(first[k])
        assert match is not None
        # Up to where letters begin: tokenizers join the signs between two tags.
        begun = [f"<think>{thought}</think><answer>" for thought in (match["thought"], other)]
        ends = model.answer([prompts[k]] * 2, [pictures[k]] * 2, most_tokens=most_tokens, begun=begun)
        was, same, now = (_named(text, legends[k]) for text in (first[k], begun[0] + ends[0], begun[1] + ends[1]))
        if was is not _UNREAD and same == was:
            steady += 1
            changed += now != was
    share = float(np.mean([relational_share(text) for text in first])) if first else 0.0
    return TraceEffect(len(first), share, len(turned), steady, changed)


_UNREAD = object()


def _named(text: str, legend: Legend) -> object:
    try:
        return read_name(text, legend)
    except InputError:
        return _UNREAD
