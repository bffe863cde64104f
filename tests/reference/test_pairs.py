"""Pairs of pictures: another patient, shuffled legends, answers that their own readers accept."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from PIL import ImageColor

from anatrust.errors import InputError
from anatrust.reference.pairs import LabelledPicture, draw_pairs, outlined, plain_picture, tinted
from anatrust.reference.prompts import read_boxes, read_name, read_segments
from anatrust.reference.rewards import box_reward, name_reward

NAMES = {3: "liver", 5: "spleen", 9: "aorta"}


def picture(patient: str, shift: int = 0, without: int = 0) -> LabelledPicture:
    labels = np.zeros((56, 70), np.uint8)
    labels[10:30, 5 + shift : 25 + shift] = 3
    labels[12:22, 50:60] = 5
    labels[35:41, 33:38] = 9
    labels[labels == without] = 0
    image = (labels / 12 + 0.1).astype(np.float32)
    return LabelledPicture(image, labels, NAMES, patient)


PICTURES = [picture("a"), picture("b", 4), picture("b", 2), picture("c", 1, without=9)]


def test_pairs_are_of_two_patients_and_the_seed_decides() -> None:
    drawn = list(islice(draw_pairs(PICTURES, 1), 40))
    assert all(p.reference.patient != p.target.patient for p in drawn)
    again = list(islice(draw_pairs(PICTURES, 1), 40))
    assert [p.legend for p in drawn] == [p.legend for p in again]
    assert len({str(p.legend) for p in drawn}) > 8
    assert {p.legend.hidden for p in drawn} == {True, False}
    assert any(len(p.labels) < len(p.reference.present) for p in drawn)


def test_names_answer_themselves() -> None:
    nulls = 0
    for k, pair in enumerate(islice(draw_pairs(PICTURES, 2, absent=0.6), 60)):
        sample = pair.sample("name", np.random.default_rng(k))
        assert read_name(sample.answer, sample.legend) == sample.number
        assert name_reward(sample.answer, sample.number, sample.legend) == 1.0
        nulls += sample.number is None
        assert [p.size for p in sample.pictures] == [(70, 56)] * 3
    assert nulls > 5


def test_the_region_asked_about_can_be_chosen() -> None:
    for pair in islice(draw_pairs(PICTURES, 6, absent=0.0), 10):
        for number, label in pair.labels.items():
            sample = pair.sample("name", np.random.default_rng(0), label=label)
            assert sample.number == number
            assert sample.pictures[2].tobytes() == outlined(pair.target.image, pair.mask(number)).tobytes()


@pytest.mark.parametrize("convention", ["pixels", "thousand"])
def test_boxes_answer_themselves(convention: str) -> None:
    size = (70, 56)
    for pair in islice(draw_pairs(PICTURES, 3), 20):
        sample = pair.sample("box", np.random.default_rng(0), convention)  # type: ignore[arg-type]
        found = read_boxes(sample.answer, sample.legend, convention, seen=size, shown=size)  # type: ignore[arg-type]
        assert {n for n, box in found.items() if box} == set(sample.masks)
        accuracy, form = box_reward(sample.answer, sample.boxes, sample.legend, convention, seen=size, shown=size)  # type: ignore[arg-type]
        assert form == 1
        assert accuracy > 0.97


def test_segments_answer_themselves() -> None:
    for pair in islice(draw_pairs(PICTURES, 4), 20):
        sample = pair.sample("segment", np.random.default_rng(0))
        assert read_segments(sample.answer, sample.legend) == tuple(sample.masks)


def test_the_thought_says_what_the_reference_shows() -> None:
    pair = next(p for p in draw_pairs(PICTURES, 5, absent=0, hidden=0) if p.target.patient == "a")
    number = next(n for n, label in pair.labels.items() if label == 3)
    if len(pair.labels) == 3:
        assert pair._thought(number).startswith("In the reference liver lies above aorta and left of spleen")


def test_tints_and_outlines_touch_only_their_region() -> None:
    one = picture("a")
    shown = np.asarray(tinted(one, {3: 1, 5: 2}))
    grey = np.asarray(outlined(one.image, np.zeros(one.image.shape, bool)))
    changed = (shown != grey).any(-1)
    assert changed[one.labels == 3].all()
    assert not changed[one.labels == 9].any()
    large = np.pad(one.labels == 5, ((0, 80), (0, 80)))
    plain = np.asarray(plain_picture(np.zeros(large.shape, np.float32)))
    line = (np.asarray(outlined(np.zeros(large.shape, np.float32), large)) != plain).any(-1)
    assert not line[large].any()
    assert line[11, 55]
    # Small pictures are tinted inside the line, too, and nowhere else.
    small = np.asarray(outlined(one.image, one.labels == 5))
    changed = (small != grey).any(-1)
    assert changed[one.labels == 5].all()
    assert not changed[(one.labels == 3) | (one.labels == 9)].any()
    assert tuple(small[11, 55]) == ImageColor.getrgb("yellow") != tuple(small[15, 55])


def test_bad_pictures_are_said() -> None:
    with pytest.raises(InputError, match="two patients"):
        next(draw_pairs([picture("a"), picture("a")], 0))
    with pytest.raises(InputError, match="one slice"):
        LabelledPicture(np.zeros((2, 2), np.float32), np.zeros((2, 3), np.uint8), NAMES, "a")
