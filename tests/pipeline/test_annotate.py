"""`annotate` end to end: real hippocampi and a CT slice, absent organs, other modalities, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import anatrust
from anatrust.cli.main import run
from anatrust.errors import AnatrustError, InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Annotation, Reference, Relation, Structure
from anatrust.pipeline.annotate import annotate, read_references
from anatrust.reference.bank import ReferenceBank
from anatrust.reference.relations import relations_of

NAMES = {1: "anterior hippocampus", 2: "posterior hippocampus"}


def hippocampi(folder: Path, count: int) -> list[tuple[Path, Path]]:
    images = sorted((folder / "hippocampus_mr" / "images").glob("*.nii.gz"))[:count]
    return [(p, folder / "hippocampus_mr" / "labels" / p.name) for p in images]


def amos_slices(folder: Path, into: Path, numbers: tuple[int, ...]) -> list[tuple[Path, Path]]:
    pairs = []
    for k in numbers:
        pair = (into / f"ct{k}.nii.gz", into / f"labels{k}.nii.gz")
        for path, name in zip(pair, ("image", "labels"), strict=True):
            image = nib.load(folder / "amos_ct" / f"{name}.nii.gz")
            data = np.asarray(image.dataobj[..., k : k + 1]).astype(np.uint8)
            nib.save(nib.Nifti1Image(data, image.affine), path)
        pairs.append(pair)
    return pairs


def phantom(shift: int = 0, gone: int | None = None, mirror: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A body with two unlike organs and its labels; an organ that is gone is filled with body."""
    x, y = np.mgrid[:64, :56]
    image = 0.3 * (((x - 32) / 28) ** 2 + ((y - 28) / 24) ** 2 < 1)
    labels = np.zeros(image.shape, np.uint8)
    for number, (centre, radii, grey) in enumerate((((20, 26), (8, 10), 0.9), ((45, 34), (6, 5), 0.6)), start=1):
        inside = ((x - centre[0] - shift) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1
        if number != gone:
            image[inside] = grey
            labels[inside] = number
    image = image + np.random.default_rng(7 + shift).normal(0, 0.02, image.shape)
    return (image[::-1], labels[::-1]) if mirror else (image, labels)


def pictured(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(array), np.eye(4)[:3, :3]


def test_hippocampi_are_annotated_from_other_patients(shared_data: Path, tmp_path: Path) -> None:
    (scan, truth), *others = hippocampi(shared_data, 4)
    out = tmp_path / "out"
    found = anatrust.annotate(scan, [s for s, _ in others], [m for _, m in others], names=NAMES, modality="MR", out=out)
    drawn = read_mask(out / "labels.nii.gz", reference=read_scan(scan).grid).array
    wanted = read_mask(truth).array
    assert all(dice(wanted == label, drawn == label) > 0.6 for label in NAMES)
    assert sorted(p.name for p in out.iterdir()) == [
        "annotation.json",
        "labels.nii.gz",
        "report.html",
        "run.json",
        "structures.csv",
    ]
    told = json.loads((out / "annotation.json").read_text())
    assert [s["name"] for s in told["structures"]] == list(NAMES.values())
    for structure in told["structures"]:
        box = tuple(slice(a, b) for a, b in structure["box"])
        inside = drawn == structure["number"]
        assert inside[box].sum() == inside.sum() == structure["voxels"]
    assert told["relations"][0]["holds"] is True
    assert [r["weight"] for r in told["references"]] == pytest.approx([1 / 3] * 3, abs=1e-3)
    record = json.loads((out / "run.json").read_text())
    assert record["command"] == "annotate"
    assert len(record["inputs"]) == 7
    assert all(s.agreement is not None and 0 < s.confidence < 1 for s in found.structures)


def test_a_ct_slice_is_annotated_from_its_neighbours_on_the_command_line(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, scan, high = amos_slices(shared_data, tmp_path, (43, 45, 47))
    given = [x for pair in (low, high) for x in ("--reference", str(pair[0]), "--reference-labels", str(pair[1]))]
    code = run(["annotate", "-i", str(scan[0]), *given, "--names", "amos", "-o", str(tmp_path / "out")])
    assert code == 0
    assert "liver" in capsys.readouterr().out
    drawn, truth = (read_mask(p) for p in (tmp_path / "out" / "labels.nii.gz", scan[1]))
    assert drawn.grid.same_as(truth.grid)
    assert dice(truth.array == 6, drawn.array == 6) > 0.9
    assert "<title>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_absent_organ_is_null_and_a_present_one_is_not() -> None:
    reference = phantom()
    target = phantom(shift=3, gone=2)
    found = annotate(pictured(target[0]), pictured(reference[0]), pictured(reference[1]), names={1: "big", 2: "small"})
    assert [s.found for s in found.structures] == [True, False]
    assert "does not look like it" in found.structures[1].reason
    assert found.structures[1].box is None
    assert found.decision == "review"
    assert 2 not in found.labels.array
    whole = annotate(pictured(phantom(3)[0]), pictured(reference[0]), pictured(reference[1]))
    assert [s.found for s in whole.structures] == [True, True]
    assert whole.decision == "accept"


def test_another_field_of_view_is_no_other_appearance(shared_data: Path) -> None:
    """Percentiles of a crop differ from those of the whole: grey values are compared where both are."""
    folder = shared_data / "abdomen_ct_mr"
    whole = read_scan(folder / "ct_abdomen_3mm.nii.gz", modality="CT")
    labels = read_mask(folder / "ct_abdomen_3mm_labels.nii.gz", reference=whole.grid)
    cut = np.s_[:, :, 78:104]
    affine = whole.grid.affine.copy()
    affine[:3, 3] = whole.grid.to_world((0, 0, 78))
    part = Scan(whole.array[cut].copy(), Grid(whole.array[cut].shape, affine), "CT")
    found = annotate(part, whole, labels, names={5: "liver", 1: "spleen"})
    by_name = {s.name: s for s in found.structures}
    assert by_name["liver"].found
    assert by_name["spleen"].found
    assert dice(labels.array[cut] == 5, found.labels.array == 5) > 0.9


def test_a_mirrored_scan_is_remarked_and_names_are_not_swapped() -> None:
    reference, mirrored = phantom(), phantom(mirror=True)
    found = annotate(pictured(mirrored[0]), pictured(reference[0]), pictured(reference[1]))
    assert any("mirrored" in remark for remark in found.remarks)
    assert found.decision == "review"


def test_another_modality_is_refused() -> None:
    image, labels = phantom()
    grid = Grid(image.shape, np.eye(4))
    target, other = Scan(image, grid, "MR"), Scan(image, grid, "CT", identifier="b")
    found = annotate(target, other, LabelMap(labels, grid))
    assert found.decision == "abstain"
    assert found.reasons == ("no suitable reference: the reference b is CT and the scan MR",)
    assert not found.labels.array.any()
    assert all(not s.found for s in found.structures)
    both = annotate(target, [other, target], [LabelMap(labels, grid)] * 2)
    assert both.decision == "review"
    assert len(both.references) == 1


def test_a_reference_of_something_else_is_left_out(rng: np.random.Generator) -> None:
    image, labels = phantom()
    noise = rng.normal(size=image.shape)
    found = annotate(pictured(image), pictured(noise), pictured(labels))
    assert found.decision == "abstain"
    assert "no suitable reference" in found.abstained


def test_pictures_keep_their_format(tmp_path: Path) -> None:
    from PIL import Image

    image, labels = phantom()
    moved, _ = phantom(4)
    for name, array in (("a", image), ("b", moved)):
        Image.fromarray((255 * np.clip(array, 0, 1)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    out = tmp_path / "out"
    annotate(tmp_path / "b.png", tmp_path / "a.png", tmp_path / "labels.png", out=out)
    drawn = np.asarray(Image.open(out / "labels.png"))
    truth = phantom(4)[1]
    assert dice(truth == 1, drawn == 1) > 0.9


def test_the_command_line_tells_what_there_is_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    image, labels = phantom()
    pictures = {"a": image, "b": phantom(4)[0], "noise": np.random.default_rng(3).random(image.shape)}
    for name, array in pictures.items():
        Image.fromarray((255 * np.clip(array, 0, 1)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    a, b, noise, drawn, out = (str(tmp_path / n) for n in ("a.png", "b.png", "noise.png", "labels.png", "out"))
    assert run(["annotate", "-i", b, "--reference", a, "--reference-labels", drawn, "-o", out]) == 0
    told = capsys.readouterr().out
    assert "say what they mean with --names" in told
    assert "expected" not in told  # nothing was rehearsed
    assert "Not rehearsed" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "names.json").write_text('{"1": "liver", "2": "spleen"}')
    named = ["--names", str(tmp_path / "names.json"), "-o", out]
    assert run(["annotate", "-i", b, "--reference", a, "--reference-labels", drawn, *named]) == 0
    assert "--names" not in capsys.readouterr().out
    assert run(["annotate", "-i", noise, "--reference", a, "--reference-labels", drawn, *named]) == 0
    told = capsys.readouterr().out
    assert told.startswith("ABSTAIN")
    assert "liver" not in told  # one reason for all of them, told once
    assert run(["annotate", "-i", b, "--reference", a, "--reference-labels", a, *named]) == 2
    assert "its labels are the scan itself" in capsys.readouterr().err


def test_bad_input_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, labels = phantom()
    with pytest.raises(InputError, match="give one label map for each"):
        annotate(pictured(image), [pictured(image)] * 2, pictured(labels))
    with pytest.raises(InputError, match="references: 0, label maps: 0"):
        annotate(pictured(image))
    with pytest.raises(InputError, match="all background"):
        annotate(pictured(image), pictured(image), pictured(np.zeros_like(labels)))
    with pytest.raises(InputError, match="no reasoner 'magic'"):
        annotate(pictured(image), pictured(image), pictured(labels), reasoner="magic")
    volume = np.random.default_rng(0).random((12, 12, 12))
    with pytest.raises(InputError, match="same kind"):
        annotate((volume, np.eye(4)), pictured(image), pictured(labels))
    grid = Grid(image.shape, np.eye(4))
    named = [LabelMap(labels, grid, {1: n}) for n in ("liver", "spleen")]
    with pytest.raises(InputError, match="in one reference"):
        annotate(pictured(image), [Scan(image, grid)] * 2, named)
    missing = str(tmp_path / "none.nii.gz")
    assert run(["annotate", "-i", missing, "--reference", missing, "--reference-labels", missing, "--json"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "does not exist" in error
    assert run(["annotate", "-i", missing, "--reference", missing, "--reference-labels", missing]) == 2


def test_relations_hold_break_and_are_seen_once() -> None:
    grid = Grid((20, 20), np.eye(4))
    straight, mirrored = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    straight[2:6, 8:12], straight[14:18, 8:12] = 1, 2
    mirrored[14:18, 8:12], mirrored[2:6, 8:12] = 1, 2
    names = {1: "a", 2: "b"}
    fine = relations_of([LabelMap(straight, grid)], LabelMap(straight, grid, names))
    assert fine == (Relation("a", "left of", "b", True),)
    wrong = relations_of([LabelMap(straight, grid)], LabelMap(mirrored, grid, names))
    assert [r.holds for r in wrong] == [False]
    assert relations_of([LabelMap(straight, grid), LabelMap(mirrored, grid)], LabelMap(straight, grid)) == ()


def test_data_that_contradict_themselves_are_refused() -> None:
    grid = Grid((4, 4), np.eye(4))
    scan, ones = Scan(np.arange(16.0).reshape(4, 4), grid), LabelMap(np.ones((4, 4), np.uint8), grid)
    with pytest.raises(AnatrustError, match="weight"):
        Reference(scan, ones, weight=0)
    with pytest.raises(AnatrustError, match="not on its scan's grid"):
        Reference(scan, LabelMap(np.ones((4, 4), np.uint8), Grid((4, 4), 2 * np.eye(4) - np.diag([0, 0, 0, 1]))))
    with pytest.raises(AnatrustError, match="box and voxels"):
        Structure(1, "liver", None, 0.0)
    with pytest.raises(AnatrustError, match="0 to 1"):
        Structure(1, "liver", ((0, 1), (0, 1)), 1.5, voxels=1)


def test_a_reference_of_which_nothing_is_found_is_asked_about(tmp_path: Path) -> None:
    image, labels = phantom()
    far = np.zeros_like(labels)
    far[:4, :4] = 1
    names = {1: "liver"}
    found = anatrust.annotate(
        pictured(phantom(3)[0][12:, 12:]), pictured(image), pictured(far), names=names, out=tmp_path / "out"
    )
    assert found.decision == "review"
    assert found.reasons[0].startswith("nothing of the references was found: are they of the same body part")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No structure was found." in page
    assert "Nothing odd" not in page


def test_the_switches_say_what_they_did() -> None:
    others = [phantom(shift) for shift in (-2, -1, 0, 1, 2)]
    given = [pictured(image) for image, _ in others], [pictured(labels) for _, labels in others]
    image, labels = phantom(4)
    names = {1: "liver", 2: "spleen"}
    plain = annotate(pictured(image), given[0][0], given[1][0], reasoner="correspondence", names=names)
    # One reference of the bank is taken; the layout is learnt from all of them.
    bank = ReferenceBank.build(read_references(*given, names=names))
    found = annotate(pictured(image), bank=bank, k=1, reasoner="correspondence", adaptive=True, priors=True)
    assert found.reasoner.startswith("repaired/1")
    assert "5 scans" in found.reasoner
    assert "adaptive/1" in found.reasoner
    assert plain.reasoner in found.reasoner
    assert all(dice(labels == n, found.labels.array == n) > 0.8 for n in (1, 2))
    with pytest.raises(InputError, match="from 5 labelled scans at least"):
        annotate(pictured(image), given[0][0], given[1][0], priors=True)


def test_a_rehearsal_says_what_overlap_to_expect_and_needs_four_references(tmp_path: Path) -> None:
    known = [phantom(shift) for shift in (-3, -1, 1, 3)]
    given = [pictured(image) for image, _ in known], [pictured(labels) for _, labels in known]
    image, _ = phantom(2)
    names = {1: "liver", 2: "spleen"}
    plain = annotate(pictured(image), *given, names=names, reasoner="correspondence")
    assert [s.expected for s in plain.structures] == [None, None]
    out = tmp_path / "out"
    told = anatrust.annotate(pictured(image), *given, names=names, reasoner="correspondence", rehearse=True, out=out)
    assert all((s.expected or 0) > 0.8 for s in told.structures)
    assert np.array_equal(told.labels.array, plain.labels.array)
    written = json.loads((out / "annotation.json").read_text())
    assert [s["expected"] for s in written["structures"]] == [s.expected for s in told.structures]
    assert "expected" in (out / "structures.csv").read_text().splitlines()[0]
    assert f"Dice to expect {told.structures[0].expected:.2f}" in (out / "report.html").read_text()
    with pytest.raises(InputError, match="give 4 or more"):
        annotate(pictured(image), given[0][:3], given[1][:3], names=names, rehearse=True)


def test_a_structure_of_which_little_is_expected_is_for_review() -> None:
    box = ((0, 2), (0, 2))
    hard, easy = Structure(1, "vessels", box, 0.8, voxels=2, expected=0.5), Structure(2, "liver", box, 0.8, voxels=2)
    array = np.array([[1, 1], [2, 2]], np.uint8)
    found = Annotation(LabelMap(array, Grid((2, 2), np.eye(4))), (hard, easy), (), "somebody", (("a", 1.0),))
    assert (hard.sure, easy.sure) == (False, True)
    assert found.decision == "review"
    assert found.reasons == ("expected to overlap by less than 0.7: vessels",)
