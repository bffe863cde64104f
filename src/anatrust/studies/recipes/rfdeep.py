"""The data sets of RF-Deep (arXiv 2512.08216): lung CT as usual, other chests and abdomens as strange scans.

A recipe reads a data set's own folder layout into rows of a cohort table: which series, whose, usual or strange, and
how it was acquired. Segment all of them with your lung-tumour segmenter into ``predictions/NAME/ID.nii.gz``, then::

    rows = [*read_recipe("lrad", "NSCLC Radiogenomics"), *read_recipe("kits23", "kits23/dataset")]
    write_cohort(rows, "cohort.csv", predictions="predictions")
    anatrust fit cohort.csv -o lung.profile --modality CT --screen-with weights/ ...

The blind cohorts (``midrc-1a``) have no mark in the column ``outlier`` for fitting: screen them only.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.ood.acquisition import harmonised

__all__ = ["PUBLISHED", "RECIPES", "Recipe", "ScanRow", "read_recipe", "write_cohort"]

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "rsna-pe": (95.8, 15.2),
    "midrc-1b": (93.3, 25.5),
    "kits23": (100.0, 0.1),
    "pancreas-ct": (100.0, 0.0),
}
"""AUROC and FPR95 (%) of the SMIT backbone, 4 crops of 128 mm, 20 + 20 scans, as typed in the authors' plotting code
(FPR95 of ``midrc-1b`` stands there as 25.5 and as 23.5). Bodies of the tables could not be obtained."""

_COLUMNS = ("id", "image", "mask", "patient", "group", "outlier")
_ACQUISITION = (
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "SliceThickness",
    "KVP",
)
_FACTORS = ("manufacturer", "contrast", "kernel")


@dataclass(frozen=True)
class ScanRow:
    """One scan: a NIfTI file or a DICOM series' folder; ``outlier`` None where nothing may be learnt from it."""

    dataset: str
    patient: str
    image: Path
    outlier: bool | None
    acquisition: Mapping[str, str] = field(default_factory=dict)

    @property
    def identifier(self) -> str:
        """Unique over data sets: equal patient names in two of them are two people."""
        return f"{self.dataset}_{self.patient}"


@dataclass(frozen=True)
class Recipe:
    """What is known of a data set: its title, where to ask for it, its role, and from the folder to its scans."""

    name: str
    title: str
    source: str
    outlier: bool | None
    scans: Callable[[Path], Iterator[tuple[str, Path]]]


def _largest_series(folder: Path) -> Path | None:
    """The folder below with the most DICOM files: scouts and derived objects have few."""
    counts = {f: sum(1 for _ in f.glob("*.dcm")) for f in sorted(p for p in folder.rglob("*") if p.is_dir())}
    best = max(counts, key=lambda f: counts[f], default=None)
    return best if best is not None and counts[best] > 1 else None


def _tcia(pattern: str) -> Callable[[Path], Iterator[tuple[str, Path]]]:
    """``PATIENT/STUDY/SERIES/*.dcm`` as the NBIA Data Retriever writes it."""

    def scans(folder: Path) -> Iterator[tuple[str, Path]]:
        for patient in sorted(p for p in folder.glob(pattern) if p.is_dir()):
            series = _largest_series(patient)
            if series is not None:
                yield patient.name, series

    return scans


def _rsna(folder: Path) -> Iterator[tuple[str, Path]]:
    """``train/STUDY/SERIES/*.dcm``; one study a patient (Kaggle gives no patients)."""
    for study in sorted(p for p in (folder / "train").glob("*") if p.is_dir()):
        series = _largest_series(study)
        if series is not None:
            yield study.name, series


