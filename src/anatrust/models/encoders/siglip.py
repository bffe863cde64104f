"""SigLIP (Zhai et al. 2023) and MedSigLIP: the vision half of an image and text model."""

from __future__ import annotations

from typing import Any

from anatrust.models.encoders.slice_encoder import Family
from anatrust.models.encoders.weights import FoundWeights, load_frozen

__all__ = ["SIGLIP"]


def _load(found: FoundWeights) -> Any:
    from transformers import SiglipVisionModel

    return load_frozen(SiglipVisionModel, found)


SIGLIP = Family(
    name="siglip",
    model_types=("siglip", "siglip_vision_model"),
    load=_load,
    special_tokens=lambda _: 0,
    arguments=(("interpolate_pos_encoding", True),),
    mean=(0.5, 0.5, 0.5),
    deviation=(0.5, 0.5, 0.5),
)
"""No class token; a whole checkpoint or its vision half."""
