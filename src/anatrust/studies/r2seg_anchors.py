"""Study `r2seg-anchors`: what wrong anchors and spoilt images cost, from the true organ to the full frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.planner_rules import RulesPlanner
from anatrust.pipeline.propose import plain_proposal
from anatrust.statistics.conformal_p import CohortNull
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases
from anatrust.studies.r2seg_cells import NEEDS, Anchoring, nulls_of, outcomes_of, true_anchor
from anatrust.studies.r2seg_judge import JUDGES, proposal, tissue_of
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers, row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "wrong_anchor"]

Bools = npt.NDArray[np.bool_]

_WORLD = "phantom"
_SEGMENTER = "pixels, several scales"
_SHOWN = ("clear lesions", "lesions", "specificity", "slice specificity", "area", "dice", "false a scan")
_ANCHORS = (
    "true organ",
    "half of it",
    "shifted 20 mm",
    "shifted 40 mm",
    "dilated 20 mm",
    "eroded 8 mm",
    "spleen instead",
    "full frame",
)
_SPOILT = ("streaks", "motion", "truncated")


def _shifted(mask: Bools, voxels: int) -> Bools:
    """Moved to the patient's left, what leaves the frame is lost."""
    out = np.zeros_like(mask)
    out[: mask.shape[0] - voxels] = mask[voxels:]
    return out


def wrong_anchor(mask: Bools, how: str, case: R2Case) -> Bools:
    """The organ mask with one thing wrong with it."""
    spacing = case.scan.grid.spacing
    steps = float(spacing[0])
    if how == "half of it":
        centre = np.argwhere(mask)[:, 2].mean()
        out = mask.copy()
        out[:, :, int(centre) :] = False
        return out
    if how.startswith("shifted"):
        return _shifted(mask, round(float(how.split()[1]) / steps))
    if how.startswith("dilated"):
        return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing) <= float(how.split()[1]))
    if how.startswith("eroded"):
        return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing) > float(how.split()[1]))
    if how == "spleen instead":
        return case.anatomy.mask("spleen").array
    return mask


