"""Tokens that add to what SAM 2 does by itself: every way in begins as zero, so that they cannot start as a burden."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, layer_norm

from anatrust.reference.memory_attention import Attended

__all__ = ["Added", "AddedTokens", "place_loss"]


class Added(nn.Module):
    """A linear layer that gives zero until it is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        """``(..., width)`` to the same shape."""
        out: Tensor = self.layer(values)
        return out


class AddedTokens(nn.Module):
    """Three ways from a ``<Seg>`` state into SAM 2, each added to what SAM 2 has there without it.

    The state's query q and what it found z (Eq. 6 and 7) are added to the two tokens of SAM 2's empty prompt, z to the
    object pointer of the reference's region. Where in the target the region lies is told by how the state agrees with
    the states of the target's patches in the same language model; it is added to the dense prompt, as a coarse mask
    would be. A state by itself tells a place only roughly, and less than the reference's own mask does; its patches
    together tell more than both where the look is known (study `rau-nano-masks`).

    Parameters
    ----------
    hidden, shown
        Width of the states and of the patches' states.
    width
        Of SAM 2's tokens.
    inner
        Width in which states and patches are compared.
    places
        Whether patches are asked at all.

    References
    ----------
    Zero-initialised layers: ControlNet (arXiv 2302.05543), LLaMA-Adapter (arXiv 2303.16199). Maps of words on patches
    of a frozen model as prompts of SAM: F-LMM (arXiv 2406.05821).

    Examples
    --------
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> added = AddedTokens(hidden=32, shown=16, width=8, inner=4)
    >>> places = added.places(torch.randn(3, 32), torch.randn(4, 6, 16), (2, 3))
    >>> places.shape, added.dense(places).shape, bool(added.dense(places).any())
    (torch.Size([3, 2, 3]), torch.Size([3, 8, 2, 3]), False)
    """

    def __init__(self, hidden: int, shown: int, width: int, inner: int = 64, *, places: bool = True) -> None:
        super().__init__()
        self.query, self.value, self.pointer = Added(width), Added(width), Added(width)
        self.ask: nn.Module | None = None
        if places:
            self.ask = nn.Sequential(nn.Linear(hidden, 2 * inner), nn.GELU(), nn.Linear(2 * inner, inner))
            self.show = nn.Sequential(nn.Linear(shown, 2 * inner), nn.GELU(), nn.Linear(2 * inner, inner))
            self.bias = nn.Parameter(torch.tensor(-2.0))
            self.way = nn.Parameter(torch.zeros(width))

    def prompt(self, empty: Tensor, attended: Attended) -> Tensor:
        """Prompt tokens ``(N, 2, width)`` from those of an empty prompt, of the same shape."""
        return empty + torch.stack([self.query(attended.query), self.value(attended.value)], dim=1)

    def places(self, states: Tensor, patches: Tensor, shape: tuple[int, int]) -> Tensor:
        """Logits of where each state's region lies.

        Parameters
        ----------
        states
            ``(N, hidden)``, as the projection gets them.
        patches
            ``(rows, columns, shown)`` of the target.
        shape
            Rows and columns of SAM 2's coarse features.

        Returns
        -------
        Tensor
            ``(N, *shape)``.
        """
        assert self.ask is not None
        shown = self.show(layer_norm(patches.to(self.way.dtype), patches.shape[-1:]))
        asked = self.ask(states)
        logits = torch.einsum("nd,hwd->nhw", asked, shown) / asked.shape[1] ** 0.5 + self.bias
        return interpolate(logits[:, None], shape, mode="bilinear", align_corners=False)[:, 0]

    def dense(self, places: Tensor) -> Tensor:
        """What the places add to SAM 2's dense prompt, ``(N, width, h, w)``."""
        return places.sigmoid()[:, None] * self.way[:, None, None]


def place_loss(places: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of told places with the share of each cell that the region covers: supervision that costs nothing.

    Parameters
    ----------
    places
        ``(N, h, w)`` logits.
    truth
        ``(N, H, W)`` masks in [0, 1], finer.

    Examples
    --------
    >>> truth = torch.zeros(1, 4, 4)
    >>> truth[0, :2, :2] = 1
    >>> told = torch.tensor([[[9.0, -9.0], [-9.0, -9.0]]])
    >>> bool(place_loss(told, truth) < 1e-3)
    True
    """
    shares = interpolate(truth[:, None], places.shape[-2:], mode="area")[:, 0]
    return binary_cross_entropy_with_logits(places, shares)
