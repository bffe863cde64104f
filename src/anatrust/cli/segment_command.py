"""``anatrust segment``: find a tumour from its words with a frozen model, then judge what it drew."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

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
from anatrust.cli.planner_options import make_planner
from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.models.protocols import AnchorProvider
    from anatrust.pipeline.cohort import CohortRow
    from anatrust.pipeline.propose import Proposal, ProposalSettings

__all__ = ["segment_command"]

_TABLES = (".csv", ".parquet", ".pq")


def segment_command(
    scan: Annotated[
        Path, typer.Option("-i", "--input", metavar="SCAN", help="The scan, or a cohort table (.csv, .parquet).")
    ],
    target: Annotated[str, typer.Option(metavar="WORDS", help="What is looked for, e.g. 'liver tumour'.")],
    out: OutputFolder = None,
    segmenter: Annotated[str, typer.Option(metavar="NAME", help="Who segments; see 'anatrust info'.")] = "blob",
    weights: Annotated[
        Path | None, typer.Option(metavar="PATH", help="What the segmenter needs: weights, a bundle, an output folder.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.")] = "cpu",
    plain: Annotated[
        bool, typer.Option("--plain", help="The segmenter alone, over the full frame; saves probabilities and logits.")
    ] = False,
    planner: Annotated[str, typer.Option(metavar="NAME", help="Who plans: rules (default) or llm.")] = "rules",
    planner_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Of an OpenAI-compatible server, e.g. http://127.0.0.1:8080/v1.")
    ] = None,
    planner_model: Annotated[str | None, typer.Option(metavar="NAME", help="The model's name there.")] = None,
    planner_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line is the server's key.")
    ] = None,
    planner_keyring: Annotated[
        str | None, typer.Option(metavar="SERVICE:USER", help="Where the system's keyring holds the key.")
    ] = None,
    planner_cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps the model's answers.")] = None,
    anatomy: Annotated[Path | None, typer.Option(metavar="LABELS", help="Organs: asked for anchors first.")] = None,
    anatomy_names: AnatomyNames = None,
    anchors: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=PATH]", help="A further anchor provider; may be given several times."),
    ] = None,
    anchor_profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A profile with sets of the anchor organ.")
    ] = None,
    views: Annotated[
        str, typer.Option(metavar="WHICH", help="Mirrored views: paper (3), identity or flips.")
    ] = "paper",
    fusion: Annotated[str, typer.Option(metavar="HOW", help="Of views and regions: max or mean.")] = "max",
    include_full: Annotated[bool, typer.Option("--include-full", help="Ask about the full frame too.")] = False,
    scales: Annotated[
        str | None, typer.Option(metavar="G", help="Region scales in place of the plan's, e.g. 0.5,1,2.")
    ] = None,
    pad: Annotated[float | None, typer.Option(metavar="MM", help="Padding in place of the plan's.")] = None,
    threshold: Annotated[float, typer.Option(metavar="P", help="Probability from which a voxel is proposed.")] = 0.5,
    max_candidates: Annotated[int, typer.Option(metavar="K", help="Most candidates that are judged.")] = 50,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What 'anatrust fit' learnt with this segmenter.")
    ] = None,
    alpha: Alpha = None,
    null: NullName = None,
    features: Features = None,
    direction: Direction = None,
    no_gates: NoGates = False,
    modality: Modality = None,
    spacing: Spacing = None,
    series: Series = None,
    seed: Seed = 0,
    fail_on: FailOn = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Find a tumour from its words with a frozen model, and judge what it drew; nothing is trained.

    Writes verdict.json, kept.nii.gz, rejected.nii.gz, proposed.nii.gz, probabilities.nii.gz,
    anchors.nii.gz, candidates.csv, report.html and run.json; of a cohort table, a folder a row.
    """
    table = scan.suffix.lower() in _TABLES
    given = {"null": null, "features": features, "direction": direction, "no_gates": no_gates}
    if not target.strip():
        raise InputError("--target is empty: say what is looked for, for example 'liver tumour'")
    check_verdict_options(out, json=json, fail_on=fail_on, seed=seed)
    if (plain or table) and (out is None or json or fail_on):
        raise InputError("a cohort and --plain write folders, no verdict: give -o DIR, without --json and --fail-on")
    if plain:
        _refuse_unused(
            {
                **{"anatomy": anatomy, "anatomy-names": anatomy_names, "anchors": anchors, "pad": pad},
                **{"anchor-profile": anchor_profile, "include-full": include_full, "scales": scales},
                **{"profile": profile, "alpha": alpha, **given},
            }
        )
    elif table and anatomy is not None:
        raise InputError("a cohort brings its own organs: name them in the table's column 'anatomy', not by --anatomy")
    elif anatomy_names is not None and anatomy is None and not table:
        raise InputError("--anatomy-names names the labels of --anatomy, which is missing: give both")
    from anatrust.models.registry import load_segmenter

    how = _proposal(views, fusion, include_full, scales, pad, threshold, max_candidates)
    model = load_segmenter(segmenter, weights, device=device)
    plans = make_planner(
        planner,
        url=planner_url,
        model=planner_model,
        key_file=planner_key_file,
        keyring=planner_keyring,
        cache=planner_cache,
    )
    reading: dict[str, Any] = {"modality": modality, "spacing": parse_spacing(spacing), "series": parse_series(series)}
    run: Any
    with progress_bar(quiet or json) as progress:
        if plain:
            from anatrust.pipeline.plain import segment_plain

            run = functools.partial(
                segment_plain, target=target, segmenter=model, planner=plans, settings=how, **reading
            )
        else:
            from anatrust.report.assess import segment

            run = functools.partial(
                segment,
                target=target,
                segmenter=model,
                device=device,
                planner=plans,
                anatomy_names=anatomy_names,
                anchors=_anchors(anchors, device),
                anchor_profile=anchor_profile,
                proposal=how,
                profile=profile,
                alpha=alpha,
                settings=rejection_settings(profile, given),
                seed=seed,
                **reading,
            )
        if table:
            what = {"plain": plain, "segmenter": model.identity, "anchors": anchors, "seed": seed, **how.to_json()}
            what |= {"planner": [planner, planner_url, planner_model], "target": target, "alpha": alpha, **given}
            what |= {"anatomy_names": _content(anatomy_names), "profile": _content(profile), **reading}
            what |= {"anchor_profile": _content(anchor_profile)}
            _cohort(scan, cast(Path, out), run, what, plain=plain, quiet=quiet, progress=progress)
            return 0
        if plain:
            found = run(scan, out=cast(Path, out), progress=progress)
        else:
            verdict = run(scan, anatomy=anatomy, out=out, progress=progress)
    if plain:
        if not quiet:
            typer.echo(_plain_text(found, cast(Path, out), threshold))
        return 0
    from anatrust.cli.show_verdict import tell_verdict

    return tell_verdict(verdict, out, json=json, quiet=quiet, fail_on=fail_on)


