"""SAM 2 and SAM 3: tiny random models of the same architecture, saved, loaded and asked as the real ones are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region
from anatrust.image.volumes import Scan
from anatrust.models.registry import load_segmenter
from anatrust.models.segmentation import Capabilities, Prompt

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anatrust.models.segmenters.slices import SliceSegmenter  # noqa: E402


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory):
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig
    from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig, Sam2PromptEncoderConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=16, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 1, 1], window_size_per_stage=[8, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=32
        ),
    )
    folder = tmp_path_factory.mktemp("sam2")
    torch.manual_seed(0)
    Sam2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam3_folder(tmp_path_factory):
    from transformers import CLIPTextConfig, CLIPTokenizer, Sam3Config, Sam3Model, Sam3VisionConfig, Sam3ViTConfig
    from transformers.models.sam3.configuration_sam3 import (
        Sam3DETRDecoderConfig,
        Sam3DETREncoderConfig,
        Sam3GeometryEncoderConfig,
        Sam3MaskDecoderConfig,
    )

    vit = Sam3ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
        window_size=2, global_attn_indexes=[1], pretrain_image_size=56,
    )  # fmt: skip
    vision = Sam3VisionConfig(
        backbone_config=vit, fpn_hidden_size=32, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]
    )
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *[chr(c) for c in range(97, 123)],
        *[f"{chr(c)}</w>" for c in range(97, 123)],
    ]
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    small = {"hidden_size": 32, "num_attention_heads": 2}
    config = Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=Sam3GeometryEncoderConfig(**small, num_layers=1, intermediate_size=32),
        detr_encoder_config=Sam3DETREncoderConfig(**small, num_layers=1, intermediate_size=32),
        detr_decoder_config=Sam3DETRDecoderConfig(**small, num_layers=1, num_queries=5, intermediate_size=32),
        mask_decoder_config=Sam3MaskDecoderConfig(**small),
    )
    folder = tmp_path_factory.mktemp("sam3")
    torch.manual_seed(0)
    Sam3Model(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    made.save_pretrained(folder)
    return folder


def test_sam2_keeps_the_contract(check_segmenter, sam2_folder):
    segmenter = load_segmenter("sam2", sam2_folder)
    assert segmenter.capabilities.prompts == ("box",)
    check_segmenter(segmenter, tolerance=1e-3)


def test_sam3_keeps_the_contract(check_segmenter, sam3_folder):
    segmenter = load_segmenter("sam3", sam3_folder)
    assert segmenter.capabilities.organs
    check_segmenter(segmenter, tolerance=1e-3)


def test_sam3_listens_to_words(sam3_folder, lesion_scan):
    scan, _ = lesion_scan(2)
    segmenter = load_segmenter("sam3", sam3_folder)
    whole = Region.whole(scan.grid.shape)
    one, other = (segmenter.segment(scan, Prompt("x", (words,)), whole).array for words in ("liver", "kidney cyst"))
    assert not np.array_equal(one, other)
    with pytest.raises(InputError, match="asked in words"):
        segmenter.segment(scan, Prompt("x"), whole)


def test_sam2_looks_where_the_box_is(sam2_folder, lesion_scan):
    scan, prompt = lesion_scan(2)
    segmenter = load_segmenter("sam2", sam2_folder)
    whole = segmenter.segment(scan, prompt, Region.whole(scan.grid.shape)).array[0]
    region = Region((10, 10), (30, 30))
    part = segmenter.segment(scan, prompt, region).array[0]
    assert part.shape == (20, 20)
    assert not np.allclose(part, whole[region.slices]), "another box is another question"


class Picture(SliceSegmenter):
    """Answers with the picture's own grey value, and remembers boxes and pictures."""

    name = "picture"
    capabilities = Capabilities(prompts=("box",))
    identity = "picture()"

    def __init__(self, size, sees_slice=False, batch=1):
        super().__init__(size=size, mean=(0, 0, 0), deviation=(1, 1, 1), batch=batch)
        self.sees_slice, self.boxes, self.pictures = sees_slice, [], []

    def answer(self, pixels, prompt, box):
        self.boxes.append(box)
        self.pictures.append(pixels.numpy().copy())
        return pixels[:, 0]


def ct(shape=(24, 24, 3)):
    values = np.random.default_rng(0).uniform(-160, 240, shape).astype(np.float32)
    return Scan(values, Grid(shape, np.diag([1.0, 1.0, 4.0, 1.0])), "CT", "HU")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_slices_come_back_where_they_were(batch):
    scan = ct()
    region = Region((4, 2, 1), (20, 18, 3))
    found = Picture(16, batch=batch).segment(scan, Prompt("x"), region).array[0]
    assert np.allclose(found, (scan.array[region.slices] + 160) / 400, atol=1e-5), "16 pixels are 16 pixels"


def test_pictures_are_what_a_radiologist_sees():
    scan = ct((24, 24, 1))
    model = Picture(24)
    model.segment(scan, Prompt("x"), Region.whole((24, 24, 1)))
    grey = (scan.array[..., 0] + 160) / 400
    picture = model.pictures[0][0, 0]
    assert picture[0, 0] == pytest.approx(grey[-1, -1], abs=1e-5), "front, and the patient's right, come first"
    assert picture[-1, 0] == pytest.approx(grey[-1, 0], abs=1e-5)


def test_the_box_marks_the_region_in_the_whole_slice():
    scan = ct()
    model = Picture(48, sees_slice=True)
    region = Region((4, 2, 1), (20, 12, 2))
    found = model.segment(scan, Prompt("x"), region).array[0]
    assert found.shape == region.shape
    assert model.boxes == [((24 - 20) * 2, (24 - 12) * 2, (24 - 4) * 2, (24 - 2) * 2)]


def test_weights_that_are_none_are_refused(tmp_path, sam2_folder):
    for name in ("sam2", "sam3"):
        with pytest.raises(InputError, match="neither a folder nor in the local Hugging Face cache"):
            load_segmenter(name, "nobody/nothing")
    with pytest.raises(InputError, match="model of type 'sam2'"):
        load_segmenter("sam3", sam2_folder)
    (tmp_path / "config.json").write_text('{"model_type": "sam3"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match=r"no tokenizer|cannot be loaded"):
        load_segmenter("sam3", tmp_path)
