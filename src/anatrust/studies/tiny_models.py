"""Random models of the real classes, small enough for tests, benchmarks and recipes: SAM 2, Qwen2.5-VL, SegGPT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["memorise", "tiny_qwen", "tiny_sam2", "tiny_sam2_vision", "tiny_seggpt"]


def tiny_sam2_vision() -> Any:
    """The image encoder of a tiny SAM 2, for pictures of 128 pixels: a ``Sam2VisionConfig``."""
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    return Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=128,
    )


def tiny_sam2(folder: Path, seed: int = 0) -> Path:
    """A SAM 2 video model of 1.4 M random weights, saved as the real ones are."""
    import torch
    from transformers import Sam2VideoConfig, Sam2VideoModel
    from transformers.models.sam2_video.configuration_sam2_video import (
        Sam2VideoMaskDecoderConfig,
        Sam2VideoPromptEncoderConfig,
    )

    config = Sam2VideoConfig(
        vision_config=tiny_sam2_vision(),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=128, patch_size=16),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=64, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=128
        ),
        image_size=128,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=64,
    )
    torch.manual_seed(seed)
    model = Sam2VideoModel(config)
    # Random weights say "no object" as often as not, which empties masks and pointers.
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.proj_out.bias, 10.0)
    model.save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>"]


def tiny_qwen(folder: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL of 0.2 M random weights with a tokenizer trained on the spot, saved as the real ones are."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["<think>left of the liver</think><answer>spleen</answer>"] * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    token = {name: fast.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(fast), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
            "bos_token_id": token["<|endoftext|>"], "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
        },
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(seed)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    ).save_pretrained(folder)
    return folder


def tiny_seggpt(folder: Path, seed: int = 0) -> Path:
    """A SegGPT of random weights for pictures of 64 × 64, saved as the real ones are."""
    import torch
    from transformers import SegGptConfig, SegGptForImageSegmentation

    torch.manual_seed(seed)
    config = SegGptConfig(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=2, image_size=[128, 64], patch_size=16, mlp_dim=64,
        pretrain_image_size=64, decoder_hidden_size=16, merge_index=0, intermediate_hidden_state_indices=[1, 2, 3, 4],
    )  # fmt: skip
    SegGptForImageSegmentation(config).save_pretrained(folder)
    return folder


def memorise(folder: Path, questions: Sequence[tuple[str, Sequence[Any], str]], steps: int = 400) -> Path:
    """Train every weight of a saved tiny model until it says the given answers, and save it again.

    Parameters
    ----------
    folder
        As :func:`tiny_qwen` saved it.
    questions
        Prompt, pictures and answer of each.
    steps
        At most; it stops where the loss is below 0.01.
    """
    import torch

    from anatrust.models.vision_language import VisionLanguageModel

    model = VisionLanguageModel.load(folder)
    model.model.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(model.model.parameters(), lr=4e-3)
    prompts, answers = [q[0] for q in questions], [q[2] for q in questions]
    pictures = [list(q[1]) for q in questions]
    given = model.inputs(prompts, pictures, answers)
    labels = model.completion_labels(given, model.inputs(prompts, pictures))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        loss = model.model(**given, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if loss.item() < 0.01:
            break
    model.model.eval()
    model.model.save_pretrained(folder)
    model.processor.tokenizer.save_pretrained(folder)
    return folder
