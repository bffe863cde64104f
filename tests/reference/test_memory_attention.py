"""Memory attention: rows are distributions, slots are learnt, a collapse is noticed."""

from __future__ import annotations

import math

import pytest
import torch

from anatrust.errors import InputError
from anatrust.reference.memory_attention import (
    Attended,
    MemoryAttention,
    MemoryConfig,
    attention_health,
    slot_loss,
)


def made(similarity: str = "cosine", memory_width: int = 16, bottleneck: int = 16) -> MemoryAttention:
    torch.manual_seed(0)
    config = MemoryConfig(24, 16, memory_width, bottleneck, similarity=similarity)  # type: ignore[arg-type]
    return MemoryAttention(config)


def given(n: int = 3, k: int = 4, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((n, 24), generator=generator), torch.randn((k, width), generator=generator)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_weights_are_distributions_and_follow_the_order_of_slots(similarity: str) -> None:
    states, memory = given()
    attention = made(similarity)
    found = attention(states, memory)
    assert torch.allclose(found.weights.sum(1), torch.ones(3))
    turned = attention(states, memory[[2, 0, 3, 1]])
    assert torch.allclose(turned.weights, found.weights[:, [2, 0, 3, 1]], atol=1e-6)
    assert torch.allclose(turned.value, found.value, atol=1e-5)


def test_cosine_does_not_see_what_all_slots_share() -> None:
    states, memory = given()
    attention = made()
    assert torch.allclose(attention(states, memory).weights, attention(states, memory + 5).weights, atol=1e-4)


def test_tokens_are_summed_by_region_and_background_is_left_out() -> None:
    states, tokens = given(k=10, width=8)
    attention = made(memory_width=8)
    regions = torch.tensor([0, 0, 1, 1, 1, 2, -1, -1, 0, 2])
    found = attention(states, tokens, regions)
    assert found.weights.shape == (3, 3)
    assert torch.allclose(found.weights.sum(1), torch.ones(3), atol=1e-6)
    tokens[6:8] += 100
    assert torch.allclose(attention(states, tokens, regions).value, found.value, atol=1e-5)


def test_a_single_slot_takes_everything() -> None:
    states, memory = given(k=1)
    found = made()(states, memory)
    assert torch.allclose(found.weights, torch.ones(3, 1))
    assert math.isnan(attention_health(Attended(found.query[:1], found.weights[:1], found.value[:1])).alike)


def test_slot_supervision_teaches_the_slots() -> None:
    states, memory = given(n=4)
    attention, slots = made(), torch.tensor([2, 0, 3, 1])
    before = attention_health(attention(states, memory), slots).slot_accuracy
    optimiser = torch.optim.Adam(attention.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        loss = slot_loss(attention(states, memory), slots)
        loss.backward()
        optimiser.step()
    after = attention_health(attention(states, memory), slots)
    assert before < 1
    assert after.slot_accuracy == 1
    assert after.entropy < 0.2
    assert not after.collapsed


def test_a_collapse_is_noticed() -> None:
    states, memory = given()
    found = made()(states[:1].expand(3, -1), memory)
    assert attention_health(found).collapsed
    assert not attention_health(made()(states, memory)).collapsed


def test_uniform_attention_has_entropy_one() -> None:
    flat = Attended(torch.eye(3), torch.full((3, 5), 0.2), torch.eye(3))
    assert attention_health(flat).entropy == pytest.approx(1)
    assert math.isnan(attention_health(flat).slot_accuracy)


@pytest.mark.parametrize("changes", [{"hidden": 0}, {"temperature": 0.0}, {"similarity": "euclid"}])
def test_wrong_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        MemoryConfig(**({"hidden": 8} | changes))  # type: ignore[arg-type]


def test_an_empty_memory_is_said() -> None:
    states, memory = given()
    with pytest.raises(InputError, match="no region"):
        made()(states, memory, torch.full((4,), -1))
