"""Study `real-tumours`: soft-tissue sarcomas on CT, MR and PET among normal blobs of similar size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.rejection.body import body_mask
from anatrust.rejection.case import prepare
from anatrust.rejection.comparison import compare_with
from anatrust.rejection.judge import reject
from anatrust.rejection.settings import Null, RejectionSettings
from anatrust.studies.needs import MODULES
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import ball_at

__all__ = ["STUDY"]

_PATIENTS = ("001", "002")
_MODALITIES = {"ct": "CT", "mr_t1": "MR", "pet": "PET"}
_NULLS: tuple[Null, ...] = ("surrogate-max", "placement", "block", "iid")
# Also without the blobs, as a user has it: one tumour, one test.
_ALONE: tuple[Null, ...] = ("surrogate-max", "placement")
# What could be found in the tumour's place: one value, so many standard deviations above normal tissue.
_RAISED = (2, 4, 8, 16, 32)
_BLOBS = 10
_SELF = (
    "anatrust.studies.real_tumours",
    *(
        f"anatrust.rejection.{room}"
        for room in ("judge", "nulls", "score", "comparison", "tissue", "correction", "body")
    ),
)


def _cells(context: Context) -> list[Cell]:
    cells = []
    for patient in _PATIENTS[:1] if context.quick else _PATIENTS:
        for modality in ("pet",) if context.quick else tuple(_MODALITIES):
            files = (f"sarcoma/{patient}/{modality}.nii.gz", f"sarcoma/{patient}/{modality}_tumour.nii.gz")
            asked = [(null, False) for null in _NULLS] + [(null, True) for null in _ALONE]
            for null, alone in asked:
                parameters = {"patient": patient, "modality": modality, "null": null, "alone": alone}
                key = f"{patient}/{modality}/{null}{', alone' if alone else ''}"
                cells.append(Cell(key, parameters, files=files, needs=(*MODULES[null], *_SELF)))
            if modality == "pet":
                parameters = {"patient": patient, "modality": modality, "task": "raised"}
                needs = (*MODULES["surrogate-max"], *_SELF)
                cells.append(Cell(f"{patient}/{modality}/raised", parameters, files=files, needs=needs))
    return cells


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    modality = p["modality"]
    scan = read_scan(context.path(cell.files[0]), modality=_MODALITIES[modality])
    tumour = read_mask(context.path(cell.files[1]), reference=scan.grid).array > 0
    if p.get("task") == "raised":
        return _raised(scan, tumour, context)
    if p["alone"]:
        labels, diameter = LabelMap(tumour.astype(np.uint8), scan.grid, {1: "tumour"}), None
    else:
        labels, diameter = _with_blobs(scan, tumour, np.random.default_rng([context.seed, int(p["patient"])]))
    settings = RejectionSettings(alpha=0.10, null=p["null"], placement_beside=False)
    judged = reject(scan, labels, settings=settings, seed=context.seed)
    return {
        "blob_diameter": None if diameter is None else round(diameter, 1),
        "correction": judged.correction,
        "candidates": [
            {
                "what": "tumour" if c.label == 1 else "normal blob",
                "volume": None if c.volume is None else round(c.volume / 1000, 2),
                "contrast": None if c.contrast is None else round(c.contrast, 2),
                "statistic": None if c.statistic is None or not np.isfinite(c.statistic) else round(c.statistic, 5),
                "p": c.p_value,
                "floor": c.p_floor,
                "q": c.q_value,
                "decision": c.decision,
                "reason": c.reason,
            }
            for c in judged.candidates
        ],
    }


def _raised(scan: Scan, tumour: npt.NDArray[np.bool_], context: Context) -> Mapping[str, Any]:
    """What is decided of the tumour alone as it is, and had it one value far above normal tissue."""
    labels = LabelMap(tumour.astype(np.uint8), scan.grid, {1: "tumour"})
    settings = RejectionSettings(alpha=0.10, null="surrogate-max", placement_beside=False)
    case = prepare(scan, labels, anatomy=None, probabilities=None, settings=settings)
    comparison = compare_with(case, case.tissues[0])
    normal = case.scan.array[comparison.tissue.box][comparison.normal].astype(np.float64)
    rows = []
    for contrast in (None, *_RAISED):
        value = None if contrast is None else normal.mean() + contrast * normal.std()
        image = scan.array if value is None else np.where(tumour, np.float32(value), scan.array)
        judged = reject(replace(scan, array=image), labels, settings=settings, seed=context.seed)
        largest = max(judged.candidates, key=lambda c: c.voxels)
        rows.append({"raised": contrast, "decision": largest.decision, "p": largest.p_value, "reason": largest.reason})
    percentiles = {str(q): round(float(np.percentile(normal, q)), 2) for q in (50, 95, 99, 100)}
    share = float(tumour.sum() / (tumour.sum() + comparison.normal.sum()))
    inside = {str(q): round(float(np.percentile(scan.array[tumour], q)), 2) for q in (5, 50, 95)}
    return {"rows": rows, "normal": percentiles, "inside": inside, "share": round(share, 4)}


def _with_blobs(scan: Scan, tumour: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[LabelMap, float]:
    """The tumour (label 1) and ten normal balls in the body (label 2), as large as fit beside it.

    Their diameter starts at that of the ball of the tumour's volume and shrinks by a tenth
    until ten separate ones find a place at random.
    """
    spacing = scan.grid.spacing
    diameter = 2 * (3 * tumour.sum() * scan.grid.voxel_volume / (4 * np.pi)) ** (1 / 3)
    gap = 2 * max(spacing)
    away = ndimage.distance_transform_edt(~tumour, sampling=spacing)
    depth = ndimage.distance_transform_edt(np.pad(body_mask(scan), 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    while True:
        blobs = _fill(depth, away, diameter, gap, spacing, rng)
        if blobs is not None:
            labels = np.where(tumour, 1, 2 * blobs).astype(np.uint8)
            return LabelMap(labels, scan.grid, {1: "tumour", 2: "normal blob"}), diameter
        diameter *= 0.9


def _fill(
    depth: npt.NDArray[np.float64],
    away: npt.NDArray[np.float64],
    diameter: float,
    gap: float,
    spacing: tuple[float, ...],
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_] | None:
    """Ten separate balls at random places, or None if there is no room for all of them."""
    blobs = np.zeros(depth.shape, dtype=bool)
    free = (depth >= diameter / 2) & (away >= diameter / 2 + gap)
    for _ in range(_BLOBS):
        centres = np.argwhere(free)
        if len(centres) == 0:
            return None
        centre = tuple(int(v) for v in centres[rng.integers(len(centres))])
        blobs |= ball_at(depth.shape, centre, diameter, spacing)
        free &= ~ball_at(depth.shape, centre, 2 * (diameter + gap), spacing)
    return blobs


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    rows = {}
    targets = []
    for key, found in results.items():
        patient, modality, null = key.split("/")
        if null == "raised":
            continue
        tumours = [c for c in found["candidates"] if c["what"] == "tumour"]
        largest = max(tumours, key=lambda c: c["volume"])
        blobs = [c for c in found["candidates"] if c["what"] == "normal blob"]
        rows[key] = {
            "tumour": largest["decision"],
            "tumour_p": largest["p"],
            "tumour_contrast": largest["contrast"],
            "tumour_parts": len(tumours),
            "tumour_parts_kept": sum(c["decision"] == "kept" for c in tumours),
            "blobs_kept": sum(c["decision"] == "kept" for c in blobs),
            "blobs_undecidable": sum(c["decision"] == "undecidable" for c in blobs),
            "blobs": len(blobs),
            "reason": largest["reason"],
        }
        if modality == "pet" and null.startswith("surrogate-max"):
            what = f"PET tumour of {patient} is kept{', alone' if null.endswith('alone') else ''}"
            targets.append({"what": what, "met": largest["decision"] == "kept"})
    return {"rows": rows, "targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for key, r in sorted(result["summary"]["rows"].items()):
        patient, modality, null = key.split("/")
        p = "–" if r["tumour_p"] is None else f"{r['tumour_p']:.3f}"
        contrast = "–" if r["tumour_contrast"] is None else f"{r['tumour_contrast']:+.1f}"
        blobs = f"{r['blobs_kept']} of {r['blobs']}" if r["blobs"] else "–"
        rows.append(
            [f"{patient} {_MODALITIES[modality]}", null, r["tumour"], p, contrast, blobs, r["blobs_undecidable"]]
        )
    header = ["scan", "null", "tumour", "p", "contrast, SD", "normal blobs kept", "blobs undecidable"]
    reasons = [
        [key, r["reason"]]
        for key, r in sorted(result["summary"]["rows"].items())
        if key.endswith(("surrogate-max", "alone"))
    ]
    raised = []
    for key, found in sorted(result["cells"].items()):
        if key.endswith("/raised"):
            normal, inside = found["normal"], found["inside"]
            decided = [r["decision"] + ("" if r["p"] is None else f" ({r['p']:.3f})") for r in found["rows"]]
            levels = f"{normal['50']} / {normal['95']} / {normal['99']} / {normal['100']}"
            raised.append([key.split("/")[0], f"{found['share']:.0%}", levels, inside["50"], *decided])
    asked = ["scan", "tumour's share", "normal: 50, 95, 99, 100 %", "tumour: median", "as it is"]
    return {
        "decisions": markdown_table(header, rows),
        "reasons": markdown_table(["scan and null", "why"], reasons),
        "raised": markdown_table([*asked, *(f"{k} SD" for k in _RAISED)], raised),
    }


STUDY = Study(
    name="real-tumours",
    question="Are real tumours kept, and normal blobs of similar size rejected, on CT, MR and PET?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
