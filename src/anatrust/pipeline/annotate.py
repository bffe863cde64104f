"""Anatomy of a scan from labelled references: read, retrieve, reason, write."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anatrust.errors import InputError
from anatrust.image.adapter import written_name
from anatrust.image.orientation import canonical_grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.image.write import write_mask
from anatrust.models.annotation import Annotation, NamedRegion, Reference
from anatrust.models.protocols import Reasoner, RegionNamer
from anatrust.pipeline.case import Names, content_hash
from anatrust.pipeline.outputs import check_output_folder, output_folder, replace_json, run_record
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.read_references import listed, read_references
from anatrust.reference.bank import ReferenceBank
from anatrust.reference.descriptor import ScanDescriptor

__all__ = ["AnnotationPage", "annotate"]

SCHEMA_VERSION = 1
_COVERED = 0.5
_COLUMNS = (
    "number",
    "name",
    "found",
    "confidence",
    "voxels",
    "agreement",
    "similarity",
    "appearance",
    "expected",
    "reason",
)


class AnnotationPage(Protocol):
    """What writes the page: the report room's `write_annotation_report`, which stands above this room."""

    def __call__(
        self, path: Path, annotation: Annotation, scan: Scan, *, run: Mapping[str, Any] | None = None
    ) -> object:
        """Write one self-contained HTML file."""


def annotate(
    scan: object,
    reference: object = None,
    reference_labels: object = None,
    *,
    bank: ReferenceBank | str | Path | None = None,
    k: int = 5,
    descriptor: ScanDescriptor | None = None,
    reasoner: str | Reasoner = "registration",
    adaptive: bool = False,
    priors: bool = False,
    rehearse: bool = False,
    regions: object = None,
    names: Names = None,
    modality: str | None = None,
    spacing: float | Sequence[float] | None = None,
    series: int | str | None = None,
    out: str | Path | None = None,
    page: AnnotationPage | None = None,
    progress: Progress | None = None,
) -> Annotation:
    """Find the structures of labelled references in a scan of another patient.

    Parameters
    ----------
    scan
        Path or object, see `read_scan`: a volume or a single image.
    reference, reference_labels
        One labelled scan, or lists of equal length; each of the same kind (volume or image) and
        body part as the scan. Labels must lie in their scan's space.
    bank
        A `ReferenceBank` or its file, from which the references are chosen; instead of
        ``reference`` and ``reference_labels``.
    k
        How many references the bank gives at most.
    descriptor
        What describes the scan for the bank, where it was not built with the embedded one.
    reasoner
        Its name in the registry, or any `Reasoner`; `anatrust.pipeline.language.language_reasoner` gives the one of
        a vision-language model, which has to be told its model.
    adaptive
        Try turned and enlarged views of each reference too and keep the one on which labels carried to the scan and
        back come back best, see `AdaptiveMemory`.
    priors
        Put the answer in order by the layout that the references (all of the bank's, where there is one) share, see
        `LayoutPrior`; five are the least.
    rehearse
        First annotate labelled references from the others, at most eight, the bank's nearest: what they overlap
        with their own labels tells which structures to expect how well, see `Rehearsal`; structures of which less
        than 0.7 is expected are no longer sure. Needs four references or a bank.
    regions
        Numbered regions that somebody outlined in the scan (path or object): each is named. A vision-language
        reasoner is asked about each in an image; else it is named after the structure that covers most of it.
    names
        Names of the labels: a built-in table, a JSON file or a mapping.
    modality, spacing, series
        Of the scan, see `read_scan`; the modality is taken for the references too, where they do
        not say their own.
    out
        Folder for ``annotation.json``, ``labels.nii.gz`` (PNG for pictures), ``structures.csv``, ``regions.csv`` where
        there are regions, ``report.html`` and ``run.json``. None writes nothing.
    page
        Writes ``report.html``; `anatrust.annotate` gives the one of the report room.
    progress
        Told ``(stage, done, total)``.

    Returns
    -------
    Annotation
        On the scan's grid. Its ``decision`` is ``abstain`` where no reference suits.

    Raises
    ------
    InputError
        If something cannot be read or does not fit: one line that says what and how to mend it.

    Guarantee
    ---------
    None about a voxel: confidences rank, they are no probabilities. The same inputs give the
    same answer, whatever the orientation the files are stored in.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.mgrid[:48, :48]
    >>> disc = lambda c: np.exp(-((x - c) ** 2 + (y - 24) ** 2) / 60.0).astype(np.float32)
    >>> known = (disc(20) > 0.5).astype(np.uint8)
    >>> found = annotate((disc(27), np.eye(3)), (disc(20), np.eye(3)), (known, np.eye(3)), names={1: "disc"})
    >>> found.structures[0].name, found.structures[0].box
    ('disc', ((21, 34), (18, 31)))
    """
    if out is not None:
        check_output_folder(out)
    begin = time.perf_counter()
    if progress:
        progress("read", 0, 1)
    target = read_scan(scan, modality=modality, spacing=spacing, series=series)
    outlined = None if regions is None else read_mask(regions, reference=target.grid)
    chosen = _reasoner(reasoner)
    held = _bank(bank, reference, reference_labels)
    if held is None:
        references = read_references(reference, reference_labels, names=names, modality=modality)
    timings = {"read": time.perf_counter() - begin}
    begin = time.perf_counter()
    if held is None:
        suited, refused = _same_modality(target, references)
    else:
        retrieval = held.retrieve(target, k, descriptor=descriptor)
        suited, refused = list(held.references(retrieval)), [retrieval.refused] if retrieval.refused else []
        references = tuple(suited) if suited else tuple(e.reference for e in held.entries)
    if suited:
        known = suited if held is None else [e.reference for e in held.entries]
        who = _switched(chosen, target, known, adaptive, priors)
        if rehearse:
            from anatrust.reference.rehearsal import Rehearsal, RehearsedReasoner, lessons_of, lessons_of_bank

            lessons = lessons_of(suited) if held is None else lessons_of_bank(held, target, k, descriptor=descriptor)
            who = RehearsedReasoner(who, Rehearsal.hold(who, lessons, progress))
        found = who.annotate(target, suited, progress)
        if refused:
            found = replace(found, remarks=(*refused, *found.remarks))
        if outlined is not None:
            found = replace(found, regions=_named(chosen, target, outlined, suited, found))
    else:
        table = {n: name for r in references for n, name in r.names().items()}
        found = Annotation.none(target, table, chosen.identity, f"no suitable reference: {refused[0]}")
    timings["reason"] = time.perf_counter() - begin
    if out is not None:
        inputs = _inputs(target, scan, references, reference, reference_labels, bank)
        if outlined is not None:
            inputs["regions"] = _about(regions, outlined)
        _write(Path(out), found, target, inputs, _names(references), timings, page)
    return found


