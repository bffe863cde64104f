"""Reference and target pictures with questions and answers: what a vision-language model learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.reference.coordinates import Convention, PixelBox, box_of_mask
from anatrust.reference.prompts import (
    Legend,
    box_answer,
    box_prompt,
    name_answer,
    name_prompt,
    segment_answer,
    segment_prompt,
)

__all__ = ["LabelledPicture", "Pair", "Sample", "Task", "draw_pairs", "outlined", "plain_picture", "tinted"]

Task = Literal["name", "box", "segment"]
SeenSize = Callable[[Image.Image], tuple[int, int]]
OUTLINE = "yellow"
# Okabe and Ito's colours, told apart by colour-blind readers too, then six more between them.
_TINTS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (240, 228, 66), (90, 0, 160), (160, 255, 200), (120, 60, 20), (255, 0, 60), (255, 255, 255),
)  # fmt: skip
# In a smaller picture a digit would hide the region and its neighbours.
_LEAST_WRITTEN = 128


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """A grey picture with named regions.

    Parameters
    ----------
    image
        ``(rows, columns)`` float in [0, 1].
    labels
        Integers of the same shape, 0 outside.
    names
        Of the label numbers.
    patient
        Whose it is: no pair is made of one patient's pictures.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]
    names: Mapping[int, str]
    patient: str

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.shape != self.labels.shape:
            raise InputError(
                f"a labelled picture is one slice with labels of its shape, not {self.image.shape} and "
                f"{self.labels.shape}"
            )

    @property
    def present(self) -> tuple[int, ...]:
        """Labels that occur and have a name."""
        return tuple(int(n) for n in np.unique(self.labels) if n != 0 and int(n) in self.names)


def plain_picture(image: npt.NDArray[np.float32]) -> Image.Image:
    """Grey values in [0, 1] as an RGB picture."""
    grey = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2))


def tinted(picture: LabelledPicture, numbers: Mapping[int, int]) -> Image.Image:
    """The picture with each region tinted and its legend number written on it.

    Pictures of less than 128 pixels a side are tinted alone: the first twelve numbers have a tint each.

    Parameters
    ----------
    picture
        The reference.
    numbers
        Legend number of each label.
    """
    base = np.asarray(plain_picture(picture.image), dtype=np.float32)
    for label, number in numbers.items():
        inside = picture.labels == label
        base[inside] = 0.6 * base[inside] + 0.4 * np.array(_TINTS[number % len(_TINTS)], np.float32)
    shown = Image.fromarray(base.astype(np.uint8))
    if min(shown.size) < _LEAST_WRITTEN:
        return shown
    pen = ImageDraw.Draw(shown)
    for label, number in numbers.items():
        inside = picture.labels == label
        if inside.any():
            # The innermost pixel, so that the number stands inside a crescent too.
            row, column = np.unravel_index(int(ndimage.distance_transform_edt(inside).argmax()), inside.shape)
            pen.text(
                (int(column), int(row)), str(number), fill="white", anchor="mm", stroke_width=1, stroke_fill="black"
            )
    return shown


def outlined(image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], colour: str = OUTLINE) -> Image.Image:
    """The picture with a line of one pixel around a region.

    Pictures of less than 128 pixels a side are tinted inside it, too: a model that reads them in a few patches sees
    no line in the middle of a region, and cannot tell inside from outside at its edge.
    """
    shown = plain_picture(image)
    if min(shown.size) < _LEAST_WRITTEN:
        base = np.asarray(shown, dtype=np.float32)
        base = np.where(mask[..., None], 0.6 * base + 0.4 * np.array(ImageColor.getrgb(colour), np.float32), base)
        shown = Image.fromarray(base.astype(np.uint8))
    edge = ndimage.binary_dilation(mask) & ~mask
    shown.paste(Image.new("RGB", shown.size, colour), mask=Image.fromarray((edge * 255).astype(np.uint8)))
    return shown


