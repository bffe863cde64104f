"""The page of a profile's sets: curves that are those of the calibration patients, words, and nothing from outside."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import LabelledCase, calibrate_curves, patient_curves
from anatrust.conformal.tuning import choose_recipe
from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.set_curves import SetCurves
from anatrust.pipeline.sets import SetsSection
from anatrust.report.fit_page import write_fit_page
from anatrust.statistics.loss_curves import EMPTY_SET, total_loss

GRID = Grid((20, 20), np.diag([1.0, 1.0, 1.0, 1.0]))
PLAIN = ScoreRecipe("probability")


def case(number: int) -> LabelledCase:
    rng = np.random.default_rng(number)
    x, y = np.indices(GRID.shape)
    truth = (x - 10) ** 2 + (y - 10) ** 2 < rng.uniform(9, 30)
    soft = np.clip(gaussian_filter(truth + rng.normal(0, 0.3, GRID.shape), 1), 0, 1)
    return LabelledCase(f"p{number}", soft, truth + rng.normal(0, 0.1, GRID.shape), truth, GRID)


@pytest.fixture(scope="module")
def profile() -> Profile:
    tuning = choose_recipe(
        [case(n) for n in range(6)], [PLAIN, ScoreRecipe("gaussian"), ScoreRecipe("adaptive")], 0.1, 12
    )
    pairs = [pair for n in range(6, 18) if (pair := patient_curves([case(n)], tuning.recipe)) is not None]
    outer, inner = [a for a, _ in pairs], [b for _, b in pairs]
    made = calibrate_curves(outer, inner, tuning.recipe, 0.1, structure="<liver>")
    none = calibrate_curves([], [], PLAIN, 0.1, structure="spleen")
    curves = (SetCurves.of_means(*(total_loss(side)[0] / len(side) for side in (outer, inner))), None)
    tunings = (tuning.to_json(), None)
    section = SetsSection((made, none), (1, 2), tunings, 0.1, None, False, "local", curves=curves)
    return Profile("a <b> segmenter", "MR", "0" * 64, sets=section)


def test_curves_are_the_mean_losses_of_the_patients(profile: Profile) -> None:
    assert profile.sets is not None
    curve = profile.sets.curves[0]
    assert curve is not None
    recipe = profile.sets.calibrations[0].recipe
    at = curve.thresholds[40]
    missed, size = [], []
    for n in range(6, 18):
        one = case(n)
        chosen = recipe.levels(one.probabilities, one.image, GRID) >= at
        missed.append((one.truth & ~chosen).sum() / one.truth.sum())
        size.append(min((one.truth & chosen).sum() + (chosen & ~one.truth).sum(), 1e9) / one.truth.sum())
    assert curve.missed[40] == pytest.approx(np.mean(missed), abs=1e-4)
    assert curve.size[40] <= np.mean(size) + 1e-4
    assert (curve.missed[0], curve.missed[-1], curve.invented[-1]) == (0.0, 1.0, 0.0)
    assert curve.place(0) == 0
    assert curve.place(EMPTY_SET) == 1
    assert curve.place(EMPTY_SET // 2) == pytest.approx(0.5)
    with pytest.raises(InputError, match="two or more"):
        SetCurves((0,), (0.0,), (0.0,))
    with pytest.raises(InputError, match="two or more"):
        SetCurves((0, 9), (0.0, 1.0), (0.0,))


def test_the_page_tells_what_was_learnt(profile: Profile, tmp_path: Path) -> None:
    page = write_fit_page(tmp_path / "p.html", profile).read_text()
    assert profile.sets is not None
    chosen = profile.sets.calibrations[0].recipe.label
    assert f"<td>{chosen} (chosen)</td>" in page
    assert "mean missed share at most 0.1" in page
    assert "infeasible" in page
    assert len(re.findall(r"<svg ", page)) == 2
    for path in re.findall(r'<path class="(?:outer|inner|size)" d="([^"]+)"', page):
        points = np.array([[float(v) for v in point.split()] for point in path[1:].split("L")])
        assert len(points) == 129
        assert (np.diff(points[:, 0]) > 0).all()
        assert ((points[:, 1] >= 0) & (points[:, 1] <= 150)).all()
    assert "<liver>" not in page
    assert "<b> segmenter" not in page
    for outside in ("http://", "https://", "<script"):
        assert outside not in page


def test_profiles_without_curves_or_sets(profile: Profile, tmp_path: Path) -> None:
    assert profile.sets is not None
    profile.save(tmp_path / "p.profile")
    again = Profile.load(tmp_path / "p.profile")
    assert again.sets is not None
    assert again.sets.curves == profile.sets.curves
    plain = json.loads(json.dumps(profile.sets.to_json()))
    del plain["curves"]
    older = replace(profile, sets=SetsSection.from_json(plain))
    page = write_fit_page(tmp_path / "old.html", older).read_text()
    assert "<svg" not in page
    assert "mean missed share at most 0.1" in page
    with pytest.raises(InputError, match="no section of sets"):
        write_fit_page(tmp_path / "none.html", replace(profile, sets=None))
