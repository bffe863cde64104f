"""The paper's failure signatures, each recognised from run.json, each with its cure."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap
from anatrust.models.planner_rules import RulesPlanner
from anatrust.pipeline.propose import ProposalSettings
from anatrust.pipeline.signatures import cohort_signatures, failure_signatures, judgement_record
from anatrust.rejection.candidate import Candidate


def run(**change):
    """A run in which nothing went wrong, with some things changed."""
    configuration = {
        "plan": RulesPlanner().plan("liver tumour", "CT").to_json(),
        "anchors": {"source": "anchors"},
        "settings": ProposalSettings().to_json(),
        "proposal": {"components": 3, "largest_probability": 0.9},
        "judgement": {
            "candidates": 3, "tested": 3, "kept": 1, "rejected": 2, "undecidable": 0,
            "refused_by": {}, "organs": {"liver": 3}, "null": "surrogate-max", "draws": 199,
        },
    }  # fmt: skip
    timings = change.pop("timings", {"judge": 1.0, "segment": 9.0})
    for key, value in change.items():
        configuration[key] = {**configuration[key], **value}
    return json.loads(json.dumps({"configuration": configuration, "timings": timings}))


def codes(record):
    return [finding.code for finding in failure_signatures(record)]


def test_a_good_run_shows_none():
    assert codes(run()) == []


@pytest.mark.parametrize(
    ("source", "words"), [("body", "without an anchor"), ("neighbours", "neighbours"), ("contralateral", "mirrored")]
)
def test_a_failed_anchor_predicts_sensitivity_1_and_specificity_0(source, words):
    (found,) = failure_signatures(run(anchors={"source": source}))
    assert (found.code, found.severity) == ("over-prediction", "warning")
    assert words in found.sentence
    assert "specificity near 0" in found.sentence
    assert "--anatomy" in found.cure
    nothing = {"components": 0, "largest_probability": 0.01}
    assert codes(run(anchors={"source": source}, proposal=nothing)) == []


def test_empty_masks_point_to_the_thresholds():
    near = {"components": 0, "largest_probability": 0.4}
    (found,) = failure_signatures(run(proposal=near))
    assert found.code == "thresholds-empty-the-mask"
    assert "0.40" in found.sentence
    assert "--threshold" in found.cure
    far = {"components": 0, "largest_probability": 0.1}
    assert codes(run(proposal=far)) == []
    refused = {"refused_by": {"L2": 2, "L3": 1}, "tested": 0, "kept": 0}
    (found,) = failure_signatures(run(judgement=refused))
    assert found.code == "thresholds-empty-the-mask"
    assert "gate L2" in found.sentence
    assert codes(run(judgement={"refused_by": {"L2": 2}})) == []


def candidate(volume, length, decision="kept", ndim=3):
    place = (5.0,) * ndim
    return Candidate(
        1, 1, "lesion", 100, volume, length, place, (5.0, 5.0, 5.0), ((0, 9),) * ndim, 120.0, decision=decision
    )


@pytest.mark.parametrize(
    ("volume", "length", "decision", "ndim", "seen"),
    [
        (203_000.0, 215.0, "kept", 3, True),  # fissures and rim of a liver that hang together
        (203_000.0, 215.0, "rejected", 3, False),
        (4 / 3 * np.pi * 20**3, 40.0, "kept", 3, False),  # a ball
        (np.pi * 5**2 * 40, 40.0, "kept", 3, False),  # a rod four times as long as wide
        (206_000.0, 199.0, "kept", 3, True),  # what lies behind a liver, in a rough outline of it
        (np.pi * 2**2 * 40, 40.0, "kept", 3, True),  # ten times
        (np.pi * 1**2 * 20, 20.0, "kept", 3, False),  # too short to have a shape
        (4.0 * 40, 40.0, "kept", 2, True),
        (np.pi * 20**2, 40.0, "kept", 2, False),
        (None, None, "kept", 3, False),  # no spacing
    ],
)
def test_what_is_kept_and_no_lump_is_named(volume, length, decision, ndim, seen):
    record = judgement_record([candidate(volume, length, decision, ndim)], draws=199, null="surrogate-max")
    found = failure_signatures(run(judgement=record))
    assert [f.code for f in found] == ["drawn-out"] * seen
    if seen:
        assert found[0].severity == "warning"
        assert f"candidate 1, {length:.0f} mm long" in found[0].sentence
        assert ("ball" if ndim == 3 else "disc") in found[0].sentence


def test_scattered_organs_point_to_the_planner():
    many = {"organs": {"liver": 1, "spleen": 1, "stomach": 1}}
    (found,) = failure_signatures(run(judgement=many))
    assert (found.code, found.severity) == ("planner-doubtful", "warning")
    assert "liver, spleen, stomach" in found.sentence
    assert "scattered over organs" in found.sentence
    (found,) = failure_signatures(run(plan={"fallback": "the model refused to answer"}))
    assert "refused to answer" in found.sentence
    (found,) = failure_signatures(run(plan={"tumour": None}))
    assert found.severity == "info"
    (found,) = failure_signatures(run(plan={"adjustments": ["'livr' was read as liver tumour"]}))
    assert found.severity == "info"
    assert "'livr' was read as liver tumour" in found.sentence
    assert codes(run(judgement={"organs": {"liver": 5, "spleen": 1}})) == []


def test_many_candidates_and_draws_are_slow():
    (found,) = failure_signatures(run(judgement={"tested": 50, "draws": 9999}))
    assert (found.code, found.severity) == ("slow-rejection", "info")
    assert "50 candidates with 9999 null draws" in found.sentence
    assert "--max-candidates" in found.cure
    assert codes(run(timings={"judge": 100.0, "segment": 20.0})) == ["slow-rejection"]
    assert codes(run(timings={"judge": 1.0, "segment": 0.1})) == [], "a second is not slow"


def test_a_cohort_shows_what_one_scan_cannot():
    everything = [(run(), lesion_free) for lesion_free in (True, False) * 3]
    (found,) = cohort_signatures(everything)
    assert found.code == "over-prediction"
    assert "All 3 scans with lesions and all 3 without" in found.sentence
    nothing = [(run(judgement={"kept": 0}), lesion_free) for lesion_free in (True, False) * 3]
    (found,) = cohort_signatures(nothing)
    assert found.code == "thresholds-empty-the-mask"
    assert "0 of 3" in found.sentence
    good = [(run(judgement={"kept": 0 if free else 1}), free) for free in (True, False) * 3]
    assert cohort_signatures(good) == ()
    assert cohort_signatures(everything[:2]) == (), "two scans show nothing"


def test_the_record_counts_what_was_judged():
    def candidate(number, **judged):
        place = ((1.0,) * 3, (1.0,) * 3, ((0, 2),) * 3, 9.0)
        return Candidate(number, 1, "x", 8, 8.0, 3.0, *place, **judged)

    record = judgement_record(
        (
            candidate(1, decision="kept", p_value=0.01, tissue="liver"),
            candidate(2, decision="rejected", p_value=0.5, tissue="liver", reason="not shown to differ"),
            candidate(3, decision="rejected", reason="gate L2: its size, 8 mm³, is below 25 mm³"),
            candidate(4, decision="undecidable", reason="too few"),
        ),
        draws=199,
        null="surrogate-max",
        organs=LabelMap(np.array([[[0, 0], [0, 0]], [[0, 0], [0, 7]]]), Grid((2, 2, 2), np.eye(4)), {7: "liver"}),
    )
    assert record["refused_by"] == {"L2": 1}
    assert (record["candidates"], record["tested"], record["kept"], record["undecidable"]) == (4, 2, 1, 1)
    assert record["organs"] == {"liver": 4}, "by the centres of all four"
    unnamed = LabelMap(np.full((2, 2, 2), 7), Grid((2, 2, 2), np.eye(4)))
    without = judgement_record((candidate(1, decision="kept"),), draws=1, null="iid", organs=unnamed)
    assert without["organs"] == {}, "a number is not an organ"
