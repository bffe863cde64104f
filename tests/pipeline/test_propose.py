"""Proposals: regions, views and fusion around a frozen model, and which candidates go on to be judged."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy import ndimage

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region, crop_grid
from anatrust.image.volumes import Mask, ProbabilityMap, Scan
from anatrust.models.asking import ask
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.views import views_of
from anatrust.pipeline.propose import ProposalSettings, plain_proposal, propose

GRID = Grid((40, 36, 20), np.diag([2.0, 2.0, 2.0, 1.0]))
BOX = Region((14, 12, 6), (26, 24, 14))


@dataclass(frozen=True)
class Bright:
    """P = grey value; remembers what it was asked, and with which words."""

    able: Capabilities = field(default_factory=lambda: Capabilities(prompts=("text",), wording="plain"))
    asked: list = field(default_factory=list)
    name: str = "bright"
    identity: str = "bright"

    @property
    def capabilities(self):
        return self.able

    def segment(self, scan, prompt, region):
        self.asked.append((prompt.words, region))
        found = scan.array[region.slices].astype(np.float32)
        if prompt.organ is not None:
            found = found * prompt.organ.array[region.slices]
        return ProbabilityMap(found[None], crop_grid(scan.grid, region))


def a_scan(seed=0) -> Scan:
    image = np.random.default_rng(seed).random(GRID.shape).astype(np.float32)
    return Scan(image, GRID, "CT")


def plan(words="left renal mass"):
    return RulesPlanner().plan(words, "CT")


def test_every_region_is_asked_through_every_view_in_fitting_words():
    scan, model = a_scan(), Bright()
    how = ProposalSettings(pad=4, scales=(2, 1))
    found = propose(scan, model, plan(), box=BOX, organ=None, settings=how)
    assert len(found.regions) == 2, "equal scales are asked once"
    assert found.regions[1].covers(found.regions[0])
    assert len(model.asked) == len(found.regions) * 3
    assert found.views == ("identity", "left-right", "front-back")
    sides = {words[0].split()[0] for words, _ in model.asked}
    assert sides == {"left", "right"}, "the mirrored patient's left kidney is a right one"
    assert found.words[0].startswith("left")
    # Mirrored images are mirrored back: the answer is the image itself, inside the largest region.
    inside = np.zeros(GRID.shape, bool)
    inside[found.regions[-1].slices] = True
    assert np.array_equal(found.probabilities.array[0][inside], scan.array[inside])
    assert not found.probabilities.array[0][~inside].any()
    assert np.array_equal(found.labels.array != 0, found.probabilities.array[0] >= 0.5)
    assert all(region.covers(BOX) for region in found.regions)


def test_the_organ_is_mirrored_with_the_image():
    scan, model = a_scan(), Bright()
    organ = np.zeros(GRID.shape, bool)
    organ[15:20, 13:16, 7:9] = True
    found = propose(scan, model, plan(), box=BOX, organ=Mask(organ, GRID))
    assert np.array_equal(found.probabilities.array[0] > 0, organ & (scan.array > 0))


def test_including_the_full_frame_never_lowers_the_baseline():
    scan, model = a_scan(), Bright()
    baseline = plain_proposal(scan, model, plan()).probabilities.array[0]
    assert np.array_equal(baseline, scan.array)
    how = ProposalSettings(include_full=True)
    full = propose(scan, model, plan(), box=BOX, organ=None, settings=how).probabilities.array[0]
    assert (full >= baseline).all()
    without = propose(scan, model, plan(), box=BOX, organ=None).probabilities.array[0]
    assert (without <= full).all()


def test_the_full_frame_as_anchor_is_the_baseline():
    """Acceptance test 5 of the specification: anchor := full frame gives the baseline."""
    scan, model = a_scan(), Bright()
    whole = Region.whole(GRID.shape)
    found = propose(scan, model, plan(), box=whole, organ=None, settings=ProposalSettings(max_candidates=10**6))
    assert found.regions == (whole,)
    assert np.array_equal(found.labels.array, plain_proposal(scan, model, plan()).labels.array)


def test_mean_fusion_lies_between():
    scan = a_scan()

    @dataclass(frozen=True)
    class Sided(Bright):
        def segment(self, scan, prompt, region):
            found = super().segment(scan, prompt, region)
            ramp = np.linspace(0, 1, region.shape[0], dtype=np.float32)[:, None, None]
            return replace(found, array=found.array * ramp)

    most, mean = (
        propose(scan, Sided(), plan(), box=BOX, organ=None, settings=ProposalSettings(fusion=f)).probabilities.array
        for f in ("max", "mean")
    )
    assert (mean <= most + 1e-6).all()
    assert mean.sum() < most.sum()


def test_a_model_that_sees_the_whole_scan_is_asked_once():
    model = Bright(Capabilities(context="scan", mirrors=False))
    found = propose(a_scan(), model, plan(), box=BOX, organ=None)
    assert len(model.asked) == 1
    assert found.views == ("identity",)


def test_progress_tells_the_regions():
    told = []
    propose(a_scan(), Bright(), plan(), box=BOX, organ=None, tell=lambda *v: told.append(v))
    assert told == [(k, len(told)) for k in range(len(told))]


def test_only_the_best_candidates_go_on_and_the_verdict_hears_of_it():
    image = np.zeros(GRID.shape, np.float32)
    for k in range(12):
        corner = [3 + 9 * (k % 4), 3 + 11 * (k // 4), 8]
        size = 2 + k % 3
        image[tuple(slice(c, c + size) for c in corner)] = 0.6 + 0.03 * k
    scan = Scan(image, GRID)
    whole = Region.whole(GRID.shape)
    found = propose(scan, Bright(), plan(), box=whole, organ=None, settings=ProposalSettings(max_candidates=5))
    assert found.components == 12
    assert [f.code for f in found.findings] == ["too-many-proposals"]
    count = ndimage.label(found.labels.array)[1]
    assert count == 5
    every, all_of_them = ndimage.label(image >= 0.5)
    assert all_of_them == 12
    score = [image[every == k].mean() * (every == k).sum() ** (1 / 3) for k in range(1, 13)]
    wanted = np.isin(every, 1 + np.argsort(score)[::-1][:5])
    assert np.array_equal(found.labels.array != 0, wanted)
    # Equal scores are decided by place in the patient, not by the order of the axes.
    equal = np.where(image > 0, 0.9, 0).astype(np.float32)
    turned = Grid(tuple(np.array(GRID.shape)[[2, 0, 1]]), GRID.affine[:, [2, 0, 1, 3]])
    two = ProposalSettings(max_candidates=2)
    one = propose(Scan(equal, GRID), Bright(), plan(), box=whole, organ=None, settings=two)
    other = propose(
        Scan(equal.transpose(2, 0, 1), turned),
        Bright(),
        plan(),
        box=Region.whole(turned.shape),
        organ=None,
        settings=two,
    )
    assert np.array_equal(one.labels.array.transpose(2, 0, 1), other.labels.array)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": "all"}, "choose identity, paper or flips"),
        ({"fusion": "median"}, "choose max or mean"),
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"max_candidates": 0}, "1 or more"),
        ({"pad": -1}, "give 0 to 100"),
        ({"scales": ()}, "positive numbers"),
        ({"scales": (1, -2)}, "positive numbers"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ProposalSettings(**wrong)


def test_a_model_is_not_asked_for_what_it_cannot_do():
    flat = Bright(Capabilities(ndim=(2,)))
    with pytest.raises(InputError, match="reads 2-D images, the scan is 3-D"):
        propose(a_scan(), flat, plan(), box=BOX, organ=None)
    wordless = Bright(Capabilities(prompts=("text",), wording="totalsegmentator"))
    with pytest.raises(InputError, match="no words for 'bladder cancer'"):
        propose(a_scan(), wordless, plan("bladder cancer"), box=BOX, organ=None)


def test_an_answer_of_the_wrong_shape_is_refused():
    @dataclass(frozen=True)
    class Odd(Bright):
        def segment(self, scan, prompt, region):
            return ProbabilityMap(scan.array[None], scan.grid)

    with pytest.raises(GeometryError, match="answered shape"):
        ask(Odd(), a_scan(), BOX, Prompt("x"), views=views_of(GRID, "identity"))


def test_settings_and_results_are_plain_json():
    import json

    found = propose(a_scan(), Bright(), plan(), box=BOX, organ=None)
    json.dumps([found.to_json(), ProposalSettings(scales=(1,)).to_json()])
