"""Correspondence: places are found again, labels follow edges, and real hippocampi come out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Reference
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.protocols import Reasoner
from anatrust.pipeline.annotate import annotate
from anatrust.reference.correspondence_reasoner import CorrespondenceReasoner
from anatrust.reference.matching import cells_of, label_shares, match_cells
from anatrust.reference.random_walk import walk_labels

GRID = Grid((96, 88), np.eye(4))


def body(shift: tuple[float, float] = (0, 0), scale: float = 1.0, seed: int = 0) -> Reference:
    """Three unlike organs in a body."""
    x, y = (v.astype(float) for v in np.mgrid[:96, :88])
    x, y = 48 + (x - 48 - shift[0]) / scale, 44 + (y - 44 - shift[1]) / scale
    image, labels = 0.3 * (((x - 48) / 42) ** 2 + ((y - 44) / 38) ** 2 < 1), np.zeros((96, 88), np.uint8)
    for number, (centre, radii, grey) in enumerate(
        (((30, 40), (12, 16), 0.9), ((66, 52), (9, 7), 0.6), ((62, 26), (6, 6), 0.75)), start=1
    ):
        inside = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1
        image, labels = np.where(inside, grey, image), np.where(inside, number, labels).astype(np.uint8)
    noisy = image + np.random.default_rng(seed).normal(0, 0.02, image.shape)
    return Reference(Scan(noisy, GRID), LabelMap(labels, GRID, {1: "a", 2: "b", 3: "c"}), f"body {seed}")


@pytest.mark.parametrize(("shift", "scale"), [((5, -4), 1.0), ((0, 0), 1.15), ((-4, 3), 0.9)])
def test_places_are_found_again(shift: tuple[float, float], scale: float) -> None:
    encoder = LocalDescriptors()
    target, reference = body(shift, scale, 1), body()
    found = match_cells(cells_of(target.scan, encoder), cells_of(reference.scan, encoder))
    centres = cells_of(target.scan, encoder).centres
    inside = label_shares(target.labels, (1, 2, 3))[:, 1:].sum(axis=1) > 0.5
    predicted = centres @ found.matrix[:, :2].T + found.matrix[:, 2]
    size = np.array(GRID.shape)
    truth = ((centres * size - size / 2 - np.array(shift)) / scale + size / 2) / size
    assert np.linalg.norm((predicted - truth)[inside], axis=1).mean() < 0.03
    assert np.allclose(found.weights.sum(axis=1), 1, atol=1e-5)
    again = match_cells(cells_of(target.scan, encoder), cells_of(reference.scan, encoder))
    assert np.array_equal(found.best, again.best)


def test_organs_come_out_with_one_and_two_references() -> None:
    reasoner = CorrespondenceReasoner(LocalDescriptors())
    assert isinstance(reasoner, Reasoner)
    target = body((4, -3), 1.08, 5)
    for references in ([body(seed=1)], [body(seed=1), body((-2, 2), 1.0, 2)]):
        found = reasoner.annotate(target.scan, references)
        for number in (1, 2, 3):
            assert dice(target.labels.array == number, found.labels.array == number) > 0.7
        assert all(s.found and 0 < s.confidence <= 1 for s in found.structures)
        assert all(r.holds for r in found.relations)
        assert (found.structures[0].agreement is None) == (len(references) == 1)


def test_a_prompted_model_draws_from_boxes_and_points() -> None:
    target = body((4, -3), 1.08, 5)
    asked: list[tuple[int, int]] = []

    class Truth:
        identity = "the truth"

        def draw(
            self, image: np.ndarray, boxes: Sequence[tuple[float, ...]], points: Sequence[tuple[float, float]]
        ) -> tuple[np.ndarray, np.ndarray]:
            assert image.shape == target.scan.array.shape
            asked.append((len(boxes), len(points)))
            masks = []
            for (x, y), (left, top, right, bottom) in zip(points, boxes, strict=True):
                assert left <= x <= right
                assert top <= y <= bottom
                masks.append(target.labels.array == target.labels.array[int(y), int(x)])
            return np.array(masks), np.array([0.9, 0.9, 0.1][: len(masks)], np.float32)

    found = CorrespondenceReasoner(LocalDescriptors(), prompter=Truth()).annotate(target.scan, [body(seed=1)])
    assert asked == [(3, 3)]
    overlaps = [dice(target.labels.array == n, found.labels.array == n) for n in (1, 2, 3)]
    assert overlaps[:2] == [1.0, 1.0]
    assert overlaps[2] < 1.0, "a mask of low predicted IoU is not taken"
    assert "the truth" in found.reasoner


def test_hippocampi_of_other_patients_come_out(shared_data: Path) -> None:
    images = sorted((shared_data / "hippocampus_mr" / "images").glob("*.nii.gz"))[:2]
    labels = [shared_data / "hippocampus_mr" / "labels" / p.name for p in images]
    found = annotate(images[0], images[1], labels[1], modality="MR", reasoner="correspondence")
    truth = read_mask(labels[0], reference=read_scan(images[0]).grid).array
    assert dice(truth != 0, found.labels.array != 0) > 0.6
    assert found.labels.grid.same_as(read_scan(images[0]).grid)


def test_noise_is_left_out(rng: np.random.Generator) -> None:
    noise = Reference(Scan(rng.normal(size=GRID.shape), GRID), body().labels, "noise")
    told = CorrespondenceReasoner(LocalDescriptors(), least_likeness=0.9).annotate(body(seed=3).scan, [noise])
    assert told.decision == "abstain"
    both = CorrespondenceReasoner(LocalDescriptors(), least_likeness=0.85).annotate(body(seed=3).scan, [noise, body()])
    assert [name for name, _ in both.references] == ["body 0"]
    assert both.remarks


def test_the_walk_follows_edges_and_keeps_chances() -> None:
    image = np.zeros((20, 30), np.float32)
    image[:, 15:] = 1
    rng = np.random.default_rng(0)
    prior = np.clip(np.where(image == 0, 0.65, 0.35) + rng.normal(0, 0.25, image.shape), 0, 1).astype(np.float32)
    walked = walk_labels(image, np.stack([prior, 1 - prior]), trust=0.3)
    assert np.allclose(walked.sum(axis=0), 1, atol=1e-5)
    wrong = ((walked[0] > 0.5) != (image == 0)).mean()
    assert wrong < 0.5 * ((prior > 0.5) != (image == 0)).mean()
    assert walked[0, :, 13].mean() - walked[0, :, 16].mean() > 0.2
    with pytest.raises(InputError, match="do not fit"):
        walk_labels(image, prior[None, :5])
    with pytest.raises(InputError, match="positive"):
        walk_labels(image, prior[None], trust=0)


def test_volumes_and_images_do_not_match() -> None:
    volume = Scan(np.random.default_rng(0).random((16, 16, 16)), Grid((16, 16, 16), np.eye(4)))
    with pytest.raises(GeometryError, match="do not match"):
        match_cells(cells_of(volume, LocalDescriptors()), cells_of(body().scan, LocalDescriptors()))
