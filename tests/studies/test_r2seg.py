"""The parts of the R²Seg studies: who is tested, what is counted, and that the numbers are those of the metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.metrics import dice
from anatrust.pipeline.propose import Proposal
from anatrust.studies.lesions import LesionSpec
from anatrust.studies.r2seg_anchors import _wrong
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases, disguised
from anatrust.studies.r2seg_judge import JUDGES, Outcome, judge, outcome, tissue_of
from anatrust.studies.r2seg_numbers import COLUMNS, numbers
from anatrust.studies.r2seg_planner import _misspelled, _words
from anatrust.studies.study import Context


def toy() -> tuple[R2Case, Proposal]:
    """Two lesions; one is proposed, with two false candidates, one of them on a slice without lesion."""
    shape = (40, 40, 12)
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, shape).astype(np.float32)
    truth = np.zeros(shape, np.uint8)
    truth[5:10, 5:10, 3:6] = 1
    truth[25:28, 25:28, 4:6] = 2
    image[truth == 1] += 60
    mask = np.zeros(shape, np.uint8)
    mask[5:10, 5:10, 3:6] = mask[30:33, 8:11, 3:6] = mask[8:11, 30:33, 9:11] = 1
    grid = Grid(shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    organ = np.ones(shape, np.uint8)
    lesions = (LesionSpec("liver", 14.0, 6.0), LesionSpec("liver", 6.0, 1.0))
    case = R2Case("a", Scan(image, grid, "CT"), LabelMap(organ, grid, {1: "liver"}), truth, lesions)
    chance = ProbabilityMap(np.where(mask, 0.9, 0.1).astype(np.float32)[None], grid)
    made = Proposal(chance, LabelMap(mask, grid, {1: "liver tumour"}), (), (), (), 3, 0.9)
    return case, made


def test_what_is_counted_of_a_scan() -> None:
    case, made = toy()
    found = outcome(case, judge(case, made, tissue_of(case, "phantom"), JUDGES["segmenter alone"]))
    assert (found.ill, found.kept_any, found.false_kept, found.false_small) == (True, True, 2, 2)
    assert [le[2] for le in found.lesions] == [True, False]
    assert found.slices == (3, 3, 9, 7)
    assert found.area == 2 * 9 * 4.0
    drawn, true = made.labels.array > 0, case.target
    expected = sum(dice(true[..., k], drawn[..., k]) for k in (3, 4, 5))
    assert found.dice == pytest.approx(expected)
    assert found.voxels == (75, 45, 18, 40 * 40 * 12 - 138)
    assert len(found.false_p) == 2


def test_the_published_null_and_ours_part_ways_on_the_toy() -> None:
    case, made = toy()
    tissue = tissue_of(case, "phantom")
    kept = judge(case, made, tissue, JUDGES["iid, as published"], seed=1)
    assert kept.kept[np.argmin(kept.p)]
    assert outcome(case, kept).lesions[0][2]


def one(patient: str, ill: bool, kept: bool, found: bool = False) -> Outcome:
    lesions = ((12.0, 2.0, found, 0.01), (6.0, 2.0, False, 1.0)) if ill else ()
    return Outcome(
        patient, ill, kept, lesions, int(kept and not ill), 0, 0, (1, 1, 4, 3), 8.0, 0.5, (5, 1, 2, 92), (0.3,)
    )


def test_numbers_are_shares_of_patients_and_lesions() -> None:
    outcomes = [one("a", True, True, True), one("b", True, False), one("c", False, True), one("d", False, False)]
    found = numbers(outcomes, seed=0)
    value = {name: found[name]["value"] for name in COLUMNS if found[name] is not None}
    assert value["specificity"] == 0.5
    assert value["any kept"] == 0.5
    assert value["scan sensitivity"] == 0.5
    assert value["lesions"] == 0.25
    assert value["clear lesions"] == 0.5
    assert value["slice sensitivity"] == 1.0
    assert value["slice specificity"] == 0.75
    assert value["area"] == 2.0
    assert value["accuracy"] == 0.97
    assert value["class average"] == pytest.approx((5 / 7 + 92 / 93) / 2, abs=1e-4)
    assert "interval" not in found["specificity"], "four patients are k of n"
    many = numbers([one(str(k), k % 2 == 0, k % 4 < 2, k % 8 == 0) for k in range(20)], seed=0)
    low, high = many["specificity"]["interval"]
    assert low <= many["specificity"]["value"] <= high


def test_a_patient_with_several_scans_is_healthy_once() -> None:
    found = numbers([one("a", False, False), one("a", False, True), one("b", False, False)], seed=0)
    assert found["healthy"] == 2
    assert found["specificity"]["value"] == 0.5
    assert found["lesions"] is None


def test_no_patient_is_in_two_parts_and_half_of_the_tested_are_ill() -> None:
    context = Context(0, True, None)
    parts = {part: [p[0] for p in cases("phantom", part, context)] for part in ("teach", "healthy", "test")}
    names = [case.patient for found in parts.values() for case in found]
    assert len(set(names)) == len(names)
    assert all(case.target.any() for case in parts["teach"])
    assert not any(case.target.any() for case in parts["healthy"])
    assert [bool(case.lesions) for case in parts["test"]] == [True, False] * 2
    assert len(list(cases("phantom", "test", context, limit=1))) == 1


def test_real_worlds_have_enough_patients(shared_data: Path) -> None:
    context = Context(0, False, shared_data)
    for world in ("hippocampus", "cardiac"):
        last = list(cases(world, "test", context))[-1]
        assert last[0].scan.modality == "MR"
        assert WORLDS[world].organ in last[0].anatomy.names.values()


def test_a_disguised_ct_has_another_contrast_on_the_same_grid() -> None:
    (case,) = next(cases("phantom", "test", Context(0, True, None)))
    mr = disguised(case.scan, 3)
    assert mr.grid is case.scan.grid
    liver, fat = case.anatomy.mask("liver").array, (case.scan.array > -130) & (case.scan.array < -80)
    assert case.scan.array[liver].mean() > case.scan.array[fat].mean()
    assert mr.array[liver].mean() < mr.array[fat].mean()


def test_wrong_anchors_are_wrong_by_as_much_as_they_say() -> None:
    (case,) = next(cases("phantom", "test", Context(0, True, None)))
    liver: Mask = case.anatomy.mask("liver")
    size = int(liver.array.sum())
    moved = _wrong(liver.array, "shifted 20 mm", case)
    step = case.scan.grid.spacing[0]
    gap = np.argwhere(liver.array)[:, 0].mean() - np.argwhere(moved)[:, 0].mean()
    assert abs(gap * step - 20) < step
    assert _wrong(liver.array, "dilated 10 mm", case).sum() > size > _wrong(liver.array, "eroded 8 mm", case).sum()
    assert 0.2 < _wrong(liver.array, "half of it", case).sum() / size < 0.8
    assert not (_wrong(liver.array, "spleen instead", case) & liver.array).any()
    assert np.array_equal(_wrong(liver.array, "true organ", case), liver.array)


def test_misspellings_change_a_letter_and_keep_the_rest() -> None:
    rng = np.random.default_rng(0)
    made = {_misspelled("liver tumour", rng) for _ in range(60)}
    assert len(made) > 15
    assert all(abs(len(text) - len("liver tumour")) <= 1 and text[0] == "l" for text in made)
    assert all(right for _, right in _words("names", 0))
