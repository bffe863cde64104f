"""Networks in ONNX, TorchScript and MONAI bundles: save, load, infer, and the region's grid comes back."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region
from anatrust.image.volumes import Scan
from anatrust.models.registry import load_segmenter
from anatrust.models.segmentation import Prompt
from anatrust.models.segmenters.card import NetworkCard, read_card
from anatrust.models.segmenters.patches import respaced, windows

torch = pytest.importorskip("torch")

from anatrust.models.segmenters.torch_network import TorchPatchSegmenter  # noqa: E402
from anatrust.models.unet import UNet, UNetConfig  # noqa: E402

CLASSES = ("background", "liver", "liver tumour")


def tiny(ndim):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(UNetConfig(ndim, CLASSES, (4, 8))).eval()


def card(ndim, **change):
    return {
        "ndim": ndim, "patch": [16] * ndim, "classes": list(CLASSES), "targets": ["liver tumour"],
        "window": [-150, 250], **change,
    }  # fmt: skip


def write_onnx(folder, ndim, **change):
    path = folder / "net.onnx"
    shape = (2, 1, *[16] * ndim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tiny(ndim), (torch.zeros(shape),), str(path), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(card(ndim, **change)))
    return path


def write_script(folder, ndim, **change):
    path = folder / "net.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(tiny(ndim), torch.zeros((2, 1, *[16] * ndim))).save(str(path))
    path.with_suffix(".json").write_text(json.dumps(card(ndim, **change)))
    return path


NET = {
    "_target_": "monai.networks.nets.BasicUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
    "features": [4, 4, 8, 8, 8, 4],
}  # fmt: skip


def write_bundle(folder, network=NET, script=False, **change):
    from monai.networks.nets import BasicUNet
    from safetensors.torch import save_file

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    metadata = {
        "network_data_format": {"outputs": {"pred": {"channel_def": {str(k): v for k, v in enumerate(CLASSES)}}}}
    }
    inference = {
        "network_def": network,
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 2, "overlap": 0.5},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 3.0], "mode": "bilinear"},
                {"_target_": "ScaleIntensityRanged", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True},
            ],
        },
        "postprocessing": {"transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]},
        **change,
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = BasicUNet(3, 1, 3, (4, 4, 8, 8, 8, 4)).eval()
    if script:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(module, torch.zeros(2, 1, 32, 32, 32)).save(str(folder / "models" / "model.ts"))
    else:
        save_file(module.state_dict(), str(folder / "models" / "model.safetensors"))
    return folder


@pytest.mark.parametrize("ndim", [2, 3])
def test_onnx_keeps_the_contract(check_segmenter, tmp_path, ndim):
    check_segmenter(load_segmenter("onnx", write_onnx(tmp_path, ndim)), tolerance=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_torchscript_keeps_the_contract(check_segmenter, tmp_path, ndim):
    spacing = [2.0] * ndim
    path = write_script(tmp_path, ndim, spacing=spacing, percentiles=[0.5, 99.5], window=None, zscore=True)
    check_segmenter(load_segmenter("torchscript", path), tolerance=1e-3)


@pytest.mark.parametrize("script", [False, True])
def test_a_bundle_keeps_the_contract(check_segmenter, tmp_path, script):
    check_segmenter(load_segmenter("monai-bundle", write_bundle(tmp_path / "b", script=script)), tolerance=1e-3)


def test_three_formats_of_one_network_give_one_answer(lesion_scan, tmp_path):
    scan, prompt = lesion_scan(3)
    region = Region((2, 2, 2), (40, 36, 20))
    plain = TorchPatchSegmenter(tiny(3), NetworkCard.from_json(card(3), "test"), identity="torch(x)")
    wanted = plain.segment(scan, prompt, region).array
    for name, path in (("onnx", write_onnx(tmp_path, 3)), ("torchscript", write_script(tmp_path, 3))):
        found = load_segmenter(name, path).segment(scan, prompt, region).array
        assert np.abs(found - wanted).max() < 1e-4, name


class Identity(torch.nn.Module):
    """Two classes whose logits are plus and minus the image."""

    def forward(self, x):
        return torch.cat([-x, x], dim=1)


def identity_card(ndim, **change):
    return NetworkCard(ndim, (8,) * ndim, ("background", "lesion"), ("lesion",), **change)


@pytest.mark.parametrize("ndim", [2, 3])
def test_tiles_are_put_together_exactly(ndim):
    """A voxel-wise network must give the same through any tiling: the weights cancel."""
    rng = np.random.default_rng(0)
    shape = (21, 13, 9)[:ndim]
    scan = Scan(rng.normal(size=shape).astype(np.float32), Grid(shape, np.diag([1.0, 1.0, 2.0, 1.0])))
    for batch, overlap in ((1, 0.0), (3, 0.5), (7, 0.75)):
        segmenter = TorchPatchSegmenter(
            Identity(), identity_card(ndim, overlap=overlap), identity="torch(id)", batch=batch
        )
        found = segmenter.segment(scan, Prompt("x"), Region.whole(shape)).array[0]
        assert np.allclose(found, 1 / (1 + np.exp(-2 * scan.array)), atol=1e-6)


def test_the_sliding_window_agrees_with_monai():
    """Where MONAI's inferer has constant weights and ours do not overlap, both are one tiling."""
    from monai.inferers import sliding_window_inference

    rng = np.random.default_rng(1)
    image = rng.normal(size=(16, 24, 8)).astype(np.float32)
    network = tiny(3)
    with torch.no_grad():
        logits = sliding_window_inference(torch.from_numpy(image)[None, None], (8, 8, 8), 4, network, overlap=0.0)
    wanted = logits.softmax(1)[0, 2].numpy()
    config = NetworkCard(3, (8, 8, 8), CLASSES, ("liver tumour",), overlap=0.0)
    found = TorchPatchSegmenter(network, config, identity="torch(x)").segment(
        Scan(image, Grid(image.shape, np.eye(4))), Prompt("x"), Region.whole(image.shape)
    )
    assert np.abs(found.array[0] - wanted).max() < 1e-5