def _refuse_unused(options: Mapping[str, object]) -> None:
    """The segmenter alone has no anchors, regions or judgement: an option about them would change nothing."""
    unused = [f"--{name.replace('_', '-')}" for name, value in options.items() if value not in (None, False)]
    if unused:
        raise InputError(f"--plain is the segmenter alone and makes no use of {', '.join(unused)}: leave it out")


def _proposal(
    views: str, fusion: str, full: bool, scales: str | None, pad: float | None, threshold: float, most: int
) -> ProposalSettings:
    from anatrust.pipeline.propose import ProposalSettings

    numbers = None
    if scales is not None:
        try:
            numbers = tuple(float(part) for part in scales.split(","))
        except ValueError:
            raise InputError(f"--scales {scales!r} is not numbers: write for example 0.5,1,2") from None
    # Their types are checked when the settings are made.
    return ProposalSettings(cast(Any, views), cast(Any, fusion), full, pad, numbers, threshold, most)


def _anchors(names: list[str] | None, device: str) -> tuple[AnchorProvider, ...]:
    from anatrust.models.registry import load_anchors

    made = []
    for text in names or []:
        name, _, path = text.partition("=")
        # The registry stands below the rooms of the methods and cannot load theirs.
        made.append(
            _reference_anchors(path) if name == "reference" else load_anchors(name, path or None, device=device)
        )
    return tuple(made)


def _reference_anchors(path: str) -> AnchorProvider:
    from anatrust.pipeline.bank_file import load_bank
    from anatrust.reference.anchors import ReferenceAnchors

    if not path:
        raise InputError("anchors from references need a bank: --anchors reference=FILE.bank")
    return ReferenceAnchors(load_bank(path))


def _plain_text(found: Proposal, out: Path, threshold: float) -> str:
    """One line: how much was drawn, and where it lies."""
    import numpy as np

    drawn = int(np.count_nonzero(found.labels.array))
    name = "mask.png" if found.labels.grid.layout == "raster" else "mask.nii.gz"
    largest = f"the largest probability is {found.largest:.2f}"
    return f"{drawn} voxels have a probability of {threshold:g} or more ({largest}); nothing was judged: {out / name}"


def _content(source: str | Path | None) -> str | None:
    """What identifies an option that may name a file: a cohort goes on with the same content, not the same path."""
    from anatrust.pipeline.case import content_hash

    if source is None:
        return None
    return content_hash(source) if Path(source).is_file() else str(source)


def _cohort(
    table: Path, out: Path, run: Any, request: dict[str, Any], *, plain: bool, quiet: bool, progress: Any
) -> None:
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.segment_cohort import segment_cohort

    def one(row: CohortRow, folder: Path) -> None:
        if plain:
            run(row.image, out=folder)
        else:
            run(row.image, anatomy=row.anatomy, out=folder)

    found = segment_cohort(Cohort.read(table), out, one, request=request, progress=progress)
    if quiet:
        return
    typer.echo(f"{found.done} scans segmented, {found.skipped} were there already: {found.table}")
    for finding in found.findings:
        typer.echo(f"{finding.severity}: {finding.sentence} {finding.cure}")
