"""Which encoder, with which weights: a choice that can be stored, and the encoder made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anatrust.errors import InputError, MissingExtraError
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.protocols import Encoder

__all__ = ["ENCODERS", "EncoderChoice", "encoder_stages", "make_encoder"]

_ROOM = "anatrust.models.encoders"
# Registry name: module and constant of its family, and the weights it is known by.
_FAMILIES: Mapping[str, tuple[str, str, str]] = {
    "clip": ("clip", "CLIP", "openai/clip-vit-base-patch16"),
    "dinov2": ("dinov2", "DINOV2", "facebook/dinov2-small"),
    "dinov3": ("dinov3", "DINOV3", "facebook/dinov3-vits16-pretrain-lvd1689m"),
    "medsiglip": ("siglip", "SIGLIP", "google/medsiglip-448"),
    "rad-dino": ("dinov2", "DINOV2", "microsoft/rad-dino"),
    "siglip": ("siglip", "SIGLIP", "google/siglip-base-patch16-224"),
}
ENCODERS = ("local-descriptors", "segmenter", *_FAMILIES)
"""Registry names of all encoders."""


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder by name and settings; what a profile keeps of it.

    Parameters
    ----------
    name
        Registry name.
    weights
        Model name in the local Hugging Face cache, ``name@revision``, or a folder. Empty for the
        family's usual one. The segmenter needs its folder.
    resolution
        Of :class:`~anatrust.models.encoders.slice_encoder.SliceEncoder`.
    layer
        Hidden layer, or stage of the segmenter; None is the last.

    Raises
    ------
    InputError
        If the name is unknown or weights are missing or not wanted.

    Examples
    --------
    >>> EncoderChoice("dinov2").weights
    'facebook/dinov2-small'
    """

    name: str = "local-descriptors"
    weights: str = ""
    resolution: int = 448
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ENCODERS:
            raise InputError(f"there is no encoder {self.name!r}: choose one of {', '.join(ENCODERS)}")
        if self.name == "local-descriptors" and self.weights:
            raise InputError("local-descriptors have no weights: leave them out, or name another encoder")
        if self.name == "segmenter" and not self.weights:
            raise InputError("the encoder 'segmenter' needs the folder of the saved network as its weights")
        if self.name in _FAMILIES and not self.weights:
            object.__setattr__(self, "weights", _FAMILIES[self.name][2])

    @property
    def shared_weights(self) -> str:
        """The weights as a profile may name them: of a folder its name alone, for paths name machines and people."""
        return Path(self.weights).name if Path(self.weights).is_dir() else self.weights

    def to_json(self) -> dict[str, Any]:
        """Plain values for a profile."""
        return {**asdict(self), "weights": self.shared_weights}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> EncoderChoice:
        """The choice :meth:`to_json` wrote."""
        layer = plain["layer"]
        return cls(
            str(plain["name"]), str(plain["weights"]), int(plain["resolution"]), None if layer is None else int(layer)
        )


def encoder_stages(choice: EncoderChoice) -> tuple[EncoderChoice, ...]:
    """One choice a stage, finest first, for a segmenter whose stage was left open; else the choice itself.

    Examples
    --------
    >>> encoder_stages(EncoderChoice()) == (EncoderChoice(),)
    True
    """
    if choice.name != "segmenter" or choice.layer is not None:
        return (choice,)
    from anatrust.models.unet import UNet

    return tuple(replace(choice, layer=stage) for stage in range(len(UNet.load(Path(choice.weights)).stages)))


def make_encoder(choice: EncoderChoice, *, device: str = "cpu") -> Encoder:
    """The encoder itself, weights loaded, offline.

    Raises
    ------
    InputError
        If the weights are not at hand, or are of another family.
    MissingExtraError
        If the extra ``deep`` is not installed.

    Examples
    --------
    >>> make_encoder(EncoderChoice()).name
    'local-descriptors'
    """
    if choice.name == "local-descriptors":
        return LocalDescriptors()
    for package in ("torch", "safetensors", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "deep", f"the encoder {choice.name}")
    if choice.name == "segmenter":
        from anatrust.models.encoders.segmenter import SegmenterEncoder

        return SegmenterEncoder(choice.weights, stage=choice.layer, device=device)
    from anatrust.models.encoders.slice_encoder import SliceEncoder
    from anatrust.models.encoders.weights import find_weights

    module, constant, _ = _FAMILIES[choice.name]
    family = getattr(import_module(f"{_ROOM}.{module}"), constant)
    source, _, revision = (choice.weights, "", "") if Path(choice.weights).is_dir() else choice.weights.partition("@")
    found = find_weights(source, family.model_types, revision or None)
    return SliceEncoder(family, found, resolution=choice.resolution, layer=choice.layer, device=device)
