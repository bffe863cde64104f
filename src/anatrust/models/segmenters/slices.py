"""Picture models over scans: slices as a radiologist sees them, resized, asked in batches, and brought back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, canonical_region, crop_grid, crop_scan
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.device import check_device
from anatrust.models.encoders.preparation import GrayWindow
from anatrust.models.segmentation import Capabilities, Prompt

__all__ = ["SliceSegmenter"]


class SliceSegmenter(ABC):
    """A network for pictures that goes through a region slice by slice.

    Slices are axial (along the canonical last axis): the front is up and the patient's right on the
    left, as models saw them in training. Grey values are windowed to [0, 1] over all slices of the
    region together, so that they do not flicker. No torchvision: resizing and scaling are ours.

    Parameters
    ----------
    size
        Edge of the square the network takes.
    mean, deviation
        What its training subtracted and divided by, for each of three equal channels.
    window
        Grey values; see `GrayWindow`.
    batch
        Slices at once: with ``size`` it bounds the memory.
    device
        ``"cpu"`` or ``"cuda"``; mixed precision on CUDA only.

    Raises
    ------
    InputError
        If there is no such device.
    """

    name: str = ""
    capabilities: Capabilities
    # Whether the network sees the whole slice, with the region marked in it, or the region alone.
    sees_slice: bool = False

    def __init__(
        self,
        *,
        size: int,
        mean: tuple[float, ...],
        deviation: tuple[float, ...],
        window: GrayWindow | None = None,
        batch: int = 1,
        device: str = "cpu",
    ) -> None:
        check_device(device)
        self.size, self.batch, self.device = size, batch, device
        self.window = window or GrayWindow()
        self._mean = torch.tensor(mean).reshape(1, 3, 1, 1)
        self._deviation = torch.tensor(deviation).reshape(1, 3, 1, 1)

    @property
    @abstractmethod
    def identity(self) -> str:
        """Exact description of the network."""

    @abstractmethod
    def answer(self, pixels: Any, prompt: Prompt, box: tuple[float, float, float, float]) -> Any:
        """Probabilities ``(n, h, w)`` of any resolution, for prepared pictures ``(n, 3, size, size)``.

        ``box`` is (x1, y1, x2, y2) in pixels of the prepared picture: where the target is looked for.
        """

    @torch.no_grad()
    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """Probability of the target in the region; cost: one pass of the network a slice."""
        wanted = canonical_region(region, scan.grid)
        seen = wanted
        if self.sees_slice:
            whole = canonical_region(Region.whole(scan.grid.shape), scan.grid)
            seen = Region((*whole.start[:2], *wanted.start[2:]), (*whole.stop[:2], *wanted.stop[2:]))
        array, grid = canonical(scan.array, scan.grid)
        part = crop_scan(replace(scan, array=array, grid=grid), seen)
        grey = self.window.apply(part)
        stack = grey[..., None] if grey.ndim == 2 else grey
        # Pictures: rows go from front to back, columns from the patient's right to left.
        pictures = np.ascontiguousarray(stack.transpose(2, 1, 0)[:, ::-1, ::-1])
        rows, columns = pictures.shape[1:]
        inner = [(a - s, b - s) for a, b, s in zip(wanted.start, wanted.stop, seen.start, strict=True)]
        (x1, x2), (y1, y2) = inner[0], inner[1]
        scale_x, scale_y = self.size / columns, self.size / rows
        box = ((columns - x2) * scale_x, (rows - y2) * scale_y, (columns - x1) * scale_x, (rows - y1) * scale_y)
        found = np.empty(pictures.shape, dtype=np.float32)
        for first in range(0, len(pictures), self.batch):
            some = slice(first, first + self.batch)
            found[some] = self._one(pictures[some], prompt, box)
        back = found[:, ::-1, ::-1].transpose(2, 1, 0)[x1:x2, y1:y2]
        upright = np.ascontiguousarray(back if grey.ndim == 3 else back[..., 0])
        here = crop_grid(scan.grid, region)
        return ProbabilityMap(restore(np.clip(upright, 0, 1), here)[None], here)

    def _one(
        self, pictures: npt.NDArray[np.float32], prompt: Prompt, box: tuple[float, float, float, float]
    ) -> npt.NDArray[np.float32]:
        from torch.nn.functional import interpolate

        shape = pictures.shape[1:]
        given = torch.from_numpy(pictures.copy())[:, None]
        resized = interpolate(given, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        pixels = ((resized.clamp(0, 1) - self._mean) / self._deviation).to(self.device)
        with torch.autocast(self.device, enabled=self.device == "cuda"):
            answer = self.answer(pixels, prompt, box)
        answer = answer.float()[:, None]
        values: npt.NDArray[np.float32] = (
            interpolate(answer, shape, mode="bilinear", align_corners=False)[:, 0].cpu().numpy()
        )
        return values
