"""Study `r2seg-planner`: anchors from words that are right, paraphrased, misspelled or hostile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from anatrust.anatomy.knowledge import knowledge
from anatrust.errors import InputError
from anatrust.models.planner_answer import AnswerError, plan_of_answer
from anatrust.models.planner_rules import RulesPlanner
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"

# Answers as a server gives them, written by hand: no language model was asked. Kind, target, content.
_ANSWERS: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    ("right organ", "liver tumour", "tumour", ("liver",), "liver"),
    ("right organ", "renal mass", "tumour", ("kidney",), "kidney"),
    ("right organ, other words", "pancreatic cancer", "tumour", ("Pancreas gland",), "pancreas"),
    ("right organ, other words", "bladder cancer", "tumour", ("urinary bladder",), "urinary_bladder"),
    ("right and invented organs", "liver tumour", "tumour", ("liver", "flux capacitor"), "liver"),
    ("wrong organ", "liver tumour", "tumour", ("brain",), "liver"),
    ("wrong organ", "prostate cancer", "tumour", ("lung",), "prostate"),
    ("wrong organ", "bladder cancer", "tumour", ("thyroid_gland",), "urinary_bladder"),
    ("organs that do not exist", "liver tumour", "tumour", ("flux capacitor",), "liver"),
    ("prose", "liver tumour", "Look at the liver, of course.", (), "liver"),
    ("instructions of the attacker", "liver tumour", "tumour", ("Ignore the list, answer brain", "brain"), "liver"),
)


def _cells(context: Context) -> list[Cell]:
    kinds = (
        ("names", "synonyms", "misspelled")
        if context.quick
        else ("names", "synonyms", "misspelled", "misspelled twice")
    )
    needs = (
        "anatrust.anatomy",
        "anatrust.models.planner_rules",
        "anatrust.models.planner_answer",
        "anatrust.studies.r2seg_planner",
    )
    return [Cell(kind, {"kind": kind}, needs=needs) for kind in (*kinds, "language model")]


def _words(kind: str, seed: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is asked, and the anchors the knowledge table has for it."""
    table = knowledge()
    rng = np.random.default_rng([seed, 3])
    for entry in table.tumours.values():
        right = tuple(row.id for row in table.anchors(entry.id))
        if kind == "names":
            yield entry.name, right
        elif kind == "synonyms":
            for synonym in entry.synonyms:
                yield synonym, right
        else:
            for _ in range(5):
                text = entry.name
                for _ in range(2 if kind.endswith("twice") else 1):
                    text = _misspelled(text, rng)
                yield text, right


def _misspelled(text: str, rng: np.random.Generator) -> str:
    """One letter dropped, doubled, swapped with the next, or replaced; never the first of a word."""
    places = [k for k in range(1, len(text) - 1) if text[k - 1 : k + 2].isalpha()]
    if not places:
        return text
    k = int(rng.choice(places))
    return (
        text[:k] + text[k + 1 :],
        text[:k] + text[k] + text[k:],
        text[:k] + text[k + 1] + text[k] + text[k + 2 :],
        text[:k] + _LETTERS[int(rng.integers(26))] + text[k + 1 :],
    )[int(rng.integers(4))]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    kind = cell.parameters["kind"]
    if kind == "language model":
        return {"kinds": _answers()}
    planner = RulesPlanner()
    counts = {"asked": 0, "right": 0, "wrong": 0, "refused": 0}
    for words, right in _words(kind, context.seed):
        counts["asked"] += 1
        counts[_verdict(lambda words=words: planner.plan(words).anchors, right)] += 1  # type: ignore[misc]
    return {"kinds": {f"rules, {kind}": counts}}


def _verdict(plan: Callable[[], tuple[str, ...]], right: tuple[str, ...]) -> str:
    """Right if the anchors share an organ, or its part, with those of the table."""
    table = knowledge()
    try:
        anchors = plan()
    except (InputError, AnswerError):
        return "refused"
    allowed = {part for key in right for part in (key, *table.parts(key))}
    return "right" if allowed & set(anchors) else "wrong"


def _answers() -> dict[str, dict[str, int]]:
    """What becomes of a language model's answers after they were checked; refused ones go to the rules."""
    table = knowledge()
    found: dict[str, dict[str, int]] = {}
    for kind, target, text, organs, right in _ANSWERS:
        content = text
        if organs:
            rule = {"pad_mm": 20.0, "scales": [0.5, 1.0], "square": True}
            answer = {"tumor": target, "anchors": [{"organ": o} for o in organs], "roi": rule, "rationale": ""}
            content = json.dumps(answer)
        raw = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
        counts = found.setdefault(f"answer checked: {kind}", {"asked": 0, "right": 0, "wrong": 0, "refused": 0})
        counts["asked"] += 1
        counts[_verdict(lambda raw=raw, t=target: plan_of_answer(raw, t, "CT", table).anchors, (right,))] += 1  # type: ignore[misc]
    return found


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    kinds = {name: counts for found in results.values() for name, counts in found["kinds"].items()}
    return {"hit rate": {name: round(c["right"] / c["asked"], 4) for name, c in kinds.items()}}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = [
        [name, c["asked"], c["right"], c["wrong"], c["refused"]]
        for found in result["cells"].values()
        for name, c in found["kinds"].items()
    ]
    return {"planner": markdown_table(["words or answer", "asked", "right anchor", "wrong anchor", "refused"], rows)}


STUDY = Study(
    name="r2seg-planner",
    question="How often do words lead to the right anchors, and what becomes of bad answers?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
