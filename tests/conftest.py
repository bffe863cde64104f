"""Fixtures every room shares: where the real images are, and small seeded generators."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest


def pytest_configure() -> None:
    # A shell that starts tests in the background makes them, and every process they start, deaf to Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _shared_data() -> Path | None:
    places = [os.environ.get("ANATRUST_TEST_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    return next((Path(p) for p in places if p and Path(p).is_dir()), None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images; tests that need it are skipped where it is absent, never in CI."""
    folder = _shared_data()
    if folder is None:
        if os.environ.get("CI"):
            pytest.fail("the real images are missing: put them at ../shared/data or set ANATRUST_TEST_DATA")
        pytest.skip("real images not found: put them at ../shared/data or set ANATRUST_TEST_DATA")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260121)
