"""``anatrust evaluate``: how good masks are, by scan and by group."""

from __future__ import annotations

import csv
import json as json_module
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import Json, Quiet, Verbose
from anatrust.errors import FormatError, InputError

if TYPE_CHECKING:
    from anatrust.pipeline.evaluate import Evaluation

__all__ = ["evaluate_command"]


def evaluate_command(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT.csv", help="Table with image, mask and truth.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")],
    by: Annotated[
        str, typer.Option(metavar="COLUMNS", help="Columns to break the tables down by, with commas.")
    ] = "group",
    against: Annotated[
        str | None,
        typer.Option(metavar="COLUMNS", help="Columns with other predictions, compared on the same scans."),
    ] = None,
    labels: Annotated[str, typer.Option(metavar="HOW", help="each label on its own, or their union.")] = "each",
    names: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Names of the labels: a built-in table or a JSON file.")
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="MM", help="Of the surface Dice.")] = 2.0,
    hd95: Annotated[
        str, typer.Option(metavar="NAME", help="Definition of HD95: max-directed or pooled.")
    ] = "max-directed",
    lesions: Annotated[
        str, typer.Option(metavar="RULE", help="How lesions are matched: any-overlap, iou or hungarian.")
    ] = "any-overlap",
    iou: Annotated[float, typer.Option(metavar="T", help="Smallest IoU of a match.")] = 0.5,
    cldice: Annotated[bool, typer.Option("--cldice", help="Centreline Dice too, for vessels.")] = False,
    empty: Annotated[
        str, typer.Option(metavar="POLICY", help="What empty masks count as: stated values, or undefined (left out).")
    ] = "stated",
    screening: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What 'anatrust screen' wrote of these scans: risk–coverage.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the bootstrap.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Measure masks against their truth: overlap, surfaces, lesions, volumes, by scan and by group.

    Writes metrics.csv (one row a scan and structure), evaluation.json (definitions, summaries with
    intervals over patients, paired tests), evaluation.html, figures and run.json. A run that was
    interrupted goes on where it stopped.
    """
    from typing import cast

    from anatrust.metrics import EdgeCases
    from anatrust.metrics.lesions import MatchingRule
    from anatrust.metrics.surface import HausdorffDefinition
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.evaluate import evaluate
    from anatrust.pipeline.outputs import check_output_folder
    from anatrust.pipeline.scan_metrics import EvaluationSettings

    if empty not in ("stated", "undefined"):
        raise InputError(f"--empty is stated or undefined, not {empty!r}")
    settings = EvaluationSettings(
        edge_cases=EdgeCases() if empty == "stated" else EdgeCases.undefined(),
        hd95_definition=cast(HausdorffDefinition, hd95),
        surface_tolerance=tolerance,
        lesion_rule=cast(MatchingRule, lesions),
        lesion_threshold=iou,
        labels=labels,
        centrelines=cldice,
        seed=seed,
    )
    begin = time.perf_counter()
    table = Cohort.read(cohort)
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    rows = out / "rows"
    rows.mkdir(exist_ok=True)
    with progress_bar(quiet or json) as progress:
        found = evaluate(
            table,
            settings=settings,
            rivals=_listed(against),
            folder=cohort.parent,
            by=_listed(by) or ("group",),
            names=names,
            abnormality=None if screening is None else _abnormality(screening),
            cache=rows,
            progress=progress,
        )
    _write(out, found, cohort, time.perf_counter() - begin)
    shutil.rmtree(rows, ignore_errors=True)
    if json:
        typer.echo(json_module.dumps(found.to_json(), indent=2))
    elif not quiet:
        _show(out, found)
    return 0


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _abnormality(path: Path) -> dict[str, float]:
    """Scores by id from a table of `anatrust screen`; scans without a prediction are the strangest."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
        found = {}
        for row in rows:
            if row["verdict"] == "no_prediction":
                found[row["id"]] = float("inf")
            elif row["abnormality"]:
                found[row["id"]] = float(row["abnormality"])
        return found
    except (OSError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise FormatError(
            f"{path} is no table of 'anatrust screen' ({error}): give the file it wrote with -o"
        ) from None


def _write(out: Path, found: Evaluation, cohort: Path, seconds: float) -> None:
    from anatrust.pipeline.case import content_hash
    from anatrust.pipeline.outputs import replace_json, run_record
    from anatrust.report.evaluation_page import evaluation_figures, write_evaluation_page

    found.write_table(out / "metrics.csv")
    replace_json(out / "evaluation.json", found.to_json())
    write_evaluation_page(out / "evaluation.html", found)
    figures = []
    for name, svg in evaluation_figures(found).items():
        figures.append(out / f"{name}.svg")
        figures[-1].write_text(svg + "\n", encoding="utf-8")
    record = run_record(
        command="evaluate",
        configuration=found.settings.to_json() | {"by": list(found.columns)},
        inputs={"cohort": {"name": cohort.name, "sha256": content_hash(cohort)}},
        seed=found.settings.seed,
        timings={"evaluate": seconds},
        outputs=[out / "metrics.csv", out / "evaluation.json", out / "evaluation.html", *figures],
    )
    replace_json(out / "run.json", record)


def _show(out: Path, found: Evaluation) -> None:
    plain: dict[str, Any] = found.to_json()
    typer.echo(f"Wrote {out}: {plain['scans']} scans of {plain['patients']} patients")
    for structure, predictions in plain["summary"].items():
        for which, groups in predictions.items():
            for name, own in groups.items():
                cells = [
                    f"{metric} {_mean(own[metric])}" for metric in ("dice", "surface_dice", "hd95") if metric in own
                ]
                head = structure if which == "mask" else f"{structure}, {which}"
                typer.echo(f"  {head}, {name}: {', '.join(cells) or 'nothing to measure'}")
    for row in plain["comparisons"]:
        if row["metric"] == "dice":
            gap = f"{row['difference']:+.3g}, p = {row['p']:.2g}"
            typer.echo(f"  {row['structure']}: Dice of the mask minus {row['rival']} {gap}")
    for row in plain["left_out"]:
        typer.echo(f"  row {row['row']} left out: {row['reason']}")


def _mean(found: dict[str, Any]) -> str:
    """A mean with its interval; how many scans are infinitely far away stands beside, for no mean holds them."""
    text = f"{found['mean']:.3g}"
    if found["interval"]:
        text += f" ({found['interval'][0]:.3g} to {found['interval'][1]:.3g})"
    return text + (f" but {found['infinite']} infinite" if found["infinite"] else "")
