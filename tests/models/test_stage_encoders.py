"""Encoders by folder, and carried along in arrays: the same features to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from anatrust.errors import FormatError, InputError  # noqa: E402
from anatrust.models.nnunet_checkpoint import NnUNetEncoder, read_plans  # noqa: E402
from anatrust.models.smit import SMIT, SMITConfig  # noqa: E402
from anatrust.models.stage_encoders import (  # noqa: E402
    SwinConfig,
    SwinUNETREncoder,
    encoder_from_arrays,
    encoder_to_arrays,
    load_encoder,
)
from anatrust.models.unet import UNet, UNetConfig  # noqa: E402

torch.set_num_threads(1)


def unet(folder: Path) -> Path:
    UNet(UNetConfig(2, ("background", "a"), (4, 8))).save(folder)
    return folder


def smit(folder: Path) -> Path:
    SMIT(SMITConfig(embed=6, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))).save(folder)
    return folder


def swin(folder: Path) -> Path:
    pytest.importorskip("einops")
    folder.mkdir()
    model = SwinUNETREncoder(SwinConfig(feature_size=12, depths=(1, 1, 1, 1)))
    state = {f"module.{n}": v.contiguous() for n, v in model.state_dict().items()}
    save_file(state | {"module.out.conv.weight": torch.zeros(1)}, folder / "weights.safetensors")
    text = json.dumps({"model": "swin-unetr", "feature_size": 12, "depths": [1, 1, 1, 1], "hu_window": [-175, 250]})
    (folder / "config.json").write_text(text)
    return folder


def nnunet(folder: Path) -> Path:
    folder = folder / "nnUNetTrainer__nnUNetPlans__2d"
    folder.mkdir(parents=True)
    chosen = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "n_conv_per_stage_encoder": [1, 1],
        "pool_op_kernel_sizes": [[1, 1], [2, 2]],
        "conv_kernel_sizes": [[3, 3], [3, 3]],
        "unet_max_num_features": 8,
        "normalization_schemes": ["CTNormalization"],
    }
    known = {"mean": 50.0, "std": 25.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}
    plans = {"configurations": {"2d": chosen}, "foreground_intensity_properties_per_channel": {"0": known}}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}}))
    save_file(NnUNetEncoder(read_plans(folder)).state_dict(), folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize("make", [unet, smit, swin, nnunet])
def test_a_profile_carries_the_encoder_along(tmp_path: Path, make: object, rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    loaded = load_encoder(make(tmp_path / "net"))  # type: ignore[operator]
    document, arrays = encoder_to_arrays(loaded)
    again = encoder_from_arrays(json.loads(json.dumps(document)), arrays)
    ndim = 2 if make in (unet, nnunet) else 3
    crops = rng.random((2, *(32,) * ndim)).astype(np.float32)
    kept, found = (e.features.extract(crops, (1.0,) * ndim) for e in (loaded, again))
    np.testing.assert_array_equal(kept, found)
    assert loaded.features.identity == again.features.identity
    assert (loaded.intensity, loaded.window) == (again.intensity, again.window)
    changed = {name: value + 1 if value.dtype == np.float32 else value for name, value in arrays.items()}
    with pytest.raises(FormatError, match="other weights"):
        encoder_from_arrays(document, changed)
    with pytest.raises(FormatError, match="damaged"):
        encoder_from_arrays(document, dict(list(arrays.items())[1:]))
    with pytest.raises(FormatError, match="newer"):
        encoder_from_arrays(document | {"schema": 2}, arrays)


def test_nnunet_sees_the_numbers_it_was_trained_on(tmp_path: Path) -> None:
    loaded = load_encoder(nnunet(tmp_path))
    assert (loaded.intensity, loaded.window) == ("window", (-100.0, 300.0))
    hounsfield = np.array([-100.0, 50.0, 300.0])
    factor, offset = loaded.features.scale
    np.testing.assert_allclose((hounsfield + 100) / 400 * factor + offset, (hounsfield - 50) / 25)


def test_a_swin_window_is_read_and_bad_folders_are_refused(tmp_path: Path) -> None:
    assert load_encoder(swin(tmp_path / "swin")).window == (-175.0, 250.0)
    with pytest.raises(InputError, match="no encoder folder"):
        load_encoder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="holds no encoder"):
        load_encoder(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model": "other"}')
    with pytest.raises(FormatError, match="not known"):
        load_encoder(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model": "swin-unetr"}')
    with pytest.raises(FormatError, match="cannot be read as a SwinUNETR"):
        load_encoder(tmp_path / "empty")
