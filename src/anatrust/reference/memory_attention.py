"""From ``<Seg>`` states to queries, and from queries to the reference's regions (RAU, equations 6 and 7)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from anatrust.errors import InputError

__all__ = ["Attended", "AttentionHealth", "MemoryAttention", "MemoryConfig", "attention_health", "slot_loss"]

Similarity = Literal["cosine", "dot"]
# Queries this alike are one query: every region would get the same mask.
_COLLAPSED = 0.98
# A direction in which states do not differ is left as it is: whatever moves it later must not be blown up.
_LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class MemoryConfig:
    """Widths and form of the memory attention.

    Parameters
    ----------
    hidden
        Width of the language model's states (3584 in Qwen2.5-VL-7B).
    width
        Width of SAM 2's tokens (256).
    memory_width
        Width of the memory given: ``width`` for prototypes (L0), 64 for SAM 2's spatial tokens (L1).
    bottleneck
        Width inside the projection; the paper's "MLP output" experiments change it. SAM 2 fixes what
        comes out, so another width here is a bottleneck, not a wider memory.
    similarity, temperature
        ``"cosine"`` with a temperature, or ``"dot"`` scaled by √d as in the paper. The dot product
        collapses onto one region in small trials (specification, 7.5), so cosine is the default.

    Raises
    ------
    InputError
        If a width or the temperature is not positive.
    """

    hidden: int
    width: int = 256
    memory_width: int = 256
    bottleneck: int = 256
    similarity: Similarity = "cosine"
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if min(self.hidden, self.width, self.memory_width, self.bottleneck) < 1 or not self.temperature > 0:
            raise InputError("widths and temperature of the memory attention must be positive")
        if self.similarity not in get_args(Similarity):
            raise InputError(f"similarity is cosine or dot, not {self.similarity!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain values; :class:`MemoryConfig` takes them back."""
        return asdict(self)


@dataclass(frozen=True)
class Attended:
    """What N queries found in a memory of K slots.

    Parameters
    ----------
    query
        ``(N, width)``: q, Eq. 6.
    weights
        ``(N, K)``: α, rows sum to one over the slots that exist.
    value
        ``(N, width)``: z, Eq. 7, layer-normalised.
    places
        ``(N, h, w)``: logits of where in the target each region lies; None where nobody was asked.
    """

    query: Tensor
    weights: Tensor
    value: Tensor
    places: Tensor | None = None


