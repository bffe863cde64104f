"""Study `rau-nano`: a small model of the paper's kind learns to name regions from a labelled reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatrust.reference.pairs import Pair, Sample, draw_pairs
from anatrust.studies.nano_lessons import matched_patches
from anatrust.studies.nano_probes import asked_together, changed_thoughts
from anatrust.studies.nano_training import (
    PLAN,
    QUICK,
    SEEN,
    UNSEEN,
    Change,
    Plan,
    ask,
    changed,
    continued,
    patients_asked,
    questions,
    rewarded,
    schooled,
    taught,
)
from anatrust.studies.provenance import fingerprint
from anatrust.studies.rau_nano_summary import SEEDS, draw_figures, make_tables, summarise
from anatrust.studies.study import Cell, Context, Study

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["NEEDS", "STUDY", "place"]

NEEDS = (
    "anatrust.studies.nano_anatomy",
    "anatrust.studies.nano_lessons",
    "anatrust.studies.nano_model",
    "anatrust.studies.nano_sight",
    "anatrust.studies.nano_training",
    "anatrust.reference.pairs",
    "anatrust.reference.prompts",
)
"""Modules whose source decides what the small model learns."""

_NEEDS = ("anatrust.studies.rau_nano", "anatrust.studies.nano_probes", *NEEDS)
_LOOKS = {"seen": SEEN, "unseen": UNSEEN}
_KINDS = {
    f"{look}, {legend}": (looks, share)
    for look, looks in _LOOKS.items()
    for legend, share in (("names", 0.0), ("numbers", 1.0))
}
_CONTROLS = ("none", "blank", "shuffled", "mirrored", "other look")


def place(quick: bool) -> Path:
    """Folder of the trained models of this plan."""
    plan = _plan(quick)
    return Path("build/studies/rau-nano") / fingerprint({"plan": repr(plan)})


def _plan(quick: bool) -> Plan:
    return QUICK if quick else PLAN


def _cells(context: Context) -> list[Cell]:
    seeds = SEEDS[:1] if context.quick else SEEDS
    changes = _CONTROLS[:2] if context.quick else _CONTROLS
    return [
        Cell("lessons", {"stage": "lessons"}, (), _NEEDS),
        Cell("sft", {"stage": "sft"}, (), _NEEDS),
        *(Cell(f"probes/{model}", {"stage": "probes", "model": model}, (), _NEEDS) for model in ("sft", "grpo/0")),
        *(Cell(f"control/{change}", {"stage": "control", "change": change}, (), _NEEDS) for change in changes),
        *(
            Cell(f"{stage}/{seed}", {"stage": stage, "seed": seed}, (), _NEEDS)
            for seed in seeds
            for stage in ("grpo", "more")
        ),
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.vision_language import VisionLanguageModel

    plan, folder = _plan(context.quick), place(context.quick)
    folder.mkdir(parents=True, exist_ok=True)
    stage = cell.parameters["stage"]
    if stage == "lessons":
        return _lessons(folder, plan, context.seed)
    start, told = taught(folder, plan, context.seed)
    if stage == "probes":
        if cell.parameters["model"] != "sft":
            start = rewarded(folder, start, plan, 0)[0]
        return _probes(VisionLanguageModel.load(start), plan)
    if stage == "control":
        change = cell.parameters["change"]
        asked = questions(SEEN, plan.tested, 7, plan, hidden=1.0, change=change)
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


def _lessons(folder: Path, plan: Plan, seed: int) -> Mapping[str, Any]:
    """How well patches of unseen patients find their region's number in the reference, and what it cost."""
    from anatrust.models.vision_language import VisionLanguageModel

    model = VisionLanguageModel.load(schooled(folder, plan, seed))
    matched = {}
    for look, looks in _LOOKS.items():
        pairs = islice(draw_pairs(patients_asked(looks, plan), 8, absent=0.0), plan.tested)
        drawn = list(pairs)
        matched[look] = {
            change: round(matched_patches(model, drawn, change=partial(_changed, change=change)), 4)
            for change in ("none", "blank", "shuffled", "mirrored")
        }
    told = json.loads((folder / f"lessons-{seed}" / "told.json").read_text(encoding="utf-8"))
    sight = json.loads((folder / f"start-{seed}" / "sight.json").read_text(encoding="utf-8"))
    return {"matched": matched, "seconds": round(told["seconds"] + sight["seconds"], 1), "steps": told["steps"]}


def _changed(pair: Pair, sample: Sample, *, change: Change) -> Sample:
    return changed(pair, sample, change)


def _probes(model: VisionLanguageModel, plan: Plan) -> Mapping[str, Any]:
    return {
        look: {
            "together": asked_together(model, looks, max(2, plan.tested // 6), 17, plan),
            "thoughts": changed_thoughts(model, questions(looks, plan.tested, 7, plan, hidden=1.0)),
        }
        for look, looks in _LOOKS.items()
    }


STUDY = Study(
    name="rau-nano",
    question="Does a small model of the paper's kind learn to name regions from a labelled reference, and what from?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=make_tables,
    figures=draw_figures,
)
