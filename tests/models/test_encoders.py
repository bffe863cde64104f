"""Encoders through transformers: tiny random models of the real architectures, saved and loaded the product's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from anatrust.conformal.diffusion import Patches  # noqa: E402
from anatrust.errors import FormatError, InputError  # noqa: E402
from anatrust.image.grid import Grid  # noqa: E402
from anatrust.image.orientation import canonical_grid, restore  # noqa: E402
from anatrust.image.volumes import Scan  # noqa: E402
from anatrust.models.encoders import CachedEncoder, EncoderChoice, GrayWindow, PatchFeatures, make_encoder  # noqa: E402
from anatrust.models.encoders.preparation import pixel_values, slice_axis, target_size  # noqa: E402
from anatrust.models.encoders.weights import find_weights  # noqa: E402
from anatrust.models.protocols import Encoder  # noqa: E402
from anatrust.models.registry import registered_models  # noqa: E402
from anatrust.models.unet import UNet, UNetConfig, normalised  # noqa: E402

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
FAMILIES = ["clip", "clip-whole", "dinov2", "dinov2-registers", "dinov3", "segmenter", "siglip", "siglip-whole"]


def save_tiny(kind: str, folder: Path) -> None:
    """A random model of the real architecture, written as its authors write it."""
    t = transformers
    torch.manual_seed(3)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "segmenter":
        UNet(UNetConfig(3, ("background", "a"), (4, 8))).save(folder)
        return
    if kind == "dinov2":
        model = t.Dinov2Model(t.Dinov2Config(**{**SMALL, "mlp_ratio": 2}))
    elif kind == "dinov2-registers":
        model = t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**{**SMALL, "num_register_tokens": 2}))
    elif kind == "dinov3":
        model = t.DINOv3ViTModel(t.DINOv3ViTConfig(**{**SMALL, "num_register_tokens": 4}))
    elif kind == "siglip":
        model = t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL))
    elif kind == "clip":
        model = t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL))
    elif kind == "siglip-whole":
        model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=SMALL))
    else:
        model = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=SMALL, projection_dim=8))
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("weights")
    for kind in FAMILIES:
        save_tiny(kind, made / kind)
    return made


def make_scan(affine: np.ndarray | None = None, shape: tuple[int, ...] = (20, 26, 5)) -> Scan:
    rng = np.random.default_rng(4)
    image = np.cumsum(rng.normal(size=shape), axis=0).astype(np.float32) * 40
    return Scan(image, Grid(shape, np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine))


def encoder_of(kind: str, shelf: Path, **options: Any) -> Any:
    if kind != "segmenter":
        options = {"resolution": 32, **options}
    return make_encoder(EncoderChoice(kind.partition("-")[0], str(shelf / kind), **options))


@pytest.fixture(params=FAMILIES, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def encoder(kind: str, shelf: Path) -> Any:
    return encoder_of(kind, shelf)


class TestContract:
    """What every encoder keeps."""

    def test_is_an_encoder_of_the_registry(self, encoder: Any) -> None:
        assert isinstance(encoder, Encoder)
        entry = next(e for e in registered_models() if e.name == encoder.name)
        assert (entry.kind, entry.extra, entry.installed) == ("encoder", "deep", True)
        assert entry.licence

    def test_features_lie_on_the_scan_and_are_finite(self, encoder: Any) -> None:
        scan = make_scan()
        features = encoder.encode(scan)
        assert features.shape[:3] == scan.grid.shape
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        assert np.ptp(features, axis=(0, 1, 2)).max() > 0

    def test_the_same_scan_gives_the_same_features(self, encoder: Any) -> None:
        np.testing.assert_array_equal(encoder.encode(make_scan()), encoder.encode(make_scan()))

    def test_a_constant_scan_is_no_trouble(self, encoder: Any) -> None:
        scan = Scan(np.full((9, 17, 4), 7.0, np.float32), Grid((9, 17, 4), np.eye(4)))
        assert np.isfinite(encoder.encode(scan)).all()

    def test_blocks_are_means_of_the_lifted_features(self, encoder: Any) -> None:
        scan = make_scan()
        for size in ([4, 4, 2], [1, 1, 1], [30, 7, 5]):
            by_hand = Patches(scan.grid.shape, size).average(encoder.encode(scan))
            np.testing.assert_allclose(encoder.encode_patches(scan).block_means(size), by_hand, atol=1e-5)

    def test_standardised_features_have_no_mean_and_unit_deviation(self, encoder: Any) -> None:
        lifted = encoder.encode_patches(make_scan()).standardised().lifted()
        np.testing.assert_allclose(lifted.mean(axis=(0, 1, 2)), 0, atol=1e-4)
        deviation = lifted.std(axis=(0, 1, 2))
        assert ((abs(deviation - 1) < 1e-3) | (deviation == 0)).all()

    def test_identity_names_the_weights_and_survives_loading_again(self, kind: str, encoder: Any, shelf: Path) -> None:
        assert encoder.identity.startswith(f"{encoder.name}/1 ")
        assert len(encoder.identity.rpartition("weights=")[2]) == 64
        assert str(shelf) not in encoder.identity
        assert encoder_of(kind, shelf).identity == encoder.identity

    def test_cached_features_are_the_same_and_computed_once(self, encoder: Any, tmp_path: Path) -> None:
        scan, calls = make_scan(), []

        class Counting:
            name, identity, encode = encoder.name, encoder.identity, encoder.encode

            def encode_patches(self, scan: Scan) -> PatchFeatures:
                calls.append(scan)
                found: PatchFeatures = encoder.encode_patches(scan)
                return found

        cached = CachedEncoder(Counting(), tmp_path / "features")
        first, second = cached.encode(scan), cached.encode(scan)
        np.testing.assert_array_equal(first, encoder.encode(scan))
        np.testing.assert_array_equal(second, first)
        assert len(calls) == 1
        assert [f.name for f in (tmp_path / "features").iterdir()] == [cached.file_of(scan).name]
        # A damaged file is made again, and one of another encoder is not believed.
        cached.file_of(scan).write_bytes(cached.file_of(scan).read_bytes()[:100])
        np.testing.assert_array_equal(cached.encode(scan), first)
        other = make_scan(shape=(20, 26, 4))
        cached.file_of(scan).replace(cached.file_of(other))
        assert cached.encode(other).shape[:3] == other.grid.shape
        assert len(calls) == 3


@pytest.mark.parametrize("family", [k for k in FAMILIES if k != "segmenter"])
def test_storage_order_does_not_matter(family: str, shelf: Path) -> None:
    encoder = encoder_of(family, shelf)
    scan = make_scan()
    straight = encoder.encode(scan)
    affine = np.zeros((4, 4))
    # Stored as (S, R, A) with R and S reversed.
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (0, 0, -3), (-1, 0, 0), (0, 1, 0)
    affine[3, 3] = 1
    shape = (5, 20, 26)
    turned = Scan(restore(scan.array, Grid(shape, affine)), Grid(shape, affine))
    assert canonical_grid(turned.grid).shape == scan.grid.shape
    np.testing.assert_allclose(encoder.encode(turned), restore(straight, turned.grid), atol=1e-5)


@pytest.mark.parametrize("family", ["dinov2", "dinov3", "siglip", "clip"])
def test_equals_the_model_called_by_hand(family: str, shelf: Path) -> None:
    """One square picture of the training size: no resizing, tokens in raster order, special ones dropped."""
    rng = np.random.default_rng(0)
    image = rng.random((32, 32)).astype(np.float32)
    scan = Scan(image, Grid((32, 32), np.eye(4)))
    encoder = encoder_of(family, shelf)
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / (high - low), 0, 1)
    given = np.stack([(grey - m) / s for m, s in zip(encoder.mean, encoder.deviation, strict=True)])[None]
    with torch.no_grad():
        tokens = encoder.model(pixel_values=torch.from_numpy(given.astype(np.float32))).last_hidden_state[0].numpy()
    by_hand = tokens[tokens.shape[0] - 16 :].reshape(4, 4, -1)
    np.testing.assert_allclose(encoder.encode_patches(scan).values, by_hand, atol=1e-4)
    assert encoder.encode(scan)[31, 0].tolist() == encoder.encode_patches(scan).values[3, 0].tolist()


def test_layers_differ_and_only_those_there_are_given(shelf: Path) -> None:
    scan = make_scan()
    found = [encoder_of("dinov3", shelf, layer=layer).encode(scan) for layer in (0, 1, None)]
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[1], found[2])
    with pytest.raises(InputError, match="layers 0 to 2"):
        encoder_of("dinov3", shelf, layer=3)
    with pytest.raises(InputError, match="stages 0 to 1"):
        encoder_of("segmenter", shelf, layer=2)
    with pytest.raises(InputError, match="two patches"):
        encoder_of("dinov3", shelf, resolution=8)


def test_the_segmenters_stage_is_its_own(shelf: Path) -> None:
    scan = make_scan()
    model = UNet.load(shelf / "segmenter")
    with torch.no_grad():
        maps = model.features(torch.from_numpy(normalised(scan.array))[None, None], 1)[0].numpy()
    features = encoder_of("segmenter", shelf, layer=1).encode(scan)
    np.testing.assert_array_equal(features[7, 9, 4], maps[:, 3, 4, 2])
    with pytest.raises(InputError, match="3-D"):
        encoder_of("segmenter", shelf).encode(make_scan(shape=(20, 26), affine=np.eye(4)))


def test_a_models_own_normalisation_goes_before(shelf: Path, tmp_path: Path) -> None:
    save_tiny("dinov2", tmp_path / "rad")
    own = {"image_mean": [0.5307, 0.5307, 0.5307], "image_std": [0.2583, 0.2583, 0.2583]}
    (tmp_path / "rad" / "preprocessor_config.json").write_text(json.dumps(own))
    rad = make_encoder(EncoderChoice("rad-dino", str(tmp_path / "rad"), 32))
    assert rad.mean == (0.5307, 0.5307, 0.5307)  # type: ignore[attr-defined]
    assert rad.identity != encoder_of("dinov2", shelf).identity


def test_preparation_is_exact() -> None:
    window = GrayWindow((0.0, 100.0))
    ct = Scan(np.array([[-50.0, 0.0], [50.0, 300.0]], np.float32), Grid((2, 2), np.eye(4)), "CT", "HU")
    assert window.apply(ct).tolist() == [[0.0, 0.0], [0.5, 1.0]]
    given = pixel_values(torch.full((1, 4, 4), 0.5), (4, 4), (0.5, 0.25, 0.0), (1.0, 0.5, 2.0))
    assert given[0, :, 0, 0].tolist() == [0.0, 0.5, 0.25]
    # A constant stays constant at any size: the kernel sums to one.
    assert float(pixel_values(torch.full((1, 5, 7), 0.3), (16, 24), (0,) * 3, (1,) * 3).std()) < 1e-6
    assert target_size((256.0, 256.0), 448, 14) == (448, 448)
    assert target_size((10.0, 1000.0), 448, 14) == (14, 448)
    assert slice_axis((5.0, 1.0, 1.0)) == 0
    with pytest.raises(InputError, match="grey window"):
        GrayWindow((1.0, 1.0))


def test_what_is_no_such_model_is_said(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="local Hugging Face cache"):
        make_encoder(EncoderChoice("dinov3", "nobody/nothing@v1"))
    with pytest.raises(InputError, match="choose the encoder of its family"):
        make_encoder(EncoderChoice("clip", str(shelf / "dinov2")))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text('{"model_type": "dinov2"}')
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(FormatError, match="safetensors"):
        find_weights(tmp_path / "bin", ["dinov2"])
    (tmp_path / "bin" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(FormatError, match="cannot be loaded"):
        make_encoder(EncoderChoice("dinov2", str(tmp_path / "bin")))
    (tmp_path / "bin" / "config.json").write_text("[]")
    with pytest.raises(FormatError, match="JSON object"):
        find_weights(tmp_path / "bin", ["dinov2"])
    with pytest.raises(InputError, match="no encoder"):
        EncoderChoice("nonsense")
    with pytest.raises(InputError, match="needs the folder"):
        EncoderChoice("segmenter")
    with pytest.raises(InputError, match="no weights"):
        EncoderChoice("local-descriptors", "x")


def test_missing_weights_are_never_filled_with_random_ones(shelf: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_tiny("dinov2", tmp_path / "part")
    file = tmp_path / "part" / "model.safetensors"
    state = load_file(str(file))
    gone = next(name for name in state if "layer.1" in name)
    save_file({k: v for k, v in state.items() if k != gone}, str(file), metadata={"format": "pt"})
    with pytest.raises(FormatError, match="lacks 1 weights"):
        make_encoder(EncoderChoice("dinov2", str(tmp_path / "part"), 32))


def test_weights_are_found_by_name_and_revision_in_the_cache(tmp_path: Path) -> None:
    """The cache's own layout, in a process of its own because its place is read on import."""
    commit = "a" * 40
    save_tiny("dinov2", tmp_path / "hub" / "models--someone--tiny" / "snapshots" / commit)
    refs = tmp_path / "hub" / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    script = (
        "import sys\nfrom anatrust.models.encoders import EncoderChoice, make_encoder\n"
        "for name in ('someone/tiny', 'someone/tiny@' + 'a' * 40):\n"
        "    print(make_encoder(EncoderChoice('dinov2', name, 32)).identity)\n"
        "assert 'torchvision' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    first, second = done.stdout.split("\n")[:2]
    assert (
        first
        == second
        == make_encoder(EncoderChoice("dinov2", str(next(tmp_path.glob("hub/*/snapshots/*"))), 32)).identity
    )


def test_a_choice_travels_without_the_machines_paths(tmp_path: Path) -> None:
    choice = EncoderChoice("segmenter", str(tmp_path), layer=1)
    assert choice.to_json()["weights"] == tmp_path.name
    plain = EncoderChoice("dinov3", "facebook/x@main", 224, 5)
    assert EncoderChoice.from_json(plain.to_json()) == plain
