"""Study `rau-tubes`: whether coils, branching vessels and badly drawn structures are doubted, and good ones are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from anatrust.metrics import dice
from anatrust.models.annotation import ENOUGH, SURE, Annotation, Reference
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.reference.rehearsal import Rehearsal
from anatrust.studies.intervals import rate_by_patient
from anatrust.studies.nano_anatomy import THIN, draw_patient
from anatrust.studies.nano_training import SEEN
from anatrust.studies.rau_patients import ASKED, REFERENCES, SIDE, as_reference, reasoner
from anatrust.studies.rau_registration import ct_slice, hippocampus, hippocampus_split
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = (
    "anatrust.studies.rau_tubes",
    "anatrust.studies.rau_patients",
    "anatrust.studies.rau_registration",
    "anatrust.studies.nano_anatomy",
    "anatrust.models.registration",
    "anatrust.reference.fusion",
    "anatrust.reference.registration_reasoner",
    "anatrust.reference.correspondence_reasoner",
)
_FIRST, _PATIENTS, _SHOWN, _BANK = 30_000, 16, 3, 8
_GAPS = (2, 4)
_SLICES = tuple(range(10, 59, 4))
_WAYS = ("registration", "correspondence")
_KINDS = {
    "bowel": "coils of bowel",
    "vessels": "branching vessels",
    "solid": "solid organs and spine",
    "hippocampus": "hippocampus MR: both parts",
    "slices": "abdominal CT: organs, neighbours at 10 and 20 mm",
    "liver": "abdominal CT: liver alone",
}
_LIVER = "liver"


def _cells(context: Context) -> list[Cell]:
    """Lessons are bank members annotated from others of the bank; targets are nobody of the bank."""
    counts = {"lesson": 6 if context.quick else len(SEEN) * _BANK, "target": 1 if context.quick else _PATIENTS}
    cells = [
        Cell(f"phantom/{role}/{n}", {"role": role, "number": n}, (), _NEEDS)
        for role, count in counts.items()
        for n in range(count)
    ]
    if context.quick:
        return cells
    targets, bank = hippocampus_split(context, _PATIENTS, _BANK)
    files = tuple(f"hippocampus_mr/{kind}/{name}" for name in (*targets, *bank) for kind in ("images", "labels"))
    for role, names in (("lesson", bank), ("target", targets)):
        cells += [
            Cell(f"hippocampus/{role}/{name[:-7]}", {"role": role, "name": name, "bank": bank}, files, _NEEDS)
            for name in names
        ]
    amos = ("amos_ct/image.nii.gz", "amos_ct/labels.nii.gz")
    return cells + [Cell(f"slices/{gap}/{z}", {"gap": gap, "slice": z}, amos, _NEEDS) for gap in _GAPS for z in _SLICES]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    kind, p = cell.key.split("/")[0], cell.parameters
    if kind == "slices":
        below, target, above = (ct_slice(context, p["slice"] + step) for step in (-p["gap"], 0, p["gap"]))
        return {"registration": _told(target, RegistrationReasoner().annotate(target.scan, [below, above]))}
    if kind == "hippocampus":
        target = hippocampus(context, p["name"])
        others = [name for name in p["bank"] if name != p["name"]]
        seed = 1 + int(cell.key.split("_")[-1])
        chosen = [hippocampus(context, others[k]) for k in _drawn(seed, len(others), context)]
        return {"registration": _told(target, RegistrationReasoner().annotate(target.scan, chosen))}
    number = p["number"]
    bank = _bank(number % len(SEEN), context.seed)
    if p["role"] == "lesson":
        target = bank[number // len(SEEN)]
        bank = tuple(one for one in bank if one is not target)
    else:
        first = ASKED + _FIRST + 1000 * context.seed
        target = as_reference(draw_patient(first + number, SEEN[number % len(SEEN)], size=SIDE))
    chosen = [bank[k] for k in _drawn(number, len(bank), context)]
    return {way: _told(target, reasoner(f"{way}, fixed").annotate(target.scan, chosen)) for way in _WAYS}


@lru_cache(maxsize=2)
def _bank(look: int, seed: int) -> tuple[Reference, ...]:
    first = REFERENCES + _FIRST + 1000 * seed + look
    return tuple(as_reference(draw_patient(first + len(SEEN) * k, SEEN[look], size=SIDE)) for k in range(_BANK))


def _drawn(number: int, count: int, context: Context) -> list[int]:
    return [int(k) for k in np.random.default_rng([context.seed, number, 61]).permutation(count)[:_SHOWN]]


def _told(target: Reference, answer: Annotation) -> list[dict[str, Any]]:
    return [
        {
            "number": s.number,
            "name": s.name,
            "there": bool((target.labels.array == s.number).any()),
            "found": s.found,
            "confidence": s.confidence,
            "dice": round(float(dice(target.labels.array == s.number, answer.labels.array == s.number)), 4),
        }
        for s in answer.structures
    ]


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key, told in results.items():
        source, role, _ = key.split("/")
        if source != "slices" and role == "lesson":
            continue
        for way, structures in told.items():
            rehearsal = _rehearsed(_lessons(key, results), results, way)
            for s in structures:
                if not s["there"]:
                    continue
                expected = rehearsal.expected(s["number"], s["confidence"]) if s["found"] else None
                one = {**s, "expected": expected, "before": s["found"] and s["confidence"] >= SURE}
                one["after"] = one["before"] and (expected is None or expected >= ENOUGH)
                for kind in _kinds(source, s["name"]):
                    # All slices are of one patient: no interval can be had from them.
                    rows.setdefault(f"{way}/{kind}", {}).setdefault(key if source != "slices" else source, []).append(
                        one
                    )
    return {"found": {f"{way}/{kind}": _counted(rows[f"{way}/{kind}"], context) for way in _WAYS for kind in _KINDS
                      if f"{way}/{kind}" in rows}}  # fmt: skip


def _kinds(source: str, name: str) -> tuple[str, ...]:
    if source == "phantom":
        return (name if name in THIN else "solid",)
    return (source, "liver") if name == _LIVER else (source,)


def _lessons(target: str, results: Mapping[str, Any]) -> list[str]:
    """Cells that the target's doubt may be learnt from: none that saw the target or is seen by it."""
    source, role, name = target.split("/")
    if source == "phantom":
        return [k for k in results if k.startswith("phantom/lesson/") and int(k.split("/")[2]) % 2 == int(name) % 2]
    if source == "hippocampus":
        return [k for k in results if k.startswith("hippocampus/lesson/")]
    mine = [k for k in results if k.startswith(f"slices/{role}/")]
    return [k for k in mine if abs(int(k.split("/")[2]) - int(name)) not in (0, int(role))]