def _same_modality(target: Scan, references: Sequence[Reference]) -> tuple[list[Reference], list[str]]:
    """References of the scan's modality, and a sentence for each that is refused."""
    suited, refused = [], []
    for reference in references:
        other = reference.scan.modality
        if "unknown" in (target.modality, other) or target.modality == other:
            suited.append(reference)
        else:
            refused.append(f"the reference {reference.identifier} is {other} and the scan {target.modality}")
    return suited, refused


def _reasoner(wanted: str | Reasoner) -> Reasoner:
    if not isinstance(wanted, str):
        return wanted
    if wanted == "registration":
        from anatrust.reference.registration_reasoner import RegistrationReasoner

        return RegistrationReasoner()
    if wanted == "correspondence":
        from anatrust.reference.correspondence_reasoner import CorrespondenceReasoner

        return CorrespondenceReasoner()
    if wanted in ("vlm", "seggpt"):
        raise InputError(f"the reasoner {wanted!r} needs a model: give the object, see docs/reference/reference.md")
    raise InputError(f"there is no reasoner {wanted!r}: choose registration, correspondence, seggpt or vlm")


def _switched(reasoner: Reasoner, target: Scan, known: Sequence[Reference], adaptive: bool, priors: bool) -> Reasoner:
    """The reasoner with an adaptive memory, and with what the known references tell about layouts, where wanted."""
    if adaptive:
        from anatrust.reference.adaptive_memory import AdaptiveMemory

        reasoner = AdaptiveMemory(reasoner)
    if priors:
        from anatrust.reference.layout_prior import LayoutPrior, RepairedReasoner

        plane = canonical_grid(target.grid).orientation
        maps = [r.labels for r in known if canonical_grid(r.labels.grid).orientation == plane]
        reasoner = RepairedReasoner(reasoner, LayoutPrior.learn(maps))
    return reasoner


