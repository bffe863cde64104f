"""The SMIT encoder: a 3-D Swin transformer with a normalised output at every stage (extra ``deep``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from anatrust.errors import FormatError, InputError

__all__ = ["SMIT", "SMITConfig", "smit_state"]

_SCHEMA = 1
# The order in which a 2·2·2 cube is laid side by side: weights are meaningless in any other.
_CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1))
_HIDDEN = -100.0


@dataclass(frozen=True)
class SMITConfig:
    """Shape of the encoder; the default is that of the published weights.

    Parameters
    ----------
    embed, depths, heads
        Channels after the patch embedding (doubled by every merging), blocks and attention heads a
        stage. Published: 48, (2, 2, 12, 2), (4, 4, 8, 16); the small form has (2, 2, 2, 2), (3, 6, 12, 24).
    window, patch
        Edges in tokens and voxels.
    """

    embed: int = 48
    depths: tuple[int, ...] = (2, 2, 12, 2)
    heads: tuple[int, ...] = (4, 4, 8, 16)
    window: int = 4
    patch: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(int(d) for d in self.depths))
        object.__setattr__(self, "heads", tuple(int(h) for h in self.heads))
        if not self.depths or len(self.depths) != len(self.heads) or min((*self.depths, *self.heads)) < 1:
            raise InputError("a SMIT encoder needs a depth and a number of heads for each stage")
        if self.window < 2 or self.patch < 1 or any(self.embed * 2**i % h for i, h in enumerate(self.heads)):
            raise InputError("a SMIT encoder needs a window of 2 or more, and heads that divide the channels")

    @property
    def multiple(self) -> int:
        """Crops must be multiples of this along each axis: 32 for four stages of patches of 2."""
        return int(self.patch * 2 ** len(self.depths))


def _windows(tokens: torch.Tensor, edge: int) -> torch.Tensor:
    """``(B · windows, edge³, C)`` from ``(B, X, Y, Z, C)``."""
    b, x, y, z, c = tokens.shape
    cut = tokens.view(b, x // edge, edge, y // edge, edge, z // edge, edge, c)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, edge**3, c)


def _whole(windows: torch.Tensor, edge: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse of :func:`_windows` for a shape ``(B, X, Y, Z, C)``."""
    b, x, y, z, c = shape
    cut = windows.view(b, x // edge, y // edge, z // edge, edge, edge, edge, c)
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def _not_neighbours(shape: tuple[int, ...], edge: int) -> torch.Tensor:
    """``(windows, edge³, edge³)``: −100 between tokens that the cyclic shift brought together, else 0."""
    regions = torch.zeros(1, *shape, 1)
    parts = (slice(0, -edge), slice(-edge, -(edge // 2)), slice(-(edge // 2), None))
    for number, (x, y, z) in enumerate(product(parts, parts, parts)):
        regions[:, x, y, z] = number
    own = _windows(regions, edge)[:, :, 0]
    return torch.where(own[:, None] == own[:, :, None], 0.0, _HIDDEN)


class _Attention(nn.Module):
    """Attention within windows, with a learnt bias for every relative position."""

    def __init__(self, channels: int, heads: int, edge: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * edge - 1) ** 3, heads))
        place = torch.stack(torch.meshgrid(*[torch.arange(edge)] * 3, indexing="ij")).flatten(1)
        apart = place[:, :, None] - place[:, None, :] + edge - 1
        base = 2 * edge - 1
        self.register_buffer("relative_position_index", (apart[0] * base + apart[1]) * base + apart[2])
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, windows: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        n, length, channels = windows.shape
        q, k, v = self.qkv(windows).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        index = self.get_buffer("relative_position_index")
        bias = self.relative_position_bias_table[index.flatten()].view(length, length, -1).permute(2, 0, 1)[None]
        if hidden is not None:
            bias = (bias + hidden[:, None]).repeat(n // len(hidden), 1, 1, 1)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        out: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(n, length, channels))
        return out


class _MLP(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, edge: int, *, shifted: bool) -> None:
        super().__init__()
        self.edge, self.shift = edge, edge // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _Attention(channels, heads, edge)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _MLP(channels)

    def forward(self, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """``(B, X, Y, Z, C)`` in and out."""
        shape = tokens.shape[1:4]
        padding = [0, 0]
        for size in reversed(shape):
            padding += [0, -size % self.edge]
        moved = functional.pad(self.norm1(tokens), padding)
        axes = (1, 2, 3)
        if self.shift:
            moved = moved.roll((-self.shift,) * 3, axes)
        padded = tuple(moved.shape)
        mixed = self.attn(_windows(moved, self.edge), hidden if self.shift else None)
        moved = _whole(mixed, self.edge, padded)
        if self.shift:
            moved = moved.roll((self.shift,) * 3, axes)
        tokens = tokens + moved[:, : shape[0], : shape[1], : shape[2]]
        out: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class _Merging(nn.Module):
    """Eight neighbours side by side, normalised, reduced to twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(8 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(8 * channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        corners = torch.cat([tokens[:, x::2, y::2, z::2] for x, y, z in _CORNERS], dim=-1)
        out: torch.Tensor = self.reduction(self.norm(corners))
        return out


class _Stage(nn.Module):
    def __init__(self, channels: int, depth: int, heads: int, edge: int) -> None:
        super().__init__()
        self.edge = edge
        self.blocks = nn.ModuleList(_Block(channels, heads, edge, shifted=bool(i % 2)) for i in range(depth))
        self.downsample = _Merging(channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens before merging."""
        padded = tuple(size + -size % self.edge for size in tokens.shape[1:4])
        hidden = _not_neighbours(padded, self.edge).to(tokens)
        for block in self.blocks:
            tokens = block(tokens, hidden)
        return tokens


class _Embedding(nn.Module):
    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.proj(image).movedim(1, -1))
        return out


class _Transformer(nn.Module):
    def __init__(self, config: SMITConfig) -> None:
        super().__init__()
        widths = [config.embed * 2**i for i in range(len(config.depths))]
        self.patch_embed = _Embedding(config.embed, config.patch)
        self.layers = nn.ModuleList(
            _Stage(width, depth, heads, config.window)
            for width, depth, heads in zip(widths, config.depths, config.heads, strict=True)
        )
        for number, width in enumerate(widths):
            self.add_module(f"norm{number}", nn.LayerNorm(width))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        tokens = self.patch_embed(image)
        maps = []
        for number, stage in enumerate(self.layers):
            before = stage(tokens)
            maps.append(self.get_submodule(f"norm{number}")(before).movedim(-1, 1))
            tokens = stage.get_submodule("downsample")(before)
        return [*maps, tokens.movedim(-1, 1)]


class SMIT(nn.Module):
    """Encoder of SMIT (Jiang et al., MICCAI 2022), as RF-Deep uses it.

    Input ``(B, 1, X, Y, Z)`` with axes that are multiples of 32; output five maps ``(B, C, …)``: each
    stage's tokens *before* merging, layer-normed (48, 96, 192, 384 channels at 1/2 … 1/16), and the tokens
    after the fourth merging as they are (768 at 1/32). Their means side by side are 1 488 numbers.

    Parameter names are those of the published checkpoints, so that weights converted to safetensors load
    as they are; decoder weights beside them are ignored.

    Raises
    ------
    InputError
        In ``forward``, if an axis is no multiple of :attr:`SMITConfig.multiple`.

    References
    ----------
    Jiang et al., Self-supervised 3D anatomy segmentation using self-distilled masked image transformer,
    MICCAI 2022; RF-Deep, arXiv 2512.08216.
    """

    def __init__(self, config: SMITConfig | None = None) -> None:
        super().__init__()
        self.config = config or SMITConfig()
        self.transformer = _Transformer(self.config)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Five maps, fine ones first."""
        if any(size % self.config.multiple for size in image.shape[2:]) or image.ndim != 5:
            raise InputError(
                f"a crop of shape {tuple(image.shape[2:])} does not fit SMIT: multiples of {self.config.multiple} do"
            )
        maps: list[torch.Tensor] = self.transformer(image)
        return maps

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``weights.safetensors`` into a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {n: v.detach().cpu().contiguous() for n, v in self.state_dict().items()}, folder / "weights.safetensors"
        )
        text = json.dumps({"schema": _SCHEMA, "model": "smit", **asdict(self.config)}, indent=1)
        (folder / "config.json").write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path) -> SMIT:
        """The encoder in a checkpoint folder, in evaluation mode.

        Parameters
        ----------
        folder
            ``config.json`` with ``"model": "smit"`` (and, where they differ from the published ones, the
            fields of `SMITConfig`), and ``weights.safetensors``: an encoder's or a whole segmenter's weights.

        Raises
        ------
        FormatError
            If a file is missing or foreign, or a weight is missing or of another shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            values = json.loads((folder / "config.json").read_text())
            if values.get("model") != "smit" or values.get("schema", _SCHEMA) != _SCHEMA:
                raise FormatError(f"{folder} holds no SMIT encoder: its config.json says 'model': 'smit'")
            config = SMITConfig(**{k: v for k, v in values.items() if k in SMITConfig.__dataclass_fields__})
            model = cls(config)
            model.load_state_dict(smit_state(load_file(str(folder / "weights.safetensors"))))
        except (OSError, TypeError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError, RuntimeError) as error:
            lines = str(error).strip().splitlines()
            reason = lines[min(1, len(lines) - 1)].strip()[:160] if lines else type(error).__name__
            raise FormatError(f"{folder} cannot be read as a SMIT encoder ({reason}): convert it again") from error
        return model.eval()


def smit_state(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The encoder's part of a checkpoint: wrappers' prefixes removed, decoder and heads left out.

    Examples
    --------
    >>> sorted(smit_state({"module.transformer.norm0.bias": torch.zeros(1), "decoder5.x": torch.zeros(1)}))
    ['transformer.norm0.bias']
    """
    found = {}
    for name, value in weights.items():
        start = name.find("transformer.")
        if start == 0 or (start > 0 and set(name[: start - 1].split(".")) <= {"module", "model", "net", "_orig_mod"}):
            found[name[start:]] = value
    return found
