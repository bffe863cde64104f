"""``anatrust study``: run an experiment that shows what holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import Quiet, Verbose

__all__ = ["study_command"]


def study_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which study; an unknown name lists them.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="A small form of at most a minute; its numbers decide nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the result JSON.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Run an experiment on phantoms and the data at hand, and write its result as JSON."""
    import json

    from anatrust.studies.study import run_study

    with progress_bar(quiet) as show:
        result = run_study(
            name,
            quick=quick,
            out=out,
            seed=seed,
            progress=None if show is None else lambda done, total, what: show(what, done, total),
        )
    if not quiet:
        typer.echo(json.dumps(result["summary"], indent=2))
    return 0