def _kits(folder: Path) -> Iterator[tuple[str, Path]]:
    """``case_00000/imaging.nii.gz``."""
    for image in sorted(folder.glob("case_*/imaging.nii.gz")):
        yield image.parent.name, image


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "nsclc-radiomics",
            "NSCLC-Radiomics (LUNG1), 422 patients: what the segmenter is trained on",
            "https://www.cancerimagingarchive.net/collection/nsclc-radiomics/",
            None,
            _tcia("LUNG1-*"),
        ),
        Recipe(
            "lrad",
            "NSCLC Radiogenomics (R01, AMC), usual",
            "https://www.cancerimagingarchive.net/collection/nsclc-radiogenomics/",
            False,
            _tcia("[AR][M0][C1]-*"),
        ),
        Recipe(
            "rsna-pe",
            "RSNA pulmonary embolism 2020",
            "https://www.kaggle.com/c/rsna-str-pulmonary-embolism-detection",
            True,
            _rsna,
        ),
        Recipe(
            "midrc-1a",
            "MIDRC-RICORD-1A, COVID-19 positive: tested only",
            "https://www.cancerimagingarchive.net/collection/midrc-ricord-1a/",
            None,
            _tcia("MIDRC-RICORD-1A-*"),
        ),
        Recipe(
            "midrc-1b",
            "MIDRC-RICORD-1B, COVID-19 negative",
            "https://www.cancerimagingarchive.net/collection/midrc-ricord-1b/",
            True,
            _tcia("MIDRC-RICORD-1B-*"),
        ),
        Recipe("kits23", "KiTS23, kidneys", "https://github.com/neheller/kits23", True, _kits),
        Recipe(
            "pancreas-ct",
            "Pancreas-CT",
            "https://www.cancerimagingarchive.net/collection/pancreas-ct/",
            True,
            _tcia("PANCREAS_*"),
        ),
    )
}
"""The public data sets by name; the breast cohort of the paper is internal."""


def read_recipe(name: str, folder: str | Path) -> list[ScanRow]:
    """The scans of a data set as it was delivered.

    Parameters
    ----------
    name
        One of :data:`RECIPES`.
    folder
        The unpacked data set.

    Raises
    ------
    InputError
        If the name is unknown or the folder holds no scan in the expected layout.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe '{name}': choose one of {', '.join(sorted(RECIPES))}")
    recipe = RECIPES[name]
    rows = [
        ScanRow(name, patient, image, recipe.outlier, _acquired(image)) for patient, image in recipe.scans(Path(folder))
    ]
    if not rows:
        raise InputError(f"{folder} holds no scan of {recipe.title}: unpack it as it was delivered ({recipe.source})")
    return rows


def _acquired(image: Path) -> dict[str, str]:
    """How a DICOM series was made, from the header of its first file; nothing that names a person."""
    if not image.is_dir():
        return {}
    import pydicom

    header = pydicom.dcmread(sorted(image.glob("*.dcm"))[0], stop_before_pixels=True, specific_tags=list(_ACQUISITION))
    found = {tag: str(header.get(tag, "") or "") for tag in _ACQUISITION}
    return {tag: value for tag, value in found.items() if value}


def write_cohort(rows: Iterable[ScanRow], path: str | Path, *, predictions: str | Path) -> Path:
    """Write a cohort table for `anatrust fit` and `anatrust screen`.

    Parameters
    ----------
    rows
        Of any number of data sets.
    path
        The CSV; files are named relative to its folder where they lie below it.
    predictions
        Folder with ``NAME/ID.nii.gz`` of your segmenter.

    Returns
    -------
    pathlib.Path
        The table: patients, data set as group, the mark, harmonised manufacturer, contrast and kernel (the factors
        of the metadata hold-out), thickness and voltage.

    Raises
    ------
    InputError
        If a prediction is missing.
    """
    path = Path(path)
    base = path.parent.resolve()
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*_COLUMNS, *_FACTORS, "slice_thickness", "kvp"])
        for row in rows:
            mask = Path(predictions) / row.dataset / f"{row.patient}.nii.gz"
            if not mask.is_file():
                raise InputError(f"{mask} is missing: segment {row.identifier} first")
            factors = harmonised(row.acquisition)
            mark = "" if row.outlier is None else str(row.outlier).lower()
            own = [row.identifier, _relative(row.image, base), _relative(mask, base), row.identifier, row.dataset, mark]
            more = [row.acquisition.get("SliceThickness", ""), row.acquisition.get("KVP", "")]
            writer.writerow([*own, *(factors.get(name, "") for name in _FACTORS), *more])
    return path


def _relative(file: Path, base: Path) -> str:
    whole = file.resolve()
    return str(whole.relative_to(base)) if whole.is_relative_to(base) else str(whole)
