"""The page in a real browser (headless Chromium, software WebGL2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anatrust.image.volumes import ProbabilityMap

BLUE, ORANGE = np.array((86, 180, 233)), np.array((230, 159, 0))


@pytest.fixture(scope="module")
def opened(patient, open_page, tmp_path_factory):
    """The page of the oblique patient, shared: each test puts back what it changes."""
    grid = patient.scan.grid
    chance = np.where(patient.labels.array > 0, 0.9, 0.0).astype(np.float32)[None]
    file = patient.write(
        tmp_path_factory.mktemp("page") / "report.html",
        probabilities=ProbabilityMap(chance, grid),
        run={"seed": 0, "inputs": {"scan": {"sha256": "ab" * 32}}},
    )
    return open_page(file)


def coloured(pixels: np.ndarray, colour: np.ndarray) -> int:
    """Pixels whose hue is that of the colour: the grey scan has none."""
    spread = pixels.max(axis=-1) - pixels.min(axis=-1)
    hue = pixels - pixels.mean(axis=-1, keepdims=True)
    wanted = colour - colour.mean()
    agree = (hue * wanted).sum(-1) / (np.linalg.norm(hue, axis=-1) * np.linalg.norm(wanted) + 1e-9)
    return int(((spread > 25) & (agree > 0.93)).sum())


def test_the_scan_and_the_outcomes_are_drawn(opened):
    assert opened.state("ready") == "webgl"
    pixels = opened.pixels()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    assert coloured(pixels, BLUE) > 200


def test_no_request_leaves_the_page_and_nothing_complains(opened):
    assert len(opened.requests) == 1
    assert opened.requests[0].startswith("file://")
    assert opened.complaints == []


def test_a_click_on_a_candidate_moves_the_crosshair_to_its_world_position(opened, patient):
    for c in (patient.verdict.candidates[1], patient.verdict.candidates[2], patient.verdict.candidates[0]):
        opened.page.click(f"tbody[data-number='{c.number}'] .why")
        assert np.abs(opened.crosshair - c.centroid_world).max() < 0.02
        assert opened.state("selected") == str(c.number)
        assert opened.page.locator("button.go[aria-current]").inner_text() == str(c.number)
        assert c.decision in opened.page.inner_text("#place")


def test_the_value_under_the_crosshair_is_the_scans(opened, patient):
    c = patient.verdict.candidates[0]
    opened.page.click("tbody[data-number='1'] .go")
    value = patient.scan.array[tuple(round(v) for v in c.centroid_index)]
    assert f"value {value} HU" in opened.page.inner_text("#place").replace(".0 HU", " HU")


def test_toggles_and_opacity_hide_overlays(opened):
    opened.page.click("tbody[data-number='2'] .go")
    assert coloured(opened.pixels(), ORANGE) > 40
    opened.page.uncheck("input[data-layer='rejected']")
    assert coloured(opened.pixels(), ORANGE) == 0
    opened.page.check("input[data-layer='rejected']")
    opened.page.fill("#opacity", "0")
    assert coloured(opened.pixels(), ORANGE) == 0
    opened.page.fill("#opacity", "80")
    assert coloured(opened.pixels(), ORANGE) > 40


def test_the_probability_is_off_at_first(opened):
    yellow = np.array((240, 228, 66))
    opened.page.click("tbody[data-number='1'] .go")
    opened.page.uncheck("input[data-layer='kept']")
    assert coloured(opened.pixels(), yellow) == 0
    opened.page.check("input[data-layer='probability']")
    assert coloured(opened.pixels(), yellow) > 200
    opened.page.uncheck("input[data-layer='probability']")
    opened.page.check("input[data-layer='kept']")


def test_windows_views_and_zoom_change_the_picture(opened):
    before = opened.pixels()
    for box, other, first in (("#window", "3", "0"), ("#view", "coronal", "all"), ("#zoom", "4", "1")):
        opened.page.select_option(box, other)
        now = opened.pixels()
        # Another view has another height, for the stage is as high as its planes need.
        assert now.shape != before.shape or np.abs(now - before).mean() > 1, box
        opened.page.select_option(box, first)
    assert np.abs(opened.pixels() - before).mean() < 0.5


def test_zoom_keeps_the_crosshair(opened, patient):
    opened.page.select_option("#zoom", "4")
    opened.page.click("tbody[data-number='3'] .go")
    assert np.abs(opened.crosshair - patient.verdict.candidates[2].centroid_world).max() < 0.02
    opened.page.select_option("#zoom", "1")


def test_everything_can_be_done_with_the_keyboard(opened, patient):
    page = opened.page
    page.focus("button.go >> nth=0")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "2"
    page.keyboard.press("Enter")
    assert np.abs(opened.crosshair - patient.verdict.candidates[1].centroid_world).max() < 0.02
    reached = set()
    page.focus(".skip")
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className || ''"))
    assert {"opacity", "window", "view", "zoom", "canvas", "sort", "go"} <= reached
    page.focus("canvas")
    start = opened.crosshair
    page.keyboard.press("PageUp")
    moved = opened.crosshair - start
    assert 2 < np.linalg.norm(moved) < 6
    assert moved[2] > 2  # up is towards the head
    page.keyboard.press("ArrowRight")
    assert (opened.crosshair - start - moved)[0] < -2  # right on the screen is the patient's left


def test_focus_is_visible(opened):
    opened.page.focus("button.go >> nth=0")
    opened.page.keyboard.press("ArrowDown")
    outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_columns_sort_and_missing_figures_come_last(opened):
    numbers = lambda: opened.page.locator("button.go").all_inner_texts()  # noqa: E731
    opened.page.click("button.sort[data-key='size']")
    assert numbers() == ["3", "2", "1"]
    opened.page.click("button.sort[data-key='size']")
    assert numbers() == ["1", "2", "3"]
    assert opened.page.get_attribute("th:has(button[data-key='size'])", "aria-sort") == "descending"
    opened.page.click("button.sort[data-key='number']")


def test_long_tables_show_the_outcomes_that_are_wanted(patient, open_page, tmp_path):
    first = patient.verdict.candidates[0]
    outcome = {3: "kept", 11: "undecidable"}
    many = tuple(replace(first, number=n, decision=outcome.get(n, "rejected")) for n in range(1, 13))
    page = open_page(patient.with_verdict(candidates=many).write(tmp_path / "many.html")).page
    shown = "[...document.querySelectorAll('button.go')].filter(b => b.offsetParent).map(b => b.textContent)"
    assert len(page.evaluate(shown)) == 12
    assert "Rejected (10)" in page.locator(".filter").inner_text()
    page.uncheck(".filter input[data-outcome='rejected']")
    assert page.evaluate(shown) == ["3", "11"]
    page.focus("tbody[data-number='3'] .go")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "11"
    page.check(".filter input[data-outcome='rejected']")
    assert len(page.evaluate(shown)) == 12


def test_a_click_into_the_scan_moves_the_crosshair(opened):
    opened.page.click("tbody[data-number='1'] .go")
    before = opened.crosshair
    box = opened.page.locator("#canvas").bounding_box()
    opened.page.mouse.click(box["x"] + 0.30 * box["width"], box["y"] + 0.40 * box["height"])
    assert np.linalg.norm(opened.crosshair - before) > 2


def test_the_viewer_and_the_pictures_show_the_same_side(opened, patient):
    """The kept candidate lies right of the patient's middle: left of the middle in both."""
    opened.page.select_option("#view", "axial")
    opened.page.click("tbody[data-number='1'] .go")
    for box in ("rejected", "undecidable"):
        opened.page.uncheck(f"input[data-layer='{box}']")
    middle = patient.scan.grid.to_world((np.array(patient.scan.grid.shape) - 1) / 2)
    assert patient.verdict.candidates[0].centroid_world[0] > middle[0]
    for selector in ("#canvas", "figure[data-number='1'] img"):
        pixels = opened.pixels(selector)
        blue = np.argwhere((pixels[..., 2] - pixels[..., 0]) > 40)
        grey = np.argwhere(pixels.min(axis=-1) > 60)
        assert blue[:, 1].mean() < grey[:, 1].mean() - 5, selector
    for box in ("rejected", "undecidable"):
        opened.page.check(f"input[data-layer='{box}']")
    opened.page.select_option("#view", "all")


