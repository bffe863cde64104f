"""What a program hands over by mistake is refused in one line; what is easily meant is taken."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import nibabel
import numpy as np
import pytest

import anatrust
from anatrust.errors import GeometryError, InputError, MissingExtraError
from anatrust.pipeline.fit_screening import fit_screening
from anatrust.pipeline.screening_features import make_description

SHAPE = (24, 22, 12)
PLACE = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture
def images() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    values = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    mask[6:18, 6:16, 3:9] = 1
    return (values, PLACE), (mask, PLACE)


@pytest.fixture
def table(tmp_path: Path, images: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Path:
    for name, (array, affine) in zip(("scan", "mask"), images, strict=True):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    rows = [f"{n},scan.nii.gz,mask.nii.gz,false,true" for n in range(4)]
    (tmp_path / "cohort.csv").write_text("\n".join(["id,image,mask,outlier,lesion_free", *rows]))
    return tmp_path / "cohort.csv"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": "a"}, "the seed is 'a': give a whole number from 0"),
        ({"seed": -1}, "the seed is -1"),
        ({"seed": 1.5}, "the seed is 1.5"),
        ({"seed": True}, "the seed is True"),
        ({"names": {"liver": 1}}, "go by their numbers"),
        ({"names": ["liver"]}, r"a table's name, a JSON file or \{1: 'liver'\}, not \['liver'\]"),
        ({"settings": {"null": "iid"}}, "settings are RejectionSettings, not of type dict"),
        ({"profile": {}}, "a profile is a Profile or its file, not of type dict"),
    ],
)
def test_arguments_of_assess(
    images: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        anatrust.assess(*images, kind="organ", **wrong)  # type: ignore[arg-type]
    assert anatrust.assess(*images, kind="organ", seed=np.int64(3)).decision == "accept"  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"profile": 4}, {"anchor_profile": 4}])
def test_arguments_of_segment(
    images: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], wrong: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=r"the seed is -1|a profile is a Profile or its file, not of type int"):
        anatrust.segment(images[0], "liver tumour", modality="CT", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3.5, 4, 5), 3, ("3", 4, 5), None])
def test_shapes_are_whole_numbers(shape: object) -> None:
    with pytest.raises(GeometryError, match="a shape is whole numbers"):
        anatrust.Grid(shape, PLACE)  # type: ignore[arg-type]


def test_a_table_and_a_profile_may_be_given_by_their_paths(table: Path, tmp_path: Path) -> None:
    by_path = anatrust.fit(table)
    assert by_path.describe() == anatrust.fit(anatrust.Cohort.read(table)).describe()
    by_path.save(tmp_path / "a.profile")
    with pytest.raises(InputError, match=r"cohort\.csv: no row tests what this profile promises"):
        anatrust.verify(tmp_path / "a.profile", table)  # both were read: four patients promise nothing
    for wrong in ([], None, 3):
        with pytest.raises(InputError, match="a cohort is a Cohort or the path of a table, not of type"):
            anatrust.fit(wrong)  # type: ignore[arg-type]


def test_a_package_that_is_missing_is_no_fault_of_a_row(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def absent(name: str) -> str:
        if name == "mirp":
            raise importlib.metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    told: list[str] = []
    with pytest.raises(MissingExtraError, match=r"pip install 'anatrust\[radiomics\]'"):
        fit_screening(anatrust.Cohort.read(table), description=make_description("radiomics"), warn=told.append)
    assert told == []
