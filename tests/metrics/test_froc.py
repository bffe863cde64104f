"""FROC: MONAI as oracle, properties, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_froc_curve_data

from anatrust.errors import InputError
from anatrust.metrics import froc

candidates = st.lists(
    st.tuples(st.integers(1, 8).map(lambda v: v / 8), st.integers(0, 3), st.integers(0, 2)), max_size=25
)


@given(candidates)
def test_every_point_is_what_a_threshold_gives(rows: list[tuple[float, int, int]]) -> None:
    score, hit, scan = (np.array([r[i] for r in rows]) for i in range(3))
    curve = froc(score, hit, scans=scan, n_lesions=9, n_scans=4)
    assert curve.thresholds.tolist() == [np.inf, *sorted(set(score.tolist()), reverse=True)]
    for threshold, rate, sensitivity in zip(
        curve.thresholds, curve.false_positives_per_scan, curve.sensitivity, strict=True
    ):
        kept = [(h, s) for v, h, s in rows if v >= threshold]
        assert rate == sum(h == 0 for h, _ in kept) / 4
        assert sensitivity == pytest.approx(len({(h, s) for h, s in kept if h}) / 9)


@given(candidates)
def test_does_not_depend_on_the_order(rows: list[tuple[float, int, int]]) -> None:
    score, hit, scan = (np.array([r[i] for r in rows]) for i in range(3))
    one = froc(score, hit, scans=scan, n_lesions=9, n_scans=4)
    two = froc(score[::-1], hit[::-1], scans=scan[::-1], n_lesions=9, n_scans=4)
    assert np.array_equal(one.sensitivity, two.sensitivity)
    assert np.array_equal(one.false_positives_per_scan, two.false_positives_per_scan)


def test_monai_agrees_where_each_lesion_is_hit_once(rng: np.random.Generator) -> None:
    score = rng.permutation(np.linspace(0.1, 0.9, 40))
    hit = np.where(rng.random(40) < 0.4, np.arange(1, 41), 0)
    curve = froc(score, hit, n_lesions=30, n_scans=10)
    rates, sensitivities = compute_froc_curve_data(score[hit == 0], score[hit > 0], 30, 10)
    # MONAI leaves out the lowest threshold and runs the other way.
    np.testing.assert_allclose(curve.false_positives_per_scan[:-1], rates[::-1])
    np.testing.assert_allclose(curve.sensitivity[:-1], sensitivities[::-1])


def test_score_is_a_mean_of_steps() -> None:
    curve = froc([0.9, 0.8, 0.7, 0.6], [1, 0, 2, 0], n_lesions=2, n_scans=2)
    assert [curve.sensitivity_at(r) for r in (0, 0.49, 0.5, 99)] == [0.5, 0.5, 1.0, 1.0]
    assert curve.score((0.0, 0.5)) == 0.75
    assert froc([], [], n_lesions=3, n_scans=1).score() == 0.0


def test_a_lesion_counts_once() -> None:
    curve = froc([0.9, 0.8, 0.8], [1, 1, 1], scans=["a", "a", "b"], n_lesions=2, n_scans=2)
    assert curve.sensitivity.tolist() == [0.0, 0.5, 1.0]
    assert curve.false_positives_per_scan.tolist() == [0.0, 0.0, 0.0]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="one hit and one scan a score"):
        froc([0.5], [1, 2], n_lesions=2, n_scans=1)
    with pytest.raises(InputError, match="NaN"):
        froc([np.nan], [1], n_lesions=2, n_scans=1)
    with pytest.raises(InputError, match="0 lesions in 1 scans"):
        froc([0.5], [1], n_lesions=0, n_scans=1)
    with pytest.raises(InputError, match="hit 2 lesions but n_lesions is 1"):
        froc([0.5, 0.4], [1, 2], n_lesions=1, n_scans=1)
    curve = froc([0.5], [1], n_lesions=1, n_scans=1)
    with pytest.raises(InputError, match="rate of -1"):
        curve.sensitivity_at(-1)
    with pytest.raises(InputError, match="at least one"):
        curve.score(())
