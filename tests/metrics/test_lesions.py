"""Lesion matching: drawn cases, brute force, the rules against each other."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as scipy_label

from anatrust.errors import GeometryError, InputError
from anatrust.metrics import EdgeCases, label_lesions, match_lesions

numbered = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.uint8, shape, elements=st.integers(0, 4))] * 2)
)


def overlap(truth: np.ndarray, prediction: np.ndarray, a: int, b: int) -> float:
    return float(((truth == a) & (prediction == b)).sum() / ((truth == a) | (prediction == b)).sum())


def test_merge_and_split() -> None:
    truth = np.array([[1, 1, 0, 2, 2, 0, 3, 3, 3, 3, 0, 4]])
    found = np.array([[1, 1, 1, 1, 1, 0, 2, 0, 3, 3, 0, 0]])
    m = match_lesions(truth, found)
    assert (m.merges, m.splits) == (1, 1)
    assert m.missed == (4,)
    assert m.invented == ()
    assert (m.found, m.confirmed) == (3, 3)
    assert m.sensitivity() == 0.75
    assert m.precision() == 1.0
    assert m.f1() == pytest.approx(6 / 7)
    one = match_lesions(truth, found, rule="iou", threshold=0.4)
    assert one.pairs == ((1, 1, 0.4), (3, 3, 0.5))
    assert one.missed == (2, 4)
    assert one.invented == (2,)
    assert one.to_json() == {
        "rule": "iou",
        "threshold": 0.4,
        "truth": 4,
        "prediction": 3,
        "found": 2,
        "invented": 1,
        "merges": 1,
        "splits": 1,
    }


def test_hungarian_finds_a_second_pair_where_greedy_cannot() -> None:
    """The best single pair (1, 1) blocks both others."""
    truth = np.array([[1] * 6 + [2] * 6])
    found = np.array([[2, 1, 1, 1, 1, 1] + [1] * 3 + [0] * 3])
    greedy = match_lesions(truth, found, rule="iou", threshold=0.1)
    best = match_lesions(truth, found, rule="hungarian", threshold=0.1)
    assert [pair[:2] for pair in greedy.pairs] == [(1, 1)]
    assert [pair[:2] for pair in best.pairs] in ([(1, 1)], [(1, 2), (2, 1)])
    assert sum(p[2] for p in best.pairs) >= sum(p[2] for p in greedy.pairs)


@given(numbered, st.sampled_from([0.05, 0.2, 0.5, 0.7, 1.0]))
@settings(deadline=None)
def test_rules_against_brute_force(masks: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    truth, prediction = masks
    a, b = [int(v) for v in np.unique(truth) if v], [int(v) for v in np.unique(prediction) if v]
    share = {(i, j): overlap(truth, prediction, i, j) for i in a for j in b}
    loose = match_lesions(truth, prediction)
    assert {p[:2] for p in loose.pairs} == {pair for pair, value in share.items() if value > 0}
    assert loose.missed == tuple(i for i in a if not any(share[i, j] for j in b))
    assert loose.invented == tuple(j for j in b if not any(share[i, j] for i in a))
    assert loose.merges == sum(sum(share[i, j] > 0 for i in a) > 1 for j in b)
    assert loose.splits == sum(sum(share[i, j] > 0 for j in b) > 1 for i in a)

    greedy = match_lesions(truth, prediction, rule="iou", threshold=threshold)
    best = match_lesions(truth, prediction, rule="hungarian", threshold=threshold)
    for m in (greedy, best):
        assert all(value >= threshold and value == pytest.approx(share[i, j]) for i, j, value in m.pairs)
        assert len({i for i, _, _ in m.pairs}) == len({j for _, j, _ in m.pairs}) == len(m.pairs) == m.found
        assert (m.n_truth, m.n_prediction) == (len(a), len(b))
    totals = [0.0]
    for size in range(1, min(len(a), len(b)) + 1):
        for rows in itertools.combinations(a, size):
            for columns in itertools.permutations(b, size):
                values = [share[i, j] for i, j in zip(rows, columns, strict=True)]
                if min(values) >= threshold:
                    totals.append(sum(values))
    assert sum(p[2] for p in best.pairs) == pytest.approx(max(totals))
    if threshold > 0.5:
        assert greedy.pairs == best.pairs


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)))
@settings(deadline=None)
def test_components_equal_scipy(mask: np.ndarray) -> None:
    for neighbours, rank in {2: [(4, 1), (8, 2)], 3: [(6, 1), (18, 2), (26, 3)]}[mask.ndim]:
        ours = label_lesions(mask, connectivity=neighbours)
        theirs, count = scipy_label(mask, generate_binary_structure(mask.ndim, rank))
        assert len(np.unique(ours[mask])) == count
        assert len({(int(i), int(j)) for i, j in zip(ours[mask], theirs[mask], strict=True)}) == count
    assert np.array_equal(label_lesions(mask) > 0, mask)


def test_masks_are_split_into_components() -> None:
    truth, prediction = np.zeros((2, 8, 8), bool)
    truth[:2, :2] = truth[5:, 5:] = True
    prediction[1:3, 1:3] = prediction[0, 7] = True
    m = match_lesions(truth, prediction)
    assert (m.n_truth, m.n_prediction, m.found, len(m.invented)) == (2, 2, 1, 1)
    corner = np.eye(3, dtype=bool)
    assert match_lesions(corner, corner, connectivity=4).n_truth == 3
    assert match_lesions(corner, corner).n_truth == 1


def test_real_spine_instances(shared_data: Path) -> None:
    """Vertebrae are numbered one off in the unmatched pair: by overlap they still find each other."""
    folder = shared_data / "spine_mask_pairs" / "examples" / "spine_seg" / "unmatched_instance"
    truth, prediction = (np.asarray(nibabel.load(folder / f"{n}.nii.gz").dataobj) for n in ("ref", "pred"))
    vertebrae = [np.where(m < 100, m, 0) for m in (truth, prediction)]
    m = match_lesions(*vertebrae, rule="iou", threshold=0.5)
    assert m.pairs == match_lesions(*vertebrae, rule="hungarian", threshold=0.5).pairs
    assert m.found == 8
    assert m.invented == ()
    assert {b - a for a, b, _ in m.pairs} == {1}
    for a, b, value in m.pairs:
        assert value == pytest.approx(overlap(truth, prediction, a, b))


def test_the_policy_answers_without_lesions() -> None:
    nothing, something = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    m = match_lesions(nothing, nothing)
    assert m.f1() == 1.0
    assert math.isnan(m.sensitivity())
    assert math.isnan(m.precision())
    policy = EdgeCases(lesions_both_empty=0.5, rate_undefined=0.0)
    assert (m.f1(policy), m.sensitivity(policy), m.precision(policy)) == (0.5, 0.0, 0.0)
    invented = match_lesions(nothing, something, rule="hungarian")
    assert (invented.invented, invented.f1(), invented.precision()) == ((1,), 0.0, 0.0)


def test_bad_arguments_are_refused() -> None:
    mask = np.eye(3, dtype=bool)
    with pytest.raises(InputError, match="matching rule 'best'"):
        match_lesions(mask, mask, rule="best")  # type: ignore[arg-type]
    for threshold in (0.0, 1.1, math.nan):
        with pytest.raises(InputError, match="IoU threshold"):
            match_lesions(mask, mask, rule="iou", threshold=threshold)
    with pytest.raises(InputError, match="truth is float64"):
        match_lesions(mask * 0.5, mask)
    with pytest.raises(InputError, match="prediction is int64"):
        match_lesions(mask, mask * np.int64(-1))
    with pytest.raises(GeometryError, match="differ in shape"):
        match_lesions(mask, np.eye(4, dtype=bool))
    with pytest.raises(InputError, match="1-D bool"):
        label_lesions(np.ones(3, bool))
    with pytest.raises(InputError, match="connectivity 26 in 2-D"):
        label_lesions(mask, connectivity=26)
