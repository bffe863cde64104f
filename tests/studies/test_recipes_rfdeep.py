"""The data sets of RF-Deep as three-case fakes in the exact folder layout."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from anatrust.errors import InputError
from anatrust.image.read import read_scan
from anatrust.pipeline.cohort import Cohort
from anatrust.studies.recipes.rfdeep import PUBLISHED, RECIPES, read_recipe, write_cohort


def series(folder: Path, slices: int, **tags: str) -> None:
    """A small CT series; names of people are in it, and must not come out."""
    folder.mkdir(parents=True)
    uid = generate_uid()
    for number in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        d.SeriesInstanceUID, d.StudyInstanceUID, d.Modality = uid, uid, "CT"
        d.PatientName, d.PatientID = "Doe^Jane", "secret"
        d.Rows = d.Columns = 8
        d.PixelSpacing, d.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
        d.ImagePositionPatient, d.InstanceNumber = [0, 0, 2.0 * number], number + 1
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.RescaleSlope, d.RescaleIntercept, d.SliceThickness, d.KVP = 1, -1024, 2, 120
        for name, value in tags.items():
            setattr(d, name, value)
        pixels = np.random.default_rng(number).integers(0, 2000, (8, 8)).astype(np.int16)
        d.PixelData = pixels.tobytes()
        d.save_as(folder / f"1-{number + 1:03d}.dcm", enforce_file_format=True)


def tcia(root: Path, names: list[str]) -> Path:
    makers = [("GE MEDICAL SYSTEMS", "LUNG", "OMNI"), ("SIEMENS", "B31f", ""), ("SIEMENS", "B70f", "")]
    for name, (maker, kernel, agent) in zip(names, makers, strict=True):
        study = root / name / "01-01-2000-NA-CT CHEST-12345"
        series(study / "2.000000-scout-1", 1)
        series(study / "3.000000-axial-2", 3, Manufacturer=maker, ConvolutionKernel=kernel, ContrastBolusAgent=agent)
    return root


def rsna(root: Path) -> Path:
    for number in range(3):
        series(root / "train" / f"study{number}" / "series", 3)
    (root / "train.csv").write_text("StudyInstanceUID\n")
    return root


def kits(root: Path) -> Path:
    for number in (0, 1, 400):
        case = root / f"case_{number:05d}"
        case.mkdir(parents=True)
        for name in ("imaging", "segmentation"):
            nib.save(nib.Nifti1Image(np.zeros((8, 8, 3), np.int16), np.eye(4)), case / f"{name}.nii.gz")
    return root


FAKES = {
    "nsclc-radiomics": lambda root: tcia(root, ["LUNG1-001", "LUNG1-002", "LUNG1-128"]),
    "lrad": lambda root: tcia(root, ["R01-001", "AMC-003", "R01-146"]),
    "rsna-pe": rsna,
    "midrc-1a": lambda root: tcia(root, [f"MIDRC-RICORD-1A-419639-{n:06d}" for n in (361, 1128, 2)]),
    "midrc-1b": lambda root: tcia(root, [f"MIDRC-RICORD-1B-419639-{n:06d}" for n in (5, 6, 7)]),
    "kits23": kits,
    "pancreas-ct": lambda root: tcia(root, [f"PANCREAS_{n:04d}" for n in (1, 2, 3)]),
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_data_set_becomes_a_cohort(name: str, tmp_path: Path) -> None:
    rows = read_recipe(name, FAKES[name](tmp_path / "data"))
    assert len(rows) == 3
    assert len({row.identifier for row in rows}) == 3
    for row in rows:
        mask = tmp_path / "predictions" / name / f"{row.patient}.nii.gz"
        mask.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((8, 8, 3), np.uint8), np.eye(4)), mask)
    cohort = Cohort.read(write_cohort(rows, tmp_path / "cohort.csv", predictions=tmp_path / "predictions"))
    assert all(row.outlier is RECIPES[name].outlier for row in cohort)
    assert all(row.group == name for row in cohort)
    assert read_scan(rows[0].image).grid.shape == (8, 8, 3)
    text = (tmp_path / "cohort.csv").read_text()
    assert "Doe" not in text
    assert "secret" not in text


def test_the_factors_of_the_hold_out_are_harmonised(tmp_path: Path) -> None:
    rows = read_recipe("lrad", FAKES["lrad"](tmp_path / "data"))
    for row in rows:
        mask = tmp_path / "p" / "lrad" / f"{row.patient}.nii.gz"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(b"")
    write_cohort(rows, tmp_path / "c.csv", predictions=tmp_path / "p")
    with (tmp_path / "c.csv").open() as handle:
        found = {row["id"]: row for row in csv.DictReader(handle)}
    assert len(found) == 3
    kernels = {row["manufacturer"] + " " + row["kernel"] for row in found.values()}
    assert kernels == {"GE sharp", "Siemens soft", "Siemens sharp"}
    assert [row["contrast"] for row in found.values()].count("contrast") == 1
    assert all(float(row["slice_thickness"]) == 2 and float(row["kvp"]) == 120 for row in found.values())
    (tmp_path / "p" / "lrad" / f"{rows[0].patient}.nii.gz").unlink()
    with pytest.raises(InputError, match="segment lrad_"):
        write_cohort(rows, tmp_path / "c.csv", predictions=tmp_path / "p")


def test_wrong_names_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe"):
        read_recipe("magic", tmp_path)
    with pytest.raises(InputError, match="holds no scan"):
        read_recipe("kits23", tmp_path)
    assert set(PUBLISHED) <= set(RECIPES)
