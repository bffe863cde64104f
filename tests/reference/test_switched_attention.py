"""Gated slots and tree-ordered asking: nothing changes before they learn, and each learns what it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anatrust.errors import InputError
from anatrust.models.sam2_memory import Sam2Parts
from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.mask_training import MaskSettings, train_masks
from anatrust.reference.memory_attention import MemoryAttention, MemoryConfig, slot_loss
from anatrust.reference.pairs import LabelledPicture, draw_pairs
from anatrust.reference.switched_attention import SwitchedAttention, evidence_of, tree_order
from anatrust.reference.token_segmenter import TokenSegmenter

CONFIG = MemoryConfig(hidden=24, width=16, memory_width=16, bottleneck=16)


def made(**switches: bool) -> SwitchedAttention:
    torch.manual_seed(0)
    return SwitchedAttention(CONFIG, **switches)


def learnt(attention: SwitchedAttention, loss: Callable[[], Tensor], steps: int = 150) -> float:
    optimiser = torch.optim.Adam(attention.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float(loss().detach())


def test_untrained_switches_change_nothing() -> None:
    torch.manual_seed(3)
    states, memory = torch.randn(4, 24), torch.randn(5, 16)
    switched = made(gated=True, tree=True)
    plain = MemoryAttention(CONFIG)
    plain.load_state_dict({k: v for k, v in switched.state_dict().items() if not k.startswith(("gate", "climb"))})
    one = plain(states, memory)
    other = switched(states, memory, evidence=torch.rand(5), wholes=[-1, 0, 0, 1])
    for a, b in ((one.query, other.query), (one.weights, other.weights), (one.value, other.value)):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_gate_learns_to_close_slots_that_nothing_in_the_target_looks_like() -> None:
    """Queries are noise: only the evidence tells the one slot that is there from the others."""
    generator = torch.Generator().manual_seed(5)

    def batch() -> tuple[Tensor, Tensor, Tensor, int]:
        there = int(torch.randint(4, (1,), generator=generator))
        evidence = torch.full((4,), 0.1)
        evidence[there] = 0.9
        return torch.randn(1, 24, generator=generator), torch.randn(4, 16, generator=generator), evidence, there

    cases, fresh = [batch() for _ in range(64)], [batch() for _ in range(64)]
    gated = made(gated=True)

    def loss(among: list[tuple[Tensor, Tensor, Tensor, int]] = cases) -> Tensor:
        return torch.stack(
            [slot_loss(gated(s, m, evidence=e), torch.tensor([there])) for s, m, e, there in among]
        ).mean()

    before = float(loss(fresh).detach())
    learnt(gated, loss, 60)
    assert before > 1.2
    with torch.no_grad():
        assert float(loss(fresh)) < 0.8 * before


def test_a_part_learns_from_what_its_whole_found() -> None:
    """The part's own state is always the same; which of two slots is right depends on the whole's."""
    torch.manual_seed(7)
    memory, states = torch.randn(4, 16), torch.randn(3, 24)
    cases = [(torch.stack([states[k], states[2]]), torch.tensor([k, 2 + k])) for k in (0, 1)]

    def trained(wholes: list[int]) -> float:
        tree = made(tree=True)
        return learnt(
            tree, lambda: torch.stack([slot_loss(tree(s, memory, wholes=wholes), own) for s, own in cases]).mean()
        )

    assert trained([-1, 0]) < 0.1
    # Without the tree the part guesses: half of log 2 is the best there is.
    assert trained([-1, -1]) > 0.3


def test_wholes_come_first_and_a_circle_is_refused() -> None:
    assert tree_order([]) == []
    assert tree_order([1, 2, -1]) == [[2], [1], [0]]
    with pytest.raises(InputError, match="circle"):
        tree_order([1, 0])


def test_evidence_is_the_best_place_of_the_target() -> None:
    slots = torch.eye(3)[:2]
    target = torch.zeros(3, 2, 2)
    target[0, 0, 1], target[2] = 5.0, 0.1
    assert evidence_of(slots, target) == pytest.approx([5 / np.hypot(5, 0.1), 0.0], abs=1e-6)


def test_gates_need_regions_with_evidence() -> None:
    states, memory = torch.randn(2, 24), torch.randn(3, 16)
    with pytest.raises(InputError, match="evidence of each"):
        made(gated=True)(states, memory)
    with pytest.raises(InputError, match="evidence of each"):
        made(gated=True)(states, memory, torch.tensor([0, 1, 1]), evidence=torch.ones(2))


@pytest.mark.parametrize("level", ["prototypes", "native"])
def test_switches_train_with_the_stage_and_come_back_from_its_folder(
    folders: tuple[Path, Path], tmp_path: Path, level: str, pictures: list[LabelledPicture]
) -> None:
    torch.manual_seed(1)
    parts = {"spleen": "liver"}
    segmenter = TokenSegmenter.make(
        VisionLanguageModel.load(folders[0]),
        Sam2Parts.load(folders[1]),
        level,
        gated=True,
        parts=parts,  # type: ignore[arg-type]
    )
    attention = segmenter.attention
    assert isinstance(attention, SwitchedAttention)
    before = {name: value.clone() for name, value in attention.state_dict().items()}
    told: dict[str, float] = {}
    train_masks(
        segmenter,
        pictures,
        MaskSettings(steps=3, batch=2, overlap=0.1),
        tmp_path,
        progress=lambda step, steps, values: told.update(values),
    )
    assert {"entropy", "alike", "slot_accuracy", "collapsed"} <= set(told)
    moved = {
        name.split(".")[0] for name, value in attention.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"gate", "climb", "project"} <= moved
    language = VisionLanguageModel.load(folders[0], adapters=[tmp_path])
    loaded = TokenSegmenter.load(tmp_path, language, Sam2Parts.load(folders[1]))
    assert loaded.parts == parts
    assert all(torch.equal(v, attention.state_dict()[k]) for k, v in loaded.attention.state_dict().items())
    pair = next(p for p in draw_pairs(pictures, 3, absent=0, hidden=0))
    sample = pair.sample("segment", np.random.default_rng(0))
    with torch.no_grad():
        assert torch.allclose(loaded(pair, sample)[0], segmenter(pair, sample)[0], atol=1e-3)


def test_spatial_memory_has_no_regions_to_close(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="made of cells"):
        TokenSegmenter.make(None, Sam2Parts.load(folders[1]), "spatial", gated=True)
