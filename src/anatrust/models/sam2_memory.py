"""SAM 2 (video) taken apart, so that gradients pass: image features, memory of a labelled reference, mask decoder.

``Sam2VideoModel.forward`` of transformers runs in inference mode and its image embedding without a gradient, so
training through it is impossible; here its parts are called one by one. No torchvision: the preprocessing (resize,
ImageNet mean and deviation) is ours. Written against transformers 5.23.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from anatrust.errors import InputError
from anatrust.models.encoders.weights import find_weights, load_frozen

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

__all__ = ["ImageFeatures", "ReferenceMemory", "Sam2Parts"]

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageFeatures:
    """What SAM 2's image encoder sees in B images.

    Parameters
    ----------
    fine, middle
        High-resolution features for the decoder, ``(B, D/8, S/4, S/4)`` and ``(B, D/4, S/8, S/8)``.
    coarse, position
        Features at stride 16, ``(B, D, S/16, S/16)``, and their sine positions of the same shape.
    """

    fine: Tensor
    middle: Tensor
    coarse: Tensor
    position: Tensor


@dataclass(frozen=True)
class ReferenceMemory:
    """What SAM 2's memory keeps of K regions of one reference.

    Parameters
    ----------
    tokens, position
        Spatial memory, ``(K, h·w, M)``, and its positions ``(h·w, M)``; M is 64 in every SAM 2.
    pointers
        Object pointers, ``(K, D)``.
    """

    tokens: Tensor
    position: Tensor
    pointers: Tensor


class Sam2Parts(nn.Module):
    """The parts of a ``Sam2VideoModel``, each callable with gradients.

    Parameters
    ----------
    model
        Image encoder and decoder are the same as in the image model.
    """

    def __init__(self, model: Sam2VideoModel) -> None:
        super().__init__()
        self.model = model
        size = model.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.width = int(model.hidden_dim)
        self.memory_width = int(model.mem_dim)
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> Sam2Parts:
        """From a folder or the local Hugging Face cache (safetensors, offline); frozen.

        Raises
        ------
        InputError, FormatError
            As in :func:`anatrust.models.encoders.weights.find_weights`.
        """
        from transformers import Sam2VideoModel

        return cls(load_frozen(Sam2VideoModel, find_weights(source, ("sam2_video",), revision)))

    def prepare(self, images: Tensor) -> Tensor:
        """Grey images in [0, 1], ``(B, H, W)``, as SAM 2 wants them: ``(B, 3, S, S)``, ImageNet scaling."""
        if images.ndim != 3:
            raise InputError(f"SAM 2 takes a stack of grey images (B, H, W), not {tuple(images.shape)}")
        resized = interpolate(
            images[:, None].float(), (self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        return ((resized.clamp(0, 1) - mean) / deviation).to(self._dtype)

    def features(self, pixels: Tensor) -> ImageFeatures:
        """Features of prepared images; gradients pass into the image encoder where it is trained."""
        seen = self.model.get_image_features(pixels, return_dict=True)
        maps = [
            flat.permute(1, 2, 0).reshape(len(pixels), -1, *shape)
            for flat, shape in zip(seen.fpn_hidden_states, self.model.backbone_feature_sizes, strict=True)
        ]
        position = seen.fpn_position_encoding[-1].permute(1, 2, 0).reshape(maps[-1].shape)
        return ImageFeatures(maps[0], maps[1], maps[2], position)

    def prototypes(self, features: ImageFeatures, masks: Tensor) -> Tensor:
        """Mean of the coarse features inside each region of one reference: level L0.

        Parameters
        ----------
        features
            Of one image.
        masks
            ``(K, H, W)`` in [0, 1]. A region too small for any coarse cell still weighs in by its share of one.

        Returns
        -------
        Tensor
            ``(K, D)``; zero for an empty region.
        """
        _one(features)
        weights = interpolate(masks[:, None].float(), features.coarse.shape[-2:], mode="area")[:, 0]
        total = weights.flatten(1).sum(1)[:, None].clamp_min(1e-12)
        return torch.einsum("khw,chw->kc", weights, features.coarse[0].float()) / total

    def memorise(self, features: ImageFeatures, masks: Tensor) -> ReferenceMemory:
        """SAM 2's own memory of each region of one reference: levels L1 and L2.

        Parameters
        ----------
        features
            Of one image.
        masks
            ``(K, H, W)`` in [0, 1].
        """
        _one(features)
        config, count = self.model.config, len(masks)
        full = interpolate(masks[:, None].to(self._dtype), (self.size, self.size), mode="bilinear", antialias=True)
        scaled = full * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        maps, position = self.model.memory_encoder(features.coarse.expand(count, -1, -1, -1), scaled)
        _, pointers = self._decode(
            features, self._no_points(count), self.model.mask_downsample(full), features.coarse, count
        )
        there = full.flatten(1).amax(1)[:, None] > 0
        pointers = torch.where(there, self.model.object_pointer_proj(pointers), self.model.no_object_pointer)
        return ReferenceMemory(maps.flatten(2).transpose(1, 2), position[0].flatten(1).T.to(maps.dtype), pointers)

    def condition(self, features: ImageFeatures, memory: ReferenceMemory, queries: Tensor | None = None) -> Tensor:
        """Coarse features of one target under the memory of each region: level L2.

        A region's query goes in as one more object pointer beside the reference's own, split into
        tokens of the memory's width that no rotary position turns, as SAM 2 does with its pointers.

        Parameters
        ----------
        features
            Of one image.
        memory
            Of K regions.
        queries
            ``(K, D)``; without them, SAM 2 as it tracks by itself.

        Returns
        -------
        Tensor
            ``(K, D, h, w)``: replaces ``features.coarse`` in :meth:`decode`.
        """
        _one(features)
        own = memory.pointers
        pointers = own if queries is None else torch.stack([own, queries.to(own.dtype)], dim=1)
        count = len(own)
        pointers = pointers.reshape(count, -1, self.memory_width)
        temporal = self.model.memory_temporal_positional_encoding[-1].reshape(1, -1)
        place = torch.cat([memory.position + temporal, memory.position.new_zeros(pointers.shape[1:])])
        flat = features.coarse.flatten(2).permute(2, 0, 1)
        at = features.position.flatten(2).permute(2, 0, 1)
        # Regions are the batch: SAM 2 itself goes through its objects one by one.
        conditioned = self.model.memory_attention(
            current_vision_features=flat.expand(-1, count, -1),
            current_vision_position_embeddings=at.expand(-1, count, -1),
            memory=torch.cat([memory.tokens, pointers], dim=1).transpose(0, 1),
            memory_posision_embeddings=place[:, None].expand(-1, count, -1),
            num_object_pointer_tokens=pointers.shape[1],
        )
        flat_shape = (count, self.width, *features.coarse.shape[-2:])
        return conditioned.reshape(count, -1, self.width).transpose(1, 2).reshape(flat_shape)  # type: ignore[no-any-return]

    def empty_prompt(self, count: int) -> Tensor:
        """Prompt tokens with which SAM 2 tracks where nobody prompts it, ``(count, 2, D)``."""
        return self._no_points(count)[:, 0]

    def decode(
        self, features: ImageFeatures, tokens: Tensor, coarse: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """Mask logits of N regions of one target, each from its own sparse prompt tokens.

        Parameters
        ----------
        features
            Of one image.
        tokens
            ``(N, T, D)``: what takes the place of points and boxes.
        coarse
            ``(N, D, h, w)`` from :meth:`condition`; the image's own features where it is None.
        added
            ``(N, D, h, w)``: what is added to the dense prompt of no mask.

        Returns
        -------
        Tensor
            ``(N, S/4, S/4)`` logits, before SAM 2 hides objects by their score: random weights
            would hide all of them, and a loss cannot teach what is hidden.
        """
        _one(features)
        dense = self.model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = dense.expand(len(tokens), -1, *features.coarse.shape[-2:])
        if added is not None:
            dense = dense + added.to(dense.dtype)
        if coarse is None:
            coarse = features.coarse + self.model.no_memory_embedding.reshape(1, -1, 1, 1)
        masks, _ = self._decode(features, tokens[:, None].to(self._dtype), dense, coarse, len(tokens), embedded=True)
        return masks

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.get_buffer("mean").device

    @property
    def learns(self) -> bool:
        """Whether the image encoder is trained, and not the decoder alone."""
        return any(p.requires_grad for p in self.model.vision_encoder.parameters())

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.no_memory_embedding.dtype
        return dtype

    def _no_points(self, count: int) -> Tensor:
        """SAM 2's prompt without a prompt: one padding point."""
        padding = torch.full((count, 1, 1), -1, dtype=torch.int32, device=self.model.no_memory_embedding.device)
        sparse, _ = self.model.prompt_encoder(
            input_points=padding.new_zeros((count, 1, 1, 2)).to(self._dtype),
            input_labels=padding,
            input_boxes=None,
            input_masks=None,
        )
        return sparse  # type: ignore[no-any-return]

    def _decode(
        self,
        features: ImageFeatures,
        sparse: Tensor,
        dense: Tensor,
        coarse: Tensor,
        count: int,
        *,
        embedded: bool = False,
    ) -> tuple[Tensor, Tensor]:
        if not embedded:
            dense = self.model.prompt_encoder.mask_embed(dense)
        found: Any = self.model.mask_decoder(
            image_embeddings=coarse.expand(count, -1, -1, -1),
            image_positional_embeddings=self.model.get_image_wide_positional_embeddings().expand(count, -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=[
                features.fine.expand(count, -1, -1, -1), features.middle.expand(count, -1, -1, -1)
            ],
        )  # fmt: skip
        masks, _, tokens, _ = found
        return masks[:, 0, 0], tokens[:, 0, 0]


def _one(features: ImageFeatures) -> None:
    if len(features.coarse) != 1:
        raise InputError(f"the regions of one image at a time, not of {len(features.coarse)} images at once")
