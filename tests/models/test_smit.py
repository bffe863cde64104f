"""SMIT: the published layout, MONAI's Swin as an oracle for blocks and merging, and the way through a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from anatrust.errors import FormatError, InputError  # noqa: E402
from anatrust.models.smit import SMIT, SMITConfig  # noqa: E402
from anatrust.models.stage_features import StageFeatures  # noqa: E402

torch.set_num_threads(1)
TINY = SMITConfig(embed=12, depths=(2, 2, 2, 1), heads=(2, 2, 4, 4))


def tiny(config: SMITConfig = TINY) -> SMIT:
    """Random weights everywhere, biases of the attention included."""
    torch.manual_seed(0)
    model = SMIT(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return model


def test_the_published_layout() -> None:
    model = SMIT(SMITConfig(depths=(1, 1, 1, 1)))
    found = StageFeatures(model, probe=(32, 32, 32))
    assert found.stages == ("transformer",)
    assert [width for _, width in found.levels] == [48, 96, 192, 384, 768]
    published = SMITConfig()
    assert (published.depths, published.heads, published.window) == ((2, 2, 12, 2), (4, 4, 8, 16), 4)
    names = set(tiny().state_dict())
    for name in (
        "transformer.patch_embed.proj.weight",
        "transformer.patch_embed.norm.bias",
        "transformer.layers.0.blocks.1.attn.relative_position_bias_table",
        "transformer.layers.0.blocks.1.attn.relative_position_index",
        "transformer.layers.2.blocks.0.attn.qkv.weight",
        "transformer.layers.3.blocks.0.mlp.fc2.bias",
        "transformer.layers.3.downsample.reduction.weight",
        "transformer.norm3.weight",
    ):
        assert name in names


def monai_twin(model: SMIT) -> torch.nn.Module:
    """MONAI's Swin with the same weights; its merging lays two corners the other way round."""
    monai = pytest.importorskip("monai.networks.nets.swin_unetr")
    pytest.importorskip("einops")
    config = model.config
    twin = monai.SwinTransformer(
        1, config.embed, (4, 4, 4), (2, 2, 2), config.depths, config.heads, patch_norm=True, downsample="merging"
    ).eval()
    state = {}
    for name, value in model.transformer.state_dict().items():
        if name.startswith("norm"):
            continue
        name = name.replace("mlp.fc", "mlp.linear")
        if name.startswith("layers."):
            _, stage, rest = name.split(".", 2)
            name = f"layers{int(stage) + 1}.0.{rest}"
        if ".downsample." in name:
            eighths = list(value.chunk(8, dim=-1))
            eighths[5], eighths[6] = eighths[6], eighths[5]
            value = torch.cat(eighths, dim=-1)
        state[name] = value
    twin.load_state_dict(state)
    return twin


def test_equals_monai_swin_with_the_same_weights() -> None:
    # 64 voxels: every stage is at least one window wide, where both pad and shift alike.
    model = tiny()
    twin = monai_twin(model)
    image = torch.randn(2, 1, 64, 64, 64)
    before = []
    for layer in (twin.layers1, twin.layers2, twin.layers3, twin.layers4):
        layer[0].downsample.register_forward_pre_hook(lambda _m, inputs: before.append(inputs[0]))
    with torch.no_grad():
        maps = model(image)
        states = twin(image, normalize=False)
        assert torch.allclose(maps[4], states[4], atol=2e-4)
        for number, tokens in enumerate(before):
            norm = model.transformer.get_submodule(f"norm{number}")
            wanted = functional.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias)
            assert torch.allclose(maps[number], wanted.movedim(-1, 1), atol=2e-4)


def test_crops_do_not_see_each_other_and_must_fit() -> None:
    model = tiny(SMITConfig(embed=8, depths=(2, 2, 1, 1), heads=(2, 2, 2, 2)))
    images = torch.randn(2, 1, 32, 32, 64)
    with torch.no_grad():
        both, one = model(images), model(images[1:])
    for together, alone in zip(both, one, strict=True):
        assert torch.allclose(together[1:], alone, atol=1e-5)
    with pytest.raises(InputError, match="multiples of 32"):
        model(torch.zeros(1, 1, 32, 32, 40))


def test_the_way_through_a_folder(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny()
    model.save(tmp_path)
    images = np.random.default_rng(0).random((2, 32, 32, 32)).astype(np.float32)
    kept = StageFeatures(model, probe=(32,) * 3)
    again = StageFeatures(SMIT.load(tmp_path), probe=(32,) * 3)
    assert kept.identity == again.identity
    np.testing.assert_array_equal(kept.extract(images, (1.0,) * 3), again.extract(images, (1.0,) * 3))
    # As a segmenter's checkpoint stores it: wrapped, with a decoder beside it.
    weights = {f"module.{name}": value for name, value in load_file(tmp_path / "weights.safetensors").items()}
    save_file(weights | {"module.decoder5.conv.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    assert StageFeatures(SMIT.load(tmp_path), probe=(32,) * 3).identity == kept.identity


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read as a SMIT"):
        SMIT.load(tmp_path)
    tiny().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, words in (({"model": "other"}, "holds no SMIT"), ({"embed": 16}, "cannot be read")):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(FormatError, match=words) as caught:
            SMIT.load(tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        SMITConfig(heads=(5, 4, 8, 16))
    with pytest.raises(InputError):
        SMITConfig(depths=(2, 2), heads=(2,))