def _spoil(scan: Scan, how: str, seed: int) -> Scan:
    """The image with streaks of metal, motion along the body, or the lowest fifth missing."""
    rng = np.random.default_rng([seed, 31])
    image = scan.array.astype(np.float32)
    if how == "streaks":
        x, y = np.meshgrid(*[np.arange(n) for n in image.shape[:2]], indexing="ij")
        metal = rng.uniform(0.4, 0.6, 2) * image.shape[:2]
        angle = np.arctan2(y - metal[1], x - metal[0])
        fan = np.cos(rng.integers(8, 14) * angle + rng.uniform(0, 6)) ** 15
        planes = rng.choice(image.shape[2], image.shape[2] // 3, replace=False)
        image[:, :, planes] += 60 * fan[..., None].astype(np.float32)
    if how == "motion":
        # Two breathing positions, half of the dose in each.
        image = 0.5 * image + 0.5 * np.roll(image, 2, axis=2)
    if how == "truncated":
        image[:, :, : image.shape[2] // 5] = -1024
    return replace(scan, array=np.rint(image).astype(np.int16))


def _anchoring(how: str, seed: int) -> Anchoring:
    def anchoring(case: R2Case) -> tuple[R2Case, Mask | None, LabelMap]:
        if how in _SPOILT:
            spoilt = replace(case, scan=_spoil(case.scan, how, seed))
            return spoilt, spoilt.anatomy.mask(WORLDS[_WORLD].organ), tissue_of(spoilt, _WORLD)
        if how == "full frame":
            # R²Seg's fallback: B_0 is the frame, and all of the body counts as normal tissue.
            body = Mask(case.scan.array > -300, case.scan.grid)
            return case, None, tissue_of(case, _WORLD, body)
        true = case.anatomy.mask(WORLDS[_WORLD].organ)
        given = Mask(wrong_anchor(true.array, how, case), true.grid, "liver")
        return case, given, tissue_of(case, _WORLD, given)

    return anchoring


def _cells(context: Context) -> list[Cell]:
    names = ("true organ", "shifted 40 mm") if context.quick else (*_ANCHORS, *_SPOILT)
    return [Cell(name, {"how": name}, needs=(*NEEDS, "anatrust.studies.r2seg_anchors")) for name in names]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    how = cell.parameters["how"]
    model = segmenter(_SEGMENTER, _WORLD, context)
    judges = {name: JUDGES[name] for name in ("segmenter alone", "gates + cohort")}
    nulls = _profile(context)
    limit = 4 if context.quick else 24
    anchoring = _anchoring(how, context.seed)
    found = outcomes_of(_WORLD, model, "regions", judges, nulls, context, anchoring=anchoring, limit=limit)
    result: dict[str, Any] = {name: numbers(o, seed=context.seed) for name, o in found.items()}
    result["anchor dice"] = _anchor_dice(anchoring, context, limit)
    if how == "full frame":
        result["equals baseline"] = _equals_baseline(context)
    return result


@lru_cache(maxsize=2)
def _profile(context: Context) -> dict[str, CohortNull]:
    """The null as a profile has it: fitted once, behind true organs."""
    judges = {"gates + cohort": JUDGES["gates + cohort"]}
    model = segmenter(_SEGMENTER, _WORLD, context)
    return nulls_of(_WORLD, model, "regions", judges, context, anchoring=true_anchor(_WORLD))


def _anchor_dice(anchoring: Anchoring, context: Context, limit: int) -> float:
    values = []
    for patient in cases(_WORLD, "test", context, limit=limit):
        for case in patient:
            _, given, _ = anchoring(case)
            true = case.anatomy.mask(WORLDS[_WORLD].organ).array
            mask = np.ones_like(true) if given is None else given.array
            values.append(2 * (mask & true).sum() / (mask.sum() + true.sum()))
    return round(float(np.mean(values)), 4)


def _equals_baseline(context: Context) -> bool:
    """Whether the full frame as anchor proposes, voxel by voxel, what the plain segmenter does."""
    model = segmenter(_SEGMENTER, _WORLD, context)
    plan = RulesPlanner().plan(WORLDS[_WORLD].target, "unknown")
    same: Callable[[R2Case], bool] = lambda case: bool(  # noqa: E731
        np.array_equal(
            proposal(case, _WORLD, model, regions=False).probabilities.array,
            plain_proposal(case.scan, model, plan).probabilities.array,
        )
    )
    return all(same(case) for patient in cases(_WORLD, "test", context, limit=3) for case in patient)


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    return {"full frame equals baseline": results.get("full frame", {}).get("equals baseline")}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    ladder = []
    for key, found in result["cells"].items():
        alone, full = found["segmenter alone"], found["gates + cohort"]
        ladder.append([key, f"{found['anchor dice']:.2f}", *row(alone, ("false a scan",)), *row(full, _SHOWN)])
    header = ["anchor, or image", "anchor Dice", "proposed: false a scan", *(f"kept: {name}" for name in _SHOWN)]
    return {"anchors": markdown_table(header, ladder)}


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    points = sorted((found["anchor dice"], key, found) for key, found in result["cells"].items() if key not in _SPOILT)
    lines = {}
    for name, label in (("clear lesions", "clear lesions found"), ("specificity", "healthy left empty")):
        inside = [
            (d, f["gates + cohort"][name]["value"]) for d, _, f in points if f["gates + cohort"][name] is not None
        ]
        lines[label] = {"x": [d for d, _ in inside], "y": [v for _, v in inside]}
    panel = {"title": "phantom livers, pixel classifier", "lines": lines}
    return {"anchors": {"panels": [panel], "xlabel": "Dice of the anchor", "ylabel": "share", "level": 0.9}}


STUDY = Study(
    name="r2seg-anchors",
    question="What do wrong anchors and spoilt images cost?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
