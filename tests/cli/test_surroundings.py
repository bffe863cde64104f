"""What surrounds a command: closed streams, code pages, a deleted folder, names from other systems, unset variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest

import anatrust
from anatrust.cli.main import run
from anatrust.pipeline.manifest import Manifest, ManifestRow, write_manifest

SHAPE = (20, 18, 10)
FOREIGN = os.fsdecode(b"M\xfcller.nii.gz")  # Latin-1, as old archives hold it


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A scan and the mask of an organ on it."""
    values = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    organ = np.zeros(SHAPE, np.uint8)
    organ[4:15, 4:14, 2:8] = 1
    for name, array in (("λ.nii.gz", values), ("mask.nii.gz", organ)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), tmp_path / name)
    return tmp_path / "λ.nii.gz", tmp_path / "mask.nii.gz"


def judged(
    images: tuple[Path, Path], before: str = "", after: str = "", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """One run by a shell; scan and mask are its first two arguments."""
    command = f'{before} "$0" -m anatrust assess -i "$1" -m "$2" --kind organ {after}'
    arguments = ["sh", "-c", command, sys.executable, *map(str, images)]
    return subprocess.run(arguments, capture_output=True, check=False, env={**os.environ, **more})


def test_closed_streams_do_not_matter(images: tuple[Path, Path], tmp_path: Path) -> None:
    done = judged(images, after=f"-o '{tmp_path / 'out'}' >&-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out" / "verdict.json").is_file()
    assert judged(images, after=f"-o '{tmp_path / 'more'}' >&- 2>&-").returncode == 0
    assert judged(images, after="--alpha 2 --json >&- 2>&-").returncode == 2


def test_json_is_valid_in_a_code_page_without_the_letters_of_a_name(images: tuple[Path, Path]) -> None:
    done = judged(images, after="--json", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, b"")
    verdict = json.loads(done.stdout.decode("cp1252"))
    jsonschema.validate(verdict, anatrust.Verdict.json_schema())
    assert verdict["scan"]["identifier"] == "λ"


def test_a_deleted_folder_is_named(images: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = judged(images, before=f"cd '{tmp_path / 'gone'}' && rmdir ../gone &&", after="-o out")
    assert done.returncode == 2
    assert done.stderr == b"anatrust: the folder you are in was deleted: cd to one that exists\n"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["assess", "-i", "", "-m", "mask.nii.gz"], "-i is empty"),
        (["evaluate", "cohort.csv", "-o", " "], "-o is empty"),
        (["verify", "x.profile", ""], "the argument after x.profile is empty"),
    ],
)
def test_an_unset_variable_is_not_the_current_folder(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr() == ("", f"anatrust: {what}: say what is meant; is a shell variable unset?\n")


def test_a_name_that_is_not_utf_8_can_be_judged_and_written(images: tuple[Path, Path], tmp_path: Path) -> None:
    foreign, out = tmp_path / FOREIGN, tmp_path / "out"
    images[0].rename(foreign)
    verdict = anatrust.assess(foreign, images[1], kind="organ", out=out)
    assert verdict.scan.identifier == "M\ufffdller"
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["inputs"]["scan"]["name"] == "M\ufffdller.nii.gz"
    assert "M\ufffdller" in (out / "report.html").read_text(encoding="utf-8")


def test_a_name_that_is_not_utf_8_fits_into_no_table(tmp_path: Path) -> None:
    rows = (ManifestRow("a", tmp_path / "a.nii.gz"), ManifestRow("b", tmp_path / FOREIGN))
    with pytest.raises(anatrust.errors.InputError, match=r"ller\.nii\.gz is not UTF-8, which a table needs: rename"):
        write_manifest(tmp_path / "cohort.csv", Manifest("plain folders", rows))
    assert not (tmp_path / "cohort.csv").exists()
