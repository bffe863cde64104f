"""A frozen vision transformer over the slices of a scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.orientation import canonical
from anatrust.image.volumes import Scan
from anatrust.models.encoders.patch_features import PatchFeatures, cells_of
from anatrust.models.encoders.preparation import GrayWindow, pixel_values, slice_axis, target_size
from anatrust.models.encoders.weights import FoundWeights

__all__ = ["Family", "SliceEncoder"]


@dataclass(frozen=True)
class Family:
    """What sets one family of vision transformers apart.

    Parameters
    ----------
    name
        Registry name.
    model_types
        What ``config.json`` of its models may say.
    load
        Gives the frozen vision model.
    special_tokens
        How many tokens before the patches, from the vision configuration.
    arguments
        Of every forward pass (how positions are interpolated).
    mean, deviation
        Of its training images; a model's own ``preprocessor_config.json`` goes before.
    """

    name: str
    model_types: tuple[str, ...]
    load: Callable[[FoundWeights], Any]
    special_tokens: Callable[[Any], int]
    arguments: tuple[tuple[str, Any], ...]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


class SliceEncoder:
    """Patch features of a frozen vision transformer, slice by slice.

    A volume is cut across its widest spacing (else axially) in canonical orientation, so that storage order
    does not matter; each slice goes through the network alone, and a graph over the volume joins
    slices by likeness. Voxels get the features of their patch.

    Parameters
    ----------
    family
        Of models.
    found
        Where the weights lie.
    resolution
        Pixels of a slice's longer edge as the network sees it; a patch then covers
        ``patch / resolution`` of that edge. Small organs need small patches: rather enlarge than shrink.
    layer
        Hidden layer, 0 the first block; None is the last, normalised.
    window
        Of grey values.
    device, batch
        ``"cpu"`` or ``"cuda"``; slices a forward pass. Neither is part of the identity.

    Raises
    ------
    InputError
        If there is no such layer or the resolution is below two patches.

    Notes
    -----
    O(slices·tokens²) time, one batch of activations beside ``(slices, patches, d)`` float32.
    """

    def __init__(
        self,
        family: Family,
        found: FoundWeights,
        *,
        resolution: int = 448,
        layer: int | None = None,
        window: GrayWindow | None = None,
        device: str = "cpu",
        batch: int = 8,
    ) -> None:
        from anatrust.models.stage_features import weights_hash

        self.family, self.resolution, self.layer, self.batch = family, resolution, layer, batch
        self.window = window or GrayWindow()
        self.device = device
        self.model = family.load(found).to(device)
        vision = self.model.config
        self.patch = int(vision.patch_size)
        self.width = int(vision.hidden_size)
        self._skipped = family.special_tokens(vision)
        depth = int(vision.num_hidden_layers)
        if layer is not None and not 0 <= layer < depth:
            raise InputError(f"{family.name} has the layers 0 to {depth - 1}, not {layer}")
        if resolution < 2 * self.patch or batch < 1:
            raise InputError(f"resolution {resolution} is less than two patches of {self.patch} pixels: enlarge it")
        self.mean = _triple(found.preprocessor.get("image_mean"), family.mean)
        self.deviation = _triple(found.preprocessor.get("image_std"), family.deviation)
        self._weights = weights_hash(self.model)

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return self.family.name

    @property
    def identity(self) -> str:
        """Family, settings, normalisation and the hash of the weights: equal strings give equal features."""
        layer = "last" if self.layer is None else self.layer
        centre = "/".join(",".join(f"{v:g}" for v in triple) for triple in (self.mean, self.deviation))
        return (
            f"{self.name}/1 resolution={self.resolution} layer={layer} window=({self.window.describe()}) "
            f"normalised={centre} weights={self._weights}"
        )

    def encode_patches(self, scan: Scan) -> PatchFeatures:
        """Features of the patches of every slice, in the scan's own order of axes."""
        array, grid = canonical(self.window.apply(scan), scan.grid)
        order, flip = scan.grid.canonical_axes()
        flat = array.ndim == 2
        across = 2 if flat else slice_axis(grid.spacing)
        stack = array[None] if flat else np.moveaxis(array, across, 0)
        edges = [axis for axis in range(array.ndim) if axis != across]
        extent = [grid.shape[axis] * grid.spacing[axis] for axis in edges]
        size = target_size(extent, self.resolution, self.patch)
        values = self._slices(stack, size)
        values = values[0] if flat else np.moveaxis(values, 0, across)
        cells = dict(zip(edges, (edge // self.patch for edge in size), strict=True))
        owners = [
            cells_of(count, cells[axis]) if axis in cells else np.arange(count)
            for axis, count in enumerate(array.shape)
        ]
        # Back to the scan's own axes: cells are reordered, and a flipped axis is read from its other end.
        back = np.argsort(order)
        turned = values.transpose(*back.tolist(), values.ndim - 1)
        return PatchFeatures(turned, tuple(owners[k][::-1] if flip[k] else owners[k] for k in back))

    def encode(self, scan: Scan) -> npt.NDArray[np.float32]:
        """Features of every voxel, ``(*scan.grid.shape, d)``; large for volumes, see :meth:`encode_patches`."""
        return self.encode_patches(scan).lifted()

    def _slices(self, stack: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """``(slices, rows, columns, d)`` features of slices ``(slices, height, width)``."""
        import torch

        rows, columns = (edge // self.patch for edge in size)
        parts = []
        arguments = dict(self.family.arguments)
        if self.layer is not None:
            arguments["output_hidden_states"] = True
        with torch.no_grad():
            for start in range(0, len(stack), self.batch):
                part = torch.from_numpy(np.ascontiguousarray(stack[start : start + self.batch])).to(self.device)
                given = pixel_values(part, size, self.mean, self.deviation)
                with torch.autocast(self.device, enabled=self.device == "cuda"):
                    out = self.model(pixel_values=given, **arguments)
                # hidden_states[0] is the embedding before the first block.
                tokens = out.last_hidden_state if self.layer is None else out.hidden_states[self.layer + 1]
                parts.append(tokens[:, self._skipped :].float().cpu().numpy())
        values = np.concatenate(parts)
        if values.shape[1:] != (rows * columns, self.width):
            raise InputError(f"{self.name} gave {values.shape[1]} patches for {rows}x{columns}: it is another family")
        return values.reshape(len(stack), rows, columns, self.width)


def _triple(given: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if not isinstance(given, Sequence) or len(given) != 3:
        return default
    red, green, blue = (float(v) for v in given)
    return red, green, blue
