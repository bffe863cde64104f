"""What a screening of a labelled table is worth: metrics, both ways of counting, subgroups, who is left out."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from anatrust.errors import InputError
from anatrust.metrics import auroc
from anatrust.ood.screen import Screening, patient_key
from anatrust.pipeline.cohort import CohortRow
from anatrust.pipeline.detection import detection_summary
from anatrust.pipeline.screen_cohort import ScreenedRow

SECTION: Any = SimpleNamespace(screener=SimpleNamespace(fit_patients=frozenset({patient_key("known")})))


def row(
    number: int,
    outlier: bool | None,
    score: float | None,
    *,
    patient: str = "",
    flagged: bool = False,
    group: str = "",
    kernel: str = "soft",
) -> ScreenedRow:
    verdict: Any = "no_prediction" if score is None else "strange" if flagged else "usual"
    told = Screening(f"s{number}", score, None if score is None else 0.5, 0.05, 0.05, verdict, ("so",))
    metadata = {"kernel": kernel}
    scan = CohortRow(
        number, str(number), Path("x"), patient or str(number), group=group, outlier=outlier, metadata=metadata
    )
    return ScreenedRow(scan, told)


def test_metrics_are_those_of_patients_and_count_missing_predictions_both_ways() -> None:
    rng = np.random.default_rng(5)
    usual, strange = rng.normal(size=30), rng.normal(1.0, size=20)
    rows = [row(i, False, float(v)) for i, v in enumerate(usual)]
    rows += [row(100 + i, True, float(v)) for i, v in enumerate(strange)]
    rows += [row(200, False, float(usual[0]) - 5, patient="0")]  # a second, more usual scan of a patient
    rows += [row(300, True, None), row(301, False, None), row(400, None, 9.0)]
    found = detection_summary(SECTION, rows, draws=50)
    own = found["scored"]
    assert (own["usual_patients"], own["strange_patients"]) == (30, 20)
    assert own["auroc"][0] == pytest.approx(auroc(usual, strange), abs=1e-4)
    assert own["auroc"][1] < own["auroc"][0] < own["auroc"][2]
    assert own["rank_biserial"] == pytest.approx(2 * auroc(usual, strange) - 1, abs=1e-4)
    expected = mannwhitneyu(strange, usual, alternative="greater").pvalue
    assert own["mann_whitney_p"] == pytest.approx(expected, rel=1e-3)
    both = found["no_prediction_strange"]
    assert (both["usual_patients"], both["strange_patients"]) == (31, 21)
    wide = auroc([*usual, math.inf], [*strange, math.inf])
    assert both["auroc"][0] == pytest.approx(wide, abs=1e-4)


def test_wrong_flags_are_counted_by_subgroup_and_patients_fitted_on_are_left_out() -> None:
    rows = [row(i, False, 0.1 * i, flagged=i < 3, group="A" if i < 6 else "B", kernel="sharp") for i in range(10)]
    rows += [row(20, True, 5.0, flagged=True), row(21, False, 9.0, patient="known", flagged=True)]
    found = detection_summary(SECTION, rows, by=("group", "kernel"), draws=20)
    flags = found["false_flags"]
    assert found["fitted_on_and_left_out"] == 1
    assert (flags["all"]["flagged"], flags["all"]["patients"]) == (3, 10)
    assert flags["all"]["interval"] == [0.0667, 0.6525]  # Clopper and Pearson's of 3 in 10
    assert (flags["group = A"]["flagged"], flags["group = B"]["flagged"]) == (3, 0)
    assert flags["kernel = sharp"] == flags["all"]


def test_what_cannot_be_summarised() -> None:
    usual = [row(i, False, 1.0) for i in range(3)]
    with pytest.raises(InputError, match="rows that say true"):
        detection_summary(SECTION, usual)
    with pytest.raises(InputError, match="no column 'site'"):
        detection_summary(SECTION, [*usual, row(9, True, 2.0)], by=("site",))
    with pytest.raises(InputError, match="not fitted on"):
        detection_summary(SECTION, [*usual, row(9, True, 2.0, patient="known")])
