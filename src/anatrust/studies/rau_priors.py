"""Study `rau-priors`: whether what a bank knows about layouts mends answers, and leaves true oddities alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from anatrust.image.orientation import canonical, restore
from anatrust.image.volumes import LabelMap
from anatrust.metrics import dice
from anatrust.models.annotation import Reference
from anatrust.models.descriptors import LocalDescriptors
from anatrust.reference.layout_prior import LayoutPrior
from anatrust.reference.matching import cells_of, label_shares
from anatrust.studies.nano_anatomy import EVENTS, draw_patient
from anatrust.studies.nano_training import SEEN
from anatrust.studies.rau_patients import ASKED, REFERENCES, SIDE, as_reference, interval, reasoner
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = (
    "anatrust.studies.rau_priors",
    "anatrust.studies.rau_patients",
    "anatrust.studies.nano_anatomy",
    "anatrust.reference.layout_prior",
    "anatrust.reference.matching",
    "anatrust.reference.correspondence_reasoner",
    "anatrust.reference.registration_reasoner",
    "anatrust.models.registration",
)
_WAYS = ("true labels", "two names exchanged", "stray pieces", "registration", "correspondence", "looks alone")
# What happens to the answers of reasoners is asked of usual bodies; of strange ones what the repair does to them.
_ASKED_OF_ODD = ("true labels", "looks alone")
_BANK, _PATIENTS, _SHOWN = 40, 12, 3
_FIRST = 10_000  # earlier patients were looked at while the prices of a change were chosen


def _cells(context: Context) -> list[Cell]:
    return [
        Cell(f"{event}/{patient}", {"event": event, "patient": patient}, (), _NEEDS)
        for event in (EVENTS[:2] if context.quick else EVENTS)
        for patient in range(1 if context.quick else _PATIENTS)
    ]


@lru_cache(maxsize=2)
def _bank(look: str) -> tuple[tuple[Reference, ...], LayoutPrior]:
    bank = tuple(as_reference(draw_patient(REFERENCES + n, look, size=SIDE)) for n in range(_BANK))  # type: ignore[arg-type]
    return bank, LayoutPrior.learn([one.labels for one in bank])


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    number, event = cell.parameters["patient"], cell.parameters["event"]
    look = SEEN[number % len(SEEN)]
    patient = ASKED + _FIRST + 1000 * context.seed + number
    target = as_reference(draw_patient(patient, look, event, size=SIDE))
    bank, prior = _bank(look)
    rng = np.random.default_rng([context.seed, number, 51])
    chosen = [bank[int(k)] for k in rng.permutation(len(bank))[:_SHOWN]]
    found = {}
    for way in _WAYS if event == "none" else _ASKED_OF_ODD:
        answer = _answer(way, target, chosen, rng)
        repaired = prior.repair(answer)
        found[way] = {
            "violations": [repaired.before, repaired.after],
            "dice": [_dice(target.labels, one) for one in (answer, repaired.labels)],
            "changed": round(float((answer.array != repaired.labels.array).sum() / (answer.array > 0).sum()), 4),
            "mirrored": any("mirrored" in told for told in repaired.done),
        }
    return found


def _answer(way: str, target: Reference, references: Sequence[Reference], rng: np.random.Generator) -> LabelMap:
    """What somebody draws in the target: the truth, the truth with an error planted, or a reasoner's answer."""
    if way == "true labels":
        return target.labels
    if way == "looks alone":
        return _looks_alone(target, references)
    if way in ("registration", "correspondence"):
        return reasoner(f"{way}, fixed").annotate(target.scan, references).labels
    array = target.labels.array.copy()
    present = rng.permutation(target.labels.labels())
    if way == "two names exchanged":
        a, b = present[:2]
        array = np.where(target.labels.array == a, b, np.where(target.labels.array == b, a, array))
    else:
        places = np.argwhere(array > 0)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in array.shape), indexing="ij"), axis=-1)
        for label in present[:3]:
            middle = places[int(rng.integers(len(places)))]
            array[((grid - middle) ** 2).sum(axis=-1) <= 9] = label
    return replace(target.labels, array=array.astype(target.labels.array.dtype))


