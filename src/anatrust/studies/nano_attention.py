"""Where chosen heads of a small language model look, as weights that a lesson can teach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from torch import Tensor

    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["looks_of_heads", "watched"]

_NEVER = -1e9


@contextmanager
def watched(model: VisionLanguageModel, layers: tuple[int, ...]) -> Iterator[Mapping[int, tuple[Any, Tensor, Any]]]:
    """What enters the attention of these layers of the language model while it runs inside the block.

    Yields
    ------
    mapping
        For each layer its attention module, its input ``(B, T, hidden)`` and the rotation of places; filled by the
        next forward pass. Weights themselves are only kept by slower attention, and most are not wanted.
    """
    blocks: Any = model.model.model.language_model.layers
    found: dict[int, tuple[Any, Tensor, Any]] = {}

    def keeper(layer: int) -> Any:
        def keep(module: Any, _args: Any, given: Any) -> None:
            found[layer] = (module, given["hidden_states"], given["position_embeddings"])

        return keep

    hooks = [blocks[layer].self_attn.register_forward_pre_hook(keeper(layer), with_kwargs=True) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def looks_of_heads(entered: tuple[Any, Tensor, Any], mask: Tensor, heads: int) -> Tensor:
    """Logarithms of the attention weights of the first heads of a layer, ``(B, heads, T, T)``.

    Parameters
    ----------
    entered
        From :func:`watched`.
    mask
        ``(B, T)``, 0 where padded.
    heads
        How many.
    """
    import torch
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

    module, hidden, (cosine, sine) = entered
    shape = (*hidden.shape[:-1], -1, module.head_dim)
    query = module.q_norm(module.q_proj(hidden).view(shape)).transpose(1, 2)[:, :heads]
    key = module.k_norm(module.k_proj(hidden).view(shape)).transpose(1, 2)[:, :heads]
    query, key = apply_rotary_pos_emb(query, key, cosine, sine)
    scores = query @ key.transpose(2, 3) * module.scaling
    length = hidden.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril() & mask[:, None, None, :].bool()
    logarithms: Tensor = scores.masked_fill(~seen, _NEVER).log_softmax(-1)
    return logarithms
