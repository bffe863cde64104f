"""A MONAI bundle: its network and preprocessing are read as data, never run as code (extra ``deep``).

A bundle's configuration may hold Python expressions, which MONAI evaluates. Here only plain values
are taken: the network must be one of MONAI's, the transforms those whose meaning is known, and the
weights safetensors or TorchScript. What is not understood is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anatrust.errors import FormatError, InputError
from anatrust.models.segmenters.card import NetworkCard
from anatrust.models.segmenters.digest import file_digest
from anatrust.models.segmenters.torch_network import TorchPatchSegmenter
from anatrust.models.segmenters.torchscript import load_script

__all__ = ["MonaiBundleSegmenter", "bundle_card", "load"]

_LARGEST = 1 << 22
# Transforms that change nothing here: reading, channels, types, devices and what is kept of the metadata.
_NEUTRAL = (
    "LoadImaged", "EnsureChannelFirstd", "EnsureTyped", "CastToTyped", "ToTensord", "ToDeviced", "CopyItemsd",
    "DeleteItemsd", "EnsureTyped", "SpatialPadd", "CropForegroundd",
)  # fmt: skip


class MonaiBundleSegmenter(TorchPatchSegmenter):
    """A `TorchPatchSegmenter` made from a bundle's folder; its sliding window is the bundle's."""

    name = "monai-bundle"


def load(weights: Path | None, device: str) -> MonaiBundleSegmenter:
    """The bundle in a folder (``configs/metadata.json``, ``configs/inference.json``, ``models/``).

    Raises
    ------
    InputError
        If something is missing, or the configuration needs code to be understood.
    """
    assert weights is not None
    inference = _json(weights / "configs" / "inference.json")
    card = bundle_card(_json(weights / "configs" / "metadata.json"), inference)
    module, path = _network(weights, inference)
    identity = f"monai-bundle({weights.name},{'+'.join(card.targets)},sha256={file_digest(path)})"
    batch = _window(inference).get("sw_batch_size", 4)
    return MonaiBundleSegmenter(module, card, identity=identity, device=device, batch=_whole(batch, "sw_batch_size"))


def bundle_card(metadata: Mapping[str, Any], inference: Mapping[str, Any]) -> NetworkCard:
    """How a bundle's network is fed, from its two configuration files.

    Targets are the classes whose names mean a lesion; all but the background where none does.

    Raises
    ------
    InputError
        If a transform is not understood, or values are Python expressions.
    """
    from anatrust.anatomy.organs import is_lesion_name

    try:
        output = metadata["network_data_format"]["outputs"]["pred"]
        names = {int(k): str(v) for k, v in output["channel_def"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FormatError("the bundle's metadata.json does not name its output channels (channel_def)") from None
    if sorted(names) != list(range(len(names))):
        raise FormatError(f"the bundle's output channels are numbered {sorted(names)}, not from 0 on")
    classes = tuple(f"{names[k]}" for k in range(len(names)))
    foreground = [c for k, c in enumerate(classes) if not (k == 0 and len(classes) > 1)]
    targets = tuple(c for c in foreground if is_lesion_name(c)) or tuple(foreground)
    window = _window(inference)
    patch = tuple(_whole(v, "roi_size") for v in window.get("roi_size", ()))
    given: dict[str, Any] = {
        "ndim": len(patch),
        "patch": patch,
        "classes": classes,
        "targets": targets,
        "output": _activation(inference, len(classes)),
        "overlap": window.get("overlap", 0.25),
    }
    for transform in _transforms(inference, "preprocessing"):
        given |= _of_transform(transform)
    return NetworkCard.from_json(given, "the bundle")


def _of_transform(transform: Mapping[str, Any]) -> dict[str, Any]:
    """What one preprocessing transform says about the card."""
    name = str(transform.get("_target_", "")).rpartition(".")[2]
    if name in _NEUTRAL:
        return {}
    if name == "Orientationd":
        return {"orientation": str(transform["axcodes"])}
    if name == "Spacingd":
        return {"spacing": tuple(_number(v, "pixdim") for v in transform["pixdim"])}
    if name == "ScaleIntensityRanged":
        low, high = (_number(transform.get(key, d), key) for key, d in (("b_min", 0.0), ("b_max", 1.0)))
        if (low, high) != (0.0, 1.0) or not transform.get("clip", False):
            raise InputError("the bundle scales grey values to another range than 0 to 1, or without clipping")
        return {"window": (_number(transform["a_min"], "a_min"), _number(transform["a_max"], "a_max"))}
    if name == "ScaleIntensityRangePercentilesd":
        return {"percentiles": (_number(transform["lower"], "lower"), _number(transform["upper"], "upper"))}
    if name == "NormalizeIntensityd":
        if transform.get("nonzero", False):
            raise InputError("the bundle normalises non-zero voxels alone, which is not understood here")
        return {"zscore": True}
    raise InputError(f"the bundle's transform {name or 'without a name'} is not understood here: export TorchScript")


def _activation(inference: Mapping[str, Any], classes: int) -> str:
    for transform in _transforms(inference, "postprocessing"):
        if str(transform.get("_target_", "")).endswith("Activationsd"):
            return "sigmoid" if transform.get("sigmoid") else "softmax"
    return "softmax" if classes > 1 else "sigmoid"


def _transforms(inference: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    section = inference.get(key, {})
    found = section.get("transforms", []) if isinstance(section, Mapping) else []
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise InputError(f"the bundle's {key} is not a plain list of transforms: export TorchScript")
    return list(found)


def _window(inference: Mapping[str, Any]) -> Mapping[str, Any]:
    inferer = inference.get("inferer", {})
    if not isinstance(inferer, Mapping) or not str(inferer.get("_target_", "")).endswith("SlidingWindowInferer"):
        raise InputError("the bundle has no SlidingWindowInferer, whose window is needed")
    return inferer


def _network(folder: Path, inference: Mapping[str, Any]) -> tuple[torch.nn.Module, Path]:
    script = next((p for p in sorted((folder / "models").glob("*.ts"))), None)
    if script is not None:
        return load_script(script), script
    weights = next((p for p in sorted((folder / "models").glob("*.safetensors"))), None)
    if weights is None:
        raise InputError(
            f"{folder.name} has neither models/*.ts nor models/*.safetensors: a .pt file is a pickle and is not read; "
            "in MONAI's own environment write its state with safetensors.torch.save_file"
        )
    definition = inference.get("network_def")
    if not isinstance(definition, Mapping):
        raise FormatError(f"{folder.name} does not define its network (network_def)")
    import monai.networks.nets
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    name = str(definition.get("_target_", "")).rpartition(".")[2]
    made = getattr(monai.networks.nets, name, None)
    if not (isinstance(made, type) and issubclass(made, torch.nn.Module)):
        raise InputError(f"the bundle's network {name!r} is none of MONAI's: export TorchScript")
    settings = {key: value for key, value in definition.items() if not key.startswith("_")}
    for key, value in settings.items():
        _plain(value, key)
    try:
        module: torch.nn.Module = made(**settings)
        module.load_state_dict(load_file(str(weights)))
    except (TypeError, ValueError, RuntimeError, SafetensorError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FormatError(f"the weights of {folder.name} do not fit its network ({reason})") from None
    return module, weights


def _plain(value: Any, key: str) -> None:
    """Refuse what MONAI would evaluate or look up."""
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        raise InputError(
            f"the bundle's {key} is the expression {value[:40]!r}: it is not evaluated; write plain values"
        )
    for part in value if isinstance(value, list) else value.values() if isinstance(value, Mapping) else ():
        _plain(part, key)


def _number(value: Any, key: str) -> float:
    _plain(value, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"the bundle's {key} is {value!r}, not a number")
    return float(value)


def _whole(value: Any, key: str) -> int:
    number = _number(value, key)
    if number != int(number) or number < 1:
        raise FormatError(f"the bundle's {key} is {value!r}, not a whole number above 0")
    return int(number)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"there is no {path.parent.name}/{path.name} in the bundle: give the bundle's folder")
    try:
        if path.stat().st_size > _LARGEST:
            raise FormatError(f"{path.name} is too large for a configuration")
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise FormatError(f"{path.name} of the bundle is no JSON") from None
    if not isinstance(plain, dict):
        raise FormatError(f"{path.name} of the bundle is no JSON object")
    return plain
