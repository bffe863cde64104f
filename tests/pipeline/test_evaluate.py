"""Evaluating a table: the numbers of the metrics, the policy, groups, intervals, paired tests, panoptica's examples."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.image import read_mask, write_scan
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.image.write import write_mask
from anatrust.metrics import EdgeCases, metric_panel
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.evaluate import evaluate
from anatrust.pipeline.scan_metrics import EvaluationSettings

GRID = Grid((24, 20, 12), np.diag([1.0, 1.0, 2.0, 1.0]))


def ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    apart = (np.stack(np.indices(GRID.shape), axis=-1) - centre) * GRID.spacing
    return np.asarray((apart**2).sum(axis=-1) < radius**2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients, two scans each of the first; the rival is always worse; one healthy, one missed."""
    made = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(4)
    rows = []
    for number in range(13):
        truth = ball((12, 10, 6), 5 + number % 3)
        shift = rng.uniform(0.3, 1.2)
        mask, rival = ball((12 + shift, 10, 6), 5 + number % 3), ball((15 + shift, 10, 6), 5)
        if number == 11:
            truth, mask = np.zeros_like(truth), np.zeros_like(mask)
        if number == 12:
            mask = np.zeros_like(mask)
        write_scan(made / f"{number}.nii.gz", Scan(rng.normal(size=GRID.shape).astype(np.float32), GRID))
        for name, array in (("truth", truth), ("mask", mask), ("rival", rival)):
            write_mask(made / f"{number}-{name}.nii.gz", Mask(array, GRID))
        rows.append(
            {
                "id": f"scan{number}",
                "image": f"{number}.nii.gz",
                "mask": f"{number}-mask.nii.gz",
                "truth": f"{number}-truth.nii.gz",
                "rival": f"{number}-rival.nii.gz",
                "patient": f"secret-{max(number, 1)}",
                "group": "AB"[number % 2],
                "kernel": "soft" if number < 6 else "sharp",
            }
        )
    with (made / "cohort.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return made


def test_numbers_are_those_of_the_metrics(folder: Path) -> None:
    cohort = Cohort.read(folder / "cohort.csv")
    found = evaluate(cohort, settings=EvaluationSettings(surface_tolerance=1.0, hd95_definition="pooled"))
    assert len(found.scans) == 13
    third = found.scans[3]
    one, two = (read_mask(folder / f"3-{name}.nii.gz") for name in ("truth", "mask"))
    panel = metric_panel(
        Mask(one.array > 0, one.grid), Mask(two.array > 0, two.grid), surface_tolerance=1.0, hd95_definition="pooled"
    )
    assert third.values["dice"] == panel.dice
    assert third.values["hd95"] == panel.hd95
    assert third.values["surface_dice"] == panel.surface_dice
    assert third.values["truth_volume"] == panel.counts.truth * 2.0


def test_patients_count_once_and_empty_masks_by_the_policy(folder: Path) -> None:
    summary = evaluate(Cohort.read(folder / "cohort.csv"), by=("group", "kernel")).summary["mask"]["mask"]
    everyone = summary["all"]
    assert everyone["scans"] == 13
    assert everyone["dice"]["patients"] == 11  # two scans of one patient; the healthy scan has no Dice
    assert everyone["empty_truth"] == {"scans": 1, "left_empty": 1}
    assert everyone["missed"] == 1
    assert everyone["hd95"]["infinite"] == 1
    low, high = everyone["dice"]["interval"]
    assert low < everyone["dice"]["mean"] < high
    assert set(summary) == {"all", "group = A", "group = B", "kernel = soft", "kernel = sharp"}
    assert summary["kernel = soft"]["scans"] + summary["kernel = sharp"]["scans"] == 13
    strict = evaluate(Cohort.read(folder / "cohort.csv"), settings=EvaluationSettings(edge_cases=EdgeCases.undefined()))
    assert strict.summary["mask"]["mask"]["all"]["hd95"]["infinite"] == 0


def test_a_worse_rival_is_told_apart_and_an_equal_one_is_not(folder: Path) -> None:
    cohort = Cohort.read(folder / "cohort.csv")
    found = evaluate(cohort, rivals=("rival",), folder=folder)
    (dice,) = [row for row in found.comparisons if row["metric"] == "dice"]
    assert dice["difference"] > 0.1
    assert dice["p"] < 0.05
    assert dice["p"] <= dice["q"] <= 1
    rows = [{**row.metadata} for row in cohort]
    assert "rival" in rows[0]
    with (folder / "same.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "image", "mask", "truth", "copy"])
        writer.writerows(
            [n, f"{n}.nii.gz", f"{n}-mask.nii.gz", f"{n}-truth.nii.gz", f"{n}-mask.nii.gz"] for n in range(5)
        )
    same = evaluate(Cohort.read(folder / "same.csv"), rivals=("copy",), folder=folder)
    assert all(row["p"] == 1 and row["difference"] == 0 for row in same.comparisons)
    with pytest.raises(InputError, match="no column 'other': choose one of"):
        evaluate(cohort, rivals=("other",), folder=folder)
    (folder / "bare.csv").write_text("id,image,mask,truth\n0,0.nii.gz,0-mask.nii.gz,0-truth.nii.gz\n")
    with pytest.raises(InputError, match="it has none beside those of every cohort"):
        evaluate(Cohort.read(folder / "bare.csv"), by=("scanner",), folder=folder)


def test_a_killed_run_goes_on(folder: Path, tmp_path: Path) -> None:
    cohort = Cohort.read(folder / "cohort.csv")
    first = evaluate(cohort, cache=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 13
    files[0].write_text("damaged")
    stamps = {f: f.stat().st_mtime_ns for f in files[1:]}
    again = evaluate(cohort, cache=tmp_path)
    assert again.to_json() == first.to_json()
    assert {f: f.stat().st_mtime_ns for f in files[1:]} == stamps


def test_each_label_is_a_structure(tmp_path: Path) -> None:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[2:8, 2:8, 2:8], labels[12:18, 2:8, 2:8] = 1, 2
    moved = np.roll(labels, 1, axis=0)
    moved[moved == 2] = 3
    write_scan(tmp_path / "s.nii.gz", Scan(np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32), GRID))
    for name, array in (("t", labels), ("m", moved)):
        write_mask(tmp_path / f"{name}.nii.gz", LabelMap(array, GRID))
    (tmp_path / "c.csv").write_text("id,image,mask,truth\na,s.nii.gz,m.nii.gz,t.nii.gz\n")
    cohort = Cohort.read(tmp_path / "c.csv")
    each = {s.structure: s for s in evaluate(cohort).scans}
    assert set(each) == {"label 1", "label 2", "label 3"}
    assert each["label 1"].values["dice"] == pytest.approx(5 / 6)
    assert each["label 2"].values["dice"] == 0
    assert each["label 3"].truth_empty
    (union,) = evaluate(cohort, settings=EvaluationSettings(labels="union")).scans
    assert union.values["dice"] == pytest.approx(5 / 6)
    with pytest.raises(InputError, match="union"):
        EvaluationSettings(labels="some")


def test_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screened = ["id,verdict,abnormality", *(f"scan{n},usual,{n / 20}" for n in range(12)), "scan12,no_prediction,"]
    (tmp_path / "screen.csv").write_text("\n".join(screened) + "\n")
    out = tmp_path / "out"
    command = ["evaluate", str(folder / "cohort.csv"), "-o", str(out), "--by", "group,kernel", "--against", "rival"]
    assert run([*command, "--cldice", "--screening", str(tmp_path / "screen.csv")]) == 0
    said = capsys.readouterr().out
    assert "Dice of the mask minus rival +" in said
    [own] = [line for line in said.splitlines() if line.startswith("  mask, all:")]
    assert own.endswith(" but 1 infinite")  # the structure that was missed altogether
    names = {
        "metrics.csv",
        "evaluation.json",
        "evaluation.html",
        "run.json",
        "dice.svg",
        "hd95.svg",
        "risk-coverage.svg",
    }
    assert {f.name for f in out.iterdir()} == names
    plain = json.loads((out / "evaluation.json").read_text())
    assert plain["settings"]["edge_cases"]["overlap_both_empty"] == 1.0
    assert plain["risk_coverage"]["scans"] == 12
    assert plain["risk_coverage"]["best_aurc"] <= plain["risk_coverage"]["aurc"]
    page = (out / "evaluation.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "").replace(
        "https://www.w3.org", ""
    ).replace("http://purl.org", "").replace("http://creativecommons.org", "")
    for text in (page, (out / "evaluation.json").read_text()):
        assert "secret-" not in text
        assert "scan3" not in text
    with (out / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 26
    assert {"cldice", "kernel", "truth_volume"} <= set(rows[0])
    assert run(["evaluate", str(folder / "cohort.csv"), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scans"] == 13


@pytest.mark.parametrize(
    "wrong",
    [
        ["--by", "nothing"],
        ["--against", "nothing"],
        ["--empty", "x"],
        ["--labels", "x"],
        ["--lesions", "x"],
        ["--lesions", "iou", "--iou", "3"],
        ["--hd95", "x"],
        ["--tolerance", "-1"],
    ],
)
def test_wrong_arguments_are_one_line(
    wrong: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(folder / "cohort.csv"), "-o", str(tmp_path / "o"), "-q", *wrong]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "no row could be read" not in said  # no row's fault


def test_unreadable_rows_are_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    for n in range(2):
        for name in (f"{n}.nii.gz", f"{n}-truth.nii.gz", f"{n}-mask.nii.gz"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    text = "id,image,mask,truth\na,0.nii.gz,0-mask.nii.gz,0-truth.nii.gz\nb,1.nii.gz,bad.nii.gz,1-truth.nii.gz\n"
    (tmp_path / "c.csv").write_text(text)
    found = evaluate(Cohort.read(tmp_path / "c.csv"))
    assert [number for number, _ in found.unreadable] == [3]
    assert len(found.scans) == 1
    (tmp_path / "c.csv").write_text(text.replace("0-mask", "bad").replace("bad.nii.gz,0", "bad.nii.gz,0"))
    with pytest.raises(InputError, match="no row could be read"):
        evaluate(Cohort.read(tmp_path / "c.csv"))


def test_panopticas_published_examples(shared_data: Path) -> None:
    """Its README: semantic input, components matched at IoU ≥ 0.5; counts of the published spine example."""
    example = shared_data / "spine_mask_pairs" / "examples" / "spine_seg" / "semantic"
    truth = read_mask(example / "ref.nii.gz")
    prediction = read_mask(example / "pred.nii.gz", reference=truth.grid)
    panel: Any = metric_panel(
        Mask(truth.array > 0, truth.grid),
        Mask(prediction.array > 0, truth.grid),
        lesion_rule="iou",
        lesion_threshold=0.5,
    )
    overlap = np.count_nonzero((truth.array > 0) & (prediction.array > 0))
    total = np.count_nonzero(truth.array) + np.count_nonzero(prediction.array)
    assert panel.dice == pytest.approx(2 * overlap / total)
    assert panel.lesions.found + len(panel.lesions.missed) == panel.lesions.n_truth


def test_a_structure_has_one_name_whatever_else_a_scan_holds(tmp_path: Path) -> None:
    """A scan that holds one label of two, or none, counts for the structure it is about."""
    one, two = ball((7, 10, 6), 4), ball((17, 10, 6), 4)
    maps = {"both": one + 2 * two, "first": 1 * one, "second": 2 * two, "none": 0 * one}
    rows = ["id,image,mask,truth"]
    for name, labels in maps.items():
        write_scan(tmp_path / f"{name}.nii.gz", Scan(np.zeros(GRID.shape, np.float32), GRID))
        write_mask(tmp_path / f"{name}-labels.nii.gz", LabelMap(labels.astype(np.uint8), GRID))
        rows.append(f"{name},{name}.nii.gz,{name}-labels.nii.gz,{name}-labels.nii.gz")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    cohort = Cohort.read(tmp_path / "cohort.csv")
    found = evaluate(cohort)
    held = {(s.structure, s.row.id) for s in found.scans}
    assert held == {
        (f"label {k}", n) for k, ns in ((1, ("both", "first", "none")), (2, ("both", "second", "none"))) for n in ns
    }
    for groups in found.summary.values():
        assert (groups["mask"]["all"]["scans"], groups["mask"]["all"]["dice"]["patients"]) == (3, 2)
        assert groups["mask"]["all"]["empty_truth"] == {"scans": 1, "left_empty": 1}
    named = evaluate(cohort, names={1: "head", 2: "tail"})
    assert list(named.summary) == ["head", "tail"]
    # The only label of a table is its mask, whatever its number, unless it is named.
    (tmp_path / "cohort.csv").write_text("\n".join([rows[0], rows[3], rows[4]]))
    single = Cohort.read(tmp_path / "cohort.csv")
    assert {s.structure for s in evaluate(single).scans} == {"mask"}
    assert {s.structure for s in evaluate(single, names={2: "tail"}).scans} == {"tail"}


def test_yes_and_no_in_two_spellings_are_no_dice_of_zero(tmp_path: Path) -> None:
    inside = ball((12, 10, 6), 5)
    write_scan(tmp_path / "s.nii.gz", Scan(np.zeros(GRID.shape, np.float32), GRID))
    for name, value in (("one", 1), ("full", 255)):
        write_mask(tmp_path / f"{name}.nii.gz", LabelMap((inside * value).astype(np.uint8), GRID))
    (tmp_path / "cohort.csv").write_text("id,image,mask,truth\na,s.nii.gz,full.nii.gz,one.nii.gz\n")
    cohort = Cohort.read(tmp_path / "cohort.csv")
    with pytest.raises(InputError, match="the truth holds label 1 alone and the other mask label 255 alone"):
        evaluate(cohort)
    [whole] = evaluate(cohort, settings=EvaluationSettings(labels="union")).scans
    assert whole.values["dice"] == 1
