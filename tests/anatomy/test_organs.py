"""Label tables and organ names."""

from __future__ import annotations

import numpy as np
import pytest

from anatrust.anatomy.organs import (
    find_label,
    is_lesion_name,
    is_organ_name,
    label_names,
    label_tables,
    normal_name,
    with_names,
)
from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap


@pytest.mark.parametrize(
    ("table", "size", "some"),
    [
        ("totalsegmentator_ct", 117, {1: "spleen", 5: "liver", 51: "heart", 90: "brain", 117: "costal_cartilages"}),
        ("totalsegmentator_mr", 50, {5: "liver", 10: "lung_left", 19: "vertebrae", 50: "brain"}),
        ("btcv", 13, {1: "spleen", 6: "liver", 11: "pancreas"}),
        ("msd_liver", 2, {1: "liver", 2: "liver_cancer"}),
        ("msd_prostate", 2, {1: "peripheral_zone"}),
        ("amos", 15, {1: "spleen", 6: "liver", 9: "postcava", 15: "prostate_uterus"}),
    ],
)
def test_tables_are_complete(table, size, some):
    names = label_names(table)
    assert sorted(names) == list(range(1, size + 1))
    assert len(set(names.values())) == size
    assert {k: names[k] for k in some} == some
    assert table in label_tables()


def test_every_table_name_is_an_organ_except_lesions():
    lesions = ("cyst", "cancer", "tumor", "edema")
    for table in label_tables():
        for name in label_names(table).values():
            assert is_organ_name(name) == (not any(word in name for word in lesions)), name


@pytest.mark.parametrize(
    "name", ["Liver", "LEFT KIDNEY", "KidneyLeft", "kidneys", "oesophagus", "Urinary-Bladder", "rib"]
)
def test_tolerant_organ_names(name):
    assert is_organ_name(name)


@pytest.mark.parametrize(
    "name", ["lesion", "liver tumour", "Kidney tumors", "", "label 3", "liver_metastases", "ROI 1"]
)
def test_lesions_and_unknown_names_are_no_organs(name):
    assert not is_organ_name(name)


def test_normal_name_levels_spelling():
    assert normal_name("Tumour") == normal_name("tumors")
    assert normal_name("vertebrae_L1") == normal_name("Vertebra L1") != normal_name("vertebrae_L2")
    assert is_lesion_name("Liver Metastases")


def test_find_label_and_with_names():
    grid = Grid((1, 3), np.eye(4))
    labels = LabelMap(np.array([[0, 2, 5]], np.uint8), grid)
    named = with_names(labels, "totalsegmentator_ct")
    assert find_label(named, "Right_Kidney") == 2
    assert find_label(named, 5) == 5
    with pytest.raises(InputError, match="it holds kidney_right, liver"):
        find_label(named, "spleen")
    with pytest.raises(InputError, match="no label 7"):
        find_label(labels, 7)
    with pytest.raises(InputError, match="no label table 'atlas'"):
        with_names(labels, "atlas")
    with pytest.raises(InputError, match=r"\[99\], which table 'amos' does not know"):
        with_names(LabelMap(np.array([[0, 2, 99]], np.uint8), grid), "amos")


def test_an_empty_anatomy_is_named_as_such():
    empty = LabelMap(np.zeros((1, 2), np.uint8), Grid((1, 2), np.eye(4)))
    with pytest.raises(InputError, match="it holds nothing"):
        find_label(empty, "liver")