class MemoryAttention(nn.Module):
    """q = MLP(h), α = softmax over the memory, z = LayerNorm(Σ α m).

    States of different regions share much (mean cosine 0.6 to 0.9 in small models), and queries made of them collapse.
    :meth:`standardise` takes what they share away, once, before training.

    Slots are the regions of the reference (level L0). With spatial tokens (level L1) say which region
    each token belongs to: attention runs over tokens and is summed by region for ``weights``.
    The layer norm is ours: without it SAM 2's decoder sees averages whose scale depends on how
    sharp the attention is, and training stalls at empty masks.

    Parameters
    ----------
    config
        Widths and form.

    References
    ----------
    RAU (arXiv 2509.22404), equations 6 and 7. What a memory item is stays open there.

    Examples
    --------
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> attention = MemoryAttention(MemoryConfig(hidden=32, width=8, memory_width=8, bottleneck=8))
    >>> found = attention(torch.randn(3, 32), torch.randn(4, 8))
    >>> found.weights.shape, bool(torch.allclose(found.weights.sum(1), torch.ones(3)))
    (torch.Size([3, 4]), True)
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Sequential(
            nn.Linear(config.hidden, config.bottleneck), nn.GELU(), nn.Linear(config.bottleneck, config.width)
        )
        same = config.memory_width == config.width
        self.lift: nn.Module = nn.Identity() if same else nn.Linear(config.memory_width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("mean", torch.zeros(config.hidden))
        self.register_buffer("spread", torch.ones(config.hidden))

    @torch.no_grad()
    def standardise(self, states: Tensor) -> None:
        """From now on states are given in deviations from these, direction by direction; saved with the weights.

        Parameters
        ----------
        states
            ``(N, hidden)`` of many regions of many images; fewer than two change nothing.

        Examples
        --------
        >>> attention = MemoryAttention(MemoryConfig(hidden=2, width=8, memory_width=8, bottleneck=8))
        >>> attention.standardise(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> attention.mean.tolist(), [round(value, 3) for value in attention.spread.tolist()]
        ([2.0, 5.0], [1.414, 1.0])
        """
        if len(states) > 1:
            self.mean.copy_(states.mean(0))
            spread = states.std(0)
            self.spread.copy_(torch.where(spread > _LEAST_SPREAD, spread, 1.0))

    def plain(self, states: Tensor) -> Tensor:
        """States in deviations from what they share, where :meth:`standardise` measured it; as they are otherwise."""
        return (states.to(self.norm.weight.dtype) - self.mean) / self.spread

    def forward(self, states: Tensor, memory: Tensor, regions: Tensor | None = None) -> Attended:
        """Attend.

        Parameters
        ----------
        states
            ``(N, hidden)``: last hidden states at the ``<Seg>`` positions.
        memory
            ``(K, memory_width)`` prototypes, or ``(T, memory_width)`` tokens.
        regions
            With tokens: ``(T,)`` integers, the region of each, −1 for none (such tokens are not attended to).

        Raises
        ------
        InputError
            If there is nothing to attend to.
        """
        if regions is not None:
            memory, regions = memory[regions >= 0], regions[regions >= 0]
        if len(memory) == 0:
            raise InputError("the reference has no region to attend to: check its labels")
        query = self.project(self.plain(states))
        items = self.lift(memory.to(query.dtype))
        if self.config.similarity == "cosine":
            # Regions of one image share most of their features: what tells them apart is left once the mean is gone.
            centred = items - items.mean(0) if len(items) > 1 else items
            scores = normalize(query, dim=1) @ normalize(centred, dim=1).T / self.config.temperature
        else:
            scores = query @ items.T / math.sqrt(self.config.width)
        weights = scores.softmax(dim=1)
        value = self.norm(weights @ items)
        if regions is not None:
            count = int(regions.max()) + 1
            weights = weights.new_zeros(len(weights), count).index_add(1, regions, weights)
        return Attended(query, weights, value)


def slot_loss(attended: Attended, slots: Tensor) -> Tensor:
    """−log α at the reference slot each query belongs to, averaged: supervision that costs nothing.

    Parameters
    ----------
    attended
        Of N queries.
    slots
        ``(N,)`` integers.
    """
    chosen = attended.weights[torch.arange(len(slots), device=slots.device), slots]
    return -chosen.clamp_min(1e-8).log().mean()


@dataclass(frozen=True)
class AttentionHealth:
    """Whether queries still tell regions apart.

    Parameters
    ----------
    entropy
        Mean entropy of the attention over log K: 0 is one slot, 1 is uniform.
    slot_accuracy
        Share of queries whose strongest slot is their own; NaN where slots are unknown.
    alike
        Largest cosine between two queries; NaN for a single one.
    """

    entropy: float
    slot_accuracy: float
    alike: float

    @property
    def collapsed(self) -> bool:
        """Two queries are practically one: their masks cannot differ."""
        return self.alike >= _COLLAPSED


def attention_health(attended: Attended, slots: Tensor | None = None) -> AttentionHealth:
    """Measure :class:`AttentionHealth`; log it at every evaluation, a collapse is easy to miss in the loss.

    Examples
    --------
    >>> same = Attended(torch.ones(2, 4), torch.full((2, 3), 1 / 3), torch.ones(2, 4))
    >>> attention_health(same).collapsed
    True
    """
    with torch.no_grad():
        weights, query = attended.weights.float(), normalize(attended.query.float(), dim=1)
        entropy = torch.special.entr(weights).sum(1).mean()
        uniform = math.log(weights.shape[1]) if weights.shape[1] > 1 else 1.0
        right = (weights.argmax(1) == slots).float().mean() if slots is not None else torch.tensor(math.nan)
        cosines = query @ query.T - 2 * torch.eye(len(query), device=query.device)
        alike = cosines.max() if len(query) > 1 else torch.tensor(math.nan)
    return AttentionHealth(float(entropy) / uniform, float(right), float(alike))
