"""What a vision-language model is asked and how its answer is read: one place for training and inference.

A prompt that differs between training stages destroys what was learnt, so every stage and every
backend builds its words here. Three tasks: name the outlined region, boxes for the whole legend,
and a ``<Seg>`` token for each region to draw. Images are, in order: the reference, the reference
with its regions tinted, the target.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anatrust.anatomy.organs import normal_name
from anatrust.errors import InputError
from anatrust.reference.coordinates import Convention, PixelBox, from_model, to_model

__all__ = [
    "NULL",
    "SEG",
    "Legend",
    "again_prompt",
    "box_answer",
    "box_prompt",
    "name_answer",
    "name_prompt",
    "read_boxes",
    "read_name",
    "read_segments",
    "said_boxes",
    "segment_answer",
    "segment_prompt",
]

SEG = "<Seg>"
NULL = "null"

_FORMAT = re.compile(r"^\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*$", re.DOTALL)
_INTRODUCTION = (
    "Image 1 is a reference scan and image 2 is the same scan with its regions tinted; the legend is: {legend}."
    " Image 3 is another patient"
)
_REASON = "Reason inside <think></think>, then give only {what} in <answer></answer>."
_UNITS: Mapping[str, str] = {
    "pixels": "in pixels of image 3",
    "thousand": "in thousandths of image 3's width and height (whole numbers from 0 to 1000)",
    "unit": "as shares of image 3's width and height (from 0 to 1)",
}


@dataclass(frozen=True)
class Legend:
    """Numbered names of the reference's regions, in the order in which they are listed.

    Parameters
    ----------
    entries
        ``(number, name)``; numbers and names are unique.
    hidden
        Whether the model sees numbers alone, so that it cannot answer from what it knows of names.

    Raises
    ------
    InputError
        If it is empty or a number or name stands twice.

    Examples
    --------
    >>> str(Legend(((1, "liver"), (2, "spleen"))))
    '{1: liver, 2: spleen}'
    >>> str(Legend(((1, "liver"), (2, "spleen")), hidden=True))
    '{1, 2}'
    """

    entries: tuple[tuple[int, str], ...]
    hidden: bool = False

    def __post_init__(self) -> None:
        numbers, names = [n for n, _ in self.entries], [normal_name(name) or name for _, name in self.entries]
        if not self.entries or len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
            raise InputError("a legend has at least one entry, and no number or name twice")

    def __str__(self) -> str:
        if self.hidden:
            return "{" + ", ".join(str(number) for number, _ in self.entries) + "}"
        return "{" + ", ".join(f"{number}: {name}" for number, name in self.entries) + "}"

    @property
    def answers(self) -> tuple[str, ...]:
        """What the model calls each entry: its name, or its number where names are hidden."""
        return tuple(str(number) if self.hidden else name for number, name in self.entries)

    def find(self, answer: str) -> int | None:
        """The number an answer means, None if none; spelling, case and word order of names are levelled."""
        said = answer.strip().strip(".").strip()
        for (number, name), called in zip(self.entries, self.answers, strict=True):
            if said == called or said == str(number):
                return number
            if not self.hidden and normal_name(said) and normal_name(said) == normal_name(name):
                return number
        return None

    def shuffled(self, rng: np.random.Generator) -> Legend:
        """The same regions under other numbers and in another order, so that numbers carry nothing over."""
        order = rng.permutation(len(self.entries))
        return Legend(tuple((k + 1, self.entries[i][1]) for k, i in enumerate(order)), self.hidden)


def name_prompt(legend: Legend, colour: str, choices: Sequence[str] | None = None) -> str:
    """Ask which legend entry the outlined region is.

    Parameters
    ----------
    legend
        Of the reference.
    colour
        In which the region is outlined in image 3.
    choices
        The answers allowed (4 to 8, as the legend calls them); None allows all.

    Examples
    --------
    >>> print(name_prompt(Legend(((1, "liver"),), hidden=True), "red")[-77:])
    give only the number, or null if none of them is right, in <answer></answer>.
    """
    what = "the number" if legend.hidden else "the name"
    some = "" if choices is None else f" It is one of: {', '.join(choices)}."
    return (
        _INTRODUCTION.format(legend=legend)
        + f"; one region is outlined in {colour}.{some} Using where regions lie relative to each other, decide which"
        " legend entry the outlined region is. " + _REASON.format(what=f"{what}, or null if none of them is right,")
    )


def box_prompt(legend: Legend, convention: Convention, *, found: str = "", only: Sequence[str] = ()) -> str:
    """Ask for a box of every legend entry in image 3.

    Parameters
    ----------
    legend, convention
        Of the reference; how boxes are written.
    found, only
        When it is asked again: the JSON list of what is already found, and the entries asked for.
    """
    key = "number" if legend.hidden else "name"
    which = "all entries" if not only else f"these entries: {', '.join(only)}"
    each = "legend entry" if not only else "entry still asked for"
    told = f" Already found: {found}." if found else ""
    return (
        _INTRODUCTION.format(legend=legend)
        + f'.{told} For each {each} give one JSON object {{"label": its {key}, "bbox": [x1, y1, x2, y2]}}'
        f' {_UNITS[convention]}; "bbox" is null if it is not visible. '
        + _REASON.format(what=f"the JSON list of {which}")
    )


def again_prompt(prompt: str, why: str) -> str:
    """The same question after an answer that could not be read.

    Examples
    --------
    >>> again_prompt("Which region is it?", "the answer is not JSON")
    'Which region is it? Your last answer could not be read: the answer is not JSON.'
    """
    return f"{prompt} Your last answer could not be read: {why}."


def segment_prompt(legend: Legend) -> str:
    """Ask for the visible entries, each followed by the token that draws it."""
    key = "number" if legend.hidden else "name"
    return (
        _INTRODUCTION.format(legend=legend)
        + f". For each legend entry visible in image 3, in the legend's order, write its {key} followed by {SEG}."
    )


def name_answer(think: str, answer: str | None) -> str:
    """The answer to learn for `name_prompt`; None where no entry is right."""
    return f"<think>{think}</think><answer>{NULL if answer is None else answer}</answer>"


def box_answer(
    think: str,
    boxes: Mapping[str, PixelBox | None],
    convention: Convention,
    *,
    seen: tuple[int, int],
    shown: tuple[int, int],
) -> str:
    """The answer to learn for `box_prompt`: boxes in pixels of the image as shown, None where absent."""
    listed = []
    for label, box in boxes.items():
        numbers = None if box is None else to_model(box, convention, seen=seen, shown=shown)
        plain = None if numbers is None else [round(v, 4) if convention == "unit" else int(v) for v in numbers]
        listed.append({"label": label, "bbox": plain})
    return f"<think>{think}</think><answer>{json.dumps(listed)}</answer>"


def segment_answer(legend: Legend, visible: Sequence[int]) -> str:
    """The answer to learn for `segment_prompt`.

    Examples
    --------
    >>> segment_answer(Legend(((1, "liver"), (2, "spleen"))), [2, 1])
    'liver<Seg> spleen<Seg>'
    """
    pairs = zip(legend.entries, legend.answers, strict=True)
    return " ".join(f"{called}{SEG}" for (number, _), called in pairs if number in visible)


def read_name(text: str, legend: Legend) -> int | None:
    """The number of the entry that an answer names; None where it says null.

    Raises
    ------
    InputError
        If the text is not ``<think>…</think><answer>…</answer>`` or names no entry: a failure of form.

    Examples
    --------
    >>> read_name("<think>it is on the left</think><answer>Spleen</answer>", Legend(((1, "liver"), (2, "spleen"))))
    2
    """
    answer = _answer(text)
    if answer.lower() == NULL:
        return None
    number = legend.find(answer)
    if number is None:
        raise InputError(f"the answer {answer[:60]!r} is none of {', '.join(legend.answers)}")
    return number


def read_boxes(
    text: str, legend: Legend, convention: Convention, *, seen: tuple[int, int], shown: tuple[int, int]
) -> dict[int, PixelBox | None]:
    """Boxes by number, in pixels of the image as shown; None where an entry is said to be absent.

    Entries that the answer leaves out are not in the result.

    Raises
    ------
    InputError
        If the form is wrong, it is no JSON list of such objects, a label is unknown or stands twice,
        or a box has no area inside the image.
    """
    return {
        n: None if box is None else from_model(box, convention, seen=seen, shown=shown)
        for n, box in said_boxes(text, legend).items()
    }


def said_boxes(text: str, legend: Legend) -> dict[int, list[float] | None]:
    """The numbers of an answer's boxes as the model wrote them, by legend number; None where an entry is said absent.

    Raises
    ------
    InputError
        If the form is wrong, it is no JSON list of such objects, or a label is unknown or stands twice.
    """
    answer = _answer(text)
    try:
        listed = json.loads(answer)
    except (json.JSONDecodeError, RecursionError):
        raise InputError(f"the answer {answer[:60]!r} is not JSON") from None
    if not isinstance(listed, list) or not all(isinstance(o, dict) and set(o) == {"label", "bbox"} for o in listed):
        raise InputError('the answer is no list of {"label", "bbox"}')
    found: dict[int, list[float] | None] = {}
    for one in listed:
        number = legend.find(str(one["label"]))
        if number is None or number in found:
            raise InputError(f"the label {str(one['label'])[:40]!r} is unknown or stands twice")
        box = one["bbox"]
        if box is not None and not (isinstance(box, list) and all(type(v) in (int, float) for v in box)):
            raise InputError(f"the box of {one['label']} is {str(box)[:40]!r}: four numbers or null are meant")
        found[number] = box
    return found


def read_segments(text: str, legend: Legend) -> tuple[int, ...]:
    """The numbers of the entries to draw, in the order of their ``<Seg>`` tokens.

    Raises
    ------
    InputError
        If a token follows no entry, or an entry stands twice.

    Examples
    --------
    >>> read_segments("liver<Seg> spleen<Seg>", Legend(((1, "liver"), (2, "spleen"), (3, "aorta"))))
    (1, 2)
    """
    parts = text.strip().split(SEG)
    if parts[-1].strip():
        raise InputError(f"the answer ends in {parts[-1].strip()[:40]!r} without {SEG}")
    numbers = [legend.find(part.strip().strip(",;").strip()) for part in parts[:-1]]
    found = tuple(n for n in numbers if n is not None)
    if len(found) < len(numbers) or len(set(found)) < len(found):
        raise InputError(f"a {SEG} follows no legend entry, or one stands twice")
    return found


def _answer(text: str) -> str:
    match = _FORMAT.match(text)
    if match is None or any(tag in match["answer"] + match["think"] for tag in ("<think>", "<answer>")):
        raise InputError("the answer is not <think>…</think><answer>…</answer>")
    return match["answer"].strip()
