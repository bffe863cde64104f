"""The cohort table: what it reads, what it refuses and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.pipeline.cohort import Cohort, CohortRow

HEADER = "id,image,mask,patient,group,outlier,lesion_free,age\n"


def write(folder: Path, text: str, name: str = "cohort.csv") -> Path:
    for file in ("a.nii.gz", "b.nii.gz", "m.nii.gz"):
        (folder / file).touch()
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_paths_flags_patients_and_metadata(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "1,a.nii.gz,m.nii.gz,P,north,,TRUE,60\n2,b.nii.gz,,P,,false,no,\n\n")
    cohort = Cohort.read(path)
    one, two = cohort
    assert (one.image, one.mask, one.group) == (tmp_path / "a.nii.gz", tmp_path / "m.nii.gz", "north")
    assert (one.lesion_free, one.outlier, two.lesion_free, two.outlier) == (True, None, False, False)
    assert (dict(one.metadata), two.mask) == ({"age": "60"}, None)
    assert {p: len(r) for p, r in cohort.by_patient().items()} == {"P": 2}


def test_without_a_patient_column_every_scan_is_a_patient(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffid,image\nx,a.nii.gz\ny,b.nii.gz\n")
    assert list(Cohort.read(path).by_patient()) == ["x", "y"]


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
def test_semicolons_and_tabs_read_the_same(tmp_path: Path, separator: str, start: str) -> None:
    rows = [
        ["id", "image", "mask", "patient", "kernel, and dose"],
        ["1", "a.nii.gz", "m.nii.gz", "P", "soft, 0"],
        ["2", "b.nii.gz", "", "Q", ""],
    ]
    quoted = "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    plain = "".join(separator.join(row) + "\r\n" for row in rows)
    expected = Cohort.read(write(tmp_path, start + quoted))
    found = Cohort.read(write(tmp_path, start + plain))
    assert found.rows[0].metadata == {"kernel, and dose": "soft, 0"}
    assert [(r.id, r.patient, r.mask, dict(r.metadata)) for r in found] == [
        (r.id, r.patient, r.mask, dict(r.metadata)) for r in expected
    ]


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    csv = write(tmp_path, HEADER + "1,a.nii.gz,m.nii.gz,P,north,,True,60\n2,b.nii.gz,,Q,,,False,\n")
    table = {
        "id": [1, 2],
        "image": ["a.nii.gz", "b.nii.gz"],
        "mask": ["m.nii.gz", None],
        "patient": ["P", "Q"],
        "group": ["north", None],
        "outlier": pyarrow.array([None, None], pyarrow.bool_()),
        "lesion_free": [True, False],
        "age": ["60", ""],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "cohort.parquet")
    assert Cohort.read(tmp_path / "cohort.parquet").rows == Cohort.read(csv).rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("id,image\n", "no rows"),
        ("id,mask\n1,m.nii.gz\n", "column 'image' is missing"),
        ("id,image,image\n1,a.nii.gz,a.nii.gz\n", "stands twice"),
        ("id|image\n1|a.nii.gz\n", "column 'id' is missing"),
        ("id,image\n1,a.nii.gz\n1,b.nii.gz\n", "row 3, column id"),
        ("id,image\n1,gone.nii.gz\n", "row 2, column image"),
        ("id,image\n,a.nii.gz\n", "row 2, column id"),
        ("id,image\n1,a.nii.gz,9\n", "row 2: 3 cells for 2 columns; quote commas in cells"),
        ("id;image\n1;a.nii.gz;9\n", "row 2: 3 cells for 2 columns; quote semicolons in cells"),
        ("id,image,lesion_free\n1,a.nii.gz,perhaps\n", "row 2, column lesion_free"),
        ('id,image\n1,"a.nii.gz\n', "not a CSV"),
    ],
)
def test_what_is_refused_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Cohort.read(write(tmp_path, text))
    assert "\n" not in str(error.value)
    assert "cohort.csv" in str(error.value)


def test_binary_and_absent_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(bytes(range(256)))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    for name in ("x.csv", "x.parquet", "absent.csv"):
        with pytest.raises(InputError) as error:
            Cohort.read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_messages_never_name_the_patient(tmp_path: Path) -> None:
    text = "id,image,patient,lesion_free\n1,a.nii.gz,Jane Roe,perhaps\n"
    with pytest.raises(InputError) as error:
        Cohort.read(write(tmp_path, text))
    assert "Jane" not in str(error.value)


@given(
    owners=st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**31),
)
def test_a_split_never_splits_a_patient(owners: list[int], share: float, seed: int) -> None:
    rows = tuple(CohortRow(k, str(k), Path("x"), f"p{owner}") for k, owner in enumerate(owners))
    cohort = Cohort(rows)
    try:
        one, two = cohort.split(share, seed=seed)
    except InputError:
        assert round(share * len(set(owners))) in (0, len(set(owners)))
        return
    assert set(one.by_patient()).isdisjoint(two.by_patient())
    assert sorted(r.number for r in (*one, *two)) == list(range(len(owners)))
    assert len(one.by_patient()) == round(share * len(set(owners)))
