"""Sets from a cohort of files: split by patient, resumable, and the same sets on the scan as calibrated."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.tuning import choose_recipe
from anatrust.errors import InputError
from anatrust.image import read_mask, read_probabilities, read_scan, write_probabilities, write_scan
from anatrust.image.grid import Grid
from anatrust.image.region import Region
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.image.write import write_mask
from anatrust.models.descriptors import LocalDescriptors
from anatrust.pipeline.assess import assess
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.fit_sets import SetOptions, fit_sets
from anatrust.pipeline.labelled import LabelledImage, labelled_case, region_of
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.sets import SetsSection, predict_sets

GRID = Grid((20, 18, 10), np.diag([1.0, 1.2, 2.0, 1.0]))


def write_patient(folder: Path, number: int, *, channels: int = 1) -> None:
    """A blob of tissue, a truth of one or two parts, and a segmenter's blurred idea of it."""
    rng = np.random.default_rng([17, number])
    x, y, z = np.indices(GRID.shape)
    a, b = rng.uniform(8, 12), rng.uniform(7, 11)
    inside = (x - a) ** 2 + (1.2 * (y - b)) ** 2 + (2 * (z - 5)) ** 2 < rng.uniform(30, 45)
    truth = np.where(inside, 1 + (channels > 1) * (z >= 5), 0).astype(np.uint8)
    image = 100 + 40 * inside + gaussian_filter(rng.normal(size=GRID.shape), 1) * 20
    soft = [
        np.clip(gaussian_filter((truth == k).astype(float), 1) + 0.08 * rng.normal(size=GRID.shape), 0, 1)
        for k in range(1, channels + 1)
    ]
    maps = np.array(soft if channels == 1 else [np.clip(1 - np.sum(soft, axis=0), 0, 1), *soft], dtype=np.float32)
    maps = maps / maps.sum(axis=0) if channels > 1 else maps
    classes = ("foreground",) if channels == 1 else ("background", "a", "b")
    write_scan(folder / f"{number}-scan.nii.gz", Scan(image.astype(np.float32), GRID))
    write_mask(folder / f"{number}-truth.nii.gz", LabelMap(truth, GRID))
    write_mask(folder / f"{number}-mask.nii.gz", Mask(maps[-1] > 0.5, GRID))
    write_probabilities(folder / f"{number}-soft.nii.gz", ProbabilityMap(maps, GRID, classes))


