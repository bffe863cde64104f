"""The verdict: what it may claim, its JSON and the published schema."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.cli.show_verdict import verdict_text
from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.ood.screen import Screening
from anatrust.pipeline.decide import decide
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.levels import Levels
from anatrust.pipeline.organ import StructureCheck, check_structures
from anatrust.pipeline.sets import SetSummary
from anatrust.pipeline.verdict import ACCEPT_MEANS, ScanSummary, Statement, Verdict
from anatrust.rejection.candidate import Candidate

SUMMARY = ScanSummary("scan", (10, 11, 12), (1.0, 1.0, 2.5), "mm", "LPS", "CT", "HU")
KEPT = Candidate(
    1, 1, "lesion", 8, 8.0, 3.5, (4.5, 4.5, 4.5), (4.5, 4.5, 4.5), ((4, 6), (4, 6), (4, 6)), 120.0,
    mean_probability=0.8, contrast=2.5, tissue="liver", statistic=0.4, p_value=0.01, p_floor=0.005, q_value=0.01,
    null="cohort", placement_p=None, decision="kept", reason="it differs",
)  # fmt: skip
WARNING = Finding("warning", "code", "Something is odd.", "Mend it.")
ERROR = Finding("error", "broken", "All is lost.", "Try again.")
SETS = SetSummary("liver", 1, 0.1, 40, 90, 40.0, 90.0, inner_feasible=True, outer_feasible=True)
USUAL = Screening("scan 1", 0.3, 0.4, 0.05, 0.05, "usual", ("not unusual",))
CHECK = StructureCheck(1, "liver", 8, None, 1, 1, 0.0, 0.0, 0.0)


def verdict(**changes: object) -> Verdict:
    base = Verdict(
        "accept",
        (ACCEPT_MEANS,),
        "lesion",
        SUMMARY,
        Levels(),
        statements=(Statement("at most 0.1", 0.1, "exact", "candidates"), Statement("no more", None, "none", "scan")),
        candidates=(KEPT,),
        null="cohort",
        correction="familywise",
        files={"report": "report.html"},
        version="0.1.0",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


VERDICTS = [
    verdict(),
    verdict(decision="review", reasons=("odd",), findings=(WARNING,), notes=("a note",)),
    verdict(decision="abstain", reasons=("broken",), candidates=(), findings=(ERROR,), statements=()),
    verdict(kind="organ", candidates=(), structures=(CHECK,)),
    verdict(screening=USUAL),
    verdict(sets=(SETS, replace(SETS, label=2, inner_volume=None, outer_volume=None))),
    verdict(
        decision="review",
        reasons=("two",),
        candidates=(KEPT, replace(KEPT, number=2, decision="rejected", volume=None, diameter=None, p_value=None)),
    ),
]


@pytest.mark.parametrize("example", VERDICTS)
def test_json_fulfils_the_schema_and_round_trips(example: Verdict) -> None:
    plain = json.loads(example.dumps())
    jsonschema.Draft202012Validator(Verdict.json_schema()).validate(plain)
    again = Verdict.from_json(plain)
    assert again == example
    assert again.dumps() == example.dumps()
    assert Verdict.from_json(example.dumps()) == example


def test_the_schema_is_valid_and_knows_every_field() -> None:
    schema = Verdict.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    items = schema["properties"]
    for name, noun in (
        ("candidates", Candidate),
        ("structures", StructureCheck),
        ("sets", SetSummary),
        ("statements", Statement),
        ("findings", Finding),
    ):
        assert sorted(items[name]["items"]["properties"]) == sorted(f.name for f in fields(noun))
    assert sorted(items["screening"]["properties"]) == sorted(f.name for f in fields(Screening))
    assert sorted(items["scan"]["properties"]) == sorted(f.name for f in fields(ScanSummary))
    assert sorted(items["levels"]["properties"]) == sorted(f.name for f in fields(Levels))


@pytest.mark.parametrize("break_it", [{"decision": "yes"}, {"more": 1}, {"reasons": []}, {"schema_version": 2}])
def test_the_schema_refuses(break_it: dict[str, object]) -> None:
    plain = {**VERDICTS[0].to_json(), **break_it}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(Verdict.json_schema()).validate(plain)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not an anatrust verdict"),
        ("{}", "not an anatrust verdict"),
        ("[]", "not an anatrust verdict"),
        ({**VERDICTS[0].to_json(), "schema_version": 2}, "newer than 1"),
        ({**VERDICTS[0].to_json(), "schema_version": "x"}, "not an anatrust verdict"),
        ({**VERDICTS[0].to_json(), "candidates": [{}]}, "not an anatrust verdict"),
    ],
)
def test_foreign_and_newer_verdicts_are_refused(data: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Verdict.from_json(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "yes"},
        {"kind": "bone"},
        {"reasons": ()},
        {"findings": (WARNING,)},
        {"candidates": (replace(KEPT, decision="undecidable"),)},
        {"candidates": (replace(KEPT, decision=None),)},
        {"structures": (replace(CHECK, failed=("holes",)),)},
        {"sets": (replace(SETS, inner_feasible=False),)},
        {"screening": replace(USUAL, verdict="strange")},
    ],
)
def test_a_verdict_that_contradicts_itself_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        verdict(**changes)


def test_every_promise_names_its_level() -> None:
    with pytest.raises(InputError, match="names its level"):
        Statement("promised", None, "exact", "candidates")
    with pytest.raises(InputError, match="strength"):
        Statement("promised", 0.1, "certain", "candidates")  # type: ignore[arg-type]


def test_levels_are_one_dial() -> None:
    assert Levels().to_json() == {"candidates": 0.1, "sets": 0.1, "screening": 0.05}
    assert Levels.all_at(0.2) == Levels(0.2, 0.2, 0.2)
    assert Levels.all_at(None) == Levels()
    for alpha in (0.0, 1.0, -1.0, float("nan"), "x"):
        with pytest.raises(InputError, match="between 0 and 1"):
            Levels.all_at(alpha)  # type: ignore[arg-type]


def candidates(*decisions: str | None) -> list[Candidate]:
    return [replace(KEPT, number=k + 1, decision=d, reason="why") for k, d in enumerate(decisions)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decisions", "findings", "expected", "words"),
    [
        (["kept", "kept"], [], "accept", ACCEPT_MEANS),
        (["kept", "rejected"], [], "review", "1 of 2 candidates was rejected"),
        (["rejected"], [], "review", "1 of 1 candidate was rejected"),
        (["rejected", "rejected"], [], "review", "2 of 2 candidates were rejected"),
        (["kept", "undecidable"], [], "review", "undecidable"),
        (["undecidable"], [], "abstain", "the only candidate could not be decided: why"),
        (["undecidable", "undecidable"], [], "abstain", "none of the 2 candidates"),
        (["kept"], [WARNING], "review", "Something is odd."),
        (["kept"], [ERROR, WARNING], "abstain", "All is lost."),
        ([], [], "review", "nothing was tested"),
    ],
)
def test_decisions_fall_to_the_safe_side(
    decisions: list[str], findings: list[Finding], expected: str, words: str
) -> None:
    decision, reasons = decide(findings, candidates(*decisions))
    assert decision == expected
    assert words in " ".join(reasons)


@pytest.mark.parametrize(("null", "decision"), [("iid", "review"), ("block", "review"), ("placement", "accept")])
def test_a_null_that_promises_nothing_is_no_ground_to_accept(null: str, decision: str) -> None:
    kept = [replace(c, null=null) for c in candidates("kept", "kept")]
    found, reasons = decide([], kept)
    assert found == decision
    if decision == "review":
        assert reasons == (f"2 of 2 candidates were kept by the null '{null}', which promises nothing",)


def test_what_a_gate_stopped_is_not_said_to_have_been_tested() -> None:
    tested, stopped = (
        replace(candidates("rejected")[0], reason=reason)
        for reason in ("it was not shown to differ from liver (p = 1)", "gate L2: its size, 4 mm³, is below 25 mm³")
    )
    (both,), (gates,), (test,) = (decide([], kinds)[1] for kinds in ([tested, stopped, stopped], [stopped], [tested]))
    expected = "3 of 3 candidates were rejected: 1 not shown to differ from normal tissue, 2 stopped by a gate before"
    assert both == f"{expected} any test"
    assert gates == "1 of 1 candidate was rejected: stopped by a gate before any test"
    assert test == "1 of 1 candidate was rejected: not shown to differ from normal tissue"


def test_what_else_is_wrong_is_said_beside_candidates_that_could_not_be_decided() -> None:
    strange = Screening("a", 3.0, 0.05, 0.05, 0.05, "strange", ("stranger than all",))
    decision, reasons = decide([WARNING], candidates("undecidable"), screening=strange)
    assert decision == "abstain"
    assert [r.split(":")[0] for r in reasons] == [
        "the only candidate could not be decided",
        "screening",
        "Something is odd.",
    ]


@given(
    st.lists(st.sampled_from(["kept", "rejected", "undecidable", None]), max_size=5),
    st.lists(st.sampled_from(["info", "warning", "error"]), max_size=3),
)
def test_accept_only_if_everything_was_kept(decisions: list[str | None], severities: list[str]) -> None:
    findings = [Finding(s, "c", "s", "c") for s in severities]  # type: ignore[arg-type]
    decision, reasons = decide(findings, candidates(*decisions))
    clean = bool(decisions) and set(decisions) == {"kept"} and set(severities) <= {"info"}
    assert (decision == "accept") == clean
    assert reasons
    # Whatever was decided makes a verdict.
    verdict(decision=decision, reasons=reasons, candidates=tuple(candidates(*decisions)), findings=tuple(findings))


def body_with(*boxes: tuple[slice, ...], shape: tuple[int, ...] = (20, 20, 20)) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    for box in boxes:
        array[box] = 1
    return array


def check(array: np.ndarray) -> StructureCheck:
    return check_structures(LabelMap(array, Grid(array.shape, np.diag([1, 1, 2, 1])), {1: "liver"}))[0]


def test_a_solid_organ_passes_every_check() -> None:
    found = check(body_with((slice(4, 14),) * 3))
    assert found == StructureCheck(1, "liver", 1000, 2000.0, 1, 1, 0.0, 0.0, 0.0)


def test_paired_organs_pass_and_three_pieces_fail() -> None:
    two = body_with((slice(1, 6),) * 3, (slice(10, 15),) * 3)
    assert (check(two).components, check(two).failed) == (2, ())
    three = body_with((slice(1, 6),) * 3, (slice(8, 13),) * 3, (slice(15, 19),) * 3)
    assert check(three).failed == ("3 pieces",)


def test_strays_holes_and_the_border() -> None:
    stray = body_with((slice(4, 14),) * 3, (slice(16, 20),) * 3)
    assert check(stray).stray_share == pytest.approx(64 / 1064)
    assert check(stray).failed == ("strays of 6.0 % in 1 pieces",)
    assert check(stray).border_share > 0
    holed = body_with((slice(4, 14),) * 3)
    holed[7:11, 7:11, 7:11] = 0
    assert check(holed).hole_share == pytest.approx(64 / 936)
    assert check(holed).failed == ("holes of 6.8 %",)
    cut = body_with((slice(0, 10),) * 3)
    assert check(cut).border_share == pytest.approx(271 / 1000)
    assert check(cut).failed == ()


def test_pictures_have_no_volume() -> None:
    array = body_with((slice(2, 6),) * 2, shape=(10, 10))
    told: list[tuple[int, int]] = []
    labels = LabelMap(array, Grid.without_spacing(array.shape))
    found = check_structures(labels, lambda done, total: told.append((done, total)))[0]
    assert told == [(1, 1)]
    assert (found.volume, found.name) == (None, "label 1")


def test_a_summary_holds_no_voxels() -> None:
    scan = Scan(np.zeros((3, 4), np.int16), Grid.without_spacing((3, 4)), "photo")
    assert ScanSummary.of(scan).unit == "px"


def undecided(number: int, patches: int, p: str) -> Candidate:
    why = f"the tissue holds only about {patches} independent patches, too few to find a difference (p is {p})"
    known = "; known is that its mean lies 3.0 standard deviations below that of liver"
    return replace(KEPT, number=number, p_value=None, q_value=None, decision="undecidable", reason=why + known)


def test_the_text_counts_decisions_and_says_a_shared_reason_once():
    several = (KEPT, undecided(2, 198, "1"), undecided(3, 198, "0.3 to 0.9"), undecided(4, 21, "1"))
    shown = verdict_text(verdict(decision="review", reasons=("odd",), candidates=several))
    assert "Candidates: 1 kept, 3 undecidable" in shown
    assert shown.count("about 198 independent patches") == 1
    said = " ".join(shown.split())
    assert "2, 3: the tissue holds only about 198 independent patches, too few to find a difference" in said
    # What is known of one candidate stands with it, not with the others.
    assert said.count("3.0 standard deviations") == 1
    assert "4: the tissue holds only about 21" in said


def test_a_finding_that_is_a_reason_is_said_once_with_its_cure():
    other = Finding("info", "beside", "It is a crop.", "Give the whole scan.")
    shown = verdict_text(
        verdict(decision="review", reasons=(WARNING.sentence,), findings=(WARNING, other), candidates=())
    )
    assert shown.count("Something is odd.") == 1
    assert "  - Something is odd. Mend it." in shown
    assert "Input gate:\n  - info: It is a crop. Give the whole scan." in shown


def test_where_none_is_decided_the_reason_is_not_that_of_the_first_alone():
    _, (first, *_) = decide([], [undecided(1, 198, "1"), undecided(2, 198, "1")])
    assert first.startswith("none of the 2 candidates could be decided, the largest because the tissue holds only")
    assert "known is" not in first
    _, (only, *_) = decide([], [undecided(1, 198, "1")])
    assert "known is that its mean lies 3.0" in only
