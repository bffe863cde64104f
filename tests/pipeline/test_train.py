"""The three training stages from the command line, on tiny random models and made-up slices."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.train import TrainingPlan, labelled_pictures, train
from anatrust.studies.tiny_models import tiny_qwen, tiny_sam2


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows = ["id,image,truth,patient"]
    for patient in range(2):
        labels = np.zeros((48, 56, 3), np.uint8)
        labels[6:26, 8 + patient : 30, 1] = 1
        labels[30:44, 30:50, 1:] = 2
        scan = labels * 40.0 + np.random.default_rng(patient).normal(20, 2, labels.shape)
        for kind, array in (("scan", scan.astype(np.float32)), ("truth", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1, 3, 1])), tmp_path / f"{kind}{patient}.nii.gz")
        rows.append(f"{patient},scan{patient}.nii.gz,truth{patient}.nii.gz,p{patient}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "names.json").write_text(json.dumps({"1": "liver", "2": "spleen"}))
    return tmp_path


def _curves(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard would draw of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[float]] = {}
    for events in sorted(folder.rglob("events.out.tfevents.*")):
        read = EventAccumulator(str(events))
        read.Reload()
        for tag in read.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.value for event in read.Scalars(tag))
    return found


def test_the_three_stages_run_one_after_the_other(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_qwen(place / "qwen")
    tiny_sam2(place / "sam2")
    common = f"model: qwen\ncohort: cohort.csv\nnames: {place}/names.json\n"
    (place / "sft.yaml").write_text(
        common + "output: one\nsettings: {samples: 4, epochs: 1, batch: 2, save_every: 9}\n"
    )
    (place / "grpo.yaml").write_text(
        common + "output: two\nadapters: [one]\n"
        "settings: {steps: 1, generations: 2, batch: 2, longest: 4, save_every: 9, lora: {rank: 4}}\n"
    )
    (place / "seg.yaml").write_text(
        common + "output: three\nadapters: [one, two]\nsam2: sam2\nsettings: {steps: 2, batch: 1, save_every: 2}\n"
    )
    (place / "masks.yaml").write_text(
        common + "output: four\nadapters: [one, two, three]\nsam2: sam2\nmasks: three\n"
        "settings: {steps: 1, generations: 2, batch: 2, longest: 4, tasks: [segment], relations: 0.1}\n"
    )
    for stage, plan, folder in (
        ("sft", "sft", "one"), ("grpo", "grpo", "two"), ("seg", "seg", "three"), ("grpo", "masks", "four")
    ):  # fmt: skip
        assert run(["train", stage, str(place / f"{plan}.yaml")]) == 0
        record = json.loads((place / folder / "run.json").read_text())
        assert record["configuration"]["patients"] == 2
        assert all(np.isfinite(record["figures"]))
        assert str(place) not in json.dumps(record)
        drawn = _curves(place / folder)
        curve = drawn["train/loss" if stage != "grpo" else "train/reward"]
        assert curve == pytest.approx(record["figures"], abs=1e-4), "TensorBoard shows what run.json says"
    assert "steps, loss" in capsys.readouterr().out
    assert (place / "three" / "attention.safetensors").is_file()


def test_slices_are_shown_as_a_reader_sees_them(place: Path) -> None:
    pictures = labelled_pictures(Cohort.read(place / "cohort.csv"), names=str(place / "names.json"), slices=1)
    assert [p.patient for p in pictures] == ["p0", "p1"]
    liver = np.argwhere(pictures[0].labels == 1).mean(0)
    spleen = np.argwhere(pictures[0].labels == 2).mean(0)
    # The files' axes run to the patient's right and front (from +x left to right, from +y back to front).
    assert liver[1] < spleen[1]
    assert liver[0] < spleen[0]
    assert pictures[0].image.shape == (56, 48)
    assert pictures[0].names == {1: "liver", 2: "spleen"}
    assert 0 <= pictures[0].image.min() <= pictures[0].image.max() <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "not YAML"),
        ("just words", "holds no settings"),
        ("model: a\ncohort: c\noutput: o\nmodle: b", "no setting 'modle'"),
        ("model: a\ncohort: c", "lacks 'output'"),
        ("model: a\ncohort: c\noutput: o\nconvention: inches", "convention is pixels"),
    ],
)
def test_wrong_plans_are_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        TrainingPlan.read(tmp_path / "plan.yaml")
    assert run(["train", "sft", str(tmp_path / "plan.yaml")]) == 2


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("draw", {}, "no stage 'draw'"),
        ("seg", {}, "needs 'sam2'"),
        ("grpo", {"tasks": ["segment"]}, "needs 'sam2' and 'masks'"),
        ("sft", {"stpes": 3}, "no setting 'stpes'"),
        ("sft", {"lora": {"width": 3}}, "cannot be read"),
    ],
)
def test_wrong_stages_are_said(place: Path, stage: str, settings: dict[str, object], message: str) -> None:
    plan = TrainingPlan("qwen", place / "cohort.csv", place / "out", settings=settings)
    with pytest.raises(InputError, match=message):
        train(stage, plan)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_said_before_anything_is_read(place: Path) -> None:
    for device in ("abacus", "cuda:99"):
        (place / "sft.yaml").write_text(f"model: qwen\ncohort: cohort.csv\noutput: one\ndevice: {device}\n")
        with pytest.raises(InputError, match="device"):
            train("sft", TrainingPlan.read(place / "sft.yaml"))
        assert not (place / "one").exists()


def test_the_masks_need_their_adapter(place: Path) -> None:
    plan = TrainingPlan("qwen", place / "cohort.csv", place / "out", sam2="sam2", settings={"lora": None})
    with pytest.raises(InputError, match="needs an adapter"):
        train("seg", plan)


def test_a_table_without_truth_is_said(place: Path) -> None:
    (place / "bare.csv").write_text("id,image\n0,scan0.nii.gz\n")
    told: list[str] = []
    with pytest.raises(InputError, match="no scan has a truth"):
        labelled_pictures(Cohort.read(place / "bare.csv"), warn=told.append)
    assert told == ["row 2 has no truth and is left out"]
