"""Calibrated sets: the promise on fresh patients, pooling of slices, profiles, and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust.conformal.recipe import PUBLISHED_WALK, ScoreRecipe, candidate_recipes
from anatrust.conformal.sets import (
    LabelledCase,
    PredictionSet,
    SetCalibration,
    calibrate_curves,
    conformalize,
    patient_curves,
)
from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask

GRID = Grid((24, 24), np.diag([1.0, 1.5, 1.0, 1.0]))


def case(patient: int, slices: int = 1) -> Iterator[LabelledCase]:
    """A disc, an image that shows it, and a segmenter that errs in correlated ways; harder in some patients."""
    rng = np.random.default_rng([41, patient])
    hard = rng.uniform(0.3, 2.5)
    for _ in range(slices):
        x, y = np.indices(GRID.shape)
        middle, radius = rng.uniform(9, 15, 2), rng.uniform(3, 7)
        truth = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2
        noise = gaussian_filter(rng.normal(size=GRID.shape), 1.5)
        logits = 3 * (2 * gaussian_filter(truth.astype(float), 1) - 1) + hard * noise / noise.std()
        image = truth + rng.normal(size=GRID.shape) * 0.2
        features = np.stack([image, gaussian_filter(image, 2), np.ones_like(image)], axis=-1)
        yield LabelledCase(
            f"p{patient}", 1 / (1 + np.exp(-logits)), image, truth, GRID, lambda features=features: features
        )


RECIPES = [
    *candidate_recipes(),
    ScoreRecipe("distance"),
    PUBLISHED_WALK,
    ScoreRecipe("probability", {}, 2.0),
    ScoreRecipe("encoder-lattice", {"beta": 0.1}, core=0.5),
    ScoreRecipe("graph", {"patch": 2, "slices": 1}, core=0.0),
]


class TestRecipes:
    @pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.label)
    def test_every_recipe_gives_scores_on_the_grid_and_survives_a_profile(self, recipe: ScoreRecipe) -> None:
        one = next(case(3))
        score = recipe.score(one.probabilities, one.image, one.grid, one.features)
        assert score.shape == GRID.shape
        assert score.min() >= 0
        assert score.max() <= 1
        again = ScoreRecipe.from_json(json.loads(json.dumps(recipe.to_json())))
        assert again.label == recipe.label
        np.testing.assert_array_equal(again.score(one.probabilities, one.image, one.grid, one.features), score)

    def test_the_plain_probability_is_always_among_the_choices(self) -> None:
        assert candidate_recipes(features=True)[0] == ScoreRecipe("probability")
        assert any(r.needs_features for r in candidate_recipes(features=True))
        assert not any(r.needs_features for r in candidate_recipes())
        assert candidate_recipes(hard=True)[0].name == "distance"

    def test_what_the_study_chose_is_among_the_choices(self) -> None:
        """The best scores that need no network of the study's own, as its committed result names them."""
        found = json.loads((Path(__file__).parents[2] / "studies" / "results" / "rwcp-quality.json").read_text())
        best = {cell["methods"]["best on tuning"]["method"] for cell in found["cells"].values()}
        assert len(best) >= 4
        labels = [recipe.label for recipe in candidate_recipes()]
        assert {label for label in best if " on " not in label} <= set(labels)
        assert len(labels) == len(set(labels))

    def test_lengths_are_millimetres(self) -> None:
        """The same scan stored with voxels half the size gets the same score at the same place."""
        one = next(case(1))
        fine = Grid((48, 24), np.diag([0.5, 1.5, 1.0, 1.0]))
        wide = ScoreRecipe("gaussian", {"width": 3.0})
        coarse_score = wide.score(one.probabilities, one.image, GRID)
        fine_score = wide.score(np.repeat(one.probabilities, 2, 0), np.repeat(one.image, 2, 0), fine)
        np.testing.assert_allclose(fine_score.reshape(24, 2, 24).mean(axis=1), coarse_score, atol=0.01)

    def test_features_may_be_given_a_patch(self, rng: np.random.Generator) -> None:
        """A volume with thick slices: edges within a slice and its neighbours, one row of features a patch."""
        grid = Grid((12, 10, 6), np.diag([1.0, 1.0, 5.0, 1.0]))
        walk = ScoreRecipe("graph", {"patch": 2, "slices": 1, "k": 5, "laziness": 0.5})
        patches = walk.patches(grid.shape, grid.spacing)
        assert patches.grid == (6, 5, 6)
        nodes, p, image = rng.normal(size=(patches.nodes, 3)), rng.random(grid.shape), np.zeros(grid.shape)
        by_patch = walk.score(p, image, grid, lambda: nodes.reshape(*patches.grid, 3))
        np.testing.assert_allclose(walk.score(p, image, grid, lambda: patches.spread(nodes)), by_patch, atol=1e-9)
        assert not np.allclose(
            ScoreRecipe("graph", {"patch": 2}).score(p, image, grid, lambda: patches.spread(nodes)), by_patch
        )

    def test_nonsense_is_refused(self) -> None:
        one = next(case(1))
        for call in (
            lambda: ScoreRecipe("magic"),
            lambda: ScoreRecipe("gaussian", {"wdith": 2}),
            lambda: ScoreRecipe("adaptive", {"k": 2}),
            lambda: ScoreRecipe("probability", {}, 0),
            lambda: ScoreRecipe("lattice", core=2),
            lambda: PUBLISHED_WALK.score(one.probabilities, one.image, GRID),
            lambda: ScoreRecipe("encoder-lattice").score(one.probabilities, one.image, GRID),
            lambda: ScoreRecipe("probability").score(one.probabilities[:3], one.image, GRID),
        ):
            with pytest.raises(InputError):
                call()