def test_spacing_and_back_keeps_the_place():
    shape = (40, 40, 20)
    image = np.full(shape, -1.0, np.float32)
    image[12:24, 20:32, 6:12] = 1
    scan = Scan(image, Grid(shape, np.diag([1.0, 1.0, 2.0, 1.0])))
    segmenter = TorchPatchSegmenter(Identity(), identity_card(3, spacing=(2.0, 2.0, 2.0)), identity="torch(id)")
    found = segmenter.segment(scan, Prompt("x"), Region.whole(shape)).array[0]
    assert np.array_equal(found[1:-1, 1:-1, 1:-1] > 0.5, image[1:-1, 1:-1, 1:-1] > 0)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPR", "IAL"])
def test_a_network_sees_its_own_orientation(orientation):
    seen = []

    class Spy(Identity):
        def forward(self, x):
            seen.append(x.numpy().copy())
            return super().forward(x)

    image = np.random.default_rng(2).normal(size=(8, 8, 8)).astype(np.float32)
    scan = Scan(image, Grid(image.shape, np.eye(4)))
    segmenter = TorchPatchSegmenter(Spy(), identity_card(3, orientation=orientation), identity="torch(spy)")
    found = segmenter.segment(scan, Prompt("x"), Region.whole(image.shape)).array[0]
    assert np.allclose(found, 1 / (1 + np.exp(-2 * image)), atol=1e-6)
    axes = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[c] for c in orientation]
    wanted = np.flip(image.transpose(axes), [k for k, c in enumerate(orientation) if c in "LPI"])
    assert np.array_equal(seen[0][0, 0], wanted)


def test_windows_cover_everything():
    for size in range(5, 30):
        for overlap in (0.0, 0.25, 0.5, 0.9):
            hit = np.zeros(size, int)
            for (place,) in windows((size,), (5,), overlap):
                assert place.stop - place.start == 5
                hit[place] += 1
            assert hit.min() >= 1


