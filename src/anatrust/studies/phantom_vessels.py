"""Where the vessels of a phantom's liver are, and the same liver without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.studies.phantom import phantom_scan
from anatrust.studies.phantom_anatomy import Painter, draw_abdomen, warp_fields
from anatrust.studies.textures import texture_field
from anatrust.studies.tissues import TissueSample, phantom_organ

__all__ = ["bare_liver", "is_vessel", "vessel_excess", "vessels_of"]

Floats = npt.NDArray[np.float32]

# Half of what the faintest vessels are brighter than the liver around them (HU).
_VISIBLE = 14.0
# A candidate is a vessel if at least a quarter of it is.
_SHARE = 0.25


@dataclass
class _TwoPictures(Painter):
    """Paints every solid twice; vessels, which are no solids, enter the first picture only."""

    bare: Floats = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bare = self.image.copy()

    def paint(self, *solid: Any, **look: Any) -> None:
        whole, self.image = self.image, self.bare
        super().paint(*solid, **look)
        self.image = whole
        super().paint(*solid, **look)


@lru_cache(maxsize=64)
def vessel_excess(seed: int, *, quick: bool = True) -> Floats:
    """By how many HU vessels make each voxel of a phantom brighter; noise and roundings left aside.

    The phantom is drawn again from its seed, with and without them.
    """
    grid = phantom_scan(seed, lesions=0, quick=quick).scan.grid
    shape, spacing = grid.shape, grid.spacing
    streams = [np.random.default_rng([seed, k]) for k in range(3)]
    axes = [((np.arange(n) - (n - 1) / 2) * s).astype(np.float32) for n, s in zip(shape, spacing, strict=True)]
    bends = warp_fields(shape, (6, 6, 4), 4.0, streams[0])
    x, y, z = (p + b for p, b in zip(np.meshgrid(*axes, indexing="ij"), bends, strict=True))
    texture = texture_field(shape, 7.0, streams[1], kind="exponential", spacing=spacing).astype(np.float32)
    painter = _TwoPictures((x, y, z), step=float(np.mean(spacing)), texture=texture)
    draw_abdomen(painter, streams[2])
    blur = [1.2 / s for s in spacing[:2]] + [0.0]
    return np.asarray(ndimage.gaussian_filter(painter.image - painter.bare, blur, mode="nearest"), dtype=np.float32)


def _box(seed: int, quick: bool, shape: Sequence[int]) -> tuple[slice, ...]:
    """Where the liver of `phantom_organ` lies in its phantom."""
    liver = phantom_scan(seed, lesions=0, quick=quick).anatomy.mask("liver").array
    box = ndimage.find_objects(ndimage.binary_erosion(liver).astype(np.int8))[0]
    assert tuple(edge.stop - edge.start for edge in box) == tuple(shape)
    return tuple(box)


def vessels_of(seed: int, *, quick: bool = True) -> npt.NDArray[np.bool_]:
    """The vessels in the liver of `phantom_organ`: voxels that they make at least 14 HU brighter."""
    sample = phantom_organ(seed, "liver", quick=quick)
    excess = vessel_excess(seed, quick=quick)[_box(seed, quick, sample.domain.shape)]
    return np.asarray((excess >= _VISIBLE) & sample.domain)


def bare_liver(seed: int, *, quick: bool = True) -> TissueSample:
    """The liver of `phantom_organ` without vessels: texture and noise alone."""
    sample = phantom_organ(seed, "liver", quick=quick)
    excess = vessel_excess(seed, quick=quick)[_box(seed, quick, sample.domain.shape)]
    return replace(sample, name="liver without vessels", image=sample.image - excess)


def is_vessel(candidate: npt.NDArray[np.bool_], vessels: npt.NDArray[np.bool_]) -> bool:
    """Whether vessels make up at least a quarter of a candidate: then it does differ from the liver around it."""
    return bool(vessels[candidate].mean() >= _SHARE)
