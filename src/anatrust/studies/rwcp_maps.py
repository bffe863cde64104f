"""Study `rwcp-maps`: the probability before and after the walk, side by side, on images chosen by a rule."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.sets import LabelledCase
from anatrust.studies.rwcp_cases import NEEDS, Unit, cases, units
from anatrust.studies.rwcp_methods import Method, choices
from anatrust.studies.rwcp_resplits import equal_loss_threshold, scored
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NAMES = ("plain CRC", "RW-CP published, encoder", "best on tuning")
_TITLES = dict(zip(_NAMES, ("S(0), plain", "S(10), published walk", "best on tuning"), strict=True))
_ALPHA = 0.1


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rwcp_methods", "anatrust.studies.rwcp_maps")
    return [
        Cell(u.key, {"set": u.image_set, "strength": u.strength, "label": u.label}, u.files(context), needs)
        for u in units(context)
        if u.label == 1 and u.strength == "weak"
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    """Maps of the patient whose plain outer set has the median HD95, at equal missed share."""
    p = cell.parameters
    unit = Unit(p["set"], p["strength"], p["label"])
    chosen = choices(unit, context)["chosen"]
    shown: dict[str, Any] = {}
    patient, roughness = "", {}
    for name in _NAMES:
        method = Method.from_json(chosen[name])
        pool = list(cases(unit, "pool", context, method.encoder))
        made = scored(pool, method.recipe)
        threshold = equal_loss_threshold(made.outer, _ALPHA)
        quality = made.quality(threshold)
        if not patient:
            order = np.argsort(quality[:, 3], kind="stable")
            patient = made.patients[order[len(order) // 2]]
            own = [c for c in pool if c.patient == patient]
            where = own[len(own) // 2]
            shown["image"] = _packed(_slice(_grey(where.image), where))
            shown["truth"] = _packed(_slice(where.truth.astype(np.uint8), where))
        own = [c for c in pool if c.patient == patient]
        where = own[len(own) // 2]
        levels = method.recipe.levels(where.probabilities, where.image, where.grid, where.features)
        shown[name] = _packed(_slice((levels >> 8).astype(np.uint8), where))
        shown[f"{name} set"] = _packed(_slice((levels >= threshold).astype(np.uint8), where))
        k = made.patients.index(patient)
        distance, pieces = round(float(quality[k, 3]), 2), float(quality[k, 4])
        roughness[name] = {"method": method.label, "hd95": distance, "pieces": pieces}
    return {"patient": patient, "maps": shown, "numbers": roughness}


def _grey(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(image, (1, 99))
    return np.asarray(255 * np.clip((image - low) / max(high - low, 1e-9), 0, 1), dtype=np.uint8)


def _slice(values: npt.NDArray[np.uint8], case: LabelledCase) -> npt.NDArray[np.uint8]:
    """An image itself; of a volume the slice that shows most of the truth."""
    if values.ndim == 2:
        return values
    return np.ascontiguousarray(values[:, :, int(case.truth.sum(axis=(0, 1)).argmax())].T)


def _packed(values: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Compressed bytes: a JSON of one number a line would be a megabyte."""
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()
    return {"shape": list(values.shape), "zlib": data}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    targets = []
    for key, found in results.items():
        numbers = found["numbers"]
        met = numbers["best on tuning"]["hd95"] <= numbers["plain CRC"]["hd95"]
        targets.append({"what": f"{key}: the best map's set is no farther from the truth", "met": bool(met)})
    return {"targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = [
        [f"{key}, {found['patient']}, {_TITLES[name]}: {row['method']}", f"{row['hd95']:.1f}", f"{row['pieces']:.1f}"]
        for key, found in sorted(result["cells"].items())
        for name, row in found["numbers"].items()
    ]
    targets = [[t["what"], t["met"]] for t in result["summary"]["targets"]]
    return {
        "numbers": markdown_table(["map", "HD95 of the patient's sets", "pieces"], rows),
        "targets": markdown_table(["target", "met"], targets),
    }


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    figures = {}
    for key, found in sorted(result["cells"].items()):
        maps = found["maps"]
        panels = [{"title": "image, truth", "image": maps["image"], "contour": maps["truth"]}]
        panels += [{"title": _TITLES[n], "image": maps[n], "contour": maps["truth"]} for n in _NAMES]
        panels += [{"title": f"set: {_TITLES[n]}", "image": maps["image"], "contour": maps[f"{n} set"]} for n in _NAMES]
        content = {"panels": panels, "xlabel": "", "ylabel": "", "columns": 4}
        figures[key.split("/")[0]] = content
    return figures


STUDY = Study(
    name="rwcp-maps",
    question="What does the walk do to a probability map: noise down, edges kept?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
