"""Sets, screening, the segmenter's doubt and the run's facts on the page, in the file and in the browser."""

from __future__ import annotations

import base64
import gzip
import re
from dataclasses import asdict, replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from anatrust.conformal.sets import PredictionSet
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, ProbabilityMap
from anatrust.ood.explain import Explanation
from anatrust.ood.screen import Screening
from anatrust.pipeline.bounds import StructureBounds
from anatrust.pipeline.sets import SetSummary
from anatrust.report.bounded import bounds_card
from anatrust.report.charts import bars, histogram
from anatrust.report.greys import _inside_and_beside, grey_values
from anatrust.report.layers import set_layers
from anatrust.report.uncertainty import uncertainty

GREEN = np.array((0, 190, 140))


def prediction(grid: Grid, middle: tuple[float, ...], name: str, feasible: tuple[bool, bool] = (True, True)):
    index = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    distance = np.sqrt(sum((i - c) ** 2 for i, c in zip(index, middle, strict=True)))
    inner = (distance < 3) & feasible[0]
    outer = (distance < 7) | np.full(grid.shape, not feasible[1])
    return PredictionSet(name, Mask(inner, grid), Mask(outer, grid), 0.1, ("outer", "inner"), feasible)


def screening(verdict: str, p: float | None = 0.05) -> Screening:
    score = None if p is None else 7.25
    return Screening("scan 1", score, p, 0.05, 0.05, verdict, ("stranger than all 19 usual patients",))


def crop_grids(grid: Grid) -> tuple[Grid, ...]:
    """Four boxes of 8 voxels an edge; the last two are one place."""
    made = []
    for start in ((2, 2, 2), (20, 20, 12), (10, 20, 4), (10, 20, 4)):
        affine = grid.affine.copy()
        affine[:3, 3] = grid.to_world(np.array(start[: grid.ndim]))
        made.append(Grid((8,) * grid.ndim, affine, grid.spacing_known))
    return tuple(made)


@pytest.fixture(scope="module")
def given(patient) -> dict[str, Any]:
    """What assess hands over beside the masks: two structures, one that could not be calibrated outwards."""
    grid = patient.scan.grid
    inside = ndimage.gaussian_filter((patient.labels.array > 0).astype(np.float32), 0.8)
    return {
        "sets": (
            prediction(grid, (20, 22, 14), "liver"),
            prediction(grid, (32, 14, 14), "spleen"),
            prediction(grid, (10, 10, 10), "gland", (True, False)),
        ),
        "explanation": Explanation(
            (("LoG 3", 2.5), ("intensity", 0.5), ("gradient", -1.0)),
            (1.0, 9.0, 4.0, 5.0),
            (("scan aaaa", 0.31), ("scan bbbb", 0.52)),
        ),
        "crops": crop_grids(grid),
        "probabilities": ProbabilityMap(np.stack([1 - inside, inside]), grid, ("background", "lesion")),
        "run": {
            "inputs": {"scan": {"name": "scan.nii.gz", "sha256": "ab" * 32}},
            "seed": 11,
            "settings": {"kind": "lesion", "modality": "CT", "rejection": {"n_draws": 999, "names": ()}},
        },
    }


@pytest.fixture(scope="module")
def told(patient, given):
    """The verdict that goes with it."""
    summaries = tuple(SetSummary.of(one, k + 1) for k, one in enumerate(given["sets"]))
    return patient.with_verdict(sets=summaries, screening=screening("strange"))


@pytest.fixture(scope="module")
def file(told, given, tmp_path_factory):
    return told.write(tmp_path_factory.mktemp("cards") / "report.html", **given)


@pytest.fixture(scope="module")
def text(file):
    return file.read_text(encoding="utf-8")


def volume(text: str, name: str) -> np.ndarray:
    data = re.search(f'id="volume-{name}">([^<]+)<', text).group(1)
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data))).dataobj)


def test_sets_are_drawn_nested_and_said_in_words(text):
    for number in (0, 1):
        inner, outer = (volume(text, f"{side}-{number}") > 0 for side in ("inner", "outer"))
        assert inner.any()
        assert not (inner & ~outer).any()
        assert outer.sum() > inner.sum()
    for wanted in (
        'aria-label="Inner set of liver"',
        'aria-label="Outer set of spleen"',
        "the outer set misses at most 10 % of the structure and the inner set invents at most 10 % of its size.",
        "not about this one scan",
        "Inner and outer set of liver",
    ):
        assert wanted in text


def test_a_set_that_could_not_be_calibrated_is_not_drawn_as_one(text, given):
    keys = [layer.key for layer in set_layers(given["sets"])]
    assert keys == ["inner-0", "outer-0", "inner-1", "outer-1", "inner-2"]
    assert "volume-outer-2" not in text
    assert "not calibrated: the whole image" in text


