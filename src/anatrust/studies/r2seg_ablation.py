"""Study `r2seg-ablation`: what each step of R²Seg buys, and what the published null costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anatrust.studies.r2seg_cases import WORLDS
from anatrust.studies.r2seg_cells import NEEDS, evaluate
from anatrust.studies.r2seg_numbers import row
from anatrust.studies.r2seg_targets import target, value
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["AXIS_JUDGES", "JUDGES_OF_ABLATION", "STUDY"]

_LEVELS = {"gates + cohort": 0.10, "gates + cohort, level 0.05": 0.05}
JUDGES_OF_ABLATION = (
    "segmenter alone",
    "gates alone",
    *_LEVELS,
    "gates + cohort, trimmed",
    "cohort, no gates",
    "iid, as published",
)
"""The ways to judge of the main cells."""
_MAIN = (
    ("phantom", "pixels", "regions"),
    ("phantom", "pixels, several scales", "regions"),
    ("hippocampus", "pixels", "regions"),
    ("hippocampus", "pixels", "full frame"),
    ("hippocampus", "unet", "regions"),
    ("cardiac", "pixels", "regions"),
)
_AXES = ("full frame", "mean fusion", "1 view", "with full frame", "Γ = 0.5, 1, 2")
AXIS_JUDGES = ("segmenter alone", "gates + cohort")
"""The ways to judge along the axes of proposing."""
_SHOWN = (
    "clear lesions",
    "lesions",
    "specificity",
    "slice sensitivity",
    "slice specificity",
    "area",
    "dice",
    "false a scan",
    "f1 small",
)


def _cells(context: Context) -> list[Cell]:
    wanted: list[tuple[str, str, str, tuple[str, ...]]] = [(w, n, v, JUDGES_OF_ABLATION) for w, n, v in _MAIN]
    wanted += [("hippocampus", "unet", v, AXIS_JUDGES) for v in _AXES]
    surrogate: tuple[str, ...] = ("gates + cohort", "gates + surrogate")
    wanted += [("hippocampus", "pixels", "regions", surrogate)]
    if context.quick:
        wanted = [("hippocampus", "pixels", "regions", ("segmenter alone", "gates + cohort", "iid, as published"))]
    return [
        Cell(
            f"{world}/{name}/{variant}" + ("/surrogate" if judges == surrogate else ""),
            {"world": world, "segmenter": name, "variant": variant, "judges": list(judges)},
            files=source_files(world, context),
            needs=NEEDS,
        )
        for world, name, variant, judges in wanted
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    limit = 24 if cell.key.endswith("surrogate") else None
    found = evaluate(p["world"], p["segmenter"], p["variant"], tuple(p["judges"]), context, limit=limit)
    return dict(found["judges"])


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Reach: specificity and sensitivity for clear lesions, the level in healthy patients, better than iid in both."""
    targets = []
    for key, name in ((key, name) for key in results for name in _LEVELS):
        judges, level = results[key], _LEVELS[name]
        ours, theirs = judges.get(name), judges.get("iid, as published")
        if ours is None or ours["healthy"] == 0:
            continue
        entry = target(key if level == _LEVELS["gates + cohort"] else f"{key}, level {level:.2f}", ours, level)
        if theirs is not None:
            entry["iid_specificity"], entry["iid_clear"] = (
                value(theirs, "specificity"),
                value(theirs, "clear lesions"),
            )
            pairs = [(entry[name], entry[f"iid_{name}"]) for name in ("specificity", "clear")]
            entry["better_in_both"] = bool(all(a is not None and b is not None and a >= b for a, b in pairs))
        targets.append(entry)
    return {"targets": targets}


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "–"}[value]


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    made: dict[str, str] = {}
    axes: list[list[str]] = []
    main: list[list[str]] = []
    for key, judges in result["cells"].items():
        for name, numbers in judges.items():
            line = [f"{key.replace('/', ', ')}: {name}", *row(numbers, _SHOWN)]
            axis = key.split("/")[2]
            (axes if key.startswith("hippocampus/unet/") and axis in _AXES else main).append(line)
    header = ["patients, segmenter, proposal: judged by", *_SHOWN]
    made["judges"] = markdown_table(header, main)
    if axes:
        made["axes"] = markdown_table(header, axes)
    rows = [
        [
            t["what"].replace("/", ", "),
            *("–" if t[k] is None else f"{t[k]:.2f}" for k in ("specificity", "clear")),
            _yes(t["reached"]),
            "–" if t["any_kept"] is None else f"{t['any_kept']:.2f} ≤ {t['limit']:.2f}",
            _yes(t["level_met"]),
            "–" if t.get("iid_specificity") is None else f"{t['iid_specificity']:.2f}",
            "–" if t.get("iid_clear") is None else f"{t['iid_clear']:.2f}",
            _yes(t.get("better_in_both")),
        ]
        for t in result["summary"]["targets"]
    ]
    header = [
        "cell",
        "specificity",
        "clear lesions",
        "both ≥ 0.9",
        "any kept, healthy",
        "level kept",
        "iid: specificity",
        "iid: clear lesions",
        "better in both",
    ]
    made["targets"] = markdown_table(header, rows)
    made["funnel"] = _funnel(result["cells"])
    return made


def _funnel(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Clear lesions at every step, and what so many healthy patients allow the test to say."""
    steps = {"proposed": "segmenter alone", "past the gates": "gates alone"}
    steps |= {f"kept, level {level:.2f}": name for name, level in _LEVELS.items()}
    rows = []
    for key, judges in cells.items():
        if not set(steps.values()) <= set(judges):
            continue
        healthy = WORLDS[key.split("/")[0]].healthy
        planted = judges["segmenter alone"]["clear count"]
        line = [key.replace("/", ", "), str(healthy), f"{1 / (healthy + 1):.3f}", str(planted)]
        for name in steps.values():
            share = value(judges[name], "clear lesions")
            found = "–" if share is None else str(round(share * planted))
            # No candidate can be kept where the smallest p-value is above the level.
            line.append("undecidable" if 1 / (healthy + 1) > _LEVELS.get(name, 1.0) * (1 + 1e-12) else found)
        rows.append(line)
    return markdown_table(["cell", "healthy in the null", "smallest p", "clear lesions", *steps], rows)


STUDY = Study(
    name="r2seg-ablation",
    question="What does each step of R²Seg buy, and how do the cohort, surrogate and published nulls compare?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
