"""From the outcomes of scans to the numbers that are reported, each with an interval over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.r2seg_judge import Outcome, union_by

__all__ = ["COLUMNS", "SIZES", "by_size", "cell_text", "matched", "numbers", "row"]

# What is asked of large, clear lesions in the issue: at least 10 mm and 1 SD.
_LEAST = (10.0, 1.0)


SIZES: Mapping[str, tuple[float, float]] = {"< 10 mm": (0.0, 10.0), "10–16 mm": (10.0, 16.0), "≥ 16 mm": (16.0, 1e9)}
"""Classes of diameter (mm)."""


def _clear(lesion: Sequence[float]) -> bool:
    return lesion[0] >= _LEAST[0] and abs(lesion[1]) >= _LEAST[1]


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
    clear = [le for le in every if _clear(le)]
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


def by_size(outcomes: Sequence[Outcome]) -> dict[str, list[int]]:
    """Lesions found, and lesions, by class of diameter."""
    every = [lesion for one in outcomes for lesion in one.lesions]
    sizes = {name: [le for le in every if low <= le[0] < high] for name, (low, high) in SIZES.items()}
    return {name: [sum(le[2] for le in mine), len(mine)] for name, mine in sizes.items()}


def matched(ours: Sequence[Outcome], theirs: Sequence[Outcome], *, seed: int) -> dict[str, Any] | None:
    """Clear lesions that a test finds at the level at which it spares as many healthy patients as another way does.

    Two ways at one nominal level may differ in both specificity and sensitivity. Here our level is moved, afterwards
    and on the same patients, until no more healthy patients keep something than under the other way. A candidate
    that a gate refused stays refused at every level.

    Parameters
    ----------
    ours, theirs
        Outcomes of the same scans; ours carry p-values that decide by themselves (kept if p ≤ level).
    seed
        Of the bootstrap, which resamples patients and finds the level anew in each resample.

    Returns
    -------
    dict or None
        ``below``, the p-value that ours must stay below, ``specificity`` (of both, at least), ``theirs`` and
        ``ours``, the shares of clear lesions found, and ``difference`` with its interval. None without healthy
        patients or clear lesions.
    """
    pairs = [
        (_judged(mine), _judged(other))
        for mine, other in zip(union_by(ours).values(), union_by(theirs).values(), strict=True)
    ]
    if not any(m.well for m, _ in pairs) or not any(m.clear for m, _ in pairs):
        return None

    def compare(rows: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
        chosen = [pairs[int(k)] for k in rows[:, 0]]
        healthy = sorted(m.false_p for m, _ in chosen if m.well)
        spoilt = sum(t.kept_any for m, t in chosen if m.well)
        below = healthy[spoilt] if spoilt < len(healthy) else 1.0
        mine = [p < below for m, _ in chosen for p, _ in m.clear]
        other = [found for _, t in chosen for _, found in t.clear]
        share = 1 - spoilt / len(healthy) if healthy else float("nan")
        means = [float(np.mean(v)) if v else float("nan") for v in (mine, other)]
        return below, share, means[0], means[1]

    rows = np.arange(len(pairs), dtype=np.float64)[:, None]
    below, share, mine, other = compare(rows)

    def gain(resampled: npt.NDArray[np.float64]) -> float:
        *_, a, b = compare(resampled)
        return a - b

    made: dict[str, Any] = {
        "below": round(below, 4),
        "specificity": round(share, 4),
        "theirs": round(other, 4),
        "ours": round(mine, 4),
        "difference": {"value": round(mine - other, 4)},
    }
    if len(rows) >= 5:
        low, high = patient_bootstrap(rows, _filled(gain, mine - other), seed=seed, draws=500)
        made["difference"]["interval"] = [round(low, 4), round(high, 4)]
    return made


@dataclass(frozen=True)
class _Patient:
    """What `matched` needs of a patient: the smallest false p, and p and fate of every clear lesion."""

    well: bool
    kept_any: bool
    false_p: float
    clear: tuple[tuple[float, bool], ...]


def _judged(scans: Sequence[Outcome]) -> _Patient:
    clear = tuple((le[3], le[2]) for s in scans for le in s.lesions if _clear(le))
    false = min((p for s in scans for p in s.false_p), default=1.0)
    return _Patient(not any(s.ill for s in scans), any(s.kept_any for s in scans), false, clear)


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
