"""The three gates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from anatrust.rejection import Candidate, GateSettings
from anatrust.rejection.gates import candidate_gate, case_gate, case_score, existence_gate, skipped_gates


def _candidate(voxels=100, volume=100.0, chance=0.8):
    return Candidate(1, 1, "x", voxels, volume, 9.0, (5.0, 5.0), (5.0, 5.0, 0.0), ((0, 9), (0, 9)), 1.0, chance)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 200), st.integers(2, 200))
def test_ks_equals_scipy_up_to_the_bins(seed, m, n):
    rng = np.random.default_rng(seed)
    # Values on bin centres, so that binning loses nothing.
    values = (rng.integers(0, 512, m + n) * 8 + 4) / 4096
    positive = np.arange(m + n) < m
    measured = existence_gate(positive, values, GateSettings())
    reference = ks_2samp(values[:m], values[m:], method="asymp")
    assert measured.ks_distance == pytest.approx(reference.statistic)
    # scipy corrects the asymptotic p-value for small samples.
    if min(m, n) >= 50:
        assert measured.ks_p == pytest.approx(reference.pvalue, abs=0.08)
    assert measured.positive_share == m / (m + n)


def test_existence_arms():
    mask = np.zeros(1000, bool)
    mask[:100] = True
    sure = np.where(mask, 0.9, 0.1)
    passes = existence_gate(mask, sure, GateSettings())
    assert passes.failure is None
    assert passes.max_probability == 0.9
    assert passes.ks_distance == 1.0
    assert "largest probability" in existence_gate(mask, sure * 0.5, GateSettings()).failure
    assert "share of positive voxels" in existence_gate(mask, sure, GateSettings(positive_share=0.2)).failure
    same = np.tile([0.2, 0.9], 500)
    assert "cannot be told apart" in existence_gate(mask, same, GateSettings()).failure
    alike = np.where(mask, 0.6, np.tile([0.5, 0.7], 500))
    assert existence_gate(mask, alike, GateSettings()).failure is None
    assert "D = " in existence_gate(mask, alike, GateSettings(ks_distance=0.8)).failure
    full = existence_gate(np.ones(10, bool), np.full(10, 0.9), GateSettings())
    assert (full.ks_distance, full.ks_p) == (0.0, 1.0)


def test_existence_without_probabilities_looks_at_the_share_only():
    mask = np.zeros(100, bool)
    mask[0] = True
    result = existence_gate(mask, None, GateSettings())
    assert result.failure is None
    assert result.ks_p is None
    assert "share" in existence_gate(mask, None, GateSettings(positive_share=0.5)).failure


@settings(deadline=None)
@given(st.floats(0.1, 1000), st.floats(0, 1), st.floats(0, 1))
def test_candidate_gate_is_the_conjunction_of_its_arms(size, chance, overlap):
    gates = GateSettings()
    candidate = _candidate(voxels=max(1, int(size)), volume=size, chance=chance)
    failure = candidate_gate(candidate, gates, ndim=2, overlap=overlap)
    passes = size >= gates.min_area and chance >= gates.mean_probability and overlap >= gates.overlap
    assert (failure is None) == passes
    assert failure is None or failure.startswith("gate L2")


def test_sizes_are_areas_volumes_or_voxels():
    gates = GateSettings(min_area=10, min_volume=20, min_voxels=30)
    assert candidate_gate(_candidate(15, 15.0), gates, ndim=2) is None
    assert "15 mm³, is below 20 mm³" in candidate_gate(_candidate(15, 15.0), gates, ndim=3)
    assert "15 voxels, is below 30 voxels" in candidate_gate(_candidate(15, None), gates, ndim=3)
    assert candidate_gate(_candidate(15, 15.0, None), gates, ndim=2, overlap=None) is None


def test_both_forms_of_the_case_score():
    product, quotient = GateSettings(), GateSettings(case_form="quotient")
    assert case_score(_candidate(), product, ndim=2) == pytest.approx(0.8 * 10)
    assert case_score(_candidate(), quotient, ndim=2) == pytest.approx(0.08)
    assert case_score(_candidate(volume=27.0), product, ndim=3) == pytest.approx(2.4)
    assert case_score(_candidate(voxels=64, volume=None), product, ndim=3) == pytest.approx(3.2)
    assert case_score(_candidate(chance=None), product, ndim=2) is None


def test_case_gate_takes_the_best():
    small, big = _candidate(4, 4.0), _candidate(100, 100.0)
    assert case_gate([small, big], GateSettings(), ndim=2) is None
    failure = case_gate([small], GateSettings(), ndim=2)
    assert failure == f"gate L3: the best candidate's score, {0.8 * math.sqrt(4):.3g}, is below 3"
    assert case_gate([], GateSettings(), ndim=2) is None
    assert case_gate([_candidate(chance=None)], GateSettings(), ndim=2) is None


def test_what_was_skipped_is_said():
    assert skipped_gates(GateSettings(), probabilities=True, anatomy=True) == ()
    assert len(skipped_gates(GateSettings(), probabilities=False, anatomy=False)) == 2
    assert skipped_gates(GateSettings(enabled=False), probabilities=False, anatomy=False) == (
        "The gates were switched off.",
    )
