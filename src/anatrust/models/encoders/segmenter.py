"""The segmenter's own encoder as features of a scan: one stage of the small U-Net, by its name in the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.volumes import Scan
from anatrust.models.encoders.patch_features import PatchFeatures

__all__ = ["SegmenterEncoder"]


class SegmenterEncoder:
    """Features of one encoder stage of a saved :class:`~anatrust.models.unet.UNet`.

    What a segmenter has learnt tells its own structures apart better than features of photographs
    do (measured: the feasibility study of random-walk sets). The whole scan goes through at once.

    Parameters
    ----------
    folder
        As :meth:`UNet.save` wrote it.
    stage
        0 is the finest; None the coarsest.
    device
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    InputError
        If there is no such stage, or the scan has another number of axes than the network reads.
    """

    name = "segmenter"

    def __init__(self, folder: str | Path, *, stage: int | None = None, device: str = "cpu") -> None:
        from anatrust.models.stage_features import weights_hash
        from anatrust.models.unet import UNet

        self.model = UNet.load(Path(folder)).to(device)
        count = len(self.model.stages)
        self.stage = count - 1 if stage is None else stage
        if not 0 <= self.stage < count:
            raise InputError(f"the segmenter has the encoder stages 0 to {count - 1}, not {stage}")
        self.device = device
        self._weights = weights_hash(self.model)

    @property
    def identity(self) -> str:
        """Stage and the hash of the weights."""
        return f"{self.name}/1 stage={self.stage} weights={self._weights}"

    def encode_patches(self, scan: Scan) -> PatchFeatures:
        """Features at the stage's resolution; each voxel lies in the cell it was pooled into."""
        import torch

        from anatrust.models.unet import normalised

        image = normalised(scan.array)
        if image.ndim != self.model.config.ndim:
            raise InputError(f"the segmenter reads {self.model.config.ndim}-D images, the scan has {image.ndim} axes")
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(image))[None, None].to(self.device)
            values = self.model.features(given, self.stage)[0].float().cpu().numpy()
        edge = 2**self.stage
        owners = tuple(np.arange(count) // edge for count in image.shape)
        kept = tuple(slice(0, int(owner[-1]) + 1) for owner in owners)
        return PatchFeatures(np.moveaxis(values, 0, -1)[kept], owners)

    def encode(self, scan: Scan) -> npt.NDArray[np.float32]:
        """Features of every voxel, ``(*scan.grid.shape, d)``."""
        return self.encode_patches(scan).lifted()
