"""Study `rau-bank`: how many references an answer needs, and which ones: random, nearest, diverse, best or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from anatrust.image.volumes import LabelMap
from anatrust.models.annotation import Reference
from anatrust.models.registration import RegistrationSettings
from anatrust.reference.bank import ReferenceBank
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.studies.nano_anatomy import cohort
from anatrust.studies.nano_training import SEEN
from anatrust.studies.rau_patients import ASKED, REFERENCES, SIDE, as_reference, interval, judged
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = (
    "anatrust.studies.rau_bank",
    "anatrust.studies.rau_patients",
    "anatrust.studies.nano_anatomy",
    "anatrust.reference.bank",
    "anatrust.reference.registration_reasoner",
    "anatrust.models.registration",
    "anatrust.models.registration_search",
)
_FIRST = 20_000
_SIZES = (1, 2, 5, 10)
_BANK, _PATIENTS = 30, 16
_DIVERSE = 0.5
_CHOICES = {
    **{f"random {size}": f"{size}, random" for size in _SIZES},
    "nearest 1": "the nearest of {bank}",
    "nearest 5": "the 5 nearest of {bank}",
    "diverse 5": "5 of {bank}, near and unlike each other",
    "oracle 1": "the best of {bank} by its own answer (oracle)",
    "oracle 5": "the 5 best of {bank} by their own answers (oracle)",
    "worst 5": "the 5 worst of {bank} by their own answers",
    "mirrored 5": "5, random, left for right (wrong)",
}


def _cells(context: Context) -> list[Cell]:
    count = 1 if context.quick else _PATIENTS
    return [Cell(f"patient/{number}", {"patient": number}, (), _NEEDS) for number in range(count)]


@lru_cache(maxsize=2)
def _bank(look: int, size: int) -> tuple[Reference, ...]:
    seeds = range(REFERENCES + _FIRST, REFERENCES + _FIRST + size)
    return tuple(as_reference(one) for one in cohort(seeds, (SEEN[look],), size=SIDE))


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    number = cell.parameters["patient"]
    look = number % len(SEEN)
    seed = ASKED + _FIRST + 1000 * context.seed + number
    target = as_reference(cohort(range(seed, seed + 1), (SEEN[look],), size=SIDE)[0])
    references = _bank(look, 6 if context.quick else _BANK)
    names = {n: name for r in references for n, name in r.names().items()}
    reasoner = RegistrationReasoner(RegistrationSettings(turned=False, mirrored=False), least_similarity=-1.0)
    votes = [reasoner.votes(target.scan, [one])[0][0] for one in references]
    rng = np.random.default_rng([context.seed, number, 41])
    drawn = [int(k) for k in rng.permutation(len(references))]
    alone = [judged(target.labels, reasoner.decide(target.scan, names, [v]))["dice"] for v in votes]
    ranked = sorted(range(len(votes)), key=lambda k: -alone[k])
    bank = replace(ReferenceBank.build(references), threshold=-1.0)
    chosen = {f"random {size}": drawn[:size] for size in _SIZES}
    for k in (1, 5):
        chosen[f"nearest {k}"] = [c.entry for c in bank.retrieve(target.scan, k).chosen]
        chosen[f"oracle {k}"] = ranked[:k]
    chosen["diverse 5"] = [c.entry for c in bank.retrieve(target.scan, 5, diverse=_DIVERSE).chosen]
    chosen["worst 5"] = ranked[-5:]
    found = {
        what: judged(target.labels, reasoner.decide(target.scan, names, [votes[k] for k in some]))
        for what, some in chosen.items()
    }
    wrong = [_mirrored(references[k]) for k in drawn[:5]]
    found["mirrored 5"] = judged(target.labels, reasoner.annotate(target.scan, wrong))
    return found


def _mirrored(one: Reference) -> Reference:
    scan = replace(one.scan, array=np.ascontiguousarray(one.scan.array[::-1]))
    labels = LabelMap(np.ascontiguousarray(one.labels.array[::-1]), one.labels.grid, one.labels.names)
    return replace(one, scan=scan, labels=labels)


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    patients = list(results.values())
    found = {
        what: {key: interval([p[what][key] for p in patients], context.seed) for key in ("dice", "named")}
        for what in _CHOICES
    }
    gains = {
        f"{one} − {other}": interval([p[one]["dice"] - p[other]["dice"] for p in patients], context.seed)
        for one, other in (("nearest 5", "random 5"), ("diverse 5", "nearest 5"), ("oracle 5", "nearest 5"))
    }
    return {"found": found, "gains": gains, "bank": 6 if context.quick else _BANK}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    s = result["summary"]
    rows = [
        [word.format(bank=s["bank"]), *(_shown(s["found"][what][key]) for key in ("dice", "named"))]
        for what, word in _CHOICES.items()
    ]
    gains = [[what, _shown(cell, "+")] for what, cell in s["gains"].items()]
    return {
        "choices": markdown_table(["references", "mean Dice", "organs named rightly"], rows),
        "gains": markdown_table(["choice", "difference of Dice"], gains),
    }


def _shown(cell: Mapping[str, Any], sign: str = "") -> str:
    around = ""
    if "interval" in cell:
        around = f" [{cell['interval'][0]:{sign}.2f}, {cell['interval'][1]:{sign}.2f}]"
    return f"{cell['mean']:{sign}.2f}{around}"


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found = result["summary"]["found"]
    lines: dict[str, Any] = {"random": {"x": list(_SIZES), "y": [found[f"random {n}"]["dice"]["mean"] for n in _SIZES]}}
    for what in ("nearest", "oracle"):
        lines[what] = {"x": [1, 5], "y": [found[f"{what} {k}"]["dice"]["mean"] for k in (1, 5)]}
    panel = {"title": "made-up patients, registration", "lines": lines}
    return {"dice": {"panels": [panel], "xlabel": "references", "ylabel": "mean Dice"}}


STUDY = Study(
    name="rau-bank",
    question="How many references does an answer need, and does it matter which?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
