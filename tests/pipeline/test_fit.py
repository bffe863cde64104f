"""Fitting: which rows are used, what is pooled, and that a killed fit goes on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.pipeline.assess import assess
from anatrust.pipeline.case import content_hash, label_table, mask_kind
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.profile import Profile
from anatrust.rejection import candidate_scores, reject
from anatrust.rejection.settings import GateSettings, RejectionSettings

SHAPE = (40, 36, 20)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def save(path: Path, array: np.ndarray) -> str:
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    return path.name


def patient(folder: Path, number: int, blobs: int = 2) -> dict[str, str]:
    """A noisy body in air and the blobs a segmenter drew in it."""
    rng = np.random.default_rng(number)
    image = rng.normal(100, 10, SHAPE).astype(np.float32)
    body = np.zeros(SHAPE, np.uint8)
    body[4:36, 4:32] = 1
    image[body == 0] = 0
    mask = np.zeros(SHAPE, np.uint8)
    for k in range(blobs):
        mask[8 + 12 * k : 12 + 12 * k, 10:15, 6:10] = 1
    return {
        "id": f"scan-{number}",
        "image": save(folder / f"image{number}.nii.gz", image),
        "mask": save(folder / f"mask{number}.nii.gz", mask),
        "anatomy": save(folder / f"body{number}.nii.gz", body),
        "lesion_free": "true",
        "patient": f"Jane Roe {number}",
    }


def write(folder: Path, rows: list[dict[str, str]]) -> Cohort:
    with (folder / "cohort.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return Cohort.read(folder / "cohort.csv")


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, str]]:
    return [patient(tmp_path, k) for k in range(4)]


def test_scores_are_those_of_the_scans_pooled_by_patient(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[1]["patient"] = rows[0]["patient"]
    profile = fit(write(tmp_path, rows), segmenter="two boxes", modality="unknown")
    section = profile.rejection
    assert section is not None
    assert (section.null.n_patients, section.scans, section.anatomy) == (3, 4, True)
    expected = []
    for row in rows:
        scan = read_scan(tmp_path / row["image"])
        mask, body = (read_mask(tmp_path / row[c], reference=scan.grid) for c in ("mask", "anatomy"))
        expected.append(candidate_scores(scan, mask, anatomy=body))
    pooled = [np.concatenate(expected[:2]), *expected[2:]]
    assert [s.tolist() for s in section.null.per_patient] == [s.tolist() for s in pooled]


def test_the_result_does_not_depend_on_the_order_of_rows(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    fit(write(tmp_path, rows)).save(tmp_path / "a.profile")
    fit(write(tmp_path, rows[::-1])).save(tmp_path / "b.profile")
    assert (tmp_path / "a.profile").read_bytes() == (tmp_path / "b.profile").read_bytes()


def test_a_profile_holds_no_name(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[2]["mask"] = save(tmp_path / "full.nii.gz", np.ones(SHAPE, np.uint8))
    fit(write(tmp_path, rows)).save(tmp_path / "p.profile")
    import zipfile

    with zipfile.ZipFile(tmp_path / "p.profile") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for secret in (b"Jane", b"scan-0", b"image", str(tmp_path).encode()):
        assert secret not in content


def test_an_empty_mask_counts_as_a_patient_in_whom_nothing_was_invented(
    tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    rows.append(patient(tmp_path, 9, blobs=0))
    section = fit(write(tmp_path, rows)).rejection
    assert section is not None
    assert section.null.n_patients == 5
    assert sorted(len(s) for s in section.null.per_patient) == [0, 2, 2, 2, 2]


def test_scans_that_cannot_be_used_are_left_out_and_named_by_row(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[1]["mask"] = save(tmp_path / "full.nii.gz", np.ones(SHAPE, np.uint8))
    (tmp_path / "broken.nii.gz").write_bytes(b"not an image")
    rows[2]["image"] = "broken.nii.gz"
    rows.append({**patient(tmp_path, 7), "lesion_free": "false"})
    said: list[str] = []
    profile = fit(write(tmp_path, rows), warn=said.append)
    assert profile.rejection is not None
    assert profile.rejection.null.n_patients == 2
    assert ["row 3" in said[0], "row 4" in said[1], len(said)] == [True, True, 2]
    assert any("2 of 4 lesion-free scans were left out (rows 3, 4)" in line for line in profile.not_fitted)
    assert any("1 scans not marked" in line for line in profile.not_fitted)
    assert any("level 0.1 needs 9" in line for line in profile.not_fitted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [r.update(lesion_free="") for r in rows], "no row has lesion_free"),
        (lambda rows: rows[1].update(mask=""), "row 3, column mask"),
        (lambda rows: rows[1].update(anatomy=""), "row 3, column anatomy"),
        (lambda rows: rows[1].update(truth=rows[1]["mask"]), "row 3, column lesion_free"),
        (lambda rows: [r.update(mask=r["image"]) for r in rows], "none of the 4"),
    ],
)
def test_tables_that_contradict_themselves(
    tmp_path: Path, rows: list[dict[str, str]], change: object, message: str
) -> None:
    change(rows)  # type: ignore[operator]
    with pytest.raises(InputError, match=message) as error:
        fit(write(tmp_path, rows))
    assert "Jane" not in str(error.value)


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot write into"):
        fit(write(tmp_path, rows), cache=tmp_path / "file" / "rows")


def test_a_truth_that_stands_in_for_the_mask_is_remarked(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    """Sets fitted on the truth itself look perfect and say nothing of a segmenter."""
    for row in rows[:2]:
        row["lesion_free"], row["truth"] = "", row["mask"]
    rows[2]["truth"] = save(tmp_path / "nothing.nii.gz", np.zeros(SHAPE, np.uint8))
    (note,) = [n for n in fit(write(tmp_path, rows)).not_fitted if "one file as mask and truth" in n]
    assert note.startswith("2 rows")


def test_an_all_zero_truth_is_a_healthy_scan(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    zero = save(tmp_path / "zero.nii.gz", np.zeros(SHAPE, np.uint8))
    for row in rows:
        row["truth"] = zero
    assert fit(write(tmp_path, rows)).rejection is not None


def test_a_killed_fit_goes_on_where_it_stopped(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    cohort = write(tmp_path, rows)
    seen: list[int] = []

    def kill(stage: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        fit(cohort, cache=cache, progress=kill)
    kept = sorted(cache.iterdir())
    assert len(kept) == 2
    # What is in the cache is used, not computed again: marked scores come back.
    kept[0].write_text(json.dumps({"scores": [123.0]}))
    section = fit(cohort, cache=cache).rejection
    assert section is not None
    assert [123.0] in [s.tolist() for s in section.null.per_patient]
    # Other settings or other content are other rows.
    other = fit(cohort, cache=cache, settings=RejectionSettings(percentiles=(1, 99))).rejection
    assert other is not None
    assert [123.0] not in [s.tolist() for s in other.null.per_patient]
    assert len(list(cache.iterdir())) == 8
    kept[0].write_text("{")
    assert fit(cohort, cache=cache).rejection is not None


def test_a_damaged_cache_is_computed_again(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    cohort = write(tmp_path, rows)
    first = fit(cohort, cache=tmp_path / "cache").rejection
    for file in (tmp_path / "cache").iterdir():
        file.write_text('{"scores": ')
    again = fit(cohort, cache=tmp_path / "cache").rejection
    assert first is not None
    assert again is not None
    assert [s.tolist() for s in first.null.per_patient] == [s.tolist() for s in again.null.per_patient]


def test_label_tables(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"1": "liver", "2": "spleen"}')
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    assert label_table(tmp_path / "names.json") == {1: "liver", 2: "spleen"}
    assert label_table(tmp_path / "dataset.json") == {1: "liver"}
    assert label_table("totalsegmentator_ct")[5] == "liver"
    assert label_table(None) == {}
    for text in ("[1]", "{", '{"a": "b"}', '{"labels": 3}', '{"labels": {"region": [1, 2]}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="no table of label names"):
            label_table(tmp_path / "bad.json")
    with pytest.raises(InputError, match="amos"):
        label_table("no such table")


def test_what_a_mask_shows_follows_its_names() -> None:
    array = np.array([[0, 1, 2]], np.uint8)
    grid = Grid.without_spacing(array.shape)
    assert mask_kind(LabelMap(array, grid, {1: "liver", 2: "spleen"})) == "organ"
    assert mask_kind(LabelMap(array, grid, {1: "liver", 2: "liver tumour"})) == "lesion"
    assert mask_kind(LabelMap(array, grid, {1: "liver"})) == "lesion"
    assert mask_kind(LabelMap(array, grid)) == "lesion"


def test_content_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1").write_bytes(b"x")
    before = content_hash(folder)
    (folder / "2").write_bytes(b"y")
    assert content_hash(folder) != before
    (tmp_path / "i.mhd").write_bytes(b"header")
    before = content_hash(tmp_path / "i.mhd")
    (tmp_path / "i.raw").write_bytes(b"voxels")
    assert content_hash(tmp_path / "i.mhd") != before
    array = np.zeros((3, 4, 5), np.float32)
    one, two = (Scan(a, Grid(a.shape, np.eye(4))) for a in (array, array + 1))
    assert content_hash(one) != content_hash(two)
    assert content_hash(one) == content_hash(Scan(array.copy(), one.grid))
    with pytest.raises(InputError, match="no file"):
        content_hash(tmp_path / "absent")


def test_the_profile_judges_like_the_cohort(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    """With four patients a p-value is at best 1/5: kept at level 0.2, undecidable at 0.1."""
    profile = fit(write(tmp_path, rows))
    assert profile.rejection is not None
    row = patient(tmp_path, 50)
    image = np.asarray(nibabel.load(tmp_path / row["image"]).dataobj).copy()
    mask = read_mask(tmp_path / row["mask"])
    image[mask.array > 0] += 60
    scan = read_scan((image, AFFINE))
    body = read_mask(tmp_path / row["anatomy"], reference=scan.grid)
    result = reject(
        scan,
        read_mask(tmp_path / row["mask"], reference=scan.grid),
        anatomy=body,
        cohort_null=profile.rejection.null,
        settings=RejectionSettings(alpha=0.2),
    )
    assert [c.decision for c in result.candidates] == ["kept", "kept"]
    assert {c.p_value for c in result.candidates} == {0.2}


def _soft(folder: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with probabilities that rise from patient to patient."""
    made = []
    for k, row in enumerate(rows):
        mask = np.asarray(nibabel.load(folder / row["mask"]).dataobj)
        soft = np.where(mask > 0, 0.6 + 0.1 * k, 0.05).astype(np.float32)
        made.append(row | {"probabilities": save(folder / f"soft{k}.nii.gz", soft)})
    return made


