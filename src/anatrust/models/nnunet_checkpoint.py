"""The encoder of an nnU-Net (v2) from its plans and weights, without nnU-Net and without pickle (extra ``deep``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anatrust.errors import FormatError, InputError

__all__ = ["NnUNetConfig", "NnUNetEncoder", "encoder_state", "read_plans"]

_CONVERT = (
    "in nnU-Net's own environment write its 'network_weights' with safetensors.torch.save_file, see the how-to page"
    " on nnU-Net; a .pth file is a pickle and is not read here"
)


@dataclass(frozen=True)
class NnUNetConfig:
    """Shape of an encoder, as plans.json states it.

    Parameters
    ----------
    ndim, channels
        Axes of the images and input channels.
    features, kernels, strides, blocks
        One entry a stage; ``blocks`` counts convolutions (plain) or residual blocks.
    residual
        Residual encoder (``ResEnc`` presets) or plain.
    bias
        Whether convolutions have one.
    """

    ndim: int
    channels: int
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    residual: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(int(f) for f in self.features))
        object.__setattr__(self, "blocks", tuple(int(b) for b in self.blocks))
        for name in ("kernels", "strides"):
            object.__setattr__(self, name, tuple(tuple(int(v) for v in row) for row in getattr(self, name)))
        lengths = {len(self.features), len(self.kernels), len(self.strides), len(self.blocks)}
        rows = (*self.kernels, *self.strides)
        if self.ndim not in (2, 3) or self.channels < 1 or len(lengths) > 1 or any(len(r) != self.ndim for r in rows):
            raise InputError("an nnU-Net encoder needs features, kernels, strides and blocks for each stage and axis")


class _Unit(nn.Module):
    """Convolution, instance norm and, unless told otherwise, leaky ReLU."""

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        bias: bool,
        active: bool = True,
    ) -> None:
        super().__init__()
        convolution: Any = nn.Conv2d if ndim == 2 else nn.Conv3d
        norm: Any = nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d
        padding = tuple((k - 1) // 2 for k in kernel)
        self.conv = convolution(inputs, outputs, tuple(kernel), tuple(stride), padding, bias=bias)
        self.norm = norm(outputs, eps=1e-5, affine=True)
        self.active = active

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.conv(image))
        return nn.functional.leaky_relu(out, 0.01) if self.active else out


class _Stack(nn.Module):
    """Plain convolutions one after the other, the first with the stride."""

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        count: int,
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        one = (1,) * ndim
        self.convs = nn.Sequential(
            *[
                _Unit(ndim, inputs if i == 0 else outputs, outputs, kernel, stride if i == 0 else one, bias=bias)
                for i in range(count)
            ]
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.convs(image)
        return out


class _Residual(nn.Module):
    """ResNet-D block: average pooling and a projection on the skip, where they are needed."""

    def __init__(
        self, ndim: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], *, bias: bool
    ) -> None:
        super().__init__()
        one = (1,) * ndim
        self.conv1 = _Unit(ndim, inputs, outputs, kernel, stride, bias=bias)
        self.conv2 = _Unit(ndim, outputs, outputs, kernel, one, bias=bias, active=False)
        pooling: Any = nn.AvgPool2d if ndim == 2 else nn.AvgPool3d
        steps: list[nn.Module] = []
        if max(stride) > 1:
            steps.append(pooling(tuple(stride), tuple(stride)))
        if inputs != outputs:
            steps.append(_Unit(ndim, inputs, outputs, one, one, bias=False, active=False))
        self.skip = nn.Sequential(*steps)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.conv2(self.conv1(image)) + self.skip(image), 0.01)


class _ResidualStage(nn.Module):
    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        count: int,
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        one = (1,) * ndim
        self.blocks = nn.Sequential(
            *[
                _Residual(ndim, inputs if i == 0 else outputs, outputs, kernel, stride if i == 0 else one, bias=bias)
                for i in range(count)
            ]
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.blocks(image)
        return out


class _Encoder(nn.Module):
    def __init__(self, config: NnUNetConfig) -> None:
        super().__init__()
        inputs, stages = config.channels, []
        one = (1,) * config.ndim
        self.stem = None
        if config.residual:
            self.stem = _Stack(config.ndim, inputs, config.features[0], config.kernels[0], one, 1, bias=config.bias)
            inputs = config.features[0]
        rows = zip(config.features, config.kernels, config.strides, config.blocks, strict=True)
        for outputs, kernel, stride, count in rows:
            make = _ResidualStage if config.residual else _Stack
            stage: nn.Module = make(config.ndim, inputs, outputs, kernel, stride, count, bias=config.bias)
            stages.append(stage if config.residual else nn.Sequential(stage))
            inputs = outputs
        self.stages = nn.Sequential(*stages)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        current = image if self.stem is None else self.stem(image)
        for stage in self.stages:
            current = stage(current)
            maps.append(current)
        return maps


class NnUNetEncoder(nn.Module):
    """Encoder of nnU-Net v2, plain or residual; input ``(B, channels, …)``, output one map a stage, fine ones first.

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 18 (2021); nnU-Net revisited, MICCAI 2024 (residual encoders).
    """

    def __init__(self, config: NnUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Maps of all stages."""
        maps: list[torch.Tensor] = self.encoder(image)
        return maps

    @classmethod
    def load(cls, folder: Path, *, configuration: str | None = None) -> NnUNetEncoder:
        """The encoder of a trained nnU-Net, in evaluation mode.

        Parameters
        ----------
        folder
            nnU-Net's results folder (``…/nnUNetTrainer__nnUNetPlans__3d_fullres``): ``plans.json``,
            ``dataset.json`` and ``weights.safetensors``, the checkpoint's weights converted.
        configuration
            ``"3d_fullres"`` or another of the plans; the one the folder is named after if None.

        Raises
        ------
        FormatError
            If a file is missing or foreign, or the weights do not fit the plans.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        weights = folder / "weights.safetensors"
        if not weights.is_file():
            raise FormatError(f"{folder} has no weights.safetensors: {_CONVERT}")
        config = read_plans(folder, configuration)
        model = cls(config)
        try:
            model.load_state_dict(encoder_state(load_file(str(weights))))
        except (OSError, SafetensorError, RuntimeError) as error:
            lines = str(error).strip().splitlines()
            reason = lines[min(1, len(lines) - 1)].strip()[:160]
            raise FormatError(f"the weights in {folder} do not fit its plans ({reason}): convert them again") from error
        return model.eval()


def encoder_state(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's own weights of a checkpoint.

    nnU-Net lists every convolution twice (``.all_modules.``) and torch.compile adds a prefix; decoder
    weights are left out.

    Examples
    --------
    >>> zeros = torch.zeros(1)
    >>> names = ("_orig_mod.encoder.stages.0.0.convs.0.conv.weight", "encoder.stages.0.0.convs.0.all_modules.0.weight")
    >>> list(encoder_state(dict.fromkeys((*names, "decoder.x"), zeros)))
    ['encoder.stages.0.0.convs.0.conv.weight']
    """
    plain = {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in weights.items()}
    return {n: v for n, v in plain.items() if n.startswith("encoder.") and ".all_modules." not in n}


