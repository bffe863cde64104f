"""What a completion is worth: the rewards of reinforcement learning (RAU, equation 2), in plain Python.

The paper does not publish its weights; 0.9 for accuracy and 0.1 for form are ours. Every accuracy is built so that
guessing does not pay: boxes left out cost, one giant box has a small intersection over union, and a mask that is not
there counts against those that are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.metrics import dice
from anatrust.reference.coordinates import Convention, PixelBox
from anatrust.reference.prompts import Legend, read_boxes, read_name

__all__ = ["WEIGHTS", "box_reward", "form_reward", "mask_reward", "name_reward", "relation_reward"]

WEIGHTS = (0.9, 0.1)
"""Of accuracy and of form."""

_MISSING = 0.25  # what a box left out costs, as a share of one region


def form_reward(text: str, legend: Legend) -> float:
    """1 if the completion to a naming question has the form asked for, else 0.

    Examples
    --------
    >>> legend = Legend(((1, "liver"),))
    >>> form_reward("<think>…</think><answer>liver</answer>", legend), form_reward("liver", legend)
    (1.0, 0.0)
    """
    return float(_name(text, legend) is not _BROKEN)


def name_reward(text: str, truth: int | None, legend: Legend) -> float:
    """1 if the region is named rightly (``truth`` None: null is right), else 0.

    Examples
    --------
    >>> legend = Legend(((1, "liver"), (2, "spleen")))
    >>> name_reward("<think>…</think><answer>Spleen</answer>", 2, legend)
    1.0
    """
    said = _name(text, legend)
    return float(said is not _BROKEN and said == truth)


_BROKEN = object()


def _name(text: str, legend: Legend) -> int | object | None:
    try:
        return read_name(text, legend)
    except InputError:
        return _BROKEN


def box_reward(
    text: str,
    truth: Mapping[int, PixelBox | None],
    legend: Legend,
    convention: Convention,
    *,
    seen: tuple[int, int],
    shown: tuple[int, int],
) -> tuple[float, float]:
    """Accuracy and form of a completion with boxes.

    Accuracy is the mean intersection over union, less a quarter for each entry left out, in [−1, 1];
    saying null of what is absent counts 1. A label repeated or invented, like any breach of form, gives (0, 0).

    Parameters
    ----------
    text
        The completion.
    truth
        The box of every entry of the legend, in pixels of the image as shown; None where it is not visible.
    legend, convention, seen, shown
        As in :func:`anatrust.reference.prompts.read_boxes`.

    Examples
    --------
    >>> legend = Legend(((1, "liver"), (2, "spleen")))
    >>> told = '[{"label": "liver", "bbox": [0, 0, 10, 10]}, {"label": "spleen", "bbox": null}]'
    >>> text = f"<think></think><answer>{told}</answer>"
    >>> box_reward(text, {1: (0, 0, 10, 20), 2: None}, legend, "pixels", seen=(40, 40), shown=(40, 40))
    (0.75, 1.0)
    """
    try:
        found = read_boxes(text, legend, convention, seen=seen, shown=shown)
    except InputError:
        return 0.0, 0.0
    score = 0.0
    for number, box in truth.items():
        given = found.get(number)
        if number not in found:
            score -= _MISSING
        elif box is None or given is None:
            score += float(box is None and given is None)
        else:
            score += _iou(given, box)
    return score / max(len(truth), 1), 1.0


def mask_reward(drawn: Mapping[int, npt.NDArray[np.bool_]], truth: Mapping[int, npt.NDArray[np.bool_]]) -> float:
    """Mean Dice over the regions that are there or were drawn; drawing what is absent counts 0.

    Parameters
    ----------
    drawn, truth
        Masks by number; an absent region has no entry, or an empty mask.

    Examples
    --------
    >>> square = np.zeros((4, 4), bool)
    >>> square[:2] = True
    >>> mask_reward({1: square, 2: square}, {1: square})
    0.5
    """
    numbers = {n for masks in (drawn, truth) for n, mask in masks.items() if mask.any()}
    if not numbers:
        return 1.0
    both = [n for n in numbers if n in drawn and n in truth]
    return float(sum(dice(truth[n], drawn[n]) for n in both)) / len(numbers)


def relation_reward(
    centres: Mapping[int, Sequence[float]], reference: Mapping[int, Sequence[float]], clear: float = 0.05
) -> float | None:
    """Share of the reference's left-right and above-below relations that the centres found keep.

    Parameters
    ----------
    centres, reference
        Centre (x, y) by number, both as shares of their image.
    clear
        A relation counts where the reference's centres are further apart than this.

    Returns
    -------
    float or None
        None where there is no clear relation between what was found: not applicable.

    Examples
    --------
    >>> relation_reward({1: (0.2, 0.5), 2: (0.8, 0.5)}, {1: (0.3, 0.4), 2: (0.7, 0.4)})
    1.0
    """
    numbers = sorted(set(centres) & set(reference))
    kept = []
    for i, a in enumerate(numbers):
        for b in numbers[i + 1 :]:
            for axis in (0, 1):
                apart = reference[a][axis] - reference[b][axis]
                if abs(apart) > clear:
                    kept.append(float(apart * (centres[a][axis] - centres[b][axis]) > 0))
    return sum(kept) / len(kept) if kept else None


def _iou(a: PixelBox, b: PixelBox) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union
