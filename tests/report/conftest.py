"""A small patient with three judged candidates, and one browser for all tests of the page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.levels import Levels
from anatrust.pipeline.verdict import ScanSummary, Statement, Verdict
from anatrust.rejection.candidate import Candidate
from anatrust.report import write_report

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--use-gl=angle",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass(frozen=True)
class Patient:
    """What write_report takes."""

    verdict: Verdict
    scan: Scan
    labels: LabelMap
    kept: Mask
    rejected: Mask

    def write(self, path: Path, **options: Any) -> Path:
        return write_report(path, self.verdict, self.scan, self.labels, self.kept, self.rejected, **options)

    def with_verdict(self, **changes: Any) -> Patient:
        return replace(self, verdict=replace(self.verdict, **changes))


def ball(grid: Grid, centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Voxels within ``radius`` (mm) of an index."""
    index = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    squares = [((i - c) * s) ** 2 for i, c, s in zip(index, centre, grid.spacing, strict=True)]
    return sum(squares) <= radius**2


def candidate(number: int, mask: np.ndarray, scan: Scan, decision: str, **more: Any) -> Candidate:
    places = np.argwhere(mask)
    centre = places.mean(axis=0)
    known = scan.grid.spacing_known
    given: dict[str, Any] = {
        "number": number,
        "label": 1,
        "name": "lesion",
        "voxels": len(places),
        "volume": len(places) * scan.grid.voxel_volume if known else None,
        "diameter": 12.0 if known else None,
        "centroid_index": tuple(float(v) for v in centre),
        "centroid_world": tuple(float(v) for v in scan.grid.to_world(centre)),
        "bounding_box": tuple((int(a), int(b) + 1) for a, b in zip(places.min(0), places.max(0), strict=True)),
        "mean_intensity": float(scan.array[mask].mean()),
        "contrast": 2.5,
        "tissue": "liver",
        "statistic": 0.2,
        "p_value": 0.005,
        "p_floor": 0.005,
        "q_value": 0.005,
        "null": "surrogate-max",
        "placement_p": 0.001,
        "decision": decision,
        "reason": "differs from the tissue",
    }
    return Candidate(**{**given, **more})


def judged(scan: Scan, masks: list[np.ndarray], decisions: list[str], **changes: Any) -> Patient:
    """A verdict over the masks, one candidate each."""
    labels = np.zeros(scan.grid.shape, np.uint8)
    for mask in masks:
        labels[mask] = 1
    outcome = {
        name: Mask(np.any([m & (d == name) for m, d in zip(masks, decisions, strict=True)], axis=0), scan.grid)
        for name in ("kept", "rejected")
    }
    given: dict[str, Any] = {
        "decision": "review",
        "reasons": ("1 of 3 candidates was rejected",),
        "kind": "lesion",
        "scan": ScanSummary.of(scan),
        "levels": Levels(),
        "statements": (
            Statement("the share of false candidates is at most 0.1", 0.1, "approximate", "candidates"),
            Statement("nothing is promised about healthy people", None, "none", "candidates"),
        ),
        "findings": (Finding("warning", "spacing", "The slices are 9 mm apart.", "Use a thinner series."),),
        "candidates": tuple(
            candidate(i + 1, m, scan, d) for i, (m, d) in enumerate(zip(masks, decisions, strict=True))
        ),
        "null": "surrogate-max",
        "correction": "familywise",
        "notes": ("gate L1 was skipped",),
        "version": "0.1.0",
    }
    return Patient(
        Verdict(**{**given, **changes}), scan, LabelMap(labels, scan.grid), outcome["kept"], outcome["rejected"]
    )


@pytest.fixture(scope="session")
def patient() -> Patient:
    """An oblique CT, stored left to right and head first, with one candidate of each decision."""
    turn = np.deg2rad(10)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-3.0, 3.0, -4.0])
    affine[:3, 3] = (80, -60, 90)
    grid = Grid((48, 44, 30), affine)
    noise = np.random.default_rng(7).normal(0, 12, grid.shape)
    array = np.where(ball(grid, (23.5, 21.5, 15), 58), 50 + noise, -1000)
    masks = [ball(grid, (14, 24, 20), 10), ball(grid, (32, 18, 12), 9), ball(grid, (24, 30, 8), 8)]
    for mask, level in zip(masks, (140, 60, -20), strict=True):
        array[mask] += level - 50
    scan = Scan(np.rint(array).astype(np.int16), grid, "CT", "HU", "phantom")
    return judged(scan, masks, ["kept", "rejected", "undecidable"])


@pytest.fixture(scope="session")
def picture() -> Patient:
    """A picture without physical size: bright top left corner, two candidates."""
    grid = Grid.without_spacing((120, 160))
    array = np.random.default_rng(3).integers(40, 90, grid.shape).astype(np.uint8)
    array[:30, :40] = 250
    masks = [ball(grid, (80, 40), 12), ball(grid, (60, 120), 9)]
    return judged(Scan(array, grid, "photo", "", "photo"), masks, ["kept", "rejected"])


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{CHROMIUM} is missing: install the package chromium")
        pytest.skip(f"{CHROMIUM} is missing: install the package chromium to test the page")
    with sync_api.sync_playwright() as playing:
        yield playing


@pytest.fixture(scope="session")
def browser(playwright: Any) -> Iterator[Any]:
    running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
    yield running
    running.close()


class Opened:
    """A page and what happened in it."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1300, "height": 900}, **options})
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached", timeout=90_000)

    def state(self, name: str) -> str | None:
        """A data attribute of the root element."""
        return self.page.locator("html").get_attribute(f"data-{name}")

    @property
    def crosshair(self) -> np.ndarray:
        return np.array([float(v) for v in (self.state("crosshair") or "").split(",")])

    def pixels(self, selector: str = "#canvas") -> np.ndarray:
        """What an element looks like, ``(rows, columns, 3)``."""
        import io

        from PIL import Image

        shot = self.page.locator(selector).screenshot(timeout=90_000)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


@pytest.fixture(scope="session")
def open_page(browser: Any) -> Iterator[Callable[..., Opened]]:
    pages: list[Opened] = []

    def opening(file: Path, **options: Any) -> Opened:
        pages.append(Opened(browser, file, **options))
        return pages[-1]

    yield opening
    for opened in pages:
        opened.page.close()


@pytest.fixture(scope="session")
def opened_class() -> type[Opened]:
    return Opened


@pytest.fixture(scope="session")
def chromium() -> str:
    return str(CHROMIUM)
