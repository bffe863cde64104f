"""Volumes: key slices are found, regions followed both ways and through gaps, three planes vote; SAM 2 runs too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Annotation, Reference, Structure, boxes_of
from anatrust.models.protocols import Reasoner
from anatrust.models.sam2_volume import Sam2SliceTracker
from anatrust.reference import CorrespondenceReasoner, RegistrationReasoner
from anatrust.reference.slice_tracking import RegisteredSlices
from anatrust.reference.volume_reasoner import VolumeReasoner, key_places
from anatrust.studies.tiny_models import tiny_sam2

NAMES = {1: "liver", 2: "spleen"}


def body(shift: int = 0, flip: bool = False, gone: int | None = None) -> Reference:
    x, y, z = np.mgrid[:40, :36, :20]
    labels = np.zeros(x.shape, np.uint8)
    for number, (centre, radii) in enumerate((((13, 16, 9), (9, 10, 8)), ((30, 20, 10), (5, 6, 6))), start=1):
        moved = (centre[0] + shift, *centre[1:])
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), moved, radii, strict=True))
        if number != gone:
            labels[inside < 1] = number
    image = np.array([0.3, 0.9, 0.6])[labels] * (((x - 20) / 19) ** 2 + ((y - 18) / 17) ** 2 < 1)
    image = image + np.random.default_rng(shift + 5).normal(0, 0.01, image.shape)
    affine = np.diag([-2.0 if flip else 2.0, 2, 3, 1])
    stored = [np.ascontiguousarray(a[::-1]) if flip else a for a in (image.astype(np.float32), labels)]
    grid = Grid(labels.shape, affine)
    return Reference(Scan(stored[0], grid, "MR"), LabelMap(stored[1], grid, NAMES), "other")


class Truthful:
    """Draws the truth of the slice it is asked about; remembers how often, and leaves out what it is told to."""

    name = identity = "truthful"

    def __init__(self, truth: Reference, blind_to: int | None = None) -> None:
        self.truth = truth
        self.asked: list[Scan] = []
        self.blind_to = blind_to

    def annotate(self, target: Scan, references: Sequence[Reference], progress: object = None) -> Annotation:
        self.asked.append(target)
        origin = np.linalg.inv(self.truth.scan.grid.affine) @ [*target.grid.affine[:3, 3], 1]
        place = round(float(origin[2]))
        drawn = self.truth.labels.array[:, :, place].copy()
        drawn[drawn == self.blind_to] = 0
        if not target.grid.same_as(Grid(drawn.shape, target.grid.affine, layout="slice")):
            raise AssertionError
        labels = LabelMap(drawn, target.grid, NAMES)
        boxes = boxes_of(labels)
        found = []
        for n, name in NAMES.items():
            if n in boxes:
                found.append(Structure(n, name, boxes[n], 0.9, int((drawn == n).sum())))
            else:
                found.append(Structure(n, name, None, 0.0, reason="not there"))
        return Annotation(labels, tuple(found), (), self.identity, (("other", 1.0),))


def test_one_drawn_slice_fills_the_volume() -> None:
    target = body(2)
    oracle = Truthful(target)
    reasoner = VolumeReasoner(oracle, keys=2)
    assert isinstance(reasoner, Reasoner)
    found = reasoner.annotate(target.scan, [body(0)])
    assert 1 <= len(oracle.asked) <= 4
    for number in NAMES:
        assert dice(target.labels.array == number, found.labels.array == number) > 0.85
        pieces = ndimage.label(found.labels.array == number)[1]
        assert pieces == 1
    assert all(0 < s.confidence <= 1 for s in found.structures)
    assert "axial keys=2" in found.reasoner


@pytest.mark.parametrize("inner", [RegistrationReasoner(), CorrespondenceReasoner()])
def test_any_reasoner_of_images_serves(inner: Reasoner) -> None:
    target = body(2)
    found = VolumeReasoner(inner, keys=2).annotate(target.scan, [body(0)])
    assert dice(target.labels.array == 1, found.labels.array == 1) > 0.7


def test_storage_order_changes_nothing() -> None:
    reasoner = VolumeReasoner(RegistrationReasoner(), keys=1)
    plain, flipped = (reasoner.annotate(body(2, f).scan, [body(0)]) for f in (False, True))
    assert np.array_equal(plain.labels.array, flipped.labels.array[::-1])


def test_what_no_slice_shows_is_null() -> None:
    target = body(0)
    found = VolumeReasoner(Truthful(target, blind_to=2), keys=2).annotate(target.scan, [body(1)])
    assert [s.found for s in found.structures] == [True, False]
    assert "no key slice" in found.structures[1].reason
    blind = VolumeReasoner(Truthful(body(0, gone=1), blind_to=2), keys=2).annotate(target.scan, [body(1)])
    assert blind.decision == "abstain"


@pytest.mark.slow
def test_three_planes_vote() -> None:
    target = body(2)
    inner = RegistrationReasoner()
    one, three = (VolumeReasoner(inner, keys=1, tri_planar=t).annotate(target.scan, [body(0)]) for t in (False, True))
    overlaps = [dice(target.labels.array == 1, f.labels.array == 1) for f in (one, three)]
    assert overlaps[1] > overlaps[0] - 0.05
    assert "three planes" in three.reasoner


def test_a_region_ends_where_it_no_longer_looks_like_itself() -> None:
    target = body(0)
    volume = np.moveaxis(target.scan.array, 2, 0)
    truth = np.moveaxis(target.labels.array, 2, 0) == 1
    chances, present = RegisteredSlices().track(volume, {9: {1: truth[9]}})
    assert present[1][9] == 1
    assert present[1][0] == present[1][19] == 0
    again, _ = RegisteredSlices().track(volume, {9: {1: truth[9]}, 14: {1: truth[14]}})
    both = [2 * ((c > 0.5) & truth).sum() / ((c > 0.5).sum() + truth.sum()) for c in (chances[1], again[1])]
    assert both[1] >= both[0] - 0.01


def test_gaps_between_key_slices_are_asked_about_again() -> None:
    from anatrust.reference.volume_reasoner import _lost

    mask = {1: np.ones((2, 2), bool)}
    present = {1: np.array([1, 1, 0, 0, 0, 1, 0, 1, 0], np.float32)}
    assert _lost(present, {0: mask, 5: mask, 7: mask}) == [3, 6]
    assert _lost(present, {0: mask}) == []


def test_sam2_follows_what_was_drawn(tmp_path: Path) -> None:
    tracker = Sam2SliceTracker.load(tiny_sam2(tmp_path / "sam2"))
    assert tracker.identity.startswith("sam2-video(sha256=")
    target = body(0)
    volume = np.moveaxis(target.scan.array, 2, 0)[4:14]
    truth = np.moveaxis(target.labels.array, 2, 0)[4:14]
    anchors = {2: {1: truth[2] == 1, 2: truth[2] == 2}, 7: {2: truth[7] == 2}}
    chances, present = tracker.track(volume, anchors)
    assert set(chances) == {1, 2}
    for label in chances:
        assert chances[label].shape == volume.shape
        assert 0 <= chances[label].min() <= chances[label].max() <= 1
        assert present[label].shape == (10,)
    # On its key slice a region is what was drawn, whatever the weights.
    assert dice(truth[2] == 1, chances[1][2] > 0.5) > 0.9
    again, _ = tracker.track(volume, anchors)
    assert np.allclose(again[1], chances[1])
    found = VolumeReasoner(Truthful(target), tracker=tracker, keys=1).annotate(target.scan, [body(1)])
    assert found.labels.grid.same_as(target.scan.grid)
    with pytest.raises(InputError, match="no mask"):
        tracker.track(volume, {2: {1: np.zeros_like(truth[2] == 1)}})
    with pytest.raises(InputError, match="no mask"):
        RegisteredSlices().track(volume, {})


def test_odd_settings_are_refused() -> None:
    with pytest.raises(InputError):
        VolumeReasoner(RegistrationReasoner(), keys=0)
    assert key_places(body(), 2, 5) == (9,)
    assert len(key_places(body(), 0, 5)) == 2
