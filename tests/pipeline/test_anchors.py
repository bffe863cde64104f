"""Anchors: the chain of providers, what makes an answer unreliable, and what stands in for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from anatrust.anatomy.knowledge import knowledge
from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.anchors.label_map import LabelMapAnchors, with_parts
from anatrust.models.anchors.prompted import PromptedAnchors, agreement
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.protocols import AnchorProvider
from anatrust.models.segmentation import Capabilities
from anatrust.pipeline.anchors import checked, find_anchors

GRID = Grid((64, 56, 40), np.array([[5.0, 0, 0, -160], [0, 5, 0, -140], [0, 0, 5, 0], [0, 0, 0, 1]]))


def box(low, high):
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


# World x grows to the patient's right: the liver lies at high x.
LIVER = box((38, 20, 10), (58, 42, 32))
RIGHT_KIDNEY, LEFT_KIDNEY = box((40, 8, 10), (48, 16, 26)), box((16, 8, 10), (24, 16, 26))
SPLEEN = box((8, 14, 16), (18, 28, 30))
BODY = box((4, 4, 0), (60, 52, 40))


@pytest.fixture
def scan() -> Scan:
    image = np.where(BODY, 40, -1000).astype(np.int16)
    return Scan(image, GRID, "CT", "HU")


def organs(**masks) -> LabelMap:
    array = np.zeros(GRID.shape, np.uint8)
    names = {}
    for number, (name, mask) in enumerate(masks.items(), start=1):
        array[mask] = number
        names[number] = name
    return LabelMap(array, GRID, names)


def plan(words="liver tumour"):
    return RulesPlanner().plan(words, "CT")


def codes(search):
    return [f.code for f in search.findings]


@dataclass
class Provider:
    """Says what it is told to say, and remembers what it was asked."""

    answers: dict
    name: str = "told"
    asked: list = field(default_factory=list)

    @property
    def identity(self):
        return self.name

    def find(self, scan, structures):
        self.asked.append(tuple(structures))
        return tuple(self.answers.get(key) or Anchor.missing(key, self.name, "not told") for key in structures)


def test_a_map_gives_the_region_and_the_tissue(scan):
    search = find_anchors(scan, plan(), [LabelMapAnchors(organs(liver=LIVER, spleen=SPLEEN))])
    assert search.source == "anchors"
    assert search.box == Region((38, 20, 10), (58, 42, 32))
    assert np.array_equal(search.organ.array, LIVER)
    assert np.array_equal(search.tissue.array != 0, LIVER)
    assert set(search.tissue.names.values()) == {"liver"}
    assert search.findings == ()
    plain = search.to_json()
    assert plain["anchors"][0] == {
        "structure": "liver",
        "provider": "label-map",
        "status": "ok",
        "quality": 1.0,
        "reasons": [],
        "voxels": int(LIVER.sum()),
    }


def test_the_next_provider_is_asked_only_for_what_is_still_open(scan):
    first = Provider({"liver": Anchor("liver", Mask(LIVER, GRID), "told", quality=0.9)}, "first")
    second = Provider({}, "second")
    assert isinstance(first, AnchorProvider)
    search = find_anchors(scan, plan(), [first, second])
    assert search.source == "anchors"
    assert first.asked == [("liver",)]
    assert second.asked == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (box((44, 28, 18), (48, 32, 22)), "less than the"),
        (BODY, "more than the"),
        (box((50, 30, 20), (52, 31, 21)), "only 2 voxels"),
        (box((38, 20, 10), (39, 50, 40)) | box((63, 0, 0), (64, 56, 40)), "on the edge of the image"),
    ],
)
def test_an_implausible_organ_is_not_relied_on(scan, wrong, words):
    search = find_anchors(scan, plan(), [LabelMapAnchors(organs(liver=wrong))])
    assert search.source == "body"
    assert search.anchors[0].status == "unreliable"
    assert search.anchors[0].quality < 1
    assert any(words in reason for reason in search.anchors[0].reasons)
    assert codes(search) == ["anchor-unreliable", "anchor-failed"]
    assert words in search.findings[0].sentence
    # The whole body, and nothing of a segmenter's mistake as normal tissue.
    assert search.tissue is None
    assert search.box == Region((4, 4, 0), (60, 52, 40))


def test_a_liver_on_the_wrong_side_is_seen(scan):
    swapped = organs(liver=box((8, 20, 10), (28, 42, 32)), spleen=box((48, 14, 16), (58, 28, 30)))
    found = checked(LabelMapAnchors(swapped).find(scan, ["liver", "spleen"]))
    assert [a.status for a in found] == ["unreliable", "ok"]
    assert "left of the spleen" in found[0].reasons[0]


def test_a_good_answer_of_a_later_provider_replaces_an_implausible_one(scan):
    later = Provider({"liver": Anchor("liver", Mask(LIVER, GRID), "told", quality=0.3)})
    search = find_anchors(scan, plan(), [LabelMapAnchors(organs(liver=box((44, 28, 18), (48, 32, 22)))), later])
    assert search.source == "anchors"
    assert search.anchors[0].provider == "told"
    # Whose map was given and not used is told so.
    assert codes(search) == ["anchor-remark"]
    assert "takes the place of that from label-map, not relied on: the liver has" in search.findings[0].sentence


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (organs(spleen=SPLEEN), "the label map does not hold it"),
        (LabelMap(LIVER.astype(np.uint8), GRID), "no label of the map has the name of an organ"),
    ],
)
@pytest.mark.parametrize("status", ["ok", "unreliable"])
def test_a_map_that_could_not_be_used_is_said(scan, given, why, status):
    later = Provider(
        {"liver": Anchor("liver", Mask(LIVER, GRID), "told", status, 0.6, () if status == "ok" else ("blurred",))}
    )
    search = find_anchors(scan, plan(), [LabelMapAnchors(given), later])
    assert search.anchors[0].provider == "told"
    assert search.findings[0].severity == "warning"
    assert f"it comes from told, since {why}" in search.findings[0].sentence


def test_neighbours_stand_in_for_a_missing_anchor(scan):
    search = find_anchors(scan, plan(), [LabelMapAnchors(organs(right_kidney=RIGHT_KIDNEY, spleen=SPLEEN))])
    assert search.source == "neighbours"
    assert np.array_equal(search.organ.array, RIGHT_KIDNEY)
    assert search.tissue is None, "a kidney is no normal liver"
    assert codes(search) == ["anchor-stand-in"]
    assert "No anchor was found (liver: " in search.findings[0].sentence
    assert "right kidney" in search.findings[0].sentence


def test_the_organ_of_the_other_side_gives_tissue_and_place(scan):
    search = find_anchors(scan, plan("left renal mass"), [LabelMapAnchors(organs(kidney_right=RIGHT_KIDNEY))])
    assert search.source == "contralateral"
    assert codes(search)[-1] == "anchor-contralateral"
    # The body spans x 4..59, so 40..47 is mirrored to 16..23: where the left kidney is.
    assert np.array_equal(search.organ.array, LEFT_KIDNEY)
    assert np.array_equal(search.tissue.array != 0, RIGHT_KIDNEY)
    with_neighbour = organs(kidney_right=RIGHT_KIDNEY, spleen=SPLEEN)
    search = find_anchors(scan, plan("left renal mass"), [LabelMapAnchors(with_neighbour)])
    assert search.source == "neighbours"
    assert np.array_equal(search.tissue.array != 0, RIGHT_KIDNEY)


def test_mirroring_does_not_depend_on_how_the_file_is_stored(scan):
    flipped = Grid(GRID.shape, GRID.affine @ np.array([[-1, 0, 0, 63], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    other = Scan(scan.array[::-1], flipped, "CT", "HU")
    labels = LabelMap(organs(kidney_right=RIGHT_KIDNEY).array[::-1], flipped, {1: "kidney_right"})
    search = find_anchors(other, plan("left renal mass"), [LabelMapAnchors(labels)])
    assert np.array_equal(search.organ.array[::-1], LEFT_KIDNEY)


def test_one_of_several_anchors_is_enough(scan):
    asked = plan("vestibular schwannoma")
    assert asked.anchors == ("brainstem", "cerebellum")
    cerebellum = box((20, 20, 10), (30, 30, 21))
    search = find_anchors(scan, asked, [LabelMapAnchors(organs(cerebellum=cerebellum))])
    assert search.source == "anchors"
    assert np.array_equal(search.organ.array, cerebellum)
    assert [(f.code, f.severity) for f in search.findings] == [("anchor-missing", "info")]
    assert dict(search.tissue.names) == {2: "cerebellum"}, "numbered by the plan, whatever was found"


def test_nobody_to_ask_is_said(scan):
    search = find_anchors(scan, plan(), [])
    assert search.source == "body"
    assert "nobody was asked" in search.findings[0].sentence


def test_a_map_without_names_says_what_it_lacks(scan):
    found = LabelMapAnchors(LabelMap(LIVER.astype(np.uint8), GRID)).find(scan, ["liver"])
    assert found[0].status == "missing"
    assert "--anatomy-names" in found[0].reasons[0]
    with pytest.raises(GeometryError, match="resample"):
        LabelMapAnchors(LabelMap(np.ones((2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)))).find(scan, ["liver"])


def test_parts_make_the_whole(scan):
    both = organs(kidney_left=LEFT_KIDNEY, kidney_right=RIGHT_KIDNEY)
    found = LabelMapAnchors(both).find(scan, ["kidney", "kidney_left"])
    assert np.array_equal(found[0].mask.array, LEFT_KIDNEY | RIGHT_KIDNEY)
    assert np.array_equal(found[1].mask.array, LEFT_KIDNEY)
    assert "lung_upper_lobe_left" in with_parts("lung", knowledge())


@dataclass(frozen=True)
class Threshold:
    """A segmenter that answers for organs by grey value, and dreams on mirrored images if told to."""

    dreams: bool = False
    name: str = "threshold"
    identity: str = "threshold"
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(prompts=("text",), organs=True))

    def segment(self, scan, prompt, region):
        from anatrust.image.region import crop_grid
        from anatrust.image.volumes import ProbabilityMap

        found = (scan.array[region.slices] > 100).astype(np.float32) * 0.9
        if self.dreams:
            found = np.zeros_like(found)
            found[: found.shape[0] // 3] = 0.8
        assert prompt.words
        return ProbabilityMap(found[None], crop_grid(scan.grid, region))


def test_the_segmenter_is_asked_for_its_own_anchor(scan):
    image = scan.array.copy()
    image[LIVER] = 160
    bright = Scan(image, GRID, "CT", "HU")
    (found,) = PromptedAnchors(Threshold()).find(bright, ["liver"])
    assert (found.status, found.quality) == ("ok", 1.0)
    assert np.array_equal(found.mask.array, LIVER)
    (nothing,) = PromptedAnchors(Threshold()).find(scan, ["liver"])
    assert nothing.status == "missing"
    assert "largest probability 0.00" in nothing.reasons[0]


def test_views_that_disagree_make_an_anchor_unreliable(scan):
    (found,) = PromptedAnchors(Threshold(dreams=True)).find(scan, ["liver"])
    assert found.status == "unreliable"
    assert found.quality < 0.1
    assert "agree only to a Dice" in found.reasons[0]
    search = find_anchors(scan, plan(), [PromptedAnchors(Threshold(dreams=True))])
    assert search.source == "body"
    assert "agree only" in search.findings[0].sentence


def test_agreement_is_dice():
    rng = np.random.default_rng(0)
    one, other = (rng.random(1000) < 0.3 for _ in range(2))
    wanted = 2 * (one & other).sum() / (one.sum() + other.sum())
    assert agreement([np.packbits(one), np.packbits(other)]) == pytest.approx(wanted)
    assert agreement([np.packbits(one)]) == 1
    assert agreement([np.packbits(np.zeros(8, bool))] * 2) == 1


def calibrated(count=40, alpha=0.04):
    """Sets of the liver, graded by distance from masks that are shifted by a voxel or two."""
    from anatrust.conformal.recipe import ScoreRecipe
    from anatrust.conformal.sets import LabelledCase, conformalize

    rng = np.random.default_rng(0)
    cases = []
    for number in range(count):
        drawn = np.roll(LIVER, int(rng.integers(1, 3)), axis=int(rng.integers(3)))
        image = np.zeros(GRID.shape, np.float32)
        cases.append(LabelledCase(f"p{number}", drawn.astype(np.float32), image, LIVER, GRID))
    return conformalize(cases, ScoreRecipe("distance"), alpha, structure="liver")


def sets_profile(calibration, graded=True, encoder=None):
    from anatrust.models.descriptors import LocalDescriptors
    from anatrust.pipeline.profile import Profile
    from anatrust.pipeline.sets import SetsSection

    identity = LocalDescriptors().identity if encoder is None else encoder
    section = SetsSection((calibration,), (1,), (None,), 0.2, None, graded, identity)
    return Profile("organs", "CT", "x" * 64, sets=section)


def test_conformal_sets_give_region_and_tissue(scan):
    profile = sets_profile(calibrated())
    search = find_anchors(scan, plan(), [LabelMapAnchors(organs(liver=LIVER))], profile=profile)
    outer, inner = search.organ.array, search.tissue.array != 0
    assert (outer >= LIVER).all()
    assert outer.sum() > LIVER.sum(), "room for what the segmenter lost"
    assert inner.any()
    assert (inner <= LIVER).all()
    assert inner.sum() < LIVER.sum(), "trimmed: surely liver"
    assert search.box.covers(find_anchors(scan, plan(), [LabelMapAnchors(organs(liver=LIVER))]).box)
    assert search.findings == ()


def test_sets_that_promise_nothing_leave_the_mask(scan):
    search = find_anchors(
        scan, plan(), [LabelMapAnchors(organs(liver=LIVER))], profile=sets_profile(calibrated(count=2))
    )
    assert np.array_equal(search.organ.array, LIVER)
    assert codes(search) == ["anchor-sets-infeasible"]
    for other in (sets_profile(calibrated(), graded=False), sets_profile(calibrated(count=2))):
        plain = find_anchors(scan, plan("spleen tumour"), [LabelMapAnchors(organs(spleen=SPLEEN))], profile=other)
        assert np.array_equal(plain.organ.array, SPLEEN)
        assert codes(plain) == ["anchor-sets-missing"], "a profile that was given and could not be used"
        assert "no sets of the spleen" in plain.findings[0].sentence
    with pytest.raises(InputError, match="another version of the descriptors"):
        find_anchors(
            scan, plan(), [LabelMapAnchors(organs(liver=LIVER))], profile=sets_profile(calibrated(), encoder="old")
        )
