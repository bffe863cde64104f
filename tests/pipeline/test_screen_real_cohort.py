"""Fit and screen from the command line on real scans, the profile moved to another folder and process."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from anatrust.image import read_mask, read_scan, write_scan
from anatrust.image.write import write_mask
from anatrust.ood import shifted


def anatrust(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "anatrust", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_hippocampus_cohort_from_table_to_verdicts(shared_data: Path, tmp_path: Path) -> None:
    cohort = shared_data / "hippocampus_mr"
    names = sorted(f.name for f in (cohort / "images").glob("*.nii.gz"))
    header = ["id", "image", "mask", "outlier", "date"]

    def row(number: int, outlier: str) -> list[object]:
        image, mask = (cohort / part / names[number] for part in ("images", "labels"))
        return [f"s{number}", image, mask, outlier, f"2026-01-{1 + number % 28:02d}"]

    clinic, elsewhere = tmp_path / "clinic", tmp_path / "elsewhere"
    clinic.mkdir()
    elsewhere.mkdir()
    with (clinic / "cohort.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *(row(n, "false") for n in range(70))])
    how = ["--screen-with", "histogram", "--crop-edge", "32", "--modality", "MR", "--synthetic-outliers", "-q"]
    anatrust(clinic, "fit", "cohort.csv", "-o", "hippocampus.profile", *how)
    (clinic / "hippocampus.profile").rename(elsewhere / "moved.profile")
    (clinic / "cohort.csv").unlink()

    rows = [row(n, "") for n in range(70, 110)]
    for number in range(110, 122):
        image = read_scan(cohort / "images" / names[number], modality="MR")
        labels = read_mask(cohort / "labels" / names[number], reference=image.grid)
        changed, marks = shifted(image, labels, "modality", 1.0)
        write_scan(elsewhere / f"{number}.nii.gz", changed)
        write_mask(elsewhere / f"{number}-mask.nii.gz", marks)
        rows.append([f"s{number}", f"{number}.nii.gz", f"{number}-mask.nii.gz", "", ""])
    with (elsewhere / "new.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    told = anatrust(elsewhere, "screen", "new.csv", "--profile", "moved.profile", "-o", "found.csv")
    assert told.startswith("Wrote found.csv")
    with (elsewhere / "found.csv").open() as handle:
        found = {r["id"]: r for r in csv.DictReader(handle)}
    flagged = sum(found[f"s{n}"]["verdict"] == "strange" for n in range(70, 110))
    assert flagged <= 8  # 2 of 40 expected at 5 %; one calibration of 30 patients
    caught = [n for n in range(110, 122) if found[f"s{n}"]["verdict"] == "strange"]
    assert len(caught) >= 9, (flagged, caught, {n: found[f"s{n}"]["p_value"] for n in range(110, 122)})
    one = ["-i", f"{caught[0]}.nii.gz", "-m", f"{caught[0]}-mask.nii.gz", "--profile", "moved.profile"]
    assert "STRANGE" in anatrust(elsewhere, "screen", *one)
