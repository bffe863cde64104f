"""CLIP (Radford et al. 2021): the vision half."""

from __future__ import annotations

from typing import Any

from anatrust.models.encoders.slice_encoder import Family
from anatrust.models.encoders.weights import FoundWeights, load_frozen

__all__ = ["CLIP"]


def _load(found: FoundWeights) -> Any:
    from transformers import CLIPVisionModel

    return load_frozen(CLIPVisionModel, found)


CLIP = Family(
    name="clip",
    model_types=("clip", "clip_vision_model"),
    load=_load,
    special_tokens=lambda _: 1,
    arguments=(("interpolate_pos_encoding", True),),
    mean=(0.48145466, 0.4578275, 0.40821073),
    deviation=(0.26862954, 0.26130258, 0.27577711),
)
"""One class token; a whole checkpoint or its vision half."""
