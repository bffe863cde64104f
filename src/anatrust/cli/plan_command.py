"""``anatrust plan``: how many patients a promise needs."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from anatrust.cli.console import columns
from anatrust.cli.options import Json, Verbose

__all__ = ["plan_command"]


def plan_command(
    cohort: Annotated[
        Path | None, typer.Argument(metavar="COHORT.csv", help="Count the patients of this table too.")
    ] = None,
    alpha: Annotated[float, typer.Option(metavar="A", help="Level of the promises.")] = 0.10,
    assurance: Annotated[
        float | None, typer.Option(metavar="D", help="Also plan sets promised with confidence 1 - D.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Say how many patients a promise needs, and what those at hand allow."""
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.plan import plan

    needs = plan(alpha, None if cohort is None else Cohort.read(cohort), assurance=assurance)
    if json:
        typer.echo(json_module.dumps([need.to_json() for need in needs], indent=2))
        return 0
    header = ["promise", "needs", *([] if cohort is None else ["have", "smallest level", ""])]
    rows = []
    for need in needs:
        row = [need.promise, f"{need.needed} {need.who}"]
        if cohort is not None:
            level = "" if need.best_level is None else f"{need.best_level:.3g}"
            have = ["", "", ""] if need.have is None else [str(need.have), level, "enough" if need.met else "too few"]
            row += have
        rows.append(row)
    typer.echo("\n".join(columns(header, rows)))
    return 0
