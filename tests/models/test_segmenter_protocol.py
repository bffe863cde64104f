"""Segmenters by name, what they say they can do, and the contract on the embedded ones."""

from __future__ import annotations

import numpy as np
import pytest

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region, crop_scan
from anatrust.image.volumes import Mask, ProbabilityMap, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.protocols import Segmenter
from anatrust.models.registry import load_segmenter, registered_models
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.segmenters.blob import BlobSegmenter
from anatrust.models.views import views_of

torch = pytest.importorskip("torch")

from anatrust.models.segmenters.unet import UNetTarget  # noqa: E402
from anatrust.models.unet import UNet, UNetConfig  # noqa: E402


def tiny_unet(ndim, classes=("background", "liver", "tumour"), seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(UNetConfig(ndim, classes, (4, 8)))


def test_blob_keeps_the_contract(check_segmenter):
    check_segmenter(BlobSegmenter())


@pytest.mark.parametrize("ndim", [2, 3])
def test_unet_keeps_the_contract(check_segmenter, tmp_path, ndim):
    tiny_unet(ndim).save(tmp_path)
    check_segmenter(load_segmenter("unet", tmp_path))


def test_blob_finds_the_lesion_at_any_size(lesion_scan):
    scan, prompt = lesion_scan(3)
    found = BlobSegmenter().segment(scan, prompt, Region.whole(scan.grid.shape)).array[0]
    assert found[22, 19, 11] > 0.9
    assert found[~prompt.organ.array].max() == 0
    assert BlobSegmenter(side="dark").segment(scan, prompt, Region.whole(scan.grid.shape)).array[0][22, 19, 11] < 0.5


def test_blob_answers_mirrored_images_mirrored(lesion_scan):
    """It says that mirrors cannot change its answer; here is the proof."""
    scan, prompt = lesion_scan(3)
    whole = Region.whole(scan.grid.shape)
    straight = BlobSegmenter().segment(scan, prompt, whole).array
    for view in views_of(scan.grid, "flips"):
        organ = Mask(view.apply(prompt.organ.array), scan.grid)
        seen = BlobSegmenter().segment(Scan(view.apply(scan.array), scan.grid), Prompt("x", organ=organ), whole)
        assert np.abs(view.invert(seen.array) - straight).max() < 1e-5


def test_unet_draws_the_class_it_is_asked_for(lesion_scan):
    scan, prompt = lesion_scan(2)
    whole = Region.whole(scan.grid.shape)
    model = tiny_unet(2)
    every, tumour, liver = (UNetTarget(model, t).segment(scan, prompt, whole).array for t in (None, "tumour", "liver"))
    assert np.allclose(every, tumour + liver, atol=1e-6)
    assert UNetTarget(model, "tumour").identity != UNetTarget(model, "liver").identity
    assert UNetTarget(model).identity != UNetTarget(tiny_unet(2, seed=1)).identity
    with pytest.raises(InputError, match="no class 'spleen'"):
        UNetTarget(model, "spleen")
    with pytest.raises(InputError, match="reads volumes"):
        UNetTarget(tiny_unet(3)).segment(scan, prompt, whole)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("rules", None, "no segmenter 'rules': choose one of blob"),
        ("nothing", None, "no segmenter 'nothing'"),
        ("unet", None, "needs --weights: the folder its training saved"),
        ("blob", "somewhere", "takes no weights"),
        ("unet", "somewhere", "cannot be read as a U-Net"),
    ],
)
def test_a_segmenter_that_cannot_be_made_says_why(name, weights, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_segmenter(name, None if weights is None else tmp_path / weights)


def test_every_registered_segmenter_says_where_it_comes_from():
    for entry in registered_models():
        assert entry.kind != "segmenter" or entry.module
        assert entry.module or not entry.weights
        assert entry.licence
    assert isinstance(load_segmenter("blob"), Segmenter)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": ()}, "prompts"),
        ({"prompts": ("voice",)}, "prompts"),
        ({"ndim": (4,)}, "2-D or 3-D"),
        ({"context": "world"}, "region or the scan"),
        ({"organs": True}, "cannot be asked for an organ"),
    ],
)
def test_impossible_capabilities_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Capabilities(**wrong)


def test_prompts_and_anchors_are_valid_or_not_at_all():
    grid = Grid((2, 2), np.eye(4))
    mask = Mask(np.ones((2, 2), bool), grid)
    with pytest.raises(InputError, match="what is looked for"):
        Prompt("  ")
    assert Capabilities().to_json()["wording"] == "plain"
    assert Anchor("liver", mask, "labels").to_json()["voxels"] == 4
    assert Anchor.missing("liver", "labels", "not in it").to_json()["quality"] == 0
    for wrong in (
        {"mask": None},
        {"mask": mask, "status": "missing", "quality": 0.0, "reasons": ("x",)},
        {"mask": mask, "status": "unreliable"},
        {"mask": mask, "status": "odd"},
        {"mask": mask, "quality": 1.5},
        {"mask": None, "status": "missing", "quality": 0.5, "reasons": ("x",)},
    ):
        with pytest.raises(InputError, match=r"liver|status"):
            Anchor("liver", provider="labels", **wrong)


def test_regions_move_with_the_views_and_stay_in_the_scan():
    grid = Grid((10, 8, 6), np.eye(4))
    array = np.arange(480.0).reshape(grid.shape)
    region = Region((1, 2, 0), (4, 8, 5))
    for view in views_of(grid, "flips"):
        moved = view.region(region, grid.shape)
        assert view.region(moved, grid.shape) == region
        assert np.array_equal(view.apply(array)[moved.slices], view.apply(array[region.slices]))
    with pytest.raises(GeometryError, match="does not lie in a scan"):
        crop_scan(Scan(array, grid), Region((0, 0, 0), (11, 8, 6)))


def test_a_blob_without_sizes_is_refused():
    with pytest.raises(InputError, match="positive smoothings"):
        BlobSegmenter(smoothings=())
    found = BlobSegmenter().segment(
        Scan(np.zeros((8, 8), np.int16), Grid((8, 8), np.eye(4))), Prompt("x"), Region.whole((8, 8))
    )
    assert isinstance(found, ProbabilityMap)
    assert not found.array.any()


def test_slabs_change_nothing(monkeypatch):
    """Memory is bounded by slabs; what they give together is what one pass gives."""
    from anatrust.models.segmenters import blob

    rng = np.random.default_rng(0)
    shape = (20, 20, 80)
    scan = Scan(rng.normal(size=shape).astype(np.float32), Grid(shape, np.eye(4)))
    organ = Mask(rng.random(shape) < 0.9, scan.grid)
    found = []
    for voxels in (10**9, 400 * 9):
        monkeypatch.setattr(blob, "_SLAB_VOXELS", voxels)
        found.append(BlobSegmenter(margin=0).segment(scan, Prompt("x", organ=organ), Region.whole(shape)).array)
    assert np.array_equal(*found)


def test_a_network_reads_images_smaller_than_its_depth():
    for ndim in (2, 3):
        scan = Scan(np.random.default_rng(0).normal(size=(2,) * ndim), Grid((2,) * ndim, np.eye(4)))
        found = UNetTarget(tiny_unet(ndim)).segment(scan, Prompt("x"), Region.whole((2,) * ndim)).array
        assert found.shape == (1, *(2,) * ndim)
        assert np.isfinite(found).all()
