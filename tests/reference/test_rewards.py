"""Rewards: what should pay pays, and guessing does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.reference.prompts import Legend, box_answer, name_answer
from anatrust.reference.rewards import box_reward, form_reward, mask_reward, name_reward, relation_reward

LEGEND = Legend(((1, "liver"), (2, "spleen"), (3, "aorta")))
SIZE = {"seen": (100, 100), "shown": (100, 100)}
TRUTH = {1: (0.0, 0.0, 40.0, 50.0), 2: (60.0, 0.0, 80.0, 20.0), 3: None}


def told(boxes: object) -> str:
    return f"<think>x</think><answer>{json.dumps(boxes)}</answer>"


@pytest.mark.parametrize(
    ("text", "form", "right"),
    [
        (name_answer("left of the spine", "spleen"), 1.0, 1.0),
        (name_answer("", "liver"), 1.0, 0.0),
        (name_answer("", None), 1.0, 0.0),
        ("spleen", 0.0, 0.0),
        ("<answer>spleen</answer>", 0.0, 0.0),
        (name_answer("", "heart"), 0.0, 0.0),
        (name_answer("", "spleen") * 2, 0.0, 0.0),
    ],
)
def test_names(text: str, form: float, right: float) -> None:
    assert form_reward(text, LEGEND) == form
    assert name_reward(text, 2, LEGEND) == right


def test_null_is_right_where_nothing_is() -> None:
    assert name_reward(name_answer("", None), None, LEGEND) == 1.0


def test_the_true_boxes_earn_everything() -> None:
    text = box_answer("x", {"liver": TRUTH[1], "spleen": TRUTH[2], "aorta": None}, "thousand", **SIZE)
    assert box_reward(text, TRUTH, LEGEND, "thousand", **SIZE) == pytest.approx((1.0, 1.0))


def test_one_giant_box_for_all_earns_little() -> None:
    giant = told([{"label": name, "bbox": [0, 0, 100, 100]} for name in ("liver", "spleen", "aorta")])
    accuracy, form = box_reward(giant, TRUTH, LEGEND, "pixels", **SIZE)
    assert form == 1.0
    assert accuracy == pytest.approx((0.2 + 0.04) / 3)


def test_leaving_out_costs_more_than_a_wrong_box() -> None:
    right = {"label": "liver", "bbox": [0, 0, 40, 50]}
    less = box_reward(told([right]), TRUTH, LEGEND, "pixels", **SIZE)[0]
    wrong = {"label": "spleen", "bbox": [0, 80, 9, 99]}
    absent = {"label": "aorta", "bbox": None}
    assert less == pytest.approx((1 - 0.5) / 3)
    assert box_reward(told([right, wrong, absent]), TRUTH, LEGEND, "pixels", **SIZE)[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "boxes",
    [
        [{"label": "liver", "bbox": [0, 0, 1, 1]}] * 2,
        [{"label": "heart", "bbox": None}],
        [{"label": "liver", "bbox": [5, 5, 5, 9]}],
        [{"label": "liver", "bbox": "everywhere"}],
        {"label": "liver"},
        "liver",
    ],
)
def test_breaches_of_form_earn_nothing(boxes: object) -> None:
    assert box_reward(told(boxes), TRUTH, LEGEND, "pixels", **SIZE) == (0.0, 0.0)


@given(st.text(max_size=80))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for form in (text, f"<think>{text}</think><answer>{text}</answer>"):
        assert 0 <= name_reward(form, 1, LEGEND) <= form_reward(form, LEGEND) <= 1
        accuracy, _ = box_reward(form, TRUTH, LEGEND, "pixels", **SIZE)
        assert -1 <= accuracy <= 1


def test_masks() -> None:
    left = np.zeros((4, 4), bool)
    left[:, :2] = True
    assert mask_reward({1: left}, {1: left, 2: np.zeros((4, 4), bool)}) == 1.0
    assert mask_reward({}, {}) == 1.0
    assert mask_reward({1: ~left}, {1: left}) == 0.0
    assert mask_reward({1: left, 2: left}, {1: left}) == 0.5


def test_relations() -> None:
    reference = {1: (0.2, 0.5), 2: (0.7, 0.52), 3: (0.5, 0.9)}
    assert relation_reward(reference, reference) == 1.0
    mirrored = {n: (1 - x, y) for n, (x, y) in reference.items()}
    assert relation_reward(mirrored, reference) == pytest.approx(2 / 5)
    assert relation_reward({1: (0.2, 0.5)}, reference) is None