def test_a_null_of_probabilities_judges_scans_that_have_them(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    soft = _soft(tmp_path, rows)
    likely = RejectionSettings(score="likely-contrast/1")
    fitted = fit(write(tmp_path, soft), segmenter="two boxes", settings=likely)
    fitted.save(tmp_path / "likely.profile")
    profile = Profile.load(tmp_path / "likely.profile")
    assert any("score likely-contrast/1" in line for line in profile.describe())
    plain = fit(write(tmp_path, soft), segmenter="two boxes")
    assert fitted.rejection is not None
    assert profile.rejection is not None
    assert plain.rejection is not None
    assert plain.rejection.settings.score == "compact-contrast/1"
    held = [np.sort(s).tolist() for s in fitted.rejection.null.per_patient]
    assert sorted(held) == sorted(s.tolist() for s in profile.rejection.null.per_patient)
    given = {"anatomy": tmp_path / rows[3]["anatomy"], "anatomy_names": {1: "body"}, "profile": profile, "alpha": 0.2}
    image, mask = (tmp_path / rows[3][c] for c in ("image", "mask"))
    verdict = assess(image, mask, probabilities=tmp_path / soft[3]["probabilities"], **given)
    # The patient is one of the null's own: its statistics are among those that were fitted.
    told = sorted(c.statistic for c in verdict.candidates if c.statistic is not None)
    assert told == pytest.approx(np.sort(fitted.rejection.null.per_patient[3]).tolist(), rel=1e-6)
    with pytest.raises(InputError, match=r"ranks candidates by likely-contrast/1.*give --probabilities"):
        assess(image, mask, **given)
    # A null made from this scan alone needs none.
    other = assess(image, mask, settings=replace(likely, null="placement"), **given)
    assert other.null == "placement"


def test_gates_that_were_asked_of_the_null_alone_are_said(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    soft = _soft(tmp_path, rows)
    bare, gated = fit(write(tmp_path, rows)), fit(write(tmp_path, soft))
    gated.save(tmp_path / "gated.profile")
    open_ = fit(write(tmp_path, soft), settings=RejectionSettings(gates=GateSettings(enabled=False)))
    said = "passed fewer gates than those they are ranked among"
    for profile, given, strength in (
        (bare, False, "exact"),
        (bare, True, "exact"),
        (Profile.load(tmp_path / "gated.profile"), False, "approximate"),
        (gated, True, "exact"),
        (open_, False, "exact"),
    ):
        verdict = assess(
            tmp_path / rows[3]["image"],
            tmp_path / rows[3]["mask"],
            probabilities=tmp_path / soft[3]["probabilities"] if given else None,
            anatomy=tmp_path / rows[3]["anatomy"],
            anatomy_names={1: "body"},
            profile=profile,
            alpha=0.2,
        )
        assert verdict.null == "cohort"
        assert {s.strength for s in verdict.statements if s.level is not None} == {strength}
        assert any(said in note for note in verdict.notes) == (strength == "approximate")


def test_a_score_of_probabilities_is_not_fitted_without_them(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    soft = _soft(tmp_path, rows)
    del soft[2]["probabilities"]
    with pytest.raises(InputError, match="row 4, column probabilities: the cell is empty and the score likely"):
        fit(write(tmp_path, soft), settings=RejectionSettings(score="likely-contrast/1"))
