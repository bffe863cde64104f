"""Study `rau-nano`: a small model of the paper's kind learns to name regions from a labelled reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anatrust.studies.nano_traces import changed_thoughts
from anatrust.studies.nano_training import (
    QUICK,
    SCHOOLED,
    SEEN,
    UNSEEN,
    Plan,
    ask,
    continued,
    questions,
    rewarded,
    taught,
)
from anatrust.studies.provenance import fingerprint
from anatrust.studies.rau_nano_summary import SEEDS, draw_figures, make_tables, summarise
from anatrust.studies.study import Cell, Context, Study

__all__ = ["NEEDS", "STUDY", "place"]

NEEDS = (
    "anatrust.studies.nano_anatomy",
    "anatrust.studies.nano_attention",
    "anatrust.studies.nano_lessons",
    "anatrust.studies.nano_model",
    "anatrust.studies.nano_sight",
    "anatrust.studies.nano_training",
    "anatrust.reference.pairs",
    "anatrust.reference.prompts",
)
"""Modules whose source decides what the small model learns."""

_NEEDS = ("anatrust.studies.rau_nano", *NEEDS)
_TRACES = ("anatrust.studies.nano_traces", "anatrust.reference.traces", *_NEEDS)
_LOOKS = {"seen": SEEN, "unseen": UNSEEN}
_KINDS = {
    f"{look}, {legend}": (looks, share)
    for look, looks in _LOOKS.items()
    for legend, share in (("names", 0.0), ("numbers", 1.0))
}
_CONTROLS = ("none", "blank", "shuffled", "mirrored", "other look")


def place(plan: Plan) -> Path:
    """Folder of the trained models of this plan."""
    return Path("build/studies/rau-nano") / fingerprint({"plan": repr(plan)})


def _plan(quick: bool) -> Plan:
    return QUICK if quick else SCHOOLED


def _cells(context: Context) -> list[Cell]:
    seeds = SEEDS[:1] if context.quick else SEEDS
    changes = _CONTROLS[:2] if context.quick else _CONTROLS
    return [
        Cell("sft", {"stage": "sft"}, (), _NEEDS),
        *(
            Cell(f"control/{look}/{change}", {"stage": "control", "look": look, "change": change}, (), _NEEDS)
            for look in _LOOKS
            for change in changes
        ),
        *(
            Cell(f"thoughts/{model}/{look}", {"stage": "thoughts", "model": model, "look": look}, (), _TRACES)
            for model in ("sft", "grpo")
            for look in _LOOKS
        ),
        *(
            Cell(f"{stage}/{seed}", {"stage": stage, "seed": seed}, (), _NEEDS)
            for seed in seeds
            for stage in ("grpo", "more")
        ),
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.vision_language import VisionLanguageModel

    plan, folder = _plan(context.quick), place(_plan(context.quick))
    folder.mkdir(parents=True, exist_ok=True)
    start, told = taught(folder, plan, context.seed)
    stage = cell.parameters["stage"]
    if stage == "thoughts":
        if cell.parameters["model"] == "grpo":
            start = rewarded(folder, start, plan, SEEDS[0])[0]
        asked = questions(_LOOKS[cell.parameters["look"]], plan.tested, 7, plan, hidden=1.0)
        return changed_thoughts(VisionLanguageModel.load(start), asked)
    if stage == "control":
        change = cell.parameters["change"]
        asked = questions(_LOOKS[cell.parameters["look"]], plan.tested, 7, plan, hidden=1.0, change=change)
        return {"answers": ask(VisionLanguageModel.load(start), asked)}
    if stage == "grpo":
        start, told = rewarded(folder, start, plan, cell.parameters["seed"])
    elif stage == "more":
        seconds = rewarded(folder, start, plan, cell.parameters["seed"])[1]["seconds"]
        each = told["seconds"] / told["steps"]
        start, told = continued(folder, start, plan, cell.parameters["seed"], seconds, each)
    model = VisionLanguageModel.load(start)
    answers = {
        name: ask(model, questions(looks, plan.tested, 7, plan, hidden=share))
        for name, (looks, share) in _KINDS.items()
    }
    parameters = sum(int(p.numel()) for p in model.model.parameters())
    figures = {k: told[k] for k in ("seconds", "steps")} | {"parameters": parameters}
    if "rewards" in told:
        figures["rewards"] = [round(float(r), 3) for r in told["rewards"]]
    return {"answers": answers, "told": figures, "curve": told.get("curve", [])}


STUDY = Study(
    name="rau-nano",
    question="Does a small model of the paper's kind learn to name regions from a labelled reference, and what from?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=make_tables,
    figures=draw_figures,
)
