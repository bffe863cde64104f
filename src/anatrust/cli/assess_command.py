"""``anatrust assess``: judge anybody's mask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import (
    Alpha,
    AnatomyNames,
    Direction,
    FailOn,
    Features,
    Json,
    Modality,
    NoGates,
    NullName,
    OutputFolder,
    Quiet,
    Seed,
    Series,
    Spacing,
    Verbose,
    check_verdict_options,
    parse_series,
    parse_spacing,
    rejection_settings,
)
from anatrust.errors import InputError

__all__ = ["assess_command"]


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
    out: OutputFolder = None,
    kind: Annotated[str, typer.Option(metavar="KIND", help="What the mask shows: lesion, organ or auto.")] = "auto",
    modality: Modality = None,
    spacing: Spacing = None,
    series: Series = None,
    names: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Names of the mask's labels: a built-in table or a JSON file.")
    ] = None,
    anatomy_names: AnatomyNames = None,
    alpha: Alpha = None,
    null: NullName = None,
    features: Features = None,
    direction: Direction = None,
    no_gates: NoGates = False,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="The patient's group, for the profile's sets of that group.")
    ] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Weights of the profile's encoder: a folder or a name.")
    ] = None,
    seed: Seed = 0,
    fail_on: FailOn = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Judge a mask: which parts differ from normal tissue, with true p-values, and why.

    Writes verdict.json, kept.nii.gz, rejected.nii.gz (undecidable.nii.gz where something could not be decided),
    candidates.csv, report.html and run.json.
    """
    check_verdict_options(out, json=json, fail_on=fail_on, seed=seed)
    if kind not in ("auto", "lesion", "organ"):
        raise InputError(f"--kind {kind!r}: choose auto, lesion or organ")
    if anatomy_names is not None and anatomy is None:
        raise InputError(
            "--anatomy-names names the labels of --anatomy, which is missing: give both (--names is for -m)"
        )
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
    from anatrust.cli.show_verdict import tell_verdict

    return tell_verdict(verdict, out, json=json, quiet=quiet, fail_on=fail_on)