def _rehearsed(lessons: Sequence[str], results: Mapping[str, Mapping[str, Any]], way: str) -> Rehearsal:
    tried: dict[int, list[tuple[float, float]]] = {}
    for key in lessons:
        for s in results[key][way]:
            if s["found"] and s["there"]:
                tried.setdefault(s["number"], []).append((s["confidence"], s["dice"]))
    return Rehearsal({number: tuple(found) for number, found in tried.items()})


def _counted(rows: Mapping[str, list[dict[str, Any]]], context: Context) -> dict[str, Any]:
    every = [s for mine in rows.values() for s in mine]
    known = [s for s in every if s["expected"] is not None]
    good = [s for s in every if s["dice"] >= ENOUGH]
    bad = [s for s in every if s["dice"] < ENOUGH]
    return {
        "n": len(every),
        "dice": round(float(np.mean([s["dice"] for s in every])), 3),
        "before": rate_by_patient({k: [not s["before"] for s in mine] for k, mine in rows.items()}, seed=context.seed),
        "after": rate_by_patient({k: [not s["after"] for s in mine] for k, mine in rows.items()}, seed=context.seed),
        "bad": [sum(not s["before"] for s in bad), sum(not s["after"] for s in bad), len(bad)],
        "good": [sum(not s["before"] for s in good), sum(not s["after"] for s in good), len(good)],
        "error": round(float(np.mean([abs(s["expected"] - s["dice"]) for s in known])), 3) if known else None,
    }


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    doubt, right = [], []
    for key, r in result["summary"]["found"].items():
        way, kind = key.split("/")
        error = "–" if r["error"] is None else f"{r['error']:.2f}"
        doubt.append([way, _KINDS[kind], r["n"], f"{r['dice']:.2f}", _rate(r["before"]), _rate(r["after"]), error])
        right.append([way, _KINDS[kind], *(f"{r[k][i]} of {r[k][2]}" for k in ("bad", "good") for i in (0, 1))])
    first, then = ["reasoner", "structures"], "rehearsed"
    header = [*first, "n", "mean Dice", "unsure or null", then, "error of the expected Dice"]
    sides = [*first, "Dice below 0.7, unsure", then, "Dice of 0.7 or more, unsure", then]
    return {"unsure": markdown_table(header, doubt), "sides": markdown_table(sides, right)}


def _rate(cell: Mapping[str, Any]) -> str:
    around = f" [{cell['interval'][0]:.2f}, {cell['interval'][1]:.2f}]" if "interval" in cell else ""
    return f"{cell['rate']:.2f}{around}"


STUDY = Study(
    name="rau-tubes",
    question="Are coils, branching vessels and badly drawn structures told unsure, and well drawn ones not?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
