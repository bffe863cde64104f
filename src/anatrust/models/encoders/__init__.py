"""Frozen encoders: DINOv3, DINOv2, SigLIP and CLIP through transformers, and the segmenter's own (extra ``deep``)."""

from __future__ import annotations

from anatrust.models.encoders.choose import EncoderChoice, encoder_stages, make_encoder
from anatrust.models.encoders.feature_cache import CachedEncoder
from anatrust.models.encoders.patch_features import PatchEncoder, PatchFeatures
from anatrust.models.encoders.preparation import GrayWindow
from anatrust.models.encoders.slice_encoder import Family, SliceEncoder

__all__ = [
    "CachedEncoder",
    "EncoderChoice",
    "Family",
    "GrayWindow",
    "PatchEncoder",
    "PatchFeatures",
    "SliceEncoder",
    "encoder_stages",
    "make_encoder",
]
