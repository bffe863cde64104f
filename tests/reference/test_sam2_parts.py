"""SAM 2's parts give what the whole model gives, and let gradients pass."""

from __future__ import annotations

import pytest
import torch

from anatrust.errors import InputError
from anatrust.models.sam2_memory import Sam2Parts
from anatrust.studies.tiny_models import tiny_sam2


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Sam2Parts:
    return Sam2Parts.load(tiny_sam2(tmp_path_factory.mktemp("sam2")))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand((1, 96, 80), generator=torch.Generator().manual_seed(0))


def masks() -> torch.Tensor:
    found = torch.zeros((2, 96, 80))
    found[0, 10:40, 10:40] = 1
    found[1, 60:80, 50:70] = 1
    return found


def test_shapes_and_scaling(parts: Sam2Parts, image: torch.Tensor) -> None:
    pixels = parts.prepare(image)
    assert pixels.shape == (1, 3, 128, 128)
    grey = (
        pixels * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    )
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-6)
    assert float(grey.min()) >= 0
    assert float(grey.max()) <= 1
    seen = parts.features(pixels)
    assert seen.fine.shape == (1, 16, 32, 32)
    assert seen.middle.shape == (1, 32, 16, 16)
    assert seen.coarse.shape == seen.position.shape == (1, 128, 8, 8)


def test_features_are_those_of_the_whole_model(parts: Sam2Parts, image: torch.Tensor) -> None:
    pixels = parts.prepare(image)
    whole = parts.model.get_image_embeddings(pixels)
    seen = parts.features(pixels)
    assert torch.allclose(whole[0], seen.fine, atol=1e-6)
    assert torch.allclose(whole[2] - parts.model.no_memory_embedding.reshape(1, -1, 1, 1), seen.coarse, atol=1e-5)


def test_pointers_and_memory_are_those_of_the_whole_model(parts: Sam2Parts, image: torch.Tensor) -> None:
    seen = parts.features(parts.prepare(image))
    given = torch.nn.functional.interpolate(masks()[:1, None], (128, 128), mode="bilinear", antialias=True)
    whole = parts.model._use_mask_as_output(seen.coarse, [seen.fine, seen.middle], given)
    memory = parts.memorise(seen, masks())
    assert torch.allclose(memory.pointers[0], whole.object_pointer.reshape(-1), atol=1e-4)
    logits = torch.logit(given, eps=1e-6)
    tokens, position = parts.model._encode_new_memory(
        seen.coarse.flatten(2).permute(2, 0, 1), logits, torch.ones(1, 1), is_mask_from_pts=False
    )
    assert torch.allclose(memory.tokens[0], tokens[:, 0].float(), atol=0.02)  # theirs is rounded to bfloat16
    assert torch.allclose(memory.position, position[:, 0].float(), atol=1e-5)


def test_prototypes_are_means_inside_the_regions(parts: Sam2Parts, image: torch.Tensor) -> None:
    seen = parts.features(parts.prepare(image))
    whole = parts.prototypes(seen, torch.ones(1, 96, 80))
    assert torch.allclose(whole[0], seen.coarse[0].flatten(1).mean(1), atol=1e-5)
    both = parts.prototypes(seen, torch.cat([masks(), torch.zeros(1, 96, 80)]))
    assert torch.isfinite(both).all()
    assert not torch.allclose(both[0], both[1])
    assert not both[2].any()


def test_gradients_reach_queries_and_decoder(parts: Sam2Parts, image: torch.Tensor) -> None:
    seen = parts.features(parts.prepare(image))
    memory = parts.memorise(seen, masks())
    queries = torch.randn((2, 128), generator=torch.Generator().manual_seed(1), requires_grad=True)
    coarse = parts.condition(seen, memory, queries)
    assert coarse.shape == (2, 128, 8, 8)
    logits = parts.decode(seen, queries[:, None], coarse)
    assert logits.shape == (2, 32, 32)
    assert not torch.allclose(logits[0], logits[1])
    logits.square().mean().backward()
    assert queries.grad is not None
    assert float(queries.grad.abs().sum()) > 0


def test_a_region_follows_its_own_query_alone(parts: Sam2Parts, image: torch.Tensor) -> None:
    seen = parts.features(parts.prepare(image))
    memory = parts.memorise(seen, masks())
    queries = torch.randn((2, 128), generator=torch.Generator().manual_seed(2))
    first = parts.decode(seen, queries[:, None], parts.condition(seen, memory, queries))
    queries[1] += 1
    second = parts.decode(seen, queries[:, None], parts.condition(seen, memory, queries))
    assert torch.allclose(first[0], second[0], atol=1e-4)
    assert not torch.allclose(first[1], second[1], atol=1e-4)


def test_wrong_shapes_are_said(parts: Sam2Parts) -> None:
    with pytest.raises(InputError, match="stack of grey images"):
        parts.prepare(torch.zeros(3, 8, 8, 3))
    seen = parts.features(parts.prepare(torch.zeros(2, 32, 32)))
    with pytest.raises(InputError, match="one image at a time"):
        parts.prototypes(seen, torch.ones(1, 8, 8))
