"""Study `r2seg-contamination`: level and power where the normal tissue holds cysts, by choice of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from anatrust.pipeline.propose import Proposal
from anatrust.rejection.score import candidate_scores
from anatrust.statistics.conformal_p import CohortNull
from anatrust.studies.intervals import allowance
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases
from anatrust.studies.r2seg_cells import NEEDS, VARIANTS
from anatrust.studies.r2seg_judge import JUDGES, Judge, Outcome, judge, outcome, proposal, tissue_of
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers, row
from anatrust.studies.r2seg_questions import REMEDIES, contaminated
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["STUDY"]

_WORLD = "hippocampus"
_ORGAN = WORLDS[_WORLD].organ
_REMEDIES = ("plain", "trimmed by 40 %", "mixture")
_SHARES = (0.0, 0.1, 0.2, 0.4)
_ALPHA = 0.10
_SHOWN = ("clear lesions", "lesions", "any kept", "false a scan")


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.r2seg_questions", "anatrust.studies.r2seg_contamination")
    files = source_files(_WORLD, context)
    names = _REMEDIES[:2] if context.quick else _REMEDIES
    return [Cell(name, {"remedy": name}, files=files, needs=needs) for name in names]


@lru_cache(maxsize=2)
def _proposals(part: str, context: Context) -> tuple[tuple[R2Case, Proposal], ...]:
    model = segmenter("pixels", _WORLD, context)
    return tuple(
        (case, proposal(case, _WORLD, model, settings=VARIANTS["regions"]))
        for patient in cases(_WORLD, part, context)
        for case in patient
    )


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    """The null is fitted on clean patients; candidates are those of the clean image."""
    full = JUDGES["gates + cohort"].settings
    assert full is not None
    settings = replace(full, tissue=REMEDIES[cell.parameters["remedy"]])
    null = CohortNull(
        tuple(
            candidate_scores(c.scan, made.labels, tissue_of(c, _WORLD), settings, probabilities=made.probabilities)
            for c, made in _proposals("healthy", context)
        )
    )
    found: dict[str, Any] = {}
    for share in _SHARES[:: 3 if context.quick else 1]:
        outcomes: list[Outcome] = []
        for number, (case, made) in enumerate(_proposals("test", context)):
            rng = np.random.default_rng([context.seed, number, 43])
            seen = contaminated(case, share, rng, name=_ORGAN)
            how = Judge(settings, cohort=True)
            outcomes.append(outcome(case, judge(seen, made, tissue_of(case, _WORLD), how, null, seed=context.seed)))
        found[f"{100 * share:.0f} % cysts"] = numbers(outcomes, seed=context.seed)
    return found


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Where the level holds, and the lesions missed, by reference and share of cysts."""
    held: dict[str, Any] = {}
    for name, found in results.items():
        held[name] = {}
        for share, values in found.items():
            kept, seen = (values[n]["value"] if values[n] else None for n in ("any kept", "lesions"))
            limit = allowance(_ALPHA, values["healthy"])
            held[name][share] = {
                "level held": None if kept is None else bool(kept <= limit),
                "missed": None if seen is None else round(1 - seen, 4),
            }
    return {"by reference": held}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = [
        [f"{name}: {share}", *row(values, _SHOWN)]
        for name in _REMEDIES
        if name in result["cells"]
        for share, values in result["cells"][name].items()
    ]
    return {"contamination": markdown_table(["normal tissue", *_SHOWN], rows)}


STUDY = Study(
    name="r2seg-contamination",
    question="What do cysts in the normal tissue cost, and does another reference help?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
