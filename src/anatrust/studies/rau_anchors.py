"""Study `rau-anchors`: R²Seg with the organ carried over from labelled references in place of an organ model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from anatrust.image.volumes import LabelMap, Mask
from anatrust.models.annotation import Reference
from anatrust.models.registration import RegistrationSettings
from anatrust.reference.anchors import ReferenceAnchors
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.studies.phantom import phantom_scan
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases
from anatrust.studies.r2seg_cells import NEEDS, Anchoring, nulls_of, outcomes_of, true_anchor
from anatrust.studies.r2seg_judge import JUDGES, tissue_of
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers, row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = (
    *NEEDS,
    "anatrust.studies.rau_anchors",
    "anatrust.reference.anchors",
    "anatrust.reference.registration_reasoner",
    "anatrust.reference.fusion",
    "anatrust.models.registration",
    "anatrust.models.registration_search",
)
_WORLD = "phantom"
_FIRST = 300_000  # phantoms that teach nothing, stand for nobody healthy and are not tested
_FAST = RegistrationSettings(voxels=60_000, demons_steps=15, mirrored=False)
_SHOWN = ("clear lesions", "lesions", "specificity", "slice specificity", "area", "dice", "false a scan")
_ANCHORS = {
    "true organ": 0,
    "1 reference": 1,
    "3 references": 3,
    "full frame": 0,
    "1 reference, and for the null": 1,
}
_TESTED = 24


def _cells(context: Context) -> list[Cell]:
    names = ("true organ", "1 reference") if context.quick else tuple(_ANCHORS)
    return [Cell(name, {"how": name}, needs=_NEEDS) for name in names]


@lru_cache(maxsize=4)
def _provider(count: int) -> ReferenceAnchors:
    made = [phantom_scan(_FIRST + k, lesions=0, quick=True) for k in range(count)]
    references = [Reference(p.scan, p.anatomy, f"phantom {k}") for k, p in enumerate(made)]
    return ReferenceAnchors(references, reasoner=RegistrationReasoner(_FAST))


def _anchoring(how: str, seen: list[dict[str, Any]]) -> Anchoring:
    """The anchor of a case; what was found is noted in ``seen``."""
    organ = WORLDS[_WORLD].organ
    known: dict[str, tuple[R2Case, Mask | None, LabelMap]] = {}

    def anchoring(case: R2Case) -> tuple[R2Case, Mask | None, LabelMap]:
        true = case.anatomy.mask(organ)
        if how == "true organ":
            given: Mask | None = true
        elif how == "full frame":
            given = None
        elif case.patient in known:
            return known[case.patient]
        else:
            (anchor,) = _provider(_ANCHORS[how]).find(case.scan, [organ])
            mask = anchor.mask
            given = None if mask is None or not mask.array.any() else Mask(mask.array, true.grid, organ)
            overlap = 0.0 if given is None else _dice(given, true)
            seen.append({"status": anchor.status, "quality": round(float(anchor.quality or 0), 4), "dice": overlap})
        # Without an anchor: the whole frame, and all of the body counts as normal tissue.
        tissue = given or Mask(case.scan.array > -300, case.scan.grid)
        known[case.patient] = (case, given, tissue_of(case, _WORLD, tissue))
        return known[case.patient]

    return anchoring


def _dice(one: Mask, other: Mask) -> float:
    both = 2 * float((one.array & other.array).sum())
    return round(both / float(one.array.sum() + other.array.sum()), 4)


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    how = cell.parameters["how"]
    model = segmenter("pixels", _WORLD, context)
    judges = {name: JUDGES[name] for name in ("segmenter alone", "gates + cohort")}
    # The null as a profile of another day has it, fitted behind true organs; or fitted behind anchors of the same make.
    cohort = {"gates + cohort": JUDGES["gates + cohort"]}
    behind = _anchoring(how, []) if how.endswith("for the null") else true_anchor(_WORLD)
    nulls = nulls_of(_WORLD, model, "regions", cohort, context, anchoring=behind)
    seen: list[dict[str, Any]] = []
    limit = 2 if context.quick else _TESTED
    found = outcomes_of(_WORLD, model, "regions", judges, nulls, context, anchoring=_anchoring(how, seen), limit=limit)
    result: dict[str, Any] = {name: numbers(o, seed=context.seed) for name, o in found.items()}
    if how not in ("true organ", "full frame"):
        result["anchors"] = seen
    result["tested"] = sum(len(patient) for patient in cases(_WORLD, "test", context, limit=limit))
    return result


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    found = {}
    for key, r in results.items():
        if "anchors" in r:
            status = [a["status"] for a in r["anchors"]]
            found[key] = {
                "dice": round(float(np.mean([a["dice"] for a in r["anchors"]])), 4),
                "least": min(a["dice"] for a in r["anchors"]),
                "status": {name: status.count(name) for name in sorted(set(status))},
            }
    return {"anchors": found}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows, told = [], []
    for key, found in result["cells"].items():
        rows.append([key, *row(found["segmenter alone"], ("false a scan",)), *row(found["gates + cohort"], _SHOWN)])
    for key, found in result["summary"]["anchors"].items():
        status = ", ".join(f"{n} {name}" for name, n in found["status"].items())
        told.append([key, f"{found['dice']:.2f}", f"{found['least']:.2f}", status])
    header = ["anchor", "proposed: false a scan", *(f"kept: {name}" for name in _SHOWN)]
    return {
        "outcomes": markdown_table(header, rows),
        "anchors": markdown_table(["liver from", "mean Dice", "lowest", "said of itself"], told),
    }


STUDY = Study(
    name="rau-anchors",
    question="What does an organ carried over from references cost, where no organ model is at hand?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
