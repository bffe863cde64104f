"""``anatrust annotate``: anatomy from labelled references."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anatrust.cli.console import columns, progress_bar
from anatrust.cli.options import (
    Json,
    Modality,
    OutputFolder,
    Quiet,
    Series,
    Spacing,
    Verbose,
    parse_series,
    parse_spacing,
)
from anatrust.cli.reasoner_options import make_reasoner
from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.models.annotation import Annotation

__all__ = ["annotate_command"]

_MOST_ROWS = 40


def annotate_command(
    scan: Annotated[Path, typer.Option("-i", "--input", metavar="SCAN", help="The scan: NIfTI, DICOM, NRRD, PNG, ...")],
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", metavar="SCAN", help="A labelled scan of another patient; repeatable."),
    ] = None,
    reference_labels: Annotated[
        list[Path] | None,
        typer.Option("--reference-labels", metavar="LABELS", help="Its labels; one for each reference, in order."),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Choose the references from a bank, see anatrust bank.")
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="References to take from the bank at most.")] = 5,
    out: OutputFolder = None,
    reasoner: Annotated[str, typer.Option(metavar="NAME", help="Who reasons; see anatrust info.")] = "registration",
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Try turned and enlarged views of each reference, keep what fits best.")
    ] = False,
    priors: Annotated[
        bool, typer.Option("--priors", help="Put the answer in order by the layout that the references share.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Annotate labelled references first, to tell what to expect of each.")
    ] = False,
    regions: Annotated[
        Path | None, typer.Option(metavar="LABELS", help="Outlined regions of the scan to name, one number each.")
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Names of the labels: a built-in table or a JSON file.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR|NAME", help="vlm, seggpt: the model's folder, or its name on the server."),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="vlm: a LoRA adapter; repeatable, in the order trained.")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(metavar="DIR", help="vlm: what 'anatrust train seg' saved; needs --sam2.")
    ] = None,
    sam2: Annotated[str | None, typer.Option(metavar="DIR", help="vlm: SAM 2, for masks or to draw in boxes.")] = None,
    four_bit: Annotated[bool, typer.Option("--four-bit", help="vlm: NF4 weights, on CUDA.")] = False,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="vlm: cpu (default) or cuda.")] = None,
    boxes_in: Annotated[
        str | None, typer.Option(metavar="UNIT", help="vlm: boxes in pixels, thousand or unit; as trained by default.")
    ] = None,
    keys: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="vlm, volumes: slices asked about in each plane (default 3).")
    ] = None,
    tri_planar: Annotated[bool, typer.Option("--tri-planar", help="vlm, volumes: three planes vote.")] = False,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="vlm: an OpenAI-compatible server, by default on this machine.")
    ] = None,
    send_images: Annotated[
        bool, typer.Option("--send-images", help="vlm: allow that images leave this machine for the endpoint.")
    ] = False,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="vlm: the endpoint's key is the file's first line.")
    ] = None,
    keyring: Annotated[
        str | None, typer.Option(metavar="SERVICE:USER", help="vlm: where the system's keyring holds the key.")
    ] = None,
    modality: Modality = None,
    spacing: Spacing = None,
    series: Series = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Find the structures of labelled references in a scan: names, boxes, masks, confidences.

    Writes annotation.json, labels.nii.gz, structures.csv, report.html and run.json.
    """
    if out is None and not json:
        raise InputError("say where the results shall go with -o DIR, or print the answer with --json")
    if bank is None and not reference:
        raise InputError("give --reference and --reference-labels, or a --bank to choose from")
    from anatrust.report.annotation import annotate

    who = make_reasoner(
        reasoner,
        endpoint=endpoint,
        key_file=key_file,
        keyring=keyring,
        model=model,
        adapters=tuple(adapter or ()),
        masks=masks,
        sam2=sam2,
        four_bit=four_bit,
        device=device,
        convention=boxes_in,
        send_images=send_images,
        keys=keys,
        tri_planar=tri_planar,
    )
    with progress_bar(quiet or json) as progress:
        found = annotate(
            scan,
            list(reference) if reference else None,
            list(reference_labels) if reference_labels else None,
            bank=bank,
            k=k,
            reasoner=who,
            adaptive=adaptive,
            priors=priors,
            rehearse=rehearse,
            regions=regions,
            names=names,
            modality=modality,
            spacing=parse_spacing(spacing),
            series=parse_series(series),
            out=out,
            progress=progress,
        )
    if json:
        typer.echo(json_module.dumps(found.to_json(), indent=2))
    elif not quiet:
        count = sum(s.found for s in found.structures)
        typer.echo(f"{found.decision.upper()}  {count} structure{'s' if count != 1 else ''} found")
        typer.echo("\n".join([*(f"  - {reason}" for reason in found.reasons), ""]))
        typer.echo("\n".join(_table(found)))
        for r in found.regions:
            typer.echo(f"region {r.region}: {r.name or '-'} {f'({r.confidence:.2f})' if r.name else f'({r.reason})'}")
        typer.echo(f"\nReport: {out / 'report.html'}" if out else "")
    return 0


def _table(found: Annotation) -> list[str]:
    """A line for each structure; none where there is no answer, for its reasons have been told."""
    if found.abstained:
        return []
    header = ["label", "structure", "confidence", "expected", "voxels"]
    rows = [
        [
            str(s.number),
            s.name,
            f"{s.confidence:.2f}" if s.found else "-",
            "-" if s.expected is None else f"{s.expected:.2f}",
            str(s.voxels) if s.found else s.reason,
        ]
        for s in found.structures[:_MOST_ROWS]
    ]
    if all(s.expected is None for s in found.structures):  # not rehearsed
        header, *rows = ([*row[:3], row[4]] for row in (header, *rows))
    lines = columns(header, rows)
    if len(found.structures) > _MOST_ROWS:
        lines.append(f"... and {len(found.structures) - _MOST_ROWS} more")
    if any(s.name == f"label {s.number}" for s in found.structures):
        lines.append("Labels without names: say what they mean with --names, a built-in table or a JSON file.")
    return lines
