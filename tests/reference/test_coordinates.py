"""Boxes come back from every model's coordinates, inside the image, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.reference.coordinates import Convention, box_of_mask, clamped, from_model, slices_of_box, to_model

SIZES = st.tuples(st.integers(20, 900), st.integers(20, 900))


@given(SIZES, SIZES, st.sampled_from(["pixels", "thousand", "unit"]), st.integers(0, 2**31))
def test_there_and_back_is_within_a_step(
    seen: tuple[int, int], shown: tuple[int, int], convention: Convention, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(0, 1, (2, 2)), axis=1)
    box = (
        x[0] * 0.8 * shown[0],
        y[0] * 0.8 * shown[1],
        (0.85 + 0.15 * x[1]) * shown[0],
        (0.85 + 0.15 * y[1]) * shown[1],
    )
    back = from_model(to_model(box, convention, seen=seen, shown=shown), convention, seen=seen, shown=shown)
    step = {"pixels": 1 / min(seen), "thousand": 1e-3, "unit": 1e-9}[convention] * max(shown)
    assert np.allclose(back, box, atol=step)
    assert 0 <= back[0] < back[2] <= shown[0]
    assert 0 <= back[1] < back[3] <= shown[1]


@given(st.integers(0, 2**31))
def test_masks_become_boxes_and_slices_again(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 13)) > 0.9
    box = box_of_mask(mask)
    if box is None:
        assert not mask.any()
        return
    inside = np.zeros_like(mask)
    inside[slices_of_box(box, (13, 9))] = True
    assert not (mask & ~inside).any()
    assert box_of_mask(inside) == box


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, float("nan"), 4), (5, 5, 5, 9), (900, 900, 950, 950), (9, 1, 3, 4)])
def test_what_is_no_box_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        from_model(box, "pixels", seen=(100, 100), shown=(100, 100))


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="coordinates"):
        from_model((0, 0, 1, 1), "inches", seen=(9, 9), shown=(9, 9))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two axes"):
        box_of_mask(np.ones((2, 2, 2), bool))
    assert clamped((-5, -5, 4, 4), (10, 10)) == (0, 0, 4, 4)
    assert slices_of_box((3.2, 3.2, 3.4, 3.4), (10, 10)) == (slice(3, 4), slice(3, 4))
