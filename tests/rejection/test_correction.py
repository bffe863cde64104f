"""Corrections, the levels they need, the sentences, and the settings."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask
from anatrust.rejection import GateSettings, Rejection, RejectionSettings, TissueSettings
from anatrust.rejection.correction import correct, needed_level, resolved_correction
from anatrust.rejection.statements import statements

P = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12).map(np.array)


@settings(deadline=None)
@given(P)
def test_bh_and_by_equal_scipy(p):
    for name in ("bh", "by"):
        np.testing.assert_allclose(correct(p, name, 0.1).q, false_discovery_control(p, method=name))


@settings(deadline=None)
@given(P, st.sampled_from(["familywise", "bh", "by", "ebh", "weighted-bh", "focused-bh"]), st.floats(0.01, 0.3))
def test_a_single_p_at_the_needed_level_is_significant(p, name, alpha):
    sizes = np.arange(1, len(p) + 1, dtype=float)
    needed = correct(p, name, alpha, sizes=sizes).needed
    assert needed.shape == p.shape
    assert (needed > 0).all()
    others = np.ones_like(p)
    for k in range(len(p)):
        reached = others.copy()
        reached[k] = min(needed[k], 1.0) * (1 - 1e-9)
        assert correct(reached, name, alpha, sizes=sizes).significant[k]
        if needed[k] < 0.9:
            missed = others.copy()
            missed[k] = needed[k] * 1.01
            assert not correct(missed, name, alpha, sizes=sizes).significant[k]


def test_familywise_is_bonferroni_over_families_and_holm_over_candidates():
    p = np.array([0.01, 0.03, 0.2])
    np.testing.assert_allclose(correct(p, "familywise", 0.1, families=2).q, [0.02, 0.06, 0.4])
    np.testing.assert_allclose(correct(p, "familywise", 0.1).q, [0.03, 0.06, 0.2])
    assert needed_level("familywise", 5, 0.1, families=1)[0] == 0.1
    assert needed_level("familywise", 5, 0.1)[0] == pytest.approx(0.02)


def test_focused_bh_uses_the_filter():
    p = np.array([0.001, 0.002, 0.9])
    dropped = correct(p, "focused-bh", 0.1, keep=lambda chosen: chosen & np.array([False, True, True]))
    assert dropped.significant.tolist() == [False, True, False]
    assert correct(np.array([]), "focused-bh", 0.1, keep=lambda c: c).significant.shape == (0,)
    assert correct(np.array([]), "weighted-bh", 0.1).q.shape == (0,)


def test_resolved_correction():
    auto = RejectionSettings()
    assert resolved_correction("cohort", auto) == "familywise"
    assert resolved_correction("cohort", RejectionSettings(cohort_draw="random")) == "bh"
    assert resolved_correction("block", auto) == "by"
    assert resolved_correction("iid", RejectionSettings(correction="ebh")) == "ebh"


@pytest.mark.parametrize(
    ("null", "correction"),
    list(
        product(
            ["cohort", "surrogate-max", "placement", "block", "iid"],
            ["familywise", "bh", "by", "ebh", "weighted-bh", "focused-bh"],
        )
    ),
)
def test_statements_name_the_level_only_where_one_is_claimed(null, correction):
    said = statements(null, correction, RejectionSettings(alpha=0.07), tested=3, undecidable=1, patients=19)
    text = " ".join(claim.text for claim in said)
    claimed = null not in ("block", "iid")
    assert [claim.level for claim in said if "0.07" in claim.text] == [0.07] * claimed
    assert [claim.level for claim in said if claim.level is not None] == [0.07] * claimed
    assert ("0.07" in text) == (null not in ("block", "iid"))
    assert ("No error rate is guaranteed" in text) == (null in ("block", "iid"))
    assert "does not mean tumour" in text
    assert "1 candidate is undecidable" in text
    assert ("19 lesion-free patients" in text) == (null == "cohort")
    assert ("does not hold for candidates a segmenter chose" in text) == (null == "placement")


def test_gates_after_the_test_drop_the_claim():
    late = RejectionSettings(order="published", alpha=0.07)
    for correction, claimed in (("bh", False), ("by", False), ("focused-bh", True), ("familywise", True)):
        said = statements("placement", correction, late, tested=2, undecidable=0)
        text = " ".join(claim.text for claim in said)
        assert any(claim.level == 0.07 for claim in said) == ("0.07" in text) == claimed
        assert ("No error rate is claimed" in text) != claimed
    open_gates = RejectionSettings(order="published", gates=GateSettings(enabled=False))
    assert "at most 0.1" in statements("placement", "by", open_gates, tested=2, undecidable=2)[0].text


def test_random_draw_statement():
    said = statements("cohort", "bh", RejectionSettings(cohort_draw="random"), tested=1, undecidable=0, patients=30)
    assert said[0].text.startswith("The expected share of normal ones among the kept candidates is at most 0.1")


def test_nothing_tested():
    said = statements("none", "by", RejectionSettings(), tested=0, undecidable=2)
    assert said[0].text == "No candidate could be decided, so nothing is claimed."
    assert "2 candidates are undecidable" in said[1].text


def test_settings_survive_json():
    chosen = RejectionSettings(
        alpha=0.05,
        null="placement",
        percentiles=(1, 99),
        gates=GateSettings(ks_distance=0.3),
        tissue=TissueSettings(names=("liver", 3), reference="mixture"),
    )
    assert RejectionSettings.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    assert RejectionSettings.from_json({}) == RejectionSettings()
    with pytest.raises(InputError, match="cannot be read"):
        RejectionSettings.from_json({"alfa": 0.1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RejectionSettings(alpha=1.0), "alpha is 1"),
        (lambda: RejectionSettings(null="magic"), "null is 'magic'"),
        (lambda: RejectionSettings(correction="none"), "correction is 'none'"),
        (lambda: RejectionSettings(percentiles=(99, 1)), "percentiles are 99 and 1"),
        (lambda: RejectionSettings(levels=1), "levels is 1"),
        (lambda: RejectionSettings(connectivity=5), "connectivity is 5"),
        (lambda: RejectionSettings(n_draws=0), "at least 1"),
        (lambda: GateSettings(overlap=2.0), "gates.overlap is 2"),
        (lambda: GateSettings(ks_distance=-0.1), "gates.ks_distance is -0.1"),
        (lambda: GateSettings(min_area=float("nan")), "gates.min_area is nan"),
        (lambda: TissueSettings(trim=0.6), "tissue.trim is 0.6"),
        (lambda: TissueSettings(components=4), "tissue.components is 4"),
        (lambda: TissueSettings(min_voxels=1), "tissue.min_voxels is 1"),
    ],
)
def test_impossible_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_masks_of_a_result_share_a_grid():
    small, large = (Mask(np.zeros((n, n), bool), Grid((n, n), np.eye(4))) for n in (2, 3))
    with pytest.raises(GeometryError, match="must share one grid"):
        Rejection((), small, small, large, (), (), "none", "none", RejectionSettings())
