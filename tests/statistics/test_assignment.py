"""Assignment: permutations come back under scale, shift, mirroring, missing and superfluous boxes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import InputError, MissingExtraError
from anatrust.statistics.assignment import (
    BoxTransform,
    assign,
    assign_in_rounds,
    assignment_cost,
    fit_box_transform,
    generalised_iou,
)


def layout(rng: np.random.Generator, count: int, ndim: int = 2) -> np.ndarray:
    """Boxes of unlike sizes whose centres keep apart."""
    centres = np.empty((0, ndim))
    while len(centres) < count:
        one = rng.uniform(0.1, 0.9, ndim)
        if len(centres) == 0 or np.linalg.norm(centres - one, axis=1).min() > 0.12:
            centres = np.vstack([centres, one])
    half = rng.uniform(0.02, 0.09, (count, ndim))
    return np.stack([centres - half, centres + half], axis=1)


def seen_as(
    rng: np.random.Generator, boxes: np.ndarray, *, flip: bool, gone: int = 0, more: int = 0, jitter: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes in another image, shuffled; and which of them each prototype is (−1: none)."""
    count, _, ndim = boxes.shape
    signs = np.ones(ndim, int)
    signs[0] = -1 if flip else 1
    transform = BoxTransform(rng.uniform(0.6, 1.6), tuple(rng.uniform(-0.4, 0.4, ndim)), tuple(signs))
    moved = transform(boxes)
    moved = np.sort(moved + rng.normal(0, jitter, moved.shape), axis=1)
    kept = rng.permutation(count)[: count - gone]
    extra = layout(rng, more, ndim) + 1.5 if more else np.empty((0, 2, ndim))
    everything = np.concatenate([moved[kept], extra])
    order = rng.permutation(len(everything))
    truth = np.full(count, -1)
    for place, source in enumerate(order):
        if source < len(kept):
            truth[kept[source]] = place
    return everything[order], truth


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("gone", "more"), [(0, 0), (2, 0), (0, 2), (1, 2)])
def test_permutations_come_back(ndim: int, flip: bool, gone: int, more: int) -> None:
    right = 0
    for seed in range(12):
        rng = np.random.default_rng([seed, ndim, flip, gone, more])
        reference = layout(rng, 8, ndim)
        target, truth = seen_as(rng, reference, flip=flip, gone=gone, more=more, jitter=0.004)
        found = assign(target, reference)
        right += np.array_equal(found.match, truth)
        if np.array_equal(found.match, truth):
            assert found.transform.flip[0] == (-1 if flip else 1)
            assert found.confidence[truth >= 0].min() > 0.3
            assert set(found.doubtful()) == set(np.flatnonzero(truth < 0).tolist())
    assert right >= 11, f"{right} of 12"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_boxes_and_prototypes_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = layout(rng, 5)
    target, _ = seen_as(rng, reference, flip=False, jitter=0.002)
    first = assign(target, reference, flips=False)
    boxes, prototypes = rng.permutation(5), rng.permutation(5)
    again = assign(target[boxes], reference[prototypes], flips=False)
    assert np.array_equal(boxes[again.match], first.match[prototypes])
    assert np.allclose(again.confidence, first.confidence[prototypes], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_a_transform_is_fitted_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = BoxTransform(rng.uniform(0.3, 3), tuple(rng.normal(size=2)), (int(rng.choice([-1, 1])), 1))
    boxes = layout(rng, 4)
    fitted = fit_box_transform(boxes, truth(boxes), rng.uniform(0.1, 1, 4), truth.flip)
    assert fitted.scale == pytest.approx(truth.scale)
    assert fitted.shift == pytest.approx(truth.shift)


def test_without_mirroring_a_mirror_image_is_worse() -> None:
    rng = np.random.default_rng(3)
    reference = layout(rng, 7)
    target, truth = seen_as(rng, reference, flip=True)
    assert np.array_equal(assign(target, reference).match, truth)
    blind = assign(target, reference, flips=False)
    assert blind.confidence.mean() < 0.7
    assert not np.array_equal(blind.match, truth)


def test_appearance_decides_where_places_do_not() -> None:
    square = np.array(
        [[[0.1, 0.1], [0.2, 0.2]], [[0.8, 0.1], [0.9, 0.2]], [[0.1, 0.8], [0.2, 0.9]], [[0.8, 0.8], [0.9, 0.9]]]
    )
    looks = np.eye(4)
    order = [2, 3, 0, 1]  # upside down: geometry alone finds several equal answers
    found = assign(square[order], square, features=looks[[3, 1, 2, 0]], prototype_features=looks[[3, 1, 2, 0]])
    assert np.array_equal(found.match, [0, 1, 2, 3])


@pytest.mark.parametrize("method", ["hungarian", "partial", "fused-gw"])
@pytest.mark.parametrize(("gone", "more"), [(0, 0), (2, 0), (0, 2)])
def test_the_other_methods_agree_on_easy_cases(method: str, gone: int, more: int) -> None:
    rng = np.random.default_rng([5, gone, more])
    reference = layout(rng, 7)
    target, truth = seen_as(rng, reference, flip=False, gone=gone, more=more)
    found = assign(target, reference, method=method)  # type: ignore[arg-type]
    assert np.array_equal(found.match, truth)


def test_relations_help_where_boxes_are_jittered() -> None:
    """Fused Gromov–Wasserstein finds at least what the dustbin finds, and far more than costs without a fit."""
    from scipy.optimize import linear_sum_assignment

    right = {"raw": 0, "dustbin": 0, "fused-gw": 0}
    for seed in range(15):
        rng = np.random.default_rng([9, seed])
        reference = layout(rng, 8)
        target, truth = seen_as(rng, reference, flip=False, jitter=0.035)
        rows, columns = linear_sum_assignment(assignment_cost(target, reference))
        right["raw"] += int((rows[np.argsort(columns)] == truth).sum())
        for method in ("dustbin", "fused-gw"):
            right[method] += int((assign(target, reference, method=method, flips=False).match == truth).sum())  # type: ignore[arg-type]
    assert right["fused-gw"] >= right["dustbin"] > 1.3 * right["raw"], right


def test_what_is_far_from_everything_goes_to_the_dustbin() -> None:
    reference = np.array([[[0.1, 0.1], [0.2, 0.2]], [[0.5, 0.5], [0.7, 0.7]], [[0.2, 0.6], [0.3, 0.9]]])
    target = reference.copy()
    target[2] += 5
    found = assign(target, reference, flips=False)
    assert found.match.tolist() == [0, 1, -1]
    assert found.confidence[2] == found.margin[2] == 0
    assert found.doubtful() == (2,)
    assert assign(target[:1], reference[:1]).margin.tolist() == [1.0]


def test_nothing_alike_matches_nothing() -> None:
    flat, tall = [[[0.0, 0.0], [1.0, 1e-9]]], [[[0.0, 0.0], [1e-9, 1.0]]]
    found = assign(flat, tall, flips=False)
    assert found.match.tolist() == [-1]


def test_doubtful_ones_are_asked_for_again() -> None:
    rng = np.random.default_rng(1)
    reference = layout(rng, 6)
    asked: list[tuple[int, ...]] = []

    def ask(wanted: tuple[int, ...], so_far: object) -> np.ndarray:
        asked.append(wanted)
        return reference[[0, 1, 2, 3]] if so_far is None else reference[list(wanted)]

    found, boxes = assign_in_rounds(ask, reference)
    assert asked == [(0, 1, 2, 3, 4, 5), (4, 5)]
    assert np.allclose(boxes[found.match], reference)

    silent, _ = assign_in_rounds(lambda w, s: reference[:4] if s is None else np.empty((0, 2, 2)), reference)
    assert silent.doubtful() == (4, 5)
    useless, boxes = assign_in_rounds(lambda w, s: reference[:4] + (0 if s is None else 9), reference)
    assert useless.doubtful() == (4, 5)
    assert len(boxes) == 4
    stubborn, _ = assign_in_rounds(ask, reference, rounds=0)
    assert stubborn.doubtful() == (4, 5)


def test_costs_are_those_of_the_definition() -> None:
    one, other = np.array([[[0.0, 0.0], [0.2, 0.2]]]), np.array([[[0.1, 0.0], [0.3, 0.4]]])
    overlap = 0.02 / (0.04 + 0.08 - 0.02) - (0.12 - 0.10) / 0.12
    assert generalised_iou(one, other)[0, 0] == pytest.approx(overlap)
    wanted = (1 - overlap) / 2 + np.hypot(0.1, 0.1) + 0.25 * np.log(2) / 3
    assert assignment_cost(one, other)[0, 0] == pytest.approx(wanted)
    look = assignment_cost(one, other, features=[[1.0, 0.0]], prototype_features=[[0.0, 2.0]])
    assert look[0, 0] == pytest.approx(wanted + 0.5)


def test_bad_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    box = [[[0.0, 0.0], [1.0, 1.0]]]
    for wrong in ([[0.0, 1.0]], [[[1.0, 1.0], [0.0, 0.0]]], [[[0.0, 0.0], [np.nan, 1.0]]]):
        with pytest.raises(InputError, match="lower corners"):
            assign(wrong, box)
    with pytest.raises(InputError, match="do not fit"):
        assign(box, [[[0.0] * 3, [1.0] * 3]])
    with pytest.raises(InputError, match="unknown method"):
        assign(box, box, method="magic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dustbin"):
        assign(box, box, dustbin=0)
    with pytest.raises(InputError, match="of neither"):
        assign(box, box, features=[[1.0]])
    with pytest.raises(InputError, match="features of shapes"):
        assign(box, box, features=[[1.0]], prototype_features=[[1.0, 2.0]])
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match="transport"):
        assign(box, box, method="partial")
