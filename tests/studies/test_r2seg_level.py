"""The study that asks whether phantoms are exchangeable: its answer must follow the scores it is given."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatrust.studies.phantom import phantom_scan
from anatrust.studies.r2seg_cases import WORLDS, cases
from anatrust.studies.r2seg_cells import VARIANTS, nulls_of, true_anchor
from anatrust.studies.r2seg_judge import JUDGES, judge, proposal
from anatrust.studies.r2seg_level import STUDY, fresh_phantom, strongest
from anatrust.studies.r2seg_level_summary import against, outside_by_chance, ranks
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.study import Context, read_result

NAME = "gates + cohort"


def _cells(rng: np.random.Generator, *, shift: float = 0.0, blocks: int = 3) -> dict[str, Any]:
    """Scores of one direction; ``shift`` moves the fresh ones, a fifth of patients has no candidate."""
    sizes = {"null": 79, "tested": 50, **{f"fresh {k + 1}": 79 for k in range(blocks)}}
    cells = {}
    for group, n in sizes.items():
        scores = rng.gamma(2.0, 5.0, n) + shift * group.startswith("fresh")
        none = rng.random(n) < 0.2
        cells[f"CT to CT/{group}"] = {"rows": [[None if e else float(s)] for s, e in zip(scores, none, strict=True)]}
    return cells


def test_exchangeable_groups_pass_and_moved_ones_fail() -> None:
    # Quick: 99 deals.
    context = Context(0, True, None)
    passed, dealt, outside, shares = 0, 0, 0, 0
    for k in range(20):
        summary = STUDY.summarise(_cells(np.random.default_rng([k, 1])), context)
        passed, dealt = (n + summary["targets"][t]["met"] for t, n in enumerate((passed, dealt)))
        outside, shares = outside + summary["shares outside"]["outside"], shares + summary["shares"]
    # The tests err in 0.05 of 20; the shares, which depend on each other, lie outside in at most 0.05.
    assert min(passed, dealt) >= 16
    assert outside / shares <= 0.06
    moved = [STUDY.summarise(_cells(np.random.default_rng([k, 2]), shift=6.0), context) for k in range(10)]
    assert not any(summary["targets"][0]["met"] for summary in moved)
    # Counts say less than ranks: one null of 79 may realise 0.17 by chance, so they need a larger move.
    far = STUDY.summarise(_cells(np.random.default_rng(3), shift=15.0), context)
    shares_of = far["places"]["CT to CT"]["shares"]
    assert shares_of["null"]["fresh"]["inside"] is False
    assert (shares_of["null"]["tested"]["of"], shares_of["null"]["fresh"]["of"]) == (50, 237)
    assert shares_of["fresh 1"]["fresh"]["of"] == 158
    assert far["shares outside"]["p"] <= 0.05
    counted = [one["inside"] for row in shares_of.values() for one in row.values()]
    assert far["shares outside"]["outside"] == counted.count(False) >= 3
    assert "**outside**" in STUDY.tables({"summary": far})["shares"]


def test_a_null_too_small_for_the_level_keeps_nothing() -> None:
    found = against(np.arange(8.0), np.full(5, 100.0))
    assert (found["kept"], found["allowed"], found["chance"], found["inside"]) == (0, [0, 0], 1.0, True)
    found = against(np.arange(19.0), np.full(5, 100.0))
    assert (found["kept"], found["inside"]) == (5, False)
    # All five of five above 18 of 19: 24 scores in any order, these five first but for one.
    assert found["chance"] < 0.001


def test_ranks_see_minus_infinity_and_nothing_else_in_equal_scores() -> None:
    none = np.full(20, -np.inf)
    assert ranks({"a": none, "b": none}) == {"pairs": {"a and b": 1.0}, "together": 1.0}
    found = ranks({"a": none, "b": np.arange(20.0), "c": np.arange(20.0)})
    assert found["pairs"]["a and b"] < 0.001
    assert found["pairs"]["b and c"] == 1.0
    assert found["together"] < 0.001


@pytest.mark.parametrize("world", ["phantom", "phantom-mr"])
def test_fresh_phantoms_are_made_and_scored_as_those_of_the_null_and_judged_by_that_score(world: str) -> None:
    context = Context(0, True, None)
    model = segmenter("threshold", world, context)
    cohort = [p[0] for p in cases(world, "healthy", context, limit=3)]
    again = [fresh_phantom(world, int(case.patient.split("-")[-1]), context) for case in cohort]
    for one, other in zip(cohort, again, strict=True):
        assert one.patient == other.patient
        assert np.array_equal(one.scan.array, other.scan.array)
        assert np.array_equal(one.anatomy.array, other.anatomy.array)
    null = nulls_of(world, model, "1 view", {NAME: JUDGES[NAME]}, context, limit=3)[NAME]
    scores = np.array([strongest(case, world, model) for case in again])
    assert np.array_equal(scores, null.maxima)
    assert np.isfinite(scores).any()
    # What the verdict ranks is the same number: the smallest p of a phantom is that of its strongest candidate.
    for case, score in zip(again, scores, strict=True):
        seen, anchor, tissue = true_anchor(world)(case)
        made = proposal(seen, world, model, settings=VARIANTS["1 view"], organ=anchor)
        judged = judge(seen, made, tissue, JUDGES[NAME], null)
        assert min(judged.p, default=1.0) == pytest.approx(null.p_value(score))


def test_fresh_phantoms_are_in_no_population() -> None:
    used = max(w.teach + w.healthy + w.test for name, w in WORLDS.items() if name.startswith("phantom"))
    cells = STUDY.cells(Context(0, False, None))
    assert {c.parameters["group"] for c in cells} >= {"null", "tested", "fresh 1", "fresh 4"}
    # Teachers beyond the populations begin at 5000 and are 144.
    assert used < 5000 < 5144 < 7000
    case = fresh_phantom("phantom", 7000, Context(0, False, None))
    assert not case.target.any()
    assert not np.array_equal(case.scan.array, phantom_scan(100_000, lesions=0, quick=True).scan.array)


def test_the_committed_scores_give_the_committed_counts_and_the_page_says_what_dealing_anew_gives() -> None:
    """The scores of every phantom stand beside the result: from them alone its shares follow, and the deals."""
    root = Path(__file__).parents[2]
    result = read_result(root / "studies/results/r2seg-level.json")
    places: dict[str, dict[str, list[float]]] = {}
    with (root / "studies/results/r2seg-level.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            groups = places.setdefault(f"{row['taught']} to {row['asked']}", {})
            groups.setdefault(row["group"], []).append(float(row["strongest"] or "-inf"))
    scores = {place: {g: np.array(v) for g, v in groups.items()} for place, groups in places.items()}
    for place, groups in scores.items():
        found = result["summary"]["places"][place]["shares"]["null"]["tested"]
        assert against(groups["null"], groups["tested"]) == found
    dealt = outside_by_chance(scores, seed=0)
    assert dealt["p"] > 0.05
    words = " ".join((root / "docs/studies.md").read_text(encoding="utf-8").split())
    assert f"{dealt['outside']} of 64 lie outside" in words
    assert f"so many or more in {dealt['p']:.2f} of deals" in words
