"""The acceptance test, from profile and table to outcome, page and exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.image import read_mask, read_probabilities, read_scan, write_probabilities
from anatrust.image.volumes import ProbabilityMap
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.sets import predict_sets
from anatrust.pipeline.verify import verify

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
