"""What the RW-CP studies share: structures as segmenters see them, their labelled cases, encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import LabelledCase
from anatrust.models.descriptors import LocalDescriptors
from anatrust.studies.segmenters import IMAGE_SETS, HeldOutImage, Strength, held_out, image_set, unet
from anatrust.studies.study import Context

if TYPE_CHECKING:
    from anatrust.models.unet import UNet

__all__ = ["ENCODERS", "NEEDS", "PLAIN", "SCORING", "Unit", "calibration_size", "cases", "units"]

PLAIN = ScoreRecipe("probability")
SCORING = (
    "anatrust.conformal.recipe",
    "anatrust.conformal.scores",
    "anatrust.conformal.lattice",
    "anatrust.conformal.graph",
    "anatrust.conformal.diffusion",
    "anatrust.conformal.kernels",
    "anatrust.conformal.tuning",
    "anatrust.statistics.loss_curves",
    "anatrust.models.unet",
    "anatrust.models.unet_training",
    "anatrust.models.descriptors",
)
"""Modules that decide a score and the choice among scores."""
NEEDS = (
    *SCORING,
    "anatrust.studies.rwcp_cases",
    "anatrust.studies.rwcp_resplits",
    "anatrust.studies.segmenters",
)
"""Modules that decide the numbers of every RW-CP study."""


@dataclass(frozen=True)
class Unit:
    """One structure as one segmenter sees it."""

    image_set: str
    strength: Strength
    label: int

    @property
    def structure(self) -> str:
        """Its name."""
        return IMAGE_SETS[self.image_set].classes[self.label]

    @property
    def key(self) -> str:
        """Short unique name, also of the cell."""
        return f"{self.image_set}/{self.strength}/{self.structure}"

    def files(self, context: Context) -> tuple[str, ...]:
        """All images the unit rests on."""
        return image_set(self.image_set, context.path(), quick=context.quick).paths() if context.data else ("missing",)


def units(context: Context) -> tuple[Unit, ...]:
    """Every structure of both segmenters of both sets; in the quick form one, of the weak cardiac network."""
    if context.quick:
        return (Unit("cardiac", "weak", 1),)
    return tuple(
        Unit(name, strength, label)
        for name, plan in sorted(IMAGE_SETS.items())
        for strength in ("strong", "weak")
        for label in range(1, len(plan.classes))
    )


def calibration_size(patients: int) -> int:
    """Patients of a pool that calibrate in each re-split: three quarters, rounded, of which 50 at most."""
    return min(50, round(patients * 3 / 4))


Encode = Callable[[HeldOutImage], npt.NDArray[Any]]


def _standardised(features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Zero mean and unit deviation a channel: cosines compare nothing else."""
    axes = tuple(range(features.ndim - 1))
    deviation = features.std(axis=axes, dtype=np.float64)
    centred = features - features.mean(axis=axes, dtype=np.float64)
    return np.asarray(centred / np.where(deviation > 0, deviation, 1.0), dtype=np.float32)


def _stage(model: UNet, image: HeldOutImage, level: int) -> npt.NDArray[np.float32]:
    """Features of one encoder stage of the segmenter, every voxel having those of its cell."""
    import torch

    from anatrust.models.unet import normalised

    with torch.no_grad():
        found = model.features(torch.from_numpy(normalised(image.scan.array))[None, None], level)[0]
    values = np.moveaxis(found.numpy(), 0, -1)
    for axis, size in enumerate(image.labels.shape):
        values = np.repeat(values, 2**level, axis=axis).take(range(size), axis=axis)
    return _standardised(values)


def _noise(image: HeldOutImage) -> npt.NDArray[np.float32]:
    """No features at all: whom a voxel is like is drawn at random, the same for every call."""
    rng = np.random.default_rng([7, *image.key.encode()])
    return np.asarray(rng.normal(size=(*image.labels.shape, 16)), dtype=np.float32)


def _descriptors(scale: float) -> LocalDescriptors:
    return LocalDescriptors(window=2 * scale, gradient=scale, scales=(1.5 * scale, 3 * scale, 6 * scale))


ENCODERS: Mapping[str, str] = {
    "descriptors": "local descriptors, 1.5–6 mm",
    "descriptors-fine": "local descriptors, 0.75–3 mm",
    "descriptors-coarse": "local descriptors, 3–12 mm",
    "unet-0": "the segmenter's encoder, full resolution",
    "unet-1": "the segmenter's encoder, half resolution",
    "unet-2": "the segmenter's encoder, quarter resolution",
    "random": "random features (control)",
}
"""Encoders of the feature graph. Pretrained ones (DINO, SigLIP) need weights, which are not at hand."""


def _encoder(name: str, unit: Unit, context: Context) -> Encode:
    if name == "random":
        return _noise
    if name.startswith("unet-"):
        model, level = unet(unit.image_set, unit.strength, context.path(), quick=context.quick), int(name[5:])
        return lambda image: _stage(model, image, level)
    scale = {"descriptors": 1.0, "descriptors-fine": 0.5, "descriptors-coarse": 2.0}[name]
    return lambda image: _standardised(_descriptors(scale).encode(image.scan))


class _Remembered:
    """The features of one image, computed when first asked for."""

    def __init__(self, encode: Encode, image: HeldOutImage) -> None:
        self._encode, self._image = encode, image
        self._features: npt.NDArray[Any] | None = None

    def __call__(self) -> npt.NDArray[Any]:
        if self._features is None:
            self._features = self._encode(self._image)
        return self._features


def cases(unit: Unit, part: str, context: Context, encoder: str | None = None) -> Iterator[LabelledCase]:
    """The images of the tuning patients or the pool, for one structure, those of a patient together.

    Of the heart every second slice with the structure: neighbouring slices are much alike.
    """
    encode = None if encoder is None else _encoder(encoder, unit, context)
    step = 2 if unit.image_set == "cardiac" and not context.quick else 1
    images = held_out(unit.image_set, unit.strength, context.path(), quick=context.quick)
    shown = [i for i in images if i.part == part and (i.labels == unit.label).any()]
    for image in shown[::step]:
        truth = image.labels == unit.label
        features = None if encode is None else _Remembered(encode, image)
        probabilities = image.probabilities[unit.label].astype(np.float64)
        yield LabelledCase(image.patient, probabilities, image.scan.array, truth, image.scan.grid, features)
