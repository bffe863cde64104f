"""The command line: exit codes, one line for every failure, and what goes to stdout."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest
from PIL import Image

import anatrust
from anatrust.cli.main import run
from anatrust.cli.show_verdict import plain_number

SHAPE = (40, 36, 20)
AFFINE = np.array([[2.0, 0, 0, -40], [0, 2.0, 0, -30], [0, 0, 3.0, 10], [0, 0, 0, 1]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    image[10:16, 10:16, 6:10] += 60
    return save(tmp_path / "scan.nii.gz", image)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    array = np.zeros(SHAPE, np.uint8)
    array[10:16, 10:16, 6:10] = 1
    array[24:30, 20:26, 12:15] = 1
    return save(tmp_path / "mask.nii.gz", array)


@pytest.fixture
def organ(tmp_path: Path) -> Path:
    array = np.zeros(SHAPE, np.uint8)
    array[3:37, 3:33, 2:18] = 1
    return save(tmp_path / "organ.nii.gz", array)


@pytest.fixture
def judge(scan: Path, mask: Path, organ: Path) -> list[str]:
    """Arguments of a plain run without its output; the noise is white, so even `iid` holds."""
    return ["assess", "-i", str(scan), "-m", str(mask), "--anatomy", str(organ), "--null", "iid"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stderr, which must be one line of ours, and nothing on stdout."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("anatrust: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


def test_assess_prints_for_people_and_writes_for_machines(
    judge: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*judge, "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("REVIEW")
    assert "kept" in said.out
    assert "What is promised, and what not" in said.out
    assert str(tmp_path / "out" / "report.html") in said.out
    assert said.err == ""
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["decision"] == "review"


def test_candidates_without_a_p_value_are_printed_with_the_reason(
    scan: Path, mask: Path, organ: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["assess", "-i", str(scan), "-m", str(mask), "--anatomy", str(organ)]
    array = np.asarray(nibabel.load(mask).dataobj)
    array[5, 5, 5] = 1
    save(mask, array)
    assert run([*judge, "-o", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    [speck] = [c for c in json.loads((tmp_path / "out" / "verdict.json").read_text())["candidates"] if c["voxels"] == 1]
    assert speck["p_value"] is None
    assert f" {speck['number']}: {speck['reason']}" in printed


def test_numbers_are_printed_without_exponents() -> None:
    assert [plain_number(v, 2) for v in (365.3, 2.34, 0.056, 1480.0, 12.0)] == ["370", "2.3", "0.056", "1500", "12"]
    assert plain_number(1479.6, 3) == "1480"


def test_json_is_alone_on_stdout(judge: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*judge, "--json"]) == 0
    said = capsys.readouterr()
    jsonschema.validate(json.loads(said.out), anatrust.Verdict.json_schema())
    assert said.err == ""


def test_quiet_prints_nothing(judge: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*judge, "-q", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("fail_on", "code"), [("review", 3), ("abstain", 0)])
def test_fail_on_gates_a_pipeline(judge: list[str], tmp_path: Path, fail_on: str, code: int) -> None:
    assert run([*judge, "-q", "--fail-on", fail_on, "-o", str(tmp_path / "out")]) == code
    assert (tmp_path / "out" / "verdict.json").is_file()


def test_accept_passes_every_gate(scan: Path, organ: Path, tmp_path: Path) -> None:
    arguments = ["assess", "-i", str(scan), "-m", str(organ), "--kind", "organ", "--fail-on", "review", "-q"]
    assert run([*arguments, "-o", str(tmp_path / "out")]) == 0


def test_alpha_and_seed_reach_the_record(judge: list[str], tmp_path: Path) -> None:
    assert (
        run([*judge, "-q", "--alpha", "0.2", "--seed", "7", "--direction", "brighter", "-o", str(tmp_path / "out")])
        == 0
    )
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["seed"] == 7
    assert record["configuration"]["levels"] == {"candidates": 0.2, "sets": 0.2, "screening": 0.2}
    assert record["configuration"]["rejection"]["direction"] == "brighter"


# --- wrong arguments


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--alpha", "2"], "between 0 and 1"),
        (["--alpha", "x"], "--alpha"),
        (["--fail-on", "accept"], "--fail-on"),
        (["--kind", "bone"], "--kind"),
        (["--modality", "XRAY"], "modality"),
        (["--null", "magic"], "null"),
        (["--null", "cohort"], "cohort null"),
        (["--features", "magic"], "features"),
        (["--direction", "up"], "direction"),
        (["--seed", "-1"], "--seed"),
        (["--spacing", "wide"], "--spacing"),
        (["--spacing", "0"], "--spacing"),
        (["--spacing", "0.5"], "spacing"),
        (["--names", "no-table"], "label table"),
        (["--profile", "absent.profile"], "no file"),
        (["--no-such-option"], "--no-such-option"),
        (["extra"], "extra"),
    ],
)
def test_wrong_arguments_exit_2_with_one_line(
    judge: list[str], tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*judge, "-o", str(tmp_path / "out"), *more]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["assess"], ["assess", "-i", "x"], ["judge"], ["fit"], ["study"], ["--bad"]])
def test_incomplete_commands_exit_2_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    one_line(capsys)


def test_the_hint_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit"]) == 2
    assert one_line(capsys) == "anatrust: Missing argument 'COHORT.csv'; see anatrust fit --help\n"


def test_names_without_an_anatomy_are_refused(scan: Path, mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["assess", "-i", str(scan), "-m", str(mask), "--json", "--anatomy-names", "amos"]) == 2
    assert "--anatomy, which is missing" in one_line(capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--flag-rate", "7"], "flag_rate"),
        (["--sensitivity", "2"], "sensitivity"),
        (["--detectors", "x"], "detector 'x'"),
    ],
)
def test_options_of_fit_are_checked_where_the_cohort_does_not_use_them(
    scan: Path, mask: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(f"id,image,mask,lesion_free\n1,{scan},{mask},true\n")
    assert run(["fit", str(table), "-o", str(tmp_path / "p.profile"), *more]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "p.profile").exists()


def test_a_file_in_the_place_of_a_folder_is_a_wrong_argument(
    scan: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(f"id,image,mask,truth\n1,{scan},{mask},{mask}\n")
    assert run(["evaluate", str(table), "-o", str(scan)]) == 2
    assert "is a file: give a folder" in one_line(capsys)


def test_an_unknown_modality_is_refused_before_a_table_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "no-such.csv", "-o", "x", "--modality", "XRAY"]) == 2
    assert "--modality 'XRAY': choose one of CT" in one_line(capsys)


def test_results_need_a_place(judge: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(judge) == 2
    assert "-o DIR" in one_line(capsys)


def test_the_output_folder_is_a_file(judge: list[str], scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*judge, "-o", str(scan)]) == 2
    assert "is a file" in one_line(capsys)


# --- unreadable input


def header(shape: tuple[int, ...], affine: np.ndarray = AFFINE, datatype: int = 4) -> bytearray:
    """A bare NIfTI-1 header claiming a shape."""
    image = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4))
    data = bytearray(image.header.binaryblock) + bytes(4)
    struct.pack_into("<8h", data, 40, len(shape), *shape, *([1] * (7 - len(shape))))
    struct.pack_into("<h", data, 70, datatype)
    struct.pack_into("<f", data, 108, 352.0)
    struct.pack_into("<hh", data, 252, 0, 1)
    struct.pack_into("<12f", data, 280, *affine[:3].ravel())
    return data


def nan_scan(path: Path, value: float) -> Path:
    array = np.zeros(SHAPE, np.float32)
    array[5:, 5:] = 1
    array[3, 3, 3] = value
    return save(path / "nan.nii.gz", array)


def truncated(path: Path, scan: Path) -> Path:
    data = scan.read_bytes()
    (path / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    return path / "cut.nii.gz"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


HOSTILE = {
    "absent": lambda d, s: d / "absent.nii.gz",
    "empty file": lambda d, s: written(d / "empty.nii.gz", b""),
    "text called nifti": lambda d, s: written(d / "text.nii.gz", b"this is not an image\n" * 40),
    "truncated gzip": truncated,
    "zero size": lambda d, s: written(d / "zero.nii", bytes(header((40, 0, 20)))),
    "10^12 voxels": lambda d, s: written(d / "huge.nii", bytes(header((10_000, 10_000, 10_000))) + bytes(64)),
    "singular affine": lambda d, s: written(
        d / "flat.nii", bytes(header((4, 4, 4), np.diag([1.0, 0, 1, 1]))) + bytes(128)
    ),
    "NaN": lambda d, s: nan_scan(d, np.nan),
    "Inf": lambda d, s: nan_scan(d, np.inf),
    "4-D": lambda d, s: save(d / "four.nii.gz", np.zeros((6, 6, 6, 3), np.int16)),
    "unknown data type": lambda d, s: written(d / "odd.nii", bytes(header((4, 4, 4), datatype=1)) + bytes(128)),
    "empty folder": lambda d, s: (d / "folder").mkdir() or d / "folder",
    "empty dicom zip": lambda d, s: written(d / "series.zip", b"PK\x05\x06" + bytes(18)),
    "broken png": lambda d, s: written(d / "picture.png", b"\x89PNG\r\n\x1a\n" + bytes(30)),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("role", ["-i", "-m"])
def test_hostile_files_exit_2_with_one_line(
    what: str, role: str, scan: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"-i": scan, "-m": mask}
    given[role] = HOSTILE[what](tmp_path, scan)
    arguments = ["assess", "-o", str(tmp_path / "out"), *(str(v) for pair in given.items() for v in pair)]
    assert run(arguments) == 2
    said = one_line(capsys)
    assert len(said) < 500
    assert not (tmp_path / "out").exists()


def test_rgb_nifti_is_refused(
    shared_data: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb = shared_data / "brain_mr" / "ct_perfusion_rgb24.nii.gz"
    assert run(["assess", "-i", str(rgb), "-m", str(mask), "-o", str(tmp_path / "out")]) == 2
    assert "RGB" in one_line(capsys).upper()


def test_a_mask_of_another_patient_is_refused(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = AFFINE.copy()
    far[:3, 3] += 5000
    for name, shape, affine in (("far", SHAPE, far), ("other", (30, 30, 10), far)):
        array = np.zeros(shape, np.uint8)
        array[5:9, 5:9, 5:9] = 1
        path = save(tmp_path / f"{name}.nii.gz", array, affine)
        assert run(["assess", "-i", str(scan), "-m", str(path), "-o", str(tmp_path / "out")]) == 2
        one_line(capsys)


def test_probabilities_that_are_logits_are_refused(
    judge: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = save(tmp_path / "logits.nii.gz", np.random.default_rng(0).normal(0, 5, SHAPE).astype(np.float32))
    assert run([*judge, "-p", str(logits), "-o", str(tmp_path / "out")]) == 2
    assert "logits" in one_line(capsys)


def test_a_picture_as_mask_of_a_volume_is_refused(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((40, 36), np.uint8)).save(tmp_path / "mask.png")
    assert run(["assess", "-i", str(scan), "-m", str(tmp_path / "mask.png"), "-o", str(tmp_path / "out")]) == 2
    one_line(capsys)


def test_a_damaged_profile_is_refused(judge: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.profile").write_bytes(b"PK\x03\x04 and nothing more")
    assert run([*judge, "--profile", str(tmp_path / "p.profile"), "-o", str(tmp_path / "out")]) == 2
    assert "damaged" in one_line(capsys)


def test_verbose_shows_where_an_error_comes_from(judge: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*judge, "-v", "-o", "/proc/nowhere/out"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("anatrust: ")


# --- fit


def cohort(folder: Path, scan: Path, mask: Path, organ: Path, patients: int) -> Path:
    lines = ["id,image,mask,anatomy,lesion_free"]
    rng = np.random.default_rng(1)
    for k in range(patients):
        image = save(folder / f"h{k}.nii.gz", rng.normal(100, 10, SHAPE).astype(np.float32))
        lines.append(f"{k},{image.name},{mask.name},{organ.name},true")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder / "cohort.csv"


def test_fit_then_assess_with_the_profile(
    scan: Path, mask: Path, organ: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = cohort(tmp_path, scan, mask, organ, 4)
    profile = tmp_path / "my.profile"
    assert run(["fit", str(table), "-o", str(profile), "--segmenter", "boxes", "--no-gates"]) == 0
    said = capsys.readouterr()
    assert "8 candidates of 4 lesion-free patients" in said.out
    assert "level 0.1 needs 9" in said.out
    record = json.loads((tmp_path / "my.profile.run.json").read_text())
    assert record["configuration"]["rejection"]["gates"]["enabled"] is False
    assert list(record["outputs"]) == ["my.profile"]
    assert not (tmp_path / "my.profile.rows").exists()
    arguments = ["assess", "-i", str(scan), "-m", str(mask), "--anatomy", str(organ), "--profile", str(profile)]
    assert run([*arguments, "--alpha", "0.2", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["null"] == "cohort"
    assert verdict["candidates"][0]["decision"] == "kept"
    assert verdict["candidates"][0]["p_value"] == 0.2
    # The gates are off because the profile was fitted so.
    assert verdict["candidates"][1]["p_value"] is not None


def test_fit_with_a_score_of_probabilities(
    scan: Path, mask: Path, organ: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, profile = cohort(tmp_path, scan, mask, organ, 4), tmp_path / "likely.profile"
    fit = ["fit", str(table), "-o", str(profile), "--no-gates", "--score"]
    assert run([*fit, "likely"]) == 2
    assert "score is 'likely': choose one of auto, compact-contrast/1, likely-contrast/1" in one_line(capsys)
    assert run([*fit, "likely-contrast/1"]) == 2
    assert "row 2, column probabilities: the cell is empty" in one_line(capsys)
    soft = save(tmp_path / "soft.nii.gz", 0.8 * np.asarray(nibabel.load(mask).dataobj).clip(0, 1).astype(np.float32))
    first, *lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{first},probabilities", *(f"{line},{soft.name}" for line in lines)]) + "\n")
    assert run([*fit, "likely-contrast/1"]) == 0
    assert "score likely-contrast/1" in capsys.readouterr().out
    arguments = ["assess", "-i", str(scan), "-m", str(mask), "--anatomy", str(organ), "--profile", str(profile)]
    assert run([*arguments, "--json"]) == 2
    assert "give --probabilities" in one_line(capsys)
    assert run([*arguments, "--probabilities", str(soft), "--alpha", "0.2", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["null"], verdict["candidates"][0]["decision"]) == ("cohort", "kept")


def test_fit_says_which_row_is_left_out_and_prints_json(
    scan: Path, mask: Path, organ: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = cohort(tmp_path, scan, mask, organ, 2)
    (tmp_path / "h1.nii.gz").write_bytes(b"")
    assert run(["fit", str(table), "-o", str(tmp_path / "p.profile"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["profile"] == "p.profile"
    assert said.err.startswith("anatrust: cohort.csv, row 3: left out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,image\n1,gone.nii.gz\n", "row 2, column image"),
        ("id,image,lesion_free\n1,scan.nii.gz,true\n", "column mask"),
        ("id,image,mask,lesion_free\n1,scan.nii.gz,mask.nii.gz,no\n", "lesion_free"),
    ],
)
def test_tables_that_cannot_be_fitted_exit_2(
    scan: Path, mask: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cohort.csv").write_text(text)
    assert run(["fit", str(tmp_path / "cohort.csv"), "-o", str(tmp_path / "p.profile")]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "p.profile").exists()


def test_a_profile_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cohort.csv").write_text("id,image\n")
    for out in (tmp_path, tmp_path / "absent" / "p.profile"):
        assert run(["fit", str(tmp_path / "cohort.csv"), "-o", str(out)]) == 2
        assert "cannot write" in one_line(capsys)


# --- the rest


def test_version_help_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"anatrust {anatrust.__version__}\n"
    for arguments in ([], ["--help"], ["assess", "-h"], ["fit", "--help"], ["demo", "--help"], ["study", "-h"]):
        assert run(arguments) == 0
        assert "Usage: anatrust" in capsys.readouterr().out
    assert run(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["anatrust"] == anatrust.__version__
    assert facts["packages"]["numpy"] == np.__version__
    assert {"name", "kind", "installed", "licence", "extra", "summary"} == set(facts["backends"][0])
    assert {"amos", "btcv", "msd_liver"} <= set(facts["label_tables"])
    assert facts["torchvision"]["status"] in ("absent", "works", "broken")
    assert run(["info"]) == 0
    assert "torchvision" in capsys.readouterr().out


def test_unknown_studies_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "no-such-study"]) == 2
    assert "choose one of" in one_line(capsys)


def anatrust_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "anatrust", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_help_is_light() -> None:
    heavy = ["torch", "SimpleITK", "matplotlib", "numba", "scipy", "sklearn", "pandas", "nibabel", "pydicom"]
    code = (
        "import sys; from anatrust.cli.main import run; code = run(['--help']);"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.ENOSPC, 1, "no space is left"),
        (errno.EROFS, 2, "Read-only"),
        (errno.ENAMETOOLONG, 2, "too long"),
        (errno.EIO, 1, "Input/output"),
    ],
)
def test_what_the_disk_says_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    said: str,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "cohort.csv")

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").touch()
    monkeypatch.setattr("anatrust.pipeline.manifest.write_manifest", refuse)
    assert run(["manifest", str(tmp_path), "-o", str(tmp_path / "cohort.csv")]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_process_has_the_exit_code_and_one_line(tmp_path: Path) -> None:
    process = anatrust_process(
        "assess", "-i", str(tmp_path / "a"), "-m", str(tmp_path / "b"), "-o", str(tmp_path / "out")
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_nothing_half_written(scan: Path, mask: Path, tmp_path: Path, name: str) -> None:
    # The run is stopped while it waits for a pipe that nobody fills.
    pipe = tmp_path / "pipe.nii.gz"
    os.mkfifo(pipe)
    process = anatrust_process(
        "fit", str(blocked_cohort(tmp_path, scan, mask, pipe)), "-o", str(tmp_path / "p.profile")
    )
    wait_for(tmp_path / "p.profile.rows", process)
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert said.count("\n") == 1
    assert "interrupted" in said
    assert "p.profile.rows: the same command goes on" in said
    assert not (tmp_path / "p.profile").exists()
    finished = list((tmp_path / "p.profile.rows").iterdir())
    assert [f.suffix for f in finished] == [".json"]
    assert json.loads(finished[0].read_text())["scores"]


def blocked_cohort(folder: Path, scan: Path, mask: Path, pipe: Path) -> Path:
    """A table whose second row never finishes being read."""
    table = folder / "cohort.csv"
    table.write_text(f"id,image,mask,lesion_free\n1,{scan.name},{mask.name},true\n2,{pipe.name},{mask.name},true\n")
    return table


def wait_for(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until one finished row lies in the folder."""
    end = time.monotonic() + 120
    while not (folder.is_dir() and any(f.suffix == ".json" and not f.name.startswith(".") for f in folder.iterdir())):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_pipes_that_close_early_are_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from anatrust.cli import main; main()", "info", "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_plan_counts_with_and_without_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--alpha", "0.05"]) == 0
    assert "19 patients with truth" in capsys.readouterr().out
    (tmp_path / "scan.nii.gz").touch()
    (tmp_path / "c.csv").write_text("id,image,mask,lesion_free\n1,scan.nii.gz,scan.nii.gz,true\n")
    assert run(["plan", "--assurance", "0.1", str(tmp_path / "c.csv")]) == 0
    shown = capsys.readouterr().out
    assert "too few" in shown
    assert "25 patients with truth" in shown
    assert run(["plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["needed"] == 9
    assert run(["plan", "--alpha", "2"]) == 2
