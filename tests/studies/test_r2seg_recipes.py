"""Recipes for data sets we do not have, on three-case fakes in their exact folder layout."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.studies.lesions import LesionSpec
from anatrust.studies.phantom import phantom_scan
from anatrust.studies.recipes.r2seg import RECIPES, recipe_cases, recipe_files, run_recipe


@pytest.fixture(scope="module")
def task03(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task03_Liver with three patients: liver 1, cancer 2, as the Decathlon writes it."""
    folder = tmp_path_factory.mktemp("msd") / "Task03_Liver"
    listed = []
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for k in range(3):
        lesions = [LesionSpec("liver", 22.0, -4.0), LesionSpec("liver", 14.0, -4.0)]
        made = phantom_scan(500 + k, lesions=lesions, quick=True)
        labels = made.anatomy.mask("liver").array.astype(np.uint8)
        labels[made.truth.array > 0] = 2
        for sub, array in (("imagesTr", made.scan.array), ("labelsTr", labels)):
            nibabel.save(nibabel.Nifti1Image(array, made.scan.grid.affine), folder / sub / f"liver_{k}.nii.gz")
        listed.append({"image": f"./imagesTr/liver_{k}.nii.gz", "label": f"./labelsTr/liver_{k}.nii.gz"})
    facts = {"name": "Liver", "labels": {"0": "background", "1": "liver", "2": "cancer"}, "training": listed}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def test_the_loader_reads_the_layout(task03: Path) -> None:
    cases = list(recipe_cases(RECIPES["msd-liver"], recipe_files(RECIPES["msd-liver"], task03)))
    assert [case.patient for case in cases] == ["liver_0", "liver_1", "liver_2"]
    for case in cases:
        assert case.scan.modality == "CT"
        assert case.anatomy.names[1] == "liver"
        assert (case.anatomy.array[case.target] == 1).all(), "the organ counts its tumours in"
        sizes = sorted(spec.diameter for spec in case.lesions)
        assert 10 < sizes[0] < 18 < sizes[-1] < 28
        assert all(spec.contrast < -1.5 for spec in case.lesions)


def test_the_whole_recipe_runs_and_names_the_published_numbers(task03: Path) -> None:
    found = run_recipe("msd-liver", task03, judges=("segmenter alone", "iid, as published"))
    assert (found["taught"], found["tested"]) == (1, 2)
    assert "relative gain" in found["published"]["R2Seg"]
    alone = found["ours"]["segmenter alone"]
    assert alone["lesions"]["value"] >= 0.5
    assert alone["slice sensitivity"]["value"] >= found["ours"]["iid, as published"]["slice sensitivity"]["value"]


def test_amos_is_read_but_teaches_nothing(task03: Path, tmp_path: Path) -> None:
    facts = json.loads((task03 / "dataset.json").read_text())
    for sub in ("imagesTr", "labelsTr"):
        (tmp_path / sub).symlink_to(task03 / sub)
    facts["training"] = [
        {key: path.replace("liver_", "amos_000") for key, path in entry.items()} for entry in facts["training"]
    ]
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="which is not there"):
        recipe_files(RECIPES["amos-liver"], tmp_path)
    facts["training"] = json.loads((task03 / "dataset.json").read_text())["training"]
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    (case, *_) = recipe_cases(RECIPES["amos-liver"], recipe_files(RECIPES["amos-liver"], tmp_path))
    assert not case.lesions
    with pytest.raises(InputError, match="labels no tumours"):
        run_recipe("amos-liver", tmp_path)


def _three(folder: Path, write: Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]) -> None:
    """Three patients of whom the second has no tumour: image, organ and tumour go to what writes the layout."""
    for k in range(3):
        lesions = [LesionSpec("liver", 22.0, -4.0)] if k != 1 else []
        made = phantom_scan(510 + k, lesions=lesions, quick=True)
        write(k, made.scan.array, made.anatomy.mask("liver").array > 0, made.truth.array > 0)


