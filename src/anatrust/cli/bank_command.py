"""``anatrust bank``: labelled scans to choose references from."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from anatrust.cli.console import columns, progress_bar
from anatrust.cli.options import Json, Modality, Quiet, Verbose
from anatrust.errors import InputError

__all__ = ["bank_command"]


def bank_command(
    source: Annotated[Path, typer.Argument(metavar="COHORT.csv|FILE.bank", help="A table to build from, or a bank.")],
    out: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="The bank to write.")] = None,
    names: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Names of the labels: a built-in table or a JSON file.")
    ] = None,
    modality: Modality = None,
    slices: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Take every Nth axial slice of volumes, for single images.")
    ] = None,
    quantile: Annotated[
        float, typer.Option(metavar="Q", help="Share of scans like the bank's that may find no reference.")
    ] = 0.05,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Build a bank of labelled scans for 'anatrust annotate --bank', or show what one holds.

    The table has the columns id, image, truth (the labels) and patient. Nothing
    that names a patient or a file is kept.
    """
    from anatrust.pipeline.bank_file import bank_of_cohort, load_bank, save_bank

    if out is None:
        if source.suffix.lower() in (".csv", ".parquet"):
            raise InputError(f"{source.name} is a table: say where its bank shall be written with -o FILE")
        bank = load_bank(source)
    else:
        with progress_bar(quiet or json) as progress:
            bank = bank_of_cohort(
                source, names=names, modality=modality, slices=slices, quantile=quantile, progress=progress
            )
        save_bank(out, bank)
    told = bank.summary()
    if json:
        typer.echo(json_module.dumps(told, indent=2))
    elif not quiet:
        kinds = ", ".join(f"{count} {name}" for name, count in told["modalities"].items())
        how = "calibrated by leaving one patient out" if told["calibrated"] else "not calibrated: too few patients"
        typer.echo(f"{told['references']} references of {told['patients']} patients ({kinds})")
        typer.echo(f"{told['volumes']} volumes, {told['images']} images; least cosine {told['threshold']:.2f}, {how}\n")
        rows = [[name, str(count)] for name, count in told["structures"].items()]
        typer.echo("\n".join(columns(["structure", "references"], rows)))
        if out is not None:
            typer.echo(f"\nWrote {out}")
    return 0
