"""Recipes for data sets we do not have, on three-case fakes in their exact folder layout."""

from __future__ import annotations

import json
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
    cases = list(recipe_cases(RECIPES["msd-liver"], recipe_files(task03)))
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
        recipe_files(tmp_path)
    facts["training"] = json.loads((task03 / "dataset.json").read_text())["training"]
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    (case, *_) = recipe_cases(RECIPES["amos-liver"], recipe_files(tmp_path))
    assert not case.lesions
    with pytest.raises(InputError, match="labels no tumours"):
        run_recipe("amos-liver", tmp_path)


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        recipe_files(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="lists no training"):
        recipe_files(tmp_path)
    with pytest.raises(InputError, match="there is no recipe"):
        run_recipe("msd-brain", tmp_path)
