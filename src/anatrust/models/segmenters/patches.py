"""A bare network over a region of any size and grid: oriented, resampled, tiled, and brought back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, crop_grid, crop_scan
from anatrust.image.resample import resample_probabilities, resample_scan
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.segmenters.card import NetworkCard

__all__ = ["PatchSegmenter", "respaced", "windows"]

_TOLERANCE = 1e-3


class PatchSegmenter(ABC):
    """A network that answers patches; everything around it stands here once.

    The region is brought to the orientation and spacing of the card, its grey values are scaled,
    overlapping windows go through the network in batches, a triangular weight fades their borders,
    and the result returns to the region's own grid.

    Parameters
    ----------
    card
        How the network is fed and read.
    batch
        Windows that go through the network at once: with the patch it bounds the memory.

    Notes
    -----
    Memory beside the network: about four times the region in float32 at the card's spacing.
    """

    name: str = ""

    def __init__(self, card: NetworkCard, *, batch: int = 4) -> None:
        if batch < 1:
            raise InputError(f"a batch has at least one window, not {batch}")
        self.card = card
        self.batch = batch
        self.capabilities = Capabilities(ndim=(2, 3) if card.ndim == 2 else (3,))

    @property
    @abstractmethod
    def identity(self) -> str:
        """Exact description of the network."""

    @abstractmethod
    def forward(self, patches: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """Answer ``(n, classes, *patch)`` to ``(n, channels, *patch)``, in the form the card's ``output`` names."""

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:  # noqa: ARG002
        """Probability of the card's targets; cost: one pass of the network a window.

        Raises
        ------
        InputError
            If the network reads volumes and the scan is one slice.
        FormatError
            If it answers another number of channels than the card says.
        """
        part = crop_scan(scan, region)
        array, grid = canonical(part.array, part.grid)
        upright = Scan(array, grid, scan.modality, scan.units)
        if self.card.ndim == 3 and grid.ndim == 2:
            raise InputError(f"the segmenter {self.name!r} reads volumes, the scan is one slice: give a volume")
        target = respaced(grid, self._spacing(grid))
        seen = upright if target is grid else resample_scan(replace(upright, array=array.astype(np.float32)), target)
        found = self._answer(self.card.scaled(seen))
        if target is not grid:
            found = resample_probabilities(ProbabilityMap(found[None], target), grid).array[0]
        values = restore(np.clip(found, 0, 1).astype(np.float32, copy=False), part.grid)
        return ProbabilityMap(values[None], crop_grid(scan.grid, region))

    def _spacing(self, grid: Grid) -> tuple[float, ...] | None:
        if self.card.spacing is None:
            return None
        if not grid.spacing_known:
            raise InputError(f"the segmenter {self.name!r} needs millimetres and the scan states none: give --spacing")
        return (*self.card.spacing, *grid.spacing[len(self.card.spacing) :])

    def _answer(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probability of the targets on the network's own grid."""
        image, back = _turned(image, self.card.orientation)
        if self.card.ndim == image.ndim:
            return back(self._tiled(image))
        found = np.empty(image.shape, dtype=np.float32)
        for k in range(image.shape[2]):
            found[..., k] = self._tiled(np.ascontiguousarray(image[..., k]))
        return back(found)

    def _tiled(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        patch = self.card.patch
        missing = [(0, max(0, edge - n)) for edge, n in zip(patch, image.shape, strict=True)]
        padded = np.pad(image, missing, mode="edge") if any(end for _, end in missing) else image
        total = np.zeros(padded.shape, dtype=np.float32)
        mass = np.zeros(padded.shape, dtype=np.float32)
        weight = _weight(patch)
        for places in _batches(windows(padded.shape, patch, self.card.overlap), self.batch):
            stack = np.stack([padded[place] for place in places])[:, None]
            stack = np.ascontiguousarray(np.repeat(stack, self.card.channels, axis=1))
            answers = self._probability(self.forward(stack), (len(places), len(self.card.classes), *patch))
            for place, answer in zip(places, answers, strict=True):
                total[place] += answer * weight
                mass[place] += weight
        total /= mass
        return total[tuple(slice(0, n) for n in image.shape)]

    def _probability(self, raw: npt.NDArray[np.floating], wanted: tuple[int, ...]) -> npt.NDArray[np.float32]:
        if raw.shape != wanted:
            raise FormatError(f"the network answers shape {raw.shape}, but its card says {wanted}: correct the card")
        values = raw.astype(np.float32)
        positions = list(self.card.positions)
        if self.card.output == "softmax":
            values = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(values[:, positions].sum(axis=1) / values.sum(axis=1), dtype=np.float32)
        chosen = values[:, positions]
        if self.card.output == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-np.clip(chosen.max(axis=1), -60, 60))), dtype=np.float32)
        return np.asarray(np.clip(chosen.sum(axis=1), 0, 1), dtype=np.float32)


