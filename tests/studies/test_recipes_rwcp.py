"""The data sets of RW-CP as three-case fakes in the exact folder layout."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.image.read import read_mask, read_scan
from anatrust.pipeline.cohort import Cohort
from anatrust.studies.recipes.rwcp import RECIPES, read_recipe, split_rows, write_cohort


def _volume(file: Path, shape: tuple[int, ...], top: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(file.name)).integers(0, top + 1, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 5, 1])), file)


def camus(root: Path) -> None:
    for number, quality in ((1, "Good"), (2, "Medium"), (3, "Poor")):
        folder = root / "database_nifti" / f"patient{number:04d}"
        for view in ("2CH", "4CH"):
            for phase in ("ED", "ES"):
                stem = f"{folder.name}_{view}_{phase}"
                _volume(folder / f"{stem}.nii.gz", (12, 10, 1), 255)
                _volume(folder / f"{stem}_gt.nii.gz", (12, 10, 1), 3)
            _volume(folder / f"{folder.name}_{view}_half_sequence.nii.gz", (12, 10, 4), 255)
            (folder / f"Info_{view}.cfg").write_text(
                f"ED: 1\nES: 18\nNbFrame: 18\nSex: F\nAge: 56\nImageQuality: {quality}\nEF: 54\n"
            )


def acdc(root: Path) -> None:
    for part, number, group, systole in (
        ("training", 1, "DCM", 12),
        ("training", 2, "NOR", 9),
        ("testing", 101, "RV", 14),
    ):
        folder = root / part / f"patient{number:03d}"
        for frame in (1, systole):
            _volume(folder / f"{folder.name}_frame{frame:02d}.nii.gz", (12, 10, 8), 900)
            _volume(folder / f"{folder.name}_frame{frame:02d}_gt.nii.gz", (12, 10, 8), 3)
        _volume(folder / f"{folder.name}_4d.nii.gz", (12, 10, 8, 3), 900)
        (folder / "Info.cfg").write_text(
            f"ED: 1\nES: {systole}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
        )


def pancreas(root: Path) -> None:
    for number in (1, 4, 5):
        _volume(root / "imagesTr" / f"pancreas_{number:03d}.nii.gz", (12, 10, 8), 900)
        _volume(root / "labelsTr" / f"pancreas_{number:03d}.nii.gz", (12, 10, 8), 2)
    _volume(root / "imagesTs" / "pancreas_002.nii.gz", (12, 10, 8), 900)
    (root / "dataset.json").write_text("{}")


FAKES = {
    "camus": (camus, 12, {"Good", "Medium", "Poor"}),
    "acdc": (acdc, 6, {"DCM", "NOR", "RV"}),
    "msd-pancreas": (pancreas, 3, {""}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_fake_in_the_exact_layout_becomes_a_cohort(name: str, tmp_path: Path) -> None:
    make, images, groups = FAKES[name]
    make(tmp_path / "data")
    rows = read_recipe(name, tmp_path / "data")
    assert len(rows) == images
    assert len({row.patient for row in rows}) == 3
    assert {row.group for row in rows} == groups
    for row in rows[:2]:
        scan = read_scan(row.image)
        assert set(np.unique(read_mask(row.truth, reference=scan.grid).array)) <= {0, *RECIPES[name].classes}
    write_cohort(split_rows(rows), tmp_path / "cohort.csv")
    cohort = Cohort.read(tmp_path / "cohort.csv")
    assert [(r.patient, r.image.name) for r in cohort] == [(r.patient, r.image.name) for r in rows]
    write_cohort(split_rows(rows, shares=(0.34, 0.0, 0.33)), tmp_path / "test.csv", parts=["test"])
    assert {r.metadata["part"] for r in Cohort.read(tmp_path / "test.csv")} == {"test"}


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no patient of {name}"):
        read_recipe(name, tmp_path)
    FAKES[name][0](tmp_path)
    next(f for f in sorted(tmp_path.rglob("*.nii.gz")) if "_gt" in f.name or "labelsTr" in str(f)).unlink()
    with pytest.raises(InputError, match="missing"):
        read_recipe(name, tmp_path)


def test_settings_files_are_needed(tmp_path: Path) -> None:
    acdc(tmp_path)
    (tmp_path / "training" / "patient001" / "Info.cfg").unlink()
    with pytest.raises(InputError, match=r"Info\.cfg is missing"):
        read_recipe("acdc", tmp_path)


def test_patients_are_never_divided(tmp_path: Path) -> None:
    camus(tmp_path)
    rows = [r for r in read_recipe("camus", tmp_path) for _ in range(2)]
    for seed in range(10):
        parts: dict[str, set[str]] = {}
        for row in split_rows(rows, seed=seed, shares=(0.34, 0.0, 0.33)):
            parts.setdefault(row.patient, set()).add(row.part)
        assert all(len(own) == 1 for own in parts.values())
        assert {part for own in parts.values() for part in own} == {"training", "calibration", "test"}
    for call in (lambda: read_recipe("liver", tmp_path), lambda: split_rows(rows, shares=(0.5, 0.3, 0.2))):
        with pytest.raises(InputError):
            call()
