"""SAM 2 with boxes and points: a tiny random model of the real class, saved and loaded as the real one is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import AnatrustError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Reference
from anatrust.models.descriptors import LocalDescriptors
from anatrust.reference.correspondence_reasoner import CorrespondenceReasoner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anatrust.models.sam2_prompts import Sam2Prompter  # noqa: E402
from anatrust.studies.tiny_models import tiny_sam2_vision  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Sam2Config, Sam2Model
    from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig, Sam2PromptEncoderConfig

    config = Sam2Config(
        vision_config=tiny_sam2_vision(),
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=128, image_size=128, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=128, mlp_dim=64, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=128
        ),
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam2")
    Sam2Model(config).save_pretrained(path)
    return path


def test_it_draws_one_mask_for_each_object_and_repeats(folder: Path) -> None:
    prompter = Sam2Prompter.load(folder)
    image = np.random.default_rng(0).random((60, 90)).astype(np.float32)
    boxes, points = [(5.0, 5.0, 40.0, 30.0), (50.0, 20.0, 85.0, 55.0)], [(20.0, 15.0), (70.0, 40.0)]
    masks, quality = prompter.draw(image, boxes, points)
    assert masks.shape == (2, 60, 90)
    assert masks.dtype == np.bool_
    assert quality.shape == (2,)
    again, same = Sam2Prompter.load(folder).draw(image, boxes, points)
    assert np.array_equal(masks, again)
    assert np.array_equal(quality, same)
    alone, own = prompter.draw(image, boxes[1:], points[1:])
    assert np.allclose(own, quality[1:], atol=1e-4), "objects do not look at each other"
    assert (alone[0] == masks[1]).mean() > 0.99


def test_prompts_and_places_matter(folder: Path) -> None:
    prompter = Sam2Prompter.load(folder)
    image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    _, one = prompter.draw(image, [(5.0, 5.0, 40.0, 30.0)], [(20.0, 15.0)])
    _, other = prompter.draw(image, [(30.0, 35.0, 60.0, 60.0)], [(45.0, 45.0)])
    assert not np.allclose(one, other, atol=1e-6)


def test_the_reasoner_takes_it_as_its_prompter(folder: Path) -> None:
    grid = Grid((64, 64), np.eye(4))
    x, y = np.mgrid[:64, :64]
    disc = (x - 30) ** 2 + (y - 30) ** 2 < 144
    image = disc + np.random.default_rng(0).normal(0, 0.05, disc.shape)
    reference = Reference(Scan(image, grid), LabelMap(disc.astype(np.uint8), grid, {1: "disc"}))
    prompter = Sam2Prompter.load(folder)
    found = CorrespondenceReasoner(LocalDescriptors(), prompter, least_iou=-10.0).annotate(reference.scan, [reference])
    plain = CorrespondenceReasoner(LocalDescriptors()).annotate(reference.scan, [reference])
    assert prompter.identity in found.reasoner
    assert (plain.labels.array == 1).any()
    assert found.labels.array.shape == plain.labels.array.shape


def test_bad_input_is_refused(folder: Path, tmp_path: Path) -> None:
    prompter = Sam2Prompter.load(folder)
    for image, boxes, points in (
        (np.zeros((4, 4, 4), np.float32), [(0.0, 0.0, 1.0, 1.0)], [(0.5, 0.5)]),
        (np.zeros((8, 8), np.float32), [(0.0, 0.0, 1.0, 1.0)], []),
        (np.zeros((8, 8), np.float32), [], []),
    ):
        with pytest.raises(InputError, match="SAM 2 draws"):
            prompter.draw(image, boxes, points)
    with pytest.raises(AnatrustError):
        Sam2Prompter.load(tmp_path)