def respaced(grid: Grid, spacing: Sequence[float] | None) -> Grid:
    """A grid of another spacing over the same extent; the grid itself where nothing changes.

    Examples
    --------
    >>> respaced(Grid((10, 10), np.eye(4)), (2.0, 3.0)).shape
    (5, 4)
    """
    if spacing is None or all(abs(a - b) <= _TOLERANCE * b for a, b in zip(grid.spacing, spacing, strict=True)):
        return grid
    shape = tuple(
        max(1, int(np.ceil(n * s / t - 1e-6))) for n, s, t in zip(grid.shape, grid.spacing, spacing, strict=True)
    )
    affine = grid.affine.copy()
    start = np.zeros(grid.ndim)
    for axis, (old, new) in enumerate(zip(grid.spacing, spacing, strict=True)):
        affine[:3, axis] *= new / old
        # The outer faces of the first voxels stay where they are.
        start[axis] = (new / old - 1) / 2
    affine[:3, 3] = grid.to_world(start)
    return replace(grid, shape=shape, affine=affine)


def windows(shape: Sequence[int], patch: Sequence[int], overlap: float) -> Iterator[tuple[slice, ...]]:
    """Windows of one size that cover an image at least as large, evenly spread.

    Examples
    --------
    >>> [w[0].start for w in windows((10,), (4,), 0.5)]
    [0, 2, 4, 6]
    """
    starts = []
    for size, edge in zip(shape, patch, strict=True):
        step = max(1, round(edge * (1 - overlap)))
        count = int(np.ceil((size - edge) / step)) + 1
        starts.append(sorted({round(k * (size - edge) / max(1, count - 1)) for k in range(count)}))
    for corner in product(*starts):
        yield tuple(slice(a, a + edge) for a, edge in zip(corner, patch, strict=True))


def _weight(patch: Sequence[int]) -> npt.NDArray[np.float32]:
    weight: npt.NDArray[np.float32] = np.ones(tuple(patch), dtype=np.float32)
    for axis, edge in enumerate(patch):
        ramp = 1 - np.abs(np.arange(edge) - (edge - 1) / 2) / ((edge + 1) / 2)
        weight *= ramp.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(len(patch))])
    return weight


def _batches(places: Iterator[tuple[slice, ...]], size: int) -> Iterator[list[tuple[slice, ...]]]:
    held: list[tuple[slice, ...]] = []
    for place in places:
        held.append(place)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


class _Back:
    """Undoes the turn into a network's orientation."""

    def __init__(self, order: tuple[int, ...], flips: tuple[int, ...]) -> None:
        self.order, self.flips = order, flips

    def __call__(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(np.flip(array, self.flips).transpose(np.argsort(self.order)))


def _turned(image: npt.NDArray[np.float32], orientation: str) -> tuple[npt.NDArray[np.float32], _Back]:
    """A canonical (RAS+) image in another orientation, and the way back."""
    if image.ndim == 2:
        orientation = "".join(c for c in orientation if c in "RLAP")
    order = tuple({"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[c] for c in orientation)
    flips = tuple(axis for axis, letter in enumerate(orientation) if letter in "LPI")
    back = _Back(order, flips)
    return np.ascontiguousarray(np.flip(image.transpose(order), flips)), back
