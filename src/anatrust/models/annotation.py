"""What a reasoner is given and what it answers: labelled references, and the anatomy found with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anatrust.errors import GeometryError, InputError
from anatrust.image.region import label_boxes
from anatrust.image.volumes import LabelMap, Scan

__all__ = ["ENOUGH", "SURE", "Annotation", "NamedRegion", "Reference", "Relation", "Structure", "boxes_of", "some_of"]

SURE = 0.5
"""Confidence from which a structure counts as found for sure; a convention, no error level."""

ENOUGH = 0.7
"""Expected Dice from which an outline counts as sure, where one was estimated; a convention (Zijdenbos, 1994)."""

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Reference:
    """A labelled scan of another patient.

    Parameters
    ----------
    scan, labels
        The scan and its structures, on one grid.
    identifier
        What to call it in results; never a patient's name.
    weight
        Its say among several references, above 0.

    Raises
    ------
    InputError
        If there is no label, or the weight is not positive.
    GeometryError
        If scan and labels lie on different grids.
    """

    scan: Scan
    labels: LabelMap
    identifier: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        name = self.identifier or self.scan.identifier or "reference"
        if not self.labels.grid.same_as(self.scan.grid):
            raise GeometryError(f"the labels of the reference {name} are not on its scan's grid: resample them first")
        if not self.labels.array.any():
            raise InputError(f"the labels of the reference {name} are all background: give one with structures")
        if not 0 < self.weight < math.inf:
            raise InputError(f"the reference {name} has the weight {self.weight:g}: give a number above 0")
        object.__setattr__(self, "identifier", name)

    def names(self) -> dict[int, str]:
        """The name of every label that occurs; ``label N`` where it has none."""
        return {number: self.labels.names.get(number, f"label {number}") for number in self.labels.labels()}


@dataclass(frozen=True)
class Structure:
    """One structure of the references, found in the target or not.

    Parameters
    ----------
    number, name
        As in the references.
    box
        Voxel indices ``(start, stop)`` along each axis of the target, stop excluded; None where
        the structure was not found.
    confidence
        From 0 to 1, a ranking and no probability; 0 where it was not found.
    voxels
        Size in the target.
    agreement
        Mean Dice of what each reference says with what was decided; None with one reference.
    similarity
        How alike target and moved references look there, 0 to 1.
    appearance
        Overlap of the grey-value histograms inside, of the most similar reference, 0 to 1.
    expected
        Dice to expect if it is there at all, as references told whose own labels were kept from the reasoner; None
        where that was not asked, or the structure was tried too seldom.
    reason
        Why it was not found; empty if it was.
    """

    number: int
    name: str
    box: Box | None
    confidence: float
    voxels: int = 0
    agreement: float | None = None
    similarity: float | None = None
    appearance: float | None = None
    expected: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise InputError(f"the confidence of {self.name} is {self.confidence:g}: give 0 to 1")
        if (self.box is None) != bool(self.reason) or (self.box is None) != (self.voxels == 0):
            raise InputError(f"{self.name}: a structure has a box and voxels, or a reason why it was not found")

    @property
    def found(self) -> bool:
        """Whether it is in the target."""
        return self.box is not None

    @property
    def sure(self) -> bool:
        """Found, with enough confidence, and with enough overlap to expect where that is known."""
        return self.found and self.confidence >= SURE and not self.hard

    @property
    def hard(self) -> bool:
        """Found, but expected to overlap too little with what is there."""
        return self.found and self.expected is not None and self.expected < ENOUGH

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        box = None if self.box is None else [list(edges) for edges in self.box]
        return {**self.__dict__, "box": box}


@dataclass(frozen=True)
class Relation:
    """A relation that all references show, and whether it holds in the target.

    ``relation`` is ``"right of"``, ``"left of"``, ``"in front of"``, ``"behind"``, ``"above"``,
    ``"below"`` (the patient's directions) or ``"touches"``.
    """

    subject: str
    relation: str
    other: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.subject} {self.relation} {self.other}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class NamedRegion:
    """What a region of the target is that somebody outlined.

    Parameters
    ----------
    region
        Its number in the label map given.
    number, name
        The structure of the references; None and empty where it is none of them.
    confidence
        From 0 to 1, a ranking; 0 where it has no name.
    reason
        Why it has no name; empty if it has.
    """

    region: int
    number: int | None
    name: str
    confidence: float
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1 or (self.number is None) != bool(self.reason):
            raise InputError(f"region {self.region}: a region has a name and a confidence, or a reason why it has none")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(self.__dict__)


@dataclass(frozen=True, eq=False)
class Annotation:
    """The anatomy of a target, found with labelled references.

    Parameters
    ----------
    labels
        The structures found, on the target's grid, with the references' numbers and names.
    structures
        Every structure of the references, found or not, by number.
    relations
        What the references agree on about neighbours, and whether it holds here.
    reasoner
        Exactly who answered: name, revision and settings.
    references
        ``(identifier, weight)`` of the references used; weights sum to 1. Empty if there was no
        suitable one.
    remarks
        What a person should know, a sentence each.
    abstained
        Why there is no answer; empty if there is one.
    regions
        Names of the regions that were outlined in the target, where there were any.
    """

    labels: LabelMap
    structures: tuple[Structure, ...]
    relations: tuple[Relation, ...]
    reasoner: str
    references: tuple[tuple[str, float], ...]
    remarks: tuple[str, ...] = ()
    abstained: str = ""
    regions: tuple[NamedRegion, ...] = ()

    def __post_init__(self) -> None:
        found = tuple(s.number for s in self.structures if s.found)
        if sorted(found) != list(self.labels.labels()):
            raise InputError("the structures found and the labels drawn differ: an annotation lists what it draws")
        twice = [name for name, count in Counter(s.number for s in self.structures).items() if count > 1]
        if twice:
            raise InputError(f"the structure {twice[0]} is listed twice")

    @property
    def decision(self) -> Literal["accept", "review", "abstain"]:
        """``abstain`` without an answer; ``review`` where anything is unsure, broken or remarked; else ``accept``."""
        if self.abstained:
            return "abstain"
        return "review" if self.reasons else "accept"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not accepted, a phrase each."""
        if self.abstained:
            return (self.abstained, *(r for r in self.remarks if r not in self.abstained))
        unsure = [s.name for s in self.structures if s.found and s.confidence < SURE]
        hard = [s.name for s in self.structures if s.hard and s.confidence >= SURE]
        lost = [s.name for s in self.structures if not s.found]
        broken = [str(r) for r in self.relations if not r.holds]
        told = []
        if lost and len(lost) == len(self.structures):
            told.append("nothing of the references was found: are they of the same body part and kind of image?")
            lost = []
        for what, names in (
            ("not found", lost),
            ("low confidence", unsure),
            (f"expected to overlap by less than {ENOUGH:g}", hard),
            ("does not hold", broken),
        ):
            if names:
                told.append(f"{what}: {some_of(names)}")
        return (*told, *self.remarks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the voxels."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "structures": [s.to_json() for s in self.structures],
            "relations": [r.to_json() for r in self.relations],
            "reasoner": self.reasoner,
            "references": [{"identifier": name, "weight": round(weight, 4)} for name, weight in self.references],
            "remarks": list(self.remarks),
            "regions": [r.to_json() for r in self.regions],
            "shape": list(self.labels.grid.shape),
            "spacing": list(self.labels.grid.spacing) if self.labels.grid.spacing_known else None,
            "orientation": self.labels.grid.orientation,
        }

    @classmethod
    def none(
        cls, target: Scan, names: Mapping[int, str], reasoner: str, reason: str, remarks: tuple[str, ...] = ()
    ) -> Annotation:
        """The answer that there is no answer: every structure is null, for one reason."""
        empty = LabelMap(np.zeros(target.grid.shape, np.uint8), target.grid, names)
        structures = tuple(Structure(n, name, None, 0.0, reason=reason) for n, name in sorted(names.items()))
        return cls(empty, structures, (), reasoner, (), remarks, reason)


def some_of(names: Sequence[str], most: int = 8) -> str:
    """The first names of a list, and how many more there are.

    Examples
    --------
    >>> some_of(["liver", "spleen", "aorta"], 2)
    'liver, spleen and 1 more'
    """
    return f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}"


def boxes_of(labels: LabelMap) -> dict[int, Box]:
    """The box of each label present: ``(start, stop)`` along each axis.

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> array = np.zeros((4, 5), np.uint8)
    >>> array[1:3, 2] = 7
    >>> boxes_of(LabelMap(array, Grid((4, 5), np.eye(4))))
    {7: ((1, 3), (2, 3))}
    """
    return {n: tuple((s.start, s.stop) for s in box) for n, box in label_boxes(labels.array).items()}
