"""Monitors of a vision-language model's boxes: coordinates that no picture has given rise to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anatrust.errors import InputError
from anatrust.reference.coordinates import Convention, PixelBox, from_model, to_model
from anatrust.reference.prompts import Legend, read_boxes, said_boxes

__all__ = ["BoxHealth", "box_health"]

_BEYOND = 0.02  # of the picture's side: rounding reaches over an edge by less
_WHOLE = 0.9  # of the picture's area


@dataclass(frozen=True)
class BoxHealth:
    """What is odd about the boxes of one answer.

    Parameters
    ----------
    readable
        Whether the answer could be used at all.
    boxes
        How many it holds.
    beyond
        Boxes that reach beyond the picture by more than a fiftieth of its side; they are cut at its edge.
    repeated
        Boxes that stand under an earlier name already.
    whole
        Boxes of nine tenths of the picture or more.
    copied
        Boxes whose numbers are exactly those of the same entry in the reference.
    """

    readable: bool
    boxes: int = 0
    beyond: int = 0
    repeated: int = 0
    whole: int = 0
    copied: int = 0

    @property
    def odd(self) -> int:
        """How many boxes are odd in at least one way, at the most; all where nothing could be read."""
        return min(self.boxes, self.beyond + self.repeated + self.whole + self.copied)

    @property
    def rate(self) -> float:
        """Share of odd boxes; 1 for an answer that cannot be read."""
        if not self.readable:
            return 1.0
        return self.odd / self.boxes if self.boxes else 0.0

    def __str__(self) -> str:
        if not self.readable:
            return "the answer could not be read"
        told = (
            (self.beyond, "beyond the picture"),
            (self.repeated, "the same as another"),
            (self.whole, "as large as the picture"),
            (self.copied, "copied from the reference"),
        )
        odd = ", ".join(f"{count} {what}" for count, what in told if count)
        return f"of {self.boxes} boxes {odd}" if odd else f"{self.boxes} boxes, nothing odd"


def box_health(
    text: str,
    legend: Legend,
    convention: Convention,
    *,
    seen: tuple[int, int],
    shown: tuple[int, int],
    reference: Mapping[int, PixelBox] | None = None,
) -> BoxHealth:
    """Look at the boxes of an answer before they are cut at the picture's edges.

    Parameters
    ----------
    text
        What the model said.
    legend, convention, seen, shown
        As for `read_boxes`.
    reference
        Boxes of the reference's regions, in pixels of a picture of the target's size, by legend number; a box is copied
        only where two or more are.

    Examples
    --------
    >>> import json
    >>> legend = Legend(((1, "liver"), (2, "spleen")))
    >>> said = [{"label": "liver", "bbox": [0, 0, 90, 60]}, {"label": "spleen", "bbox": [0, 0, 90, 60]}]
    >>> answer = f"<think>…</think><answer>{json.dumps(said)}</answer>"
    >>> print(box_health(answer, legend, "pixels", seen=(64, 64), shown=(64, 64)))
    of 2 boxes 2 beyond the picture, 1 the same as another, 2 as large as the picture
    """
    try:
        read_boxes(text, legend, convention, seen=seen, shown=shown)
    except InputError:
        return BoxHealth(readable=False)
    raw = said_boxes(text, legend)
    boxes = {n: tuple(float(v) for v in box) for n, box in raw.items() if box is not None}
    sides = _sides(convention, seen)
    copied = sum(
        boxes[n] == to_model(own, convention, seen=seen, shown=shown)
        for n, own in (reference or {}).items()
        if n in boxes
    )
    return BoxHealth(
        True,
        len(boxes),
        sum(_beyond(box, sides) for box in boxes.values()),
        len(boxes) - len(set(boxes.values())),
        sum(_share(from_model(box, convention, seen=seen, shown=shown), shown) >= _WHOLE for box in boxes.values()),
        copied if copied > 1 else 0,
    )


def _sides(convention: Convention, seen: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the picture in the model's numbers."""
    whole = to_model((0, 0, *seen), convention, seen=seen, shown=seen)
    return whole[2], whole[3]


def _beyond(box: Sequence[float], sides: tuple[float, float]) -> bool:
    return any(v < -_BEYOND * s or v > (1 + _BEYOND) * s for v, s in zip(box, sides * 2, strict=True))


def _share(box: PixelBox, shown: tuple[int, int]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) / (shown[0] * shown[1])
