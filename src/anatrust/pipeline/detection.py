"""How well a screening told the strange rows of a labelled table from the usual ones, and whom it flags wrongly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anatrust.errors import InputError
from anatrust.metrics import detection_metrics
from anatrust.ood.screen import patient_key

if TYPE_CHECKING:
    from anatrust.pipeline.cohort import CohortRow
    from anatrust.pipeline.screen_cohort import ScreenedRow
    from anatrust.pipeline.screening import ScreeningSection

__all__ = ["check_labelled", "detection_summary"]

_CONFIDENCE = 0.95


def detection_summary(
    section: ScreeningSection, screened: Sequence[ScreenedRow], *, by: Sequence[str] = ("group",), draws: int = 1000
) -> dict[str, Any]:
    """Detection metrics of the rows that say ``outlier``, and the share of usual patients flagged, by subgroup.

    Parameters
    ----------
    section
        What screened them: patients it was fitted on are left out and counted.
    screened
        The rows. A patient counts once on each side, by the strangest scan.
    by
        Columns of subgroups: ``group`` or any further column of the table.
    draws
        Of the bootstrap over patients.

    Returns
    -------
    dict
        ``scored`` (scans without a prediction left out) and ``no_prediction_strange`` (counted as strangest): AUROC,
        both AUPRs and FPR95 (strange is the positive class) with intervals, rank-biserial effect size and
        Mann–Whitney's one-sided p; ``false_flags``: share and exact interval over patients, in all and by subgroup.
        Calibration patients, whom a profile does not name, must not be in the table.

    Raises
    ------
    InputError
        If the rows lack usual or strange patients, or a column does not exist.
    """
    check_labelled([s.row for s in screened], by)
    labelled = [s for s in screened if s.row.outlier is not None and s.screening is not None]
    seen = section.screener.fit_patients
    asked = [s for s in labelled if patient_key(s.row.patient) not in seen]
    sides = [_strangest([s for s in asked if s.row.outlier is strange]) for strange in (False, True)]
    if not all(sides):
        raise InputError("detection needs usual and strange rows of patients that were not fitted on: say outlier")
    found: dict[str, Any] = {"schema": 1, "fitted_on_and_left_out": len(labelled) - len(asked)}
    for name, keep in (("scored", math.isfinite), ("no_prediction_strange", lambda _: True)):
        usual, strange = (np.array([v for v in side.values() if keep(v)]) for side in sides)
        found[name] = _metrics(usual, strange, draws) if usual.size and strange.size else None
    found["false_flags"] = {"all": _flags([s for s in asked if s.row.outlier is False])}
    for column in by:
        for value in sorted({_value(s, column) for s in asked if s.row.outlier is False} - {""}):
            own = [s for s in asked if s.row.outlier is False and _value(s, column) == value]
            found["false_flags"][f"{column} = {value}"] = _flags(own)
    return found


def check_labelled(rows: Sequence[CohortRow], by: Sequence[str]) -> None:
    """Refuse a table without usual and strange rows, or without a column, before anything long is begun."""
    known = {name for row in rows for name in row.metadata} | {"group"}
    for column in by:
        if column not in known:
            raise InputError(f"the table has no column {column!r}: choose one of {', '.join(sorted(known))}")
    if {row.outlier for row in rows} < {True, False}:
        raise InputError("detection needs rows that say outlier = false and rows that say true")


def _value(screened: ScreenedRow, column: str) -> str:
    return screened.row.group if column == "group" else screened.row.metadata.get(column, "")


def _strangest(rows: Sequence[ScreenedRow]) -> dict[str, float]:
    """Each patient's largest abnormality; infinite where a scan has no prediction."""
    found: dict[str, float] = {}
    for s in rows:
        score = s.screening.abnormality if s.screening is not None else None
        found[s.row.patient] = max(found.get(s.row.patient, -math.inf), math.inf if score is None else score)
    return found


def _metrics(usual: Any, strange: Any, draws: int) -> dict[str, Any]:
    from scipy.stats import mannwhitneyu

    panel = detection_metrics(usual, strange, draws=draws, confidence=_CONFIDENCE)
    values = {name: getattr(panel, name) for name in ("auroc", "aupr_out", "aupr_in", "fpr95")}
    return {
        "usual_patients": panel.n_inside,
        "strange_patients": panel.n_outside,
        **{n: [round(float(v), 4), *(round(e, 4) for e in getattr(panel, f"{n}_interval"))] for n, v in values.items()},
        "rank_biserial": round(panel.rank_biserial, 4),
        "mann_whitney_p": float(f"{mannwhitneyu(strange, usual, alternative='greater').pvalue:.4g}"),
    }


def _flags(rows: Sequence[ScreenedRow]) -> dict[str, Any]:
    """Patients with a scan called strange, of those with a score, with a Clopper–Pearson interval."""
    from scipy.stats import binomtest

    people: dict[str, bool] = {}
    for s in rows:
        if s.screening is not None and s.screening.abnormality is not None:
            people[s.row.patient] = people.get(s.row.patient, False) or s.verdict == "strange"
    if not people:
        return {"patients": 0, "flagged": 0, "share": None, "interval": None}
    flagged = sum(people.values())
    interval = binomtest(flagged, len(people)).proportion_ci(_CONFIDENCE)
    return {
        "patients": len(people),
        "flagged": flagged,
        "share": round(flagged / len(people), 4),
        "interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
    }
