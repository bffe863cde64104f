"""What a planner answers: which organs to look around, how far, and why; valid once it exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from anatrust.errors import InputError

__all__ = ["MAX_ANCHORS", "MAX_PAD", "MAX_SCALE", "AnatomyPlan", "PlanModality", "Planner", "clamped_rule"]

PlanModality = Literal["CT", "MR", "PET", "US", "endoscopy", "unknown"]

MAX_ANCHORS = 5
MAX_PAD = 100.0
MAX_SCALE = 4.0
_MAX_SCALES = 8
_MAX_TARGET = 200


@dataclass(frozen=True)
class AnatomyPlan:
    """A tumour's anchors and the rule for the regions around them (R2Seg's A, T_ROI and r).

    Parameters
    ----------
    target
        The words that were asked for; they name the candidates: at most 200 characters that can be printed.
    modality
        Of the scan, ``"unknown"`` where nobody said.
    anchors
        Identifiers of the knowledge table, most important first, one to five, none twice.
    stand_ins
        What to use where no anchor is found, in order.
    tumour
        The tumour type of the knowledge table; None where only its organ is known.
    side
        ``"left"`` or ``"right"`` where the words say one.
    pad, scales, square
        The region rule: δ in mm from 0 to 100, one to eight Γ in (0, 4], Square.
    planner
        Who made it: ``"rules"`` or ``"llm"``.
    rationale
        Why, for people.
    adjustments
        What was clamped, mapped or dropped on the way, a sentence each.
    fallback
        Why another planner's answer was not used; empty where none was asked.
    record
        The prompt and the raw answer of a language model, for ``run.json``; empty for rules.

    Raises
    ------
    InputError
        If a value is outside what is said above.

    Examples
    --------
    >>> AnatomyPlan("liver tumour", "CT", ("liver",)).pad
    20.0
    """

    target: str
    modality: PlanModality
    anchors: tuple[str, ...]
    stand_ins: tuple[str, ...] = ()
    tumour: str | None = None
    side: Literal["left", "right"] | None = None
    pad: float = 20.0
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    square: bool = True
    planner: str = "rules"
    rationale: str = ""
    adjustments: tuple[str, ...] = ()
    fallback: str = ""
    record: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if len(self.target) > _MAX_TARGET:
            raise InputError(f"the target has {len(self.target)} characters: name it in at most {_MAX_TARGET}")
        if not self.target.isprintable():
            raise InputError("the target holds signs that cannot be printed: write it in plain words")
        if self.modality not in get_args(PlanModality):
            raise InputError(f"the modality is {self.modality!r}: choose one of {', '.join(get_args(PlanModality))}")
        anchors = tuple(self.anchors)
        if not 1 <= len(anchors) <= MAX_ANCHORS or len(set(anchors)) != len(anchors):
            raise InputError(f"a plan has 1 to {MAX_ANCHORS} different anchors, not {list(anchors)}")
        if self.side not in (None, "left", "right"):
            raise InputError(f"the side is {self.side!r}: choose left or right, or leave it out")
        if not 0 <= self.pad <= MAX_PAD:
            raise InputError(f"the padding is {self.pad:g} mm: give 0 to {MAX_PAD:g}")
        scales = tuple(float(s) for s in self.scales)
        if not 1 <= len(scales) <= _MAX_SCALES or not all(0 < s <= MAX_SCALE for s in scales):
            raise InputError(f"the region scales are {list(scales)}: give 1 to {_MAX_SCALES} in (0, {MAX_SCALE:g}]")
        object.__setattr__(self, "anchors", anchors)
        object.__setattr__(self, "stand_ins", tuple(s for s in dict.fromkeys(self.stand_ins) if s not in anchors))
        object.__setattr__(self, "pad", float(self.pad))
        object.__setattr__(self, "scales", scales)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        plain = asdict(self)
        for key in ("anchors", "stand_ins", "scales", "adjustments"):
            plain[key] = list(plain[key])
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> AnatomyPlan:
        """Inverse of :meth:`to_json`.

        Raises
        ------
        InputError
            If a key is unknown or missing, or a value impossible.
        """
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
            return cls(**values)
        except TypeError as error:
            raise InputError(f"this plan cannot be read: {error}") from None


@runtime_checkable
class Planner(Protocol):
    """Turns words such as "liver tumour" into a plan.

    ``plan`` raises :class:`~anatrust.errors.InputError` where the words mean no tumour it knows.
    Only the words and the modality are ever given to it: it never sees an image or an identifier.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""

    def plan(self, target: str, modality: PlanModality = "unknown") -> AnatomyPlan:
        """The plan for a target."""


def clamped_rule(pad: float, scales: tuple[float, ...]) -> tuple[float, tuple[float, ...], tuple[str, ...]]:
    """A region rule brought inside the limits of :class:`AnatomyPlan`, and in words what was changed.

    Scales that are not positive are dropped; where none is left, 1 is used. Numbers that are not
    finite are dropped too.

    Examples
    --------
    >>> clamped_rule(500, (9, -1))
    (100.0, (4.0,), ('padding 500 mm clamped to 100', 'scale 9 clamped to 4', 'scale -1 dropped'))
    """
    said = []
    kept: dict[float, None] = {}
    limited = min(max(pad, 0.0), MAX_PAD) if isfinite(pad) else 20.0
    if limited != pad:
        said.append(f"padding {pad:g} mm clamped to {limited:g}")
    for scale in scales:
        if not (isfinite(scale) and scale > 0):
            said.append(f"scale {scale:g} dropped")
        elif scale > MAX_SCALE:
            said.append(f"scale {scale:g} clamped to {MAX_SCALE:g}")
            kept[MAX_SCALE] = None
        else:
            kept[float(scale)] = None
    if len(kept) > _MAX_SCALES:
        said.append(f"{len(kept) - _MAX_SCALES} scales dropped")
    if not kept:
        said.append("no usable scale, 1 used")
    return float(limited), tuple(kept)[:_MAX_SCALES] or (1.0,), tuple(said)