def test_prostate158_has_its_tumours_in_files_of_their_own(tmp_path: Path) -> None:
    tables: dict[str, list[dict[str, str]]] = {"train": [], "valid": []}

    def write(k: int, image: np.ndarray, organ: np.ndarray, tumour: np.ndarray) -> None:
        name, table = f"{20 + k:03d}", "valid" if k == 2 else "train"
        place = tmp_path / "train" / name
        place.mkdir(parents=True)
        files = {"t2": image, "t2_anatomy_reader1": organ.astype(np.uint8) + (organ & (image > 100))}
        if tumour.any():
            files["t2_tumor_reader1"] = tumour.astype(np.uint8) * 3
        for what, array in files.items():
            nibabel.save(nibabel.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1])), place / f"{what}.nii.gz")
        cells = {what: f"train/{name}/{what}.nii.gz" if what in files else "" for what in _PROSTATE158[1:]}
        tables[table].append({"ID": str(20 + k), **cells})

    _three(tmp_path, write)
    for table, rows in tables.items():
        with (tmp_path / f"{table}.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, _PROSTATE158)
            writer.writeheader()
            writer.writerows(rows)
    recipe = RECIPES["prostate"]
    cases = list(recipe_cases(recipe, recipe_files(recipe, tmp_path)))
    assert [(c.patient, len(c.lesions)) for c in cases] == [("20", 1), ("21", 0), ("22", 1)]
    assert all(c.scan.modality == "MR" and c.anatomy.names == {1: "prostate"} for c in cases)
    assert 16 < cases[0].lesions[0].diameter < 28
    found = run_recipe("prostate", tmp_path, judges=("segmenter alone",))
    assert "sensitivity 0.645, specificity 0.587" in found["published"]["R2Seg"]
    assert (found["taught"], found["tested"]) == (1, 2)
    (tmp_path / "valid.csv").unlink()
    with pytest.raises(InputError, match=r"has no valid\.csv"):
        recipe_files(recipe, tmp_path)


_PROSTATE158 = [
    "ID", "t2", "adc", "dwi", "t2_anatomy_reader1", "t2_tumor_reader1", "adc_tumor_reader1", "t2_anatomy_reader2",
    "adc_tumor_reader2",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("bladder", {"background": 0, "urinary_bladder": 2, "bladder_tumor": 5}),
        ("cervix", {"background": 0, "tumour": 5, "Uterus": 2}),
    ],
)
def test_a_pelvis_in_nnunets_layout_is_read_by_the_names_of_its_labels(
    tmp_path: Path, name: str, labels: dict[str, int]
) -> None:
    def write(k: int, image: np.ndarray, organ: np.ndarray, tumour: np.ndarray) -> None:
        drawn = np.where(tumour, 5, organ * 2).astype(np.uint8)
        for file, array in ((f"imagesTr/case_{k}_0000", image), (f"labelsTr/case_{k}", drawn)):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1])), tmp_path / f"{file}.nii.gz")

    _three(tmp_path, write)
    facts = {"channel_names": {"0": "T2"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    recipe = RECIPES[name]
    cases = list(recipe_cases(recipe, recipe_files(recipe, tmp_path)))
    assert [(c.patient, len(c.lesions)) for c in cases] == [("case_0", 1), ("case_1", 0), ("case_2", 1)]
    assert all((c.anatomy.array[c.target] == 1).all() for c in cases)
    (tmp_path / "imagesTr" / "case_1_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case_1_0000\.nii\.gz, which is not there"):
        recipe_files(recipe, tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "wall": 1}}))
    with pytest.raises(InputError, match="another tumour"):
        recipe_files(recipe, tmp_path)


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        recipe_files(RECIPES["amos-liver"], tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="lists no training"):
        recipe_files(RECIPES["amos-liver"], tmp_path)
    with pytest.raises(InputError, match="there is no recipe"):
        run_recipe("msd-brain", tmp_path)
