"""The embedded organ model: where the main organs of the trunk lie, on CT and MR alike (extra ``deep``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, bounding_box, crop_grid
from anatrust.image.resample import resample_probabilities, resample_scan
from anatrust.image.volumes import LabelMap, Modality, ProbabilityMap, Scan
from anatrust.models.organ_unet_sharpen import sharpened, without_air
from anatrust.models.organ_unet_synthesis import even_intensities

if TYPE_CHECKING:
    from anatrust.models.unet import UNet

__all__ = [
    "ORGAN_CLASSES",
    "OrganCard",
    "OrganModel",
    "OrganSight",
    "embedded_organ_model",
    "label_organs",
    "middle_of",
    "on_sides",
    "organ_card",
]

Floats = npt.NDArray[np.float32]

ORGAN_CLASSES = (
    "background",
    "liver",
    "spleen",
    "kidneys",
    "pancreas",
    "stomach",
    "bladder",
    "lungs",
    "aorta",
    "spine",
)
"""The classes, in the order of the network's channels."""

_SPACING = 10.0
_SMALLEST = 3  # voxels of 10 mm along each axis: thinner scans show no organ
_SPECK = 0.2
_SOLID = ("liver", "spleen", "kidneys", "pancreas", "bladder", "aorta", "spine")
# Size of the body and voxels it is moved by (against the grid of the network's pooling), view by view; every
# other view is as large as life.
_VIEWS = ((1.0, 0), (0.87, 0), (1.0, 3), (1.15, 0))
_FOLDER = "organ_unet_weights"


@dataclass(frozen=True)
class OrganCard:
    """What is known of the embedded weights.

    Parameters
    ----------
    dice
        Mean Dice by organ over patients unseen in training: of two networks made like these weights from
        fewer patients, each on those it was not shown.
    patients
        The same patient by patient.
    offered
        Organs offered as anchors: those of a mean Dice of at least 0.7.
    facts
        Data, licence, limits, recipe: sentences for people.
    """

    dice: Mapping[str, float]
    patients: Mapping[str, Mapping[str, float]]
    offered: tuple[str, ...]
    facts: Mapping[str, str]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> OrganCard:
        """A card from its JSON values."""
        return cls(dict(plain["dice"]), dict(plain["patients"]), tuple(plain["offered"]), dict(plain["facts"]))


@lru_cache(maxsize=1)
def organ_card() -> OrganCard:
    """The card of the weights in the package; needs no torch.

    Examples
    --------
    >>> set(organ_card().offered) <= set(ORGAN_CLASSES)
    True
    """
    text = files("anatrust.models").joinpath(_FOLDER, "card.json").read_text(encoding="utf-8")
    return OrganCard.from_json(json.loads(text))


