"""Random contrasts, and what is said of ours beside a rival's on the same patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.studies.r2seg_cases import like_t2
from anatrust.studies.r2seg_contrasts import random_contrast
from anatrust.studies.r2seg_judge import Outcome
from anatrust.studies.r2seg_many_contrasts import STUDY, difference, many_lessons
from anatrust.studies.study import Context


def _ramp() -> Scan:
    """Every grey value of a range many times, so that a curve can be read off."""
    values = np.tile(np.linspace(100, 900, 40, dtype=np.float32), (40, 10, 1)).transpose(2, 0, 1)
    return Scan(np.ascontiguousarray(values), Grid(values.shape, np.eye(4)), modality="MR")


def test_contrasts_rise_fall_or_do_neither_and_keep_grid_and_modality() -> None:
    scan, kinds = _ramp(), []
    for k in range(60):
        made = random_contrast(scan, np.random.default_rng([k, 3]))
        assert made.grid is scan.grid
        assert (made.modality, made.array.dtype) == ("MR", np.float32)
        assert np.isfinite(made.array).all()
        assert made.array.min() >= 0
        order = np.corrcoef(np.argsort(np.argsort(made.array.mean(axis=(1, 2)))), np.arange(40))[0, 1]
        kinds.append(1 if order > 0.9 else -1 if order < -0.9 else 0)
    counts = [kinds.count(k) for k in (1, -1, 0)]
    assert min(counts) >= 8, counts
    same = [random_contrast(scan, np.random.default_rng(5)).array for _ in range(2)]
    assert np.array_equal(*same)


def test_the_contrast_of_the_test_is_not_among_those_that_teach(shared_data: Path) -> None:
    """Grey values before and after, as a function: none of those drawn is that of `like_t2`, though some are near."""
    context = Context(0, True, shared_data)
    shown = many_lessons("hippocampus", 20, context)
    firsts = shown[: len(shown) // 20]
    assert len(shown) == 20 * len(firsts)
    case, labels = firsts[0]
    mine = [(c, t) for c, t in shown[1:] if c.patient == case.patient]
    assert len(mine) == 19
    assert all(np.array_equal(t, labels) and np.array_equal(c.truth, case.truth) for c, t in mine)
    plain = case.scan.array
    bins = np.quantile(plain, np.linspace(0, 1, 21))
    place = np.clip(np.digitize(plain, bins) - 1, 0, 19)

    def curve(array: np.ndarray) -> np.ndarray:
        means = np.array([array[place == b].mean() for b in range(20)])
        return (means - means.mean()) / means.std()

    asked = [curve(like_t2(case.scan, k).array) for k in range(5)]
    taught = [curve(c.scan.array) for c, _ in mine]
    apart = [min(float(np.abs(a - t).mean()) for t in taught) for a in asked]
    alike = [float(np.abs(a - asked[0]).mean()) for a in asked[1:]]
    assert min(apart) > 2 * max(alike)


def _outcome(k: int, *, found: bool, kept: bool, dice: float) -> Outcome:
    ill = k % 2 == 0
    lesions = ((12.0, 2.0, found, 0.01),) if ill else ()
    voxels = (8, 2, 2, 88) if found else (0, 2, 10, 88)
    return Outcome(
        str(k), ill, kept, lesions, 0, 0, 0, (int(ill), int(ill and found), 4, 3), 8.0, dice * ill, voxels, (0.3,)
    )


def test_the_difference_is_that_of_the_numbers_patient_by_patient() -> None:
    ours = [_outcome(k, found=k % 4 == 0, kept=k % 4 == 0, dice=0.4) for k in range(40)]
    theirs = [_outcome(k, found=True, kept=True, dice=0.7) for k in range(40)]
    found = difference(ours, theirs, seed=0)
    # Ours: half of the ill, all healthy empty. Theirs: all of the ill, no healthy one empty.
    assert found["mean of sensitivity and specificity"]["value"] == pytest.approx(0.75 - 0.5)
    assert found["dice"]["value"] == pytest.approx(-0.3)
    low, high = found["mean of sensitivity and specificity"]["interval"]
    assert 0 < low <= 0.25 <= high
    assert found["dice"]["interval"] == [pytest.approx(-0.3), pytest.approx(-0.3)]
    assert difference(ours, ours, seed=0)["class average"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert difference(ours[1::2], theirs[1::2], seed=0)["dice"] is None


def test_targets_follow_the_differences() -> None:
    gain = {"mean of sensitivity and specificity": {"value": 0.1}, "dice": {"value": -0.1}, "class average": None}
    place = {"less LoRA": {"frozen, R²Seg": gain, "LoRA, R²Seg": {key: {"value": 0.5} for key in gain}}}
    cells = {"T1, many contrasts": {"T1": place, "T2-like": place}, "CT, many contrasts": {"CT": {}, "MR-like": {}}}
    targets = STUDY.summarise(cells, Context(0, False, None))["targets"]
    assert [(t.get("better"), t.get("met")) for t in targets] == [(True, None), (None, False)]
    for there in cells["T1, many contrasts"].values():
        there["judges"] = {}
    cells["CT, many contrasts"] = {"CT": {"judges": {}}, "MR-like": {"judges": {}}}
    lines = STUDY.tables({"cells": cells})["gains"].splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [
        f"T1, many contrasts, asked on {place}: {ours}"
        for place in ("T1", "T2-like")
        for ours in ("frozen, R²Seg", "LoRA, R²Seg")
    ]
    assert lines[0].split("|")[2:5] == [" 0.10 ", " -0.10 ", " – "]
