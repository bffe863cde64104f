"""The in-context baseline: SegGPT's preparation against its own processor, its path on random weights, and votes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anatrust.cli.main import run
from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Reference
from anatrust.models.protocols import Reasoner
from anatrust.models.seggpt import SegGpt
from anatrust.reference.in_context_reasoner import InContextReasoner
from anatrust.studies.tiny_models import tiny_seggpt

NAMES = {1: "liver", 2: "spleen"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seggpt(tmp_path_factory.mktemp("seggpt"))


def body(shift: int = 0, gone: int | None = None) -> Reference:
    x, y = np.mgrid[:48, :40]
    labels = np.zeros(x.shape, np.uint8)
    for number, (centre, radius) in enumerate((((14 + shift, 18), 9), ((36 + shift, 22), 6)), start=1):
        if number != gone:
            labels[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = number
    image = np.array([0.2, 0.9, 0.5], np.float32)[labels]
    grid = Grid(labels.shape, np.eye(4))
    return Reference(Scan(image, grid, "CT"), LabelMap(labels, grid, NAMES), "other")


class ByGrey:
    """Paints what has the mean grey value of the region shown: an in-context model that needs no weights."""

    identity = "by grey"

    def draw(self, target: np.ndarray, prompt: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return np.stack([np.exp(-(((target - prompt[m].mean()) / 0.1) ** 2)) for m in masks]).astype(np.float32)


def test_what_is_painted_becomes_an_annotation() -> None:
    reasoner = InContextReasoner(ByGrey())
    assert isinstance(reasoner, Reasoner)
    target = body(3)
    found = reasoner.annotate(target.scan, [body(0), body(1)])
    for number in NAMES:
        assert dice(target.labels.array == number, found.labels.array == number) > 0.99
    assert found.decision == "accept"
    gone = reasoner.annotate(body(3, gone=2).scan, [body(0)])
    assert [s.found for s in gone.structures] == [True, False]
    assert "paints it nowhere" in gone.structures[1].reason
    volume = Scan(np.random.default_rng(0).random((8, 8, 8)), Grid((8, 8, 8), np.eye(4)))
    with pytest.raises(GeometryError, match="reads images"):
        reasoner.annotate(volume, [Reference(volume, LabelMap(np.ones((8, 8, 8), np.uint8), volume.grid))])


def test_the_preparation_is_that_of_its_own_processor(folder: Path) -> None:
    from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

    model = SegGpt.load(folder)
    grey = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    theirs = SegGptImageProcessorPil(size={"height": 64, "width": 64})(
        images=Image.fromarray(np.repeat(grey[..., None], 3, axis=2)), return_tensors="pt"
    )["pixel_values"]
    assert np.allclose(model.prepared(grey[None].astype(np.float32) / 255), theirs, atol=1e-4)


def test_random_weights_run_through_the_same_path(folder: Path, tmp_path: Path) -> None:
    model = SegGpt.load(folder)
    one, other = body(0), body(2)
    masks = np.stack([one.labels.array == n for n in NAMES])
    painted = model.draw(other.scan.array, one.scan.array, masks)
    assert painted.shape == (2, 48, 40)
    assert 0 <= painted.min() <= painted.max() <= 1
    assert np.array_equal(painted, model.draw(other.scan.array, one.scan.array, masks))
    assert not np.allclose(painted[0], painted[1]), "the mask shown must matter"
    with pytest.raises(InputError, match="masks show"):
        model.draw(other.scan.array, one.scan.array, masks[:, :5])
    for name, made in (("scan", other), ("other", one)):
        Image.fromarray((255 * made.scan.array).astype(np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(made.labels.array).save(tmp_path / f"{name}_labels.png")
    files = ["-i", "scan.png", "--reference", "other.png", "--reference-labels", "other_labels.png"]
    line = [str(tmp_path / f) if f.endswith(".png") else f for f in files]
    given = ["annotate", *line, "--reasoner", "seggpt", "-o", str(tmp_path / "out")]
    assert run([*given, "--model", str(folder), "-q"]) == 0
    assert "seggpt(sha256=" in (tmp_path / "out" / "annotation.json").read_text()
    assert run(given) == 2
    assert run([*given, "--model", str(folder), "--adapter", "x"]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError):
        SegGpt.load(tmp_path / "empty")
