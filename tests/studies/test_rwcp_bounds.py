"""Study rwcp-bounds leaves enough patients to calibrate."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.statistics.risk_control import patients_needed
from anatrust.studies.rwcp_bounds import parted
from anatrust.studies.rwcp_bounds_summary import ALPHA
from anatrust.studies.segmenters import IMAGE_SETS, image_set


@given(st.integers(13, 500))
def test_those_who_calibrate_suffice_for_the_promise(pool: int) -> None:
    learnt, tested = parted(pool)
    assert min(learnt, tested) >= 1
    assert pool - learnt - tested >= patients_needed(ALPHA)


def test_too_few_patients_are_said() -> None:
    with pytest.raises(InputError, match="12 patients are too few"):
        parted(12)


@pytest.mark.parametrize("name", sorted(IMAGE_SETS))
def test_the_full_study_can_be_run_on_each_set(name: str, shared_data: Path) -> None:
    pool = len(image_set(name, shared_data).parts["pool"])
    assert pool - sum(parted(pool)) >= patients_needed(ALPHA)
