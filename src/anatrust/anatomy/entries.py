"""What one row of the knowledge table holds: a structure, or a tumour type, checked when it is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["KnowledgeTable", "Laterality", "RegionRule", "SegmenterName", "Structure", "Tumour"]

Laterality = Literal["left", "right", "midline", "paired"]
Visible = Literal["CT", "MR", "PET", "US", "endoscopy"]
Site = Literal["head", "neck", "chest", "breast", "abdomen", "pelvis", "trunk", "limb", "body"]
SegmenterName = Literal["biomedparse-v1", "biomedparse-v2", "sam3", "voxtell", "totalsegmentator", "plain"]

Identifier = Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_]{0,79}$")]
Phrase = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\n\r\t]+$")]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Structure(_Row):
    """An organ or another normal structure.

    ``usual_side`` is where a single organ lies in nearly everybody; ``volume_ml`` is a range no
    adult's whole organ is expected to leave (a convention of ours, wide on purpose; None where a
    field of view seldom holds the whole); ``pieces`` is the most separate pieces it comes in
    (None: any); ``labels`` are its names in the label tables of :mod:`anatrust.anatomy.organs`.
    """

    id: Identifier
    name: Phrase
    synonyms: list[Phrase] = []
    laterality: Laterality = "midline"
    site: Site = "body"
    part_of: Identifier | None = None
    neighbours: list[Identifier] = []
    usual_side: Literal["left", "right"] | None = None
    volume_ml: (
        Annotated[list[Annotated[float, Field(ge=0, strict=False)]], Field(min_length=2, max_length=2)] | None
    ) = None
    pieces: Annotated[int, Field(ge=1)] | None = None
    modalities: Annotated[list[Visible], Field(min_length=1)] = ["CT", "MR"]
    labels: dict[str, list[Phrase]] = {}
    snomed: Annotated[str, Field(pattern=r"^[0-9]{6,18}$")] | None = None

    @model_validator(mode="after")
    def _ascending(self) -> Structure:
        if self.volume_ml is not None and not self.volume_ml[0] < self.volume_ml[1]:
            raise ValueError(f"the volume range {self.volume_ml} does not ascend")
        return self


class RegionRule(_Row):
    """How far around its anchors a tumour is looked for (R2Seg's δ in mm, Γ and Square)."""

    pad_mm: Annotated[float, Field(ge=0, le=100, strict=False)] = 20.0
    scales: Annotated[list[Annotated[float, Field(gt=0, le=4, strict=False)]], Field(min_length=1, max_length=8)] = [
        0.5,
        1.0,
        2.0,
    ]
    square: bool = True


class Tumour(_Row):
    """A tumour type: what it is searched around, and in which words each segmenter is asked.

    ``anchors`` come first to last; ``neighbours`` stand in where no anchor is found. A segmenter
    without ``prompts`` of its own is asked by :func:`anatrust.models.prompts.tumour_prompts`.
    """

    id: Identifier
    name: Phrase
    synonyms: list[Phrase] = []
    anchors: Annotated[list[Identifier], Field(min_length=1, max_length=5)]
    neighbours: list[Identifier] = []
    modalities: Annotated[list[Visible], Field(min_length=1)] = ["CT", "MR"]
    region: RegionRule = RegionRule()
    prompts: dict[SegmenterName, Annotated[list[Phrase], Field(min_length=1, max_length=8)]] = {}
    labels: dict[str, list[Phrase]] = {}


class KnowledgeTable(_Row):
    """The file: the rows, and the version of their form."""

    schema_version: Literal[1]
    structures: list[Structure] = []
    tumours: list[Tumour] = []
