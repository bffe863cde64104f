"""nnU-Net's encoder: plans of both ages, weights in its own names, a forward pass written out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from anatrust.errors import FormatError, InputError  # noqa: E402
from anatrust.models.nnunet_checkpoint import NnUNetConfig, NnUNetEncoder, read_plans  # noqa: E402
from anatrust.models.stage_features import StageFeatures  # noqa: E402

torch.set_num_threads(1)
PLAIN = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    },
}
RESIDUAL: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {**PLAIN["arch_kwargs"], "n_blocks_per_stage": [1, 2, 1]},  # type: ignore[dict-item]
}
OLD = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "unet_max_num_features": 16,
}


def write(folder: Path, chosen: dict[str, Any]) -> Path:
    """A results folder as nnU-Net leaves it, with random weights in its own names (decoder and doubles too)."""
    from safetensors.torch import save_file

    folder = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    folder.mkdir(parents=True)
    plans = {"configurations": {"2d": {}, "3d_fullres": chosen, "3d_cascade": {"inherits_from": "3d_fullres"}}}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0}}))
    torch.manual_seed(0)
    state = NnUNetEncoder(read_plans(folder)).state_dict()
    state = {name: value + 0.3 * torch.randn_like(value) for name, value in state.items()}
    doubles = {}
    for name, value in state.items():
        unit, kind, leaf = name.rsplit(".", 2)
        doubles[f"{unit}.all_modules.{0 if kind == 'conv' else 1}.{leaf}"] = value.clone()
    decoder = {"decoder.encoder.stages.0.0.convs.0.conv.weight": torch.zeros(1), "decoder.seg.bias": torch.zeros(2)}
    save_file(state | doubles | decoder, folder / "weights.safetensors")
    return folder


def unit(w: dict[str, Any], name: str, x: Any, stride: tuple[int, ...], *, active: bool = True) -> Any:
    kernel = w[f"{name}.conv.weight"]
    padding = tuple((k - 1) // 2 for k in kernel.shape[2:])
    x = functional.conv3d(x, kernel, w.get(f"{name}.conv.bias"), stride, padding)
    x = functional.instance_norm(x, weight=w[f"{name}.norm.weight"], bias=w[f"{name}.norm.bias"])
    return functional.leaky_relu(x, 0.01) if active else x


@pytest.mark.parametrize("chosen", [{"architecture": PLAIN}, OLD], ids=["plans 2.5", "plans 2.4"])
def test_plain_encoder_equals_the_convolutions_written_out(tmp_path: Path, chosen: dict[str, Any]) -> None:
    model = NnUNetEncoder.load(write(tmp_path, chosen))
    w, x = model.state_dict(), torch.randn(2, 1, 16, 32, 32)
    with torch.no_grad():
        maps = model(x)
        for stage, stride in enumerate(((1, 1, 1), (1, 2, 2), (2, 2, 2))):
            x = unit(w, f"encoder.stages.{stage}.0.convs.0", x, stride)
            x = unit(w, f"encoder.stages.{stage}.0.convs.1", x, (1, 1, 1))
            torch.testing.assert_close(maps[stage], x)


def test_residual_encoder_equals_the_blocks_written_out(tmp_path: Path) -> None:
    model = NnUNetEncoder.load(write(tmp_path, {"architecture": RESIDUAL}))
    w, x = model.state_dict(), torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        maps = model(x)
        x = unit(w, "encoder.stem.convs.0", x, (1, 1, 1))
        for stage, (stride, blocks) in enumerate((((1, 1, 1), 1), ((1, 2, 2), 2), ((2, 2, 2), 1))):
            for block in range(blocks):
                name, step = f"encoder.stages.{stage}.blocks.{block}", stride if block == 0 else (1, 1, 1)
                skip = functional.avg_pool3d(x, step, step) if max(step) > 1 else x
                if stage and block == 0:
                    skip = unit(w, f"{name}.skip.1", skip, (1, 1, 1), active=False)
                x = unit(w, f"{name}.conv2", unit(w, f"{name}.conv1", x, step), (1, 1, 1), active=False)
                x = functional.leaky_relu(x + skip, 0.01)
            torch.testing.assert_close(maps[stage], x)


def test_features_of_a_checkpoint_folder(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 16, 32, 32)).astype(np.float32)
    one, two = (StageFeatures(NnUNetEncoder.load(write(tmp_path / n, {"architecture": PLAIN}))) for n in "ab")
    assert one.stages == ("encoder",)
    assert [width for _, width in one.levels] == [4, 8, 16]
    assert one.identity == two.identity
    np.testing.assert_array_equal(one.extract(images, (1.0,) * 3), two.extract(images, (1.0,) * 3))


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path, {"architecture": PLAIN})
    assert read_plans(folder, "3d_cascade") == read_plans(folder)
    with pytest.raises(FormatError, match="say which of 2d"):
        read_plans(folder, "3d_lowres")
    other = {**PLAIN, "network_class_name": "somewhere.MyNet"}
    wider = {**PLAIN, "arch_kwargs": {**PLAIN["arch_kwargs"], "features_per_stage": [4, 8, 32]}}  # type: ignore[dict-item]
    for change, words in (({"architecture": other}, "MyNet"), ({"architecture": wider}, "do not fit its plans")):
        (folder / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": change}}))
        with pytest.raises(FormatError, match=words) as caught:
            NnUNetEncoder.load(folder)
        assert "\n" not in str(caught.value)
    (folder / "plans.json").write_text("no")
    with pytest.raises(FormatError, match="no plans"):
        read_plans(folder)
    (folder / "weights.safetensors").unlink()
    (folder / "checkpoint_final.pth").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"safetensors\.torch\.save_file"):
        NnUNetEncoder.load(folder)
    with pytest.raises(InputError):
        NnUNetConfig(3, 1, (4, 8), ((3, 3, 3),), ((1, 1, 1),), (2,))
