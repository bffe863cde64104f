"""Study `r2seg-left-out`: where hearts lose their lesions, when every tested patient is judged by all the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from anatrust.studies.r2seg_arms import EXACT, IID, LEVELS, STEPS, Arm, run_arm, taught
from anatrust.studies.r2seg_cases import WORLDS
from anatrust.studies.r2seg_cells import NEEDS
from anatrust.studies.r2seg_numbers import row
from anatrust.studies.r2seg_targets import target, value
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

__all__ = ["STUDY"]

_ARMS: Mapping[str, Arm] = {
    "hearts: as in the ablation": Arm("cardiac", "pixels", 6, others=False),
    "hearts: judged by all others": Arm("cardiac", "pixels", 6),
    "hearts: several scales, taught on all slices": Arm("cardiac", "pixels", 10, plantings=1),
    "hearts: U-Net, taught on all slices": Arm("cardiac", "unet", 10, plantings=6),
    "hearts: the same inside the organ, mean over views": Arm(
        "cardiac", "unet", 10, plantings=6, variant="mean fusion", inside=True
    ),
}


def _cells(context: Context) -> list[Cell]:
    names = list(_ARMS)[2:3] if context.quick else list(_ARMS)
    return [
        Cell(
            name,
            asdict(_ARMS[name]),
            files=source_files(_ARMS[name].world, context),
            needs=(*NEEDS, "anatrust.studies.r2seg_arms"),
        )
        for name in names
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    arm = Arm(**cell.parameters)
    chosen = WORLDS[arm.world]
    first = chosen.teach + chosen.healthy
    tested = list(range(first, first + chosen.test))
    pool = list(range(arm.teach, first)) + (tested if arm.others else [])
    if context.quick:
        tested, pool = tested[:2], pool[:9] + tested[:2]
    return run_arm(arm, taught(arm, context), pool, tested, context)


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    return {
        "targets": [
            target(f"{key}, {step}", found["judges"][STEPS[step]], level)
            for key, found in results.items()
            for step, level in LEVELS.items()
        ]
    }


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    funnel, judged = [], []
    # Results of before there was a second score lack it.
    asked = {step: name for step, name in STEPS.items() if all(name in f["judges"] for f in result["cells"].values())}
    for key, found in result["cells"].items():
        judges, n = found["judges"], found["null patients"]
        planted = judges["segmenter alone"]["clear count"]
        floor = 1 / (n + 1)
        steps = []
        for step, name in asked.items():
            share = value(judges[name], "clear lesions")
            text = "–" if share is None else f"{round(share * planted)}"
            steps.append(f"{text} (undecidable)" if floor > LEVELS.get(step, 1.0) * (1 + 1e-12) else text)
        exact = value(judges[EXACT], "clear lesions")
        drawn = "–" if exact is None else f"{round(exact * planted)}"
        oddest = ", ".join(f"{v:.1f}" for v in found["null maxima"][:3])
        funnel.append([key, str(n), f"{floor:.3f}", str(planted), *steps, drawn, oddest])
        shown = ("clear lesions", "lesions", "specificity", "dice", "false a scan")
        judged += [[f"{key}: {name}", *row(judges[name], shown)] for name in (*asked.values(), IID)]
    header = ["", "healthy in the null", "smallest p", "clear lesions planted", *asked]
    header += ["kept at 0.10 if drawn exactly", "scores of the three oddest healthy"]
    return {
        "funnel": markdown_table(header, funnel),
        "judges": markdown_table(
            ["patients: judged by", "clear lesions", "lesions", "specificity", "dice", "false a scan"], judged
        ),
    }


STUDY = Study(
    name="r2seg-left-out",
    question="Where are lesions in hearts lost, and do a larger null and a better-taught segmenter find them?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
