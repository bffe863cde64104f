"""The data sets of RAU as small fakes in the folder layout they are delivered in."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from anatrust.errors import FormatError, InputError
from anatrust.image.read import read_mask, read_scan
from anatrust.pipeline.cohort import Cohort
from anatrust.studies.recipes.rau import arcade_names, draw_arcade, raos_names, read_arcade, read_raos
from anatrust.studies.recipes.rwcp import write_cohort


def _volume(file: Path, top: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(file.name)).integers(0, top + 1, (6, 5, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([1, 1, 5, 1])), file)


@pytest.fixture
def raos(tmp_path: Path) -> Path:
    root = tmp_path / "RAOS-Real"
    parts = (("CancerImages(Set1)", "Tr", ""), ("CancerImages(Set1)", "Ts", "_0000"), ("MissingOrgans(Set3)", "Ts", ""))
    for k, (group, part, ending) in enumerate(parts):
        _volume(root / group / f"images{part}" / f"1.2.{k}{ending}.nii.gz", 900)
        _volume(root / group / f"labels{part}" / f"1.2.{k}.nii.gz", 19)
    # What somebody made of the labels is not a part of the data set.
    _volume(root / "CancerImages(Set1)" / "labelsTr_intestinal_tract" / "1.2.0.nii.gz", 1)
    (root / "CancerImages(Set1)" / "dataset.json").write_text(
        json.dumps({"labels": {"0": "background", "1": "liver", "2": "spleen"}})
    )
    return root


def test_raos_becomes_a_cohort_by_clinical_set(raos: Path, tmp_path: Path) -> None:
    rows = read_raos(raos)
    assert [(r.identifier, r.group) for r in rows] == [("1.2.0", "Set1"), ("1.2.1", "Set1"), ("1.2.2", "Set3")]
    for row in rows:
        assert read_mask(row.truth).grid.same_as(read_scan(row.image).grid)
    write_cohort(rows, tmp_path / "raos.csv")
    assert len(list(Cohort.read(tmp_path / "raos.csv"))) == 3
    assert raos_names(raos) == {1: "liver", 2: "spleen"}
    (raos / "CancerImages(Set1)" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    assert raos_names(raos) == {1: "liver"}


def test_what_is_missing_of_raos_is_said(raos: Path) -> None:
    next((raos / "MissingOrgans(Set3)" / "imagesTs").iterdir()).unlink()
    with pytest.raises(InputError, match="has no image in imagesTs"):
        read_raos(raos)
    with pytest.raises(InputError, match="holds no set of RAOS"):
        read_raos(raos / "CancerImages(Set1)")
    (raos / "CancerImages(Set1)" / "dataset.json").write_text("{}")
    with pytest.raises(FormatError, match="names no labels"):
        raos_names(raos)
    (raos / "CancerImages(Set1)" / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"no dataset\.json"):
        raos_names(raos)


@pytest.fixture
def arcade(tmp_path: Path) -> Path:
    root = tmp_path / "arcade"
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        place = root / "syntax" / split
        (place / "images").mkdir(parents=True)
        (place / "annotations").mkdir()
        for k in range(1, count + 1):
            Image.fromarray(np.full((16, 16), 40 * k, np.uint8)).save(place / "images" / f"{k}.png")
        told = {
            "images": [{"id": k, "width": 16, "height": 16, "file_name": f"{k}.png"} for k in range(1, count + 1)],
            "categories": [{"id": 10, "name": "9a"}, {"id": 1, "name": "1"}, {"id": 26, "name": "stenosis"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]},
                {"id": 2, "image_id": 1, "category_id": 10, "segmentation": [[6, 6, 12, 6, 12, 12, 6, 12]]},
            ],
        }
        (place / "annotations" / f"{split}.json").write_text(json.dumps(told))
    return root


def test_polygons_of_arcade_become_label_pictures(arcade: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="draw the label pictures"):
        read_arcade(arcade)
    assert draw_arcade(arcade) == 4
    rows = read_arcade(arcade)
    assert [r.identifier for r in rows] == ["train-1", "train-2", "val-1", "test-1"]
    assert arcade_names(arcade) == {1: "1", 10: "9a", 26: "stenosis"}
    drawn = np.asarray(Image.open(rows[0].truth))
    # Rows are y: the first branch fills a square of 7 pixels, the one annotated later lies on top.
    assert drawn[3, 5] == 1
    assert drawn[7, 7] == 10
    assert (drawn == 10).sum() == 49
    assert (drawn == 1).sum() == 49 - 9
    assert not np.asarray(Image.open(rows[1].truth)).any()
    write_cohort(rows, tmp_path / "arcade.csv")
    assert len(list(Cohort.read(tmp_path / "arcade.csv"))) == 4


def test_what_is_wrong_with_arcade_is_said(arcade: Path) -> None:
    with pytest.raises(InputError, match="give the unpacked folder of ARCADE"):
        draw_arcade(arcade / "syntax")
    (arcade / "syntax" / "val" / "images" / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png is missing"):
        draw_arcade(arcade)
    (arcade / "syntax" / "train" / "annotations" / "train.json").write_text('{"images": []}')
    with pytest.raises(FormatError, match="not annotated as COCO"):
        draw_arcade(arcade)
