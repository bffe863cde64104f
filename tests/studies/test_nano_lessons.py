"""Lessons of rau-nano: what patches are to tell, whose tokens are supervised, going on after a kill; probes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.pairs import Pair, Sample, draw_pairs
from anatrust.studies.nano_anatomy import cohort
from anatrust.studies.nano_attention import looks_of_heads, watched
from anatrust.studies.nano_lessons import Lesson, numbers_of_patches, teach_matching
from anatrust.studies.nano_model import build_language
from anatrust.studies.nano_probes import told_by_patches, transported
from anatrust.studies.nano_traces import answers_after, changed_thoughts
from anatrust.studies.nano_training import QUICK, SEEN, Change, changed, questions

PICTURES = cohort(range(8), SEEN, size=48)


def _pairs(count: int, seed: int = 0) -> list[Pair]:
    return list(islice(draw_pairs(PICTURES, seed, hidden=0.5), count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_language(tmp_path_factory.mktemp("nano"), QUICK.size)


def test_patches_tell_what_the_reference_calls_them() -> None:
    for pair in _pairs(6):
        shares = numbers_of_patches(pair, 12)
        assert shares.shape == (4, 16, 13)
        assert np.allclose(shares.sum(-1), 1)
        for number, label in pair.labels.items():
            assert np.isclose(shares[0, :, label].mean(), (pair.reference.labels == label).mean())
            assert np.isclose(shares[1, :, number].mean(), (pair.reference.labels == label).mean())
            assert np.isclose(shares[2, :, number].mean(), pair.mask(number).mean())
            assert np.isclose(shares[3, :, label].mean(), (pair.target.labels == label).mean())
        same = numbers_of_patches(Pair(pair.reference, pair.reference, pair.legend, pair.labels), 12)
        assert np.array_equal(same[1], same[2])


def test_words_are_supervised_after_segment_prompts_alone_and_each_seg_has_a_place(folder: Path) -> None:
    model, pairs = VisionLanguageModel.load(folder), _pairs(6)
    lesson = Lesson(model, pairs, np.random.default_rng(3))
    samples = [p.sample("segment", np.random.default_rng(0)) for p in pairs[1::2]]
    prompts, pictures = [s.prompt for s in samples], [s.pictures for s in samples]
    given = model.inputs(prompts, pictures, [s.answer for s in samples])
    labels = model.completion_labels(given, model.inputs(prompts, pictures))
    wanted = [row[row != -100].tolist() for row in labels]
    assert [row[row != -100].tolist() for row in lesson.labels[1::2]] == wanted
    assert bool((lesson.labels[::2] == -100).all())
    covered = [pair.mask(n).mean() for pair, s in zip(pairs[1::2], samples, strict=True) for n in s.masks]
    owners = lesson.asked.nonzero()[:, 0]
    assert torch.allclose(lesson.where[owners % 2 == 1].mean(1).double(), torch.tensor(covered))
    assert int((lesson.labels == model.seg).sum()) == len(covered)


def test_words_after_the_legend_tell_what_it_calls_the_outlined_region(folder: Path) -> None:
    model, pairs = VisionLanguageModel.load(folder), _pairs(12)
    lesson, rng, taught = Lesson(model, pairs, np.random.default_rng(3)), np.random.default_rng(3), 0
    for k, pair in enumerate(pairs):
        row = lesson.number[k]
        if k % 2:
            assert bool((row == -100).all())
            continue
        sample = pair.sample("name", rng)
        said = {model.processor.tokenizer.decode([token]) for token in row[row != -100]}
        if sample.number is None:
            assert not said
            continue
        assert said == {str(sample.number) if pair.legend.hidden else pair.target.names[pair.labels[sample.number]]}
        # The answer itself is not among the words that are to tell it, nor is the legend.
        assert bool((row[-2:] == -100).all())
        first = int((row != -100).nonzero()[0])
        told = model.processor.tokenizer.decode(lesson.given["input_ids"][k][first:])
        assert told.startswith("}. Image 3 is another patient")
        place = lesson.where[lesson.asked.nonzero()[:, 0] == k]
        assert torch.allclose(
            place.mean(1).double(), torch.full((len(place),), pair.mask(sample.number).mean()).double()
        )
        taught += 1
    assert taught >= 3


def test_lessons_go_on_where_they_were_stopped_and_teach(folder: Path, tmp_path: Path) -> None:
    def stop(step: int, _steps: int, _numbers: Mapping[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    model = VisionLanguageModel.load(folder)
    whole = teach_matching(model, PICTURES, 5, 0, tmp_path / "whole", batch=4, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        teach_matching(
            VisionLanguageModel.load(folder), PICTURES, 5, 0, tmp_path / "cut", batch=4, save_every=2, progress=stop
        )
    again = VisionLanguageModel.load(folder)
    assert teach_matching(again, PICTURES, 5, 0, tmp_path / "cut", batch=4, save_every=2) == whole
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), again.model.parameters(), strict=True))
    assert not any(p.requires_grad for p in again.model.parameters())


def test_lessons_teach(tmp_path: Path) -> None:
    told: list[Mapping[str, float]] = []
    model = VisionLanguageModel.load(build_language(tmp_path / "m", QUICK.size))
    teach_matching(
        model, PICTURES, 40, 0, tmp_path / "l", batch=8, rate=4e-3, progress=lambda _, __, numbers: told.append(numbers)
    )
    for name, most in (
        ("patches", 0.9), ("words", 0.5), ("numbers", 0.8), ("places", 0.98), ("matching", 0.9), ("pointing", 0.9),
    ):  # fmt: skip
        first, last = (np.mean([numbers[name] for numbers in part]) for part in (told[:5], told[-5:]))
        assert last < most * first, name


def test_looks_are_the_attention_that_the_model_computes_itself(folder: Path) -> None:
    model = VisionLanguageModel.load(folder)
    lesson = Lesson(model, _pairs(4), np.random.default_rng(0))
    model.model.set_attn_implementation("eager")
    with torch.no_grad(), watched(model, (0, 1)) as entered:
        own = model.model.model(**lesson.given, output_attentions=True).attentions
    assert not any(layer.self_attn._forward_pre_hooks for layer in model.model.model.language_model.layers)
    mask = lesson.given["attention_mask"]
    for layer in (0, 1):
        looks = looks_of_heads(entered[layer], mask, 2).exp()
        # Of padding nobody asks.
        told = mask.bool()[:, None].expand(-1, 2, -1)
        assert torch.allclose(looks[told], own[layer][told], atol=1e-6)


def test_pointed_is_the_share_of_a_look_that_falls_on_the_region_asked_about(folder: Path) -> None:
    model = VisionLanguageModel.load(folder)
    lesson = Lesson(model, _pairs(8), np.random.default_rng(0))
    found = lesson.pointed()
    # Untrained, it looks as it happens, and at patches no more than at all else.
    assert 0 < found["area"] < 0.5
    assert all(0 < found[name] < 0.6 for name in ("words", "seg"))
    lesson.where = torch.ones_like(lesson.where)
    whole = lesson.pointed()
    assert whole["area"] == 1
    assert all(found[name] < whole[name] < 1 for name in ("words", "seg"))


def test_controls_change_what_patches_read(folder: Path) -> None:
    model, pairs = VisionLanguageModel.load(folder), _pairs(4)
    plain = Lesson(model, pairs, np.random.default_rng(0)).given
    for change in ("blank", "shuffled", "mirrored"):
        other = Lesson(model, pairs, np.random.default_rng(0), partial(_change, how=change)).given
        assert torch.equal(plain["input_ids"], other["input_ids"])
        own, changed_too = (g["pixel_values"].reshape(4, 3, 16, -1) for g in (plain, other))
        assert torch.equal(own[:, 2], changed_too[:, 2])
        assert not torch.equal(own[:, 1], changed_too[:, 1])
        assert torch.equal(own[:, 0], changed_too[:, 0]) == (change == "shuffled")


def _change(pair: Pair, sample: Sample, how: Change) -> Sample:
    return changed(pair, sample, how)


def test_patches_answer_with_a_number_of_the_legend_whatever_the_batch(folder: Path) -> None:
    model, asked = VisionLanguageModel.load(folder), questions(SEEN, 5, 0, QUICK, hidden=1.0)
    rows = told_by_patches(model, asked)
    assert rows == told_by_patches(model, asked, batch=2)
    for row, one in zip(rows, asked, strict=True):
        assert row["said"] in [n for n, _ in one.sample.legend.entries]
        assert row["right"] == (row["said"] == one.sample.number)


def test_answers_after_a_given_thought_do_not_depend_on_the_batch(folder: Path) -> None:
    model, asked = VisionLanguageModel.load(folder), questions(SEEN, 3, 0, QUICK, hidden=1.0)
    thoughts = ["In the reference 3 lies above 2", "", "In the reference 1 lies left of 5 and below 4"]
    together = answers_after(model, list(zip(asked, thoughts, strict=True)))
    assert together == [answers_after(model, [one])[0] for one in zip(asked, thoughts, strict=True)]


def test_thoughts_are_measured_against_the_answers_they_lead_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = VisionLanguageModel.load(folder), questions(SEEN, 6, 0, QUICK, hidden=1.0)
    assert changed_thoughts(model, asked)["n"] == 0, "an untrained model has no form"
    # As if it said what is right: the words are measured, and what the untrained model makes of other ones.
    monkeypatch.setattr(model, "answer", lambda *_, **__: [one.sample.answer for one in asked])
    told = changed_thoughts(model, asked)
    assert told["right"] == told["stated"] == 1
    assert told["n"] == 6
    assert 0.1 < told["relational"] < 0.5
    assert 0 <= told["swapped"] <= 1


def test_transport_gives_each_number_once_and_keeps_the_answer_of_what_is_left_over() -> None:
    for pair in _pairs(5, 3):
        same = Pair(pair.reference, pair.reference, pair.legend, pair.labels)
        numbers = list(same.labels)
        assert transported(same, numbers, None) == numbers
        said: list[int | None] = [numbers[0]] * len(numbers)
        both = transported(same, numbers, said)
        assert both == numbers, "boxes that fit weigh more than answers that contradict each other"
        found = [n for n in transported(pair, [n for n in numbers if pair.mask(n).any()], None) if n is not None]
        assert len(set(found)) == len(found)