@dataclass(frozen=True, eq=False)
class Sample:
    """One question with its pictures and everything its answer is measured by.

    Parameters
    ----------
    task, prompt, pictures, answer
        What is asked, shown, and right.
    legend
        Of the reference.
    number
        Of the outlined region (``name``); None where it is in no legend entry.
    boxes
        Of every legend entry in the target, None where absent (``box``).
    masks
        Of the entries present in the target (``segment``), by number in the legend's order.
    """

    task: Task
    prompt: str
    pictures: tuple[Image.Image, ...]
    answer: str
    legend: Legend
    number: int | None
    boxes: Mapping[int, PixelBox | None]
    masks: Mapping[int, npt.NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference and a target of another patient, under one legend.

    Parameters
    ----------
    reference, target
        Two patients' pictures.
    legend
        Of the reference's regions.
    labels
        Label number of each legend number.
    """

    reference: LabelledPicture
    target: LabelledPicture
    legend: Legend
    labels: Mapping[int, int]

    def mask(self, number: int) -> npt.NDArray[np.bool_]:
        """Where a legend entry lies in the target; empty where it is absent."""
        return np.asarray(self.target.labels == self.labels[number])

    def sample(
        self,
        task: Task,
        rng: np.random.Generator,
        convention: Convention = "pixels",
        seen: SeenSize | None = None,
        label: int | None = None,
    ) -> Sample:
        """A question about this pair.

        Parameters
        ----------
        task
            What is asked.
        rng
            Chooses the outlined region.
        convention
            How boxes are written.
        seen
            Gives the ``(width, height)`` at which the model sees a picture; at its own by default.
        label
            Of the outlined region; one of the target's at random by default.
        """
        shown = tinted(self.reference, {label: number for number, label in self.labels.items()})
        visible = [n for n in self.labels if self.mask(n).any()]
        boxes = {n: box_of_mask(self.mask(n)) for n in self.labels}
        masks = {n: self.mask(n) for n in visible}
        called = dict(zip((n for n, _ in self.legend.entries), self.legend.answers, strict=True))
        last, number = plain_picture(self.target.image), None
        if task == "name":
            if label is None:
                own = [int(n) for n in self.target.present]
                label = int(own[int(rng.integers(len(own)))])
            number = next((n for n, known in self.labels.items() if known == label), None)
            prompt = name_prompt(self.legend, OUTLINE)
            answer = name_answer(self._thought(number), None if number is None else called[number])
            last = outlined(self.target.image, self.target.labels == label)
        elif task == "box":
            size = (self.target.image.shape[1], self.target.image.shape[0])
            prompt = box_prompt(self.legend, convention)
            answer = box_answer(
                self._thought(None),
                {called[n]: boxes[n] for n in boxes},
                convention,
                seen=size if seen is None else seen(last),
                shown=size,
            )
        else:
            prompt, answer = segment_prompt(self.legend), segment_answer(self.legend, visible)
        pictures = (plain_picture(self.reference.image), shown, last)
        return Sample(task, prompt, pictures, answer, self.legend, number, boxes, masks)

    def _thought(self, number: int | None) -> str:
        """Where the region lies in the reference: relations a reader can check, nothing invented."""
        centres = {
            n: np.argwhere(self.reference.labels == label).mean(0) / self.reference.labels.shape
            for n, label in self.labels.items()
        }
        called = dict(zip((n for n, _ in self.legend.entries), self.legend.answers, strict=True))
        if number is None or len(centres) < 2:
            return "I compare where the regions lie in the reference and in image 3."
        others = sorted((n for n in centres if n != number), key=lambda n: np.abs(centres[n] - centres[number]).sum())
        said = []
        for other in others[:2]:
            down, right = centres[number] - centres[other]
            where = ("below" if down > 0 else "above") if abs(down) > abs(right) else ("right" if right > 0 else "left")
            said.append(f"{where}{' of' if where in ('left', 'right') else ''} {called[other]}")
        return f"In the reference {called[number]} lies {' and '.join(said)}; so does the outlined region in image 3."


def draw_pairs(
    pictures: Sequence[LabelledPicture], seed: int, *, absent: float = 0.2, hidden: float = 0.3
) -> Iterator[Pair]:
    """Pairs without end, in an order that the seed decides.

    Reference and target are of different patients and share at least one named region. Legends are
    shuffled, so that a number means nothing by itself; some hide the names; from some references a
    region of the target is left out, so that null is sometimes right.

    Parameters
    ----------
    pictures
        Of at least two patients.
    seed
        Of the order.
    absent, hidden
        Share of pairs with a region left out of the legend, and of legends without names.

    Raises
    ------
    InputError
        If no two patients share a region.
    """
    rng = np.random.default_rng(seed)
    present = [set(picture.present) for picture in pictures]
    shared = [
        (i, j)
        for i, a in enumerate(pictures)
        for j, b in enumerate(pictures)
        if a.patient != b.patient and present[i] & present[j]
    ]
    if not shared:
        raise InputError("no two patients share a named region: give labelled pictures of at least two patients")
    while True:
        i, j = shared[int(rng.integers(len(shared)))]
        reference, target = pictures[i], pictures[j]
        labels = list(reference.present)
        if len(labels) > 1 and rng.random() < absent:
            labels.remove(labels[int(rng.integers(len(labels)))])
        order = [labels[k] for k in rng.permutation(len(labels))]
        legend = Legend(
            tuple((n, reference.names[label]) for n, label in enumerate(order, 1)), bool(rng.random() < hidden)
        )
        yield Pair(reference, target, legend, dict(enumerate(order, 1)))
