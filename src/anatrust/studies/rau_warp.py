"""Study `rau-warp`: patients seen otherwise, with the reference as it is and in the view that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from anatrust.reference.pairs import LabelledPicture, Pair, draw_pairs
from anatrust.studies.nano_anatomy import bent, cohort
from anatrust.studies.nano_training import PLAN, QUICK, SEEN, TESTED, Asked, ask, taught
from anatrust.studies.rau_nano import NEEDS, place
from anatrust.studies.rau_nano_summary import accuracy_by_patient
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "best_view"]

_NEEDS = ("anatrust.studies.rau_warp", *NEEDS)
_CHANGES: dict[str, tuple[float, ...]] = {
    "turn": (0.0, 15.0, 30.0, 45.0, 60.0),
    "scale": (0.5, 0.7, 1.4, 2.0),
    "bend": (0.05, 0.1, 0.2),
}
_TURNS = tuple(range(-60, 61, 15))
_SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)
_QUESTIONS = 80


def best_view(reference: LabelledPicture, target: LabelledPicture) -> LabelledPicture:
    """The reference turned and enlarged as it looks most like the target, by the correlation of grey values.

    Forty-five views are compared at half the resolution; labels are not looked at.

    Parameters
    ----------
    reference, target
        Of one size.
    """
    goal = target.image[::2, ::2]
    small = LabelledPicture(reference.image[::2, ::2], reference.labels[::2, ::2], reference.names, reference.patient)

    def likeness(view: tuple[int, float]) -> float:
        seen = bent(small, turn=view[0], scale=view[1]).image
        return float(np.corrcoef(seen.ravel(), goal.ravel())[0, 1]) if seen.std() > 0 else -1.0

    turn, scale = max(((t, s) for t in _TURNS for s in _SCALES), key=likeness)
    return bent(reference, turn=turn, scale=scale)


def _cells(context: Context) -> list[Cell]:
    wanted = [(how, value) for how, values in _CHANGES.items() for value in values]
    return [
        Cell(f"{how}/{value}", {"how": how, "value": value}, (), _NEEDS)
        for how, value in (wanted[:2] if context.quick else wanted)
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.vision_language import VisionLanguageModel

    plan, folder = QUICK if context.quick else PLAN, place(context.quick)
    folder.mkdir(parents=True, exist_ok=True)
    model = VisionLanguageModel.load(taught(folder, plan, context.seed)[0])
    how, value = cell.parameters["how"], cell.parameters["value"]
    pictures = cohort(range(TESTED, TESTED + max(8, plan.patients // 5)), SEEN, size=plan.size.side)
    found: dict[str, list[Asked]] = {"fixed": [], "chosen": []}
    rng = np.random.default_rng([context.seed, 31])
    for number, pair in enumerate(islice(draw_pairs(pictures, 11, hidden=1.0, absent=0.0), 2 * _QUESTIONS)):
        if len(found["fixed"]) == (4 if context.quick else _QUESTIONS):
            break
        target = bent(pair.target, seed=number, **{how: value})
        if not target.present:
            continue
        turned = Pair(pair.reference, target, pair.legend, pair.labels)
        sample = turned.sample("name", rng)
        if sample.number is None:
            continue
        organ = target.names[pair.labels[sample.number]]
        chosen = Pair(best_view(pair.reference, target), target, pair.legend, pair.labels)
        # The pictures of the reference alone differ between the two ways.
        other = chosen.sample("segment", rng)
        pictured = replace(sample, pictures=(*other.pictures[:2], sample.pictures[2]))
        found["fixed"].append(Asked(sample, target.patient, organ, sample.number))
        found["chosen"].append(Asked(pictured, target.patient, organ, sample.number))
    return {way: ask(model, asked) for way, asked in found.items()}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    return accuracy_by_patient(results, context.seed)


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, r in sorted(result["summary"]["accuracy"].items(), key=lambda kv: (kv[0][0] != "t", kv[0])):
        how, value = key.split("/")
        shown = {"turn": f"turned by {float(value):.0f}°", "scale": f"scaled by {value}", "bend": f"bent by {value}"}[
            how
        ]
        cells = []
        for way in ("fixed", "chosen"):
            around = f" [{r[way]['interval'][0]:.2f}, {r[way]['interval'][1]:.2f}]" if "interval" in r[way] else ""
            cells.append(f"{r[way]['rate']:.2f}{around}")
        rows.append([shown, r["fixed"]["n"], *cells])
    return {"accuracy": markdown_table(["target", "n", "reference as it is", "in the view that fits"], rows)}


STUDY = Study(
    name="rau-warp",
    question="How far may a patient be turned, scaled and bent, and does a reference in the fitting view help?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
