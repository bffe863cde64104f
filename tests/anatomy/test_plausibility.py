"""Implausible organs are said in words; real people draw hardly a remark."""

from __future__ import annotations

import numpy as np
import pytest

from anatrust.anatomy.organs import with_names
from anatrust.anatomy.plausibility import check_anatomy, structure_of
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask
from anatrust.image.volumes import LabelMap

SHAPE = (80, 60, 100)
AFFINE = np.diag([5.0, 5.0, 5.0, 1.0])


def person(**blocks):
    """A label map of boxes, ``name=(x, y, z, edge)`` in voxels of 5 mm."""
    array = np.zeros(SHAPE, np.uint8)
    names = {}
    for number, (name, (x, y, z, edge)) in enumerate(blocks.items(), start=1):
        array[x : x + edge, y : y + edge, z : z + edge] = number
        names[number] = name
    return LabelMap(array, Grid(SHAPE, AFFINE), names)


USUAL = {
    "liver": (45, 20, 50, 24),
    "spleen": (12, 20, 55, 11),
    "kidney_left": (20, 15, 40, 11),
    "kidney_right": (52, 15, 38, 11),
    "spinal_cord": (39, 10, 45, 5),
}


def codes(labels):
    return [(r.code, r.structure) for r in check_anatomy(labels).remarks]


def test_a_plausible_person_draws_no_remark():
    check = check_anatomy(person(**USUAL))
    assert check.remarks == ()
    assert check.notes == ()
    assert check.structures == tuple(USUAL)


def test_a_mirrored_person_is_noticed_in_any_storage_order():
    labels = person(**USUAL)
    mirrored = LabelMap(labels.array[::-1], labels.grid, labels.names)
    wrong = {"liver", "spleen", "kidney_left"}
    assert set(codes(mirrored)) == {("organ-on-wrong-side", key) for key in wrong}
    affine = AFFINE.copy()
    affine[0] = [-5, 0, 0, 5 * (SHAPE[0] - 1)]
    same = LabelMap(labels.array[::-1], Grid(SHAPE, affine), labels.names)
    assert codes(same) == []


def test_a_single_kidney_on_the_wrong_side_needs_the_middle():
    moved = {"kidney_right": (12, 15, 38, 11), "spinal_cord": (39, 10, 45, 5)}
    remark = check_anatomy(person(**moved)).remarks[0]
    assert remark.code == "organ-on-wrong-side"
    assert remark.sentence == "The right kidney lies 120 mm to the left of the middle of the body."
    alone = check_anatomy(person(kidney_right=(12, 15, 38, 11)))
    assert alone.remarks == ()
    assert "no label marks the middle" in alone.notes[0]


def test_without_a_middle_the_liver_is_compared_with_the_spleen():
    labels = person(liver=USUAL["liver"], spleen=USUAL["spleen"])
    assert codes(labels) == []
    mirrored = check_anatomy(LabelMap(labels.array[::-1], labels.grid, labels.names))
    assert [r.sentence for r in mirrored.remarks] == ["The liver lies to the left of the spleen."]


def test_a_file_whose_header_swaps_the_sides_is_noticed(shared_data):
    """The public AMOS case at hand is stored mirrored: its header calls left what is right."""
    check = check_anatomy(with_names(read_mask(shared_data / "amos_ct" / "labels.nii.gz"), "amos"))
    assert {r.code for r in check.remarks} == {"organ-on-wrong-side"}
    assert {r.structure for r in check.remarks} == {"kidney_left", "adrenal_gland_left", "liver"}


def test_sizes():
    assert codes(person(liver=(30, 20, 40, 5))) == [("organ-too-small", "liver")]
    assert codes(person(spleen=(5, 5, 20, 45))) == [("organ-too-large", "spleen")]
    assert codes(person(liver=(30, 20, 0, 5))) == []  # cut by the image's edge


def test_pieces():
    labels = person(**USUAL)
    array = labels.array.copy()
    array[40:44, 50:58, 80:90] = array[70:74, 50:58, 80:90] = 2
    # Two more pieces of a tenth or more make three spleens.
    check = check_anatomy(LabelMap(array, labels.grid, labels.names))
    assert ("organ-in-pieces", "spleen") in [(r.code, r.structure) for r in check.remarks]
    assert any("lies in 3 pieces; it comes in one piece" in r.sentence for r in check.remarks)


def test_an_organ_far_from_its_neighbours():
    away = {**USUAL, "gallbladder": (60, 30, 8, 3)}
    remark = check_anatomy(person(**away)).remarks[0]
    assert (remark.code, remark.structure) == ("organ-far-from-neighbours", "gallbladder")
    assert "mm from the liver, its nearest neighbour" in remark.sentence


def test_a_missing_vertebra_and_a_swapped_pair():
    spine = {f"vertebrae_L{n}": (38, 10, 70 - 10 * n, 5) for n in (1, 2, 4, 5)}
    remark = check_anatomy(person(**spine)).remarks[0]
    assert remark.sentence == "Between the vertebra L2 and the vertebra L4 one is missing."
    spine = {"vertebrae_L1": (38, 10, 30, 5), "vertebrae_L2": (38, 10, 40, 5)}
    assert codes(person(**spine)) == [("organs-out-of-order", "vertebrae_L2")]
    ribs = {f"rib_left_{n}": (10, 10, 90 - 7 * n, 3) for n in (3, 6)}
    assert "2 are missing" in check_anatomy(person(**ribs)).remarks[0].sentence


def test_without_spacing_only_forms_are_checked():
    array = np.zeros((40, 40), np.uint8)
    array[5:9, 5:9] = array[20:24, 20:24] = 1
    check = check_anatomy(LabelMap(array, Grid.without_spacing((40, 40)), {1: "liver", 7: "lesion"}))
    assert [r.code for r in check.remarks] == ["organ-in-pieces"]
    assert "no 3-D spacing" in check.notes[0]


def test_unknown_and_repeated_names_are_left_alone():
    labels = person(liver=(45, 20, 50, 24), lesion=(5, 5, 5, 3), Liver=(10, 10, 10, 3))
    assert check_anatomy(labels).structures == ("liver",)
    assert structure_of("right_kidney") == "kidney_right"
    assert structure_of("") is None


REAL = [
    ("ct_abdomen_3mm_labels", "totalsegmentator_ct", 61),
    ("ct_small_labels", "totalsegmentator_ct", 41),
    ("mr_small_labels", "totalsegmentator_mr", 23),
    ("ct_dicom_series_labels", "totalsegmentator_ct", 31),
]


@pytest.mark.parametrize(("file", "table", "known"), REAL)
def test_real_people_are_plausible_and_their_mirror_images_are_not(shared_data, file, table, known):
    labels = with_names(read_mask(shared_data / "abdomen_ct_mr" / f"{file}.nii.gz"), table)
    check = check_anatomy(labels)
    assert len(check.structures) == known
    # The pancreas of two of these model outputs does lie in two pieces.
    assert {(r.code, r.structure) for r in check.remarks} <= {("organ-in-pieces", "pancreas")}
    axis = next(a for a, letter in enumerate(labels.grid.orientation) if letter in "LR")
    mirrored = LabelMap(np.flip(labels.array, axis), labels.grid, labels.names)
    assert sum(code == "organ-on-wrong-side" for code, _ in codes(mirrored)) >= 2
