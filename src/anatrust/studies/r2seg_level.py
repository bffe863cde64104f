"""Study `r2seg-level`: does a null of healthy phantoms keep its level on some that nobody has looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anatrust.models.protocols import Segmenter
from anatrust.rejection.score import candidate_scores
from anatrust.studies.phantom import phantom_scan
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases, disguised
from anatrust.studies.r2seg_cells import NEEDS, VARIANTS, nulls_of, true_anchor
from anatrust.studies.r2seg_judge import JUDGES, proposal
from anatrust.studies.r2seg_level_summary import summarise, tables
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.study import Cell, Context, Study

__all__ = ["STUDY", "fresh_phantom", "strongest"]

_NAMES = {"phantom": "CT", "phantom-mr": "MR-like"}
_JUDGE, _VARIANT = "gates + cohort", "1 view"
# Phantoms are numbered; those from here on are in no population, and nobody had looked at one before this study.
_FRESH = 7000
_BLOCKS = 4


def _cells(context: Context) -> list[Cell]:
    worlds = [(taught, asked) for taught in _NAMES for asked in _NAMES]
    groups = ["null", "tested", *(f"fresh {k + 1}" for k in range(_BLOCKS))]
    if context.quick:
        worlds, groups = worlds[1:2], groups[:4]
    return [
        Cell(
            f"{_NAMES[taught]} to {_NAMES[asked]}/{group}",
            {"taught": taught, "asked": asked, "group": group},
            needs=(*NEEDS, "anatrust.studies.r2seg_level"),
        )
        for taught, asked in worlds
        for group in groups
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    taught, asked, group = (str(cell.parameters[name]) for name in ("taught", "asked", "group"))
    model = segmenter("pixels, several scales", taught, context)
    chosen = WORLDS["phantom-mr"]
    healthy, test, block = (9, 2, 3) if context.quick else (chosen.healthy, chosen.test, chosen.healthy)
    if group == "null":
        # The null of r2seg-transfer itself, not a second way to the same scores.
        null = nulls_of(asked, model, _VARIANT, {_JUDGE: JUDGES[_JUDGE]}, context, limit=healthy)[_JUDGE]
        shown, scores = [p[0] for p in cases(asked, "healthy", context, limit=healthy)], null.maxima
    else:
        if group == "tested":
            shown = [c for patient in cases(asked, "test", context, limit=test) for c in patient if not c.lesions]
        else:
            first = _FRESH + (int(group.split()[-1]) - 1) * block
            shown = [fresh_phantom(asked, first + k, context) for k in range(block)]
        scores = np.array([strongest(c, asked, model) for c in shown])
    rows = [
        [_NAMES[taught], _NAMES[asked], group, c.patient, None if np.isneginf(s) else round(float(s), 4)]
        for c, s in zip(shown, scores, strict=True)
    ]
    return {"rows": rows}


def fresh_phantom(world: str, number: int, context: Context) -> R2Case:
    """A healthy phantom by its number, made as those of the populations are."""
    seed = 100_000 + 10_000 * context.seed + number
    made = phantom_scan(seed, lesions=0, quick=True)
    scan = made.scan if world == "phantom" else disguised(made.scan, seed)
    return R2Case(f"{world}-{number}", scan, made.anatomy, made.truth.array.astype(np.uint8), ())


def strongest(case: R2Case, world: str, model: Segmenter) -> float:
    """Score of the strongest candidate that passes the gates, as a cohort null takes it; −inf where there is none."""
    how, settings = VARIANTS[_VARIANT], JUDGES[_JUDGE].settings
    assert settings is not None
    seen, anchor, tissue = true_anchor(world)(case)
    made = proposal(seen, world, model, settings=how, organ=anchor)
    scores = candidate_scores(seen.scan, made.labels, tissue, settings, probabilities=made.probabilities)
    finite = scores[np.isfinite(scores)]
    return float(finite.max()) if finite.size else float("-inf")


STUDY = Study(
    name="r2seg-level",
    question="Is a cohort null's level kept where a segmenter judges a contrast it was not taught on?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=tables,
    columns=("taught", "asked", "group", "phantom", "strongest"),
)
"""The study."""
