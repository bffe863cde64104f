"""Prompts carry the legend, answers come back as they were given, and broken ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.reference.coordinates import Convention
from anatrust.reference.prompts import (
    Legend,
    box_answer,
    box_prompt,
    name_answer,
    name_prompt,
    read_boxes,
    read_name,
    read_segments,
    segment_answer,
    segment_prompt,
)

LEGEND = Legend(((3, "liver"), (1, "left kidney"), (7, "right kidney")))
SIZES = {"seen": (448, 336), "shown": (512, 400)}


def test_prompts_show_the_legend_and_hide_names_when_asked() -> None:
    for prompt in (name_prompt(LEGEND, "red"), box_prompt(LEGEND, "pixels"), segment_prompt(LEGEND)):
        assert "{3: liver, 1: left kidney, 7: right kidney}" in prompt
    hidden = Legend(LEGEND.entries, hidden=True)
    for prompt in (name_prompt(hidden, "red", hidden.answers), box_prompt(hidden, "thousand"), segment_prompt(hidden)):
        assert "kidney" not in prompt
        assert "{3, 1, 7}" in prompt
    assert "outlined in red" in name_prompt(LEGEND, "red")
    assert "It is one of: liver, left kidney." in name_prompt(LEGEND, "red", ["liver", "left kidney"])


@pytest.mark.parametrize("said", ["left kidney", "Kidney_Left", " 1 ", "Left Kidney."])
def test_names_are_understood_however_they_are_spelt(said: str) -> None:
    assert read_name(name_answer("because", said), LEGEND) == 1
    assert read_name(name_answer("because", None), LEGEND) is None


@pytest.mark.parametrize(
    "text",
    [
        "left kidney",
        "<answer>liver</answer>",
        "<think>a</think>liver",
        "<think>a</think><answer>brain</answer>",
        "<think>a</think><answer>liver</answer> and more",
        "<think>a</think><answer>liver</answer><answer>liver</answer>",
        "<think>a<think>b</think><answer>liver</answer>",
    ],
)
def test_a_name_in_the_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_name(text, LEGEND)


@given(st.integers(0, 10**6), st.sampled_from(["pixels", "thousand", "unit"]), st.booleans())
def test_boxes_come_back(seed: int, convention: Convention, hidden: bool) -> None:
    rng = np.random.default_rng(seed)
    legend = Legend(LEGEND.entries, hidden)
    low = rng.uniform(0, 0.4, (2, 2)) * SIZES["shown"]
    high = rng.uniform(0.5, 1, (2, 2)) * SIZES["shown"]
    boxes = {
        legend.answers[0]: (*low[0].tolist(), *high[0].tolist()),
        legend.answers[1]: None,
        legend.answers[2]: (*low[1].tolist(), *high[1].tolist()),
    }
    found = read_boxes(box_answer("so", boxes, convention, **SIZES), legend, convention, **SIZES)  # type: ignore[arg-type]
    assert found[1] is None
    assert np.allclose(found[3], boxes[legend.answers[0]], atol=0.7)
    assert np.allclose(found[7], boxes[legend.answers[2]], atol=0.7)


@pytest.mark.parametrize(
    "answer",
    [
        "liver: 1, 2, 3, 4",
        '{"label": "liver", "bbox": null}',
        '[{"label": "liver"}]',
        '[{"label": "brain", "bbox": null}]',
        '[{"label": "liver", "bbox": null}, {"label": 3, "bbox": null}]',
        '[{"label": "liver", "bbox": [1, 2, 3]}]',
        '[{"label": "liver", "bbox": [1, 2, true, 4]}]',
        '[{"label": "liver", "bbox": "all"}]',
        '[{"label": "liver", "bbox": [9, 9, 3, 3]}]',
        '[{"label": "liver", "bbox": [1, 2, NaN, 4]}]',
    ],
)
def test_broken_boxes_are_refused(answer: str) -> None:
    with pytest.raises(InputError):
        read_boxes(f"<think>a</think><answer>{answer}</answer>", LEGEND, "pixels", **SIZES)  # type: ignore[arg-type]


def test_segments_come_back_in_order() -> None:
    assert read_segments(segment_answer(LEGEND, [7, 3]), LEGEND) == (3, 7)
    assert read_segments("", LEGEND) == ()
    for broken in ("liver<Seg> and", "brain<Seg>", "liver<Seg> liver<Seg>", "<Seg>"):
        with pytest.raises(InputError):
            read_segments(broken, LEGEND)


def test_a_shuffled_legend_holds_the_same_regions_under_other_numbers() -> None:
    other = LEGEND.shuffled(np.random.default_rng(1))
    assert sorted(name for _, name in other.entries) == sorted(name for _, name in LEGEND.entries)
    assert sorted(number for number, _ in other.entries) == [1, 2, 3]
    assert other == LEGEND.shuffled(np.random.default_rng(1))
    for wrong in ((), ((1, "a"), (1, "b")), ((1, "left kidney"), (2, "Kidney_Left"))):
        with pytest.raises(InputError):
            Legend(wrong)
