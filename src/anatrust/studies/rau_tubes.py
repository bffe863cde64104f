"""Study `rau-tubes`: whether coils of bowel and branching vessels are told unsure, and solid organs are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anatrust.metrics import dice
from anatrust.models.annotation import SURE
from anatrust.studies.intervals import rate_by_patient
from anatrust.studies.nano_anatomy import THIN, draw_patient
from anatrust.studies.nano_training import SEEN
from anatrust.studies.rau_patients import ASKED, REFERENCES, SIDE, as_reference, reasoner
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = (
    "anatrust.studies.rau_tubes",
    "anatrust.studies.rau_patients",
    "anatrust.studies.nano_anatomy",
    "anatrust.reference.registration_reasoner",
    "anatrust.reference.correspondence_reasoner",
)
_FIRST, _PATIENTS, _SHOWN = 30_000, 16, 3
_WAYS = ("registration", "correspondence")
_KINDS = {"bowel": "coils of bowel", "vessels": "branching vessels", "solid": "solid organs and spine"}


def _cells(context: Context) -> list[Cell]:
    count = 1 if context.quick else _PATIENTS
    return [Cell(f"patient/{number}", {"patient": number}, (), _NEEDS) for number in range(count)]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    number = cell.parameters["patient"]
    look, first = SEEN[number % len(SEEN)], _FIRST + 1000 * context.seed + number * _SHOWN
    references = [as_reference(draw_patient(REFERENCES + first + k, look, size=SIDE)) for k in range(_SHOWN)]
    target = as_reference(draw_patient(ASKED + first, look, size=SIDE))
    found = {}
    for way in _WAYS:
        answer = reasoner(f"{way}, fixed").annotate(target.scan, references)
        found[way] = [
            {
                "kind": s.name if s.name in THIN else "solid",
                "sure": s.found and s.confidence >= SURE,
                "confidence": s.confidence,
                "dice": round(float(dice(target.labels.array == s.number, answer.labels.array == s.number)), 4),
            }
            for s in answer.structures
        ]
    return found


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for way in _WAYS:
        for kind in _KINDS:
            rows = {key: [s for s in r[way] if s["kind"] == kind] for key, r in results.items()}
            every = [s for mine in rows.values() for s in mine]
            unsure = {key: [not s["sure"] for s in mine] for key, mine in rows.items()}
            found[f"{way}/{kind}"] = {
                "unsure": rate_by_patient(unsure, seed=context.seed),
                "confidence": round(float(np.mean([s["confidence"] for s in every])), 3),
                "dice": round(float(np.mean([s["dice"] for s in every])), 3),
            }
    return {"found": found}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, r in result["summary"]["found"].items():
        way, kind = key.split("/")
        unsure = r["unsure"]
        around = f" [{unsure['interval'][0]:.2f}, {unsure['interval'][1]:.2f}]" if "interval" in unsure else ""
        told = f"{unsure['rate']:.2f}{around}"
        rows.append([way, _KINDS[kind], unsure["n"], told, f"{r['confidence']:.2f}", f"{r['dice']:.2f}"])
    header = ["reasoner", "structures", "n", "told unsure or null", "mean confidence", "mean Dice"]
    return {"unsure": markdown_table(header, rows)}


STUDY = Study(
    name="rau-tubes",
    question="Are coils of bowel and branching vessels told unsure?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
