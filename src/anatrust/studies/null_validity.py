"""Study `null-validity`: how often each null calls normal tissue different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.blob import blob_candidates, threshold_candidates
from anatrust.rejection.score import candidate_scores
from anatrust.rejection.settings import GateSettings, RejectionSettings, TissueSettings
from anatrust.studies import judge, null_validity_summary
from anatrust.studies.needs import MODULES
from anatrust.studies.phantom import phantom_scan
from anatrust.studies.phantom_vessels import bare_liver, is_vessel, vessels_of
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.textures import TextureKind
from anatrust.studies.tissues import (
    TissueSample,
    amos_slice,
    cardiac_patients,
    components,
    hippocampus_patients,
    phantom_organ,
    random_places,
    source_files,
    texture_disc,
    volume_organ,
)

__all__ = ["STUDY"]

_SELF = ("anatrust.studies.null_validity", "anatrust.studies.phantom_vessels")
# Those that promise something first: a run that is stopped has what matters.
_NULLS = ("surrogate-max", "placement", "iid", "placement-exceed", "block")
_DRAWS = 199
_SURROGATES = 99

_AMOS = {"spleen": 1, "right kidney": 2, "liver": 6, "stomach": 7, "bladder": 14}
_CT = {"spleen": 1, "right kidney": 2, "liver": 5, "gluteus": 80}
_MR = {"spleen": 1, "right kidney": 2, "liver": 5}
_PHANTOM = ("liver", "spleen")
_BARE = "liver without vessels"
_TEXTURES: tuple[tuple[TextureKind, float], ...] = (
    ("gaussian", 2),
    ("gaussian", 6),
    ("gaussian", 12),
    ("exponential", 4),
    ("mixture", 6),
    ("ct", 2),
)
# How each source's candidates are chosen: blob diameters, and smoothing, least diameter and rim of the threshold.
_CHOICE: dict[str, tuple[tuple[float, ...], float, float, float]] = {
    "texture": ((8.0, 16.0), 2.0, 5.0, 0.0),
    "amos": ((6.8, 13.6), 2.0, 5.0, 0.0),
    "ct3mm": ((12.0, 20.0), 3.0, 8.0, 0.0),
    "mr": ((12.0, 18.0), 3.0, 8.0, 0.0),
    "phantom": ((12.0, 20.0), 3.0, 8.0, 0.0),
    "hippocampus": ((5.0,), 1.0, 3.0, 0.0),
    "cardiac": ((8.0,), 1.5, 5.0, 0.0),
}


def _cells(context: Context) -> list[Cell]:
    cells = []
    for source, blocks in (("phantom", 1 if context.quick else 6), ("hippocampus", 1), ("cardiac", 1)):
        for block in range(blocks):
            parameters = {"task": "cohort", "source": source, "block": block}
            cells.append(_cell(f"cohort/{source}/{block}", parameters, source, "cohort", context))
    for null in _NULLS:
        for task, source, tissue, sizes in _grid(context.quick):
            # The variant of placement, and blocks of voxels, are there to compare them at random places.
            if null in ("placement-exceed", "block") and task == "selected" and source != "texture":
                continue
            # Surrogates are slow, and what holds for chosen places holds for random ones: textures show it.
            if null == "surrogate-max" and task == "random" and source != "texture":
                continue
            for size in sizes if null != "surrogate-max" or task == "selected" else sizes[:1]:
                parameters = {"task": task, "source": source, "tissue": tissue, "size": size, "null": null}
                key = "/".join(str(v) for v in (task, source, tissue, size, null))
                cells.append(_cell(key, parameters, source, null, context))
    return cells


def _cell(key: str, parameters: dict[str, Any], source: str, null: str, context: Context) -> Cell:
    return Cell(key, parameters, files=source_files(source, context), needs=(*MODULES[null], *_SELF))


def _grid(quick: bool) -> Iterator[tuple[str, str, str, Sequence[float | str]]]:
    """Task, source, tissue, and sizes (random places) or ways of choosing (selected places)."""
    ways = ("blobs", "threshold")
    if quick:
        yield "random", "amos", "liver", (8.0,)
        yield "random", "texture", "gaussian 6", (8.0,)
        yield "selected", "texture", "gaussian 6", ("blobs",)
        yield "selected", "phantom", "spleen", ("threshold",)
        return
    for organ in _AMOS:
        # 8 and 16 pixels across: the discs of radius 4 and 8 of the independent check.
        yield "random", "amos", organ, (8.0, 16.0)
    for source, organs in (("ct3mm", tuple(_CT)), ("mr", tuple(_MR)), ("phantom", _PHANTOM)):
        for organ in organs:
            yield "random", source, organ, (12.0,)
    yield "random", "hippocampus", "hippocampus", (5.0,)
    yield "random", "cardiac", "left ventricle", (8.0, 16.0)
    for kind, length in _TEXTURES:
        yield "random", "texture", f"{kind} {length:g}", (8.0,)
        yield "selected", "texture", f"{kind} {length:g}", ways
    for organ in ("spleen", "liver", "right kidney"):
        yield "selected", "amos", organ, ways
    for source, organs in (("ct3mm", tuple(_CT)), ("mr", tuple(_MR)), ("phantom", _PHANTOM)):
        for organ in organs:
            yield "selected", source, organ, ways
    yield "selected", "phantom", _BARE, ways
    yield "selected", "hippocampus", "hippocampus", ways
    yield "selected", "cardiac", "left ventricle", ways


def _samples(source: str, tissue: str, task: str, null: str, context: Context) -> Iterator[TissueSample]:
    """The tissue samples of a cell; each is one patient, slice or realisation."""
    few = context.quick
    # The null that has to hold at selected places gets more realisations than those that need not.
    holds = task == "selected" and null == "surrogate-max"
    if source == "amos":
        for rank in range(1 if task == "random" or few else 4):
            yield amos_slice(context, _AMOS[tissue], tissue, rank=rank)
    elif source in ("ct3mm", "mr"):
        yield volume_organ(context, source, (_CT if source == "ct3mm" else _MR)[tissue], tissue)
    elif source == "phantom":
        for k in range(3 if few else 20 if holds else 12):
            seed = _phantom_seed(k, context)
            yield bare_liver(seed) if tissue == _BARE else phantom_organ(seed, tissue)
    elif source == "hippocampus":
        yield from hippocampus_patients(context, limit=3 if few else 30)
    elif source == "cardiac":
        for _, slices in cardiac_patients(context, limit=3 if few else None):
            yield max(slices, key=lambda s: int(s.domain.sum()))
    else:
        kind, length = tissue.split()
        for k in range(6 if few else 40 if holds else 10):
            rng = np.random.default_rng([context.seed, k, len(kind), int(float(length))])
            yield texture_disc(rng, cast(TextureKind, kind), float(length))


def _phantom_seed(k: int, context: Context) -> int:
    return 90_000 + 1000 * context.seed + k


# Random places a sample: one patient gives few, a single scan must give all there are.
_PLACES = {"amos": 60, "ct3mm": 30, "mr": 30, "phantom": 6, "hippocampus": 2, "cardiac": 4, "texture": 1}


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    if p["task"] == "cohort":
        return _cohort(p["source"], p["block"], context)
    if p["task"] == "random":
        return _random(p, context)
    return _selected(p, context)


def _random(p: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Candidates at uniformly random admissible places: each is an experiment of its own."""
    null, source = p["null"], p["source"]
    hits: dict[str, list[int]] = {}
    undecidable = 0
    share = []
    for k, sample in enumerate(_samples(source, p["tissue"], "random", null, context)):
        rng = np.random.default_rng([context.seed, k, int(p["size"])])
        diameter = p["size"] * (sample.spacing[0] if source == "amos" else 1.0)
        wanted = _PLACES[source] if not context.quick else min(10, _PLACES[source])
        if null == "surrogate-max":
            # Every place is a call with its own surrogates.
            wanted = min(wanted, 4)
        candidates = random_places(sample, diameter, wanted, rng)
        if not candidates:
            continue
        share.append(candidates[0].sum() / sample.domain.sum())
        features = judge.features_of(sample, "intensity", null)
        seed = 1000 * context.seed + 17 * k
        if null == "surrogate-max":
            results = [
                r
                for i, c in enumerate(candidates)
                for r in judge.p_values(null, features, sample, [c], seed=seed + i, draws=_SURROGATES)
            ]
        else:
            results = judge.p_values(null, features, sample, candidates, seed=seed, draws=_DRAWS, alone=True)
        hits.setdefault(sample.patient, []).extend(int(r.p_value <= 0.05) for r in results)
        undecidable += sum(r.abstained is not None or r.floor > 0.05 for r in results)
    return {"hits": hits, "undecidable": undecidable, "share": round(float(np.mean(share)), 4) if share else None}


