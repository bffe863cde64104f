"""Thoughts: relations are counted and turned round; a model that follows its thought is told from one that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.pairs import plain_picture
from anatrust.reference.prompts import Legend
from anatrust.reference.traces import TraceEffect, relational_share, swap_effect, swapped
from anatrust.studies.tiny_models import memorise, tiny_qwen

LEGEND = Legend(((1, "liver"), (2, "spleen"), (3, "aorta")))
LEFT, RIGHT = ("<think>left of the liver</think>", "<think>right of the liver</think>")


def test_relations_are_phrases_and_names_are_not() -> None:
    assert relational_share("<think>the left kidney</think><answer>liver</answer>") == 0
    assert relational_share("<think>left of it</think>") == pytest.approx(2 / 3)
    assert relational_share("left of the liver") == 0
    assert relational_share("<think></think>") == 0
    assert swapped("<think>the left kidney, near the liver</think>") is None
    assert swapped("no thought, left of") is None
    assert swapped("<think>Above the spleen, right of the aorta</think>") == "below the spleen, left of the aorta"


def test_turning_round_twice_gives_the_thought_again() -> None:
    thought = "left of the liver, in front of the spine, inside the trunk, medial to the left kidney"
    once = swapped(f"<think>{thought}</think>")
    assert once is not None
    assert swapped(f"<think>{once}</think>") == thought


@pytest.mark.parametrize(("follows", "rate"), [(True, 1.0), (False, 0.0)])
def test_a_model_that_answers_by_its_thought_is_told_from_one_that_does_not(
    tmp_path: Path, follows: bool, rate: float
) -> None:
    """Both learn what to say after either thought; only in one does the thought decide."""
    picture = plain_picture(np.full((56, 56), 0.5, np.float32))
    prompt = "which?"
    other = "aorta" if follows else "spleen"
    said = [f"{LEFT}<answer>spleen</answer>", f"{RIGHT}<answer>{other}</answer>"]
    lessons = [(prompt, [picture], answer) for answer in said]
    model = VisionLanguageModel.load(memorise(tiny_qwen(tmp_path / "qwen"), lessons, steps=300))
    found = swap_effect(model, [prompt] * 2, [[picture]] * 2, [LEGEND] * 2, most_tokens=40)
    assert found == TraceEffect(2, pytest.approx(0.5), 2, 2, round(2 * rate))
    assert found.rate == rate


def test_without_relations_nothing_is_asked_again(tmp_path: Path) -> None:
    picture = plain_picture(np.zeros((56, 56), np.float32))
    model = VisionLanguageModel.load(tiny_qwen(tmp_path / "qwen"))
    found = swap_effect(model, ["which?"], [[picture]], [LEGEND], most_tokens=4)
    assert (found.asked, found.with_relations, found.steady) == (1, 0, 0)
    assert np.isnan(found.rate)