def test_bounds_are_told_with_what_they_promise(patient, tmp_path):
    sure = StructureBounds("liver", 1, 0.1, 0.812, 4.25, 5760.0, 5000.0, 6100.0, 36.7, 30.0, 40.0, "mm")
    vague = StructureBounds("spleen", 2, 0.1, None, None, 90.0, None, None, 9.0, None, None, "mm")
    text = patient.with_verdict(bounds=(sure, vague)).write(tmp_path / "r.html").read_text(encoding="utf-8")
    card = text[text.index('class="card bounds"') :]
    card = card[: card.index("</section>")]
    cells = [re.findall(r"<td>([^<]*)</td>", line) for line in card.splitlines() if line.startswith("<tr><td>")]
    assert cells[0] == ["Liver", "≥ 0.812", "≤ 4.25 mm", "5.76 mL", "5.0 mL to 6.1 mL", "36.7 mm", "30.0 mm to 40.0 mm"]
    assert cells[1].count("nothing can be promised") == 4
    assert "at least 90 % of scans like those calibrated on, for all structures at once" in card
    assert "no promise about this one scan" in card
    pixels = bounds_card([asdict(replace(sure, unit="px"))], 2)
    assert pixels["rows"][0]["volume_range"] == "5,000 px to 6,100 px"
    assert "at once" not in pixels["sentence"]
    assert bounds_card([], 3) is None


def test_screening_names_level_crops_and_neighbours(text):
    for wanted in ("The model may not be fit for this scan.", "7.25", "LoG 3", "scan aaaa", "distance 0.31"):
        assert wanted in text
    card = text[text.index('class="card screening"') : text.index('class="card doubt"')]
    # Strangest first; crops 3 and 4 look at one place and share a picture with the stranger score.
    assert re.findall(r">(Crops? [^<]+)</button>\s*<span>abnormality ([^<]+)</span>", card) == [
        ("Crop 2", "9.0"),
        ("Crops 3, 4", "5.0"),
        ("Crop 1", "1.0"),
    ]
    assert card.count("<rect") == 2  # what does not raise the abnormality has no bar


def test_crop_pictures_lie_where_the_crops_lie(text, given, patient):
    card = text[text.index('class="card screening"') : text.index('class="card doubt"')]
    shown = [np.array([float(v) for v in w.split(",")]) for w in re.findall(r'<figure data-world="([^"]+)"', card)]
    middles = [g.to_world(np.full(3, 3.5)) for g in given["crops"]]
    for world, wanted in zip(shown, (middles[1], middles[2], middles[0]), strict=True):
        np.testing.assert_allclose(world, wanted)


@pytest.mark.parametrize(
    ("verdict", "p", "words"),
    [
        ("usual", 0.6, "Nothing strange was found about this scan."),
        ("no_prediction", None, "Nothing was segmented, so there was nothing to look at."),
        ("infeasible", 0.2, "Too few patients were calibrated on"),
    ],
)
def test_every_answer_of_screening_has_words(patient, tmp_path, verdict, p, words):
    told = patient.with_verdict(screening=screening(verdict, p))
    text = told.write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert words in text
    assert "What stands out" not in text


def test_doubt_is_told_by_part(text):
    card = text[text.index('class="card doubt"') : text.index('id="promise-title"')]
    rows = re.findall(r"<tr><td>([^<]+)</td><td>([\d.]+)</td><td>([\d.]+)</td>", card)
    assert [part for part, _, _ in rows] == ["At the outline", "Inside", "Outside"]
    entropy = {part: float(value) for part, value, _ in rows}
    assert entropy["At the outline"] > 1.3 * entropy["Inside"]
    assert "Entropy: white is unsure" in card
    assert "volume-entropy" in text
    assert "volume-probability" in text


def test_the_facts_of_the_run_are_listed(text):
    facts = text[text.index('class="card facts"') :]
    for wanted in ("scan.nii.gz · SHA-256 " + "ab" * 32, "<dt>Seed</dt><dd>11</dd>", "<dt>N draws</dt><dd>999</dd>"):
        assert wanted in facts
    assert "<dt>Names</dt>" not in facts  # nothing was given, so nothing is said


def test_sets_of_a_picture_are_shown_too(picture, tmp_path, open_page):
    grid = picture.scan.grid
    one = prediction(grid, (60, 80), "cell")
    told = picture.with_verdict(sets=(SetSummary.of(one, 1),))
    opened = open_page(told.write(tmp_path / "r.html", sets=(one,)))
    assert opened.state("ready") == "webgl"
    assert "px" in opened.page.inner_text(".sets")
    opened.page.click(".sets button.go")
    assert np.abs(opened.crosshair - grid.to_world((60, 80))).max() < 1.01
    assert green(opened.pixels()) > 30


def green(pixels: np.ndarray) -> int:
    spread = pixels.max(axis=-1) - pixels.min(axis=-1)
    hue = pixels - pixels.mean(axis=-1, keepdims=True)
    wanted = GREEN - GREEN.mean()
    agree = (hue * wanted).sum(-1) / (np.linalg.norm(hue, axis=-1) * np.linalg.norm(wanted) + 1e-9)
    return int(((spread > 25) & (agree > 0.93)).sum())


