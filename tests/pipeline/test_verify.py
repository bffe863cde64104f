"""The acceptance test, from profile and table to outcome, page and exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.image import read_mask, read_probabilities, read_scan, write_probabilities
from anatrust.image.volumes import ProbabilityMap
from anatrust.pipeline.assess import assess
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.sets import predict_sets
from anatrust.pipeline.verify import verify

from .test_fit import patient as lesion_free
from .test_fit import save, write
from .test_fit_sets import table, write_patient


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    folder = tmp_path_factory.mktemp("site")
    for number in range(70):
        write_patient(folder, number)
    profile = fit(table(folder, range(36)), segmenter="blur")
    profile.save(folder / "p.profile")
    return folder, profile


@pytest.fixture
def blurred(site: tuple[Path, Profile], tmp_path: Path) -> Cohort:
    """The same site after somebody changed the segmenter: shifted by three voxels, and less sure."""
    folder, _ = site
    for number in range(36, 70):
        for what in ("scan", "truth"):
            name = f"{number}-{what}.nii.gz"
            (tmp_path / name).symlink_to(folder / name)
        soft = read_probabilities(folder / f"{number}-soft.nii.gz")
        moved = np.roll(soft.array, 3, axis=1) * np.float32(0.7)
        write_probabilities(tmp_path / f"{number}-soft.nii.gz", ProbabilityMap(moved, soft.grid, soft.classes))
    return table(tmp_path, range(36, 70))


def test_promises_hold_where_they_were_made(site: tuple[Path, Profile]) -> None:
    folder, profile = site
    result = verify(profile, table(folder, range(36, 70)))
    assert [c.promise for c in result.checks] == [
        "share of label 1 that its outer set misses",
        "share that the inner set of label 1 invents",
        "share of scans that break a bound of Dice",
        "share of scans that break a bound of HD95",
        "share of scans that break a bound of volume",
        "share of scans that break a bound of longest diameter",
    ]
    assert result.outcome in ("pass", "too few")
    assert not any(d.alarm for d in result.drift)
    assert all("no proof" in d.sentence for d in result.drift)
    assert result.patients == 34
    # The realised miss is the metric itself.
    assert profile.sets is not None
    missed = []
    for n in range(36, 70):
        scan = read_scan(folder / f"{n}-scan.nii.gz")
        truth = read_mask(folder / f"{n}-truth.nii.gz", reference=scan.grid)
        soft = read_probabilities(folder / f"{n}-soft.nii.gz", reference=scan.grid)
        outer = predict_sets(profile.sets, scan, probabilities=soft, mask=truth)[0].outer.array
        missed.append((truth.array.astype(bool) & ~outer).sum() / truth.array.astype(bool).sum())
    assert result.checks[0].realised == pytest.approx(np.mean(missed))


def test_a_changed_segmenter_fails_and_drift_is_seen(site: tuple[Path, Profile], blurred: Cohort) -> None:
    result = verify(site[1], blurred)
    assert result.outcome == "fail"
    assert result.sentence.startswith("FAIL")
    assert result.checks[0].outcome == "fail"
    assert any(d.alarm and "find out what changed" in d.sentence for d in result.drift)


def invented(folder: Path, numbers: range, *, contrast: float = 0.0) -> list[dict[str, str]]:
    """Lesion-free patients; what the segmenter drew there looks a little (or very) unlike its surroundings."""
    rows = []
    for number in numbers:
        row = lesion_free(folder, number)
        scan, mask = (nibabel.load(folder / row[what]) for what in ("image", "mask"))
        rng = np.random.default_rng(number)
        image = np.asarray(scan.dataobj) + (rng.normal(0, 3) + contrast) * (np.asarray(mask.dataobj) > 0)
        save(folder / row["image"], image.astype(np.float32))
        rows.append(row)
    return rows


def test_the_cohort_null_is_tested_on_lesion_free_patients(tmp_path: Path) -> None:
    profile = fit(write(tmp_path, invented(tmp_path, range(19))), segmenter="two boxes")
    here = verify(profile, write(tmp_path, invented(tmp_path, range(30, 54))))
    (check,) = here.checks
    assert check.promise == "share of lesion-free patients in whom any candidate is kept"
    assert (check.level, check.patients) == (0.1, 24)
    # What the test measures is what `assess` would keep.
    kept = []
    for row in write(tmp_path, invented(tmp_path, range(30, 54))):
        verdict = assess(row.image, row.mask, anatomy=row.anatomy, profile=profile, kind="lesion")
        kept.append(any(c.decision == "kept" for c in verdict.candidates))
    assert check.realised == np.mean(kept)
    assert check.realised < 0.35  # more than 8 of 24 at a level of 0.1 has a probability below 1 in 1 000
    there = verify(profile, write(tmp_path, invented(tmp_path, range(60, 72), contrast=60.0)))
    assert there.outcome == "fail"
    assert there.checks[0].realised == 1.0


def test_one_kept_candidate_in_any_scan_of_a_patient_counts(tmp_path: Path) -> None:
    profile = fit(write(tmp_path, invented(tmp_path, range(12))))
    odd, usual = invented(tmp_path, range(80, 81), contrast=60.0), invented(tmp_path, range(81, 84))
    rows = [row | {"patient": "one"} for row in (*odd, *usual)]
    (check,) = verify(profile, write(tmp_path, rows)).checks
    assert (check.patients, check.realised) == (1, 1.0)


def test_a_null_that_cannot_be_tested_is_said(tmp_path: Path) -> None:
    few = fit(write(tmp_path, invented(tmp_path, range(4))))
    with pytest.raises(InputError, match="no row tests"):
        verify(few, write(tmp_path, invented(tmp_path, range(30, 33))))
    profile = fit(write(tmp_path, invented(tmp_path, range(12))))
    bare = [{k: v for k, v in row.items() if k != "anatomy"} for row in invented(tmp_path, range(30, 33))]
    with pytest.raises(InputError, match="row 2, column anatomy"):
        verify(profile, write(tmp_path, bare))
    assert profile.rejection is not None
    likely = replace(profile.rejection, settings=replace(profile.rejection.settings, score="likely-contrast/1"))
    with pytest.raises(InputError, match="row 2, column probabilities: the cell is empty and the profile's score"):
        verify(replace(profile, rejection=likely), write(tmp_path, invented(tmp_path, range(30, 33))))
    rows = invented(tmp_path, range(30, 33))
    save(tmp_path / rows[1]["image"], np.full((4, 4, 4), np.nan, dtype=np.float32))
    told: list[str] = []
    result = verify(profile, write(tmp_path, rows), warn=told.append)
    assert (result.patients, result.left_out) == (2, 1)
    assert "row 3: left out" in told[0]


def test_the_null_stays_open_where_nobody_is_lesion_free(site: tuple[Path, Profile], tmp_path: Path) -> None:
    folder, profile = site
    null = fit(write(tmp_path, invented(tmp_path, range(12)))).rejection
    result = verify(replace(profile, rejection=null), table(folder, range(36, 40)))
    assert any("the cohort null was not tested: no row" in note for note in result.notes)
    assert "candidates are ranked by the profile's score, compact-contrast/1" in result.notes
    thin = fit(write(tmp_path, invented(tmp_path, range(4)))).rejection
    result = verify(replace(profile, rejection=thin), table(folder, range(36, 40)))
    assert any("no candidate is ever kept" in note for note in result.notes)


def test_few_patients_are_told(site: tuple[Path, Profile]) -> None:
    result = verify(site[1], table(site[0], range(40, 44)))
    assert result.outcome == "too few"
    assert "TOO FEW" in result.sentence


def test_an_interrupted_run_goes_on(site: tuple[Path, Profile], tmp_path: Path) -> None:
    cohort = table(site[0], range(36, 46))

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(site[1], cohort, cache=tmp_path, progress=stop)
    stamps = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    assert len(stamps) == 4
    again = verify(site[1], cohort, cache=tmp_path)
    assert all(f.stat().st_mtime_ns == stamp for f, stamp in stamps.items())
    assert again == verify(site[1], cohort)


def test_nothing_to_test_is_said(site: tuple[Path, Profile]) -> None:
    with pytest.raises(InputError, match="no row tests"):
        verify(site[1], table(site[0], range(36, 40), ("mask",)))


def test_the_command_writes_a_page_and_exits_with_three_on_fail(
    site: tuple[Path, Profile], blurred: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = site
    table(folder, range(36, 70))
    profile = str(folder / "p.profile")
    assert run(["verify", profile, str(folder / "cohort.csv"), "-o", str(tmp_path / "good"), "-q"]) == 0
    assert run(["verify", profile, str(tmp_path / "cohort.csv"), "-o", str(tmp_path / "bad")]) == 3
    told = capsys.readouterr().out
    assert told.startswith("FAIL")
    assert sorted(f.name for f in (tmp_path / "bad").iterdir()) == ["run.json", "verify.html", "verify.json"]
    plain = json.loads((tmp_path / "bad" / "verify.json").read_text())
    assert plain["outcome"] == "fail"
    for name in ("good", "bad"):
        page = (tmp_path / name / "verify.html").read_text()
        assert "default-src" in page
        assert "http://" not in page
        assert "https://" not in page
        assert "no proof that these patients are like those calibrated on" in page
        assert "exchangeable" not in page
    assert "alarm" in page
    assert run(["verify", profile, str(tmp_path / "cohort.csv"), "-o", str(tmp_path / "x"), "--tolerance", "1"]) == 2
