"""The tissue that studies look at: organs of real scans, phantoms and random textures, without lesions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import Mask, Scan
from anatrust.studies.phantom import phantom_scan
from anatrust.studies.study import Context
from anatrust.studies.textures import TextureKind, texture_field

__all__ = [
    "SOURCES",
    "TissueSample",
    "amos_slice",
    "ball_at",
    "cardiac_patients",
    "components",
    "hippocampus_patients",
    "phantom_organ",
    "random_places",
    "source_files",
    "texture_disc",
    "volume_organ",
]

Bools = npt.NDArray[np.bool_]

SOURCES = {
    "amos": ("amos_ct/image.nii.gz", "amos_ct/labels.nii.gz"),
    "ct3mm": ("abdomen_ct_mr/ct_abdomen_3mm.nii.gz", "abdomen_ct_mr/ct_abdomen_3mm_labels.nii.gz"),
    "mr": ("abdomen_ct_mr/mr_small.nii.gz", "abdomen_ct_mr/mr_small_labels.nii.gz"),
}
"""Image and labels of the abdominal scans, relative to the folder of real images."""


@dataclass(frozen=True, eq=False)
class TissueSample:
    """A crop of an image, the tissue in it, and whose it is.

    ``image`` is float64, ``domain`` boolean, ``spacing`` in mm (pixels for textures and PNG).
    """

    patient: str
    name: str
    image: npt.NDArray[np.float64]
    domain: Bools
    spacing: tuple[float, ...]

    @property
    def scan(self) -> Scan:
        """The crop as a scan on a grid of its own."""
        return Scan(self.image, self._grid, identifier=self.patient)

    @property
    def organ(self) -> Mask:
        """The tissue as a mask on the same grid."""
        return Mask(self.domain, self._grid, name=self.name)

    @property
    def _grid(self) -> Grid:
        steps = (*self.spacing, *(1.0,) * (3 - len(self.spacing)))
        return Grid(self.image.shape, np.diag([*steps, 1.0]))


def source_files(source: str, context: Context) -> tuple[str, ...]:
    """Files of a source relative to the folder of real images; none for phantoms and textures."""
    if source in SOURCES:
        return SOURCES[source]
    if source == "abdomen":
        return tuple(file for pair in SOURCES.values() for file in pair)
    source = source.removesuffix("-t2")
    if source not in ("hippocampus", "cardiac"):
        return ()
    if context.data is None:
        return (f"{source}_mr/images",)
    patterns = {"hippocampus": ("hippocampus_mr",), "cardiac": ("cardiac_mr/part1", "cardiac_mr/part2")}[source]
    found = [
        str(p.relative_to(context.data))
        for folder in patterns
        for kind in ("images", "labels")
        for p in sorted((context.data / folder / kind).glob("*"))
    ]
    return tuple(found) or (f"{source}_mr/images",)


@cache
def _arrays(image: Path, labels: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[float, ...]]:
    scan = read_scan(image)
    return scan.array, read_mask(labels, reference=scan.grid).array, scan.grid.spacing


def _crop(
    patient: str, name: str, image: npt.NDArray[Any], domain: Bools, spacing: tuple[float, ...], erode: int
) -> TissueSample:
    # Outside the array there is no tissue, so an organ cut by the border loses its rim there too.
    inside = ndimage.binary_erosion(domain, iterations=erode) if erode else domain
    found = ndimage.find_objects(inside.astype(np.int8))
    if not found:
        raise InputError(f"nothing is left of {name} after eroding it by {erode} voxels")
    box = found[0]
    return TissueSample(patient, name, image[box].astype(np.float64), np.ascontiguousarray(inside[box]), spacing)


def amos_slice(context: Context, label: int, name: str, *, erode: int = 2, rank: int = 0) -> TissueSample:
    """The axial slice of the AMOS scan that shows most of an organ, its rim of ``erode`` pixels removed.

    ``rank`` counts on to the slices that show less of it, three slices (15 mm) from each other.
    """
    image, labels, spacing = _arrays(*(context.path(f) for f in SOURCES["amos"]))
    organ = labels == label
    areas = organ.sum(axis=(0, 1))
    for _ in range(rank):
        k = int(areas.argmax())
        areas[max(0, k - 2) : k + 3] = 0
    k = int(areas.argmax())
    if areas[k] == 0:
        raise InputError(f"the AMOS scan has fewer than {rank + 1} slices of {name} that lie 15 mm apart")
    return _crop("amos", name, image[:, :, k], organ[:, :, k], spacing[:2], erode)


def volume_organ(context: Context, source: str, label: int, name: str, *, erode: int = 1) -> TissueSample:
    """An organ of the 3 mm CT (``ct3mm``) or the abdominal MR (``mr``) in three dimensions."""
    image, labels, spacing = _arrays(*(context.path(f) for f in SOURCES[source]))
    return _crop(source, name, image, labels == label, spacing, erode)


def hippocampus_patients(context: Context, *, limit: int | None = None) -> Iterator[TissueSample]:
    """Hippocampus and the brain up to 3 mm around it, one scan a patient, in file order."""
    files = sorted(context.path("hippocampus_mr", "images").glob("*.nii.gz"))
    for path in files[:limit]:
        image, labels, spacing = _arrays(path, context.path("hippocampus_mr", "labels", path.name))
        near = ndimage.binary_dilation(labels > 0, iterations=3)
        yield _crop(path.name.removesuffix(".nii.gz"), "hippocampus", image, near, spacing, 0)


def cardiac_patients(context: Context, *, limit: int | None = None) -> Iterator[tuple[str, list[TissueSample]]]:
    """Left ventricles of the cine MR, patient by patient: every slice of at least 800 pixels.

    Slices of one patient are not exchangeable, hence the grouping.
    """
    groups: dict[str, list[Path]] = {}
    for part in ("part1", "part2"):
        for path in sorted(context.path("cardiac_mr", part, "images").glob("*.png")):
            groups.setdefault(path.name.split("-IM-")[0], []).append(path)
    for patient in sorted(groups)[:limit]:
        samples = []
        for path in groups[patient]:
            image, labels, spacing = _arrays(path, path.parent.parent / "labels" / path.name)
            if np.count_nonzero(labels) >= 800:
                samples.append(_crop(patient, "left ventricle", image, labels > 0, spacing, 1))
        yield patient, samples


@lru_cache(maxsize=256)
def phantom_organ(seed: int, organ: str, *, erode: int = 1, quick: bool = True) -> TissueSample:
    """An organ of a lesion-free phantom."""
    phantom = phantom_scan(seed, lesions=0, quick=quick)
    return _crop(
        f"phantom-{seed}",
        organ,
        phantom.scan.array,
        phantom.anatomy.mask(organ).array,
        phantom.scan.grid.spacing,
        erode,
    )


def texture_disc(
    rng: np.random.Generator, kind: TextureKind, length: float, *, radius: int = 60, ndim: int = 2
) -> TissueSample:
    """A disc (ball) of a stationary texture: tissue in which nothing differs from anything."""
    shape = (2 * radius + 1,) * ndim
    image = texture_field(shape, length, rng, kind=kind)
    return TissueSample(
        "texture",
        f"{kind} {length:g}",
        image,
        ball_at(shape, (radius,) * ndim, 2 * radius, (1.0,) * ndim),
        (1.0,) * ndim,
    )


def ball_at(shape: tuple[int, ...], centre: tuple[int, ...], diameter: float, spacing: tuple[float, ...]) -> Bools:
    """All voxels within half a diameter (mm) of a voxel."""
    axes = [((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)]
    squares = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(sum(squares) <= (diameter / 2) ** 2 * (1 + 1e-9), dtype=bool)


def random_places(sample: TissueSample, diameter: float, n: int, rng: np.random.Generator) -> list[Bools]:
    """Balls (discs) at uniformly random admissible places; empty where none fits.

    Admissible is every place at which the whole ball lies in the tissue, which is also what
    the placement null enumerates.
    """
    depth = ndimage.distance_transform_edt(np.pad(sample.domain, 1), sampling=sample.spacing)
    depth = depth[(slice(1, -1),) * sample.domain.ndim]
    # The nearest voxel outside must lie beyond the ball's last one.
    centres = np.argwhere(depth**2 > (diameter / 2) ** 2 * (1 + 1e-9))
    if len(centres) == 0:
        return []
    picks = centres[rng.integers(len(centres), size=n)]
    return [ball_at(sample.domain.shape, tuple(int(v) for v in centre), diameter, sample.spacing) for centre in picks]


def components(mask: Bools) -> list[Bools]:
    """Connected components (8 or 26 neighbours) as separate masks, in array order."""
    labels, n = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    return [labels == k for k in range(1, n + 1)]
