"""Planning a cohort: the numbers are those at which the promises become feasible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.plan import assured_patients_needed, learning_patients, plan
from anatrust.statistics.acceptance import check_promise
from anatrust.statistics.conformal_p import CohortNull
from anatrust.statistics.loss_curves import LossCurve
from anatrust.statistics.risk_control import conformal_threshold
from anatrust.statistics.risk_testing import assured_threshold

LOSSLESS = LossCurve(np.array([0]), np.array([0.0]))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_needed_numbers_are_the_first_that_suffice(alpha: float) -> None:
    null, sets, bounds, elsewhere = plan(alpha)
    assert CohortNull(tuple(np.zeros(1) for _ in range(null.needed))).floor <= alpha
    assert CohortNull(tuple(np.zeros(1) for _ in range(null.needed - 1))).floor > alpha
    assert conformal_threshold([LOSSLESS] * sets.needed, alpha, safe="low").feasible
    assert not conformal_threshold([LOSSLESS] * (sets.needed - 1), alpha, safe="low").feasible
    assert learning_patients(bounds.needed, alpha) >= 3
    assert bounds.needed - learning_patients(bounds.needed, alpha) >= sets.needed
    assert learning_patients(bounds.needed - 1, alpha) == 0
    zeros = np.zeros(elsewhere.needed)
    confidence = 1 - 0.05 / 6
    assert check_promise("nothing", zeros, alpha, confidence=confidence).outcome == "pass"
    assert check_promise("nothing", zeros[1:], alpha, confidence=confidence).outcome == "too few"
    n = assured_patients_needed(alpha, 0.1)
    assert assured_threshold([LOSSLESS] * n, alpha, 0.1, safe="low").feasible
    assert not assured_threshold([LOSSLESS] * (n - 1), alpha, 0.1, safe="low").feasible


def row(number: int, patient: str, **given: object) -> CohortRow:
    return CohortRow(number, f"scan {number}", Path("x.nii"), patient, **given)  # type: ignore[arg-type]


def test_patients_are_counted_once_and_by_what_they_serve() -> None:
    here = Path("y.nii")
    cohort = Cohort(
        (
            row(2, "a", truth=here, mask=here, group="north"),
            row(3, "a", truth=here, mask=here, group="north"),
            row(4, "b", truth=here, probabilities=here, group="south"),
            row(5, "c", truth=here),
            row(6, "d", lesion_free=True, mask=here),
            row(7, "e", lesion_free=True),
            row(8, "f", truth=here, mask=here, outlier=True),
        )
    )
    null, sets, north, south, bounds, assured, elsewhere = plan(0.1, cohort, assurance=0.1)
    assert (bounds.have, bounds.best_level, elsewhere.have, elsewhere.met) == (2, None, None, None)
    assert (null.have, sets.have, north.have, south.have, assured.have) == (1, 2, 1, 1, 2)
    assert null.best_level == 0.5
    assert sets.best_level == pytest.approx(1 / 3)
    assert not any(need.met for need in (null, sets, north, south, assured))
    assert plan(0.5, cohort)[0].met
    assert plan(0.1, Cohort((row(2, "a"),)))[0].best_level is None
    assert null.to_json()["met"] is False


def test_groups_and_bounds_count_what_fit_will_calibrate_on() -> None:
    here = Path("y.nii")
    groups = ["north"] * 20 + ["south"] * 10
    rows = tuple(row(k + 2, f"p{k}", truth=here, mask=here, group=group) for k, group in enumerate(groups))
    _, sets, north, south, bounds, _ = plan(0.1, Cohort(rows))
    assert (sets.have, north.have, south.have, bounds.have) == (30, 14, 7, 30)
    assert [need.met for need in (sets, north, south, bounds)] == [True, True, False, True]
    # The level named is one that fit can promise with these patients, and no smaller one is.
    assert bounds.best_level is not None
    assert learning_patients(30, bounds.best_level) >= 3
    assert learning_patients(30, bounds.best_level * 0.99) == 0


@pytest.mark.parametrize(("alpha", "delta"), [(0.0, 0.1), (0.1, 1.0), (1e-6, 0.1)])
def test_levels_out_of_reach_are_refused(alpha: float, delta: float) -> None:
    with pytest.raises(InputError):
        assured_patients_needed(alpha, delta)
