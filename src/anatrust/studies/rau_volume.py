"""Study `rau-volume`: volumes from key slices against registration in three dimensions, on real hippocampi."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap
from anatrust.metrics import dice
from anatrust.models.annotation import Reference
from anatrust.models.protocols import Reasoner
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.reference.volume_reasoner import VolumeReasoner
from anatrust.studies.rau_patients import interval
from anatrust.studies.rau_registration import hippocampus_split, read_reference
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "continuity"]

_NEEDS = (
    "anatrust.studies.rau_volume",
    "anatrust.studies.rau_registration",
    "anatrust.models.registration",
    "anatrust.models.registration_search",
    "anatrust.reference.registration_reasoner",
    "anatrust.reference.volume_reasoner",
    "anatrust.reference.slice_tracking",
)
_NAMES = {1: "anterior", 2: "posterior"}
_WAYS = {
    "volume": "registration of the volumes",
    "key 1": "slices: 1 key slice",
    "key 3, once": "slices: 3 key slices, not asked again",
    "key 3": "slices: 3 key slices, asked again where lost",
    "planes": "slices: 3 key slices in each of three planes, voted",
}
_PATIENTS = 3
_JUMP = 0.6


def _cells(context: Context) -> list[Cell]:
    targets, references = hippocampus_split(context, 1 if context.quick else _PATIENTS, 1)
    files = [f"hippocampus_mr/{kind}/{name}" for name in (*targets, *references) for kind in ("images", "labels")]
    return [
        Cell(f"{name[:-7]}/{way}", {"target": name, "reference": references[0], "way": way}, tuple(files), _NEEDS)
        for name in targets
        for way in (("volume", "key 1") if context.quick else _WAYS)
    ]


def _reasoner(way: str) -> Reasoner:
    flat = RegistrationReasoner(least_similarity=-1.0)
    if way == "volume":
        return flat
    return VolumeReasoner(
        flat, keys=1 if way == "key 1" else 3, again=0 if way == "key 3, once" else 2, tri_planar=way == "planes"
    )


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    target, reference = (_read(context, cell.parameters[k]) for k in ("target", "reference"))
    answer = _reasoner(cell.parameters["way"]).annotate(target.scan, [reference])
    truth = canonical(target.labels.array, target.labels.grid)[0]
    drawn = canonical(answer.labels.array, answer.labels.grid)[0]
    return {
        name: {
            "dice": round(float(dice(truth == n, drawn == n)), 4),
            **continuity(np.asarray(drawn == n)),
            "true": continuity(np.asarray(truth == n)),
        }
        for n, name in _NAMES.items()
    }


def _read(context: Context, name: str) -> Reference:
    one = read_reference(context, f"hippocampus_mr/images/{name}", f"hippocampus_mr/labels/{name}", _NAMES, "MR")
    return Reference(one.scan, LabelMap(one.labels.array, one.labels.grid, _NAMES), "reference")


def continuity(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Connected components of a mask, and the share of neighbouring axial slices whose Dice is below 0.6."""
    if not mask.any():
        return {"components": 0, "jumps": 0.0}
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    pairs = [
        float(dice(mask[:, :, k], mask[:, :, k + 1])) if mask[:, :, k].any() or mask[:, :, k + 1].any() else 0.0
        for k in range(int(filled[0]), int(filled[-1]))
    ]
    share = float(np.mean([one < _JUMP for one in pairs])) if pairs else 0.0
    return {"components": int(ndimage.label(mask)[1]), "jumps": round(share, 4)}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for way in _WAYS:
        mine = [r for key, r in results.items() if key.split("/")[1] == way]
        if not mine:
            continue
        parts = [part for one in mine for part in one.values()]
        found[way] = {
            "dice": interval([float(np.mean([p["dice"] for p in one.values()])) for one in mine], context.seed),
            **{k: round(float(np.mean([p[k] for p in parts])), 3) for k in ("components", "jumps")},
            "true": {k: round(float(np.mean([p["true"][k] for p in parts])), 3) for k in ("components", "jumps")},
        }
    return {"ways": found}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    ways = result["summary"]["ways"]
    rows = []
    for way, r in ways.items():
        around = f" [{r['dice']['interval'][0]:.2f}, {r['dice']['interval'][1]:.2f}]" if "interval" in r["dice"] else ""
        rows.append([_WAYS[way], f"{r['dice']['mean']:.2f}{around}", f"{r['components']:.1f}", f"{r['jumps']:.2f}"])
    true = next(iter(ways.values()))["true"]
    rows.append(["the true labels", "1.00", f"{true['components']:.1f}", f"{true['jumps']:.2f}"])
    return {"ways": markdown_table(["from one reference", "mean Dice", "components", "slice jumps"], rows)}


STUDY = Study(
    name="rau-volume",
    question="How good are volumes made of key slices, and do they hang together?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
