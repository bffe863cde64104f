"""Overlap metrics: analytic cases, MONAI as oracle, properties, edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_dice, get_confusion_matrix

from anatrust.errors import GeometryError, InputError
from anatrust.metrics import (
    EdgeCases,
    count_voxels,
    dice,
    iou,
    precision,
    relative_volume_difference,
    sensitivity,
    specificity,
    volume_difference,
)
from anatrust.metrics.edge_cases import plain_number

shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
pairs = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))


def onehot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask[None, None].astype(np.float32))


@given(pairs)
def test_counts_add_up_and_do_not_depend_on_memory_layout(masks: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = masks
    counts = count_voxels(truth, prediction)
    assert counts.true_positive == int((truth & prediction).sum())
    assert counts.truth == int(truth.sum())
    assert counts.prediction == int(prediction.sum())
    assert counts.truth + counts.false_positive + counts.true_negative == truth.size
    turned = [np.asfortranarray(truth), np.asfortranarray(prediction)]
    assert count_voxels(*turned) == counts == count_voxels(turned[0], prediction)
    assert count_voxels(truth[::-1], prediction[::-1]) == counts


def test_counts_across_blocks(rng: np.random.Generator) -> None:
    truth, prediction = rng.random((2, 71, 73, 77)) < 0.3
    counts = count_voxels(truth, prediction)
    assert counts.true_positive == int((truth & prediction).sum())
    assert counts.true_negative == int((~truth & ~prediction).sum())


@given(pairs)
def test_dice_and_iou_are_bound_to_each_other(masks: tuple[np.ndarray, np.ndarray]) -> None:
    d, j = dice(*masks), iou(*masks)
    assert d == pytest.approx(2 * j / (1 + j))
    assert 0 <= j <= d <= 1
    assert dice(masks[1], masks[0]) == d
    assert dice(masks[0], masks[0]) == 1


@given(pairs)
def test_monai_agrees(masks: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = masks
    undefined = EdgeCases.undefined()
    theirs = float(compute_dice(onehot(prediction), onehot(truth), ignore_empty=False))
    assert dice(truth, prediction) == pytest.approx(theirs, abs=1e-6)
    tp, fp, tn, fn = get_confusion_matrix(onehot(prediction), onehot(truth)).flatten().tolist()
    counts = count_voxels(truth, prediction)
    assert (counts.true_positive, counts.false_positive) == (tp, fp)
    assert (counts.true_negative, counts.false_negative) == (tn, fn)
    ours = [f(truth, prediction, edge_cases=undefined) for f in (sensitivity, specificity, precision)]
    for value, (above, below) in zip(ours, [(tp, tp + fn), (tn, tn + fp), (tp, tp + fp)], strict=True):
        assert math.isnan(value) if below == 0 else value == above / below


def test_volume_differences() -> None:
    truth, prediction = np.zeros((2, 4, 4), bool)
    truth[:2], prediction[:3] = True, True
    assert volume_difference(truth, prediction, voxel_volume=0.5) == 2.0
    assert volume_difference(prediction, truth) == -4.0
    assert relative_volume_difference(truth, prediction) == 0.5
    assert relative_volume_difference(truth, np.zeros_like(truth)) == -1.0


def test_the_policy_answers_for_empty_masks() -> None:
    nothing, something = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    policy = EdgeCases(overlap_both_empty=0.5, rate_undefined=0.25)
    assert dice(nothing, nothing, edge_cases=policy) == iou(nothing, nothing, edge_cases=policy) == 0.5
    assert dice(nothing, something, edge_cases=policy) == dice(something, nothing, edge_cases=policy) == 0
    assert sensitivity(nothing, something, edge_cases=policy) == 0.25
    assert precision(something, nothing, edge_cases=policy) == 0.25
    assert relative_volume_difference(nothing, something, edge_cases=policy) == 0.25
    assert specificity(np.ones((3, 3), bool), something, edge_cases=policy) == 0.25
    assert math.isnan(sensitivity(nothing, something))


@given(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), min_size=5, max_size=5))
def test_the_policy_survives_json(values: list[float]) -> None:
    policy = EdgeCases(*values)
    plain = policy.to_json()
    assert EdgeCases.from_json(plain).to_json() == plain
    assert [v is None for v in plain.values()] == [math.isnan(v) for v in values]


def test_the_policy_is_valid_once_constructed() -> None:
    assert EdgeCases.undefined().to_json() == dict.fromkeys(EdgeCases().to_json())
    assert plain_number(math.inf) == "inf"
    for wrong in ({"overlap_both_empty": 1.5}, {"rate_undefined": -0.1}, {"distance_one_empty": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            EdgeCases(**wrong)
    with pytest.raises(InputError, match="unknown edge case 'dice_empty'"):
        EdgeCases.from_json({"dice_empty": 1})


def test_bad_masks_are_refused() -> None:
    with pytest.raises(InputError, match="prediction is uint8, not boolean"):
        dice(np.zeros((2, 2), bool), np.zeros((2, 2), np.uint8))
    with pytest.raises(GeometryError, match="differ in shape"):
        dice(np.zeros((2, 2), bool), np.zeros((2, 3), bool))
