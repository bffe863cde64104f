"""``anatrust screen``: whether the model may be used on this scan."""

from __future__ import annotations

import csv
import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import Json, Modality, Quiet, Verbose
from anatrust.errors import AnatrustError, InputError

__all__ = ["screen_command"]

_COLUMNS = ("id", "verdict", "abnormality", "p_value", "p_floor", "reasons")


def screen_command(
    profile: Annotated[Path, typer.Option(metavar="FILE", help="A profile that 'anatrust fit' made with screening.")],
    cohort: Annotated[
        Path | None, typer.Argument(metavar="COHORT.csv", help="Screen every scan of this table.")
    ] = None,
    scan: Annotated[Path | None, typer.Option("-i", "--input", metavar="SCAN", help="One scan.")] = None,
    mask: Annotated[Path | None, typer.Option("-m", "--mask", metavar="MASK", help="What the segmenter drew.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="CSV of a table's results.")
    ] = None,
    modality: Modality = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Say whether a scan is like those the segmenter was made for: abnormality, p-value, and why.

    Give one scan with -i and -m, or a table with the columns id, image and mask and -o for one row a scan.
    """
    from anatrust.pipeline.profile import Profile
    from anatrust.pipeline.screening import screen_scan

    section = Profile.load(profile).screening
    if section is None:
        raise InputError(f"{profile.name} has no screening section: fit it on rows that say outlier = false")
    asked = modality or section.modality
    if cohort is not None:
        if scan is not None or mask is not None or out is None:
            raise InputError("a table is screened with -o FILE.csv, and without -i and -m")
        return _table(cohort, section, asked, out, quiet)
    if scan is None or mask is None:
        raise InputError("give one scan with -i and its mask with -m, or a table with -o")
    from anatrust.image.read import read_mask, read_scan

    image = read_scan(scan, modality=asked)
    screening, why = screen_scan(section, image, read_mask(mask, reference=image.grid))
    if json:
        told = screening.to_json() | {"identifier": image.identifier, "explanation": why.to_json() if why else None}
        typer.echo(json_module.dumps(told, indent=2))
    elif not quiet:
        typer.echo(f"{screening.verdict.upper().replace('_', ' ')}  {image.identifier}")
        typer.echo("\n".join(f"  - {reason}" for reason in screening.reasons))
        if why is not None:
            names = ", ".join(f"{name} {drop:+.2g}" for name, drop in why.levels[:3])
            typer.echo(f"  - what drives it, by group of features: {names}")
    return 0


def _table(cohort: Path, section: Any, modality: str | None, out: Path, quiet: bool) -> int:
    from anatrust.image.atomic import replacing
    from anatrust.image.read import read_mask, read_scan
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.screening import screen_scan

    rows = Cohort.read(cohort)
    counts: dict[str, int] = {}
    with (
        progress_bar(quiet) as progress,
        replacing(out) as part,
        part.open("w", encoding="utf-8", newline="") as handle,
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for done, row in enumerate(rows):
            if progress:
                progress("screen", done, len(rows))
            try:
                if row.mask is None:
                    raise InputError("the mask is missing")
                image = read_scan(row.image, modality=modality)
                screening, _ = screen_scan(section, image, read_mask(row.mask, reference=image.grid))
            except AnatrustError as error:
                # A table is for audits: one scan that cannot be read is a row of its own, never a lost run.
                verdict, cells = "unreadable", ["", "", "", str(error)]
            else:
                verdict = screening.verdict
                numbers = (screening.abnormality, screening.p_value, screening.p_floor)
                cells = ["" if v is None else f"{v:.6g}" for v in numbers] + ["; ".join(screening.reasons)]
            counts[verdict] = counts.get(verdict, 0) + 1
            writer.writerow([row.id, verdict, *cells])
    if not quiet:
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))
        typer.echo(f"Wrote {out}: {listed}")
    return 0
