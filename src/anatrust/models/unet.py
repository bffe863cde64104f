"""A small U-Net for 2-D and 3-D images: saved without pickle, run on any grid (extra ``deep``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from anatrust.errors import FormatError, InputError
from anatrust.image.volumes import ProbabilityMap, Scan

__all__ = ["UNet", "UNetConfig", "UNetSegmenter", "normalised"]

_SCHEMA = 1


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net.

    ``classes`` are the names of the output channels, background first. ``widths`` are the channels
    at each resolution; every level halves the image along each axis.
    """

    ndim: int
    classes: tuple[str, ...]
    widths: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or len(self.classes) < 2 or len(self.widths) < 2:
            raise InputError("a U-Net has 2 or 3 axes, at least two classes (background first) and two levels")


def _block(ndim: int, inputs: int, outputs: int) -> nn.Sequential:
    convolution: Any = nn.Conv2d if ndim == 2 else nn.Conv3d
    norm: Any = nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [
            convolution(width, outputs, 3, padding=1, bias=False),
            norm(outputs, affine=True),
            nn.LeakyReLU(0.01),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder, decoder and skip connections with instance norm (Ronneberger et al. 2015; Isensee et al. 2021).

    Input ``(batch, 1, *shape)`` float32 of any shape, output logits ``(batch, classes, *shape)``.
    ``stages`` holds the encoder's blocks, coarse ones last, for whoever wants their features.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, ndim = config.widths, config.ndim
        convolution: Any = nn.Conv2d if ndim == 2 else nn.Conv3d
        sources = (1, *widths[:-1])
        self.stages = nn.ModuleList(_block(ndim, i, o) for i, o in zip(sources, widths, strict=True))
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        self.merges = nn.ModuleList(_block(ndim, deep + flat, flat) for deep, flat in pairs)
        self.head = convolution(widths[0], len(config.classes), 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the image's own shape; it is padded to whole patches inside."""
        shape = image.shape[2:]
        multiple = 2 ** (len(self.stages) - 1)
        padding: list[int] = []
        for size in reversed(shape):
            padding += [0, -size % multiple]
        if all(size <= multiple for size in shape):
            # Instance norm needs more than one voxel at the deepest level.
            padding[1] += multiple
        current = functional.pad(image, padding)
        skips: list[torch.Tensor] = []
        for level, stage in enumerate(self.stages):
            if level:
                current = functional.max_pool2d(current, 2) if image.ndim == 4 else functional.max_pool3d(current, 2)
            current = stage(current)
            skips.append(current)
        for level in range(len(self.merges) - 1, -1, -1):
            raised = functional.interpolate(current, scale_factor=2, mode="nearest")
            current = self.merges[level](torch.cat([raised, skips[level]], dim=1))
        logits: torch.Tensor = self.head(current)
        return logits[(slice(None), slice(None), *(slice(0, size) for size in shape))]

    def features(self, image: torch.Tensor, level: int) -> torch.Tensor:
        """Output of one encoder stage, ``(batch, width, *shape / 2**level)``."""
        kept: list[torch.Tensor] = []
        handle = self.stages[level].register_forward_hook(lambda _m, _i, output: kept.append(output))
        try:
            self.forward(image)
        finally:
            handle.remove()
        return kept[0]

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``weights.safetensors`` into a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, str(folder / "weights.safetensors"))
        text = json.dumps({"schema": _SCHEMA, "model": "anatrust-unet", **asdict(self.config)}, indent=1)
        (folder / "config.json").write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path) -> UNet:
        """The model :meth:`save` wrote, in evaluation mode.

        Raises
        ------
        FormatError
            If a file is missing, not ours, newer, or the weights do not fit the configuration.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            values = json.loads((folder / "config.json").read_text())
            if values.get("model") != "anatrust-unet" or values.get("schema") != _SCHEMA:
                raise FormatError(f"{folder} holds no U-Net of this version: train or export it again")
            config = UNetConfig(int(values["ndim"]), tuple(values["classes"]), tuple(values["widths"]))
            model = cls(config)
            model.load_state_dict(load_file(str(folder / "weights.safetensors")))
        except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise FormatError(f"{folder} cannot be read as a U-Net ({reason}): train or export it again") from error
        return model.eval()


def normalised(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Intensities clipped at their 0.5 and 99.5 percentiles, then zero mean and unit deviation."""
    values = array.astype(np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    values = np.clip(values, np.float32(low), np.float32(high))
    deviation = float(values.std())
    return np.asarray((values - values.mean()) / (deviation if deviation > 0 else 1.0), dtype=np.float32)


class UNetSegmenter:
    """Runs a :class:`UNet` over a scan, in overlapping tiles when it is large.

    Parameters
    ----------
    model
        The network.
    device
        ``"cpu"`` or ``"cuda"``; mixed precision on CUDA only.
    tile
        Largest edge seen at once, in voxels; bounds memory. Tiles overlap by half and are averaged.
    """

    name = "unet"

    def __init__(self, model: UNet, *, device: str = "cpu", tile: Sequence[int] | int = 256) -> None:
        self.model = model.to(device).eval()
        self.device = device
        ndim = model.config.ndim
        self.tile = (tile,) * ndim if isinstance(tile, int) else tuple(tile)

    @torch.no_grad()
    def predict(self, scan: Scan) -> ProbabilityMap:
        """Softmax probabilities ``(classes, *shape)`` on the scan's grid."""
        image = normalised(scan.array)
        if image.ndim != self.model.config.ndim:
            raise InputError(f"this U-Net reads {self.model.config.ndim}-D images, the scan has {image.ndim} axes")
        total = np.zeros((len(self.model.config.classes), *image.shape), dtype=np.float32)
        mass = np.zeros(image.shape, dtype=np.float32)
        for window in _windows(image.shape, self.tile):
            part = torch.from_numpy(image[window])[None, None].to(self.device)
            with torch.autocast(self.device, enabled=self.device == "cuda"):
                logits = self.model(part)
            total[(slice(None), *window)] += logits.float().softmax(1)[0].cpu().numpy()
            mass[window] += 1
        return ProbabilityMap(np.clip(total / mass, 0, 1), scan.grid, self.model.config.classes)


def _windows(shape: Sequence[int], tile: Sequence[int]) -> list[tuple[slice, ...]]:
    """Overlapping tiles that cover a shape; one where it fits."""
    windows: list[tuple[slice, ...]] = [()]
    for size, edge in zip(shape, tile, strict=True):
        step = max(1, edge // 2)
        starts = [0] if size <= edge else [*range(0, size - edge, step), size - edge]
        windows = [(*w, slice(s, min(s + edge, size))) for w in windows for s in starts]
    return windows
