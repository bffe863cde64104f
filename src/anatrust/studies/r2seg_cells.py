"""A population through one way of proposing and several of judging: the cell of the R²Seg studies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.atomic import replacing
from anatrust.image.volumes import LabelMap, Mask
from anatrust.models.protocols import Segmenter
from anatrust.pipeline.propose import Proposal, ProposalSettings
from anatrust.rejection.score import candidate_scores
from anatrust.rejection.settings import RejectionSettings
from anatrust.statistics.conformal_p import CohortNull
from anatrust.studies import provenance
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases
from anatrust.studies.r2seg_judge import JUDGES, Judge, Outcome, judge, outcome, proposal, tissue_of, union_by
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import by_size, matched, numbers
from anatrust.studies.study import Context

__all__ = ["NEEDS", "VARIANTS", "Anchoring", "evaluate", "nulls_of", "outcomes_of", "true_anchor"]

NEEDS = (
    *(f"anatrust.studies.r2seg_{m}" for m in ("cases", "models", "judge", "cells", "numbers")),
    *(f"anatrust.rejection.{m}" for m in ("judge", "nulls", "score", "compact_contrast", "likely_contrast")),
    *(f"anatrust.rejection.{m}" for m in ("comparison", "tissue", "correction", "gates")),
    "anatrust.pipeline.propose",
    "anatrust.models.pixel_classifier",
    "anatrust.models.pixel_descriptors",
    "anatrust.models.unet",
    "anatrust.models.unet_training",
    "anatrust.models.blob",
    "anatrust.statistics.conformal_p",
    "anatrust.studies.phantom",
    "anatrust.studies.phantom_anatomy",
    "anatrust.studies.lesions",
)
"""Modules whose source decides the numbers."""

VARIANTS: Mapping[str, ProposalSettings | None] = {
    "regions": ProposalSettings(scales=(1.0,)),
    "full frame": None,
    "mean fusion": ProposalSettings(scales=(1.0,), fusion="mean"),
    "1 view": ProposalSettings(scales=(1.0,), views="identity"),
    "all views": ProposalSettings(scales=(1.0,), views="flips"),
    "with full frame": ProposalSettings(scales=(1.0,), include_full=True),
    "Γ = 0.5": ProposalSettings(scales=(0.5,)),
    "Γ = 0.5, 1, 2": ProposalSettings(scales=(0.5, 1.0, 2.0)),
}
"""Ways to propose; None is the full frame without an anchor."""

_CACHE = Path("build/studies/r2seg")
_RIVALS = ("gates + cohort", "iid, as published")

# From a case to the image that is judged, the anchor for the region (None: full frame) and the tissue.
Anchoring = Callable[[R2Case], tuple[R2Case, Mask | None, LabelMap]]


def true_anchor(world: str) -> Anchoring:
    """The organ as it is."""
    return lambda case: (case, case.anatomy.mask(WORLDS[world].organ), tissue_of(case, world))


def _proposed(
    patient: Sequence[R2Case], world: str, model: Segmenter, variant: str, anchoring: Anchoring
) -> Iterator[tuple[R2Case, Proposal, LabelMap]]:
    for case in patient:
        seen, anchor, tissue = anchoring(case)
        how = VARIANTS[variant]
        made = proposal(seen, world, model, settings=how, organ=anchor, regions=how is not None and anchor is not None)
        yield seen, made, tissue


def nulls_of(
    world: str,
    model: Segmenter,
    variant: str,
    judges: Mapping[str, Judge],
    context: Context,
    *,
    anchoring: Anchoring | None = None,
    limit: int | None = None,
) -> dict[str, CohortNull]:
    """For each way to judge that needs one, the cohort null of this segmenter and this way to propose."""
    wanted = {name: how.settings for name, how in judges.items() if how.cohort and how.settings is not None}
    scores: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in wanted}
    if not wanted:
        return {}
    for patient in cases(world, "healthy", context, limit=limit):
        mine: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in wanted}
        for case, made, tissue in _proposed(patient, world, model, variant, anchoring or true_anchor(world)):
            done: dict[RejectionSettings, npt.NDArray[np.float64]] = {}
            for name, settings in wanted.items():
                if settings not in done:
                    done[settings] = candidate_scores(
                        case.scan, made.labels, tissue, settings, probabilities=made.probabilities
                    )
                mine[name].append(done[settings])
        for name, parts in mine.items():
            found = np.concatenate(parts)
            scores[name].append(found[np.isfinite(found)])
    return {name: CohortNull(tuple(parts)) for name, parts in scores.items()}


def outcomes_of(
    world: str,
    model: Segmenter,
    variant: str,
    judges: Mapping[str, Judge],
    nulls: Mapping[str, CohortNull],
    context: Context,
    *,
    anchoring: Anchoring | None = None,
    limit: int | None = None,
) -> dict[str, list[Outcome]]:
    """What comes out for every tested patient, by way to judge."""
    found: dict[str, list[Outcome]] = {name: [] for name in judges}
    for patient in cases(world, "test", context, limit=limit):
        for case, made, tissue in _proposed(patient, world, model, variant, anchoring or true_anchor(world)):
            for name, how in judges.items():
                seen = judge(case, made, tissue, how, nulls.get(name), seed=context.seed)
                found[name].append(outcome(case, seen))
    return found


def evaluate(
    world: str, name: str, variant: str, judges: Sequence[str], context: Context, *, limit: int | None = None
) -> dict[str, Any]:
    """Numbers of a cell by way to judge, lesions by size, the p-values a ROC is made of, and ours beside the published.

    Several studies ask for the same cell: it is kept under ``build/studies/r2seg``, named by its
    arguments and the source of everything that decides its numbers.
    """
    asked = [world, name, variant, list(judges), context.seed, context.quick, limit, provenance.source_hash(NEEDS)]
    file = _CACHE / f"cell-{provenance.fingerprint({'asked': asked})}.json"
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    found = _evaluate(world, name, variant, judges, context, limit)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(json.dumps(found), encoding="utf-8")
    return found


def _evaluate(
    world: str, name: str, variant: str, judges: Sequence[str], context: Context, limit: int | None
) -> dict[str, Any]:
    model = segmenter(name, world, context)
    chosen = {j: JUDGES[j] for j in judges}
    nulls = nulls_of(world, model, variant, chosen, context)
    found = outcomes_of(world, model, variant, chosen, nulls, context, limit=limit)
    result: dict[str, Any] = {"judges": {j: numbers(o, seed=context.seed) for j, o in found.items()}}
    result["sizes"] = {j: by_size(o) for j, o in found.items()}
    if set(_RIVALS) <= set(found):
        ours, theirs = (found[j] for j in _RIVALS)
        result["matched"] = matched(ours, theirs, seed=context.seed)
    result["p"] = {
        j: {
            "lesions": [[le[0], le[1], le[3]] for o in outcomes for le in o.lesions],
            "healthy": [min((p for o in scans for p in o.false_p), default=1.0) for scans in _well(outcomes)],
            "false": sorted(p for o in outcomes for p in o.false_p if p < 1),
            "scans": len(outcomes),
        }
        for j, outcomes in found.items()
        if JUDGES[j].settings is not None and not JUDGES[j].gates_alone
    }
    return result


def _well(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """The healthy patients' scans."""
    return [scans for scans in union_by(outcomes).values() if not any(s.ill for s in scans)]
