"""What a trainer's completions are worth: each judged by the question it answers, masks by what its tokens draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anatrust.errors import InputError
from anatrust.reference.coordinates import Convention
from anatrust.reference.monitors import box_health
from anatrust.reference.pairs import Pair, Sample
from anatrust.reference.prompts import read_boxes, read_segments
from anatrust.reference.rewards import box_reward, form_reward, mask_reward, name_reward, relation_reward

if TYPE_CHECKING:
    from anatrust.reference.token_segmenter import TokenSegmenter

__all__ = ["Question", "completion_rewards"]

Rewards = list[float | None]


@dataclass(frozen=True, eq=False)
class Question:
    """A pair of pictures, what is asked about it, and the ``(width, height)`` at which the model sees the target."""

    pair: Pair
    sample: Sample
    seen: tuple[int, int]

    @property
    def shown(self) -> tuple[int, int]:
        """``(width, height)`` of the target as drawn."""
        rows, columns = self.pair.target.image.shape
        return columns, rows

    def centres(self) -> dict[int, tuple[float, float]]:
        """Where the reference's regions lie: (x, y) as shares of its sides, by legend number."""
        return {
            n: centre for n, label in self.pair.labels.items()
            if (centre := _centre(self.pair.reference.labels == label)) is not None
        }  # fmt: skip


def completion_rewards(
    questions: Sequence[Question], convention: Convention, segmenter: TokenSegmenter | None = None
) -> tuple[Callable[..., Rewards], Callable[..., Rewards], Callable[..., Rewards]]:
    """Accuracy, form and relations of completions, in the shape that TRL's trainer calls.

    Parameters
    ----------
    questions
        The trainer's rows say by ``question`` which one a completion answers.
    convention
        How boxes are written.
    segmenter
        Draws the masks of segmentation questions; its language model is the one in training.

    Returns
    -------
    accuracy, form, relations
        The last is None where no relation can be judged (names, and answers of bad form). With ``form`` the trainer
        logs what monitors see in answers with boxes: the share that cannot be read, and of odd boxes (`box_health`).
    """

    def each(judge: Callable[[str, Question], float | None]) -> Callable[..., Rewards]:
        def rewards(
            completions: Sequence[Any],
            question: Sequence[int],
            log_metric: Callable[[str, float], None] | None = None,
            **_: Any,
        ) -> Rewards:
            answers = [(_text(c), questions[int(k)]) for c, k in zip(completions, question, strict=True)]
            if log_metric is not None and judge is form:
                for name, value in _watched(answers, convention).items():
                    log_metric(name, value)
            return [judge(text, asked) for text, asked in answers]

        return rewards

    def accuracy(text: str, asked: Question) -> float:
        sample = asked.sample
        if sample.task == "name":
            return name_reward(text, sample.number, sample.legend)
        if sample.task == "box":
            return _boxed(text, asked, convention)[0]
        return mask_reward(_drawn(segmenter, text, asked), sample.masks)

    def form(text: str, asked: Question) -> float:
        if asked.sample.task == "name":
            return form_reward(text, asked.sample.legend)
        if asked.sample.task == "box":
            return _boxed(text, asked, convention)[1]
        try:
            return float(bool(read_segments(text, asked.sample.legend)) or not asked.sample.masks)
        except InputError:
            return 0.0

    def relations(text: str, asked: Question) -> float | None:
        found: Mapping[int, tuple[float, float] | None] = {}
        if asked.sample.task == "box":
            try:
                boxes = read_boxes(text, asked.sample.legend, convention, seen=asked.seen, shown=asked.shown)
            except InputError:
                return None
            width, height = asked.shown
            found = {n: ((b[0] + b[2]) / 2 / width, (b[1] + b[3]) / 2 / height) for n, b in boxes.items() if b}
        elif asked.sample.task == "segment":
            found = {n: _centre(mask) for n, mask in _drawn(segmenter, text, asked).items()}
        return relation_reward({n: c for n, c in found.items() if c is not None}, asked.centres())

    named = each(accuracy), each(form), each(relations)
    # The trainer logs a reward by its function's name.
    for function, name in zip(named, ("accuracy", "form", "relations"), strict=True):
        function.__name__ = name
    return named


def _watched(answers: Sequence[tuple[str, Question]], convention: Convention) -> dict[str, float]:
    """Shares of unreadable answers with boxes and of odd boxes, where boxes were asked for."""
    seen = [
        box_health(text, asked.sample.legend, convention, seen=asked.seen, shown=asked.shown)
        for text, asked in answers
        if asked.sample.task == "box"
    ]
    if not seen:
        return {}
    boxes = sum(one.boxes for one in seen)
    found = {"boxes/unreadable": sum(not one.readable for one in seen) / len(seen)}
    return found | ({"boxes/odd": sum(one.odd for one in seen) / boxes} if boxes else {})


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else "".join(part["content"] for part in completion)


def _boxed(text: str, asked: Question, convention: Convention) -> tuple[float, float]:
    return box_reward(text, asked.sample.boxes, asked.sample.legend, convention, seen=asked.seen, shown=asked.shown)


def _drawn(segmenter: TokenSegmenter | None, text: str, asked: Question) -> dict[int, Any]:
    if segmenter is None:
        raise InputError("masks are rewarded by what they draw: give the segmenter of 'anatrust train seg'")
    return segmenter.drawn(asked.pair, asked.sample, text).masks


def _centre(mask: Any) -> tuple[float, float] | None:
    places = np.argwhere(mask)
    if len(places) == 0:
        return None
    row, column = (places.mean(axis=0) + 0.5) / mask.shape
    return float(column), float(row)