class OrganModel:
    """A U-Net over the trunk at 10 mm, trained on made-up images of real and phantom anatomy (SynthSeg).

    Parameters
    ----------
    network
        A 3-D network whose classes are :data:`ORGAN_CLASSES`.
    device
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    FormatError
        If the network has other classes.

    References
    ----------
    Billot et al., SynthSeg: segmentation of brain MRI scans of any contrast and resolution without
    retraining, Medical Image Analysis 2023.
    """

    def __init__(self, network: UNet, *, device: str = "cpu") -> None:
        if network.config.classes != ORGAN_CLASSES or network.config.ndim != 3:
            raise FormatError(f"the organ model has the classes {', '.join(network.config.classes)}: train it again")
        self.network = network.to(device).eval()
        self.device = device
        digest = hashlib.sha256()
        for key, value in sorted(network.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        self.digest = digest.hexdigest()

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> OrganModel:
        """The model that :func:`~anatrust.models.organ_unet_training.train_organ_unet` saved in a folder."""
        from anatrust.models.unet import UNet

        return cls(UNet.load(folder), device=device)

    def look(self, scan: Scan) -> OrganSight:
        """What the network says of the scan, shown a little larger, smaller and displaced.

        Headers lie about left and right, and the network knows on which side a liver lies: it also
        sees the mirror image, and where it recognises more organ in that the scan is taken for
        mirrored (right in 26 of 28 slabs of 40 to 120 mm of the patients it learnt from).

        Where an organ ends the scan's own grey values decide (:func:`sharpened`), on voxels of 5 mm; in a
        CT no solid organ lies where there is air. Memory is that of this grid: some 100 MB for a whole trunk.

        Raises
        ------
        InputError
            If the scan is no volume, has no spacing in mm, or is thinner than 30 mm.
        """
        if scan.grid.ndim != 3 or not scan.grid.spacing_known:
            raise InputError("the organ model only reads volumes with a spacing in mm: give one, or an anatomy")
        coarse = _coarse(scan, _SPACING)
        if min(coarse.grid.shape) < _SMALLEST:
            raise InputError(f"the scan is thinner than {_SMALLEST * _SPACING:g} mm: no organ can be found in it")
        image = even_intensities(coarse.array)
        straight, turned = self._seen(image), self._seen(image[::-1])[:, :, ::-1]
        mirrored = _recognised(turned) > _recognised(straight)
        found = turned if mirrored else straight
        halves = found[::2].mean(axis=0).argmax(axis=0), found[1::2].mean(axis=0).argmax(axis=0)
        rough = ProbabilityMap(np.ascontiguousarray(np.clip(found.mean(axis=0), 0, 1)), coarse.grid, ORGAN_CLASSES)
        return OrganSight(_redrawn(rough, _coarse(scan, _SPACING / 2), scan.modality), _agreement(*halves), mirrored)

    def _seen(self, image: Floats) -> Floats:
        """Shares of the classes ``(views, classes, *shape)``."""
        import torch

        found = []
        with torch.no_grad():
            for factor, shift in _VIEWS:
                shown = np.pad(
                    _resized(image, [max(2, round(factor * n)) for n in image.shape]), [(shift, 0)] * 3, "edge"
                )
                logits = self.network(torch.from_numpy(np.ascontiguousarray(shown))[None, None].to(self.device))
                shares = logits.float().softmax(1)[0, :, shift:, shift:, shift:].cpu().numpy()
                found.append(np.stack([_resized(share, image.shape) for share in shares]))
        return np.stack(found)

    def organs(self, scan: Scan) -> LabelMap:
        """Every class where it is the most probable one, on the scan's grid; kidneys as one, specks dropped.

        Guarantee
        ---------
        None. `organ_card` says what Dice was measured on which patients.
        """
        return label_organs(self.look(scan).shares, scan.grid)


@dataclass(frozen=True, eq=False)
class OrganSight:
    """What the organ model sees in a scan.

    Parameters
    ----------
    shares
        Shares of the classes on a canonical grid of 5 mm: the mean over views, redrawn by the scan's grey values.
    agreement
        For each class the Dice between two halves of the views; 0 where neither has it.
    mirrored
        Whether the model recognised more in the mirrored scan: the header's left is the patient's right.
    """

    shares: ProbabilityMap
    agreement: Mapping[str, float]
    mirrored: bool


def _resized(array: Floats, shape: Sequence[int]) -> Floats:
    from scipy import ndimage

    if array.shape == tuple(shape):
        return array
    factors = [n / m for n, m in zip(shape, array.shape, strict=True)]
    return np.asarray(ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True), dtype=np.float32)


def _recognised(views: Floats) -> float:
    """Share of the image that is organ, the mean over views."""
    return 1 - float(views[:, 0].mean())


