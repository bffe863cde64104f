"""Metrics of a whole table: each scan, each structure, each group, with intervals and paired tests."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatrust.errors import AnatrustError, InputError
from anatrust.image.atomic import replacing
from anatrust.pipeline.case import Names, label_table
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.evaluation_summary import compare_paired, risk_of, summarise
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.scan_metrics import METRICS, EvaluationSettings, ScanMetrics, measure_scan, named_alike

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was measured.

    Parameters
    ----------
    scans
        One entry a scan, structure and prediction.
    unreadable
        Row numbers and why they were left out.
    settings
        How.
    columns
        Metadata columns the summary is broken down by.
    summary
        ``structure → which → breakdown ("all", "COLUMN = value") → metric → patients, mean, interval, median,
        infinite``.
    comparisons
        Paired tests of the mask against each rival: on the same scans, patients as units.
    risk
        Risk–coverage of a screening's abnormality against 1 - Dice, where one was given.
    """

    scans: tuple[ScanMetrics, ...]
    unreadable: tuple[tuple[int, str], ...]
    settings: EvaluationSettings
    columns: tuple[str, ...]
    summary: Mapping[str, Any]
    comparisons: tuple[Mapping[str, Any], ...]
    risk: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: definitions first, then the numbers; no patient and no scan is named."""
        return {
            "schema": 1,
            "settings": self.settings.to_json(),
            "scans": len({s.row.id for s in self.scans}),
            "patients": len({s.row.patient for s in self.scans}),
            "left_out": [{"row": number, "reason": reason} for number, reason in self.unreadable],
            "summary": self.summary,
            "comparisons": list(self.comparisons),
            "risk_coverage": self.risk,
        }

    def write_table(self, path: Path) -> None:
        """One line a scan, structure and prediction, with the table's own columns beside."""
        more = sorted({name for s in self.scans for name in s.row.metadata})
        names = [m for m in (*METRICS, "truth_volume", "prediction_volume", "merges", "splits") if self._has(m)]
        with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(
                ["id", "group", "structure", "prediction", *names, "truth_empty", "prediction_empty", *more]
            )
            for s in self.scans:
                numbers = ["" if math.isnan(s.values[m]) else f"{s.values[m]:.6g}" for m in names]
                flags = [str(s.truth_empty).lower(), str(s.prediction_empty).lower()]
                own = [s.row.metadata.get(name, "") for name in more]
                writer.writerow([s.row.id, s.row.group, s.structure, s.which, *numbers, *flags, *own])

    def _has(self, metric: str) -> bool:
        return all(metric in s.values for s in self.scans)


def evaluate(
    cohort: Cohort,
    *,
    settings: EvaluationSettings | None = None,
    rivals: Sequence[str] = (),
    folder: Path = Path(),
    by: Sequence[str] = ("group",),
    names: Names = None,
    abnormality: Mapping[str, float] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the masks of a table with their truth.

    Parameters
    ----------
    cohort
        Rows with ``mask`` and ``truth``.
    settings
        How they are compared.
    rivals, folder
        Further columns that name other predictions of the same scans, and the folder (the table's) these files
        are relative to.
    by
        Columns the summary is broken down by: ``group`` or any further column.
    names
        Names of the labels, see `label_table`. Without any the only label of a table is called "mask".
    abnormality
        A screening's score by scan id, for a risk–coverage curve against 1 - Dice (mean over structures).
    cache
        Folder for finished rows: a run that was killed goes on where it stopped.
    progress
        Told ``(stage, done, total)``.

    Returns
    -------
    Evaluation
        A patient with several scans counts once, by the mean. Intervals are percentile bootstraps over
        patients; infinite distances (nothing predicted) are counted, and left out of means.

    Raises
    ------
    InputError
        If no row has both, or a column does not exist.
    """
    settings, table = settings or EvaluationSettings(), label_table(names)
    _check_columns(cohort, rivals, by)
    if not any(row.truth is not None and row.mask is not None for row in cohort):
        raise InputError(f"{cohort.source}: no row has both a mask and a truth; give these columns")
    scans: list[ScanMetrics] = []
    unreadable: list[tuple[int, str]] = []
    rows = [row for row in cohort if row.truth is not None]
    for done, row in enumerate(rows):
        if progress:
            progress("evaluate", done, len(rows))
        try:
            files = {"mask": row.mask, **{name: _beside(row, name, folder) for name in rivals}}
            for which, file in files.items():
                if file is None:
                    raise InputError(f"the {which} is missing")
                scans += measure_scan(row, which, file, settings, cache)
        except AnatrustError as error:
            unreadable.append((row.number, str(error)))
            scans = [s for s in scans if s.row is not row]
    if not scans:
        raise InputError(f"{cohort.source}: no row could be read, the first one: {unreadable[0][1]}")
    scans = named_alike(scans, table)
    summary = summarise(scans, by, settings)
    comparisons = compare_paired(scans, rivals, settings)
    risk = None if abnormality is None else risk_of(scans, abnormality)
    return Evaluation(tuple(scans), tuple(unreadable), settings, tuple(by), summary, comparisons, risk)


def _check_columns(cohort: Cohort, rivals: Sequence[str], by: Sequence[str]) -> None:
    known = {name for row in cohort for name in row.metadata}
    for column in (*rivals, *(name for name in by if name != "group")):
        if column not in known:
            raise InputError(
                f"{cohort.source} has no column {column!r}: "
                + (f"choose one of {', '.join(sorted(known))}" if known else "it has none beside those of every cohort")
            )


def _beside(row: CohortRow, column: str, folder: Path) -> Path:
    """The file a rival column names, relative to the table's folder."""
    text = row.metadata.get(column, "")
    if not text:
        raise InputError(f"column {column}: the cell is empty")
    file = folder / text
    if not file.is_file():
        raise InputError(f"column {column}: there is no file {text!r} beside the table; correct the path")
    return file
