"""Encoders by folder: which network it is, how its crops are scaled, and its way in and out of a profile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from anatrust.errors import FormatError, InputError
from anatrust.models.nnunet_checkpoint import NnUNetConfig, NnUNetEncoder
from anatrust.models.smit import SMIT, SMITConfig
from anatrust.models.stage_features import StageFeatures
from anatrust.models.unet import UNet, UNetConfig

__all__ = [
    "LoadedEncoder",
    "SwinConfig",
    "SwinUNETREncoder",
    "encoder_from_arrays",
    "encoder_to_arrays",
    "load_encoder",
]

_SCHEMA = 1
_LEVEL = re.compile(r"(encoder\.)?stages\.\d+")


@dataclass(frozen=True)
class SwinConfig:
    """Shape of the encoder of MONAI's ``SwinUNETR``; the default is that of its published weights."""

    feature_size: int = 48
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    channels: int = 1
    ndim: int = 3
    v2: bool = False


class SwinUNETREncoder(nn.Module):
    """``swinViT`` of MONAI's `SwinUNETR`, without the decoder: five normalised maps, 48 + … + 768 = 1 488 channels."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformer

        self.config = config
        n = config.ndim
        self.swinViT = SwinTransformer(
            config.channels,
            config.feature_size,
            (7,) * n,
            (2,) * n,
            tuple(config.depths),
            tuple(config.heads),
            spatial_dims=n,
            use_v2=config.v2,
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Five maps, fine ones first."""
        maps: list[torch.Tensor] = self.swinViT(image, True)
        return maps

    @classmethod
    def load(cls, folder: Path) -> SwinUNETREncoder:
        """From ``config.json`` (``"model": "swin-unetr"``) and ``weights.safetensors`` of an encoder or a whole net.

        Raises
        ------
        FormatError
            If a file is missing or foreign or the weights do not fit.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            values = json.loads((folder / "config.json").read_text())
            model = cls(SwinConfig(**{k: v for k, v in values.items() if k in SwinConfig.__dataclass_fields__}))
            given = load_file(str(folder / "weights.safetensors"))
            state = {name[name.index("swinViT.") :]: value for name, value in given.items() if "swinViT." in name}
            model.load_state_dict(state)
        except (OSError, TypeError, ValueError, SafetensorError, RuntimeError) as error:
            lines = str(error).strip().splitlines()
            reason = lines[min(1, len(lines) - 1)].strip()[:160] if lines else type(error).__name__
            raise FormatError(f"{folder} cannot be read as a SwinUNETR encoder ({reason}): convert it again") from error
        return model.eval()


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """A network whose stages describe crops: averages over space, for U-Nets moments before the normalisation.

    Parameters
    ----------
    architecture, config
        What was built: ``"unet"``, ``"smit"``, ``"swin-unetr"`` or ``"nnunet"``, and its settings as plain values.
    features
        The network behind hooks.
    intensity, window
        How crops must be scaled for it: an intensity rule, and the window where the rule is ``"window"``.
    """

    architecture: str
    config: Mapping[str, Any]
    features: StageFeatures
    intensity: str
    window: tuple[float, float] | None = None


def _unet(values: Mapping[str, Any]) -> nn.Module:
    return UNet(UNetConfig(int(values["ndim"]), tuple(values["classes"]), tuple(values["widths"])))


_BUILD: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": _unet,
    "smit": lambda values: SMIT(SMITConfig(**values)),
    "swin-unetr": lambda values: SwinUNETREncoder(SwinConfig(**values)),
    "nnunet": lambda values: NnUNetEncoder(NnUNetConfig(**values)),
}


def _hooked(
    architecture: str, model: nn.Module, *, scale: tuple[float, float], device: str, batch: int | None
) -> StageFeatures:
    config: Any = model.config
    ndim = 3 if architecture == "smit" else int(config.ndim)
    # Behind instance normalisation averages are nearly the same for all images: U-Nets are read before it.
    normalised = architecture in ("unet", "nnunet")
    stages: Sequence[str] = {"smit": ("transformer",), "swin-unetr": ("swinViT",)}.get(architecture, ())
    if normalised:
        parts: dict[str, str] = {}
        for name, module in model.named_modules():
            level = _LEVEL.match(name)
            if level and isinstance(module, nn.Conv2d | nn.Conv3d) and ".skip." not in name:
                parts[level[0]] = name  # the last one of each level
        stages = tuple(parts.values())
    return StageFeatures(
        model,
        stages=stages,
        channels=int(getattr(config, "channels", 1)),
        probe=(32 if architecture in ("smit", "swin-unetr") else 64,) * ndim,
        device=device,
        batch=batch,
        pool="moments" if normalised else "mean",
        scale=scale,
        name=architecture,
    )


def load_encoder(folder: str | Path, *, device: str = "cpu", batch: int | None = None) -> LoadedEncoder:
    """The encoder in a folder.

    Parameters
    ----------
    folder
        One of: a U-Net of anatrust; ``config.json`` with ``"model": "smit"`` or ``"swin-unetr"`` beside
        ``weights.safetensors``; nnU-Net's results folder with the weights converted to
        ``weights.safetensors``. An optional ``"hu_window": [low, high]`` in ``config.json`` says how CT is
        scaled to 0 … 1; -400 to 400 otherwise, as published.
    device, batch
        See `StageFeatures`.

    Raises
    ------
    InputError
        If there is no such folder.
    FormatError
        If it holds none of these, or a damaged one. Pickled checkpoints (``.pth``) are not read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no encoder folder {folder}: give the folder with config.json or plans.json")
    if (folder / "plans.json").is_file():
        model: nn.Module = NnUNetEncoder.load(folder)
        rule, window, scale = _nnunet_intensity(folder)
        config = _plain(model)
        features = _hooked("nnunet", model, scale=scale, device=device, batch=batch)
        return LoadedEncoder("nnunet", config, features, rule, window)
    try:
        values = json.loads((folder / "config.json").read_text())
        name = str(values["model"])
        given = values.get("hu_window")
        window = None if given is None else (float(given[0]), float(given[1]))
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(
            f"{folder} holds no encoder (config.json: {error}): name a U-Net, SMIT or SwinUNETR"
        ) from None
    load: dict[str, tuple[str, Callable[[Path], nn.Module]]] = {
        "anatrust-unet": ("unet", UNet.load),
        "smit": ("smit", SMIT.load),
        "swin-unetr": ("swin-unetr", SwinUNETREncoder.load),
    }
    if name not in load:
        raise FormatError(f"{folder}: the model '{name}' is not known, known are {', '.join(load)} and nnU-Net's plans")
    architecture, read = load[name]
    model = read(folder)
    config = _plain(model)
    features = _hooked(architecture, model, scale=(1.0, 0.0), device=device, batch=batch)
    return LoadedEncoder(architecture, config, features, "zscore" if architecture == "unet" else "auto", window)


