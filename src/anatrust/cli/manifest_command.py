"""``anatrust manifest``: a cohort table of a folder."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from anatrust.cli.options import Json, Quiet, Verbose
from anatrust.errors import InputError

__all__ = ["manifest_command"]


def manifest_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Top folder of a data set.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="COHORT.csv", help="The table to write.")],
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="nnunet, msd, bids, totalsegmentator, plain or dicom; else seen.")
    ] = None,
    structure: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which file of TotalSegmentator's data set is the truth.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What a segmenter drew, by the cases' names.")
    ] = None,
    probabilities: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its probabilities, by the cases' names.")
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Whose scan it is: first group found in the id, e.g. '^(.*)-IM-'."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="What becomes the group: manufacturer, model, kernel, contrast, ..."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Write the cohort table of a folder in nnU-Net, MSD, BIDS, TotalSegmentator, plain or DICOM layout."""
    from anatrust.pipeline.manifest import find_rows, write_manifest

    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"cannot write the table {out}: give a file in a folder that exists")
    found = find_rows(
        folder,
        layout=layout,
        structure=structure,
        masks=masks,
        probabilities=probabilities,
        patient=patient,
        group=group,
    )
    write_manifest(out, found)
    counts = {
        "layout": found.layout,
        "scans": len(found.rows),
        "patients": len({row.patient for row in found.rows}),
        **{
            name: sum(getattr(row, name) is not None for row in found.rows)
            for name in ("truth", "mask", "probabilities")
        },
    }
    if json:
        typer.echo(json_module.dumps({**counts, "notes": list(found.notes)}, indent=2))
    elif not quiet:
        listed = ", ".join(f"{count} with {name}" for name, count in list(counts.items())[3:] if count)
        scans = f"{counts['scans']} scans of {counts['patients']} patients"
        typer.echo(f"Wrote {out}: {found.layout}, {scans}{', ' * bool(listed)}{listed}")
        typer.echo("".join(f"  - {note}\n" for note in found.notes), nl=False)
    return 0
