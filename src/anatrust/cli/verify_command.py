"""``anatrust verify``: whether a profile's promises hold here."""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anatrust.cli.console import columns, progress_bar, resumable
from anatrust.cli.options import AnatomyNames, Json, Modality, Quiet, Verbose
from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.pipeline.verify import Verification

__all__ = ["verify_command"]


def verify_command(
    profile: Annotated[Path, typer.Argument(metavar="FILE.profile", help="What 'anatrust fit' learnt.")],
    cohort: Annotated[
        Path, typer.Argument(metavar="COHORT.csv", help="Labelled scans of this site, none of them fitted on.")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")],
    confidence: Annotated[float, typer.Option(metavar="C", help="With which all intervals hold together.")] = 0.95,
    tolerance: Annotated[
        float, typer.Option(metavar="T", help="A pass shows the error to be below T times the promised one.")
    ] = 2.0,
    modality: Modality = None,
    anatomy_names: AnatomyNames = None,
    encoder_weights: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Weights of the profile's encoder: a folder or a name.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Test a profile on labelled patients of this site: pass, fail or too few, with intervals.

    Measures the realised miss of outer sets, the invention of inner sets, broken bounds, flagged
    scans and, on rows with lesion_free = true and a mask, how often a candidate is kept; looks for
    drift. Writes verify.json, verify.html and run.json; exits with 3 on fail. A run that was killed
    goes on where it stopped.
    """
    from anatrust.pipeline.case import content_hash
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.outputs import check_output_folder, output_folder, replace_json, run_record
    from anatrust.pipeline.profile import Profile
    from anatrust.pipeline.verify import verify
    from anatrust.report.verify_page import write_verify_page

    if not (0 < confidence < 1 and tolerance > 1):
        raise InputError(f"--confidence {confidence:g} lies between 0 and 1, --tolerance {tolerance:g} above 1")
    check_output_folder(out)
    begin = time.perf_counter()
    fitted, table = Profile.load(profile), Cohort.read(cohort)

    def warn(line: str) -> None:
        if not quiet:
            typer.echo(f"anatrust: {line}", err=True)

    out.mkdir(parents=True, exist_ok=True)
    rows = out / "verify.rows"
    with resumable(rows), progress_bar(quiet or json) as progress:
        result = verify(
            fitted,
            table,
            confidence=confidence,
            tolerance=tolerance,
            modality=modality,
            anatomy_names=anatomy_names,
            encoder_weights=encoder_weights,
            cache=rows,
            progress=progress,
            warn=warn,
        )
    with output_folder(out) as folder:
        replace_json(folder / "verify.json", result.to_json())
        write_verify_page(folder / "verify.html", result, fitted)
        record = run_record(
            command="verify",
            configuration={
                "confidence": confidence,
                "tolerance": tolerance,
                "modality": modality,
                "anatomy_names": anatomy_names,
            },
            inputs={
                "profile": {"name": profile.name, "sha256": content_hash(profile)},
                "cohort": {"name": cohort.name, "sha256": content_hash(cohort)},
            },
            seed=0,
            timings={"verify": time.perf_counter() - begin},
            outputs=list(folder.iterdir()),
        )
        replace_json(folder / "run.json", record)
    for file in sorted(rows.glob("*.json")):
        file.unlink()
    rows.rmdir()
    if json:
        typer.echo(json_module.dumps(result.to_json(), indent=2))
    elif not quiet:
        typer.echo(verification_text(result))
        typer.echo(f"Wrote {out / 'verify.html'}")
    return 3 if result.outcome == "fail" else 0


def verification_text(result: Verification) -> str:
    """The outcome, one line for each promise, and what was noticed beside."""
    rows = [
        [
            check.outcome,
            check.promise,
            f"{check.level:g}",
            "" if check.realised is None else f"{check.realised:.3f}",
            f"{check.lower:.3f} to {check.upper:.3f}",
            str(check.patients),
        ]
        for check in result.checks
    ]
    table = columns(["", "promise", "at most", "seen", "interval", "patients"], rows)
    beside = [f"  - {line}" for line in (*(d.sentence for d in result.drift), *result.notes)]
    return "\n".join([result.sentence, *table, *beside])