def test_respaced_grids_keep_the_outer_face():
    grid = Grid((10, 9, 8), np.diag([1.0, 2.0, 3.0, 1.0]))
    assert respaced(grid, (1.0, 2.0, 3.0)) is grid
    other = respaced(grid, (2.0, 1.0, 1.5))
    assert other.shape == (5, 18, 16)
    assert np.allclose(other.to_world((-0.5, -0.5, -0.5)), grid.to_world((-0.5, -0.5, -0.5)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": [16]}, "patch has 3 edges"),
        ({"spacing": [1.0]}, "3 lengths above 0"),
        ({"targets": ["spleen"]}, "not among the classes"),
        ({"window": [3, 1]}, "does not ascend"),
        ({"window": None, "percentiles": [90, 10]}, "do not ascend"),
        ({"percentiles": [1, 99]}, "give one of them"),
        ({"overlap": 1.0}, "overlap by 0"),
        ({"orientation": "RRS"}, "orientation 'RRS'"),
        ({"colour": "red"}, "no key 'colour'"),
        ({"channels": "many"}, "channels"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(tmp_path, change, message):
    (tmp_path / "net.json").write_text(json.dumps(card(3, **change)))
    with pytest.raises(InputError, match=message):
        read_card(tmp_path / "net.json")


def test_unreadable_cards_and_networks_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"there is no net\.json"):
        read_card(tmp_path / "net.json")
    (tmp_path / "net.json").write_text("[1]")
    with pytest.raises(FormatError, match="no network card"):
        read_card(tmp_path / "net.json")
    (tmp_path / "net.json").write_text("{")
    with pytest.raises(FormatError, match="no JSON"):
        read_card(tmp_path / "net.json")
    (tmp_path / "net.json").write_text(json.dumps(card(3)))
    for name, file in (("onnx", "net.onnx"), ("torchscript", "net.ts")):
        with pytest.raises(InputError, match="there is no network"):
            load_segmenter(name, tmp_path / file)
        (tmp_path / file).write_bytes(b"nonsense")
        with pytest.raises(FormatError, match="cannot be read"):
            load_segmenter(name, tmp_path / file)


def test_a_wrong_card_is_noticed(lesion_scan, tmp_path):
    scan, prompt = lesion_scan(3)
    path = write_script(tmp_path, 3, classes=["background", "liver tumour"])
    with pytest.raises(FormatError, match="correct the card"):
        load_segmenter("torchscript", path).segment(scan, prompt, Region.whole(scan.grid.shape))
    flat, asked = lesion_scan(2)
    with pytest.raises(InputError, match="reads volumes"):
        load_segmenter("torchscript", path).segment(flat, asked, Region.whole(flat.grid.shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_def": {**NET, "features": "$[4] * 6"}}, "is not evaluated"),
        ({"network_def": {**NET, "_target_": "os.system"}}, "none of MONAI's"),
        ({"network_def": {**NET, "out_channels": 5}}, "do not fit its network"),
        ({"network_def": None}, "does not define its network"),
        ({"inferer": {"_target_": "SimpleInferer"}}, "no SlidingWindowInferer"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": "$[1]"}}, "not evaluated|not a number"),
        ({"preprocessing": {"transforms": [{"_target_": "RandFlipd"}]}}, "RandFlipd is not understood"),
        ({"preprocessing": {"transforms": [{"_target_": "NormalizeIntensityd", "nonzero": True}]}}, "non-zero"),
        ({"preprocessing": {"transforms": "@x"}}, "not a plain list"),
    ],
)
def test_a_bundle_that_needs_code_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_segmenter("monai-bundle", write_bundle(tmp_path / "b", **change))


def test_a_bundle_with_a_pickle_says_how_to_convert_it(tmp_path):
    folder = write_bundle(tmp_path / "b")
    (folder / "models" / "model.safetensors").rename(folder / "models" / "model.pt")
    with pytest.raises(InputError, match="is a pickle and is not read"):
        load_segmenter("monai-bundle", folder)
    with pytest.raises(InputError, match=r"no configs/inference\.json"):
        load_segmenter("monai-bundle", tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_nearly_the_same(lesion_scan, tmp_path):
    scan, prompt = lesion_scan(3)
    path = write_script(tmp_path, 3)
    one, other = (
        load_segmenter("torchscript", path, device=d).segment(scan, prompt, Region.whole(scan.grid.shape)).array
        for d in ("cpu", "cuda")
    )
    assert np.abs(one - other).max() < 0.05


def test_a_missing_device_is_said(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for name, make in (("torchscript", write_script), ("onnx", write_onnx)):
        with pytest.raises(InputError, match=r"cuda|CUDA"):
            load_segmenter(name, make(tmp_path, 3), device="cuda")