class TestConformalize:
    @pytest.mark.parametrize(
        "recipe", [RECIPES[0], PUBLISHED_WALK, ScoreRecipe("reconstruction")], ids=lambda r: r.label
    )
    def test_fresh_patients_lose_what_was_promised_on_average(self, recipe: ScoreRecipe) -> None:
        """Patient-wise re-splits of 160 patients, 40 to calibrate: both mean losses at most α + 2 standard errors."""
        patients = [list(case(i, slices=2)) for i in range(160)]
        rng = np.random.default_rng(0)
        outer, inner = [], []
        for _ in range(12):
            order = rng.permutation(160)
            found = conformalize([c for i in order[:40] for c in patients[i]], recipe, 0.1)
            for i in order[40:60]:
                sets = [(found.predict(c.probabilities, c.image, c.grid, c.features), c.truth) for c in patients[i]]
                size = sum(t.sum() for _, t in sets)
                outer.append(sum((t & ~s.outer.array).sum() for s, t in sets) / size)
                inner.append(min(1, sum((s.inner.array & ~t).sum() for s, t in sets) / size))
        for losses in (outer, inner):
            # Re-splits share patients: the standard error is that of 12 independent means of 20, not of 240 losses.
            assert np.mean(losses) <= 0.1 + 2 * np.std(losses) / np.sqrt(160)
            assert np.mean(losses) > 0.02, "a set that never errs is too large to be of use"

    def test_slices_of_one_patient_are_one_loss(self) -> None:
        together = conformalize([c for i in range(12) for c in case(i, slices=4)], RECIPES[0], 0.1)
        assert (together.patients, together.empty) == (12, 0)
        mixed = [c for i in range(3) for c in case(i)] + list(case(0))
        with pytest.raises(InputError, match="p0"):
            conformalize(mixed, RECIPES[0], 0.1)

    def test_a_stream_and_kept_losses_calibrate_alike(self) -> None:
        patients = [list(case(i, slices=2)) for i in range(15)]
        streamed = conformalize((c for own in patients for c in own), RECIPES[0], 0.1)
        curves = [pair for own in patients if (pair := patient_curves(own, RECIPES[0])) is not None]
        kept = calibrate_curves([p[0] for p in curves], [p[1] for p in curves], RECIPES[0], 0.1)
        assert kept.to_json() == streamed.to_json()

    def test_patients_without_the_structure_are_counted_apart(self) -> None:
        cases = [c for i in range(12) for c in case(i)]
        bare = LabelledCase("none", cases[0].probabilities, cases[0].image, np.zeros(GRID.shape, bool), GRID)
        found = conformalize([*cases, bare], RECIPES[0], 0.1)
        assert (found.patients, found.empty) == (12, 1)

    def test_too_few_patients_give_the_safe_sets_in_words(self) -> None:
        found = conformalize([c for i in range(5) for c in case(i)], RECIPES[0], 0.1, structure="liver")
        one = next(case(99))
        sets = found.predict(one.probabilities, one.image, GRID)
        assert sets.outer.array.all()
        assert not sets.inner.array.any()
        assert sets.feasible == (False, False)
        assert all("infeasible" in s and "liver" in s for s in sets.statements)
        assert conformalize([], RECIPES[0], 0.1).patients == 0

    def test_it_says_which_of_the_two_sets_could_be_calibrated(self) -> None:
        found = conformalize([c for i in range(12) for c in case(i)], RECIPES[0], 0.1)
        one = next(case(99))
        told = found.predict(one.probabilities, one.image, GRID).statements
        assert "mean missed share at most 0.1 over patients like the 12 calibrated on" in told[0]
        assert "mean invented share at most 0.1" in told[1]
        assert not any("loss" in text or "lose" in text for text in told)
        half = replace(found, outer=replace(found.outer, feasible=False, threshold=0))
        sets = half.predict(one.probabilities, one.image, GRID)
        assert sets.outer.array.all()
        assert sets.feasible == (True, False)  # inner, outer

    def test_assurance_is_stricter(self) -> None:
        cases = [c for i in range(60) for c in case(i)]
        plain, sure = conformalize(cases, RECIPES[0], 0.1), conformalize(cases, RECIPES[0], 0.1, assurance=0.1)
        assert sure.outer.threshold < plain.outer.threshold
        assert sure.inner.threshold > plain.inner.threshold
        assert "confidence 0.9" in sure.outer.sentence

    def test_a_calibration_survives_a_profile(self) -> None:
        found = conformalize([c for i in range(20) for c in case(i)], ScoreRecipe("gaussian", {"width": 3}), 0.1)
        again = SetCalibration.from_json(json.loads(json.dumps(found.to_json())))
        one = next(case(77))
        before, after = (f.predict(one.probabilities, one.image, GRID) for f in (found, again))
        np.testing.assert_array_equal(before.outer.array, after.outer.array)
        np.testing.assert_array_equal(before.inner.array, after.inner.array)
        assert again.to_json() == found.to_json()

    def test_an_inner_set_outside_the_outer_one_is_impossible(self) -> None:
        full, none = (Mask(np.full((2, 2), v), Grid((2, 2), np.eye(4))) for v in (True, False))
        with pytest.raises(InputError, match="within"):
            PredictionSet("liver", full, none, 0.1, (), (True, True))
