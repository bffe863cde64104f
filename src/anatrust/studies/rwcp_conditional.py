"""Study `rwcp-conditional`: who pays for a promise that holds on average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.metrics import surface_voxels
from anatrust.studies.rwcp_cases import NEEDS, Unit, calibration_size, cases, units
from anatrust.studies.rwcp_methods import Method, choices
from anatrust.studies.rwcp_resplits import calibration_draws, mean_and_error, resplit_thresholds, scored
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_ALPHA = 0.1
_NAMES = ("plain CRC", "best on tuning")
_THIRDS = ("low", "middle", "high")


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rwcp_methods", "anatrust.studies.rwcp_conditional")
    return [
        Cell(u.key, {"set": u.image_set, "strength": u.strength, "label": u.label}, u.files(context), needs)
        for u in units(context)
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    unit = Unit(p["set"], p["strength"], p["label"])
    chosen = choices(unit, context)["chosen"]
    splits = 200 if context.quick else 1000
    strata = _strata(unit, context)
    result: dict[str, Any] = {}
    for name in _NAMES:
        method = Method.from_json(chosen[name])
        pool = scored(cases(unit, "pool", context, method.encoder), method.recipe)
        count = len(pool.patients)
        draws = calibration_draws(count, calibration_size(count), splits, context.seed)
        losses = resplit_thresholds(pool.outer, draws, _ALPHA, safe="low")[1]
        by_patient = (losses * ~draws).sum(axis=0) / (~draws).sum(axis=0)
        result[name] = {
            what: {
                stratum: {"patients": len(members), **mean_and_error(by_patient[members])}
                for stratum in dict.fromkeys(own.values())
                if len(members := [k for k, patient in enumerate(pool.patients) if own[patient] == stratum])
            }
            for what, own in strata.items()
        }
    return {"n": calibration_size(count), "alpha": _ALPHA, "methods": result}


def _strata(unit: Unit, context: Context) -> dict[str, dict[str, str]]:
    """For each way of dividing the pool the stratum of each patient."""
    seen: dict[str, list[tuple[float, float, float]]] = {}
    for case in cases(unit, "pool", context):
        seen.setdefault(case.patient, []).append(_described(case.truth, case.image))
    values = {patient: np.mean(rows, axis=0) for patient, rows in seen.items()}
    found = {}
    for column, what in enumerate(("size", "shape complexity", "contrast to noise")):
        numbers = np.array([v[column] for v in values.values()])
        third = np.searchsorted(np.quantile(numbers, [1 / 3, 2 / 3]), numbers)
        found[what] = {patient: _THIRDS[k] for patient, k in zip(values, third, strict=True)}
    if unit.image_set == "cardiac":
        found["pathology"] = {patient: "-".join(patient.split("-")[1:-1]) for patient in values}
    return found


def _described(truth: npt.NDArray[np.bool_], image: npt.NDArray[Any]) -> tuple[float, float, float]:
    """Size, surface over that of the ball of the same size, and contrast to the ring around over its noise."""
    size = float(truth.sum())
    surface = float(surface_voxels(truth).sum())
    ring = ndimage.binary_dilation(truth, iterations=4) & ~truth
    contrast = abs(float(image[truth].mean() - image[ring].mean())) / (float(image[truth].std()) + 1e-9)
    return size, surface / size ** ((truth.ndim - 1) / truth.ndim), contrast


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    worst = {}
    for key, found in results.items():
        rows = found["methods"]["plain CRC"]
        stratum = max(((w, s) for w, own in rows.items() for s in own), key=lambda ws: rows[ws[0]][ws[1]]["mean"])
        worst[key] = {"stratum": " ".join(stratum), **rows[stratum[0]][stratum[1]]}
    # Nothing is promised within a stratum; the study says by how much, so it has no target to miss.
    return {"worst": worst, "targets": [{"what": "reported, not promised: loss within strata", "met": True}]}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    tables = {}
    for key, found in result["cells"].items():
        methods = found["methods"]
        rows = [
            [
                f"{what}: {stratum}",
                row["patients"],
                *(_share(m[what][stratum]) for m in methods.values()),
            ]
            for what, strata in methods["plain CRC"].items()
            for stratum, row in sorted(strata.items())
        ]
        header = [f"n = {found['n']}, α = {found['alpha']:g}", "patients", *methods]
        tables[key.replace(" ", "-")] = markdown_table(header, rows)
    worst = result["summary"]["worst"]
    tables["worst"] = markdown_table(
        ["structure", "stratum that misses most, plain CRC", "patients", "missed"],
        [[k, w["stratum"], w["patients"], _share(w)] for k, w in sorted(worst.items())],
    )
    return tables


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.3f} ± {row['se']:.3f}"


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels = []
    for key, found in sorted(result["cells"].items()):
        plain = found["methods"]["plain CRC"]
        lines = {
            what: {"x": [0, 1, 2], "y": [plain[what][t]["mean"] for t in _THIRDS]}
            for what in plain
            if set(plain[what]) == set(_THIRDS)
        }
        panels.append({"title": key, "lines": lines})
    top = max(max(v["y"]) for p in panels for v in p["lines"].values())
    return {
        "thirds": {
            "panels": panels, "xlabel": "third of the patients: low, middle, high", "ylabel": "mean missed share",
            "ylim": [0, 1.1 * top], "level": _ALPHA,
        }
    }  # fmt: skip


STUDY = Study(
    name="rwcp-conditional",
    question="Which patients lose more than the mean that is promised?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
