"""Words for each segmenter: how it was trained to be asked for an organ or a tumour."""

from __future__ import annotations

import re

from anatrust.anatomy.entries import SegmenterName, Structure
from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.models.planner import AnatomyPlan, PlanModality

__all__ = ["anchor_prompts", "swap_sides", "tumour_prompts"]

_AMERICAN = (("tumour", "tumor"), ("oesophag", "esophag"), ("oedema", "edema"), ("haem", "hem"), ("phaeo", "pheo"))
# BiomedParse's own words: "CT" and "MRI", "ultrasound", "endoscopy".
_MODALITY = {"CT": "CT", "MR": "MRI", "PET": "PET", "US": "ultrasound", "endoscopy": "endoscopy", "unknown": ""}
_SITES = {"head": "head", "neck": "neck", "chest": "chest", "breast": "breast", "abdomen": "abdomen"}
_SITES |= {"pelvis": "pelvis", "limb": "limb"}
_SWAPPED = {"left": "right", "right": "left", "lt": "rt", "rt": "lt"}


def swap_sides(text: str) -> str:
    """The words for an image whose left and right are mirrored: "left" becomes "right" and the reverse.

    Letter case is kept, names with underscores are understood, words that merely contain a side
    ("bright", "leftover") are left alone. Applying it twice gives the text back.

    Examples
    --------
    >>> swap_sides("Left kidney and kidney_right, bright")
    'Right kidney and kidney_left, bright'
    """

    def other(match: re.Match[str]) -> str:
        word = match.group()
        swapped = _SWAPPED[word.lower()]
        if word.isupper():
            return swapped.upper()
        return swapped.capitalize() if word[0].isupper() else swapped

    return re.sub(r"(?<![A-Za-z])(?:left|right|lt|rt)(?![A-Za-z])", other, text, flags=re.IGNORECASE)


def _american(text: str) -> str:
    for british, american in _AMERICAN:
        text = text.replace(british, american)
    return text


def _placed(noun: str, site: str, modality: PlanModality, segmenter: SegmenterName) -> tuple[str, ...]:
    kind, place = _MODALITY[modality], _SITES.get(site, "")
    if segmenter == "plain":
        return (noun,)
    noun = _american(noun)
    if segmenter == "biomedparse-v1":
        # Its two trained wordings: the bare noun, and "<target> in <site> <modality>".
        return (noun, f"{noun} in {place} {kind}") if kind and place else (noun,)
    if segmenter == "biomedparse-v2" and kind:
        # Its trained wordings are sentences, e.g. "CT imaging of the spleen within the abdomen".
        return (f"{kind} imaging of the {noun}" + (f" within the {place}" if place else ""),)
    return (noun,)


def _worded(prompts: tuple[str, ...], mirrored: bool) -> tuple[str, ...]:
    return tuple(dict.fromkeys(swap_sides(p) if mirrored else p for p in prompts))


def anchor_prompts(
    structure: str,
    segmenter: SegmenterName,
    modality: PlanModality = "unknown",
    *,
    mirrored: bool = False,
    table: Knowledge | None = None,
) -> tuple[str, ...]:
    """How to ask a segmenter for an anchor organ, best wording first.

    Parameters
    ----------
    structure
        Identifier of the knowledge table.
    segmenter
        ``"biomedparse-v1"`` and ``"-v2"`` (American spelling, the wordings of their training
        data), ``"sam3"`` and ``"voxtell"`` (American noun phrases), ``"totalsegmentator"`` (names
        for its ``roi_subset``: all parts of the structure, those of the MR task where the
        modality is MR; empty where it does not know the structure), ``"plain"`` (the table's words).
    modality
        Of the scan.
    mirrored
        The image is shown left-right flipped (``View.swaps_sides``): sides are re-worded.
    table
        The knowledge; the built-in one by default.

    Raises
    ------
    InputError
        If there is no such structure.

    Examples
    --------
    >>> anchor_prompts("spleen", "biomedparse-v2", "CT")
    ('CT imaging of the spleen within the abdomen',)
    >>> anchor_prompts("kidney_left", "totalsegmentator", "CT", mirrored=True)
    ('kidney_right',)
    """
    table = table or knowledge()
    row = table.structure(structure)
    if segmenter == "totalsegmentator":
        task = "totalsegmentator_mr" if modality == "MR" else "totalsegmentator_ct"
        return _worded(tuple(table.labels(structure, task).values()), mirrored)
    noun = "bladder" if row.id == "urinary_bladder" and segmenter != "plain" else row.name
    return _worded(_placed(noun, row.site, modality, segmenter), mirrored)


def tumour_prompts(
    plan: AnatomyPlan, segmenter: SegmenterName, *, mirrored: bool = False, table: Knowledge | None = None
) -> tuple[str, ...]:
    """How to ask a segmenter for a plan's target, best wording first.

    The tumour's own prompts in the knowledge table come first; else its name is put into the
    segmenter's wording. Targets the table does not know are asked for by the plan's words.
    ``"totalsegmentator"`` has names for kidney cysts alone: else the answer is empty.

    Parameters as of :func:`anchor_prompts`.

    Examples
    --------
    >>> from anatrust.models.planner_rules import RulesPlanner
    >>> plan = RulesPlanner().plan("liver tumour", "CT")
    >>> tumour_prompts(plan, "biomedparse-v1")
    ('liver tumor', 'liver tumor in abdomen CT')
    >>> tumour_prompts(RulesPlanner().plan("left renal mass", "MR"), "voxtell", mirrored=True)
    ('right kidney tumor',)
    """
    table = table or knowledge()
    first: Structure = table.structure(plan.anchors[0])
    if plan.tumour is None:
        own: list[str] = []
        noun = plan.target
    else:
        row = table.tumour(plan.tumour)
        own, noun = list(row.prompts.get(segmenter, [])), row.name
    if segmenter == "totalsegmentator":
        task = "totalsegmentator_mr" if plan.modality == "MR" else "totalsegmentator_ct"
        names = [] if plan.tumour is None else list(table.labels(plan.tumour, task).values())
        fitting = [n for n in names if plan.side is None or n.endswith(plan.side)]
        return _worded(tuple(own or fitting), mirrored)
    side = f"{plan.side} " if plan.side and plan.tumour is not None and first.laterality != "midline" else ""
    prompts = tuple(p for word in (own or [noun]) for p in _placed(side + word, first.site, plan.modality, segmenter))
    return _worded(prompts, mirrored)
