"""The page of an evaluation: numbers that line up, words for what has no number, and no sideways scrolling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatrust.image import write_scan
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.image.write import write_mask
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.evaluate import evaluate
from anatrust.report.evaluation_page import write_evaluation_page

GRID = Grid((16, 16, 8), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients in two groups with a long name."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    x, y, z = np.indices(GRID.shape)
    rows = ["id,image,mask,truth,group,rival"]
    for n in range(8):
        write_scan(folder / f"{n}.nii.gz", Scan(rng.normal(size=GRID.shape).astype(np.float32), GRID))
        for name, shift in (("truth", 0.0), ("mask", rng.uniform(0.4, 1.4)), ("rival", 2.0)):
            inside = (x - 8 - shift) ** 2 + (y - 8) ** 2 + 4 * (z - 4) ** 2 < 25
            write_mask(folder / f"{n}-{name}.nii.gz", Mask(inside, GRID))
        group = ("a scanner with a long name, contrast-enhanced, portal venous", "other")[n % 2]
        rows.append(f'{n},{n}.nii.gz,{n}-mask.nii.gz,{n}-truth.nii.gz,"{group}",{n}-rival.nii.gz')
    (folder / "cohort.csv").write_text("\n".join(rows))
    found = evaluate(Cohort.read(folder / "cohort.csv"), by=("group",), rivals=("rival",), folder=folder)
    write_evaluation_page(folder / "evaluation.html", found)
    return folder / "evaluation.html"


def test_numbers_have_three_figures_and_policies_are_words(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    cells = re.findall(r"<td>(\d[\d.]*)<small>([\d.]+)–([\d.]+)</small></td>", text)
    assert len(cells) == 2 * 7
    assert all(len(number.replace(".", "").lstrip("0")) <= 3 and "." in number for cell in cells for number in cell)
    assert "1.00" in {number for cell in cells for number in cell}
    policy = re.search(r"Empty masks</th><td class='words'>(.*?)</td>", text)
    assert policy
    assert "rate undefined: left out" in policy[1]
    assert "distance one empty: ∞" in policy[1]
    assert "None" not in text


@pytest.mark.parametrize("width", [1300, 420])
def test_nothing_is_wider_than_the_window(page: Path, browser: Any, width: int) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.goto(page.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    shown = opened.evaluate("[...document.querySelectorAll('.wide')].map(e => [e.scrollWidth, e.clientWidth])")
    assert shown
    if width == 1300:
        assert all(inner <= outer for inner, outer in shown)
    opened.close()
