"""``anatrust assess``: judge anybody's mask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import (
    AnatomyNames,
    Direction,
    Features,
    Json,
    Modality,
    NoGates,
    Quiet,
    Verbose,
    parse_series,
    parse_spacing,
    rejection_settings,
)
from anatrust.errors import InputError

__all__ = ["assess_command"]

_GRAVITY = {"accept": 0, "review": 1, "abstain": 2}


def assess_command(
    scan: Annotated[Path, typer.Option("-i", "--input", metavar="SCAN", help="The scan: NIfTI, DICOM, NRRD, PNG, ...")],
    mask: Annotated[Path, typer.Option("-m", "--mask", metavar="MASK", help="The mask to judge, from any tool.")],
    probabilities: Annotated[
        Path | None, typer.Option("-p", "--probabilities", metavar="FILE", help="The segmenter's probabilities.")
    ] = None,
    anatomy: Annotated[
        Path | None, typer.Option(metavar="LABELS", help="Organs, as normal tissue to compare with.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What 'anatrust fit' learnt from lesion-free patients.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")] = None,
    kind: Annotated[str, typer.Option(metavar="KIND", help="What the mask shows: lesion, organ or auto.")] = "auto",
    modality: Modality = None,
    spacing: Annotated[
        str | None, typer.Option(metavar="MM", help="Pixel size of a picture in mm, e.g. 0.5 or 0.5x0.7.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="N", help="Which DICOM series, page or volume, where there are several.")
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Names of the mask's labels: a built-in table or a JSON file.")
    ] = None,
    anatomy_names: AnatomyNames = None,
    alpha: Annotated[
        float | None, typer.Option(metavar="A", help="The tolerated error; sets all levels (default 0.10, 0.05).")
    ] = None,
    null: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="auto (cohort with a profile, else surrogate-max), placement, block or iid."),
    ] = None,
    features: Features = None,
    direction: Direction = None,
    no_gates: NoGates = False,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="The patient's group, for the profile's sets of that group.")
    ] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Weights of the profile's encoder: a folder or a name.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of all random draws.")] = 0,
    fail_on: Annotated[
        str | None, typer.Option(metavar="WHAT", help="Exit with 3 on review or abstain (or worse).")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Judge a mask: which parts differ from normal tissue, with true p-values, and why.

    Writes verdict.json, kept.nii.gz, rejected.nii.gz (undecidable.nii.gz where something could not be decided),
    candidates.csv, report.html and run.json.
    """
    if fail_on not in (None, "review", "abstain"):
        raise InputError(f"--fail-on {fail_on!r}: choose review or abstain")
    if out is None and not json:
        raise InputError("say where the results shall go with -o DIR, or print the verdict with --json")
    if kind not in ("auto", "lesion", "organ"):
        raise InputError(f"--kind {kind!r}: choose auto, lesion or organ")
    if anatomy_names is not None and anatomy is None:
        raise InputError(
            "--anatomy-names names the labels of --anatomy, which is missing: give both (--names is for -m)"
        )
    if seed < 0:
        raise InputError(f"--seed {seed}: give a number from 0")
    from anatrust.report.assess import assess

    given = {"null": null, "features": features, "direction": direction, "no_gates": no_gates}
    settings = rejection_settings(profile, given)
    with progress_bar(quiet or json) as progress:
        verdict = assess(
            scan,
            mask,
            probabilities=probabilities,
            anatomy=anatomy,
            profile=profile,
            kind=cast(Literal["auto", "lesion", "organ"], kind),
            alpha=alpha,
            settings=settings,
            modality=modality,
            spacing=parse_spacing(spacing),
            series=parse_series(series),
            names=names,
            anatomy_names=anatomy_names,
            group=group,
            encoder_weights=encoder_weights,
            seed=seed,
            out=out,
            progress=progress,
        )
    if json:
        typer.echo(verdict.dumps())
    elif not quiet:
        from anatrust.cli.show_verdict import verdict_text

        typer.echo(verdict_text(verdict, out))
    return 3 if fail_on is not None and _GRAVITY[verdict.decision] >= _GRAVITY[fail_on] else 0
