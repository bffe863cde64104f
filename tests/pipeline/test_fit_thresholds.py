"""The learnt gates: what the facts are, that they decide as rejection does, and the promise by simulation."""

from __future__ import annotations

import csv
from itertools import pairwise

import nibabel
import numpy as np
import pytest
from scipy.stats import binom

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.fit_thresholds import (
    GateFacts,
    GatesSection,
    fit_thresholds,
    gate_facts,
    gate_path,
    learn_gates,
    passing,
)
from anatrust.pipeline.profile import Profile
from anatrust.rejection import reject
from anatrust.rejection.candidate import Candidate
from anatrust.rejection.settings import GateSettings, RejectionSettings


def candidate(number: int, volume: float, chance: float) -> Candidate:
    place = (1.0, 1.0, 1.0)
    return Candidate(number, 1, "x", 9, volume, 3.0, place, place, ((0, 3),) * 3, 1.0, mean_probability=chance)


def made_up(rng: np.random.Generator) -> list[GateFacts]:
    """A patient: lesions large and certain, false candidates small and uncertain, some lesions alike them."""
    scans = []
    for _ in range(int(rng.integers(1, 3))):
        lesions, others = int(rng.integers(1, 4)), int(rng.integers(0, 5))
        hard = rng.random() < 0.12
        volumes = [*rng.lognormal(4.5 if hard else 6.5, 1, lesions), *rng.lognormal(3.2, 0.8, others)]
        chances = [*rng.beta(4 if hard else 8, 3, lesions), *rng.beta(3, 4, others)]
        every = tuple(
            candidate(k + 1, float(v), float(p)) for k, (v, p) in enumerate(zip(volumes, chances, strict=True))
        )
        overlaps = tuple(float(v) for v in rng.beta(6, 1, len(every)))
        scans.append(
            GateFacts(
                max(chances), float(sum(volumes)) / 1e7, float(rng.beta(9, 1)), every, overlaps, 3,
                tuple((k,) for k in range(lesions)),
            )
        )  # fmt: skip
    return scans


def loss(scans: list[GateFacts], gates: GateSettings) -> float:
    lost = sum(not set(passing(f, gates)) & set(lesion) for f in scans for lesion in f.lesions)
    return lost / sum(len(f.lesions) for f in scans)


@pytest.fixture(scope="module")
def crowd() -> list[list[GateFacts]]:
    rng = np.random.default_rng(2024)
    return [made_up(rng) for _ in range(1500)]


def simulate(crowd: list[list[GateFacts]], cohorts: int, *, sensitivity: float, delta: float) -> tuple[int, int, float]:
    """How often the promise was made, how often it was broken, and the mean share of false ones refused."""
    cache: dict[GateSettings, float] = {}
    made = broken = 0
    removed = []
    for k in range(cohorts):
        rng = np.random.default_rng([7, k])
        # Fresh patients, not drawn from the crowd that stands for the truth.
        section = learn_gates([made_up(rng) for _ in range(80)], sensitivity=sensitivity, delta=delta, seed=k)
        made += section.feasible
        if section.feasible:
            risk = cache.setdefault(section.settings, float(np.mean([loss(p, section.settings) for p in crowd[:400]])))
            # The crowd's own error counts in the gates' favour by one standard error at most.
            broken += risk > 1 - sensitivity + 0.015
            removed.append(section.removed)
    return made, broken, float(np.mean(removed))


def test_the_promise_holds_over_cohorts(crowd):
    """P(mean loss > 0.1) <= 0.1 over cohorts, and the gates still refuse false candidates."""
    made, broken, removed = simulate(crowd, 40, sensitivity=0.9, delta=0.1)
    assert made == 40
    assert broken <= binom.ppf(0.999, 40, 0.1)
    assert removed > 0.15


@pytest.mark.slow
def test_the_promise_holds_over_many_cohorts(crowd):
    made, broken, _ = simulate(crowd, 300, sensitivity=0.8, delta=0.2)
    assert made == 300
    assert broken <= binom.ppf(0.999, 300, 0.2)


def test_the_same_walk_without_the_test_breaks_the_promise(crowd):
    """The simulation can fail: the strictest setting whose empirical loss looks fine is too strict too often."""
    broken = 0
    for k in range(40):
        rng = np.random.default_rng([7, k])
        patients = [made_up(rng) for _ in range(24)]
        path = gate_path([f for scans in patients for f in scans], GateSettings())
        fine = [g for g in path if np.mean([loss(p, g) for p in patients]) <= 0.1]
        broken += float(np.mean([loss(p, fine[-1]) for p in crowd[:300]])) > 0.1
    assert broken > binom.ppf(0.999, 40, 0.1)


def test_few_patients_promise_nothing_and_say_so():
    rng = np.random.default_rng(0)
    base = GateSettings(min_volume=77.0)
    section = learn_gates([made_up(rng) for _ in range(12)], base=base)
    assert not section.feasible
    assert section.settings == base
    assert section.words.startswith("gates: 6 patients with lesions cannot assure a sensitivity of 0.9")
    nobody = learn_gates([], base=base)
    assert (nobody.patients, nobody.settings) == (0, base)
    for wrong in ({"sensitivity": 1.0}, {"delta": 0.0}):
        with pytest.raises(InputError, match="between 0 and 1"):
            learn_gates([], **wrong)


