"""The parts of the R²Seg studies: who is tested, what is counted, and that the numbers are those of the metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.metrics import dice
from anatrust.pipeline.propose import Proposal
from anatrust.studies.lesions import LesionSpec
from anatrust.studies.r2seg_anchors import wrong_anchor
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases, disguised
from anatrust.studies.r2seg_judge import JUDGES, Outcome, judge, outcome, tissue_of
from anatrust.studies.r2seg_numbers import COLUMNS, by_size, matched, numbers
from anatrust.studies.r2seg_planner import _misspelled, _words
from anatrust.studies.r2seg_questions import contaminated
from anatrust.studies.r2seg_rivals import adapted, adapter_share, base, organ_dice
from anatrust.studies.r2seg_separability import probe_auroc
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


def test_at_the_same_specificity_as_another_way_the_level_moves_and_the_lesions_are_counted_again() -> None:
    def scan(k: int, *, lesion: float | None, false: float, found: bool, kept: bool) -> Outcome:
        lesions = () if lesion is None else ((12.0, 2.0, found, lesion),)
        ill = lesion is not None
        return Outcome(str(k), ill, kept, lesions, 0, 0, 0, (1, 1, 4, 3), 8.0, 0.5, (5, 1, 2, 92), (false,))

    # Ours at 0.1: two of four lesions, all four healthy patients empty. Theirs: three of four, and two of four.
    p = [0.05, 0.08, 0.2, 1.0]
    false = [0.15, 0.3, 0.4, 0.6]
    ours = [scan(k, lesion=v, false=1.0, found=v <= 0.1, kept=v <= 0.1) for k, v in enumerate(p)]
    ours += [scan(4 + k, lesion=None, false=v, found=False, kept=False) for k, v in enumerate(false)]
    theirs = [scan(k, lesion=0.01, false=1.0, found=k != 2, kept=True) for k in range(4)]
    theirs += [scan(4 + k, lesion=None, false=0.01, found=False, kept=k < 2) for k in range(4)]
    found = matched(ours, theirs, seed=0)
    assert found is not None
    assert (found["below"], found["specificity"]) == (0.4, 0.5)
    assert (found["ours"], found["theirs"]) == (0.75, 0.75), "0.2 is below 0.4; what a gate refused (p = 1) is not"
    low, high = found["difference"]["interval"]
    assert low <= found["difference"]["value"] == 0 <= high
    strict = matched(ours, [replace(o, kept_any=o.ill) for o in theirs], seed=0)
    assert strict is not None
    assert (strict["below"], strict["specificity"], strict["ours"]) == (0.15, 1.0, 0.5)
    assert matched(ours[4:], theirs[4:], seed=0) is None


def test_lesions_are_counted_by_class_of_size() -> None:
    found = by_size([one("a", True, True, True), one("b", True, False), one("c", False, False)])
    assert found == {"< 10 mm": [0, 2], "10–16 mm": [1, 2], "≥ 16 mm": [0, 0]}


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
    moved = wrong_anchor(liver.array, "shifted 20 mm", case)
    step = case.scan.grid.spacing[0]
    gap = np.argwhere(liver.array)[:, 0].mean() - np.argwhere(moved)[:, 0].mean()
    assert abs(gap * step - 20) < step
    assert (
        wrong_anchor(liver.array, "dilated 10 mm", case).sum()
        > size
        > wrong_anchor(liver.array, "eroded 8 mm", case).sum()
    )
    assert 0.2 < wrong_anchor(liver.array, "half of it", case).sum() / size < 0.8
    assert not (wrong_anchor(liver.array, "spleen instead", case) & liver.array).any()
    assert np.array_equal(wrong_anchor(liver.array, "true organ", case), liver.array)


def test_misspellings_change_a_letter_and_keep_the_rest() -> None:
    rng = np.random.default_rng(0)
    made = {_misspelled("liver tumour", rng) for _ in range(60)}
    assert len(made) > 15
    assert all(abs(len(text) - len("liver tumour")) <= 1 and text[0] == "l" for text in made)
    assert all(right for _, right in _words("names", 0))


def test_another_contrast_turns_dark_and_bright_around_and_keeps_the_anatomy(shared_data: Path) -> None:
    context = Context(0, True, shared_data)
    (plain,), (other,) = next(cases("hippocampus", "test", context)), next(cases("hippocampus-t2", "test", context))
    assert plain.patient == other.patient
    assert np.array_equal(plain.truth, other.truth)
    assert np.corrcoef(plain.scan.array.ravel(), other.scan.array.ravel())[0, 1] < -0.7


def test_those_who_teach_the_rivals_are_neither_taught_nor_tested_nor_in_the_null(shared_data: Path) -> None:
    context = Context(0, False, shared_data)
    world = "hippocampus"
    adapt = {p[0].patient for p in cases(world, "adapt", context)}
    null = {p[0].patient for p in cases(world, "healthy", context, limit=40)}
    others = {p[0].patient for part in ("teach", "test") for p in cases(world, part, context)}
    assert len(adapt) == 20
    assert not adapt & (null | others)
    assert all(p[0].target.any() for p in cases(world, "adapt", context, limit=2))


def test_lora_learns_little_and_leaves_the_encoder_alone(shared_data: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    context = Context(0, True, shared_data)
    frozen = base("hippocampus", context)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    lora, tuned = adapted("hippocampus", "LoRA", context), adapted("hippocampus", "fine-tuned", context)
    assert 0 < adapter_share("hippocampus", context) < 0.5
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    encoder = {name: value for name, value in before.items() if name.startswith("stages")}
    kept, moved = dict(lora.state_dict()), dict(tuned.state_dict())
    assert all(torch.equal(kept[name], value) for name, value in encoder.items())
    assert any(not torch.equal(moved[name], value) for name, value in encoder.items())
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert not torch.equal(lora(image), frozen(image))
    dice = organ_dice(frozen, [next(cases("hippocampus", "test", context))], context)
    assert all(0 <= value <= 1 for value in dice.values())


def test_a_linear_probe_sees_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    ill = [np.arange(60) < 20] * 10
    noise = [rng.normal(size=(60, 3)) for _ in ill]
    apart = [v + 2 * m[:, None] for v, m in zip(noise, ill, strict=True)]
    assert np.mean(probe_auroc(apart, ill)) > 0.95
    assert abs(np.mean(probe_auroc(noise, ill)) - 0.5) < 0.1


def test_cysts_fill_the_share_asked_for_and_spare_the_lesion() -> None:
    (case,) = next(cases("phantom", "test", Context(0, True, None)))
    seen = contaminated(case, 0.2, np.random.default_rng(0))
    changed = seen.scan.array != case.scan.array
    liver = case.anatomy.mask("liver").array
    free = liver & ~case.target
    assert not (changed & case.target).any()
    assert not (changed & ~liver).any()
    assert 0.12 < changed[free].mean() <= 0.2
    assert contaminated(case, 0.0, np.random.default_rng(0)) is case


def test_whole_abdomens_come_once_healthy_and_then_with_lesions(shared_data: Path) -> None:
    (patient,) = cases("abdomen", "test", Context(0, True, shared_data))
    assert [bool(case.target.any()) for case in patient] == [False, True]
    healthy, ill = patient
    changed = healthy.scan.array != ill.scan.array
    assert not (changed & ~ill.anatomy.mask("liver").array).any()
    assert max(abs(s - 3.0) for s in healthy.scan.grid.spacing) < 0.2