def test_contours_are_toggled_and_places_are_clicked(file, given, patient, open_page):
    opened = open_page(file)
    assert opened.complaints == []
    assert len(opened.requests) == 1
    opened.page.click(".sets button.go >> nth=0")
    assert np.abs(opened.crosshair - patient.scan.grid.to_world((20, 22, 14))).max() < 0.02
    both = green(opened.pixels())
    assert both > 100
    assert "Inner set of liver" in opened.page.inner_text("#place")
    opened.page.uncheck("input[aria-label='Outer set of liver']")
    one = green(opened.pixels())
    assert 20 < one < 0.8 * both
    opened.page.uncheck("input[aria-label='Inner set of liver']")
    assert green(opened.pixels()) == 0
    opened.page.click(".screening figure >> nth=0")
    assert np.abs(opened.crosshair - given["crops"][1].to_world(np.full(3, 3.5))).max() < 0.02
    opened.page.set_viewport_size({"width": 390, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_arrow_moves_by_a_voxel_of_the_scan(file, patient, open_page):
    opened = open_page(file)
    opened.page.click("tbody[data-number='1'] .go")
    start = opened.crosshair
    opened.page.focus("canvas")
    opened.page.keyboard.press("PageUp")
    # Drawn on thirds of a voxel, the cross snaps to one of them at first.
    assert abs(np.linalg.norm(opened.crosshair - start) - patient.scan.grid.spacing[2]) < 0.75


def test_uncertainty_in_closed_form():
    grid = Grid((1, 60), np.eye(4))
    soft = np.full((1, 60), 0.001, np.float32)
    soft[0, 20:40], soft[0, 25:35] = 0.75, 0.9
    mask = soft > 0.5
    two = uncertainty(ProbabilityMap(np.stack([1 - soft, soft]), grid, ("background", "a")), mask)
    one = uncertainty(ProbabilityMap(soft[None], grid), mask)
    np.testing.assert_allclose(two.entropy, one.entropy, atol=1e-5)
    assert two.entropy[0, 30] == pytest.approx(-(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1)), abs=1e-5)
    np.testing.assert_allclose(two.largest, np.maximum(soft, 1 - soft), atol=1e-6)
    # In eight bits the classes sum to 1 only nearly, and overlapping classes not at all.
    rough = np.round(np.stack([1 - soft, soft / 2, soft / 2]) * 255).astype(np.float32) / 255 * 0.99
    assert np.isfinite(uncertainty(ProbabilityMap(rough, grid, ("background", "a", "b")), mask).entropy).all()
    overlapping = ProbabilityMap(np.stack([soft, soft]), grid, ("a", "b"))
    np.testing.assert_allclose(uncertainty(overlapping, mask).entropy, one.entropy, atol=1e-5)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_counted_grey_values_are_those_of_the_voxels(kind, order, rng):
    array = np.asarray(
        (rng.normal(100, 40, (9, 17, 12)) * (1_000 if kind == np.int32 else 1)).clip(0, 250_000), order=order
    )
    array = array.astype(kind)
    mask = rng.random(array.shape) > 0.8
    for found, values in zip(
        _inside_and_beside(array, mask, 60.0), (array[mask], array[~mask & (array > 60)]), strict=True
    ):
        for share in (0, 0.2, 37.3, 50, 99.8, 100):
            assert found.percentile(share) == pytest.approx(np.percentile(values.astype(float), share), rel=1e-12)
        edges = np.linspace(70, 130, 9)
        clipped = np.clip(values.astype(float), 70, 130)
        assert found.histogram(edges).tolist() == np.histogram(clipped, edges)[0].tolist()


def test_a_mask_that_fills_the_image_has_no_rest(patient, rng):
    scan = patient.scan
    assert grey_values(scan, np.ones(scan.grid.shape, bool)) is None
    assert grey_values(scan, np.zeros(scan.grid.shape, bool)) is None
    flat = replace(scan, array=np.full(scan.grid.shape, 7.0, np.float32))
    assert grey_values(flat, patient.labels.array > 0) is None


def test_charts_are_well_formed_whatever_the_names():
    from xml.etree import ElementTree

    chart = bars([('<b>"&', 2.0, "2"), ("less", -1.0, "−1")], 'a "label" & more')
    drawn = ElementTree.fromstring(chart)
    widths = [float(bar.get("width")) for bar in drawn.iter("rect")]
    assert widths[0] > 100
    assert widths[1] == 0
    edges = np.linspace(-3.0, 5.0, 9)
    steps = ElementTree.fromstring(histogram([("a<", np.arange(8.0)), ("b", np.zeros(8))], edges, "H&U"))
    assert {t.text for t in steps.iter("text")} >= {"0", "H&U"}
    assert bars([], "none")