def test_the_path_begins_open_and_only_gets_stricter(crowd):
    facts = [f for scans in crowd[:40] for f in scans]
    path = gate_path(facts, GateSettings())
    assert all(passing(f, path[0]) == tuple(range(len(f.candidates))) for f in facts)
    for looser, stricter in pairwise(path):
        assert all(set(passing(f, stricter)) <= set(passing(f, looser)) for f in facts)
    kept = [sum(len(passing(f, gates)) for f in facts) for gates in path]
    assert kept == sorted(set(kept), reverse=True), "every step refuses something"
    assert path[-1].min_volume > 0, "here size tells most"


def scan_with_two(rng: np.random.Generator, *, lesion: bool = True):
    """A phantom slab: a large certain lesion, a small uncertain false candidate."""
    shape = (22, 22, 8)
    image = rng.normal(0, 10, shape).astype(np.float32)
    truth, mask = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    chances = np.full(shape, 0.05, np.float32)
    if lesion:
        truth[3:10, 3:10, 2:7] = mask[3:10, 3:10, 2:7] = 1
        chances[3:10, 3:10, 2:7] = rng.uniform(0.8, 0.95)
    mask[14:18, 14:18, 3:6] = 1
    chances[14:18, 14:18, 3:6] = rng.uniform(0.55, 0.7)
    organ = np.zeros(shape, np.uint8)
    organ[1:21, 1:21] = 1
    return image + 40 * truth, mask, chances, truth, organ


def test_the_facts_decide_as_rejection_does():
    image, mask, chances, truth, organ = scan_with_two(np.random.default_rng(1))
    grid = Grid(image.shape, np.diag([2.0, -2.0, 3.0, 1.0]))
    scan, labels, anatomy = Scan(image, grid), LabelMap(mask, grid), LabelMap(organ, grid, {1: "liver"})
    probabilities = ProbabilityMap(chances[None], grid)
    facts = gate_facts(scan, labels, LabelMap(truth, grid), anatomy, probabilities)
    assert facts.lesions == ((0,),)
    assert len(facts.candidates) == 2
    for gates in (
        GateSettings(),
        GateSettings(mean_probability=0.75),
        GateSettings(min_volume=1000.0),
        GateSettings(max_probability=0.99),
        GateSettings(case_score=100.0),
        GateSettings(ks_distance=1.0, ks_p=1.0),
        GateSettings(enabled=False),
    ):
        judged = reject(
            scan,
            labels,
            anatomy=anatomy,
            probabilities=probabilities,
            settings=RejectionSettings(gates=gates, null="placement", n_draws=19),
        )
        refused = {k for k, c in enumerate(judged.candidates) if c.reason.startswith("gate")}
        assert refused == {0, 1} - set(passing(facts, gates)), gates


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gates")
    affine, rows = np.diag([2.0, 2.0, 3.0, 1.0]), []
    for k in range(60):
        sick = k < 48
        arrays = scan_with_two(np.random.default_rng(k), lesion=sick)
        row = {"id": f"s{k}", "lesion_free": "" if sick else "true"}
        for what, array in zip(("image", "mask", "probabilities", "truth"), arrays, strict=False):
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{what}{k}.nii.gz")
            row[what] = f"{what}{k}.nii.gz"
        rows.append(row)
    with (folder / "cohort.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["id", "lesion_free", "image", "mask", "probabilities", "truth"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cohort.csv"


def test_fit_learns_them_and_the_null_stands_behind_them(table, tmp_path):
    profile = fit(Cohort.read(table), modality="CT")
    gates = profile.gates
    assert gates is not None
    assert gates.feasible
    # False ones: 4 x 4 x 3 voxels and at most 0.7; lesions: 7 x 7 x 5 and at least 0.8.
    learnt = gates.settings
    assert learnt.min_volume > 48 * 12 or learnt.mean_probability > 0.7
    assert gates.removed == 1.0
    assert profile.rejection.settings.gates == gates.settings
    assert profile.rejection.null.n_candidates == 0, "what the segmenter invents in healthy people does not pass"
    assert any("pass on average over patients" in line for line in profile.describe())
    profile.save(tmp_path / "a.profile")
    again = Profile.load(tmp_path / "a.profile")
    assert again.gates == gates
    assert GatesSection.from_json(gates.to_json()) == gates


def test_fit_says_why_no_gates_were_learnt(table):
    cohort = Cohort.read(table)
    few = Cohort(cohort.rows[:3] + cohort.rows[-3:], cohort.source)
    off = fit(few, modality="CT", settings=RejectionSettings(gates=GateSettings(enabled=False)))
    assert off.gates is None
    assert "gates: they were switched off" in off.not_fitted
    healthy = Cohort(tuple(row for row in cohort if row.lesion_free), cohort.source)
    nothing = fit_thresholds(healthy, sensitivity=0.9)
    assert (nothing.section, nothing.notes) == (None, ("gates: no row with a lesion has a mask and a truth",))