def read_plans(folder: Path, configuration: str | None = None) -> NnUNetConfig:
    """Shape of the encoder from ``plans.json`` and ``dataset.json``, of new and old (≤ 2.4) plans.

    Raises
    ------
    FormatError
        If a file is missing or says something else.
    """
    try:
        plans = json.loads((folder / "plans.json").read_text())
        channels = len(json.loads((folder / "dataset.json").read_text())["channel_names"])
        name = configuration or folder.resolve().name.split("__")[-1]
        configurations = plans["configurations"]
        if name not in configurations:
            raise FormatError(f"{folder}: the plans have no '{name}': say which of {', '.join(configurations)}")
        chosen = dict(configurations[name])
        while "inherits_from" in chosen:
            base = dict(configurations[chosen.pop("inherits_from")])
            chosen = base | chosen
        return _config(chosen, channels)
    except (OSError, KeyError, TypeError, ValueError, json.JSONDecodeError, UnicodeDecodeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{folder} holds no plans of nnU-Net v2 ({type(error).__name__}: {error})") from None


def _config(chosen: Mapping[str, Any], channels: int) -> NnUNetConfig:
    if "architecture" in chosen:
        network = str(chosen["architecture"]["network_class_name"]).rsplit(".", 1)[-1]
        known = dict(chosen["architecture"]["arch_kwargs"])
        residual = "Residual" in network
        norm = str(known.get("norm_op", "InstanceNorm"))
        kernels, strides, features = known["kernel_sizes"], known["strides"], known["features_per_stage"]
        blocks, bias = known["n_blocks_per_stage" if residual else "n_conv_per_stage"], bool(known["conv_bias"])
    else:
        network, norm = str(chosen["UNet_class_name"]), "InstanceNorm"
        residual = "Residual" in network
        kernels, strides = chosen["conv_kernel_sizes"], chosen["pool_op_kernel_sizes"]
        widest, base = int(chosen["unet_max_num_features"]), int(chosen["UNet_base_num_features"])
        features = [min(widest, base * 2**i) for i in range(len(strides))]
        blocks, bias = chosen["n_conv_per_stage_encoder"], True
    if network not in ("PlainConvUNet", "ResidualEncoderUNet") or "InstanceNorm" not in norm:
        raise FormatError(f"the network {network} with {norm} is not one of nnU-Net's own: pool it by hooks instead")
    ndim = len(kernels[0])
    return NnUNetConfig(ndim, channels, tuple(features), tuple(kernels), tuple(strides), tuple(blocks), residual, bias)
