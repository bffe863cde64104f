"""Screening from a table: usual scans pass, strange ones are flagged, and the profile can be moved."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.image import read_mask, read_scan, write_scan
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.image.write import write_mask
from anatrust.pipeline.assess import assess
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.fit_screening import fit_screening
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.screening import screen_scan
from anatrust.pipeline.screening_features import make_description

GRID = Grid((40, 36), np.diag([1.0, 1.0, 1.0, 1.0]))


def write_patient(folder: Path, number: int, *, strange: bool = False) -> None:
    """Texture and a blob that is marked; strange scans are noisy where usual ones are smooth."""
    rng = np.random.default_rng([23, number])
    x, y = np.indices(GRID.shape)
    inside = (x - rng.uniform(15, 25)) ** 2 + (y - rng.uniform(13, 23)) ** 2 < 40
    noise = gaussian_filter(rng.normal(size=GRID.shape), 0.3 if strange else 2.0)
    image = 100 + 40 * inside + 20 * noise / noise.std()
    write_scan(folder / f"{number}-scan.nii.gz", Scan(image.astype(np.float32), GRID))
    write_mask(folder / f"{number}-mask.nii.gz", Mask(inside, GRID))


def table(folder: Path, rows: list[tuple[int, str]]) -> Path:
    with (folder / "cohort.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "image", "mask", "outlier"])
        writer.writerows([n, f"{n}-scan.nii.gz", f"{n}-mask.nii.gz", outlier] for n, outlier in rows)
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("screening")
    for number in range(60):
        write_patient(made, number, strange=number >= 45)
    return made


USUAL = [(n, "false") for n in range(35)]


def test_usual_scans_pass_and_strange_ones_are_flagged(folder: Path, tmp_path: Path) -> None:
    fitted = fit_screening(Cohort.read(table(folder, USUAL)), flag_rate=0.1, cache=tmp_path)
    assert fitted.section is not None
    assert fitted.notes == ()
    screener = fitted.section.screener
    assert (len(screener.fit_patients), screener.n_calibration) == (26, 9)
    verdicts = {}
    for number in (*range(35, 45), *range(45, 55)):
        scan = read_scan(folder / f"{number}-scan.nii.gz")
        labels = read_mask(folder / f"{number}-mask.nii.gz", reference=scan.grid)
        screening, why = screen_scan(fitted.section, scan, labels)
        assert why is not None
        verdicts[number] = screening.verdict
    assert sum(verdicts[n] == "strange" for n in range(35, 45)) <= 4  # 1 expected, one calibration of 9
    assert all(verdicts[n] == "strange" for n in range(45, 55))
    # Every scan has its features kept; a second fit makes none of them again.
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(stamps) == 35
    again = fit_screening(Cohort.read(table(folder, USUAL)), flag_rate=0.1, cache=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == stamps
    assert again.section is not None
    assert again.section.screener.threshold() == screener.threshold()


def test_strange_scans_are_learnt_from_where_there_are_enough(folder: Path) -> None:
    rows = [*USUAL, *((n, "true") for n in range(45, 55))]
    fitted = fit_screening(Cohort.read(table(folder, rows)), flag_rate=0.1)
    assert fitted.section is not None
    assert len(fitted.section.screener.detectors) == 2
    few = fit_screening(Cohort.read(table(folder, rows[:38])), flag_rate=0.1)
    assert any("too few to learn from" in note for note in few.notes)


def test_the_profile_is_moved_and_used_from_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = table(folder, USUAL)
    assert run(["fit", str(cohort), "-o", str(tmp_path / "p.profile"), "--flag-rate", "0.1", "-q"]) == 0
    elsewhere = tmp_path / "moved" / "other.profile"
    elsewhere.parent.mkdir()
    (tmp_path / "p.profile").rename(elsewhere)
    assert any("26 patients fitted on, 9 calibrated on" in line for line in Profile.load(elsewhere).describe())
    one = ["-i", str(folder / "50-scan.nii.gz"), "-m", str(folder / "50-mask.nii.gz")]
    assert run(["screen", "--profile", str(elsewhere), *one, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "strange"
    assert told["p_value"] == pytest.approx(0.1)
    assert run(["screen", "--profile", str(elsewhere), *one]) == 0
    assert "STRANGE" in capsys.readouterr().out
    rows = table(folder, [(40, ""), (51, "")])
    (folder / "41-mask.nii.gz").rename(tmp_path / "hidden")
    with rows.open("a") as handle:
        handle.write("broken,41-scan.nii.gz,,\n")
    assert run(["screen", str(rows), "--profile", str(elsewhere), "-o", str(tmp_path / "r.csv")]) == 0
    (tmp_path / "hidden").rename(folder / "41-mask.nii.gz")
    with (tmp_path / "r.csv").open() as handle:
        found = list(csv.DictReader(handle))
    assert [row["verdict"] for row in found][1:] == ["strange", "unreadable"]
    assert found[2]["reasons"].startswith("the mask is missing")


def test_assess_says_what_screening_found(folder: Path, tmp_path: Path) -> None:
    profile = fit(Cohort.read(table(folder, USUAL)), flag_rate=0.1, screening=make_description("descriptors"))
    assert profile.rejection is None
    paths = [folder / f"52-{what}.nii.gz" for what in ("scan", "mask")]
    verdict = assess(*paths, profile=profile, kind="organ")
    assert verdict.decision == "review"
    assert any(reason.startswith("screening: stranger") for reason in verdict.reasons)
    assert [s.level for s in verdict.statements if s.about == "scan"] == [0.1]
    from anatrust.cli.show_verdict import verdict_text

    assert "Screening: strange" in verdict_text(verdict)
    from anatrust import assess as with_page

    with_page(*paths, profile=profile, kind="organ", out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    card = page[page.index('class="card screening"') : page.index('id="promise-title"')]
    assert "The model may not be fit for this scan." in card
    assert "Nearest usual scans" in card
    assert "All 8 crops" in card  # the scan is no larger than a crop


def test_a_profile_is_of_one_modality(folder: Path) -> None:
    """A scan that does not say its modality is taken for the profile's; one of another is refused."""
    profile = fit(Cohort.read(table(folder, USUAL)), flag_rate=0.1, modality="MR")
    paths = [folder / f"52-{what}.nii.gz" for what in ("scan", "mask")]
    silent = assess(*paths, profile=profile, kind="organ")
    said = assess(*paths, profile=profile, kind="organ", modality="MR")
    assert silent.screening is not None
    assert said.screening is not None
    assert silent.screening.abnormality == said.screening.abnormality
    assert silent.scan.modality == "MR"
    assert [f.code for f in silent.findings if f not in said.findings] == ["modality-of-the-profile"]
    with pytest.raises(InputError, match="fitted on MR and this scan is CT"):
        assess(*paths, profile=profile, kind="organ", modality="CT")