def test_a_picture_is_shown_as_stored(picture, open_page, tmp_path):
    opened = open_page(picture.write(tmp_path / "report.html"))
    for c in picture.verdict.candidates:
        opened.page.click(f"tbody[data-number='{c.number}'] .go")
        assert np.abs(opened.crosshair[:2] - c.centroid_world[:2]).max() < 0.02
        row, column = (round(v) for v in c.centroid_index)
        assert f"row {row}, column {column}" in opened.page.inner_text("#place")
    pixels = opened.pixels()
    bright = np.argwhere(pixels.min(axis=-1) > 225)
    bright = bright[np.abs(bright - np.median(bright, axis=0)).max(axis=1) < 120]
    assert bright[:, 0].mean() < 0.4 * pixels.shape[0]
    assert bright[:, 1].mean() < 0.4 * pixels.shape[1]
    assert opened.page.locator("#view").count() == 0
    assert opened.complaints == []


def test_hostile_names_stay_text(patient, open_page, tmp_path):
    attack = "<script>document.documentElement.dataset.hacked='1'</script></script><img src=x onerror=alert(1)>"
    verdict = patient.verdict
    spoiled = patient.with_verdict(
        candidates=tuple(replace(c, name=attack, reason=attack, tissue=attack) for c in verdict.candidates),
        reasons=(attack,),
        findings=(replace(verdict.findings[0], sentence=attack, cure=attack),),
        statements=(replace(verdict.statements[0], text=attack),),
        notes=(attack,),
    )
    spoiled = replace(spoiled, scan=replace(spoiled.scan, identifier=attack))
    opened = open_page(spoiled.write(tmp_path / "report.html", run={attack: attack}))
    assert opened.state("ready") == "webgl"
    assert opened.state("hacked") is None
    assert opened.page.locator("img[src='x']").count() == 0
    assert attack in opened.page.inner_text("tbody[data-number='1']")
    assert len(opened.requests) == 1
    assert opened.complaints == []


