"""The pixel classifier: what it learns, the contract, and what its file may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skops.io

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region
from anatrust.image.volumes import Mask, Scan
from anatrust.models.pixel_classifier import PixelCase, PixelClassifier, PixelRecipe, train_pixel_classifier
from anatrust.models.registry import load_segmenter
from anatrust.models.segmentation import Prompt
from anatrust.models.segmenters.pixel_classifier import PixelTarget

FAST = PixelRecipe(trees=20)


def case(seed, *, lesion=True, gain=1.0, offset=0.0):
    """A bright lesion in an organ that differs from scanner to scanner by gain and offset."""
    rng = np.random.default_rng(seed)
    shape = (40, 36, 16)
    index = np.indices(shape)
    image = rng.normal(0, 1, shape)
    organ = sum(((i - n / 2) / (0.45 * n)) ** 2 for i, n in zip(index, shape, strict=True)) < 1
    centre = rng.uniform(0.4, 0.6, 3) * shape
    truth = sum((i - c) ** 2 for i, c in zip(index, centre, strict=True)) < 16
    if lesion:
        image[truth] += 4
    grid = Grid(shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    scan = Scan((gain * image + offset).astype(np.float32), grid)
    return PixelCase(scan, Mask(truth & lesion, grid), Mask(organ, grid))


@pytest.fixture(scope="module")
def model():
    return train_pixel_classifier([case(k) for k in range(4)], FAST)


def test_it_keeps_the_contract(check_segmenter, model, tmp_path):
    model.save(tmp_path / "lesion.pixels")
    check_segmenter(load_segmenter("pixel-classifier", tmp_path / "lesion.pixels"))


def test_it_finds_lesions_of_another_patient_on_another_scanner(model):
    other = case(99, gain=37.0, offset=-500.0)
    found = model.probabilities(other.scan, Region.whole(other.scan.grid.shape), other.organ)
    inside = other.truth.array
    assert found[inside].mean() > 0.5 > found[other.organ.array & ~inside].mean()
    assert found[~other.organ.array].max() == 0


def test_the_answer_does_not_depend_on_the_region_where_the_surroundings_are_seen(model):
    """Normalised by the organ and seen with what surrounds it, a crop answers like the whole."""
    other = case(5)
    whole = model.probabilities(other.scan, Region.whole(other.scan.grid.shape), other.organ)
    region = Region((8, 6, 3), (33, 30, 13))
    part = model.probabilities(other.scan, region, other.organ)
    assert np.abs(part - whole[region.slices]).max() < 0.02


def test_saved_and_loaded_it_answers_the_same(model, tmp_path):
    model.save(tmp_path / "a.pixels")
    again = PixelClassifier.load(tmp_path / "a.pixels")
    other = case(7)
    region = Region.whole(other.scan.grid.shape)
    assert np.array_equal(again.probabilities(other.scan, region), model.probabilities(other.scan, region))
    assert again.digest == model.digest
    assert again.recipe == FAST
    assert PixelTarget(again).identity != PixelTarget(train_pixel_classifier([case(9)], FAST)).identity


def test_training_is_reproducible(model):
    assert train_pixel_classifier([case(k) for k in range(4)], FAST).digest == model.digest


def test_files_that_lie_are_refused(model, tmp_path):
    path = tmp_path / "m.pixels"
    with pytest.raises(InputError, match="no pixel classifier"):
        PixelClassifier.load(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(FormatError, match="damaged"):
        PixelClassifier.load(path)
    path.write_bytes(skops.io.dumps({"format": "something else"}))
    with pytest.raises(FormatError, match="is no pixel classifier: give"):
        PixelClassifier.load(path)
    path.write_bytes(skops.io.dumps({"format": "x", "model": np.linalg.LinAlgError("boo")}))
    with pytest.raises(FormatError, match=r"not trusted|damaged"):
        PixelClassifier.load(path)
    document = {"format": "anatrust-pixel-classifier", "schema": 99, "descriptors": "", "recipe": {}, "model": None}
    path.write_bytes(skops.io.dumps(document))
    with pytest.raises(FormatError, match="another version"):
        PixelClassifier.load(path)


def test_a_tree_that_leaves_its_nodes_is_refused(tmp_path):
    broken = train_pixel_classifier([case(1)], PixelRecipe(trees=3))
    nodes = broken._model._predictors[1][0].nodes
    nodes["left"][0] = 10_000
    broken.save(tmp_path / "m.pixels")
    with pytest.raises(FormatError, match="points outside"):
        PixelClassifier.load(tmp_path / "m.pixels")


def test_cases_that_teach_nothing_are_refused():
    with pytest.raises(InputError, match="nothing can be learnt"):
        train_pixel_classifier([])
    with pytest.raises(InputError, match="nothing can be learnt"):
        train_pixel_classifier([case(0, lesion=False)])
    with pytest.raises(InputError, match="needs voxels"):
        PixelRecipe(trees=0)
    one, other = case(0), Grid((4, 4, 4), np.eye(4))
    with pytest.raises(GeometryError, match="scan's grid"):
        PixelCase(one.scan, Mask(np.zeros(other.shape, bool), other))


def test_without_an_organ_it_looks_everywhere(model):
    other = case(3)
    found = PixelTarget(model).segment(other.scan, Prompt("lesion"), Region.whole(other.scan.grid.shape))
    assert (found.array > 0).all()
    empty = Mask(np.zeros(other.scan.grid.shape, bool), other.scan.grid)
    nothing = PixelTarget(model).segment(other.scan, Prompt("x", organ=empty), Region.whole(other.scan.grid.shape))
    assert not nothing.array.any()


def test_a_classifier_of_the_first_schema_proposes_what_it_did(tmp_path):
    """Written once, with version 0.1.0, by training on this image: 6 trees of 4 leaves on local descriptors."""
    old = PixelClassifier.load(Path(__file__).parent / "data" / "golden_v1.skops")
    assert (old.recipe.features, old.recipe.least, old.ndim) == ("local", 20, (2, 3))
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:20, 10:20] = True
    image = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32) + 4 * truth
    found = old.probabilities(Scan(image, Grid((40, 40), np.eye(4))), Region.whole((40, 40)))
    assert found[15, 15] == pytest.approx(0.9758670926, rel=1e-6)
    assert float(found.sum()) == pytest.approx(112.5557, rel=1e-6)
    old.save(tmp_path / "again.skops")
    again = PixelClassifier.load(tmp_path / "again.skops")
    assert again.recipe == old.recipe
    assert again.digest == old.digest
