"""``anatrust segment`` from the command line: exit codes, one line for each mistake, and what leaves the machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest

import anatrust
from anatrust.cli.main import run
from anatrust.pipeline.verdict import Verdict

SHAPE = (48, 40, 30)
AFFINE = np.array([[4.0, 0, 0, -96], [0, 4.0, 0, -80], [0, 0, 4.0, 0], [0, 0, 0, 1]])


def save(path: Path, array: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    image = np.full(SHAPE, -1000.0)
    image[4:44, 4:36] = 40
    image[24:42, 8:32, 4:26] = 100
    image[30:35, 18:23, 12:17] = 20
    return save(tmp_path / "Jane_Doe_1970.nii.gz", (image + rng.normal(0, 8, SHAPE)).round().astype(np.int16))


@pytest.fixture
def organs(tmp_path: Path) -> Path:
    array = np.zeros(SHAPE, np.uint8)
    array[24:42, 8:32, 4:26] = 5
    return save(tmp_path / "organs.nii.gz", array)


@pytest.fixture
def asked(scan: Path, organs: Path) -> list[str]:
    words = ["segment", "-i", str(scan), "--target", "liver tumour", "--anatomy", str(organs), "--modality", "CT"]
    return [*words, "--anatomy-names", "totalsegmentator_ct", "--null", "iid"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("anatrust: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


def test_the_words_and_the_scan_are_enough(asked, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([*asked, "-o", str(out), "--fail-on", "abstain"]) == 0
    text = capsys.readouterr().out
    assert "report.html" in text
    names = {"verdict.json", "kept.nii.gz", "rejected.nii.gz", "proposed.nii.gz", "anchors.nii.gz"}
    names |= {"probabilities.nii.gz", "candidates.csv", "report.html", "run.json"}
    assert {p.name for p in out.iterdir()} - {"undecidable.nii.gz"} == names
    plain = json.loads((out / "verdict.json").read_text())
    jsonschema.validate(plain, Verdict.json_schema())
    kept = np.asarray(nibabel.load(out / "kept.nii.gz").dataobj) > 0
    assert kept[32, 20, 14], "the planted lesion is drawn and kept"
    assert "liver tumour" in (out / "report.html").read_text()


def test_the_python_verb_is_the_same(asked, scan, organs, tmp_path):
    assert run([*asked, "-o", str(tmp_path / "out"), "-q"]) == 0
    verdict = anatrust.segment(
        scan, "liver tumour", anatomy=organs, anatomy_names="totalsegmentator_ct", modality="CT",
        settings=anatrust.RejectionSettings(null="iid"),
    )  # fmt: skip
    written = Verdict.from_json((tmp_path / "out" / "verdict.json").read_text())
    assert verdict.candidates == written.candidates
    assert verdict.reasons == written.reasons


def test_json_prints_the_verdict_alone(asked, capsys):
    assert run([*asked, "--json"]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), Verdict.json_schema())


def test_a_missing_device_is_one_line_with_the_embedded_parts(asked, tmp_path, capsys):
    """The default segmenter needs no torch, but the embedded anchors do."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run([*asked, "--device", "cuda", "-o", str(tmp_path)]) == 2
    assert "torch sees no CUDA device here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--target", "the weather tomorrow"], "no tumour or organ that is known"),
        (["--target", " "], "--target is empty"),
        (["--target", "liver tumour\x1b[31m"], "cannot be printed"),
        (["--target", "liver tumour " * 50], "name it in at most 200"),
        (["--segmenter", "unet"], "needs --weights"),
        (["--segmenter", "magic"], "no segmenter 'magic'"),
        (["--anchors", "magic"], "no anchor provider 'magic'"),
        (["--views", "all"], "choose identity, paper or flips"),
        (["--scales", "big"], "write for example 0.5,1,2"),
        (["--threshold", "2"], "between 0 and 1"),
        (["--planner", "oracle"], "no planner 'oracle'"),
        (["--planner", "llm"], "needs --planner-url and --planner-model"),
        (["--planner-url", "http://127.0.0.1:1/v1"], "the rules need no server"),
        (["--fail-on", "never"], "choose review or abstain"),
        (["--seed", "-1"], "give a number from 0"),
        (["--plain", "--json"], "a cohort and --plain write folders"),
        (["--plain"], "--plain is the segmenter alone and makes no use of --anatomy, --anatomy-names, --null"),
        (["--device", "abacus", "--segmenter", "blob"], "choose cpu or cuda"),
        (
            ["--planner", "llm", "--planner-url", "http://127.0.0.1:1/v1", "--planner-model", "m",
             "--planner-keyring", "nocolon"],
            "write SERVICE:USER",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_2(asked, tmp_path, capsys, more, message):
    arguments = [*asked, *([] if "--json" in more else ["-o", str(tmp_path / "out")]), *more]
    assert run(arguments) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_no_place_for_results_is_said_first(asked, capsys):
    assert run(asked) == 2
    assert "-o DIR" in one_line(capsys)


def test_names_without_a_map_and_a_map_beside_a_cohort_are_refused(scan, organs, tmp_path, capsys):
    words = ["segment", "--target", "liver tumour", "-o", str(tmp_path / "out")]
    assert run([*words, "-i", str(scan), "--anatomy-names", "amos"]) == 2
    assert "--anatomy, which is missing" in one_line(capsys)
    assert run([*words, "-i", str(tmp_path / "cohort.csv"), "--anatomy", str(organs)]) == 2
    assert "the table's column 'anatomy'" in one_line(capsys)


def test_plain_writes_what_the_segmenter_says(scan, tmp_path, capsys):
    out = tmp_path / "plain"
    words = ["segment", "-i", str(scan), "--target", "liver tumour", "--plain", "--modality", "CT"]
    assert run([*words, "-o", str(out)]) == 0
    drawn = int(np.count_nonzero(np.asarray(nibabel.load(out / "mask.nii.gz").dataobj)))
    assert capsys.readouterr().out.startswith(f"{drawn} voxels have a probability of 0.5 or more")
    assert {p.name for p in out.iterdir()} == {"mask.nii.gz", "probabilities.nii.gz", "logits.nii.gz", "run.json"}


def test_a_cohort_resumes_and_can_be_fitted(scan, organs, tmp_path, capsys):
    table = tmp_path / "cohort.csv"
    table.write_text(f"id,image,anatomy,lesion_free\nJane Doe,{scan.name},{organs.name},true\n")
    words = ["segment", "-i", str(table), "--target", "liver tumour", "--null", "iid", "--modality", "CT"]
    words += ["--anatomy-names", "totalsegmentator_ct", "-o", str(tmp_path / "out")]
    assert run(words) == 0
    assert "1 scans segmented, 0 were there already" in capsys.readouterr().out
    assert run(words) == 0
    assert "0 scans segmented, 1 were there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "row-00002" / "report.html").is_file()
    assert "Jane" not in (tmp_path / "out" / "cohort.csv").read_text().replace(scan.name, "")
    # Other names of the labels are another question.
    names = tmp_path / "names.json"
    names.write_text('{"5": "liver"}')
    words[words.index("totalsegmentator_ct")] = str(names)
    assert run(words) == 0
    assert "1 scans segmented, 0 were there already" in capsys.readouterr().out


GOOD = {
    "tumor": "liver tumour",
    "anchors": [{"organ": "liver"}],
    "roi": {"pad_mm": 12, "scales": [1.0], "square": False},
    "rationale": "It lies in the liver.",
}


def test_a_language_model_plans_and_sees_words_and_modality_alone(asked, chat_server, tmp_path):
    chat_server.answers = [GOOD]
    key = tmp_path / "key"
    key.write_text("secret-key\n")
    words = [
        "--planner",
        "llm",
        "--planner-url",
        chat_server.url,
        "--planner-model",
        "m",
        "--planner-key-file",
        str(key),
    ]
    assert run([*asked, *words, "--planner-cache", str(tmp_path / "cache"), "-o", str(tmp_path / "out"), "-q"]) == 0
    ((_, headers, body),) = chat_server.seen
    assert headers["Authorization"] == "Bearer secret-key"
    assert json.loads(json.loads(body)["messages"][1]["content"]) == {"tumor": "liver tumour", "modality": "CT"}
    everything = body + json.dumps(headers).encode()
    for private in (b"Jane", b"Doe", b"1970", b"nii", str(tmp_path).encode()):
        assert private not in everything
    run_text = (tmp_path / "out" / "run.json").read_text()
    plan = json.loads(run_text)["configuration"]["plan"]
    assert (plan["planner"], plan["pad"], plan["square"]) == ("llm", 12.0, False)
    assert json.loads(plan["record"]["request"]) == json.loads(body)
    assert "It lies in the liver" in plan["record"]["answer"]
    assert "secret-key" not in run_text
    # The answer is kept: no second request.
    assert run([*asked, *words, "--planner-cache", str(tmp_path / "cache"), "-o", str(tmp_path / "again"), "-q"]) == 0
    assert len(chat_server.seen) == 1


def test_a_dead_server_is_said_in_the_verdict(asked, tmp_path):
    words = ["--planner", "llm", "--planner-url", "http://127.0.0.1:9/v1", "--planner-model", "m"]
    assert run([*asked, *words, "-o", str(tmp_path / "out"), "-q"]) == 0
    verdict = Verdict.from_json((tmp_path / "out" / "verdict.json").read_text())
    (found,) = [f for f in verdict.findings if f.code == "planner-doubtful"]
    assert "made by rules, not by the language model" in found.sentence


def test_ctrl_c_leaves_nothing_half_written(asked, tmp_path):
    # The run stops in the middle of its folder, says so, and waits for the signal there: no sleep guesses the moment.
    code = (
        "import time, anatrust.pipeline.results as results\n"
        "from anatrust.cli import main\n"
        "def stuck(path, verdict):\n"
        "    path.write_text('half')\n"
        "    print(*sorted(p.name for p in path.parent.iterdir()), flush=True)\n"
        "    time.sleep(240)\n"
        "results.write_candidates = stuck\n"
        "main()\n"
    )
    out = tmp_path / "out"
    before = sorted(tmp_path.iterdir())
    started = subprocess.Popen(
        [sys.executable, "-c", code, *asked, "-q", "-o", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    half = started.stdout.readline().split()
    started.send_signal(signal.SIGINT)
    _, text = started.communicate(timeout=120)
    assert {"kept.nii.gz", "candidates.csv"} <= set(half)
    assert started.returncode == 130, text
    assert "interrupted" in text
    assert sorted(tmp_path.iterdir()) == before