def test_the_policy_refuses_foreign_scripts_and_requests(opened):
    refused = opened.page.evaluate(
        """async () => {
            const script = document.createElement("script");
            script.textContent = "document.documentElement.dataset.foreign = '1'";
            document.body.append(script);
            const answer = await fetch("data:text/plain,hello").then(() => "fetched", () => "refused");
            return [document.documentElement.dataset.foreign ?? "refused", answer];
        }"""
    )
    assert refused == ["refused", "refused"]
    opened.complaints.clear()


def test_without_webgl_pictures_stand_in(patient, playwright, tmp_path, opened_class, chromium):
    file = patient.write(tmp_path / "report.html")
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-3d-apis"])
    try:
        opened = opened_class(browser, file)
        assert opened.state("ready") == "pictures"
        assert not opened.page.is_visible("#canvas")
        assert "WebGL2" in opened.page.inner_text("#hint")
        first = opened.page.get_attribute("#still", "src")
        opened.page.click("tbody[data-number='2'] .go")
        assert opened.page.get_attribute("#still", "src") != first
        assert opened.page.inner_text("#place") == "Candidate 2, rejected"
        assert coloured(opened.pixels("#still"), ORANGE) > 40
        assert len(opened.requests) == 1
    finally:
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(opened, scheme):
    """WCAG AA: a contrast of at least 4.5 for text in both colour schemes."""
    opened.page.emulate_media(color_scheme=scheme)
    opened.page.wait_for_timeout(200)
    pairs = opened.page.evaluate(
        """() => {
            const ground = (element) => {
                for (let e = element; e; e = e.parentElement) {
                    const colour = getComputedStyle(e).backgroundColor;
                    if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
                }
                return "rgb(255, 255, 255)";
            };
            const selectors = [".hint", ".lead", ".badge", ".why td", ".details", ".meaning", "h1", ".tag",
                ".severity", ".counts dt", ".notes li", ".approximate .tag", ".selected .go", "th .sort",
                "footer p", "figcaption"];
            return selectors.map((selector) => {
                const element = document.querySelector(selector);
                return [selector, getComputedStyle(element).color, ground(element)];
            });
        }"""
    )
    for selector, ink, paper in pairs:
        assert contrast(ink, paper) >= 4.5, (selector, ink, paper)


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        values = [float(v) for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [(v / 255 / 12.92 if v <= 10.3 else ((v / 255 + 0.055) / 1.055) ** 2.4) for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_print_opens_the_facts_and_hides_the_viewer(opened):
    opened.page.emulate_media(media="print")
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert not opened.page.is_visible("#canvas")
    assert opened.page.is_visible("figure[data-number='1'] img")
    assert opened.page.is_visible("text=ab" + "ab" * 31)
    opened.page.emulate_media(media="screen")


def test_it_fits_a_telephone(opened):
    opened.page.set_viewport_size({"width": 390, "height": 800})
    wide = opened.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    assert Path(opened.requests[0]).name == "report.html"
    opened.page.set_viewport_size({"width": 1300, "height": 900})
