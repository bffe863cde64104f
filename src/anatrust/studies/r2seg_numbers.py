"""From the outcomes of scans to the numbers that are reported, each with an interval over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.r2seg_judge import Outcome, union_by

__all__ = ["COLUMNS", "cell_text", "numbers", "row"]

# What is asked of large, clear lesions in the issue: at least 10 mm and 1 SD.
_LEAST = (10.0, 1.0)


def _ratio(columns: tuple[int, int]) -> Callable[[npt.NDArray[np.float64]], float]:
    top, bottom = columns

    def statistic(rows: npt.NDArray[np.float64]) -> float:
        total = rows[:, bottom].sum()
        return float(rows[:, top].sum() / total) if total else float("nan")

    return statistic


def _patient(scans: Sequence[Outcome]) -> list[float]:
    """Additive counts of one patient."""
    ill = [s for s in scans if s.ill]
    well = [s for s in scans if not s.ill]
    every = [lesion for s in scans for lesion in s.lesions]
    clear = [le for le in every if le[0] >= _LEAST[0] and abs(le[1]) >= _LEAST[1]]
    small = [le for le in every if le[0] < _LEAST[0]]
    slices = np.sum([s.slices for s in scans], axis=0)
    voxels = np.sum([s.voxels for s in scans], axis=0)
    return [
        # 0-1 scans with a lesion in which something is kept; 2-3 healthy patients with nothing kept
        sum(s.kept_any for s in ill),
        len(ill),
        float(bool(well) and not any(s.kept_any for s in well)),
        float(bool(well)),
        # 4-5 lesions found; 6-7 the clear ones
        sum(le[2] for le in every),
        len(every),
        sum(le[2] for le in clear),
        len(clear),
        # 8-11 slices: drawn in / ill, empty / healthy
        slices[1],
        slices[0],
        slices[3],
        slices[2],
        # 12-13 mm² on healthy slices, 14 Dice summed over ill slices (denominator 9)
        sum(s.area for s in scans),
        slices[2],
        sum(s.dice for s in scans),
        # 15-18 voxels
        *voxels,
        # 19 false candidates kept, 20 scans
        sum(s.false_kept for s in scans),
        len(scans),
        # 21-24 lesion F1 below 10 mm: found, confirmed, truth, predicted
        sum(le[2] for le in small),
        sum(s.true_kept_small for s in scans),
        len(small),
        sum(s.true_kept_small + s.false_small for s in scans),
    ]


def _accuracy(rows: npt.NDArray[np.float64]) -> float:
    return float((rows[:, 15].sum() + rows[:, 18].sum()) / rows[:, 15:19].sum())


def _class_average(rows: npt.NDArray[np.float64]) -> float:
    both, over, under, neither = rows[:, 15:19].sum(axis=0)
    if both + under == 0:
        return float("nan")
    return float((both / (both + under) + neither / (neither + over)) / 2)


def _f1_small(rows: npt.NDArray[np.float64]) -> float:
    found, confirmed, truth, predicted = rows[:, 21:25].sum(axis=0)
    return float((found + confirmed) / (truth + predicted)) if truth + predicted else float("nan")


COLUMNS: Mapping[str, tuple[str, Callable[[npt.NDArray[np.float64]], float]]] = {
    "specificity": ("healthy patients with nothing kept", _ratio((2, 3))),
    "any kept": ("healthy patients with something kept", lambda r: 1 - _ratio((2, 3))(r)),
    "lesions": ("lesions found", _ratio((4, 5))),
    "clear lesions": ("lesions ≥ 10 mm and ≥ 1 SD found", _ratio((6, 7))),
    "scan sensitivity": ("scans with a lesion in which something is kept", _ratio((0, 1))),
    "slice sensitivity": ("slices with a lesion drawn in", _ratio((8, 9))),
    "slice specificity": ("slices without a lesion left empty", _ratio((10, 11))),
    "area": ("mm² drawn on a slice without a lesion", _ratio((12, 13))),
    "dice": ("Dice on slices with a lesion", _ratio((14, 9))),
    "accuracy": ("voxel accuracy", _accuracy),
    "class average": ("class average of voxel accuracy", _class_average),
    "false a scan": ("false candidates kept a scan", _ratio((19, 20))),
    "f1 small": ("lesion F1 below 10 mm", _f1_small),
}
"""Every number: its meaning, and how it comes from the patients' counts."""


def _filled(
    statistic: Callable[[npt.NDArray[np.float64]], float], value: float
) -> Callable[[npt.NDArray[np.float64]], float]:
    """The statistic, with the observed value where a resample has nothing to divide by."""

    def filled(rows: npt.NDArray[np.float64]) -> float:
        with np.errstate(invalid="ignore"):
            return float(np.nan_to_num(statistic(rows), nan=value))

    return filled


def numbers(outcomes: Sequence[Outcome], *, seed: int) -> dict[str, Any]:
    """All numbers with 95 % intervals that resample whole patients; NaN becomes None."""
    groups = union_by(outcomes)
    rows = np.array([_patient(scans) for scans in groups.values()], dtype=np.float64)
    found: dict[str, Any] = {
        "patients": len(rows),
        "healthy": int(rows[:, 3].sum()),
        "lesion count": int(rows[:, 5].sum()),
        "clear count": int(rows[:, 7].sum()),
    }
    for name, (_, statistic) in COLUMNS.items():
        value = statistic(rows)
        if np.isnan(value):
            found[name] = None
            continue
        found[name] = {"value": round(value, 4)}
        if len(rows) >= 5:
            low, high = patient_bootstrap(rows, _filled(statistic, value), seed=seed, draws=500)
            found[name]["interval"] = [round(low, 4), round(high, 4)]
    return found


def cell_text(found: Mapping[str, Any], name: str, *, digits: int = 2) -> str:
    """One number for a table: value and interval."""
    entry = found.get(name)
    if entry is None:
        return "–"
    text = f"{entry['value']:.{digits}f}"
    if "interval" in entry:
        low, high = entry["interval"]
        text += f" ({low:.{digits}f}–{high:.{digits}f})"
    return text


def row(found: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Several numbers for a table."""
    return [cell_text(found, n, digits=0 if n == "area" else 3 if n in ("accuracy",) else 2) for n in names]
