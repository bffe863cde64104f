"""DINOv3 vision transformers (Siméoni et al. 2025), the encoder RW-CP was published with."""

from __future__ import annotations

from typing import Any

from anatrust.models.encoders.slice_encoder import Family
from anatrust.models.encoders.weights import FoundWeights, load_frozen

__all__ = ["DINOV3"]


def _load(found: FoundWeights) -> Any:
    from transformers import DINOv3ViTModel

    return load_frozen(DINOv3ViTModel, found)


DINOV3 = Family(
    name="dinov3",
    model_types=("dinov3_vit",),
    load=_load,
    special_tokens=lambda config: 1 + int(config.num_register_tokens),
    arguments=(),  # rotary positions: any size
    mean=(0.485, 0.456, 0.406),
    deviation=(0.229, 0.224, 0.225),
)
"""Class token and registers before the patches."""
