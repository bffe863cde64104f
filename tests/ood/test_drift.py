"""Drift: Ville's bound by simulation, alarms where there is a change, and a monitor that goes on after a stop."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import kstest

from anatrust.errors import FormatError, InputError
from anatrust.ood.drift import DriftMonitor


def run(monitor: DriftMonitor, scores: np.ndarray) -> DriftMonitor:
    for score in scores:
        monitor.update(float(score))
    return monitor


def test_false_alarms_keep_villes_bound() -> None:
    """Discrete scores: ties everywhere. 400 streams of 150 scans, level 0.2 so that the bound is put to the test."""
    rng = np.random.default_rng(1)
    level, streams = 0.2, 400
    alarms = [
        run(DriftMonitor(rng.integers(0, 8, 20), level=level, jump=0.05, seed=i), rng.integers(0, 8, 150)).alarm
        for i in range(streams)
    ]
    assert np.mean(alarms) <= level + 2 * np.sqrt(level * (1 - level) / streams)
    assert np.mean(alarms) > 0.01  # the bet is a real one


def test_online_p_values_are_uniform_without_drift() -> None:
    rng = np.random.default_rng(2)
    monitor = DriftMonitor(rng.integers(0, 5, 30))
    p = [monitor.update(float(s)).p_value for s in rng.integers(0, 5, 800)]
    assert kstest(p, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(p[:-1], p[1:])[0, 1]) < 0.1


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_a_change_is_found(shift: float) -> None:
    rng = np.random.default_rng(3)
    monitor = run(DriftMonitor(rng.normal(size=100)), rng.normal(size=50))
    assert not monitor.alarm
    assert run(monitor, rng.normal(shift, size=40)).alarm


def test_an_alarm_is_kept() -> None:
    monitor = run(DriftMonitor(np.zeros(50), level=0.05), np.arange(1.0, 60.0))
    assert monitor.alarm
    step = run(monitor, np.zeros(400)).update(0.0)
    assert step.alarm
    assert step.largest == monitor.largest >= step.wealth


def test_read_again_it_goes_on() -> None:
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 5, 60).astype(float)
    through = run(DriftMonitor([0.0, 1.0], seed=7), scores)
    stopped = DriftMonitor.from_arrays(run(DriftMonitor([0.0, 1.0], seed=7), scores[:25]).to_arrays())
    assert run(stopped, scores[25:]).wealth == through.wealth
    assert stopped.update(2.0) == through.update(2.0)


def test_starts_from_nothing_and_takes_infinity() -> None:
    monitor = DriftMonitor([])
    first = monitor.update(np.inf)
    assert 0 < first.p_value < 1
    assert monitor.count == 1


@pytest.mark.parametrize("damage", ["missing", "newer", "foreign", "short", "poor", "count"])
def test_damaged_monitors_are_refused(damage: str) -> None:
    arrays = run(DriftMonitor([1.0, 2.0]), np.arange(3.0)).to_arrays()
    header = json.loads(arrays["header"].tobytes())
    if damage == "missing":
        del arrays["history"]
    elif damage == "short":
        arrays["capital"] = arrays["capital"][1:]
    elif damage == "poor":
        arrays["capital"] = -arrays["capital"]
    else:
        header |= {"newer": {"schema": 2}, "foreign": {"level": 7}, "count": {"count": 99}}[damage]
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with pytest.raises(FormatError) as error:
        DriftMonitor.from_arrays(arrays)
    assert "\n" not in str(error.value)


def test_bad_input_is_one_line() -> None:
    for call in (
        lambda: DriftMonitor([[1.0]]),
        lambda: DriftMonitor([np.nan]),
        lambda: DriftMonitor([1.0], level=0.0),
        lambda: DriftMonitor([1.0], jump=2.0),
        lambda: DriftMonitor([1.0]).update(float("nan")),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)
