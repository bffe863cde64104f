"""The bank: the right references come first, others are refused, files keep everything and no name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import AnatrustError, FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Reference
from anatrust.models.descriptors import LocalDescriptors
from anatrust.pipeline.annotate import annotate
from anatrust.pipeline.bank_file import bank_of_cohort, load_bank, save_bank
from anatrust.reference.bank import ReferenceBank, slices_of
from anatrust.reference.descriptor import ScanDescriptor, mutual_share

GRID = Grid((48, 44), np.eye(4))


def scan_of(kind: str, seed: int, modality: str = "MR") -> Reference:
    """A disc or a cross with noise and a small shift: two body parts."""
    rng = np.random.default_rng([seed, len(kind)])
    x, y = np.mgrid[:48, :44].astype(float)
    dx, dy = rng.uniform(-2, 2, 2)
    if kind == "disc":
        inside = (x - 24 - dx) ** 2 + (y - 22 - dy) ** 2 < 12**2
    else:
        inside = (np.abs(x - 24 - dx) < 4) | (np.abs(y - 22 - dy) < 4)
    image = 0.8 * inside + rng.normal(0, 0.05, inside.shape)
    return Reference(Scan(image, GRID, modality), LabelMap(inside.astype(np.uint8), GRID, {1: kind}), f"{kind} {seed}")


@pytest.fixture(scope="module")
def bank() -> ReferenceBank:
    return ReferenceBank.build([scan_of(kind, seed) for seed in range(20) for kind in ("disc", "cross")])


@pytest.mark.parametrize("kind", ["disc", "cross"])
def test_the_same_body_part_comes_first(bank: ReferenceBank, kind: str) -> None:
    answers = [bank.retrieve(scan_of(kind, seed).scan, 5) for seed in range(100, 108)]
    assert sum(bool(a.refused) for a in answers) <= 2, "one in twenty is, on average"
    for found in (a for a in answers if not a.refused):
        assert {r.names()[1] for r in bank.references(found)} == {kind}
        assert sum(c.weight for c in found.chosen) == pytest.approx(1)
        assert [c.cosine + c.mutual for c in found.chosen] == sorted(
            (c.cosine + c.mutual for c in found.chosen), reverse=True
        )


def test_diverse_references_are_unlike_each_other() -> None:
    twins = [scan_of("disc", 1), scan_of("disc", 1), scan_of("disc", 3)]
    bank, query = ReferenceBank.build(twins), scan_of("disc", 1).scan
    assert {c.entry for c in bank.retrieve(query, 2).chosen} == {0, 1}
    assert {c.entry for c in bank.retrieve(query, 2, diverse=1.0).chosen} == {0, 2}
    with pytest.raises(InputError, match="a share from 0 to 1"):
        bank.retrieve(query, 2, diverse=2.0)


def test_what_is_not_like_the_bank_is_refused(bank: ReferenceBank, rng: np.random.Generator) -> None:
    stripes = Scan(np.sin(np.arange(48) / 1.5)[:, None] * np.ones(44) + rng.normal(0, 0.05, (48, 44)), GRID, "MR")
    assert "below the bank's" in bank.retrieve(stripes).refused
    assert bank.retrieve(scan_of("disc", 5, "CT").scan).refused == "the scan is CT and the bank holds MR"
    volume = Scan(rng.random((12, 12, 12)), Grid((12, 12, 12), np.eye(4)), "MR")
    assert bank.retrieve(volume).refused == "the bank holds no reference that is a volume"
    told = annotate(stripes, bank=bank)
    assert told.decision == "abstain"
    assert {s.name for s in told.structures} == {"disc"} or len(told.structures) == 1


def test_scans_like_the_banks_are_seldom_refused() -> None:
    """Leave-one-out at 10 %: over banks and new patients, about 10 % are refused and hardly more."""
    refused = total = 0
    for seed in range(12):
        small = ReferenceBank.build([scan_of("disc", 1000 * seed + i) for i in range(19)], quantile=0.1)
        assert small.calibrated
        for i in range(20):
            refused += bool(small.retrieve(scan_of("disc", 1000 * seed + 500 + i).scan, 1).refused)
            total += 1
    assert 0.02 < refused / total < 0.1 + 2.5 * (0.1 * 0.9 / 12) ** 0.5


def test_few_patients_are_not_calibrated() -> None:
    few = ReferenceBank.build([scan_of("disc", i) for i in range(6)], patients=["a", "a", "b", "b", "c", "c"])
    assert not few.calibrated
    assert few.threshold == 0.5
    assert len({e.patient for e in few.entries}) == 3
    left = few.retrieve(scan_of("disc", 50).scan, 6, without=[0])
    assert {few.entries[c.entry].patient for c in left.chosen} == {1, 2}


def test_storage_order_changes_no_description() -> None:
    one = scan_of("disc", 3).scan
    turned = Scan(
        np.ascontiguousarray(one.array.T[::-1]),
        Grid((44, 48), np.array([[0, 1, 0, 0], [-1, 0, 0, 43], [0, 0, 1, 0], [0, 0, 0, 1.0]])),
    )
    a, b = (ScanDescriptor().describe(s) for s in (one, turned))
    assert np.allclose(a.whole, b.whole, atol=1e-5)
    assert np.allclose(a.patches, b.patches, atol=1e-4)
    assert np.linalg.norm(a.whole) == pytest.approx(1, abs=1e-5)
    assert mutual_share(a.patches, b.patches, 2) > 0.9


def test_an_encoder_may_describe(bank: ReferenceBank) -> None:
    descriptor = ScanDescriptor(LocalDescriptors())
    learned = ReferenceBank.build([scan_of(k, i) for i in range(4) for k in ("disc", "cross")], descriptor=descriptor)
    found = learned.retrieve(scan_of("cross", 70).scan, 1, descriptor=descriptor)
    assert {r.names()[1] for r in learned.references(found)} == {"cross"}
    with pytest.raises(InputError, match="use the same"):
        learned.retrieve(scan_of("cross", 70).scan)


def test_a_file_keeps_the_bank_and_no_name(bank: ReferenceBank, tmp_path: Path) -> None:
    path = tmp_path / "a.bank"
    save_bank(path, bank)
    again = load_bank(path)
    assert again.summary() == bank.summary()
    query = scan_of("cross", 200).scan
    assert [c.entry for c in again.retrieve(query).chosen] == [c.entry for c in bank.retrieve(query).chosen]
    assert np.array_equal(again.entries[3].reference.labels.array, bank.entries[3].reference.labels.array)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError):
        load_bank(path)
    (tmp_path / "b.bank").write_bytes(b"nothing")
    with pytest.raises(FormatError, match="no bank"):
        load_bank(tmp_path / "b.bank")


def test_real_slices_find_their_neighbours_and_other_modalities_are_refused(shared_data: Path) -> None:
    references, owners = [], []
    for name, modality in (("ct_abdomen_3mm", "CT"), ("mr_small", "MR")):
        scan = read_scan(shared_data / "abdomen_ct_mr" / f"{name}.nii.gz", modality=modality)
        labels = read_mask(shared_data / "abdomen_ct_mr" / f"{name}_labels.nii.gz", reference=scan.grid)
        made = list(slices_of(Reference(scan, labels), every=4))
        references += made
        owners += [name] * len(made)
    real = ReferenceBank.build(references, owners)
    scan = read_scan(shared_data / "abdomen_ct_mr" / "ct_abdomen_3mm.nii.gz", modality="CT")
    labels = read_mask(shared_data / "abdomen_ct_mr" / "ct_abdomen_3mm_labels.nii.gz", reference=scan.grid)
    between = list(slices_of(Reference(scan, labels)))[42]
    found = real.retrieve(between.scan, 2)
    places = [real.entries[c.entry].reference.scan.grid.affine[2, 3] for c in found.chosen]
    assert all(abs(place - between.scan.grid.affine[2, 3]) <= 4 * 3.0 for place in places)
    assert all(r.scan.modality == "CT" for r in real.references(found))
    hidden = Scan(between.scan.array, between.scan.grid)
    assert {r.scan.modality for r in real.references(real.retrieve(hidden, 3))} == {"CT"}


def test_a_cohort_becomes_a_bank_on_the_command_line(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from anatrust.cli.main import run

    images = sorted((shared_data / "hippocampus_mr" / "images").glob("*.nii.gz"))[:5]
    rows = [f"p{k},{p},{p.parent.parent / 'labels' / p.name}" for k, p in enumerate(images[1:])]
    (tmp_path / "cohort.csv").write_text("id,image,truth\n" + "\n".join(rows) + "\n")
    path = tmp_path / "hippo.bank"
    assert run(["bank", str(tmp_path / "cohort.csv"), "-o", str(path), "--modality", "MR"]) == 0
    assert "4 references of 4 patients (4 MR)" in capsys.readouterr().out
    assert run(["bank", str(path), "--json"]) == 0
    assert '"volumes": 4' in capsys.readouterr().out
    assert images[1].name[:-7].encode() not in path.read_bytes()
    out = tmp_path / "out"
    assert run(["annotate", "-i", str(images[0]), "--bank", str(path), "-k", "2", "-o", str(out), "-q"]) == 0
    assert (out / "labels.nii.gz").is_file()
    assert run(["annotate", "-i", str(images[0]), "-o", str(out)]) == 2
    assert run(["bank", str(tmp_path / "none.bank")]) == 2
    cut = bank_of_cohort(tmp_path / "cohort.csv", slices=8)
    assert cut.summary()["volumes"] == 0
    assert cut.summary()["images"] > 8
    (tmp_path / "empty.csv").write_text(f"id,image\na,{images[0]}\n")
    with pytest.raises(AnatrustError, match="names no labels"):
        bank_of_cohort(tmp_path / "empty.csv")


def test_bad_input_is_refused(bank: ReferenceBank) -> None:
    with pytest.raises(InputError, match="one patient for each"):
        ReferenceBank.build([scan_of("disc", 0)], patients=[])
    with pytest.raises(InputError, match="share between"):
        ReferenceBank.build([scan_of("disc", 0)], quantile=0)
    with pytest.raises(InputError, match="at least one"):
        ReferenceBank((), "x", 0.5, False)
    with pytest.raises(InputError, match="at least one"):
        bank.retrieve(scan_of("disc", 0).scan, 0)
    with pytest.raises(InputError, match="not both"):
        annotate(scan_of("disc", 0).scan, scan_of("disc", 1).scan, scan_of("disc", 1).labels, bank=bank)
    with pytest.raises(InputError, match="cut from a volume"):
        next(slices_of(scan_of("disc", 0)))
    with pytest.raises(InputError, match="nothing to describe"):
        ScanDescriptor().describe(Scan(np.zeros((48, 44)), GRID))