def _selected(p: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Candidates a segmenter chose by looking: one experiment a sample."""
    null, way = p["null"], p["size"]
    single: dict[str, list[int]] = {}
    any_kept: dict[str, list[int]] = {}
    beside: dict[str, list[int]] = {}
    undecidable = tested = 0
    for k, sample in enumerate(_samples(p["source"], p["tissue"], "selected", null, context)):
        seed = 1000 * context.seed + 17 * k
        features = judge.features_of(sample, "intensity", null)
        diameters, smoothing, minimum, margin = _CHOICE[p["source"]]
        if way == "blobs":
            first = blob_candidates(sample.scan, sample.organ, 1, diameters=diameters, side="bright").array
            five = blob_candidates(sample.scan, sample.organ, 5, diameters=diameters, side="bright")
            candidates = components(five.array)
        else:
            found = threshold_candidates(
                sample.scan, sample.organ, contrast=2.0, smoothing=smoothing, minimum=minimum, margin=margin
            )
            # The largest five stand for the rest: enough to see, and small ones are harder to keep.
            candidates = sorted(components(found.array), key=lambda c: -int(c.sum()))[:5]
            first = np.ones_like(sample.domain)
        draws = _SURROGATES if null == "surrogate-max" else _DRAWS
        results = judge.p_values(null, features, sample, candidates, seed=seed, draws=draws) if candidates else []
        # Of the blobs the brightest is the experiment, of the threshold's candidates each.
        solo = [r for r, c in zip(results, candidates, strict=True) if (c & first).any()]
        single.setdefault(sample.patient, []).extend(int(r.p_value <= 0.05) for r in solo)
        kept = judge.any_kept(null, results, 0.10)
        any_kept.setdefault(sample.patient, []).append(int(any(kept)))
        if (p["source"], p["tissue"]) == ("phantom", "liver"):
            vessels = vessels_of(_phantom_seed(k, context))
            other = [hit and not is_vessel(c, vessels) for hit, c in zip(kept, candidates, strict=True)]
            beside.setdefault(sample.patient, []).append(int(any(other)))
        undecidable += sum(r.abstained is not None or r.floor > 0.05 for r in solo)
        tested += len(solo)
    found_all = {"single": single, "any": any_kept, "undecidable": undecidable, "tested": tested}
    return found_all | ({"beside_vessels": beside} if beside else {})


def _cohort(source: str, block: int, context: Context) -> Mapping[str, Any]:
    """Scores of what two segmenters invent in lesion-free patients, patient by patient."""
    settings = RejectionSettings(gates=GateSettings(enabled=False), tissue=TissueSettings(reference="plain"))
    scores: dict[str, dict[str, list[float]]] = {"blobs": {}, "threshold": {}}
    for patient, scan, anatomy, organ in _healthy(source, block, context):
        diameters, smoothing, minimum, margin = _CHOICE[source]
        found = {
            "blobs": blob_candidates(scan, organ, 5, diameters=diameters),
            "threshold": threshold_candidates(
                scan, organ, contrast=2.5, smoothing=smoothing, minimum=minimum, margin=margin
            ),
        }
        for way, mask in found.items():
            values = candidate_scores(scan, mask, anatomy, settings) if mask.array.any() else np.empty(0)
            # A candidate that cannot be compared is never kept, so it does not enter the null either.
            finite = [round(float(v), 8) for v in values if np.isfinite(v)]
            scores[way].setdefault(patient, []).extend(finite)
    return {"scores": scores}


def _healthy(source: str, block: int, context: Context) -> Iterator[tuple[str, Scan, LabelMap, Mask]]:
    """Lesion-free scans with anatomy and the organ a segmenter looks into."""
    few = context.quick
    if source == "phantom":
        for k in range(4 if few else 20):
            seed = 50_000 + 1000 * context.seed + 20 * block + k
            phantom = phantom_scan(seed, lesions=0, quick=True)
            yield f"phantom-{seed}", phantom.scan, phantom.anatomy, phantom.anatomy.mask("liver")
    elif source == "hippocampus":
        for sample in hippocampus_patients(context, limit=4 if few else None):
            yield sample.patient, sample.scan, _anatomy(sample), sample.organ
    else:
        for _, slices in cardiac_patients(context, limit=4 if few else None):
            for sample in slices:
                yield sample.patient, sample.scan, _anatomy(sample), sample.organ


def _anatomy(sample: TissueSample) -> LabelMap:
    grid: Grid = sample.organ.grid
    return LabelMap(sample.domain.astype(np.uint8), grid, {1: sample.name})


STUDY = Study(
    name="null-validity",
    question="How often does each null call normal tissue different, at places chosen blindly and by looking?",
    cells=_cells,
    run=_run,
    summarise=null_validity_summary.summarise,
    tables=null_validity_summary.tables,
    figures=null_validity_summary.figures,
)
