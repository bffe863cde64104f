"""Wrong anchors are said: an organ in the place of another, shifted, mirrored, or shrunk to a piece."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from anatrust.anatomy.knowledge import knowledge
from anatrust.anatomy.organs import with_names
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.anchors.label_map import LabelMapAnchors
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.segmenters.blob import BlobSegmenter
from anatrust.pipeline.anchor_doubts import doubted
from anatrust.pipeline.anchors import find_anchors
from anatrust.pipeline.propose import ProposalSettings
from anatrust.pipeline.segment import segment
from anatrust.rejection.settings import RejectionSettings
from anatrust.studies.phantom import phantom_scan


def alone(mask, grid) -> LabelMap:
    return LabelMap(mask.astype(np.uint8), grid, {1: "liver"})


def number_of(labels: LabelMap, name: str) -> int:
    return next(n for n, found in labels.names.items() if found.lower() == name)


def moved(mask, millimetres, grid, axis):
    """The mask pushed along an axis; what leaves the image is lost."""
    steps = round(millimetres / grid.spacing[axis])
    found = np.roll(mask, steps, axis=axis)
    edge = [slice(None)] * mask.ndim
    edge[axis] = slice(0, steps) if steps > 0 else slice(steps, None)
    found[tuple(edge)] = False
    return found


def shrunk(mask, grid, share=0.05):
    """The innermost voxels."""
    depth = ndimage.distance_transform_edt(mask, sampling=grid.spacing)
    return depth > np.quantile(depth[mask], 1 - share)


WRONG = {
    "on the spleen": (lambda m, grid: m.array == number_of(m, "spleen"), "to the left of the middle"),
    "shifted out": (lambda m, grid: moved(m.array == number_of(m, "liver"), 80, grid, 0), "fat or air"),
    "shifted inwards": (lambda m, grid: moved(m.array == number_of(m, "liver"), -80, grid, 0), "fat or air"),
    "shifted forwards": (lambda m, grid: moved(m.array == number_of(m, "liver"), 80, grid, 1), "fat or air"),
    "mirrored": (lambda m, grid: (m.array == number_of(m, "liver"))[::-1], "may be mirrored"),
    "shrunk": (lambda m, grid: shrunk(m.array == number_of(m, "liver"), grid), "less than half of the 500 ml"),
}


@pytest.fixture(scope="module")
def phantom():
    return phantom_scan(5, lesions=1)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_liver_in_a_phantom_is_not_relied_on(phantom, case):
    make, words = WRONG[case]
    wrong = alone(np.ascontiguousarray(make(phantom.anatomy, phantom.scan.grid)), phantom.scan.grid)
    search = find_anchors(phantom.scan, RulesPlanner().plan("liver tumour", "CT"), [LabelMapAnchors(wrong)])
    assert search.anchors[0].status == "unreliable"
    assert words in "; ".join(search.anchors[0].reasons)
    assert search.source == "body"
    assert any(words in f.sentence for f in search.findings)


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_true_organs_of_phantoms_pass(seed):
    made = phantom_scan(seed, lesions=1, quick=True)
    organs = tuple(
        Anchor(name, Mask(made.anatomy.array == n, made.scan.grid, name), "label-map")
        for n, name in made.anatomy.names.items()
        if name in knowledge().structures
    )
    assert len(organs) > 3
    assert all(a is b for a, b in zip(doubted(made.scan, organs, knowledge()), organs, strict=True))


def test_the_file_s_axes_do_not_matter(phantom):
    array = (phantom.anatomy.array == number_of(phantom.anatomy, "liver"))[::-1]
    grid = phantom.scan.grid
    stored = Grid(
        (grid.shape[1], grid.shape[0], grid.shape[2]),
        grid.affine @ np.array([[0, -1, 0, grid.shape[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    )
    turned = Scan(np.ascontiguousarray(phantom.scan.array[::-1].swapaxes(0, 1)), stored, "CT", "HU")
    assert np.array_equal(canonical(turned.array, stored)[0], phantom.scan.array)
    mask = np.ascontiguousarray(array[::-1].swapaxes(0, 1))
    straight = Anchor("liver", Mask(np.ascontiguousarray(array), grid), "label-map")
    other = Anchor("liver", Mask(mask, stored), "label-map")
    reasons = [
        doubted(scan, (anchor,), knowledge())[0].reasons for scan, anchor in ((phantom.scan, straight), (turned, other))
    ]
    assert reasons[0] == reasons[1] != ()


def test_dark_organs_of_mr_and_other_modalities_are_left_alone(phantom):
    liver = phantom.anatomy.array == number_of(phantom.anatomy, "liver")
    dark = np.where(liver, 0, np.where(phantom.scan.array > -500, 300, 0)).astype(np.float32)
    anchor = Anchor("liver", Mask(liver, phantom.scan.grid), "label-map")
    assert doubted(Scan(dark, phantom.scan.grid, "MR"), (anchor,), knowledge()) == (anchor,)
    wrong = replace(anchor, mask=Mask(np.ascontiguousarray(liver[::-1]), phantom.scan.grid))
    assert doubted(Scan(dark, phantom.scan.grid, "US"), (wrong,), knowledge()) == (wrong,)
    (mirrored,) = doubted(Scan(dark, phantom.scan.grid, "MR"), (wrong,), knowledge())
    assert mirrored.status == "ok"
    assert "may be mirrored" in mirrored.reasons[0]


def test_what_lies_outside_the_body_is_not_relied_on(phantom):
    """Hollow organs may hold air; none lies in the air around the body."""
    grid = phantom.scan.grid
    stomach = phantom.anatomy.array == number_of(phantom.anatomy, "stomach")
    there = Anchor("stomach", Mask(stomach, grid), "label-map")
    assert doubted(phantom.scan, (there,), knowledge()) == (there,)
    away = replace(there, mask=Mask(moved(stomach, 110, grid, 1), grid))
    (found,) = doubted(phantom.scan, (away,), knowledge())
    assert found.status == "unreliable"
    assert "outside the body" in found.reasons[0]


def test_the_verdict_says_it(phantom):
    mirrored = alone(
        np.ascontiguousarray((phantom.anatomy.array == number_of(phantom.anatomy, "liver"))[::-1]), phantom.scan.grid
    )
    verdict = segment(
        phantom.scan,
        "liver tumour",
        segmenter=BlobSegmenter(side="dark", smoothings=(4.0,)),
        anatomy=mirrored,
        settings=RejectionSettings(n_surrogates=19, n_draws=19, placement_beside=False),
        proposal=ProposalSettings(max_candidates=3),
    )
    assert verdict.decision != "accept"
    # Also where the embedded model's liver takes its place.
    sentences = [f.sentence for f in verdict.findings if f.severity == "warning"]
    assert any("not relied on" in s and "may be mirrored" in s for s in sentences)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["right", *WRONG])
def test_the_real_ct(shared_data, case):
    """A CT without HU whose header mirrors it: every wrong liver is said, and the right one passes with that remark."""
    scan = read_scan(shared_data / "amos_ct/image.nii.gz", modality="CT")
    organs = with_names(read_mask(shared_data / "amos_ct/labels.nii.gz"), "amos")
    make = WRONG[case][0] if case != "right" else lambda m, grid: m.array == number_of(m, "liver")
    wrong = alone(np.ascontiguousarray(make(organs, scan.grid)), scan.grid)
    search = find_anchors(scan, RulesPlanner().plan("liver tumour", "CT"), [LabelMapAnchors(wrong)])
    (anchor,) = search.anchors
    assert anchor.reasons
    if case == "right":
        assert anchor.status == "ok"
        assert "to the left of the middle of the body" in search.findings[0].sentence
        assert "dark" not in search.findings[0].sentence
    else:
        told = "; ".join(anchor.reasons)
        assert anchor.status == "unreliable" or "as dark as air" in told
        assert told in search.findings[0].sentence
