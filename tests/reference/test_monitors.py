"""Invented coordinates are told, honest ones are not; collapsed tokens are remarked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.reference.monitors import BoxHealth, box_health
from anatrust.reference.prompts import Legend

LEGEND = Legend(((1, "liver"), (2, "spleen"), (3, "aorta")))
SIZE = (100, 80)


def told(boxes: dict[str, list[float] | None], **more: object) -> BoxHealth:
    listed = [{"label": name, "bbox": box} for name, box in boxes.items()]
    text = f"<think>…</think><answer>{json.dumps(listed)}</answer>"
    return box_health(text, LEGEND, "pixels", seen=SIZE, shown=SIZE, **more)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 50)), min_size=3, max_size=3, unique=True))
def test_boxes_inside_the_picture_that_differ_are_not_odd(corners: list[tuple[int, int]]) -> None:
    boxes = {n: [x, y, x + 30, y + 25] for (x, y), n in zip(corners, ("liver", "spleen", "aorta"), strict=True)}
    found = told(boxes)
    assert found == BoxHealth(True, 3)
    assert (found.odd, found.rate, str(found)) == (0, 0.0, "3 boxes, nothing odd")


def test_each_way_to_invent_is_told() -> None:
    assert told({"liver": [0, 0, 150, 40], "spleen": None}) == BoxHealth(True, 1, beyond=1)
    assert told({"liver": [0, 0, 101, 40]}).beyond == 0
    assert told({"liver": [5, 5, 9, 9], "spleen": [5, 5, 9, 9], "aorta": [5, 5, 9, 9]}).repeated == 2
    assert told({"liver": [0, 0, 100, 78]}).whole == 1
    own = {1: (10.0, 10.0, 30.0, 30.0), 2: (50.0, 10.0, 70.0, 30.0)}
    copied = {"liver": [10, 10, 30, 30], "spleen": [50, 10, 70, 30], "aorta": [1, 1, 9, 9]}
    assert told(copied, reference=own).copied == 2
    # One that happens to be the same is no copy.
    assert told({**copied, "spleen": [50, 10, 70, 31]}, reference=own).copied == 0


@pytest.mark.parametrize("text", ["liver", "<think></think><answer>[{]</answer>", "<think></think><answer>3</answer>"])
def test_what_cannot_be_read_counts_whole(text: str) -> None:
    found = box_health(text, LEGEND, "thousand", seen=SIZE, shown=SIZE)
    assert not found.readable
    assert (found.rate, str(found)) == (1.0, "the answer could not be read")
