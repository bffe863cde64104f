"""DINOv2 (Oquab et al. 2024) and models trained from it, RAD-DINO (Pérez-García et al. 2025) among them."""

from __future__ import annotations

from typing import Any

from anatrust.models.encoders.slice_encoder import Family
from anatrust.models.encoders.weights import FoundWeights, load_frozen

__all__ = ["DINOV2"]


def _load(found: FoundWeights) -> Any:
    from transformers import Dinov2Model, Dinov2WithRegistersModel

    registers = found.config["model_type"] == "dinov2_with_registers"
    return load_frozen(Dinov2WithRegistersModel if registers else Dinov2Model, found)


DINOV2 = Family(
    name="dinov2",
    model_types=("dinov2", "dinov2_with_registers"),
    load=_load,
    special_tokens=lambda config: 1 + int(getattr(config, "num_register_tokens", 0)),
    arguments=(),  # positions are interpolated to any size by themselves
    mean=(0.485, 0.456, 0.406),
    deviation=(0.229, 0.224, 0.225),
)
"""Class token, and registers in the later models."""
