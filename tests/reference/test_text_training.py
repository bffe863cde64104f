"""Both text stages on a tiny random model: they learn, they resume to the same losses, they leave no pickle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anatrust.errors import FormatError, InputError
from anatrust.models.sam2_memory import Sam2Parts
from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.checkpoints import load_state
from anatrust.reference.completion_rewards import Question, completion_rewards
from anatrust.reference.pairs import LabelledPicture, draw_pairs
from anatrust.reference.rewards import mask_reward
from anatrust.reference.text_training import GrpoSettings, SftSettings, train_grpo, train_sft
from anatrust.reference.token_segmenter import TokenSegmenter
from anatrust.studies.tiny_models import memorise, tiny_qwen, tiny_sam2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def pictures() -> list[LabelledPicture]:
    found = []
    for patient in range(3):
        labels = np.zeros((56, 56), np.uint8)
        labels[8:24, 6 + patient : 24 + patient] = 1
        labels[30:44, 30:48] = 2
        image = (labels / 3 + 0.1).astype(np.float32)
        found.append(LabelledPicture(image, labels, {1: "liver", 2: "spleen"}, f"p{patient}"))
    return found


SFT = SftSettings(samples=12, epochs=2, batch=4, learning_rate=5e-3, save_every=3)


def test_sft_learns_and_resumes_to_the_same_losses(
    folder: Path, pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    told: list[int] = []
    whole = train_sft(
        VisionLanguageModel.load(folder), pictures, SFT, tmp_path / "a", progress=lambda step, *_: told.append(step)
    )
    assert len(whole) == 6
    assert whole[-1] < whole[0]
    assert told[-1] == 6
    # As after a kill between the third step and the end.
    for name in ("checkpoint-6", "adapter_model.safetensors"):
        path = tmp_path / "a" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = train_sft(VisionLanguageModel.load(folder), pictures, SFT, tmp_path / "a")
    assert again == pytest.approx(whole, abs=1e-6)
    written = {p.suffix for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert not written & {".bin", ".pt", ".pth", ".pkl"}
    adapted = VisionLanguageModel.load(folder, adapters=[tmp_path / "a"])
    assert adapted.answer(["hello"], [[]], most_tokens=2) is not None


def test_a_model_of_ours_is_trained_whole(folder: Path, pictures: list[LabelledPicture], tmp_path: Path) -> None:
    settings = SftSettings(samples=12, epochs=1, batch=4, learning_rate=5e-3, lora=None)
    train_sft(VisionLanguageModel.load(folder), pictures, settings, tmp_path / "whole")
    assert not (tmp_path / "whole" / "adapter_model.safetensors").exists()
    before, after = VisionLanguageModel.load(folder), VisionLanguageModel.load(tmp_path / "whole")
    changed = {
        name: bool((p != q).any())
        for (name, p), (_, q) in zip(before.model.named_parameters(), after.model.named_parameters(), strict=True)
    }
    assert all(changed[name] for name in changed if "visual" in name and name.endswith("weight"))
    assert any(changed[name] for name in changed if "language_model" in name)


def test_grpo_runs_with_its_rewards_and_resumes_to_the_same(pictures: list[LabelledPicture], tmp_path: Path) -> None:
    pairs = draw_pairs(pictures, 0, hidden=0.0)
    said = [(next(pairs).sample("name", np.random.default_rng(k)), name) for k, name in enumerate(("liver", "spleen"))]
    short = [(q.prompt, list(q.pictures), f"<think>so</think><answer>{name}</answer>") for q, name in said]
    # A model that answers in the form that is asked for: what it draws, and so the reward, varies.
    talker = memorise(tiny_qwen(tmp_path / "qwen"), short, steps=60)
    settings = GrpoSettings(
        steps=4, generations=2, batch=4, longest=20, tasks=("name",), learning_rate=1e-3, save_every=2, temperature=1.0
    )
    whole = train_grpo(VisionLanguageModel.load(talker), pictures, settings, tmp_path / "g")
    assert len(whole) == 4
    assert all(-0.9 <= r <= 1 for r in whole)
    assert len(set(whole)) > 1, "rewards that never differ would resume to the same whatever happened"
    learnt = load_file(tmp_path / "g" / "adapter_model.safetensors")
    # As after a kill between the second step and the end: what was sampled must come again.
    shutil.rmtree(tmp_path / "g" / "checkpoint-4")
    (tmp_path / "g" / "adapter_model.safetensors").unlink()
    again = train_grpo(VisionLanguageModel.load(talker), pictures, settings, tmp_path / "g")
    assert again == pytest.approx(whole, abs=1e-6)
    resumed = load_file(tmp_path / "g" / "adapter_model.safetensors")
    assert all(torch.allclose(resumed[name], learnt[name], atol=1e-6) for name in learnt)


def test_masks_are_rewarded_by_what_the_tokens_draw(
    folder: Path, pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="give the segmenter"):
        train_grpo(VisionLanguageModel.load(folder), pictures, GrpoSettings(tasks=("segment",)), tmp_path / "none")
    learnt = memorise(tiny_qwen(tmp_path / "qwen"), [(_question(pictures)[0], _question(pictures)[1], "liver<Seg>")])
    model = VisionLanguageModel.load(learnt)
    segmenter = TokenSegmenter.make(model, Sam2Parts.load(tiny_sam2(tmp_path / "sam2")))
    before = {n: p.clone() for n, p in segmenter.attention.named_parameters()}
    settings = GrpoSettings(
        steps=2, generations=2, batch=2, longest=12, tasks=("segment",), save_every=9, relations=0.5, temperature=0.2
    )
    rewards = train_grpo(model, pictures, settings, tmp_path / "g", segmenter=segmenter)
    assert len(rewards) == 2
    assert max(rewards) >= 0.1, "a model that writes names with tokens earns the form at least"
    assert all(torch.equal(p, before[n]) for n, p in segmenter.attention.named_parameters())
    assert {"attention.safetensors", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "g").iterdir()}


def _question(pictures: list[LabelledPicture]) -> tuple[str, list[object]]:
    pair = next(p for p in draw_pairs(pictures, 0, hidden=0.0))
    sample = pair.sample("segment", np.random.default_rng(0))
    return sample.prompt, list(sample.pictures)


def test_each_completion_is_judged_by_its_own_question(
    folder: Path, pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    pair = next(p for p in draw_pairs(pictures, 0, hidden=0.0, absent=0.0))
    rng = np.random.default_rng(0)
    questions = [Question(pair, pair.sample(t, rng, "thousand"), (56, 56)) for t in ("name", "box", "segment")]
    right = [q.sample.answer for q in questions]
    model = VisionLanguageModel.load(folder)
    segmenter = TokenSegmenter.make(model, Sam2Parts.load(tiny_sam2(tmp_path / "sam2")))
    accuracy, form, relations = completion_rewards(questions, "thousand", segmenter)
    assert [f.__name__ for f in (accuracy, form, relations)] == ["accuracy", "form", "relations"]
    told = [[{"role": "assistant", "content": text}] for text in right]
    given = accuracy(completions=told, question=[0, 1, 2])
    drawn = segmenter.drawn(pair, questions[2].sample, right[2]).masks
    assert given[0] == 1.0
    assert given[1] == pytest.approx(1.0, abs=0.05)
    assert given[2] == pytest.approx(mask_reward(drawn, questions[2].sample.masks))
    assert form(completions=told, question=[0, 1, 2]) == [1.0, 1.0, 1.0]
    assert relations(completions=told, question=[0, 1, 2])[:2] == [None, 1.0]
    swapped = right[1].replace("liver", "X").replace("spleen", "liver").replace("X", "spleen")
    assert relations(completions=[swapped], question=[1]) == [0.0]
    wrong = ["nonsense"] * 3
    assert accuracy(completions=wrong, question=[0, 1, 2]) == [0.0, 0.0, 0.0]
    assert form(completions=wrong, question=[0, 1, 2]) == [0.0, 0.0, 0.0]
    assert relations(completions=wrong, question=[0, 1, 2]) == [None, None, None]
    flattery = "liver<Seg> liver<Seg> liver<Seg>"
    assert form(completions=[flattery], question=[2]) == accuracy(completions=[flattery], question=[2]) == [0.0]
    with pytest.raises(InputError, match="give the segmenter"):
        completion_rewards(questions, "thousand")[0](completions=["liver<Seg>"], question=[2])


def test_damaged_checkpoints_are_said(tmp_path: Path) -> None:
    (tmp_path / "optimizer.json").write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        load_state(tmp_path / "optimizer")


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (SftSettings, {"batch": 0}),
        (SftSettings, {"tasks": ()}),
        (SftSettings, {"tasks": ("draw",)}),
        (SftSettings, {"tasks": ("segment",)}),
        (GrpoSettings, {"relations": -1.0}),
        (GrpoSettings, {"generations": 3, "batch": 4}),
    ],
)
def test_wrong_settings_are_refused(settings: type, changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        settings(**changes)
