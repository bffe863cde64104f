"""Estimates rest on counts that are checked against a real model: parameters exactly, operations by torch's counter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from anatrust.errors import InputError
from anatrust.models.vision_language import LoraSettings, VisionLanguageModel
from anatrust.reference.training_cost import MACHINES, ModelSize, mask_cost, reward_cost, supervised_cost
from anatrust.studies.tiny_models import tiny_qwen

# config.json of Qwen2.5-VL-7B-Instruct, the fields that matter.
SEVEN = {
    "model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584,
                      "patch_size": 14, "temporal_patch_size": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen(tmp_path_factory.mktemp("qwen"))


def test_parameters_are_counted_exactly(folder: Path) -> None:
    size = ModelSize.of_config(json.loads((folder / "config.json").read_text()))
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    assert size.total == sum(p.numel() for p in model.parameters())
    assert size.vision == sum(p.numel() for n, p in model.named_parameters() if "visual" in n)
    from peft import get_peft_model

    adapted = get_peft_model(model, LoraSettings().config())
    assert size.adapter(8) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_the_published_size_is_met() -> None:
    assert ModelSize.of_config(SEVEN).total == 8_292_166_656
    with pytest.raises(InputError, match="not for 'bert'"):
        ModelSize.of_config({"model_type": "bert"})


def test_operations_agree_with_torchs_counter(folder: Path) -> None:
    model = VisionLanguageModel.load(folder)
    # The counter does not know the fused attention of CPUs.
    model.model.set_attn_implementation("eager")
    picture = Image.fromarray(np.zeros((112, 112, 3), np.uint8))
    given = model.inputs(["where is it? " * 30], [[picture] * 3])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model(**given)
    size = ModelSize.of_config(json.loads((folder / "config.json").read_text()))
    text = given["input_ids"].shape[1] - 3 * 16
    assert size.tokens(112, text=text) == given["input_ids"].shape[1]
    assert size.forward(112, text=text) == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_estimates_move_as_they_should() -> None:
    size, machine = ModelSize.of_config(SEVEN), MACHINES["8xA100-80GB"]
    one = supervised_cost(size, machine, samples=1000, epochs=1, batch=64)
    assert supervised_cost(size, machine, samples=2000, epochs=1, batch=64).hours == pytest.approx(2 * one.hours)
    faster = supervised_cost(size, MACHINES["8xH100-80GB"], samples=1000, epochs=1, batch=64)
    assert faster.hours < one.hours
    small = supervised_cost(size, machine, samples=1000, epochs=1, batch=64, four_bit=True)
    assert one.memory - small.memory > 1.1 * 9e9
    assert one.fits
    assert not supervised_cost(size, MACHINES["cpu-2-cores"], samples=1, epochs=1, batch=1).fits
    rewarded = reward_cost(size, machine, steps=2400, batch=8)
    assert rewarded.parts["keys and values"] > 0
    assert reward_cost(size, machine, steps=2400, batch=8, longest=512).hours > rewarded.hours
    masks = mask_cost(size, machine, steps=2000, batch=4)
    assert masks.machine.devices == 1
    assert "GB a device" in str(masks)