def _agreement(first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> dict[str, float]:
    found = {}
    for number, name in enumerate(ORGAN_CLASSES[1:], start=1):
        a, b = first == number, second == number
        total = int(a.sum() + b.sum())
        found[name] = 2 * int((a & b).sum()) / total if total else 0.0
    return found


def label_organs(shares: ProbabilityMap, grid: Grid, wanted: Sequence[str] | None = None) -> LabelMap:
    """The most probable class of every voxel of a finer grid; one class at a time is brought there.

    Pieces smaller than a fifth of an organ's largest are dropped. Where only some organs are
    ``wanted`` nothing else is labelled, and only the boxes they lie in are looked at.
    """
    winner = shares.array.argmax(axis=0)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    clean = [
        np.where(_specks(winner == number), 0, share).astype(np.float32) if number else share
        for number, share in enumerate(shares.array)
    ]
    places: dict[int, Region | None] = {0: Region.whole(grid.shape)}
    if wanted is not None:
        numbers = [shares.classes.index(name) for name in wanted]
        places = {number: _place_of(winner == number, shares.grid, grid) for number in numbers}
    for wanted_number, place in places.items():
        if place is None:
            continue
        crop = crop_grid(grid, place)
        best = np.zeros(crop.shape, dtype=np.float32)
        found = np.zeros(crop.shape, dtype=np.uint8)
        for number, share in enumerate(clean):
            # Outside the coarse grid there is nothing, so background wins there by being first.
            fine = resample_probabilities(ProbabilityMap(share[None], shares.grid, ("share",)), crop).array[0]
            wins = fine > best
            best[wins] = fine[wins]
            found[wins] = number
        mine = found == wanted_number if wanted_number else found > 0
        labels[place.slices][mine] = found[mine]
    return LabelMap(labels, grid, dict(enumerate(shares.classes[1:], start=1)))


def _place_of(mask: npt.NDArray[np.bool_], coarse: Grid, fine: Grid) -> Region | None:
    """Where in the fine grid a coarse voxel of the mask may be felt; None where the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    corners = np.array(np.meshgrid(*[(edge.start - 1, edge.stop) for edge in box])).reshape(len(box), -1).T
    index = fine.to_index(coarse.to_world(corners))
    low = np.clip(np.floor(index.min(axis=0)), 0, np.array(fine.shape) - 1).astype(int)
    high = np.clip(np.ceil(index.max(axis=0)) + 1, low + 1, fine.shape).astype(int)
    return Region(tuple(low.tolist()), tuple(high.tolist()))


def _specks(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Components much smaller than the largest."""
    from scipy import ndimage

    numbered, count = ndimage.label(mask)
    if count < 2:
        return np.zeros_like(mask)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    small = sizes < _SPECK * sizes.max()
    small[0] = False
    return np.asarray(small[numbered])


def _redrawn(rough: ProbabilityMap, scan: Scan, modality: Modality) -> ProbabilityMap:
    """The network's shares on the grid of a finer scan, with its grey values taken into account."""
    shares = resample_probabilities(rough, scan.grid).array.astype(np.float32)
    shares[0] += np.maximum(0, 1 - shares.sum(axis=0))
    shares /= shares.sum(axis=0)
    if modality == "CT":
        shares = without_air(shares, scan.array, [ORGAN_CLASSES.index(organ) for organ in _SOLID])
    return ProbabilityMap(np.clip(sharpened(shares, scan.array), 0, 1), scan.grid, ORGAN_CLASSES)


def _coarse(scan: Scan, spacing: float) -> Scan:
    """The scan in canonical order on a grid of so many mm, smoothed first where voxels are much finer."""
    from scipy import ndimage

    array, grid = _thinned(*canonical(scan.array, scan.grid), spacing)
    # Half the new voxel, as a camera's pixel would average; nothing where voxels are as coarse already.
    blur = [max(0.0, 0.35 * (spacing / step - 1)) for step in grid.spacing]
    smooth = ndimage.gaussian_filter(array.astype(np.float32), blur, mode="nearest", truncate=3)
    shape = tuple(max(1, round(n * s / spacing)) for n, s in zip(grid.shape, grid.spacing, strict=True))
    factor = np.array(grid.shape) / np.array(shape)
    change = np.diag([*factor, 1.0])
    change[:3, 3] = (factor - 1) / 2
    target = Grid(shape, grid.affine @ change)
    return resample_scan(Scan(smooth, grid), target)


def _thinned(array: npt.NDArray[np.generic], grid: Grid, spacing: float) -> tuple[npt.NDArray[np.generic], Grid]:
    """Means of blocks of up to a quarter of the new voxel: smoothing fine voxels one by one takes seconds."""
    sizes = tuple(max(1, min(n, int(spacing / 4 / step))) for n, step in zip(grid.shape, grid.spacing, strict=True))
    if max(sizes) == 1:
        return array, grid
    whole = tuple(n // size for n, size in zip(grid.shape, sizes, strict=True))
    blocks = array[tuple(slice(0, n * size) for n, size in zip(whole, sizes, strict=True))]
    blocks = blocks.reshape([v for n, size in zip(whole, sizes, strict=True) for v in (n, size)])
    change = np.diag([*(float(size) for size in sizes), 1.0])
    change[:3, 3] = (np.array(sizes) - 1) / 2
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32), Grid(whole, grid.affine @ change)


@lru_cache(maxsize=2)
def embedded_organ_model(device: str = "cpu") -> OrganModel:
    """The model whose weights are in the package.

    Raises
    ------
    FormatError
        If the files are damaged.
    """
    folder = files("anatrust.models").joinpath(_FOLDER)
    return OrganModel.load(Path(str(folder)), device=device)


def on_sides(mask: npt.NDArray[np.bool_], grid: Grid, middle: float) -> tuple[npt.NDArray[np.bool_], ...]:
    """The parts of a mask to the left and to the right of a sagittal plane, ``middle`` mm in world x."""
    straight, upright = canonical(mask, grid)
    index = np.argwhere(straight)
    right = np.zeros_like(straight)
    if len(index):
        beyond = upright.to_world(index)[:, 0] > middle
        right[tuple(index[beyond].T)] = True
    return restore(straight & ~right, grid), restore(right, grid)


def middle_of(labels: LabelMap, scan: Scan) -> float:
    """World x of the middle of the body: that of the spine, else of everything found, else of the frame."""
    numbers: Sequence[int] = [ORGAN_CLASSES.index("spine"), ORGAN_CLASSES.index("aorta")]
    for number in numbers:
        index = np.argwhere(labels.array == number)
        if len(index) >= 20:
            return float(labels.grid.to_world(np.median(index, axis=0))[0])
    return float(scan.grid.to_world((np.array(scan.grid.shape) - 1) / 2)[0])
