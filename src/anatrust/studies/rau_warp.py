"""Study `rau-warp`: patients seen otherwise, with fixed references and with a memory that adapts to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.nano_anatomy import bent, draw_patient
from anatrust.studies.nano_training import SEEN
from anatrust.studies.rau_patients import ASKED, REFERENCES, SIDE, as_reference, interval, judged, reasoner
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = (
    "anatrust.studies.rau_warp",
    "anatrust.studies.rau_patients",
    "anatrust.studies.nano_anatomy",
    "anatrust.reference.adaptive_memory",
    "anatrust.reference.correspondence_reasoner",
    "anatrust.reference.registration_reasoner",
    "anatrust.models.registration",
    "anatrust.models.registration_search",
)
_LADDER: Mapping[str, tuple[float, ...]] = {
    "turn": (15.0, 30.0, 45.0, 60.0),
    "scale": (0.5, 0.7, 1.4, 2.0),
    "bend": (0.02, 0.05, 0.1),
}
_WAYS = ("registration, fixed", "registration, searched", "correspondence, fixed", "correspondence, adaptive")
# A second round with the target's own answer costs as much again: asked on some rungs.
_AGAIN, _ASKED_AGAIN = "correspondence, again", ("none/0", "turn/30", "bend/0.05")
_GAINS = {
    "registration, searched": "registration, fixed",
    "correspondence, adaptive": "correspondence, fixed",
    _AGAIN: "correspondence, fixed",
}
_PATIENTS = 4


def _cells(context: Context) -> list[Cell]:
    ladder = [("none", 0.0), *((how, value) for how, values in _LADDER.items() for value in values)]
    return [
        Cell(f"{how}/{value:g}/{patient}", {"how": how, "value": value, "patient": patient}, (), _NEEDS)
        for how, value in (ladder[1:3] if context.quick else ladder)
        for patient in range(1 if context.quick else _PATIENTS)
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    number, how = cell.parameters["patient"], cell.parameters["how"]
    look = SEEN[number % len(SEEN)]
    first = 1000 * context.seed + number
    reference = as_reference(draw_patient(REFERENCES + first, look, size=SIDE))
    picture = draw_patient(ASKED + first, look, size=SIDE)
    if how != "none":
        picture = bent(picture, seed=number, **{how: cell.parameters["value"]})
    target = as_reference(picture)
    ways = _WAYS[2:] if context.quick else _WAYS
    if cell.key.rpartition("/")[0] in _ASKED_AGAIN and not context.quick:
        ways = (*ways, _AGAIN)
    return {way: judged(target.labels, reasoner(way).annotate(target.scan, [reference])) for way in ways}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    rungs: dict[str, list[Mapping[str, Any]]] = {}
    for key, told in results.items():
        rungs.setdefault(key.rpartition("/")[0], []).append(told)
    found: dict[str, Any] = {}
    for rung, patients in rungs.items():
        found[rung] = {
            way: {what: interval([p[way][what] for p in patients], context.seed) for what in ("dice", "named")}
            for way in patients[0]
        }
        for way, rival in _GAINS.items():
            if way in patients[0] and rival in patients[0]:
                found[rung][way]["gain"] = interval([p[way]["dice"] - p[rival]["dice"] for p in patients], context.seed)
    return {"rungs": found}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rungs = result["summary"]["rungs"]
    ways = [way for way in _WAYS if way in next(iter(rungs.values()))]
    dice = [[_seen(rung), *(f"{r[way]['dice']['mean']:.2f}" for way in ways)] for rung, r in rungs.items()]
    named = [[_seen(rung), *(f"{r[way]['named']['mean']:.2f}" for way in ways)] for rung, r in rungs.items()]
    asked = [way for way in _GAINS if any(way in r for r in rungs.values())]
    gains = [[_seen(rung), *(_gain(r.get(way, {}).get("gain")) for way in asked)] for rung, r in rungs.items()]
    return {
        "dice": markdown_table(["the patient seen", *ways], dice),
        "named": markdown_table(["the patient seen", *ways], named),
        "gains": markdown_table(["the patient seen", *(f"{way} − fixed" for way in asked)], gains),
    }


def _seen(rung: str) -> str:
    how, value = rung.split("/")
    words = {"none": "as it is", "turn": f"turned by {value}°", "scale": f"{value} times as large"}
    return words.get(how) or f"bent by {100 * float(value):g} %"


def _gain(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    around = f" [{cell['interval'][0]:+.2f}, {cell['interval'][1]:+.2f}]" if "interval" in cell else ""
    return f"{cell['mean']:+.2f}{around}"


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    rungs = result["summary"]["rungs"]
    panels = []
    for how, title, neutral in (
        ("turn", "turned, degrees", 0.0),
        ("scale", "times as large", 1.0),
        ("bend", "bent", 0.0),
    ):
        points = sorted((float(r.split("/")[1]), r) for r in rungs if r.startswith(how))
        if "none/0" in rungs:
            points = sorted([*points, (neutral, "none/0")])
        ways = [way for way in _WAYS if way in next(iter(rungs.values()))]
        lines = {w: {"x": [x for x, _ in points], "y": [rungs[r][w]["dice"]["mean"] for _, r in points]} for w in ways}
        panels.append({"title": title, "lines": lines})
    return {"dice": {"panels": panels, "xlabel": "change of view", "ylabel": "mean Dice", "shared": False}}


STUDY = Study(
    name="rau-warp",
    question="How far may a patient be turned, scaled and bent, and does a memory that adapts to it help?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
