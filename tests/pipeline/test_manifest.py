"""Cohort tables of tiny fakes in each layout; every table is read back by `Cohort`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.manifest import find_rows, write_manifest


def touch(top: Path, *names: str) -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    return top


def cells(top: Path, **options: str | Path | None) -> list[dict[str, str]]:
    """The table's cells, written and read; `Cohort` must like it too."""
    out = top / "cohort.csv"
    write_manifest(out, find_rows(top, **options))  # type: ignore[arg-type]
    cohort = Cohort.read(out)
    with out.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["id"] for row in rows] == [row.id for row in cohort]
    return rows


def test_nnunet(tmp_path: Path) -> None:
    touch(tmp_path, "dataset.json", "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    touch(tmp_path, "imagesTs/b_0000.nii.gz", "predicted/a.nii.gz", "predicted/a.npz", "soft/a.npz", "soft/b.npz")
    rows = cells(tmp_path, probabilities=tmp_path / "soft")
    assert rows[0] == {
        "id": "a",
        "patient": "a",
        "group": "",
        "image": "imagesTr/a_0000.nii.gz",
        "mask": "",
        "probabilities": "soft/a.npz",
        "truth": "labelsTr/a.nii.gz",
    }
    assert (rows[1]["id"], rows[1]["truth"]) == ("b", "")
    found = find_rows(tmp_path, masks=tmp_path / "predicted")
    assert found.layout == "nnU-Net raw"
    assert any("1 files of further channels" in note for note in found.notes)
    assert any("1 of 2 cases have no file in the folder of mask" in note for note in found.notes)
    with pytest.raises(InputError, match="named as a case"):
        find_rows(tmp_path, masks=tmp_path)


def test_decathlon(tmp_path: Path) -> None:
    touch(tmp_path, "dataset.json", "imagesTr/liver_0.nii.gz", "imagesTr/._liver_0.nii.gz", "labelsTr/liver_0.nii.gz")
    touch(tmp_path, "imagesTs/liver_9.nii.gz")
    rows = cells(tmp_path)
    assert [(r["id"], r["truth"]) for r in rows] == [("liver_0", "labelsTr/liver_0.nii.gz"), ("liver_9", "")]


def test_bids(tmp_path: Path) -> None:
    touch(tmp_path, "dataset_description.json", "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz")
    touch(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T1w.json")
    touch(tmp_path, "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_label-lesion_mask.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tpatient\nsub-02\tcontrol\n")
    rows = cells(tmp_path)
    assert [(r["id"], r["patient"], r["group"]) for r in rows] == [
        ("sub-01_ses-a_T1w", "sub-01", "patient"),
        ("sub-02_T1w", "sub-02", "control"),
    ]
    assert rows[0]["truth"].endswith("sub-01_ses-a_label-lesion_mask.nii.gz")
    assert rows[1]["truth"] == ""


def test_totalsegmentator(tmp_path: Path) -> None:
    for case in ("s0001", "s0002"):
        touch(
            tmp_path, f"{case}/ct.nii.gz", f"{case}/segmentations/liver.nii.gz", f"{case}/segmentations/spleen.nii.gz"
        )
    touch(tmp_path, "meta.csv")
    rows = cells(tmp_path, structure="spleen")
    assert [r["truth"] for r in rows] == [f"s000{n}/segmentations/spleen.nii.gz" for n in (1, 2)]
    assert any("--structure" in note for note in find_rows(tmp_path).notes)
    with pytest.raises(InputError, match="choose one of liver, spleen"):
        find_rows(tmp_path, structure="heart")


def test_plain_folders_and_patients_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "images/SC-N-1-IM-1.png", "images/SC-N-1-IM-2.png", "images/SC-N-2-IM-1.png")
    touch(tmp_path, "labels/SC-N-1-IM-1.png", "labels/SC-N-1-IM-2_seg.png")
    rows = cells(tmp_path, patient="^(.*)-IM-")
    assert [r["patient"] for r in rows] == ["SC-N-1", "SC-N-1", "SC-N-2"]
    assert [bool(r["truth"]) for r in rows] == [True, True, False]
    for wrong in ("IM", "(", "^(x)"):
        with pytest.raises(InputError, match="--patient"):
            find_rows(tmp_path, patient=wrong)


def test_slices_that_count_as_patients_are_remarked(tmp_path: Path) -> None:
    """Exchangeable are patients: slices of one heart that pass for patients would promise too much."""
    touch(tmp_path, *(f"images/SC-N-{p}-IM-0001-{k:04d}.dcm.png" for p in (1, 2) for k in (48, 59, 68)))
    (note,) = find_rows(tmp_path).notes
    assert "several ids begin with 'SC-N-1-IM-0001'" in note
    assert not find_rows(tmp_path, patient="^(.*)-IM-").notes
    one_each = touch(tmp_path / "other", *(f"images/hippocampus_{k:03d}.nii.gz" for k in range(9)))
    assert not find_rows(one_each).notes


def test_dicom_folders(tmp_path: Path) -> None:
    for name in ("p1/ct/1.dcm", "p1/ct/2.dcm", "p1/pet/1.dcm", "p2/ct/1.dcm", "p2/notes/a.txt"):
        touch(tmp_path, name)
        if name.endswith(".dcm"):
            (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM")
    rows = cells(tmp_path)
    assert [(r["id"], r["patient"], r["image"]) for r in rows] == [
        ("p1-ct", "p1", "p1/ct"),
        ("p1-pet", "p1", "p1/pet"),
        ("p2-ct", "p2", "p2/ct"),
    ]


def test_what_is_no_data_set(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.txt")
    with pytest.raises(InputError, match="no scans in a known layout"):
        find_rows(tmp_path)
    with pytest.raises(InputError, match="no layout 'x'"):
        find_rows(tmp_path, layout="x")
    with pytest.raises(InputError, match="is no folder"):
        find_rows(tmp_path / "none")


def test_the_command_writes_beside_and_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = touch(tmp_path / "data", "images/a.nii.gz", "labels/a.nii.gz")
    (tmp_path / "tables").mkdir()
    out = tmp_path / "tables" / "cohort.csv"
    assert run(["manifest", str(data), "-o", str(out)]) == 0
    assert "plain folders, 1 scans of 1 patients, 1 with truth" in capsys.readouterr().out
    assert Cohort.read(out).rows[0].image.resolve() == (data / "images" / "a.nii.gz").resolve()
    assert "../data/images/a.nii.gz" in out.read_text()
    assert run(["manifest", str(data), "-o", str(out), "--json", "--layout", "plain"]) == 0
    assert json.loads(capsys.readouterr().out)["truth"] == 1
    assert run(["manifest", str(data), "-o", str(tmp_path / "no" / "c.csv")]) == 2


def test_how_a_dicom_series_was_made_becomes_columns(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort.csv"
    found = find_rows(shared_data / "abdomen_ct_mr" / "ct_dicom_series", layout="dicom", group="manufacturer")
    write_manifest(out, found)
    with out.open(newline="") as handle:
        (row,) = csv.DictReader(handle)
    told = {name: row[name] for name in ("group", "modality", "manufacturer", "kernel", "contrast", "thickness", "kvp")}
    assert told == {
        "group": "Siemens",
        "modality": "CT",
        "manufacturer": "Siemens",
        "kernel": "soft",  # Br38f
        "contrast": "contrast",
        "thickness": "3",
        "kvp": "120",
    }
    # The table goes straight into what breaks results down by column.
    assert Cohort.read(out).rows[0].metadata["kernel"] == "soft"
    several = find_rows(shared_data / "dicom_seg", layout="dicom", group="kernel")
    assert all(row.acquisition["modality"] in ("CT", "MR") for row in several.rows)
    assert any("segmentations, reports and plans are no scans" in note for note in several.notes)
    assert any("do not say their kernel" in note for note in several.notes)
    with pytest.raises(InputError, match="no column 'PatientName'"):
        find_rows(shared_data / "dicom_seg", group="PatientName")


def test_how_a_bids_image_was_made_stands_in_its_sidecar(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "anat"
    folder.mkdir(parents=True)
    (folder / "sub-01_T1w.nii.gz").touch()
    told = {"Manufacturer": "Philips", "ManufacturersModelName": "Achieva", "SliceThickness": 1.2, "PatientName": "X"}
    (folder / "sub-01_T1w.json").write_text(json.dumps(told))
    (row,) = find_rows(tmp_path).rows
    assert row.acquisition == {"manufacturer": "Philips", "model": "Achieva", "thickness": "1.2"}
    (folder / "sub-01_T1w.json").write_text("[1")
    assert find_rows(tmp_path).rows[0].acquisition == {}