def _plain(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    return asdict(config)


def _nnunet_intensity(folder: Path) -> tuple[str, tuple[float, float] | None, tuple[float, float]]:
    """Rule, window and scale that give a crop the numbers nnU-Net's own normalisation gives."""
    try:
        plans = json.loads((folder / "plans.json").read_text())
        name = folder.resolve().name.split("__")[-1]
        chosen = plans["configurations"].get(name, {})
        schemes = chosen.get("normalization_schemes") or ["ZScoreNormalization"]
        if schemes[0] != "CTNormalization":
            return "standard", None, (1.0, 0.0)
        known = plans["foreground_intensity_properties_per_channel"]["0"]
        low, high = float(known["percentile_00_5"]), float(known["percentile_99_5"])
        deviation = float(known["std"])
        return "window", (low, high), ((high - low) / deviation, (low - float(known["mean"])) / deviation)
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise FormatError(f"{folder}: the plans do not say how images are normalised ({error})") from None


def encoder_to_arrays(encoder: LoadedEncoder) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """JSON values and plain arrays that hold the whole encoder, so that a profile carries it along."""
    state = encoder.features.model.state_dict()
    document = {
        "schema": _SCHEMA,
        "architecture": encoder.architecture,
        "config": json.loads(json.dumps(dict(encoder.config))),
        "scale": list(encoder.features.scale),
        "intensity": encoder.intensity,
        "window": None if encoder.window is None else list(encoder.window),
        "identity": encoder.features.identity,
    }
    return document, {name: value.detach().cpu().numpy() for name, value in sorted(state.items())}


def encoder_from_arrays(
    document: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], *, device: str = "cpu"
) -> LoadedEncoder:
    """The encoder :func:`encoder_to_arrays` wrote.

    Raises
    ------
    FormatError
        If it is newer, unknown or damaged: its weights must have the hash they had.
    """
    if document.get("schema") != _SCHEMA or document.get("architecture") not in _BUILD:
        raise FormatError("the profile's encoder is of a newer kind than this version knows: update anatrust")
    try:
        model = _BUILD[document["architecture"]](_tuples(document["config"]))
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        low, high = (float(v) for v in document["scale"])
        features = _hooked(document["architecture"], model.eval(), scale=(low, high), device=device, batch=None)
        window = None if document["window"] is None else (float(document["window"][0]), float(document["window"][1]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"the profile's encoder is damaged ({str(error).splitlines()[0][:160]}): fit again") from None
    if features.identity != document.get("identity"):
        raise FormatError("the profile's encoder has other weights than it was fitted with: fit the profile again")
    return LoadedEncoder(document["architecture"], document["config"], features, str(document["intensity"]), window)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