def test_empty_predictions_are_a_verdict_of_their_own(folder: Path) -> None:
    section = fit_screening(Cohort.read(table(folder, USUAL)), flag_rate=0.1).section
    assert section is not None
    scan = read_scan(folder / "40-scan.nii.gz")
    empty = read_mask((np.zeros(GRID.shape, np.uint8), GRID.affine))
    screening, why = screen_scan(section, scan, empty)
    assert screening.verdict == "no_prediction"
    assert why is None


def test_too_few_patients_are_said(folder: Path) -> None:
    fitted = fit_screening(Cohort.read(table(folder, USUAL[:12])), flag_rate=0.05)
    assert fitted.section is not None
    assert any("cannot flag at 0.05" in note for note in fitted.notes)
    none = fit_screening(Cohort.read(table(folder, USUAL[:4])))
    assert none.section is None
    assert "too few" in none.notes[0]
    unmarked = fit_screening(Cohort.read(table(folder, [(0, "")])))
    assert unmarked.section is None


@pytest.mark.parametrize("wrong", [["-i", "x"], [], ["c.csv", "-i", "x", "-o", "y"], ["c.csv"]])
def test_wrong_arguments_are_one_line(
    wrong: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = table(folder, USUAL[:12])
    fit(Cohort.read(cohort)).save(tmp_path / "p.profile")
    given = [str(cohort) if a == "c.csv" else a for a in wrong]
    assert run(["screen", "--profile", str(tmp_path / "p.profile"), *given]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
