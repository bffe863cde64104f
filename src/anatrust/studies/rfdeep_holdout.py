"""Study `rfdeep-holdout`: how often a group of usual patients that was not seen is called strange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from anatrust.ood.regimes import regime_scores
from anatrust.ood.splits import ScanKey, ScreeningSplit
from anatrust.statistics.conformal_p import conformal_p_value
from anatrust.studies.rfdeep_lodo import cheaper
from anatrust.studies.rfdeep_main import NEEDS
from anatrust.studies.rfdeep_methods import settle
from anatrust.studies.rfdeep_scans import FAR, Unit, data_files, units
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_METHODS = ("Mahalanobis, deep", "Mahalanobis, histogram", "forest, deep", "forest, histogram")
_GROUPS = {"N": "normal", "HYP": "hypertrophy", "HF-I": "failure with infarct", "HF-NI": "failure without infarct"}
_RATE = 0.1
_CALIBRATED = 9


def _cells(context: Context) -> list[Cell]:
    files = data_files("cardiac", context.path(), quick=context.quick)
    needs = (*NEEDS, "anatrust.studies.rfdeep_holdout", "anatrust.studies.rfdeep_lodo")
    count = 2 if context.quick else 50
    return [
        Cell(method, {"method": method, "resplits": count}, files=files, needs=needs)
        for method in _METHODS[: 1 if context.quick else None]
    ]


def _patients(context: Context) -> dict[str, list[Unit]]:
    """Every held-out cardiac patient as they are, with all scans that have a prediction."""
    found: dict[str, list[Unit]] = {}
    for dataset in ("usual", "unshifted"):
        for unit in units("cardiac", dataset, context.path(), quick=context.quick):
            if not unit.empty:
                found.setdefault(unit.key.patient, []).append(unit)
    return found


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    method = cheaper(p["method"], quick=context.quick)
    people = _patients(context)
    far = [u for d in FAR for u in units("cardiac", d, context.path(), quick=context.quick) if not u.empty]
    known = {u.key: u for u in (*far, *(u for rows in people.values() for u in rows))}
    crops = {k: u.features[method.kind] for k, u in known.items()}
    levels = next(iter(known.values())).levels[method.kind]
    calibrated = 4 if context.quick else _CALIBRATED
    shares: dict[str, dict[str, list[float]]] = {}
    for group in _GROUPS:
        own = [name for name, rows in people.items() if rows[0].group == group]
        others = [name for name in people if name not in own]
        if len(others) < calibrated + 4 or not own:
            continue
        for number in range(p["resplits"]):
            rng = np.random.default_rng([context.seed, number])
            order = [others[i] for i in rng.permutation(len(others))]
            held, rest = order[:calibrated], order[calibrated:]
            known_test = rest[: max(1, len(rest) // 5)]
            fitted = rest[len(known_test) :]

            def keys(names: list[str]) -> tuple[ScanKey, ...]:
                return tuple(u.key for name in names for u in people[name])

            split = ScreeningSplit(
                keys(fitted), keys(held), keys([*known_test, *own]), {"far": tuple(u.key for u in far)}, {}, number
            )
            asked = replace(split, outside_test={"asked": keys([*known_test, *own])}, test=())
            made = regime_scores(
                "unified" if method.exposed else "usual-only", asked, crops, method.make, levels=levels
            )
            highest = _strangest(asked.calibrate, made.calibration["asked"])
            scored = _strangest(asked.outside_test["asked"], made.outside["asked"])
            scale = np.sort(list(highest.values()))
            for part, names in (("held out", own), ("of the other groups", known_test)):
                flags = [float(conformal_p_value(scale, scored[name])) <= _RATE + 1e-9 for name in names]
                shares.setdefault(group, {}).setdefault(part, []).append(float(np.mean(flags)))
    return {
        group: {part: settle(rows) for part, rows in found.items()}
        | {"patients": sum(rows[0].group == group for rows in people.values())}
        for group, found in shares.items()
    }


def _strangest(keys: tuple[ScanKey, ...], values: Any) -> dict[str, float]:
    """A patient is as strange as their strangest scan."""
    found: dict[str, float] = {}
    for key, value in zip(keys, np.asarray(values).tolist(), strict=True):
        found[key.patient] = max(found.get(key.patient, -np.inf), value)
    return found


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    del context
    return {
        "rate": _RATE,
        "flagged": {m: {g: row["held out"]["mean"] for g, row in found.items()} for m, found in results.items()},
        "targets": [],
    }


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for method, found in result["cells"].items():
        for group, row in found.items():
            rows.append(
                [
                    _GROUPS[group],
                    method,
                    row["patients"],
                    f"{row['held out']['mean']:.2f} ({row['held out']['low']:.2f}–{row['held out']['high']:.2f})",
                    f"{row['of the other groups']['mean']:.2f}",
                ]
            )
    header = [
        "group",
        "detector",
        "patients",
        f"share flagged at {_RATE:g}, group held out",
        "patients of the other groups",
    ]
    return {"groups": markdown_table(header, rows)}


STUDY = Study(
    name="rfdeep-holdout",
    question="Is a group of usual patients that was not seen called strange too often?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
