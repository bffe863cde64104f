"""Two switches of the memory attention, both learnt: slots that close, and parts asked for after the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from anatrust.errors import InputError
from anatrust.reference.memory_attention import Attended, MemoryAttention, MemoryConfig

__all__ = ["SwitchedAttention", "evidence_of", "tree_order"]

_OPEN = 3.0  # bias of a gate's last layer: untrained gates are open (0.95)


class SwitchedAttention(MemoryAttention):
    """Memory attention whose slots have gates, and whose parts are asked for after their whole.

    A gate g = σ(MLP[q, m, s]) multiplies a slot's weight before the weights are normalised again; s says how much any
    place of the target looks like the slot, so that the slot of an organ which is not there can close. In the
    organs' tree a part's state is moved by what its whole found, before it asks itself: h + P z of the whole.
    Both begin as if they were not there: gates open, P zero.

    Parameters
    ----------
    config
        As for `MemoryAttention`.
    gated
        Whether slots have gates; not with spatial tokens.
    tree
        Whether parts wait for their whole.

    References
    ----------
    RAU's open questions on adaptive memory (slots gated by g = σ(MLP[q, m, cos])) and structural priors (tree-ordered
    decoding).

    Examples
    --------
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> attention = SwitchedAttention(MemoryConfig(hidden=32, width=8, memory_width=8, bottleneck=8), gated=True)
    >>> found = attention(torch.randn(3, 32), torch.randn(4, 8), evidence=torch.ones(4))
    >>> found.weights.shape, bool(torch.allclose(found.weights.sum(1), torch.ones(3)))
    (torch.Size([3, 4]), True)
    """

    def __init__(self, config: MemoryConfig, *, gated: bool = False, tree: bool = False) -> None:
        super().__init__(config)
        self.gate: nn.Module | None = None
        self.climb: nn.Linear | None = None
        if gated:
            last = nn.Linear(config.bottleneck, 1)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, _OPEN)
            self.gate = nn.Sequential(nn.Linear(2 * config.width + 1, config.bottleneck), nn.GELU(), last)
        if tree:
            self.climb = nn.Linear(config.width, config.hidden)
            nn.init.zeros_(self.climb.weight)
            nn.init.zeros_(self.climb.bias)

    def forward(
        self,
        states: Tensor,
        memory: Tensor,
        regions: Tensor | None = None,
        *,
        evidence: Tensor | None = None,
        wholes: Sequence[int] | None = None,
    ) -> Attended:
        """Attend, wholes first.

        Parameters
        ----------
        states, memory, regions
            As for `MemoryAttention`.
        evidence
            ``(K,)``: how much any place of the target looks like each slot, see `evidence_of`; needed by gates.
        wholes
            For each state the place of its whole among them, −1 for none.

        Raises
        ------
        InputError
            If gates are given spatial tokens or no evidence, or the tree runs in a circle.
        """
        if self.gate is not None and (regions is not None or evidence is None):
            raise InputError("gated slots are regions, with evidence of each: choose prototypes or native memory")
        if self.climb is None or wholes is None or max(wholes, default=-1) < 0:
            return self._gated(states, memory, regions, evidence)
        rows: dict[int, Attended] = {}
        for level in tree_order(wholes):
            asked = states[level]
            above = [wholes[k] for k in level]
            if above[0] >= 0:
                asked = asked + self.climb(torch.stack([rows[k].value[0] for k in above])).to(asked.dtype)
            found = self._gated(asked, memory, regions, evidence)
            for place, k in enumerate(level):
                rows[k] = Attended(*(part[place : place + 1] for part in (found.query, found.weights, found.value)))
        parts = [rows[k] for k in range(len(states))]
        return Attended(
            torch.cat([p.query for p in parts]),
            torch.cat([p.weights for p in parts]),
            torch.cat([p.value for p in parts]),
        )

    def _gated(self, states: Tensor, memory: Tensor, regions: Tensor | None, evidence: Tensor | None) -> Attended:
        found = super().forward(states, memory, regions)
        if self.gate is None:
            return found
        assert evidence is not None
        items = self.lift(memory.to(found.query.dtype))
        pairs = (len(found.query), len(items))
        seen = torch.cat(
            [
                normalize(found.query, dim=1)[:, None].expand(*pairs, -1),
                normalize(items, dim=1)[None].expand(*pairs, -1),
                evidence.to(items.dtype)[None, :, None].expand(*pairs, 1),
            ],
            dim=2,
        )
        # The same as adding log g to the scores before the softmax.
        weights = found.weights * self.gate(seen)[..., 0].sigmoid()
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        return Attended(found.query, weights, self.norm(weights @ items))


def evidence_of(slots: Tensor, target: Tensor) -> Tensor:
    """The largest cosine of each slot's feature with any place of the target.

    Parameters
    ----------
    slots
        ``(K, D)``.
    target
        ``(D, h, w)`` features of the same encoder.

    Returns
    -------
    Tensor
        ``(K,)``, from −1 to 1.
    """
    places = normalize(target.flatten(1).float(), dim=0)
    return (normalize(slots.float(), dim=1) @ places).amax(dim=1)


def tree_order(wholes: Sequence[int]) -> list[list[int]]:
    """Places level by level: wholes first, then what is part of them.

    Raises
    ------
    InputError
        If something is, over its wholes, a part of itself.

    Examples
    --------
    >>> tree_order([2, -1, 1, 1])
    [[1], [2, 3], [0]]
    """
    levels: list[list[int]] = []
    done: set[int] = set()
    while len(done) < len(wholes):
        level = [k for k, whole in enumerate(wholes) if k not in done and (whole < 0 or whole in done)]
        if not level:
            raise InputError("the organs' tree runs in a circle: a structure cannot be part of itself")
        levels.append(level)
        done.update(level)
    return levels
