"""The label maps the organ model learns from: phantom trunks, one human and three model-made maps of patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.organs import normal_name, with_names
from anatrust.anatomy.plausibility import structure_of
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.read import read_mask, read_scan
from anatrust.image.resample import resample_labels, resample_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.organ_unet import ORGAN_CLASSES
from anatrust.models.organ_unet_synthesis import AnatomyCase, fine_tissues
from anatrust.studies.phantom_anatomy import Painter, draw_abdomen, warp_fields
from anatrust.studies.textures import texture_field

__all__ = ["PATIENTS", "class_of", "patient_case", "patient_files", "phantom_case", "read_patient"]

PATIENTS: dict[str, tuple[str, str, str, str]] = {
    "amos": ("amos_ct/image.nii.gz", "amos_ct/labels.nii.gz", "amos", "CT"),
    "ct3mm": (
        "abdomen_ct_mr/ct_abdomen_3mm.nii.gz",
        "abdomen_ct_mr/ct_abdomen_3mm_labels.nii.gz",
        "totalsegmentator_ct",
        "CT",
    ),
    "mr": ("abdomen_ct_mr/mr_small.nii.gz", "abdomen_ct_mr/mr_small_labels.nii.gz", "totalsegmentator_mr", "MR"),
    "dicom": (
        "abdomen_ct_mr/ct_dicom_series",
        "abdomen_ct_mr/ct_dicom_series_labels.nii.gz",
        "totalsegmentator_ct",
        "CT",
    ),
}
"""Image, labels, label table and modality of the four patients; ``ct_small`` shows the patient of ``ct3mm`` again."""

_STEP = 3.0
# Structures that a table does not have although the body shows them.
_UNKNOWN = {"amos": ("lungs", "spine")}


def class_of(name: str) -> int:
    """The class of a structure's name; 0 for what the organ model does not know.

    >>> [ORGAN_CLASSES[class_of(n)] for n in ("kidney_left", "vertebrae_L3", "lung_right", "colon")]
    ['kidneys', 'spine', 'lungs', 'background']
    """
    known = structure_of(name) or name
    words = normal_name(known).split()
    for number, organ in enumerate(ORGAN_CLASSES):
        if normal_name(organ) == " ".join(w for w in words if w not in ("left", "right")):
            return number
    if known.startswith("vertebra"):
        return ORGAN_CLASSES.index("spine")
    if known.startswith("lung"):
        return ORGAN_CLASSES.index("lungs")
    return ORGAN_CLASSES.index("bladder") if "bladder" in words and "urinary" in words else 0


def patient_files(name: str) -> tuple[str, str]:
    """Image and labels of a patient, relative to the folder of real images."""
    return PATIENTS[name][0], PATIENTS[name][1]


def read_patient(name: str, folder: Path) -> tuple[Scan, LabelMap]:
    """Scan and named labels of a patient, as stored."""
    image, labels, table, modality = PATIENTS[name]
    scan = read_scan(folder / image, modality=modality)
    return scan, with_names(read_mask(folder / labels, reference=scan.grid), table)


@lru_cache(maxsize=4)
def patient_case(name: str, folder: Path) -> AnatomyCase:
    """A patient at 3 mm, upright. Where liver and spleen show that the header is mirrored, the array is turned."""
    scan, labels = read_patient(name, folder)
    straight, grid = canonical(labels.array, labels.grid)
    picture, _ = canonical(scan.array, scan.grid)
    shape = tuple(max(1, round(n * s / _STEP)) for n, s in zip(grid.shape, grid.spacing, strict=True))
    target = Grid(shape, _rescaled(grid, shape))
    labels = resample_labels(LabelMap(straight, grid, labels.names), target)
    scan = resample_scan(Scan(picture.astype(np.float32), grid), target)
    array, image = labels.array, scan.array.astype(np.float32)
    numbers = {structure_of(name): number for number, name in labels.names.items()}
    liver, spleen = (float(np.argwhere(array == numbers[organ])[:, 0].mean()) for organ in ("liver", "spleen"))
    if liver < spleen:
        array, image = array[::-1], image[::-1]
    unknown = tuple(ORGAN_CLASSES.index(organ) for organ in _UNKNOWN.get(name, ()))
    return _case(name, image, array, labels.names, (_STEP,) * 3, unknown)


def _rescaled(grid: Grid, shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """Affine of another number of voxels over the same box."""
    factor = np.array(grid.shape) / np.array(shape)
    change = np.diag([*factor, 1.0])
    change[:3, 3] = (factor - 1) / 2
    return np.asarray(grid.affine @ change)


@lru_cache(maxsize=16)
def phantom_case(seed: int) -> AnatomyCase:
    """A phantom trunk from the pelvis to the lungs, 128×100×112 voxels of 3 mm."""
    shape, step = (128, 100, 112), 3.0
    streams = [np.random.default_rng([seed, k, 77]) for k in range(4)]
    axes = [((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n in shape]
    axes[2] = axes[2] - np.float32(30)
    places = np.meshgrid(*axes, indexing="ij")
    bends = warp_fields(shape, (5, 5, 5), 7.0, streams[0])
    x, y, z = (p + b for p, b in zip(places, bends, strict=True))
    texture = texture_field(shape, 7.0, streams[1], kind="exponential", spacing=(step,) * 3).astype(np.float32)
    painter = Painter((x, y, z), step=step, texture=texture)
    draw_abdomen(painter, streams[2])
    labels, names = painter.labels.astype(np.uint16), dict(painter.names)
    _lungs_and_bladder(painter, labels, names, streams[3])
    return _case(f"phantom-{seed}", painter.image, labels, names, (step,) * 3, ())


def _lungs_and_bladder(
    painter: Painter, labels: npt.NDArray[np.uint16], names: dict[int, str], rng: np.random.Generator
) -> None:
    """What the phantom abdomen lacks: lungs on the diaphragm, and a bladder."""
    x, y, z = painter.coordinates
    bony = np.isin(labels, [n for n, name in names.items() if not name.startswith(("rib", "autochthon"))])
    for side, number in ((1, 300), (-1, 301)):
        centre, radii = rng.normal((side * 78, -8, 125), 5), np.array([62, 88, 105]) * np.exp(rng.normal(0, 0.08, 3))
        q = [(v - c) / r for v, c, r in zip((x, y, z), centre, radii, strict=True)]
        inside = (sum(v**2 for v in q) < 1) & ~bony & (painter.image > -300) & (painter.image < 200)
        labels[inside] = number
        painter.image[inside] = -820 + 40 * painter.texture[inside]
        names[number] = "lung_right" if side > 0 else "lung_left"
    centre, radii = rng.normal((0, 12, -165), 6), np.array([36, 32, 28]) * np.exp(rng.normal(0, 0.25, 3))
    q = [(v - c) / r for v, c, r in zip((x, y, z), centre, radii, strict=True)]
    inside = sum(v**2 for v in q) < 1
    labels[inside], names[302] = 302, "urinary_bladder"
    painter.image[inside] = 8 + 3 * painter.texture[inside]


def _case(
    name: str,
    image: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    names: Mapping[int, str],
    spacing: tuple[float, float, float],
    unknown: tuple[int, ...],
) -> AnatomyCase:
    present = [int(v) for v in np.unique(labels)]
    table = np.zeros(max(present) + 1, dtype=np.uint8)
    for number in present:
        if number:
            table[number] = class_of(names.get(number, ""))
    tissues, parents = fine_tissues(image, labels)
    return AnatomyCase(
        name, np.ascontiguousarray(image), np.ascontiguousarray(table[labels]), tissues, parents, spacing, unknown
    )
