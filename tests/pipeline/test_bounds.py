"""Bounds of quality: evidence on cases known by hand, from table to verdict, and that they hold on other patients."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.image import read_mask, read_probabilities, read_scan
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap
from anatrust.image.write import write_mask
from anatrust.metrics import dice, hd95
from anatrust.pipeline import bounds as bounds_module
from anatrust.pipeline.assess import assess
from anatrust.pipeline.bounds import BoundsSection, StructureBounds, bound_sentences, fit_bounds, predict_bounds
from anatrust.pipeline.bounds_evidence import EVIDENCE, diameter_of, structure_evidence, structure_truth
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.verdict import Verdict
from anatrust.pipeline.verify import verify
from anatrust.statistics.loss_curves import quantise

from .test_fit_sets import table, write_patient

GRID = Grid((6, 5, 4), np.diag([1.0, 2.0, 3.0, 1.0]))


def block(*edges: int) -> np.ndarray:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[tuple(slice(0, edge) for edge in edges)] = True
    return mask


class TestEvidence:
    def test_of_a_sure_mask(self) -> None:
        mask = block(3, 2, 2)
        p = mask.astype(float)
        found = structure_evidence(quantise(p), (30000, 60000), p, mask, GRID)
        np.testing.assert_allclose(found, [1, 1, 1, np.log1p(12 * 6), 1])

    def test_of_an_unsure_one(self) -> None:
        mask = block(4, 1, 1) | np.roll(block(2, 1, 1), 3, axis=1)
        p = np.where(mask, 0.75, 0.02)
        p[0, 0, 0] = 1.0
        found = structure_evidence(quantise(p), (quantise(0.5).item(), quantise(0.9).item()), p, mask, GRID)
        expected = 2 * (5 * 0.75 + 1) / (p.sum() + 6)
        np.testing.assert_allclose(found, [expected, 1 / 6, (5 * 0.5 + 1) / 6, np.log1p(36), 4 / 6])

    def test_of_nothing(self) -> None:
        nothing = np.zeros(GRID.shape)
        found = structure_evidence(quantise(nothing), (1, 60000), nothing, nothing > 0, GRID)
        assert found.tolist() == [0.0] * len(EVIDENCE)

    def test_truth_speaks_the_metrics_language(self) -> None:
        mask, truth = block(4, 3, 2), block(5, 3, 3)
        found = structure_truth(mask, truth, GRID)
        assert found[0] == pytest.approx(dice(truth, mask))
        assert np.exp(found[1]) - 1 == pytest.approx(hd95(truth, mask, spacing=GRID.spacing))
        assert np.exp(found[2]) * (mask.sum() * 6 + 6) - 6 == pytest.approx(truth.sum() * 6)
        assert np.exp(found[3]) * (diameter_of(mask, GRID) + 1) - 1 == pytest.approx(diameter_of(truth, GRID))
        assert diameter_of(block(6, 1, 1), GRID) == pytest.approx(6.0)
        empty = np.zeros(GRID.shape, bool)
        assert np.isnan(structure_truth(empty, empty, GRID)).all()
        for one, other in ((mask, empty), (empty, mask)):
            lost = structure_truth(one, other, GRID)
            assert lost[0] == 0
            assert lost[1] == np.inf
            assert np.isfinite(lost[2:]).all()


class TestSentences:
    ONE = StructureBounds("liver", 1, 0.1, 0.81, 3.25, 90.0, 80.0, 99.5, 9.0, 8.0, 11.0, "mm")

    def test_say_it_as_it_is(self) -> None:
        told = bound_sentences([self.ONE])
        assert told[0] == (
            "For at least 90 % of scans like these the Dice is above the bound shown; here the bound is 0.81.",
            True,
        )
        assert "HD95 is below the bound shown; here the bound is 3.25 mm" in told[1][0]
        assert "the true volume lies within the bound shown; here the bound is 80 to 99.5 mm³" in told[2][0]
        assert (
            "the true area lies within the bound shown; here the bound is 80 to 99.5 mm²"
            in (bound_sentences([self.ONE], ndim=2)[2][0])
        )
        assert "80 to 1234 pixels" in bound_sentences([replace(self.ONE, volume_upper=1234.4, unit="px")])[2][0]
        assert "8 to 11 mm." in told[3][0]

    def test_name_the_group_they_hold_in(self) -> None:
        told = bound_sentences([self.ONE], group="B")[0][0]
        assert told.startswith("For at least 90 % of scans of group B like these the Dice is above the bound shown;")

    def test_of_several_and_of_nothing(self) -> None:
        lost = replace(self.ONE, structure="spleen", dice_lower=None)
        sentence, promises = bound_sentences([self.ONE, lost])[0]
        assert sentence.endswith("shown for every structure; here: liver 0.81, spleen nothing.")
        assert promises
        sentence, promises = bound_sentences([lost])[0]
        assert sentence.endswith("here nothing can be promised.")
        assert not promises
        assert bound_sentences([]) == []


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    folder = tmp_path_factory.mktemp("clinic")
    for number in range(60):
        write_patient(folder, number, channels=2)
    return folder, fit(table(folder, range(40)))


def drawn(folder: Path, number: int, path: Path) -> LabelMap:
    """The mask that the probabilities give."""
    scan = read_scan(folder / f"{number}-scan.nii.gz")
    soft = read_probabilities(folder / f"{number}-soft.nii.gz", reference=scan.grid)
    labels = LabelMap(soft.array.argmax(axis=0).astype(np.uint8), scan.grid)
    write_mask(path, labels)
    return labels


def test_from_table_to_verdict_and_they_hold(clinic: tuple[Path, Profile], tmp_path: Path) -> None:
    folder, profile = clinic
    section = profile.bounds
    assert section is not None
    assert (section.learnt, section.patients) == (12, 28)
    assert not section.given_masks
    broken = {"dice": 0, "hd95": 0, "volume": 0, "diameter": 0}
    for number in range(40, 60):
        labels = drawn(folder, number, tmp_path / "mask.nii.gz")
        truth = read_mask(folder / f"{number}-truth.nii.gz", reference=labels.grid).array
        verdict = assess(
            folder / f"{number}-scan.nii.gz",
            tmp_path / "mask.nii.gz",
            probabilities=folder / f"{number}-soft.nii.gz",
            profile=profile,
            kind="organ",
        )
        assert [b.structure for b in verdict.bounds] == ["label 1", "label 2"]
        wrong: dict[str, bool] = dict.fromkeys(broken, False)
        for bound in verdict.bounds:
            mask, there = labels.array == bound.label, truth == bound.label
            assert bound.dice_lower is not None
            assert bound.hd95_upper is not None
            assert bound.volume_lower is not None
            assert bound.volume_upper is not None
            assert bound.diameter_lower is not None
            assert bound.diameter_upper is not None
            wrong["dice"] |= dice(there, mask) < bound.dice_lower
            wrong["hd95"] |= hd95(there, mask, spacing=labels.grid.spacing) > bound.hd95_upper
            size = there.sum() * labels.grid.voxel_volume
            wrong["volume"] |= not bound.volume_lower <= size <= bound.volume_upper
            length = diameter_of(there, labels.grid)
            wrong["diameter"] |= not bound.diameter_lower - 1e-6 <= length <= bound.diameter_upper + 1e-6
        for name, one in wrong.items():
            broken[name] += one
    # 20 patients at 10 %: more than 7 broken has a probability below 1 in 1 000 (Beta-binomial of 28 patients).
    assert max(broken.values()) <= 7
    said = [s for s in verdict.statements if s.about == "structures" and s.strength == "exact"]
    assert len(said) == 4
    assert all(s.level == 0.1 for s in said)
    again = Verdict.from_json(verdict.dumps())
    assert again.bounds == verdict.bounds


def test_a_profile_keeps_its_bounds(clinic: tuple[Path, Profile], tmp_path: Path) -> None:
    _, profile = clinic
    profile.save(tmp_path / "p.profile")
    again = Profile.load(tmp_path / "p.profile")
    assert again.bounds is not None
    assert profile.bounds is not None
    assert again.bounds.to_json()[0] == profile.bounds.to_json()[0]
    np.testing.assert_array_equal(again.bounds.history, profile.bounds.history)
    lines = again.describe()
    assert any(line.startswith("bounds of label 1: Dice above") for line in lines)
    assert any(line.startswith("split by patient: 12 to learn from (12 of them") for line in lines)


def test_another_mask_gets_no_bounds(clinic: tuple[Path, Profile], tmp_path: Path) -> None:
    folder, profile = clinic
    labels = drawn(folder, 45, tmp_path / "mask.nii.gz")
    edited = labels.array.copy()
    edited[labels.array == 2] = 0
    write_mask(tmp_path / "edited.nii.gz", LabelMap(edited, labels.grid))
    verdict = assess(
        folder / "45-scan.nii.gz",
        tmp_path / "edited.nii.gz",
        probabilities=folder / "45-soft.nii.gz",
        profile=profile,
        kind="organ",
    )
    assert verdict.bounds == ()
    assert any("this mask is another" in note for note in verdict.notes)


@given(value=st.floats(1e-6, 1e9))
def test_bounds_are_rounded_to_the_safe_side(value: float) -> None:
    low, high = (bounds_module._shown(value, towards) for towards in (math.floor, math.ceil))
    assert value * 0.99 < low <= value * (1 + 1e-8)
    assert value * (1 - 1e-8) <= high < value * 1.01 + 1e-12
    assert float(f"{low:.3g}") == low
    assert bounds_module._shown(low, math.ceil) == low


def test_vacuous_bounds_say_nothing() -> None:
    """Three calibration patients: nothing is promised, and the numbers say so."""
    rng = np.random.default_rng(0)
    rows = [(rng.uniform(size=(1, 1, 5)), np.array([[[0.8, 0.5, 0.0, 0.0]]])) for _ in range(15)]
    options = {"structures": {1: "a"}, "thresholds": [(1, 60000)], "given_masks": True, "diagonal": 9.0, "step": 1.0}
    section = fit_bounds(rows[:12], rows[12:], 0.1, **options)  # type: ignore[arg-type]
    assert "promise nothing" in section.describe()[0]
    json.dumps(section.to_json()[0], allow_nan=False)
    p = block(3, 2, 2).astype(np.float32)
    found = predict_bounds(section, {1: quantise(p)}, {1: p}, {1: p > 0.5}, GRID)[0]
    assert (found.dice_lower, found.hd95_upper, found.volume_lower, found.diameter_upper) == (None,) * 4
    assert found.volume == 72


def test_bounds_hold_within_large_groups() -> None:
    """Half of the patients have worse masks and evidence does not tell: only bounds by group keep the promise there."""
    rng = np.random.default_rng(1)

    def patient(group: str) -> tuple[np.ndarray, np.ndarray]:
        low, high = {"A": (0.85, 0.95), "B": (0.4, 0.8), "C": (0.4, 0.8)}[group]
        targets = np.array([[[rng.uniform(low, high), rng.normal(), rng.normal(), rng.normal()]]])
        return rng.uniform(size=(1, 1, 5)), targets

    def broken(bounds: dict, group: str) -> float:
        fresh = [patient(group) for _ in range(1000)]
        return float(np.mean([t[0, 0, 0] < bounds["dice"].bounds(e)[0, 0, 0] for e, t in fresh]))

    options = {"structures": {1: "a"}, "thresholds": [(1, 60000)], "given_masks": True, "diagonal": 99.0, "step": 1.0}
    shares = {"all": [], "own": []}
    for _ in range(12):
        groups = ["A", "B"] * 60 + ["C"] * 5
        section = fit_bounds(
            [patient(g) for g in ["A", "B"] * 20], [patient(g) for g in groups], 0.1, groups=groups, **options
        )  # type: ignore[arg-type]
        assert set(section.groups) == {"A", "B"}
        assert section.of_group("C") is section.of_group(None) is section.bounds
        shares["all"].append(broken(section.bounds, "B"))
        shares["own"].append(broken(section.groups["B"], "B"))
    error = np.std(shares["own"]) / np.sqrt(12)
    assert np.mean(shares["own"]) <= 0.1 + 3 * error
    assert np.mean(shares["all"]) > 0.15
    again = BoundsSection.from_json(json.loads(json.dumps(section.to_json()[0])), section.to_json()[1])
    assert again.to_json()[0] == section.to_json()[0]
    assert "bounds within group A: calibrated on 60 patients" in section.describe()
    old = section.to_json()[0]
    del old["groups"]
    assert BoundsSection.from_json(old, section.to_json()[1]).groups == {}


def screened_table(folder: Path, name: str, rows: list[tuple[int, str]]) -> Cohort:
    """Patients with truth and masks; the second entry says whether they are usual ("false") or not told ("")."""
    with (folder / name).open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "image", "probabilities", "mask", "truth", "outlier"])
        for n, usual in rows:
            files = [f"{n}-{what}.nii.gz" for what in ("scan", "soft", "mask", "truth")]
            writer.writerow([n, *files, usual])
    return Cohort.read(folder / name)


def test_strangeness_is_evidence_where_screening_is_fitted(tmp_path: Path) -> None:
    for number in range(60):  # the last twenty are those of the site
        write_patient(tmp_path, number)
    # Ten patients for screening alone; one of the thirty others is usual too.
    rows = [(n, "false" if n < 11 else "") for n in range(40)]
    profile = fit(screened_table(tmp_path, "cohort.csv", rows), flag_rate=0.2)
    assert profile.screening is not None
    assert profile.bounds is not None
    assert profile.bounds.screened
    assert all(len(p.coefficients) == 6 for one in profile.bounds.bounds.values() for k in one.predictors for p in k)
    assert profile.bounds.patients < profile.sets.split["calibration"]  # type: ignore[union-attr]
    profile.save(tmp_path / "p.profile")
    again = Profile.load(tmp_path / "p.profile")
    sources = [tmp_path / f"30-{what}.nii.gz" for what in ("scan", "mask")]
    verdict = assess(*sources, probabilities=tmp_path / "30-soft.nii.gz", profile=again, kind="organ")
    assert verdict.bounds[0].dice_lower is not None
    result = verify(again, screened_table(tmp_path, "site.csv", [(n, "") for n in range(40, 60)]))
    assert any("bound of Dice" in check.promise for check in result.checks)
    with pytest.raises(InputError, match="need the scan's abnormality"):
        predict_bounds(again.bounds, {1: quantise(block(1, 1, 1))}, {1: block(1, 1, 1)}, {1: block(1, 1, 1)}, GRID)  # type: ignore[arg-type]


def test_screening_that_knows_the_patients_too_well_is_no_evidence(tmp_path: Path) -> None:
    for number in range(24):
        write_patient(tmp_path, number)
    profile = fit(screened_table(tmp_path, "cohort.csv", [(n, "false") for n in range(24)]), flag_rate=0.2)
    assert profile.bounds is not None
    assert not profile.bounds.screened
    assert any("was not used as evidence" in line for line in profile.not_fitted)
