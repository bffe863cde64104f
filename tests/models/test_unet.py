"""The small U-Net: any shape, tiles, saved without pickle, and it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anatrust.errors import FormatError, InputError  # noqa: E402
from anatrust.image.grid import Grid  # noqa: E402
from anatrust.image.volumes import Scan  # noqa: E402
from anatrust.models.unet import UNet, UNetConfig, UNetSegmenter  # noqa: E402
from anatrust.models.unet_training import TrainingRecipe, train_unet  # noqa: E402

TINY = (4, 8)
torch.set_num_threads(1)  # tiny networks: two threads only wait for each other


def scan_of(array: np.ndarray) -> Scan:
    return Scan(array.astype(np.float32), Grid(array.shape, np.eye(4)))


@pytest.mark.parametrize("shape", [(1, 1), (7, 10), (16, 9), (5, 6, 7), (8, 1, 3)])
def test_every_shape_comes_back(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    model = UNet(UNetConfig(len(shape), ("background", "a", "b"), TINY))
    if min(shape) > 1 or max(shape) > 1:  # a single voxel has no variance to normalise by
        out = UNetSegmenter(model).predict(scan_of(rng.normal(size=shape)))
        assert out.array.shape == (3, *shape)
        np.testing.assert_allclose(out.array.sum(axis=0), 1, atol=1e-5)


def test_saved_and_loaded_it_says_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    model = UNet(UNetConfig(3, ("background", "a"), TINY))
    model.save(tmp_path)
    scan = scan_of(rng.normal(size=(9, 8, 7)))
    before, after = (UNetSegmenter(m).predict(scan).array for m in (model, UNet.load(tmp_path)))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "newer", "other widths", "no json"])
def test_damaged_folders_are_one_clear_line(damage: str, tmp_path: Path) -> None:
    UNet(UNetConfig(2, ("background", "a"), TINY)).save(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "weights.safetensors"
    values = json.loads(config.read_text())
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "no json":
        config.write_text("{")
    else:
        values |= {"foreign": {"model": "other"}, "newer": {"schema": 99}, "other widths": {"widths": [4, 16]}}[damage]
        config.write_text(json.dumps(values))
    with pytest.raises(FormatError) as error:
        UNet.load(tmp_path)
    assert "\n" not in str(error.value)


def test_tiles_cover_the_scan_and_hardly_change_it(rng: np.random.Generator) -> None:
    model = UNet(UNetConfig(2, ("background", "a"), TINY))
    scan = scan_of(rng.normal(size=(70, 45)))
    whole = UNetSegmenter(model, tile=128).predict(scan).array
    tiled = UNetSegmenter(model, tile=(32, 32)).predict(scan).array
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).mean() < 0.15  # instance norm sees a tile's own mean


def test_it_learns_discs_and_early_checkpoints_are_weaker() -> None:
    rng = np.random.default_rng(0)
    images, labels = [], []
    for _ in range(8):
        x, y = np.indices((32, 32))
        a, b = rng.uniform(10, 22, 2)
        label = ((x - a) ** 2 + (y - b) ** 2 < 36).astype(np.uint8)
        labels.append(label)
        images.append(label * 2.0 + rng.normal(size=label.shape))
    seen: list[int] = []
    model = train_unet(
        images,
        labels,
        UNetConfig(2, ("background", "disc"), (8, 16)),
        TrainingRecipe(steps=80, crop=32, flips=(0, 1)),
        checkpoint=lambda step, _model: seen.append(step),
    )
    assert seen == list(range(8, 81, 8))
    x, y = np.indices((32, 32))
    truth = (x - 12) ** 2 + (y - 19) ** 2 < 36
    found = UNetSegmenter(model).predict(scan_of(truth * 2.0 + rng.normal(size=truth.shape))).array[1] > 0.5
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75


def test_the_same_seed_trains_the_same_network() -> None:
    image, label = [np.arange(64.0).reshape(8, 8)], [np.eye(8, dtype=int)]
    config, recipe = UNetConfig(2, ("background", "a"), TINY), TrainingRecipe(steps=2, crop=8)
    first, second = (train_unet(image, label, config, recipe) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_encoder_features_are_there(rng: np.random.Generator) -> None:
    model = UNet(UNetConfig(3, ("background", "a"), (4, 8, 12)))
    features = model.features(torch.zeros(1, 1, 8, 8, 8), 2)
    assert tuple(features.shape) == (1, 12, 2, 2, 2)


def test_nonsense_is_refused() -> None:
    config = UNetConfig(2, ("background", "a"), TINY)
    flat = np.zeros((4, 4), int)
    for call in (
        lambda: UNetConfig(4, ("background", "a")),
        lambda: train_unet([], [], config),
        lambda: train_unet([flat], [np.zeros((4, 5), int)], config),
        lambda: train_unet([flat], [flat + 2], config),
        lambda: UNetSegmenter(UNet(config)).predict(scan_of(np.zeros((4, 4, 4)))),
    ):
        with pytest.raises(InputError):
            call()