def _named(
    reasoner: Reasoner, target: Scan, outlined: LabelMap, references: Sequence[Reference], found: Annotation
) -> tuple[NamedRegion, ...]:
    """Names of outlined regions: asked for, or those of the structures that cover them."""
    if isinstance(reasoner, RegionNamer) and target.grid.ndim == 2:
        return reasoner.name_regions(target, outlined, references)
    told = []
    for region in outlined.labels():
        inside = found.labels.array[outlined.array == region]
        numbers, counts = np.unique(inside[inside > 0], return_counts=True)
        share = float(counts.max()) / inside.size if counts.size else 0.0
        if share < _COVERED:
            told.append(NamedRegion(region, None, "", 0.0, "no structure covers half of it"))
            continue
        one = next(s for s in found.structures if s.number == int(numbers[counts.argmax()]))
        told.append(NamedRegion(region, one.number, one.name, round(share * one.confidence, 4)))
    return tuple(told)


def _bank(bank: ReferenceBank | str | Path | None, reference: object, labels: object) -> ReferenceBank | None:
    if bank is None:
        return None
    if reference is not None or labels is not None:
        raise InputError("give references or a bank, not both")
    if isinstance(bank, ReferenceBank):
        return bank
    from anatrust.pipeline.bank_file import load_bank

    return load_bank(bank)


def _inputs(
    target: Scan, scan: object, references: Sequence[Reference], images: object, maps: object, bank: object
) -> dict[str, dict[str, str]]:
    inputs = {"scan": _about(scan, target)}
    if isinstance(bank, str | Path):
        return {**inputs, "bank": {"name": written_name(bank), "sha256": content_hash(bank)}}
    given = (listed(images), listed(maps)) if bank is None else ([r.scan for r in references], [None] * len(references))
    for number, (image, drawn, read) in enumerate(zip(*given, references, strict=True), start=1):
        inputs[f"reference {number}"] = _about(image, read.scan)
        inputs[f"reference {number} labels"] = _about(drawn, read.labels)
    return inputs


def _write(
    out: Path,
    found: Annotation,
    target: Scan,
    inputs: Mapping[str, Mapping[str, str]],
    names: Mapping[str, str],
    timings: dict[str, float],
    page: AnnotationPage | None,
) -> None:
    begin = time.perf_counter()
    suffix = ".png" if target.grid.layout == "raster" else ".nii.gz"
    with output_folder(out) as folder:
        write_mask(folder / f"labels{suffix}", found.labels)
        plain = {"schema_version": SCHEMA_VERSION, "scan": target.identifier, **found.to_json()}
        text = json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        (folder / "annotation.json").write_text(text, encoding="utf-8")
        _write_structures(folder / "structures.csv", found)
        if found.regions:
            _write_regions(folder / "regions.csv", found)
        if page is not None:
            page(folder / "report.html", found, target)
        record = run_record(
            command="annotate",
            configuration={"reasoner": found.reasoner, "modality": target.modality, "names": names},
            inputs=inputs,
            seed=0,
            timings={**timings, "write": time.perf_counter() - begin},
            outputs=list(folder.iterdir()),
        )
        replace_json(folder / "run.json", record)


def _write_structures(path: Path, found: Annotation) -> None:
    axes = "ijk"[: found.labels.grid.ndim]
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*_COLUMNS, *(f"box_{axis}_{end}" for axis in axes for end in ("start", "stop"))])
        for s in found.structures:
            cells = ["" if getattr(s, name) is None else getattr(s, name) for name in _COLUMNS]
            edges = [edge for pair in s.box for edge in pair] if s.box else [""] * (2 * len(axes))
            writer.writerow([*cells, *edges])


def _write_regions(path: Path, found: Annotation) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(found.regions[0].to_json()), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in r.to_json().items()} for r in found.regions)


def _names(references: Sequence[Reference]) -> dict[str, str]:
    return {str(n): name for r in references for n, name in r.names().items()}


def _about(source: object, image: Scan | LabelMap) -> dict[str, str]:
    if isinstance(source, str | Path):
        return {"name": written_name(source), "sha256": content_hash(source)}
    return {"name": f"{type(source).__name__} in memory", "sha256": content_hash(image)}
