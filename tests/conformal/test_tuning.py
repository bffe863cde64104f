"""Choosing a score: fragments are removed where that helps, and the plain score stays where nothing does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust.conformal.recipe import PUBLISHED_WALK, ScoreRecipe
from anatrust.conformal.sets import LabelledCase
from anatrust.conformal.tuning import Tuning, aimed_risk, border_crossing, choose_recipe
from anatrust.errors import InputError
from anatrust.image.grid import Grid

GRID = Grid((32, 32), np.eye(4))
PLAIN = ScoreRecipe("probability")


def cohort(n: int, *, speckle: float, offset: int = 0) -> list[LabelledCase]:
    """Discs with a blurred probability and, with ``speckle``, spurious single voxels far away."""
    cases = []
    for i in range(offset, offset + n):
        rng = np.random.default_rng([5, i])
        x, y = np.indices(GRID.shape)
        truth = (x - rng.uniform(12, 20)) ** 2 + (y - rng.uniform(12, 20)) ** 2 < rng.uniform(4, 7) ** 2
        p = gaussian_filter(truth.astype(float), 1.0) * rng.uniform(0.7, 1.0)
        p = np.where(rng.random(GRID.shape) < speckle, np.maximum(p, rng.random(GRID.shape)), p)
        image = truth + 0.1 * rng.normal(size=GRID.shape)
        features = np.stack([image, np.ones_like(image)], -1)
        cases.append(LabelledCase(f"p{i}", np.clip(p, 0, 1), image, truth, GRID, lambda f=features: f))
    return cases


def test_the_aim_is_what_calibration_will_cut_at() -> None:
    assert aimed_risk(0.1, 9) == pytest.approx(0)
    assert aimed_risk(0.1, 10_000) == pytest.approx(0.1, abs=1e-3)
    with pytest.raises(InputError, match="patient"):
        aimed_risk(0.1, 0)


def test_fragments_are_smoothed_away() -> None:
    recipes = [PLAIN, ScoreRecipe("gaussian", {"width": 1.5}), ScoreRecipe("reconstruction"), PUBLISHED_WALK]
    seen: list[tuple[int, int]] = []
    found = choose_recipe(cohort(12, speckle=0.03), recipes, 0.1, 40, progress=lambda i, n: seen.append((i, n)))
    assert found.recipe.name != "probability"
    assert found.rows[0].relative == 1
    assert min(row.relative for row in found.rows) < 0.8
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert any("crosses true borders" in line for line in found.advice)
    assert Tuning.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_plain_score_stays_where_nothing_is_better() -> None:
    recipes = [PLAIN, ScoreRecipe("gaussian", {"width": 6.0})]
    assert choose_recipe(cohort(10, speckle=0.0), recipes, 0.1, 40).recipe == PLAIN


def test_one_tuning_patient_never_moves_the_choice() -> None:
    recipes = [PLAIN, ScoreRecipe("gaussian", {"width": 1.5})]
    found = choose_recipe(cohort(1, speckle=0.03), recipes, 0.1, 40)
    assert found.recipe == PLAIN
    assert any("add tuning patients" in line for line in found.advice)


def test_too_few_calibration_patients_are_named() -> None:
    found = choose_recipe(cohort(4, speckle=0.0), [PLAIN], 0.1, 5)
    assert found.aim == 0
    assert any("add patients" in line for line in found.advice)


def test_a_bleeding_graph_is_named() -> None:
    """Features that know nothing of the structure send most steps out of it."""
    rng = np.random.default_rng(0)
    cases = [
        LabelledCase(c.patient, c.probabilities, c.image, c.truth, GRID, lambda: rng.normal(size=(*GRID.shape, 6)))
        for c in cohort(4, speckle=0.03)
    ]
    walk = ScoreRecipe("graph", {"patch": 2})
    assert border_crossing(cases[0], walk) > 0.6
    assert border_crossing(cohort(1, speckle=0)[0], ScoreRecipe("graph", {"patch": 1, "k": 5})) < 0.2
    advice = choose_recipe(cases, [PLAIN, walk], 0.1, 40).advice
    assert any("bleeds" in line for line in advice)


def test_a_bleeding_graph_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better on the tuning patients or not: a walk that mostly leaves the structure falls back to the plain score."""
    cases, walk = cohort(12, speckle=0.03), ScoreRecipe("graph", {"patch": 1, "k": 8, "laziness": 0.5, "steps": 3})
    assert choose_recipe(cases, [PLAIN, walk], 0.1, 40).recipe == walk
    monkeypatch.setattr("anatrust.conformal.tuning._BLEEDS", -1.0)
    found = choose_recipe(cases, [PLAIN, walk], 0.1, 40)
    assert found.recipe == PLAIN
    assert any("would bleed" in line for line in found.advice)


def test_weak_probabilities_stretch_the_set_and_are_named() -> None:
    cases = [
        LabelledCase(c.patient, np.random.default_rng(i).random(GRID.shape), c.image, c.truth, GRID)
        for i, c in enumerate(cohort(4, speckle=0))
    ]
    assert any("twice" in line for line in choose_recipe(cases, [PLAIN], 0.1, 40).advice)


def test_a_set_that_vanishes_counts_as_far_away() -> None:
    """At α near 1 the threshold may leave nothing of an image; its distance is the diagonal, never NaN."""
    cases = cohort(3, speckle=0)
    blank = LabelledCase("blank", np.zeros(GRID.shape), cases[0].image, cases[0].truth, GRID)
    found = choose_recipe([*cases, blank], [PLAIN], 0.6, 400)
    assert np.isfinite(found.rows[0].hd95)
    assert found.rows[0].hd95 > 5


def test_structures_of_no_patient_and_missing_features_are_refused() -> None:
    one = cohort(1, speckle=0)[0]
    empty = LabelledCase("e", one.probabilities, one.image, np.zeros(GRID.shape, bool), GRID, one.features)
    assert border_crossing(empty, PUBLISHED_WALK) == 0
    for call in (
        lambda: choose_recipe([empty], [PLAIN], 0.1, 40),
        lambda: choose_recipe([one], [], 0.1, 40),
        lambda: border_crossing(one, PLAIN),
    ):
        with pytest.raises(InputError):
            call()
