"""Pooled features of any torch network's stages, read by hooks (extra ``deep``)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from anatrust.errors import InputError
from anatrust.models.allocator import keep_freed_memory

__all__ = ["StageFeatures", "find_stages", "weights_hash"]


# Larger batches only spill the caches of a CPU.
_CPU_VOXELS, _CUDA_VOXELS = 48**3, 8 * 128**3


class _EnoughSeen(Exception):  # noqa: N818 - no error: it ends a forward pass once the last stage has spoken
    pass


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _maps(output: Any) -> list[torch.Tensor]:
    """The tensors a module gave: itself, or those of a list."""
    found = output if isinstance(output, list | tuple) else [output]
    return (
        [value for value in found if isinstance(value, torch.Tensor)]
        if all(isinstance(value, torch.Tensor) for value in found)
        else []
    )


def _pooled(tensor: torch.Tensor, ndim: int, stage: str, pool: str) -> torch.Tensor:
    """``(B, C)`` means over space or tokens, in float32; ``(B, 2C)`` with the deviations behind them."""
    if tensor.ndim == ndim + 2:
        rows = tensor.float().flatten(2)
    elif tensor.ndim == 3:  # (B, L, C): the tokens of a transformer
        rows = tensor.float().transpose(1, 2)
    else:
        raise InputError(
            f"stage '{stage}' gives a tensor of {tensor.ndim} axes: name one that gives (B, C, …space) or (B, L, C)"
        )
    mean = rows.mean(dim=2)
    return mean if pool == "mean" else torch.cat([mean, rows.std(dim=2, correction=0)], dim=1)


def _probe_shape(model: nn.Module) -> tuple[int, ...]:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            return (64,) * (2 if isinstance(module, nn.Conv2d) else 3)
    raise InputError("whether this network reads 2-D or 3-D images is not seen from it: give probe=(64, 64, 64)")


def _is_pyramid(shapes: list[tuple[int, ...]]) -> bool:
    volumes = [int(np.prod(shape)) for shape in shapes]
    return len(volumes) > 1 and all(a > b for a, b in pairwise(volumes))


def find_stages(model: nn.Module, image: torch.Tensor) -> tuple[str, ...]:
    """Names of the modules that give an encoder's output at each resolution, fine ones first.

    A module that gives a list of maps, each coarser than the one before (MONAI's ``swinViT``, many
    backbones), is taken alone. Otherwise: of all modules that ran before the coarsest resolution
    was left again (the decoder comes after), the last one at each resolution.

    Parameters
    ----------
    model
        Any network; it is run once.
    image
        ``(1, channels, *shape)`` on the model's device.

    Raises
    ------
    InputError
        If no module gives maps at two resolutions: name the stages then.
    """
    ndim = image.ndim - 2
    ran: list[tuple[str, list[tuple[int, ...]]]] = []
    calls: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            ran.append((name, [tuple(t.shape[2:]) for t in _maps(output) if t.ndim == ndim + 2]))
            if _is_pyramid(ran[-1][1]):
                raise _EnoughSeen

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(image)
    except _EnoughSeen:
        return (ran[-1][0],)
    finally:
        for handle in handles:
            handle.remove()
    single = [(name, shapes[0]) for name, shapes in ran if len(shapes) == 1 and calls[name] == 1]
    volumes = [int(np.prod(shape)) for _, shape in single]
    if not volumes or min(volumes) == max(volumes):
        raise InputError("no stages were found in this network: name the modules whose outputs to pool")
    end = volumes.index(min(volumes))
    while end + 1 < len(volumes) and volumes[end + 1] == volumes[end]:
        end += 1
    last: dict[tuple[int, ...], str] = {}
    for name, shape in single[: end + 1]:
        last.pop(shape, None)
        last[shape] = name
    return tuple(last.values())


class StageFeatures:
    """Global averages of a frozen network's stages, side by side: an RF-Deep feature vector.

    Parameters
    ----------
    model
        Any segmenter or encoder in torch; put into evaluation mode.
    stages
        Names of modules (``model.named_modules()``) in the wanted order, or ``"auto"``
        (:func:`find_stages`). A module that gives a list is as many levels.
    channels
        Input channels; the crop is repeated.
    probe
        Shape of the zeros the network is run on once to find stages and widths; 64 along each
        axis, 2-D or 3-D after its first convolution, if None.
    device
        ``"cpu"`` or ``"cuda"``; mixed precision on CUDA only.
    batch
        Crops a forward pass; as many as the device likes if None. Features do not depend on it.
    pool
        ``"mean"``: the average over space (published). ``"moments"``: average and deviation, for networks with
        instance normalisation, whose averages after it hardly differ between images: name the convolutions
        *before* it as stages.
    scale
        ``(factor, offset)`` applied to crops before the network sees them, where it was trained on other
        numbers than the crops' intensity rule gives.
    name
        What to call the network in ``identity``; its class name if empty.

    The forward pass is left as soon as the last stage has spoken, so the decoder costs nothing.

    Raises
    ------
    InputError
        If a stage does not exist, does not run, or gives something that cannot be pooled.

    References
    ----------
    RF-Deep, arXiv 2512.08216: five levels of a Swin encoder, 48 + 96 + 192 + 384 + 768 = 1488
    (MONAI's ``SwinUNETR(feature_size=48)`` with stage ``"swinViT"``).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stages: Sequence[str] | Literal["auto"] = "auto",
        channels: int = 1,
        probe: Sequence[int] | None = None,
        device: str = "cpu",
        batch: int | None = None,
        pool: Literal["mean", "moments"] = "mean",
        scale: tuple[float, float] = (1.0, 0.0),
        name: str = "",
    ) -> None:
        if (batch is not None and batch < 1) or channels < 1:
            raise InputError(f"batch and channels are at least 1, not {batch} and {channels}")
        if device == "cpu":
            keep_freed_memory()
        if pool not in ("mean", "moments"):
            raise InputError(f"stages are pooled by mean or moments, not {pool!r}")
        self.pool = pool
        self.scale = (float(scale[0]), float(scale[1]))
        self.model = model.to(device).eval()
        self.channels, self.device, self.batch = channels, device, batch
        self.name = name or type(model).__name__
        self._weights = weights_hash(model)
        image = torch.zeros(1, channels, *(_probe_shape(model) if probe is None else probe), device=device)
        self.stages: tuple[str, ...] = find_stages(self.model, image) if stages == "auto" else tuple(stages)
        modules = dict(model.named_modules())
        missing = [stage for stage in self.stages if stage not in modules or not stage]
        if missing or not self.stages:
            raise InputError(f"{self.name} has no stages {missing or 'at all'}: name some of model.named_modules()")
        self.levels: tuple[tuple[str, int], ...] = self._forward(image)[0]

    @property
    def identity(self) -> str:
        """Network, stages and the hash of the weights."""
        scale = "" if self.scale == (1.0, 0.0) else f" scale={self.scale[0]:.9g},{self.scale[1]:.9g}"
        channels = f"channels={self.channels}{scale}" + ("" if self.pool == "mean" else f" pool={self.pool}")
        return f"stages/1 {self.name} [{', '.join(self.stages)}] {channels} weights={self._weights}"

    def extract(self, images: npt.NDArray[np.float32], spacing: tuple[float, ...]) -> npt.NDArray[np.float32]:
        """Features ``(n, sum of widths)`` of crops ``(n, *size)``; the network does not see the spacing."""
        del spacing
        most = _CUDA_VOXELS if self.device == "cuda" else _CPU_VOXELS
        step = self.batch or max(1, most // int(np.prod(images.shape[1:])))
        parts = [self._forward(self._input(images[i : i + step])) for i in range(0, len(images), step)]
        if parts[0][0] != self.levels:
            raise InputError(f"the levels of {self.name} changed from {self.levels} to {parts[0][0]}: use like crops")
        return np.concatenate([row for _, row in parts])

    def _input(self, images: npt.NDArray[np.float32]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(images))[:, None].to(self.device)
        if self.scale != (1.0, 0.0):
            tensor = tensor * self.scale[0] + self.scale[1]
        return tensor.expand(-1, self.channels, *tensor.shape[2:])

    def _forward(self, image: torch.Tensor) -> tuple[tuple[tuple[str, int], ...], npt.NDArray[np.float32]]:
        """Levels and features of one batch."""
        ndim = image.ndim - 2
        seen: dict[str, list[torch.Tensor]] = {}
        modules = dict(self.model.named_modules())

        def keep(stage: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                seen[stage] = [_pooled(tensor, ndim, stage, self.pool) for tensor in _maps(output)]
                if len(seen) == len(self.stages):
                    raise _EnoughSeen

            return hook

        handles = [modules[stage].register_forward_hook(keep(stage)) for stage in self.stages]
        try:
            with torch.inference_mode(), torch.autocast(self.device, enabled=self.device == "cuda"):
                self.model(image)
        except _EnoughSeen:
            pass
        finally:
            for handle in handles:
                handle.remove()
        silent = [stage for stage in self.stages if not seen.get(stage)]
        if silent:
            raise InputError(f"stage '{silent[0]}' of {self.name} gave no tensor: name one that runs and does")
        levels = tuple(
            (stage if len(seen[stage]) == 1 else f"{stage}[{i}]", tensor.shape[1])
            for stage in self.stages
            for i, tensor in enumerate(seen[stage])
        )
        row = torch.cat([tensor for stage in self.stages for tensor in seen[stage]], dim=1)
        return levels, np.asarray(row.cpu().numpy(), dtype=np.float32)
