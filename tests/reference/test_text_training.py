"""Both text stages on a tiny random model: they learn, they resume to the same losses, they leave no pickle."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import FormatError, InputError
from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.checkpoints import load_state
from anatrust.reference.pairs import LabelledPicture
from anatrust.reference.text_training import GrpoSettings, SftSettings, train_grpo, train_sft

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import tiny_qwen


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


def test_grpo_runs_with_its_rewards(folder: Path, pictures: list[LabelledPicture], tmp_path: Path) -> None:
    settings = GrpoSettings(steps=2, generations=2, batch=4, longest=8, tasks=("name", "box"), save_every=1)
    rewards = train_grpo(VisionLanguageModel.load(folder), pictures, settings, tmp_path / "g")
    assert len(rewards) == 2
    assert all(-0.9 <= r <= 1 for r in rewards)
    assert (tmp_path / "g" / "adapter_model.safetensors").is_file()


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
        (GrpoSettings, {"tasks": ("segment",)}),
        (GrpoSettings, {"generations": 3, "batch": 4}),
    ],
)
def test_wrong_settings_are_refused(settings: type, changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        settings(**changes)
