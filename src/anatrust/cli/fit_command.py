"""``anatrust fit``: learn from a cohort what a segmenter invents and misses."""

from __future__ import annotations

import json as json_module
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anatrust.cli.console import progress_bar, resumable
from anatrust.cli.options import (
    AnatomyNames,
    Direction,
    Features,
    Json,
    Modality,
    NoGates,
    Quiet,
    Verbose,
    rejection_settings,
)
from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.pipeline.screening_features import Description

__all__ = ["fit_command"]


def fit_command(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT.csv", help="Table of scans; CSV or Parquet.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The profile to write.")],
    segmenter: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the segmenter that drew the masks.")
    ] = "unnamed",
    modality: Modality = None,
    names: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Names of the truth's labels: a built-in table or a JSON file.")
    ] = None,
    anatomy_names: AnatomyNames = None,
    alpha: Annotated[float, typer.Option(metavar="A", help="Mean error the sets promise.")] = 0.10,
    assurance: Annotated[
        float | None, typer.Option(metavar="D", help="Promise it with confidence 1 - D over calibrations.")
    ] = None,
    simultaneous: Annotated[
        bool, typer.Option("--simultaneous", help="Promise the error of each scan's worst structure.")
    ] = False,
    lesion_wise: Annotated[
        bool, typer.Option("--lesion-wise", help="Also promise the share of lesions that outer sets hardly touch.")
    ] = False,
    encoder: Annotated[
        str, typer.Option(metavar="NAME", help="Encoder of the walk's graph; 'anatrust info' lists them.")
    ] = "local-descriptors",
    encoder_weights: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Its weights: NAME or NAME@REVISION in the local cache, or a folder."),
    ] = None,
    encoder_layer: Annotated[
        int | None,
        typer.Option(metavar="N", help="Its hidden layer (the last), or the segmenter's stage (the best in tuning)."),
    ] = None,
    resolution: Annotated[
        int, typer.Option(metavar="N", help="Pixels of a slice's longer edge as the encoder sees it.")
    ] = 448,
    flag_rate: Annotated[
        float, typer.Option(metavar="R", help="Share of usual scans that screening may call strange.")
    ] = 0.05,
    screen_with: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What screening measures: mask, descriptors, histogram, radiomics, or a network's folder; "
            "behind it +histogram (of the crops), +mask, +quality (of the image), +certainty (of the segmenter).",
        ),
    ] = "mask+quality",
    crop_edge: Annotated[
        int | None, typer.Option(metavar="MM", help="Edge of screening's crops, a multiple of 32; 128 by default.")
    ] = None,
    crop_mode: Annotated[
        str | None, typer.Option(metavar="MODE", help="Where crops lie: voxel (default), component, spatial or center.")
    ] = None,
    detectors: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Screening's detectors, with commas; combined by rank.")
    ] = None,
    synthetic_outliers: Annotated[
        bool, typer.Option("--synthetic-outliers", help="Make strange scans of usual ones for screening to learn from.")
    ] = False,
    by_group: Annotated[
        bool, typer.Option("--by-group", help="Calibrate screening within each group of the table.")
    ] = False,
    cross_conformal: Annotated[
        bool,
        typer.Option(
            "--cross-conformal", help="Fit and calibrate screening on the same patients: up to twice the flag rate."
        ),
    ] = False,
    sensitivity: Annotated[
        float, typer.Option(metavar="T", help="Share of drawn lesions the learnt gates keep, with confidence 0.9.")
    ] = 0.9,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the splits by patient.")] = 0,
    features: Features = None,
    direction: Direction = None,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What ranks candidates in the null: compact-contrast/1 (default), or likely-contrast/1, which looks "
            "at the probabilities too: the table and every scan judged later must have them.",
        ),
    ] = None,
    no_gates: NoGates = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Learn everything the cohort allows, and say what it does not allow.

    The table has the columns id, image, mask, and lesion_free = true for healthy people: from them
    comes what the segmenter invents. Rows with a truth, and probabilities or a mask, give inner and
    outer sets, and bounds of Dice, HD95, volume and diameter; with a mask of lesions also the
    thresholds of the gates. Rows that say outlier = false or true, with a mask, give screening. Also
    patient, anatomy, group. A run that was killed goes on where it stopped: finished scans are kept
    in FILE.rows until the profile is written. Where sets were fitted FILE.html shows them: the score
    that was chosen, calibration curves and sizes.
    """
    from anatrust.models.encoders import EncoderChoice
    from anatrust.pipeline.case import content_hash
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.fit import fit
    from anatrust.pipeline.outputs import replace_json, run_record
    from anatrust.report.fit_page import write_fit_page

    measured = _measured(screen_with, crop_mode, crop_edge)

    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"cannot write the profile {out}: give a file in a folder that exists")
    choice = EncoderChoice(encoder, encoder_weights or "", resolution, encoder_layer)
    begin = time.perf_counter()
    table = Cohort.read(cohort)
    rows = out.with_name(out.name + ".rows")
    given = {"features": features, "direction": direction, "score": score, "no_gates": no_gates}
    settings = rejection_settings(None, given)

    def warn(line: str) -> None:
        if not quiet:
            typer.echo(f"anatrust: {line}", err=True)

    with resumable(rows), progress_bar(quiet or json) as progress:
        profile = fit(
            table,
            segmenter=segmenter,
            modality=modality,
            settings=settings,
            names=names,
            anatomy_names=anatomy_names,
            alpha=alpha,
            assurance=assurance,
            simultaneous=simultaneous,
            lesion_wise=lesion_wise,
            encoder=choice,
            flag_rate=flag_rate,
            screening=measured,
            detectors=None if detectors is None else [name.strip() for name in detectors.split(",")],
            synthetic_outliers=synthetic_outliers,
            by_group=by_group,
            cross_conformal=cross_conformal,
            sensitivity=sensitivity,
            seed=seed,
            cache=rows,
            progress=progress,
            warn=warn,
        )
    profile.save(out)
    written = [out]
    if profile.sets is not None:
        written.append(write_fit_page(out.with_name(out.name + ".html"), profile))
    section = profile.rejection
    record = run_record(
        command="fit",
        configuration={
            "segmenter": segmenter,
            "modality": modality,
            "names": names,
            "anatomy_names": anatomy_names,
            "alpha": alpha,
            "assurance": assurance,
            "simultaneous": simultaneous,
            "lesion_wise": lesion_wise,
            "encoder": choice.to_json(),
            "flag_rate": flag_rate,
            "screening": {
                "measured": measured.identity,
                "detectors": detectors,
                "synthetic_outliers": synthetic_outliers,
                "by_group": by_group,
            },
            "sensitivity": sensitivity,
            "rejection": section.settings.to_json() if section else None,
        },
        inputs={"cohort": {"name": cohort.name, "sha256": content_hash(cohort), "contents": profile.cohort_hash}},
        seed=seed,
        timings={"fit": time.perf_counter() - begin},
        outputs=written,
    )
    replace_json(out.with_name(out.name + ".run.json"), record)
    shutil.rmtree(rows, ignore_errors=True)
    if json:
        typer.echo(json_module.dumps({"profile": out.name, "holds": profile.describe()}, indent=2))
    elif not quiet:
        typer.echo("\n".join([f"Wrote {out}", *(f"  {line}" for line in profile.holds())]))
        if profile.not_fitted:
            typer.echo("\n".join(["Not fitted, and advice:", *(f"  {line}" for line in profile.not_fitted)]))
    return 0


def _measured(what: str, mode: str | None, edge: int | None) -> Description:
    """What screening measures, from the options."""
    from typing import cast

    from anatrust.ood.crops import CropMode, CropSettings
    from anatrust.pipeline.screening_features import make_description

    usual = CropSettings()
    crops = CropSettings(cast(CropMode, mode or usual.mode), usual.edge if edge is None else edge)
    made = make_description(what, crops)
    if made.of_mask and (mode is not None or edge is not None):
        raise InputError(
            f"--crop-edge and --crop-mode are of crops, and {made.kind} measures none: leave them out, or choose"
            " --screen-with descriptors, histogram or a folder"
        )
    return made
