"""rau-nano: the tokenizer loses nothing, controls change what they say, stages resume and are not run twice."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.pairs import draw_pairs
from anatrust.studies.nano_anatomy import cohort
from anatrust.studies.nano_model import build_language
from anatrust.studies.nano_sight import teach_sight
from anatrust.studies.nano_training import QUICK, SEEN, UNSEEN, ask, continued, questions, taught


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return VisionLanguageModel.load(build_language(tmp_path_factory.mktemp("nano"), QUICK.size))


def test_words_survive_the_tokenizer_and_are_few(model: VisionLanguageModel) -> None:
    rng = np.random.default_rng(0)
    tokenizer = model.processor.tokenizer
    for pair in islice(draw_pairs(cohort(range(4), SEEN, size=48), 0), 12):
        for task in ("name", "box", "segment"):
            sample = pair.sample(task, rng)
            for text in (sample.prompt, sample.answer):
                ids = tokenizer.encode(text)
                assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert len(tokenizer.encode(sample.prompt)) < 45
            assert len(tokenizer.encode(sample.answer)) < (150 if task == "box" else 40)


def test_questions_are_about_patients_nobody_learns_from() -> None:
    asked = questions(SEEN, 6, 0, QUICK, hidden=1.0)
    assert len(asked) == 6
    assert {int(a.patient) for a in asked}.isdisjoint(range(QUICK.patients))
    assert {int(a.patient) for a in asked}.isdisjoint(
        int(a.patient) for a in questions(UNSEEN, 6, 0, QUICK, hidden=1.0)
    )
    assert all(a.sample.legend.hidden and a.shown == a.sample.number for a in asked)


def test_controls_change_the_reference_and_nothing_else() -> None:
    plain = questions(SEEN, 4, 0, QUICK, hidden=1.0)
    for change in ("blank", "shuffled", "mirrored", "other look"):
        changed = questions(SEEN, 4, 0, QUICK, hidden=1.0, change=change)  # type: ignore[arg-type]
        for one, other in zip(plain, changed, strict=True):
            assert one.sample.prompt == other.sample.prompt
            assert one.sample.number == other.sample.number
            assert one.sample.pictures[2].tobytes() == other.sample.pictures[2].tobytes()
            assert one.sample.pictures[1].tobytes() != other.sample.pictures[1].tobytes()
            assert (other.shown != other.sample.number) == (change in ("blank", "shuffled"))


def test_stages_go_on_and_are_not_run_twice(tmp_path: Path) -> None:
    start, told = taught(tmp_path, QUICK, 0)
    written = (start / "model.safetensors").stat().st_mtime_ns
    assert taught(tmp_path, QUICK, 0) == (start, told)
    assert (start / "model.safetensors").stat().st_mtime_ns == written
    more, after = continued(tmp_path, start, QUICK, 0, seconds=2.0, each=1.0)
    assert after["steps"] == 2
    assert json.loads((start / "curve.json").read_text())["points"][0]["step"] == 0
    assert [p["step"] for p in after["curve"]] == [0, 1, 2]
    assert (more / "curve.json").is_file()
    answers = ask(VisionLanguageModel.load(more), questions(SEEN, 3, 0, QUICK, hidden=0.0))
    assert [set(a) >= {"right", "form", "shown", "organ", "patient"} for a in answers] == [True] * 3


def test_sight_is_learnt_by_the_tower_alone(tmp_path: Path) -> None:
    model = VisionLanguageModel.load(build_language(tmp_path, QUICK.size))
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    losses = teach_sight(model, cohort(range(6), SEEN, size=48), 30, 0, batch=8)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    moved = {name for name, p in model.model.named_parameters() if bool((p != before[name]).any())}
    assert moved
    assert all(".visual." in name for name in moved)
