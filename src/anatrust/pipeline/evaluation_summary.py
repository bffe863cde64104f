"""From the numbers of scans to those of a table: means by patient with intervals, paired tests, risk and coverage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.metrics import risk_coverage
from anatrust.pipeline.cohort import CohortRow
from anatrust.pipeline.scan_metrics import METRICS, EvaluationSettings, ScanMetrics
from anatrust.statistics.multiple_testing import benjamini_hochberg

__all__ = ["compare_paired", "risk_of", "summarise"]

_NO_EVIDENCE = "no pair of scans differs"


def _by_patient(scans: Sequence[ScanMetrics], metric: str) -> tuple[npt.NDArray[np.float64], int]:
    """The mean of each patient's finite values, and how many scans were infinite."""
    people: dict[str, list[float]] = {}
    infinite = 0
    for s in scans:
        value = s.values.get(metric, math.nan)
        infinite += int(math.isinf(value))
        # Dice of a scan without the structure says nothing about how well it is outlined.
        if math.isfinite(value) and not (metric in ("dice", "iou", "surface_dice", "cldice") and s.truth_empty):
            people.setdefault(s.row.patient, []).append(value)
    return np.array([np.mean(v) for v in people.values()]), infinite


def _interval(values: npt.NDArray[np.float64], settings: EvaluationSettings) -> list[float] | None:
    """Percentile bootstrap of the mean over patients; none for fewer than five."""
    if len(values) < 5:
        return None
    rng = np.random.default_rng(settings.seed)
    means = values[rng.integers(0, len(values), (settings.draws, len(values)))].mean(axis=1)
    tail = (1 - settings.confidence) / 2
    return [round(float(v), 5) for v in np.quantile(means, (tail, 1 - tail))]


def _described(scans: Sequence[ScanMetrics], settings: EvaluationSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in METRICS:
        if not any(metric in s.values for s in scans):
            continue
        values, infinite = _by_patient(scans, metric)
        if len(values):
            found[metric] = {
                "patients": len(values),
                "mean": round(float(values.mean()), 5),
                "interval": _interval(values, settings),
                "median": round(float(np.median(values)), 5),
                "infinite": infinite,
            }
    healthy = [s for s in scans if s.truth_empty]
    found["empty_truth"] = {"scans": len(healthy), "left_empty": sum(s.prediction_empty for s in healthy)}
    found["missed"] = sum(s.prediction_empty and not s.truth_empty for s in scans)
    found["scans"] = len(scans)
    return found


def _value(row: CohortRow, column: str) -> str:
    return row.group if column == "group" else row.metadata.get(column, "")


def summarise(scans: Sequence[ScanMetrics], by: Sequence[str], settings: EvaluationSettings) -> dict[str, Any]:
    """``structure → which → breakdown → metric``: means over patients with intervals, of all scans and by column.

    Parameters
    ----------
    scans
        The numbers of every scan.
    by
        Columns to break the table down by: ``group`` or any further column.
    settings
        Draws, confidence and seed of the intervals.
    """
    summary: dict[str, Any] = {}
    for s in scans:
        summary.setdefault(s.structure, {}).setdefault(s.which, {})
    for structure, predictions in summary.items():
        for which in predictions:
            own = [s for s in scans if s.structure == structure and s.which == which]
            parts: dict[str, Any] = {"all": _described(own, settings)}
            for column in by:
                values = sorted({_value(s.row, column) for s in own} - {""})
                for value in values:
                    chosen = [s for s in own if _value(s.row, column) == value]
                    parts[f"{column} = {value}"] = _described(chosen, settings)
            predictions[which] = parts
    return summary


def compare_paired(
    scans: Sequence[ScanMetrics], rivals: Sequence[str], settings: EvaluationSettings
) -> tuple[Mapping[str, Any], ...]:
    """Paired differences mask - rival by patient: bootstrap interval, Wilcoxon signed-rank, BH over all tests.

    Parameters
    ----------
    scans
        The numbers of every scan, of the mask and of the rivals.
    rivals
        Columns of the rivals; each is compared in every structure and metric that two patients have.
    settings
        Draws, confidence and seed of the intervals.
    """
    from scipy.stats import wilcoxon

    found: list[dict[str, Any]] = []
    for structure in dict.fromkeys(s.structure for s in scans):
        own = {(s.which, s.row.id): s for s in scans if s.structure == structure}
        ids = [i for which, i in own if which == "mask"]
        for rival in rivals:
            for metric in METRICS:
                gaps: dict[str, list[float]] = {}
                for i in ids:
                    pair = own["mask", i], own.get((rival, i))
                    if pair[1] is None or metric not in pair[0].values:
                        continue
                    gap = pair[0].values[metric] - pair[1].values[metric]
                    if math.isfinite(gap):
                        gaps.setdefault(pair[0].row.patient, []).append(gap)
                values = np.array([np.mean(v) for v in gaps.values()])
                if len(values) < 2:
                    continue
                p = float(wilcoxon(values).pvalue) if np.any(values != 0) else 1.0
                found.append(
                    {
                        "structure": structure,
                        "rival": rival,
                        "metric": metric,
                        "patients": len(values),
                        "difference": round(float(values.mean()), 5),
                        "interval": _interval(values, settings),
                        "p": p,
                        "note": "" if np.any(values != 0) else _NO_EVIDENCE,
                    }
                )
    if found:
        adjusted = benjamini_hochberg(np.array([row["p"] for row in found]))
        for row, q in zip(found, adjusted.tolist(), strict=True):
            row["q"] = q
    return tuple(found)


def risk_of(scans: Sequence[ScanMetrics], abnormality: Mapping[str, float]) -> dict[str, Any]:
    """Whether what screening says orders the scans by how well they are segmented.

    Raises
    ------
    InputError
        If the screening names fewer than two of the scans.
    """
    losses: dict[str, list[float]] = {}
    for s in scans:
        if s.which == "mask" and not s.truth_empty:
            losses.setdefault(s.row.id, []).append(1 - s.values["dice"])
    ids = [i for i in losses if i in abnormality]
    if len(ids) < 2:
        raise InputError("the screening names fewer than two of the evaluated scans: use the same ids in both tables")
    curve = risk_coverage([abnormality[i] for i in ids], [float(np.mean(losses[i])) for i in ids])
    return {
        "scans": len(ids),
        "aurc": round(curve.aurc, 5),
        "best_aurc": round(curve.best_aurc, 5),
        "random_aurc": round(curve.random_aurc, 5),
        "coverage": [round(float(v), 4) for v in curve.coverage],
        "risk": [round(float(v), 5) for v in curve.risk],
    }