def table(folder: Path, numbers: range, columns: tuple[str, ...] = ("probabilities", "truth")) -> Cohort:
    names = {"probabilities": "soft", "truth": "truth", "mask": "mask"}
    with (folder / "cohort.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "image", *columns])
        for n in numbers:
            writer.writerow([n, f"{n}-scan.nii.gz", *(f"{n}-{names[c]}.nii.gz" for c in columns)])
    return Cohort.read(folder / "cohort.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cohort")
    for number in range(34):
        write_patient(made, number)
    return made


def missed_and_invented(section: SetsSection, folder: Path, numbers: range) -> tuple[float, float]:
    missed, invented = [], []
    for n in numbers:
        scan = read_scan(folder / f"{n}-scan.nii.gz")
        truth = read_mask(folder / f"{n}-truth.nii.gz", reference=scan.grid).array == 1
        soft = read_probabilities(folder / f"{n}-soft.nii.gz", reference=scan.grid)
        mask = read_mask(folder / f"{n}-mask.nii.gz", reference=scan.grid)
        sets = predict_sets(section, scan, probabilities=soft, mask=mask)[0]
        missed.append((truth & ~sets.outer.array).sum() / truth.sum())
        invented.append(min(1.0, (sets.inner.array & ~truth).sum() / truth.sum()))
    return float(np.mean(missed)), float(np.mean(invented))


def test_a_cohort_becomes_sets_that_hold_on_other_patients(folder: Path) -> None:
    found = fit_sets(table(folder, range(24)))
    section, notes = found.section, found.notes
    assert section is not None
    assert section.labels == (1,)
    # 24 patients, 9 needed: 7 tune, 17 calibrate.
    assert section.calibrations[0].patients == 17
    assert section.tunings[0] is not None
    assert section.calibrations[0].outer.feasible
    assert any("crosses true borders" in note for note in notes)
    missed, invented = missed_and_invented(section, folder, range(24, 34))
    # Ten patients; their losses lie within a few hundredths of each other.
    assert missed < 0.13
    assert invented < 0.13
    assert missed > 0
    again = SetsSection.from_json(section.to_json())
    assert again.to_json() == section.to_json()


def test_a_killed_fit_goes_on_and_ends_the_same(folder: Path, tmp_path: Path) -> None:
    cohort = table(folder, range(24))
    whole = fit_sets(cohort).section
    calls: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if stage == "sets: calibration" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_sets(cohort, cache=tmp_path, progress=stop)
    kept = sorted(tmp_path.iterdir())
    # The tuning, seven patients learnt from, before and after the thresholds were known, and five calibrated on.
    assert len(kept) == 1 + 7 + 7 + 5
    assert not [file for file in kept if file.suffix not in (".json", ".npz")]
    stamps = [file.stat().st_mtime_ns for file in kept]
    resumed = fit_sets(cohort, cache=tmp_path).section
    assert [file.stat().st_mtime_ns for file in kept] == stamps
    assert whole is not None
    assert resumed is not None
    assert resumed.to_json() == whole.to_json()


def test_a_killed_choice_of_the_score_measures_no_score_twice(folder: Path, tmp_path: Path) -> None:
    cohort = table(folder, range(24))
    stages: list[tuple[str, int, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        stages.append((stage, done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_sets(cohort, cache=tmp_path, progress=stop)
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    assert len(kept) == 3
    assert stages[-1][0].startswith("tuning")
    # What was kept is used: scores that look ten times as bad are not measured again.
    plain, *others = kept
    file.write_text(json.dumps({plain: kept[plain]} | {o: [[10 * v for v in row] for row in kept[o]] for o in others}))
    resumed = fit_sets(cohort, cache=tmp_path).section
    assert resumed is not None
    assert resumed.tunings[0] is not None
    rows = {row["label"]: row["relative"] for row in resumed.tunings[0]["rows"]}
    assert all(rows[other] > 2 for other in others)
    assert len(rows) > 20


def test_scores_are_compared_where_the_structure_may_be(tmp_path: Path) -> None:
    """A small structure in a large scan: its box and 20 mm around it are as good to choose a score in as the whole."""
    grid = Grid((70, 60, 20), np.diag([1.5, 1.5, 3.0, 1.0]))
    rng = np.random.default_rng(3)
    truth = np.zeros(grid.shape, np.uint8)
    truth[30:38, 28:35, 9:13] = 1
    image = Scan((100 + 30 * truth + rng.normal(0, 5, grid.shape)).astype(np.float32), grid)
    noise = gaussian_filter(rng.normal(size=grid.shape), 1)
    near = gaussian_filter(truth.astype(float), 1.5)
    soft = np.where(near > 0.01, np.clip(near + 0.5 * noise, 0, 1), 0).astype(np.float32)
    one = LabelledImage(image, {1: soft}, {1: soft > 0.5}, LabelMap(truth, grid))
    region = region_of(one, 1)
    reached = np.argwhere((soft >= 0.001) | (truth == 1))
    for axis, pad in enumerate((14, 14, 7)):
        assert region.start[axis] == max(0, reached[:, axis].min() - pad)
        assert region.stop[axis] == min(grid.shape[axis], reached[:, axis].max() + 1 + pad)
    assert np.prod(region.shape) < 0.6 * truth.size
    cut, whole = (labelled_case("p", one, 1, LocalDescriptors(), box) for box in (region, Region.whole(grid.shape)))
    np.testing.assert_allclose(cut.grid.to_world((0, 0, 0)), grid.to_world(region.start))
    assert cut.probabilities.base is None
    assert cut.features is not None
    assert cut.features().shape[:3] == region.shape
    recipes = [ScoreRecipe("probability"), ScoreRecipe("gaussian"), ScoreRecipe("lattice", core=0.5)]
    rows = [choose_recipe([case], recipes, 0.1, 50).rows for case in (cut, whole)]
    for small, large in zip(*rows, strict=True):
        assert (small.assd, small.hd95) == pytest.approx((large.assd, large.hd95), rel=0.02)
    empty = LabelledImage(image, {1: 0 * soft}, {}, LabelMap(0 * truth, grid))
    assert region_of(empty, 1) == Region.whole(grid.shape)


def test_few_patients_calibrate_the_plain_score_and_say_so(folder: Path) -> None:
    found = fit_sets(table(folder, range(10)))
    section, notes = found.section, found.notes
    assert section is not None
    assert section.calibrations[0].recipe.name == "probability"
    assert section.calibrations[0].patients == 10
    assert any("too few to tune" in note for note in notes)
    found = fit_sets(table(folder, range(5)))
    tiny, notes = found.section, found.notes
    assert tiny is not None
    assert any("infeasible" in note for note in notes)


def test_masks_alone_are_graded_by_distance(folder: Path) -> None:
    section = fit_sets(table(folder, range(24), ("mask", "truth"))).section
    assert section is not None
    assert section.graded_masks
    missed, invented = missed_and_invented(section, folder, range(24, 34))
    assert missed < 0.13
    assert invented < 0.13


def test_classes_become_structures(tmp_path: Path) -> None:
    for number in range(12):
        write_patient(tmp_path, number, channels=2)
    section = fit_sets(table(tmp_path, range(12)), SetOptions(tune=False)).section
    assert section is not None
    assert section.labels == (1, 2)
    scan = read_scan(tmp_path / "3-scan.nii.gz")
    soft = read_probabilities(tmp_path / "3-soft.nii.gz", reference=scan.grid)
    mask = read_mask(tmp_path / "3-mask.nii.gz", reference=scan.grid)
    first, second = predict_sets(section, scan, probabilities=soft, mask=mask)
    assert first.outer.array.any()
    assert not np.array_equal(first.outer.array, second.outer.array)
    single = ProbabilityMap(soft.array[1:2], scan.grid)
    with pytest.raises(InputError, match="label 2"):
        predict_sets(section, scan, probabilities=single, mask=mask)
    with pytest.raises(InputError, match="-p"):
        predict_sets(section, scan, probabilities=None, mask=mask)


def test_unreadable_scans_are_left_out_and_named_once(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("*.nii.gz"):
        (tmp_path / file.name).symlink_to(file)
    broken = tmp_path / "4-scan.nii.gz"
    broken.unlink()
    broken.write_bytes(b"not an image")
    told: list[str] = []
    section = fit_sets(table(tmp_path, range(12)), SetOptions(tune=False), warn=told.append).section
    assert section is not None
    assert (section.calibrations[0].patients, section.calibrations[0].empty) == (11, 1)
    assert len(told) == 1
    assert told[0].startswith("row 6: left out")


def test_cohorts_without_truth_fit_nothing(folder: Path) -> None:
    found = fit_sets(table(folder, range(5), ("mask",)))
    section, notes = found.section, found.notes
    assert section is None
    assert "truth" in notes[0]


def test_a_profile_of_sets_goes_from_table_to_masks_on_the_scan(folder: Path, tmp_path: Path) -> None:
    """`fit` on labelled scans alone, the profile moved elsewhere, `assess` with it."""
    profile = fit(table(folder, range(20)), segmenter="blur", cache=tmp_path / "rows")
    assert profile.rejection is None
    assert any("no cohort null" in line for line in profile.not_fitted)
    profile.save(tmp_path / "p.profile")
    again = Profile.load(tmp_path / "p.profile")
    assert again.sets is not None
    assert profile.sets is not None
    assert again.sets.to_json() == profile.sets.to_json()
    assert any(line.startswith("sets of label 1: 15 patients") for line in again.describe())
    sources = [folder / f"30-{what}.nii.gz" for what in ("scan", "mask")]
    verdict = assess(
        *sources, probabilities=folder / "30-soft.nii.gz", profile=again, kind="organ", out=tmp_path / "out"
    )
    assert set(verdict.files) >= {"inner", "outer"}
    grid = read_scan(sources[0]).grid
    inner, outer = (read_mask(tmp_path / "out" / verdict.files[side]) for side in ("inner", "outer"))
    assert inner.grid.same_as(grid)
    assert not (inner.array & ~outer.array.astype(bool)).any()
    assert verdict.sets[0].outer_voxels == int(outer.array.astype(bool).sum())
    assert verdict.sets[0].outer_voxels >= verdict.sets[0].inner_voxels == int(inner.array.astype(bool).sum()) > 0
    from anatrust import assess as with_page

    soft = folder / "30-soft.nii.gz"
    with_page(*sources, probabilities=soft, profile=again, kind="organ", out=tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "the outer set misses at most 10 % of the structure" in page
    assert all(f'id="volume-{name}"' in page for name in ("inner-0", "outer-0", "entropy", "probability"))
    from anatrust.cli.show_verdict import verdict_text

    assert "set of   inner" in verdict_text(verdict)
    said = [s for s in verdict.statements if s.about == "sets"]
    assert len(said) == 2
    assert all(s.level == 0.1 and s.strength == "exact" for s in said)
    without = assess(*sources, profile=again, kind="organ")
    assert without.sets == ()
    assert any("no sets" in note for note in without.notes)
    other = assess(*sources, probabilities=folder / "30-soft.nii.gz", profile=again, kind="organ", alpha=0.2)
    assert any("promise 0.1" in note for note in other.notes)


def test_infeasible_sets_ask_for_a_person(folder: Path) -> None:
    profile = fit(table(folder, range(4)))
    sources = [folder / f"30-{what}.nii.gz" for what in ("scan", "mask")]
    verdict = assess(*sources, probabilities=folder / "30-soft.nii.gz", profile=profile, kind="organ")
    assert verdict.decision == "review"
    assert any("infeasible" in reason for reason in verdict.reasons)
    assert all(s.strength == "none" for s in verdict.statements if s.about == "sets")


@pytest.mark.parametrize("levels", [{"alpha": 0.0}, {"alpha": 1.0}, {"assurance": 2.0}])
def test_levels_that_are_no_shares_are_refused(folder: Path, levels: dict[str, float]) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        fit(table(folder, range(4)), **levels)  # type: ignore[arg-type]
