"""What is drawn over a scan, and how: outcomes as filled patterns, sets as nested contours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from anatrust.conformal.sets import PredictionSet

__all__ = ["STYLES", "Layer", "Style", "outcome_layers", "set_layers"]


@dataclass(frozen=True)
class Style:
    """A colour, and what tells it apart without colour.

    ``pattern`` is ``"solid"``, ``"stripes"`` or ``"dots"`` for filled areas, ``"line"`` or
    ``"dashes"`` for contours; ``dash`` gives on and off pixels where a contour is drawn.
    """

    colour: tuple[int, int, int]
    pattern: str
    dash: tuple[int, int] = (1, 0)

    @property
    def hex(self) -> str:
        """The colour as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


# Okabe and Ito (2008), chosen so that blue and orange carry the main difference for every kind
# of colour vision.
_BLUE, _ORANGE, _PURPLE = (86, 180, 233), (230, 159, 0), (204, 121, 167)
STYLES: Mapping[str, Style] = {
    "kept": Style(_BLUE, "solid"),
    "rejected": Style(_ORANGE, "stripes", (8, 5)),
    "undecidable": Style(_PURPLE, "dots", (3, 4)),
    "passed": Style(_BLUE, "solid"),
    "failed": Style(_ORANGE, "stripes", (8, 5)),
    "sure": Style(_BLUE, "solid"),
    "unsure": Style(_ORANGE, "stripes", (8, 5)),
}
# One hue a structure: green, yellow and vermilion of the same palette, the first lightened for dark scans.
_HUES = ((0, 190, 140), (240, 228, 66), (235, 110, 30))
_MOST_SETS = 6
_ON_AT_FIRST = 2


@dataclass(frozen=True, eq=False)
class Layer:
    """One thing to draw, on the scan's grid.

    ``key`` names it in the page, ``title`` for people; layers of one ``group`` belong together.
    ``on`` says whether it shows at first.
    """

    key: str
    title: str
    style: Style
    mask: npt.NDArray[np.bool_]
    on: bool = True
    group: str = ""


def outcome_layers(masks: Mapping[str, npt.NDArray[np.bool_]], *, on: bool = True) -> tuple[Layer, ...]:
    """A layer for each outcome; ``on`` says whether they show at first."""
    return tuple(Layer(name, name.capitalize(), STYLES[name], mask, on) for name, mask in masks.items())


def set_layers(sets: Sequence[PredictionSet]) -> tuple[Layer, ...]:
    """Two nested contours a structure: the inner set a line, the outer one dashes.

    What cannot be drawn has none: an empty set, and an outer set that is the whole image because
    it could not be calibrated. Beyond six structures none is drawn, for nobody could tell
    them apart.
    """
    made = []
    for number, found in enumerate(sets[:_MOST_SETS]):
        hue, on = _HUES[number % len(_HUES)], number < _ON_AT_FIRST
        inner_feasible, outer_feasible = found.feasible[0], found.feasible[1]
        for side, mask, feasible, style in (
            ("inner", found.inner, inner_feasible, Style(hue, "line")),
            ("outer", found.outer, outer_feasible, Style(hue, "dashes", (7, 5))),
        ):
            if feasible and mask.array.any():
                made.append(Layer(f"{side}-{number}", side.capitalize(), style, mask.array, on, found.structure))
    return tuple(made)
