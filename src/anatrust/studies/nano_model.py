"""A vision-language model and a SAM 2 small enough to train from nothing on one core, of the real classes.

The words of the three tasks are few, so the tokenizer makes one token of each sentence, name and number that
prompts and answers are built of, and falls back on bytes for anything else: a question is some two hundred tokens,
pictures included. Nothing else differs from the large model: same classes, processor, prompts, training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatrust.reference.pairs import OUTLINE
from anatrust.reference.prompts import NULL, Legend, box_prompt, name_prompt, segment_prompt
from anatrust.studies.nano_anatomy import ORGANS

__all__ = ["NanoSize", "build_language", "build_sam2"]

_SPECIAL: tuple[str, ...] = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
_SPECIAL += ("<|video_pad|>",)
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_THOUGHTS = (
    "<think>", "</think><answer>", "</answer>", "In the reference ", " lies ", " and ", "above ", "below ", "left of ",
    "right of ", "; so does the outlined region in image 3.",
    "I compare where the regions lie in the reference and in image 3.", ": ", ", ", "{", "}",
    '[{"label": "', '", "bbox": [', '", "bbox": null', ']}, {"label": "', ']}]', '}, {"label": "', '}]',
    "user\n", "assistant\n", "\n",
)  # fmt: skip
# Deviation of the first weights; the 0.02 of large models is too small for so narrow ones.
_SPREAD = 0.08


@dataclass(frozen=True)
class NanoSize:
    """Size of the language model.

    Parameters
    ----------
    side, patch
        Pixels of a picture and of a patch; each patch is one token.
    width, depth, heads
        Of the language model.
    sight, sight_depth
        Width and depth of the vision tower.
    """

    side: int = 72
    patch: int = 12
    width: int = 96
    depth: int = 3
    heads: int = 4
    sight: int = 96
    sight_depth: int = 1


def _sentences(side: int) -> list[str]:
    """Every piece of text that prompts and answers are made of, longest first."""
    mark = "\x00"
    fixed = set(_THOUGHTS) | set(ORGANS) | {str(n) for n in range(side + 1)} | {NULL}
    for n in range(1, len(ORGANS) + 1):
        fixed |= {f"{{{n}: ", f", {n}: ", f"{{{n}", f", {n}"}
    for hidden in (False, True):
        legend = Legend(((1, mark),), hidden)
        for prompt in (name_prompt(legend, OUTLINE), box_prompt(legend, "pixels"), segment_prompt(legend)):
            fixed.update(prompt.split(str(legend)))
    return sorted(fixed, key=lambda text: (-len(text), text))


def build_language(folder: Path, size: NanoSize | None = None, seed: int = 0) -> Path:
    """Save an untrained Qwen3-VL of this size with tokenizer and picture preparation; returns the folder."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = size or NanoSize()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: k for k, word in enumerate((*_SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in _sentences(size.side)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    fast.chat_template = _CHAT
    token = {name: fast.convert_tokens_to_ids(name) for name in _SPECIAL}
    half = size.width // size.heads // 2
    third = half // 3
    config = Qwen3VLConfig(
        text_config={
            # One row more for <Seg>, which the loader adds.
            "vocab_size": len(fast) + 1, "hidden_size": size.width, "intermediate_size": 2 * size.width,
            "num_hidden_layers": size.depth, "num_attention_heads": size.heads, "num_key_value_heads": size.heads,
            "head_dim": size.width // size.heads, "initializer_range": _SPREAD,
            "max_position_embeddings": 2048, "attention_bias": True,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [half - 2 * third, third, third], "rope_theta": 10000.0,
                "mrope_interleaved": True,
            },
            "bos_token_id": token["<|endoftext|>"], "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
        },
        vision_config={
            "depth": size.sight_depth, "hidden_size": size.sight, "intermediate_size": 2 * size.sight,
            "num_heads": 4, "out_hidden_size": size.width, "patch_size": size.patch, "spatial_merge_size": 1,
            "temporal_patch_size": 2, "num_position_embeddings": (size.side // size.patch) ** 2,
            "deepstack_visual_indexes": [], "initializer_range": _SPREAD,
        },
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        # As loud as what a patch shows: where a patch lies must be heard from the first step on.
        model.model.visual.pos_embed.weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    area = size.side**2
    Qwen2VLImageProcessorPil(
        patch_size=size.patch, merge_size=1, temporal_patch_size=2,
        size={"shortest_edge": area, "longest_edge": area},
    ).save_pretrained(folder)  # fmt: skip
    return folder


def build_sam2(folder: Path, seed: int = 0, width: int = 128) -> Path:
    """Save an untrained SAM 2 (video) of 1.4 M parameters; returns the folder."""
    import torch
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
    from transformers.models.sam2_video.configuration_sam2_video import (
        Sam2VideoMaskDecoderConfig,
        Sam2VideoPromptEncoderConfig,
    )

    backbone: Any = Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]], fpn_hidden_size=width,
    )  # fmt: skip
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=width, image_size=128, patch_size=16),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=width, mlp_dim=width, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=width
        ),
        image_size=128, memory_attention_hidden_size=width, memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=2 * width, memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=width, memory_encoder_output_channels=64, mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width, memory_fuser_intermediate_dim=2 * width,
    )  # fmt: skip
    torch.manual_seed(seed)
    Sam2VideoModel(config).save_pretrained(folder)
    return folder
