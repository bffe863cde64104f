"""What one cohort null realises of its level: the law of it against simulated cohorts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.statistics.conformal_p import CohortNull
from anatrust.statistics.realised_level import realised_level, realised_share


@pytest.mark.parametrize(("patients", "level"), [(79, 0.10), (40, 0.10), (19, 0.05)])
def test_cohorts_lie_in_the_interval_as_often_as_it_says(patients: int, level: float) -> None:
    """The realised level of a cohort, known for uniform scores without sampling, and the count of 50 others."""
    rng = np.random.default_rng(patients)
    low, high = realised_level(patients, level)
    fewest, most = realised_share(patients, 50, level)
    inside, counted, realised = 0, 0, []
    draws = 2000
    for _ in range(draws):
        null = CohortNull(tuple(rng.random(patients)[:, None]))
        # Of uniform scores a share of 1 − s lies above s; kept is what k − 1 of the null or fewer reach.
        keeps_from = next(s for s in np.sort(null.maxima) if null.p_value(np.nextafter(s, 1)) <= level + 1e-9)
        realised.append(1 - keeps_from)
        inside += low <= realised[-1] <= high
        kept = int((null.p_values(rng.random(50)) <= level + 1e-9).sum())
        counted += fewest <= kept <= most
    assert abs(inside / draws - 0.95) < 0.02
    # An interval of whole numbers holds at least what it says.
    assert counted / draws > 0.94
    assert np.mean(realised) == pytest.approx(level, abs=0.005)


@given(st.integers(9, 400), st.sampled_from([0.05, 0.10, 0.20]))
def test_more_patients_are_nearer_to_the_level(patients: int, level: float) -> None:
    low, high = realised_level(patients, level)
    assert 0 <= low <= high < 1
    if patients + 1 >= 1 / level:
        further = realised_level(10 * (patients + 1) - 1, level)
        assert further[1] - further[0] < high - low


def test_too_few_patients_keep_nothing_and_nonsense_is_refused() -> None:
    assert realised_level(8, 0.10) == (0.0, 0.0)
    assert realised_share(8, 50, 0.10) == (0, 0)
    # 0.1 · 80 is 8, whatever binary fractions make of it; 0.3 · 10 is 3.
    assert realised_level(9, 0.3)[1] == pytest.approx(0.6001, abs=1e-3)
    for call in (
        lambda: realised_level(0, 0.1),
        lambda: realised_level(9, 1.0),
        lambda: realised_level(9, 0.1, confidence=0.0),
        lambda: realised_share(9, 0, 0.1),
    ):
        with pytest.raises(InputError):
            call()
