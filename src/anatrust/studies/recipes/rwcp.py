"""The data sets of RW-CP (arXiv 2601.18997): CAMUS, ACDC and the pancreas of the Medical Segmentation Decathlon.

A recipe reads a data set's own folder layout into rows, splits its patients, and writes cohort tables. Train your
segmenter on the first, add its ``probabilities`` to the others as a column, fit on one and verify on the other::

    rows = split_rows(read_recipe("acdc", "ACDC/database"), seed=0)
    write_cohort(rows, "train.csv", parts=["training"])
    write_cohort(rows, "fit.csv", parts=["tuning", "calibration"])    # anatrust fit divides these itself
    write_cohort(rows, "verify.csv", parts=["test"])
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anatrust.errors import InputError
from anatrust.image.atomic import replacing

__all__ = ["RECIPES", "Recipe", "RecipeRow", "read_recipe", "split_rows", "write_cohort"]


@dataclass(frozen=True)
class RecipeRow:
    """One image with its truth.

    ``group`` is what the data set says of the patient (image quality, pathology), ``part`` is empty before
    :func:`split_rows`.
    """

    identifier: str
    patient: str
    image: Path
    truth: Path
    group: str = ""
    part: str = ""


@dataclass(frozen=True)
class Recipe:
    """What is known of a data set.

    Parameters
    ----------
    name, title, source
        Short name, full name, where to ask for it.
    classes
        Label number → structure.
    rows
        From the folder to its rows.
    published
        What the paper states for it, in words: its tables could not be obtained.
    """

    name: str
    title: str
    source: str
    classes: Mapping[int, str]
    rows: Callable[[Path], Iterator[RecipeRow]]
    published: str = "coverage of at least 0.9 at α = 0.1; 'up to 35.4 %' better, which metric and data set unknown"


def _settings(file: Path) -> dict[str, str]:
    """``Name: value`` lines of an Info.cfg."""
    if not file.is_file():
        raise InputError(f"{file} is missing: unpack the data set as it was delivered")
    pairs = (line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _pair(image: Path, truth: Path) -> tuple[Path, Path]:
    missing = next((f for f in (image, truth) if not f.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing} is missing: unpack the data set as it was delivered")
    return image, truth


def _camus(folder: Path) -> Iterator[RecipeRow]:
    """``database_nifti/patient0001/patient0001_2CH_ED.nii.gz`` and ``…_gt.nii.gz``, two views, two phases."""
    for patient in sorted((folder / "database_nifti").glob("patient*")):
        for view in ("2CH", "4CH"):
            quality = _settings(patient / f"Info_{view}.cfg").get("ImageQuality", "")
            for phase in ("ED", "ES"):
                stem = f"{patient.name}_{view}_{phase}"
                files = _pair(patient / f"{stem}.nii.gz", patient / f"{stem}_gt.nii.gz")
                yield RecipeRow(stem, patient.name, *files, group=quality)


def _acdc(folder: Path) -> Iterator[RecipeRow]:
    """``training/patient001/Info.cfg`` names the frames of end-diastole and end-systole; ``testing`` likewise."""
    for part in ("training", "testing"):
        for patient in sorted((folder / part).glob("patient*")):
            about = _settings(patient / "Info.cfg")
            for phase in ("ED", "ES"):
                stem = f"{patient.name}_frame{int(about[phase]):02d}"
                files = _pair(patient / f"{stem}.nii.gz", patient / f"{stem}_gt.nii.gz")
                yield RecipeRow(stem, patient.name, *files, group=about.get("Group", ""))


def _pancreas(folder: Path) -> Iterator[RecipeRow]:
    """``imagesTr/pancreas_001.nii.gz`` and ``labelsTr``; the images of ``imagesTs`` have no labels."""
    for image in sorted((folder / "imagesTr").glob("pancreas_*.nii.gz")):
        stem = image.name.removesuffix(".nii.gz")
        yield RecipeRow(stem, stem, *_pair(image, folder / "labelsTr" / image.name))


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "camus",
            "CAMUS echocardiography, 500 patients",
            "https://www.creatis.insa-lyon.fr/Challenge/camus/",
            {1: "left ventricle", 2: "myocardium", 3: "left atrium"},
            _camus,
        ),
        Recipe(
            "acdc",
            "ACDC cine MR, 150 patients in five pathology groups",
            "https://www.creatis.insa-lyon.fr/Challenge/acdc/",
            {1: "right ventricle", 2: "myocardium", 3: "left ventricle"},
            _acdc,
        ),
        Recipe(
            "msd-pancreas",
            "Medical Segmentation Decathlon, task 7: portal-venous CT of pancreas and tumour, 281 labelled",
            "http://medicaldecathlon.com/",
            {1: "pancreas", 2: "pancreatic tumour"},
            _pancreas,
        ),
    )
}
"""The recipes by name."""


def read_recipe(name: str, folder: str | Path) -> tuple[RecipeRow, ...]:
    """All labelled images of a data set in the layout it is delivered in.

    Raises
    ------
    InputError
        If the recipe is unknown, the folder holds nothing of it, or a file of a patient is missing.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe '{name}': choose one of {', '.join(RECIPES)}")
    rows = tuple(RECIPES[name].rows(Path(folder)))
    if not rows:
        raise InputError(
            f"{folder} holds no patient of {name}: give the folder as unpacked from {RECIPES[name].source}"
        )
    return rows


def split_rows(
    rows: Sequence[RecipeRow], *, seed: int = 0, shares: tuple[float, float, float] = (0.4, 0.15, 0.3)
) -> tuple[RecipeRow, ...]:
    """Each row with its part: training, tuning, calibration, test (the rest); patients are never divided.

    Raises
    ------
    InputError
        If the shares leave nothing to test on.

    Examples
    --------
    >>> rows = [RecipeRow(f"{p}{v}", p, Path("i"), Path("t")) for p in "abcdefghij" for v in (1, 2)]
    >>> sorted({row.part for row in split_rows(rows)})
    ['calibration', 'test', 'training', 'tuning']
    """
    if min(shares) < 0 or sum(shares) >= 1:
        raise InputError(f"shares of training, tuning and calibration are positive and below 1 in all, not {shares}")
    patients = sorted({row.patient for row in rows})
    order = np.random.default_rng(seed).permutation(len(patients))
    ends = np.round(np.cumsum(shares) * len(patients)).astype(int)
    parts = ("training", "tuning", "calibration", "test")
    where = {patients[k]: parts[int(np.searchsorted(ends, place, side="right"))] for place, k in enumerate(order)}
    return tuple(replace(row, part=where[row.patient]) for row in rows)


def write_cohort(rows: Sequence[RecipeRow], file: str | Path, *, parts: Sequence[str] = ()) -> None:
    """A cohort table (CSV) of the rows, or of some parts of them: id, image, truth, patient, group, part."""
    with replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["id", "image", "truth", "patient", "group", "part"])
        for row in (r for r in rows if not parts or r.part in parts):
            table.writerow([row.identifier, row.image.resolve(), row.truth.resolve(), row.patient, row.group, row.part])
