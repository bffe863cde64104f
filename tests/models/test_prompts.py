"""Wording per segmenter, and sides under flips."""

from __future__ import annotations

from functools import lru_cache
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.anatomy.entries import SegmenterName
from anatrust.anatomy.knowledge import knowledge
from anatrust.anatomy.organs import label_names
from anatrust.errors import InputError
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.prompts import anchor_prompts, swap_sides, tumour_prompts

TABLE = knowledge()
RULES = RulesPlanner()


@lru_cache
def plans(modality):
    return {key: RULES.plan(row.name, modality) for key, row in TABLE.tumours.items()}


@pytest.mark.parametrize("segmenter", get_args(SegmenterName))
@pytest.mark.parametrize("modality", ["CT", "MR", "unknown"])
def test_every_tumour_and_organ_can_be_asked_for(segmenter, modality):
    for key, plan in plans(modality).items():
        prompts = tumour_prompts(plan, segmenter)
        assert prompts or segmenter == "totalsegmentator", key
        assert len(set(prompts)) == len(prompts)
        if segmenter not in ("plain", "totalsegmentator"):
            assert not any("tumour" in p or "oedema" in p for p in prompts)
    for key in TABLE.structures:
        prompts = anchor_prompts(key, segmenter, modality)
        if segmenter == "totalsegmentator":
            table = "totalsegmentator_mr" if modality == "MR" else "totalsegmentator_ct"
            assert set(prompts) <= set(label_names(table).values())
        else:
            assert prompts
            assert not any("_" in p or "  " in p for p in prompts)


@pytest.mark.parametrize(
    ("structure", "segmenter", "modality", "expected"),
    [
        ("liver", "biomedparse-v1", "MR", ("liver", "liver in abdomen MRI")),
        ("urinary_bladder", "biomedparse-v1", "unknown", ("bladder",)),
        ("spleen", "biomedparse-v2", "CT", ("CT imaging of the spleen within the abdomen",)),
        ("aorta", "biomedparse-v2", "CT", ("CT imaging of the aorta",)),
        ("esophagus", "sam3", "CT", ("esophagus",)),
        ("esophagus", "plain", "CT", ("oesophagus",)),
        ("lung", "totalsegmentator", "MR", ("lung_left", "lung_right")),
        ("breast", "totalsegmentator", "CT", ()),
    ],
)
def test_wordings(structure, segmenter, modality, expected):
    assert anchor_prompts(structure, segmenter, modality) == expected


def test_tumours_by_side_by_own_prompt_and_by_name():
    assert tumour_prompts(RULES.plan("left lung nodule", "CT"), "biomedparse-v1") == (
        "left lung nodule",
        "left lung nodule in chest CT",
    )
    assert tumour_prompts(RULES.plan("left liver tumour", "CT"), "sam3") == ("liver tumor",)
    cysts = RULES.plan("cyst of the right kidney", "CT")
    assert tumour_prompts(cysts, "totalsegmentator") == ("kidney_cyst_right",)
    assert tumour_prompts(cysts, "totalsegmentator", mirrored=True) == ("kidney_cyst_left",)
    assert tumour_prompts(RULES.plan("trachea", "MR"), "voxtell") == ("trachea",)
    assert tumour_prompts(RULES.plan("trachea", "MR"), "totalsegmentator") == ()


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.sampled_from("leftrigh _LR,-b"), max_size=40))
def test_swapping_sides_twice_changes_nothing(text):
    # Mixed case inside a side's word is levelled, hence the comparison without case.
    assert swap_sides(swap_sides(text)).lower() == text.lower()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left kidney", "right kidney"),
        ("RIGHT lung, Left lung", "LEFT lung, Right lung"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"),
        ("bright cleft, leftover", "bright cleft, leftover"),
        ("rib_left_1", "rib_right_1"),
    ],
)
def test_swapping(text, expected):
    assert swap_sides(text) == expected


def test_mirrored_anchors_ask_for_the_other_side():
    for key, row in TABLE.structures.items():
        if row.laterality == "left":
            twin = key.replace("_left", "_right")
            for segmenter in get_args(SegmenterName):
                mirrored = anchor_prompts(key, segmenter, "CT", mirrored=True)
                assert set(mirrored) <= set(anchor_prompts(twin, segmenter, "CT"))
    with pytest.raises(InputError, match="no structure"):
        anchor_prompts("livver", "sam3")
