"""Whole runs on real scans and the demonstration, as a stranger starts them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest

from anatrust.cli.main import run
from anatrust.pipeline.verdict import Verdict

pytestmark = pytest.mark.slow


def anatrust(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from anatrust.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


@pytest.mark.parametrize("patient", ["001", "002"])
def test_the_pet_of_a_sarcoma_does_the_whole_job(shared_data: Path, tmp_path: Path, patient: str) -> None:
    folder = shared_data / "sarcoma" / patient
    done = anatrust("assess", "-i", folder / "pet.nii.gz", "-m", folder / "pet_tumour.nii.gz", "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    plain = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    jsonschema.validate(plain, Verdict.json_schema())
    assert plain["candidates"]
    # Both bodies hold too few independent patches around the tumour for the default null: said, not guessed.
    undecided = all(c["decision"] == "undecidable" and c["reason"] for c in plain["candidates"])
    assert plain["null"] == ("none" if undecided else "surrogate-max")
    parts = [n for n in ("kept", "rejected", "undecidable") if n in plain["files"]]
    union = sum(np.asarray(nibabel.load(tmp_path / "out" / plain["files"][n]).dataobj) for n in parts)
    drawn = np.asarray(nibabel.load(folder / "pet_tumour.nii.gz").dataobj) > 0
    assert np.array_equal(union, drawn)
    names = {"candidates.csv", "kept.nii.gz", "rejected.nii.gz", "report.html", "run.json", "verdict.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} - {"undecidable.nii.gz"} == names


def test_the_picture_of_the_readme_shows_what_its_caption_says(shared_data: Path, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "tools" / "readme_picture.py"
    spec = importlib.util.spec_from_file_location("readme_picture", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    verdict = tool.judge(shared_data, tmp_path / "out")
    assert [(c.name, c.decision) for c in verdict.candidates] == [("tumour", "kept"), ("other tissue", "rejected")]
    assert (tmp_path / "out" / "report.html").is_file()
    folder = shared_data / "sarcoma" / "002"
    alone = anatrust("assess", "-i", folder / "pet.nii.gz", "-m", folder / "pet_tumour.nii.gz", "--json")
    (candidate,) = json.loads(alone.stdout)["candidates"]
    assert (candidate["decision"], candidate["p_value"]) == ("kept", 0.095)


def test_an_amos_scan_is_told_to_be_eight_bit(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "amos_ct"
    arguments = ["assess", "-i", folder / "image.nii.gz", "-m", folder / "labels.nii.gz", "--names", "amos"]
    done = anatrust(*arguments, "--modality", "CT", "-o", tmp_path / "out", "--fail-on", "review")
    assert (done.returncode, done.stderr) == (3, "")
    plain = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert plain["kind"] == "organ"
    assert "eight-bit-window" in [f["code"] for f in plain["findings"]]
    assert len(plain["structures"]) == 15


def test_the_orientations_of_one_head_give_one_verdict(shared_data: Path, tmp_path: Path) -> None:
    found = []
    for name in ("RAS", "PSL", "IAR"):
        path = shared_data / "brain_mr" / "orientations" / f"{name}.nii.gz"
        image = nibabel.load(path)
        array = np.asarray(image.dataobj)
        centre = np.rint(np.linalg.inv(image.affine) @ [0, 0, 0, 1])[:3].clip(4, np.array(array.shape[:3]) - 5)
        steps = np.linalg.norm(image.affine[:3, :3], axis=0)
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in array.shape[:3]], indexing="ij"), axis=-1)
        ball = (((grid - centre) * steps) ** 2).sum(axis=-1) < 36
        mask = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(ball.astype(np.uint8), image.affine), mask)
        out = tmp_path / name
        arguments = ["assess", "-i", str(path), "-m", str(mask), "--modality", "MR", "-q", "-o", str(out)]
        assert run(arguments) == 0
        plain = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
        c = plain["candidates"][0]
        found.append((c["voxels"], c["p_value"], c["placement_p"], c["decision"], plain["findings"]))
    assert found[0] == found[1] == found[2]


def test_the_demonstration(tmp_path: Path) -> None:
    done = anatrust("demo", "-o", tmp_path / "demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The page to look at" in done.stdout
    plain = json.loads((tmp_path / "demo" / "verdict.json").read_text(encoding="utf-8"))
    assert plain["null"] == "cohort"
    decisions = [c["decision"] for c in plain["candidates"]]
    assert "kept" in decisions
    assert "rejected" in decisions
    assert (tmp_path / "demo" / "report.html").stat().st_size > 500_000
    # The printed command does the same by hand.
    command = done.stdout[done.stdout.index("anatrust assess") :].split()
    again = anatrust(*command[1:-1], tmp_path / "again")
    assert again.returncode == 0
    repeated = json.loads((tmp_path / "again" / "verdict.json").read_text(encoding="utf-8"))
    assert [c["p_value"] for c in repeated["candidates"]] == [c["p_value"] for c in plain["candidates"]]