def _looks_alone(target: Reference, references: Sequence[Reference]) -> LabelMap:
    """Every cell takes the label of the reference cells it looks most like, wherever they lie."""
    encoder, numbers = LocalDescriptors(1.5, 1.0, (1.0, 2.0, 4.0)), tuple(references[0].names())
    own = cells_of(target.scan, encoder)
    shares = np.zeros((len(own.features), len(numbers) + 1), np.float32)
    for one in references:
        alike = own.features @ cells_of(one.scan, encoder).features.T
        best = np.argpartition(-alike, 5, axis=1)[:, :5]
        shares += label_shares(one.labels, numbers)[best].mean(axis=1)
    winner = np.array([0, *numbers])[shares.argmax(axis=1)].reshape(own.shape)
    image, _ = canonical(target.scan.array, target.scan.grid)
    places = np.ix_(*((np.arange(n) * c) // n for n, c in zip(image.shape, own.shape, strict=True)))
    drawn = winner[places].astype(target.labels.array.dtype)
    return LabelMap(restore(drawn, target.labels.grid), target.labels.grid, target.labels.names)


def _dice(truth: LabelMap, drawn: LabelMap) -> float:
    return round(float(np.mean([dice(truth.array == n, drawn.array == n) for n in truth.labels()])), 4)


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    events: dict[str, list[Mapping[str, Any]]] = {}
    for key, told in results.items():
        events.setdefault(key.split("/")[0], []).append(told)
    found: dict[str, Any] = {}
    for event, patients in events.items():
        for way in patients[0]:
            mine = [p[way] for p in patients]
            found[f"{event}/{way}"] = {
                "violations": [round(100 * float(np.mean([m["violations"][k] for m in mine])), 1) for k in (0, 1)],
                "dice": [interval([m["dice"][k] for m in mine], context.seed) for k in (0, 1)],
                "gain": interval([m["dice"][1] - m["dice"][0] for m in mine], context.seed),
                "changed": sum(m["changed"] > 0 for m in mine),
                "mirrored": sum(m["mirrored"] for m in mine),
                "n": len(mine),
            }
    oddities = [found[f"{event}/true labels"] for event in events if event not in ("none", "lesion")]
    targets = []
    if oddities:
        touched, asked = sum(o["changed"] for o in oddities), sum(o["n"] for o in oddities)
        targets.append(
            {
                "what": "true labels of strange bodies left as they are, ≥ 0.95",
                "observed": round(1 - touched / asked, 4),
                "met": 1 - touched / asked >= 0.95,
            }
        )
    return {"found": found, "targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    found = result["summary"]["found"]
    events = list(dict.fromkeys(key.split("/")[0] for key in found))
    usual = []
    for way in _WAYS:
        cell = found[f"none/{way}"]
        before, after = cell["violations"]
        gain = cell["gain"]
        around = f" [{gain['interval'][0]:+.3f}, {gain['interval'][1]:+.3f}]" if "interval" in gain else ""
        usual.append([way, before, after, f"{cell['dice'][0]['mean']:.2f}", f"{gain['mean']:+.3f}{around}"])
    header = ["answer", "violations in 100 images", "after repair", "Dice", "Dice gained"]
    odd = []
    for event in events:
        true, alone = found[f"{event}/true labels"], found[f"{event}/looks alone"]
        odd.append(
            [
                {"none": "nothing strange"}.get(event, event),
                f"{true['changed']} of {true['n']}",
                f"{true['mirrored']} of {true['n']}",
                f"{alone['violations'][0]:g} → {alone['violations'][1]:g}",
                f"{alone['gain']['mean']:+.3f}",
            ]
        )
    titles = ["body", "true labels changed", "mirrored remarked", "looks alone: violations in 100", "Dice gained"]
    targets = [[t["what"], f"{t['observed']:.2f}", "yes" if t["met"] else "no"] for t in result["summary"]["targets"]]
    return {
        "repair": markdown_table(header, usual),
        "oddities": markdown_table(titles, odd),
        "targets": markdown_table(["target", "observed", "met"], targets),
    }


STUDY = Study(
    name="rau-priors",
    question="Does what a bank knows about the layout mend answers, and does it leave true oddities alone?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
