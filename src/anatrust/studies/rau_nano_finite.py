"""Study `rau-nano-finite`: GRPO and continued supervised training where training patients are few and come again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    schooled,
    taught,
)
from anatrust.studies.rau_nano import NEEDS, place
from anatrust.studies.rau_nano_summary import make_tables, summarise
from anatrust.studies.study import Cell, Context, Study

__all__ = ["STUDY"]

_NEEDS = ("anatrust.studies.rau_nano_finite", *NEEDS)
# As many steps as with 600 patients, of a sixth of the questions.
_FEW, _SAMPLES, _EPOCHS = 40, 1600, 6
_KINDS = {
    f"{look}, {legend}": (looks, share)
    for look, looks in (("seen", SEEN), ("unseen", UNSEEN))
    for legend, share in (("names", 0.0), ("numbers", 1.0))
}


def _plans(context: Context) -> tuple[Plan, Plan]:
    """With all patients, for lessons and questions of the test; with few."""
    if context.quick:
        return QUICK, replace(QUICK, patients=6, samples=8, epochs=2)
    return SCHOOLED, replace(SCHOOLED, patients=_FEW, samples=_SAMPLES, epochs=_EPOCHS)


def _cells(_context: Context) -> list[Cell]:
    return [Cell(key, {"stage": key.split("/")[0], "seed": 0}, (), _NEEDS) for key in ("sft", "grpo/0", "more/0")]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.vision_language import VisionLanguageModel

    whole, few = _plans(context)
    folder = _taught_to_look(whole, few, context.seed)
    start, told = taught(folder, few, context.seed)
    stage, seed = cell.parameters["stage"], cell.parameters["seed"]
    if stage == "grpo":
        start, told = rewarded(folder, start, few, seed)
    elif stage == "more":
        seconds = rewarded(folder, start, few, seed)[1]["seconds"]
        start, told = continued(folder, start, few, seed, seconds, told["seconds"] / told["steps"])
    model = VisionLanguageModel.load(start)
    answers = {
        name: ask(model, questions(looks, whole.tested, 7, whole, hidden=share))
        for name, (looks, share) in _KINDS.items()
    }
    figures = {k: told[k] for k in ("seconds", "steps")}
    if "rewards" in told:
        figures["rewards"] = [round(float(r), 3) for r in told["rewards"]]
    return {"answers": answers, "told": figures, "curve": told.get("curve", [])}


def _taught_to_look(whole: Plan, few: Plan, seed: int) -> Path:
    """Folder of the plan with few patients; its lessons are those with all, so that questions alone are few."""
    folder = place(few)
    lessons = schooled(place(whole), whole, seed)
    for name in (f"start-{seed}", lessons.name):
        if not (folder / name).is_dir():
            fresh = folder / f"{name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(lessons.parent / name, fresh)
            fresh.rename(folder / name)
    return folder


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    made = make_tables(result)
    return {name: made[name] for name in ("stages", "contrasts", "targets")}


STUDY = Study(
    name="rau-nano-finite",
    question="Does GRPO gain on supervised training that goes on where training patients are few and come again?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=_tables,
)
