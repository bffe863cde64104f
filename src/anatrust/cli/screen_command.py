"""``anatrust screen``: whether the model may be used on this scan, or on each scan of a table."""

from __future__ import annotations

import csv
import json as json_module
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import Json, Modality, Quiet, Verbose
from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.pipeline.screen_cohort import ScreenedRow
    from anatrust.pipeline.screening import ScreeningSection

__all__ = ["screen_command"]

_COLUMNS = (
    "id",
    "verdict",
    "abnormality",
    "p_value",
    "p_floor",
    "components",
    "volume_cc",
    "largest_share",
    "reasons",
)
_DRIFT = ("date", "online_p", "wealth", "alarm")


def screen_command(
    profile: Annotated[Path, typer.Option(metavar="FILE", help="A profile that 'anatrust fit' made with screening.")],
    cohort: Annotated[
        Path | None, typer.Argument(metavar="COHORT.csv", help="Screen every scan of this table.")
    ] = None,
    scan: Annotated[Path | None, typer.Option("-i", "--input", metavar="SCAN", help="One scan.")] = None,
    mask: Annotated[Path | None, typer.Option("-m", "--mask", metavar="MASK", help="What the segmenter drew.")] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option("-p", "--probabilities", metavar="FILE", help="Its probabilities, where the profile needs them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="CSV of a table's results.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="The scan's group, where the profile is calibrated by group.")
    ] = None,
    drift: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Watch for drift over a table ordered by this date column.")
    ] = None,
    monitor: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the drift monitor here and go on with it next time.")
    ] = None,
    drift_level: Annotated[
        float, typer.Option(metavar="A", help="Chance of a false drift alarm over the whole future.")
    ] = 0.01,
    detection: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON of how well rows with outlier = true and false were told apart."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(metavar="COLUMNS", help="Columns, with commas, by which wrongly flagged patients are counted."),
    ] = "group",
    modality: Modality = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Say whether a scan is like those the segmenter was made for: abnormality, p-value, and why.

    Give one scan with -i and -m, or a table with the columns id, image and mask and -o for one row a scan.
    A table that was interrupted goes on where it stopped. With --drift the rows are taken in order of
    time, and an alarm says when they stop being like those calibrated on.
    """
    from anatrust.pipeline.profile import Profile

    section = Profile.load(profile).screening
    if section is None:
        raise InputError(f"{profile.name} has no screening section: fit it on rows that say outlier = false")
    if cohort is not None:
        if out is None or any(given is not None for given in (scan, mask, probabilities, group)):
            raise InputError("a table is screened with -o FILE.csv, and without -i, -m, -p and --group")
        told = [name.strip() for name in by.split(",") if name.strip()]
        return _table(cohort, section, modality, out, quiet, drift, monitor, drift_level, detection, told)
    if scan is None or mask is None:
        raise InputError("give one scan with -i and its mask with -m, or a table with -o")
    if drift is not None or monitor is not None:
        raise InputError("drift is watched over a table: give COHORT.csv and -o FILE.csv")
    return _one(scan, mask, probabilities, section, modality, group, json, quiet)


def _one(
    scan: Path,
    mask: Path,
    probabilities: Path | None,
    section: ScreeningSection,
    modality: str | None,
    group: str | None,
    json: bool,
    quiet: bool,
) -> int:
    from anatrust.image.read import read_mask, read_probabilities, read_scan
    from anatrust.pipeline.finding import worst
    from anatrust.pipeline.inspect import inspect_scan
    from anatrust.pipeline.screening import screen_scan

    image = read_scan(scan, modality=modality or section.modality)
    labels = read_mask(mask, reference=image.grid)
    findings = inspect_scan(image, labels)
    if worst(findings) == "error":
        raise InputError("; ".join(f.sentence for f in findings if f.severity == "error"))
    soft = None if probabilities is None else read_probabilities(probabilities, reference=image.grid)
    screening, why = screen_scan(section, image, labels, soft, group=group)
    if json:
        told = screening.to_json() | {
            "identifier": image.identifier,
            "explanation": why.to_json() if why else None,
            "findings": [f.sentence for f in findings],
        }
        typer.echo(json_module.dumps(told, indent=2))
    elif not quiet:
        typer.echo(f"{screening.verdict.upper().replace('_', ' ')}  {image.identifier}")
        typer.echo("\n".join(f"  - {reason}" for reason in screening.reasons))
        if why is not None:
            names = ", ".join(f"{name} {drop:+.3g}" for name, drop in why.levels[:3])
            typer.echo(f"  - what drives it, by group of features: {names}")
        for finding in findings:
            typer.echo(f"  - input gate: {finding.sentence}")
    return 0


def _table(
    cohort: Path,
    section: ScreeningSection,
    modality: str | None,
    out: Path,
    quiet: bool,
    drift: str | None,
    monitor: Path | None,
    level: float,
    detection: Path | None,
    by: list[str],
) -> int:
    from anatrust.image.atomic import replacing
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.detection import check_labelled, detection_summary
    from anatrust.pipeline.outputs import replace_json
    from anatrust.pipeline.screen_cohort import Drift, by_date, screen_cohort

    if monitor is not None and drift is None:
        raise InputError("a drift monitor needs --drift COLUMN, the date by which the table is ordered")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: its folder does not exist")
    table = Cohort.read(cohort)
    if detection is not None:
        check_labelled(table.rows, by)
    watch = None
    if drift is not None:
        table, watch = by_date(table, drift), Drift(section, file=monitor, level=level)
    rows = out.with_name(out.name + ".rows")
    rows.mkdir(exist_ok=True)
    counts: dict[str, int] = {}
    kept: list[ScreenedRow] = []
    with (
        progress_bar(quiet) as progress,
        replacing(out) as part,
        part.open("w", encoding="utf-8", newline="") as handle,
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(_COLUMNS if drift is None else (*_COLUMNS[:-1], *_DRIFT, _COLUMNS[-1]))
        found = screen_cohort(section, table, modality=modality, cache=rows, drift=watch, progress=progress)
        for screened in found:
            kept.append(screened)
            counts[screened.verdict] = counts.get(screened.verdict, 0) + 1
            writer.writerow(_cells(screened, drift))
    if watch is not None:
        watch.save()
    shutil.rmtree(rows, ignore_errors=True)
    if not quiet:
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))
        typer.echo(f"Wrote {out}: {listed}")
        if watch is not None:
            words = "ALARM: the scans are no longer like those calibrated on" if watch.monitor.alarm else "no alarm"
            typer.echo(
                f"Drift: {words} (largest wealth {watch.monitor.largest:.3g}, alarm at {1 / level:.3g}; a false alarm"
                f" ever has a chance of at most {level:g})"
            )
    if detection is not None:
        summary = detection_summary(section, kept, by=by)
        replace_json(detection, summary)
        if not quiet:
            typer.echo("\n".join(_told(summary)))
    return 0


def _told(summary: dict[str, Any]) -> list[str]:
    """The summary in lines: AUROC both ways, and who was flagged wrongly."""
    lines = []
    for name, words in (
        ("scored", "scans with a prediction"),
        ("no_prediction_strange", "without one counted strange"),
    ):
        if (own := summary[name]) is not None:
            value, low, high = own["auroc"]
            lines.append(
                f"  {words}: AUROC {value:.3f} ({low:.3f} to {high:.3f}), FPR95 {own['fpr95'][0]:.2f},"
                f" {own['usual_patients']} usual and {own['strange_patients']} strange patients"
            )
    for name, own in summary["false_flags"].items():
        if own["patients"]:
            low, high = own["interval"]
            share = f"{own['flagged']} of {own['patients']} usual patients flagged ({low:.2f} to {high:.2f})"
            lines.append(f"  {name}: {share}")
    if summary["fitted_on_and_left_out"]:
        lines.append(f"  {summary['fitted_on_and_left_out']} scans of patients fitted on were left out")
    return lines


def _cells(screened: ScreenedRow, drift: str | None) -> list[str]:
    """One line of the table; absent numbers are empty cells."""
    found, mask, step = screened.screening, screened.mask, screened.step
    numbers: list[float | None] = [None] * 3
    if found is not None:
        numbers = [found.abnormality, found.p_value, found.p_floor]
    drawn: list[float | None] = [None] * 3
    if mask is not None:
        drawn = [mask.components, mask.volume, mask.largest_share]
    cells = [screened.row.id, screened.verdict, *("" if v is None else f"{v:.6g}" for v in (*numbers, *drawn))]
    if drift is not None:
        cells += [screened.row.metadata.get(drift, "")]
        cells += (
            ["", "", ""] if step is None else [f"{step.p_value:.6g}", f"{step.wealth:.6g}", str(step.alarm).lower()]
        )
    return [*cells, "; ".join(screened.reasons)]
