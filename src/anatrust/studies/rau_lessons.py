"""Study `rau-lessons`: what a small model reads from its reference once every patch was taught to look there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from anatrust.reference.pairs import Pair, Sample, draw_pairs
from anatrust.studies.nano_anatomy import Look
from anatrust.studies.nano_lessons import Lesson, matched_patches
from anatrust.studies.nano_probes import asked_together, told_by_patches
from anatrust.studies.nano_training import (
    QUICK,
    SCHOOLED,
    SEEN,
    UNSEEN,
    Change,
    Plan,
    changed,
    patients_asked,
    questions,
    schooled,
)
from anatrust.studies.rau_lessons_summary import make_tables, summarise
from anatrust.studies.rau_nano import NEEDS, place
from anatrust.studies.study import Cell, Context, Study

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["STUDY"]

_NEEDS = ("anatrust.studies.rau_lessons", "anatrust.studies.nano_probes", *NEEDS)
_LOOKS = {"seen": SEEN, "unseen": UNSEEN}
_CHANGES: tuple[Change, ...] = ("none", "blank", "shuffled", "mirrored", "other look")


def _cells(context: Context) -> list[Cell]:
    changes = _CHANGES[:2] if context.quick else _CHANGES
    return [
        Cell("matched", {"stage": "matched"}, (), _NEEDS),
        *(
            Cell(f"patches/{look}/{change}", {"stage": "patches", "look": look, "change": change}, (), _NEEDS)
            for look in _LOOKS
            for change in changes
        ),
        *(Cell(f"together/{look}", {"stage": "together", "look": look}, (), _NEEDS) for look in _LOOKS),
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.vision_language import VisionLanguageModel

    plan = QUICK if context.quick else SCHOOLED
    folder, stage = place(plan), cell.parameters["stage"]
    folder.mkdir(parents=True, exist_ok=True)
    learnt = schooled(folder, plan, context.seed)
    model = VisionLanguageModel.load(learnt)
    if stage == "matched":
        told = json.loads((learnt / "told.json").read_text(encoding="utf-8"))
        figures = {"seconds": round(told["seconds"], 1), "steps": told["steps"]}
        pointed = {look: _pointed(model, looks, plan) for look, looks in _LOOKS.items()}
        return figures | {"matched": _matched(model, plan), "pointed": pointed, "parameters": _size(model)}
    looks = _LOOKS[cell.parameters["look"]]
    if stage == "together":
        return {"regions": asked_together(model, looks, max(2, plan.tested // 4), 17, plan)}
    asked = questions(looks, plan.tested, 7, plan, hidden=1.0, change=cell.parameters["change"])
    return {"answers": told_by_patches(model, asked)}


def _size(model: VisionLanguageModel) -> int:
    return sum(int(p.numel()) for p in model.model.parameters())


def _pointed(model: VisionLanguageModel, looks: tuple[Look, ...], plan: Plan) -> dict[str, float]:
    """Where the answers' words and ``<Seg>`` look, on patients that no training sees."""
    pairs = list(islice(draw_pairs(patients_asked(looks, plan), 8, absent=0.0, hidden=plan.hidden), plan.tested // 2))
    pointed = Lesson(model, pairs, np.random.default_rng(0)).pointed()
    return {name: round(value, 4) for name, value in pointed.items()}


def _matched(model: VisionLanguageModel, plan: Plan) -> dict[str, dict[str, float]]:
    """Share of patches that tell their region's number, by look and what was done to the reference."""
    found: dict[str, dict[str, float]] = {}
    for look, looks in _LOOKS.items():
        pairs = list(islice(draw_pairs(patients_asked(looks, plan), 8, absent=0.0), plan.tested))
        for change in _CHANGES[:-1]:
            share = matched_patches(model, pairs, change=partial(_changed, change=change))
            found.setdefault(look, {})[change] = round(share, 4)
    return found


def _changed(pair: Pair, sample: Sample, *, change: Change) -> Sample:
    return changed(pair, sample, change)


STUDY = Study(
    name="rau-lessons",
    question="Does a small model that was taught where to look read a region's number from its reference?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=make_tables,
)
