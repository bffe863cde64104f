"""A tiny random Qwen2.5-VL, saved and loaded through the path of the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anatrust.errors import FormatError, InputError
from anatrust.models.vision_language import SEG, LoraSettings, VisionLanguageModel
from anatrust.studies.tiny_models import tiny_qwen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    return VisionLanguageModel.load(folder)


def picture(side: int = 84, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def test_it_answers_the_same_every_time_and_whatever_the_batch(model: VisionLanguageModel) -> None:
    one = model.answer(["what is it?"], [[picture(), picture(112, 1)]], most_tokens=6)
    two = model.answer(["and this one?", "what is it?"], [[picture(56)], [picture(), picture(112, 1)]], most_tokens=6)
    assert one[0] == two[1]
    assert one == model.answer(["what is it?"], [[picture(), picture(112, 1)]], most_tokens=6)


def test_the_picture_matters(model: VisionLanguageModel) -> None:
    with torch.inference_mode():
        a, b = (model.model(**model.inputs(["what is it?"], [[picture(seed=seed)]])).logits[0, -1] for seed in (0, 1))
    assert not torch.allclose(a, b)


def test_seg_is_one_token_and_survives_decoding(model: VisionLanguageModel) -> None:
    tokenizer = model.processor.tokenizer
    tokens = tokenizer(f"liver{SEG} spleen{SEG}").input_ids
    assert tokens.count(model.seg) == 2
    assert tokenizer.decode(tokens, skip_special_tokens=True) == f"liver{SEG} spleen{SEG}"


def test_seg_states_come_in_order_with_gradients(model: VisionLanguageModel) -> None:
    prompts, pictures = ["draw", "draw them all"], [[picture()], [picture(56)]]
    given = model.inputs(prompts, pictures, [f"liver{SEG} spleen{SEG}", f"liver{SEG}"])
    given["labels"] = model.completion_labels(given, model.inputs(prompts, pictures))
    for parameter in model.model.parameters():
        parameter.requires_grad_(True)
    states, output = model.seg_states(given)
    assert [tuple(s.shape) for s in states] == [(2, 64), (1, 64)]
    assert not torch.allclose(states[0][0], states[0][1])
    (output.loss + sum(s.square().sum() for s in states)).backward()
    grad = model.model.get_input_embeddings().weight.grad
    assert float(grad[model.seg].abs().sum()) > 0
    model.model.zero_grad()
    model.model.requires_grad_(False)


def test_only_the_answer_is_supervised(model: VisionLanguageModel) -> None:
    prompts, pictures, answers = ["draw", "a longer prompt"], [[picture()], [picture(56)]], ["spleen", f"liver{SEG} x"]
    given = model.inputs(prompts, pictures, answers)
    labels = model.completion_labels(given, model.inputs(prompts, pictures))
    told = [model.processor.tokenizer.decode(row[row != -100]) for row in labels]
    assert told == [a + model.processor.tokenizer.eos_token for a in answers]


def test_an_adapter_is_saved_and_loaded(folder: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    base = VisionLanguageModel.load(folder)
    adapted = get_peft_model(base.model, LoraSettings().config(base.seg))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert not any("visual" in name for name in trained)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = VisionLanguageModel.load(folder, adapters=[tmp_path / "adapter"])
    plain = VisionLanguageModel.load(folder)
    given = plain.inputs(["what is it?"], [[picture()]])
    with torch.inference_mode():
        logits = [m(**given).logits for m in (adapted.eval(), loaded.model, plain.model)]
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    assert not torch.allclose(logits[1], logits[2], atol=1e-3)


def test_two_loads_are_one_model(folder: Path) -> None:
    a, b = (VisionLanguageModel.load(folder).model.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_bad_folders_are_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder nor"):
        VisionLanguageModel.load("no/such-model")
    with pytest.raises(InputError, match="CUDA"):
        VisionLanguageModel.load(folder, four_bit=True)
    with pytest.raises(FormatError, match="adapter"):
        VisionLanguageModel.load(folder, adapters=[tmp_path])
    for file in folder.iterdir():
        if file.suffix in (".safetensors",) or file.name == "config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FormatError, match="tokenizer"):
        VisionLanguageModel.load(tmp_path)


@pytest.mark.parametrize("changes", [{"rank": 0}, {"dropout": 1.0}])
def test_wrong_lora_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match="LoRA"):
        LoraSettings(**changes)  # type: ignore[arg-type]
