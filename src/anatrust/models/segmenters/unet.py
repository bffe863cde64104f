"""The small U-Net as a segmenter: one of its classes is the target."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from anatrust.errors import InputError
from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, crop_grid, crop_scan
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.unet import UNet, UNetSegmenter

__all__ = ["UNetTarget", "load"]


class UNetTarget:
    """A :class:`~anatrust.models.unet.UNet` that is asked for one of its classes.

    Parameters
    ----------
    model
        The network.
    target
        The class that is drawn; by default all but the background together.
    device
        ``"cpu"`` or ``"cuda"``; mixed precision on CUDA only.
    tile
        Largest edge seen at once, in voxels.

    Raises
    ------
    InputError
        If the network has no such class.
    """

    name: ClassVar[str] = "unet"

    def __init__(self, model: UNet, target: str | None = None, *, device: str = "cpu", tile: int | None = None) -> None:
        classes = model.config.classes
        if target is not None and target not in classes[1:]:
            raise InputError(f"this U-Net has no class {target!r}: choose one of {', '.join(classes[1:])}")
        self._runner = UNetSegmenter(model, device=device, tile=tile or (512 if model.config.ndim == 2 else 128))
        self._wanted = list(range(1, len(classes))) if target is None else [classes.index(target)]
        digest = hashlib.sha256()
        for key, value in sorted(model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        self.identity = f"unet({'+'.join(classes[k] for k in self._wanted)},sha256={digest.hexdigest()[:16]})"
        ndim = model.config.ndim
        self.capabilities = Capabilities(ndim=(2, 3) if ndim == 2 else (3,))

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:  # noqa: ARG002
        """Softmax of the target's classes, summed; a 2-D network goes through a volume slice by slice.

        Raises
        ------
        InputError
            If the network is 3-D and the scan an image.
        """
        part = crop_scan(scan, region)
        array, grid = canonical(part.array, part.grid)
        model = self._runner.model.config
        if model.ndim == 3 and array.ndim == 2:
            raise InputError("this U-Net reads volumes, the scan is one slice: give a volume")
        if model.ndim == array.ndim:
            found = self._runner.predict(Scan(array, grid)).array[self._wanted].sum(axis=0)
        else:
            found = np.empty(array.shape, dtype=np.float32)
            for k in range(array.shape[2]):
                plane = np.ascontiguousarray(array[..., k])
                flat = Scan(plane, type(grid)(plane.shape, grid.affine, grid.spacing_known))
                found[..., k] = self._runner.predict(flat).array[self._wanted].sum(axis=0)
        values = restore(np.clip(found, 0, 1).astype(np.float32, copy=False), part.grid)
        return ProbabilityMap(values[None], crop_grid(scan.grid, region))


def load(weights: Path | None, device: str) -> UNetTarget:
    """The network saved in a folder; all its classes but the background are the target."""
    assert weights is not None
    return UNetTarget(UNet.load(weights), device=device)
