"""Segmenters of the R²Seg studies that propose too much: trained on lesions planted in other patients."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.region import Region
from anatrust.image.volumes import Mask
from anatrust.models.pixel_classifier import PixelCase, PixelRecipe, train_pixel_classifier
from anatrust.models.protocols import Segmenter
from anatrust.models.segmenters.blob import BlobSegmenter
from anatrust.models.segmenters.pixel_classifier import PixelTarget
from anatrust.studies import provenance
from anatrust.studies.r2seg_cases import WORLDS, cases, further_teachers
from anatrust.studies.study import Context

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.unet import UNet

__all__ = ["SEGMENTERS", "segmenter", "teaching_arrays", "trained_unet"]

SEGMENTERS = ("pixels", "pixels, several scales", "unet", "threshold")
_CACHE = Path("build/studies/r2seg")
_CODE = (
    "anatrust.models.unet",
    "anatrust.models.unet_training",
    "anatrust.studies.r2seg_cases",
    "anatrust.studies.phantom",
)


@lru_cache(maxsize=8)
def segmenter(name: str, world: str, context: Context) -> Segmenter:
    """A segmenter for a population; trained when first asked for, on the patients that teach alone.

    ``pixels`` sees as many voxels of lesions as of the rest, ``pixels, several scales`` learns from 144
    further phantoms with the features and leaves of today's defaults;
    ``unet`` trains for a few minutes, and ``threshold`` needs no training: all of them
    draw something in nearly everybody.
    """
    if name == "threshold":
        return BlobSegmenter(contrast=2.0, smoothings=(3.0,))
    if name.startswith("pixels"):
        # The second was chosen on 280 phantoms that are in no study: specks of noise that the other's pure leaves are
        # sure of had hidden lesions of 10 to 16 mm, and bright lesions, of which it had been shown seven, were lost.
        before = PixelRecipe(target=2000, leaves=15, rate=0.1, least=20, shrinkage=0.0, share=1.0, features="local")
        recipe, more = {
            "pixels": (replace(before, other=2000, trees=60), 0),
            "pixels, several scales": (PixelRecipe(other=12_000), 144),
        }[name]
        shown = chain.from_iterable(cases(world, "teach", context))
        further = further_teachers(world, more, context) if more else ()
        taught = (
            PixelCase(c.scan, Mask(c.target, c.scan.grid), c.anatomy.mask(WORLDS[world].organ))
            for c in chain(shown, further)
        )
        return PixelTarget(train_pixel_classifier(taught, recipe))
    from anatrust.models.segmenters.unet import UNetTarget

    return UNetTarget(trained_unet(world, context))


def teaching_arrays(
    world: str, context: Context, *, margin: int = 4
) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Images, lesions and organs of the patients that teach, cropped to the organ and a margin."""
    images, lesions, organs = [], [], []
    for patient in cases(world, "teach", context):
        for case in patient:
            organ = case.anatomy.mask(WORLDS[world].organ).array
            box = ndimage.find_objects(organ.astype(np.uint8))[0]
            low = [max(0, s.start - margin) for s in box]
            high = [min(n, s.stop + margin) for s, n in zip(box, organ.shape, strict=True)]
            window = Region(tuple(low), tuple(high)).slices
            images.append(case.scan.array[window].astype(np.float32))
            lesions.append(case.target[window].astype(np.uint8))
            organs.append(organ[window].astype(np.uint8))
    return images, lesions, organs


@lru_cache(maxsize=4)
def trained_unet(world: str, context: Context) -> UNet:
    """The small U-Net for a population, kept under ``build/studies/r2seg``."""
    from anatrust.models.unet import UNet, UNetConfig
    from anatrust.models.unet_training import TrainingRecipe, train_unet

    images, lesions, _ = teaching_arrays(world, context)
    ndim = images[0].ndim
    recipe = TrainingRecipe(
        steps=12 if context.quick else 240, batch=2, crop=24 if ndim == 3 else 48, seed=context.seed
    )
    name = {"world": world, "recipe": str(recipe), "seed": context.seed, "quick": context.quick}
    folder = _CACHE / f"unet-{provenance.fingerprint({**name, 'source': provenance.source_hash(_CODE)})}"
    if not (folder / "config.json").is_file():
        config = UNetConfig(ndim, ("background", "lesion"), (8, 16, 32))
        train_unet(images, lesions, config, recipe).save(folder)
    return UNet.load(folder)
