"""Every choice of rejection: what is refused, and the round trip through JSON."""

from __future__ import annotations

import re
from typing import Any

import pytest

from anatrust.errors import InputError
from anatrust.rejection.settings import GateSettings, RejectionSettings, TissueSettings


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (GateSettings, {"overlap": 1.5}, "gates.overlap is 1.5: give a number from 0 to 1"),
        (GateSettings, {"ks_distance": -0.1}, "gates.ks_distance is -0.1"),
        (GateSettings, {"min_volume": -1.0}, "gates.min_volume is -1: give a finite number"),
        (GateSettings, {"case_score": float("inf")}, "gates.case_score is inf"),
        (GateSettings, {"case_form": "sum"}, "gates.case_form is 'sum': choose one of product, quotient"),
        (TissueSettings, {"rim": float("nan")}, "tissue.rim is nan"),
        (TissueSettings, {"reference": "median"}, "tissue.reference is 'median'"),
        (TissueSettings, {"trim": 0.6}, "tissue.trim is 0.6"),
        (TissueSettings, {"components": 4}, "tissue.components is 4"),
        (TissueSettings, {"min_voxels": 1}, "tissue.min_voxels is 1"),
        (RejectionSettings, {"alpha": 0.0}, "alpha is 0"),
        (RejectionSettings, {"null": "magic"}, "null is 'magic'"),
        (RejectionSettings, {"correction": "none"}, "correction is 'none'"),
        (RejectionSettings, {"cohort_draw": "mean"}, "cohort_draw is 'mean'"),
        (RejectionSettings, {"score": "mmd2-volume/1"}, "score is 'mmd2-volume/1': choose one of auto, compact"),
        (RejectionSettings, {"order": "random"}, "order is 'random'"),
        (RejectionSettings, {"features": "deep"}, "features is 'deep'"),
        (RejectionSettings, {"direction": "up"}, "direction is 'up'"),
        (RejectionSettings, {"percentiles": (50, 50)}, "percentiles are 50 and 50"),
        (RejectionSettings, {"levels": 1}, "levels is 1"),
        (RejectionSettings, {"connectivity": 5}, "connectivity is 5"),
        (RejectionSettings, {"n_draws": 0}, "n_draws and n_surrogates are at least 1"),
    ],
)
def test_impossible_values_are_refused_in_one_line(kind: Any, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        kind(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        RejectionSettings(),
        RejectionSettings(
            alpha=0.05,
            null="placement",
            direction="darker",
            percentiles=(1, 99),
            connectivity=18,
            gates=GateSettings(ks_distance=0.3),
            tissue=TissueSettings(names=("liver", 3)),
        ),
    ],
)
def test_settings_survive_json(settings: RejectionSettings) -> None:
    plain = settings.to_json()
    assert RejectionSettings.from_json(plain) == settings
    plain.pop("percentiles")
    assert RejectionSettings.from_json(plain).percentiles == (0.5, 99.5)
    with pytest.raises(InputError, match=r"cannot be read: .*unexpected keyword"):
        RejectionSettings.from_json(plain | {"wisdom": 1})
