"""Conformal p-values and the cohort null: exactness by simulation, files, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.statistics.conformal_p import CohortNull, conformal_p_value

ALPHA = 0.05


def patients(rng: np.random.Generator, n: int, n_blobs: int = 30) -> list[np.ndarray]:
    """Lesion-free patients: a patient effect, correlated blobs, and a segmenter that proposes only the odd ones.

    The number of candidates varies (often none) and depends on how noisy the patient is.
    """
    effect = rng.normal(0, 0.7, (n, 1))
    noise = rng.gamma(2.0, 0.5, (n, 1))
    scores = effect + noise * rng.standard_normal((n, n_blobs))
    scores[:, 1::2] = 0.8 * scores[:, ::2] + 0.2 * scores[:, 1::2]  # pairs of blobs of one structure
    return [row[row > 1.0] for row in scores]


def brute_force(calibration: np.ndarray, score: float) -> float:
    return (1 + sum(float(c) >= score for c in calibration)) / (len(calibration) + 1)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-3, 3) | st.just(-np.inf), max_size=30),
    st.lists(st.integers(-4, 4), max_size=5),
)
def test_p_value_equals_the_definition_with_ties(calibration: list[float], scores: list[float]) -> None:
    got = conformal_p_value(np.array(calibration, dtype=float), np.array(scores, dtype=float))
    assert got.tolist() == [brute_force(np.array(calibration), s) for s in scores]


def test_p_values_of_exchangeable_scores_are_uniform_on_their_grid(rng: np.random.Generator) -> None:
    scores = rng.standard_normal((40_000, 20))
    p = (1 + (scores[:, :19] >= scores[:, 19:]).sum(1)) / 20
    mine = np.array([float(conformal_p_value(row[:19], row[19])) for row in scores[:500]])
    assert mine.tolist() == p[:500].tolist()
    for t in (0.05, 0.1, 0.5):
        assert abs((p <= t).mean() - t) < 3 * np.sqrt(t * (1 - t) / 40_000)


@pytest.mark.parametrize("n", [19, 39, 79])
def test_any_kept_in_a_lesion_free_patient_is_rare(n: int, rng: np.random.Generator) -> None:
    repeats = 1500
    kept = 0
    for _ in range(repeats):
        drawn = patients(rng, n + 1)
        null = CohortNull(tuple(drawn[:-1]))
        kept += bool((null.p_values(drawn[-1]) <= ALPHA).any())
    assert kept / repeats <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / repeats)
    # A bound that nothing ever reaches would pass too: with continuous maxima it is nearly attained.
    assert kept / repeats >= ALPHA - 4 * np.sqrt(ALPHA * (1 - ALPHA) / repeats)


def test_random_draw_p_value_of_a_random_candidate_is_valid(rng: np.random.Generator) -> None:
    repeats, hits, n = 3000, 0, 0
    for i in range(repeats):
        drawn = patients(rng, 40)
        if drawn[-1].size:
            n += 1
            p = CohortNull(tuple(drawn[:-1])).p_value_random(float(rng.choice(drawn[-1])), seed=i)
            hits += p <= 0.1
    assert 0.1 - 4 * np.sqrt(0.09 / n) <= hits / n <= 0.1 + 2 * np.sqrt(0.09 / n)


@pytest.mark.slow
@pytest.mark.parametrize("dependent", [False, True])
def test_bh_on_random_draw_p_values_controls_the_fdr(dependent: bool, rng: np.random.Generator) -> None:
    from scipy.stats import false_discovery_control

    repeats, alpha, n_null, n_true = 1500, 0.1, 8, 4
    proportions, found = np.empty(repeats), np.empty(repeats)
    for i in range(repeats):
        share = 0.7 if dependent else 0.0
        effect = share * rng.standard_normal((200, 1))
        scores = effect + np.sqrt(1 - share**2) * rng.standard_normal((200, n_null))
        null = CohortNull(tuple(scores[:-1]))
        candidates = np.concatenate([scores[-1], rng.normal(5, 1, n_true)])
        kept = false_discovery_control(conformal_p_value(null.random_draw(i), candidates), method="bh") <= alpha
        proportions[i] = kept[:n_null].sum() / max(kept.sum(), 1)
        found[i] = kept[n_null:].mean()
    assert proportions.mean() <= alpha + 2 * proportions.std() / np.sqrt(repeats)
    assert found.mean() > 0.8


def test_patients_without_candidates_count_only_where_they_should() -> None:
    null = CohortNull((np.array([1.0, 3.0]), np.array([]), np.array([2.0])))
    assert null.maxima.tolist() == [3.0, -np.inf, 2.0]
    assert null.p_value(4.0) == null.floor == 0.25
    assert null.p_value(2.0) == 0.75
    assert null.p_values([4.0, 2.5]).tolist() == [0.25, 0.5]
    assert null.floor_random == null.p_value_random(4.0, seed=1) == pytest.approx(1 / 3)
    assert (null.n_patients, null.n_patients_with_candidates, null.n_candidates) == (3, 2, 3)
    assert null.random_draw(5).tolist() == null.random_draw(5).tolist()


def test_the_null_survives_a_file(tmp_path) -> None:
    null = CohortNull((np.array([1.0, 3.0]), np.array([]), np.array([2.0]), np.array([])))
    np.savez(tmp_path / "null.npz", **null.to_arrays())
    with np.load(tmp_path / "null.npz", allow_pickle=False) as arrays:
        again = CohortNull.from_arrays(arrays)
    assert [s.tolist() for s in again.per_patient] == [s.tolist() for s in null.per_patient]


def test_scores_are_frozen_copies() -> None:
    scores = np.array([1.0, 2.0])
    null = CohortNull((scores,))
    scores[0] = 99.0
    assert null.maxima.tolist() == [2.0]
    with pytest.raises(ValueError, match="read-only"):
        null.per_patient[0][0] = 5.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: conformal_p_value([[1.0]], 1.0), "one-dimensional"),
        (lambda: conformal_p_value([np.nan], 1.0), "NaN"),
        (lambda: conformal_p_value([1.0], np.nan), "NaN"),
        (lambda: CohortNull(()), "at least one"),
        (lambda: CohortNull((np.zeros((2, 2)),)), "patient 0"),
        (lambda: CohortNull((np.zeros(2), np.array([np.nan]))), "patient 1"),
        (lambda: CohortNull.from_arrays({"scores": np.zeros(2)}), "'offsets'"),
        (lambda: CohortNull.from_arrays({"scores": np.zeros(2), "offsets": np.array([0, 1])}), "damaged"),
        (lambda: CohortNull.from_arrays({"scores": np.zeros(2), "offsets": np.array([1, 2])}), "damaged"),
        (lambda: CohortNull.from_arrays({"scores": np.zeros(2), "offsets": np.array([0, 3, 2])}), "damaged"),
        (lambda: CohortNull.from_arrays({"scores": np.zeros(0), "offsets": np.array([0])}), "damaged"),
        (lambda: CohortNull.from_arrays({"scores": np.zeros(2), "offsets": np.array([[0, 2]])}), "damaged"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
