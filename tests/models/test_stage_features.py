"""Stage features: pooled by hand, found automatically, of every layout, and the published 1488."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from anatrust.errors import InputError  # noqa: E402
from anatrust.models.stage_features import StageFeatures, find_stages, weights_hash  # noqa: E402
from anatrust.models.unet import UNet, UNetConfig  # noqa: E402

torch.set_num_threads(1)


def unet(ndim: int = 2) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(ndim, ("background", "a"), (4, 8, 16))).eval()


@pytest.mark.parametrize("ndim", [2, 3])
def test_equals_pooling_by_hand(ndim: int, rng: np.random.Generator) -> None:
    images = rng.normal(size=(3, *(32,) * ndim)).astype(np.float32)
    model = unet(ndim)
    found = StageFeatures(model, stages=["stages.0", "stages.1", "stages.2"], batch=2)
    values = found.extract(images, (1.0,) * ndim)
    with torch.no_grad():
        by_hand = [model.features(torch.from_numpy(images)[:, None], k).flatten(2).mean(2).numpy() for k in range(3)]
    np.testing.assert_allclose(values, np.concatenate(by_hand, axis=1), atol=1e-5)
    assert found.levels == (("stages.0", 4), ("stages.1", 8), ("stages.2", 16))


@pytest.mark.parametrize("ndim", [2, 3])
def test_stages_are_found(ndim: int, rng: np.random.Generator) -> None:
    images = rng.normal(size=(2, *(32,) * ndim)).astype(np.float32)
    named = StageFeatures(unet(ndim), stages=["stages.0", "stages.1", "stages.2"])
    found = StageFeatures(unet(ndim))
    assert found.stages == named.stages
    np.testing.assert_allclose(found.extract(images, (1.0,) * ndim), named.extract(images, (1.0,) * ndim), atol=1e-6)
    assert [width for _, width in found.levels] == [4, 8, 16]


def test_monai_unet_with_nested_skips(rng: np.random.Generator) -> None:
    monai = pytest.importorskip("monai.networks.nets")
    model = monai.UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1)
    found = StageFeatures(model)
    found.extract(rng.normal(size=(1, 32, 32)).astype(np.float32), (1.0, 1.0))
    # Its bottom keeps the resolution of the level above, and the skip joins both: 8 + 16 maps at the coarsest.
    assert [width for _, width in found.levels] == [4, 24]


def test_swin_unetr_has_the_published_layout(rng: np.random.Generator) -> None:
    monai = pytest.importorskip("monai.networks.nets")
    pytest.importorskip("einops")  # MONAI's Swin needs it and does not require it
    torch.manual_seed(0)
    model = monai.SwinUNETR(1, 2, feature_size=48, depths=(1, 1, 1, 1)).eval()
    images = rng.random(size=(1, 32, 32, 32)).astype(np.float32)
    found = StageFeatures(model)
    values = found.extract(images, (1.0,) * 3)
    assert found.stages == ("swinViT",)
    assert [width for _, width in found.levels] == [48, 96, 192, 384, 768]
    assert values.shape == (1, 1488)
    with torch.no_grad():  # as published: the five outputs of the encoder, normalised
        levels = model.swinViT(torch.from_numpy(images)[:, None], model.normalize)
    by_hand = torch.cat([level.flatten(2).mean(2) for level in levels], dim=1).numpy()
    np.testing.assert_allclose(values, by_hand, atol=1e-5)


class Tokens(nn.Module):
    """A little transformer: (B, L, C) inside, and a decoder that must never run."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 8, stride=8)
        self.block = nn.Linear(6, 5)
        self.after = nn.Linear(5, 2)
        self.unused = nn.Linear(1, 1)
        self.decoded = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.block(self.embed(image).flatten(2).transpose(1, 2))
        self.decoded += 1
        out: torch.Tensor = self.after(tokens).mean(dim=1)
        return out


def test_tokens_are_pooled_and_the_decoder_does_not_run(rng: np.random.Generator) -> None:
    images = rng.normal(size=(5, 32, 32)).astype(np.float32)
    model = Tokens()
    found = StageFeatures(model, stages=["block", "embed"], channels=3, batch=2)
    values = found.extract(images, (1.0, 1.0))
    assert values.shape == (5, 11)
    assert model.decoded == 0
    with torch.no_grad():
        embedded = model.embed(torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
        np.testing.assert_allclose(values[:, :5], model.block(embedded).mean(1).numpy(), atol=1e-5)
        np.testing.assert_allclose(values[:, 5:], embedded.mean(1).numpy(), atol=1e-5)


def test_batches_do_not_matter(rng: np.random.Generator) -> None:
    images = rng.normal(size=(5, 32, 32)).astype(np.float32)
    one, many = (StageFeatures(unet(), batch=batch).extract(images, (1.0, 1.0)) for batch in (1, 5))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_moments_see_what_instance_normalisation_hides(rng: np.random.Generator) -> None:
    images = np.concatenate([s * rng.normal(size=(1, 32, 32)) for s in (1.0, 5.0)]).astype(np.float32)
    after = StageFeatures(unet(), stages=["stages.0"]).extract(images, (1.0, 1.0))
    before = StageFeatures(unet(), stages=["stages.0.0"], pool="moments")
    values = before.extract(images, (1.0, 1.0))
    assert before.levels == (("stages.0.0", 8),)
    np.testing.assert_allclose(after[0], after[1], atol=0.2)  # a gain of five is not seen any more
    np.testing.assert_allclose(values[1, 4:] / values[0, 4:], 5.0, rtol=0.3)
    with torch.no_grad():
        maps = before.model.stages[0][0](torch.from_numpy(images)[:, None]).numpy()
    np.testing.assert_allclose(values, np.hstack([maps.mean((2, 3)), maps.std((2, 3))]), atol=1e-5)
    with pytest.raises(InputError, match="mean or moments"):
        StageFeatures(unet(), pool="max")  # type: ignore[arg-type]


def test_identity_knows_the_weights(rng: np.random.Generator) -> None:
    images = rng.normal(size=(1, 32, 32)).astype(np.float32)
    first, again, other = (StageFeatures(unet()) for _ in range(3))
    with torch.no_grad():
        other.model.head.bias += 1
    other = StageFeatures(other.model)
    for features in (first, again, other):
        features.extract(images, (1.0, 1.0))
    assert first.identity == again.identity
    assert first.identity != other.identity
    assert weights_hash(first.model) in first.identity


def test_hooks_are_gone_afterwards(rng: np.random.Generator) -> None:
    model = unet()
    StageFeatures(model).extract(rng.normal(size=(1, 32, 32)).astype(np.float32), (1.0, 1.0))
    assert all(not module._forward_hooks for module in model.modules())
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("stages", "message"),
    [(["nowhere"], "no stages"), ([], "no stages"), (["after"], "tensor of 2 axes"), (["unused"], "gave no tensor")],
)
def test_useless_stages_are_named(stages: list[str], message: str) -> None:
    class Flat(Tokens):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.after(self.block(self.embed(image).flatten(2).mean(2)))
            return out

    with pytest.raises(InputError, match=message):
        StageFeatures(Flat(), stages=stages, channels=3).extract(np.zeros((1, 16, 16), np.float32), (1.0, 1.0))


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        StageFeatures(unet(), batch=0)
    with pytest.raises(InputError, match="no stages were found"):
        find_stages(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)), torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="no stages were found"):
        find_stages(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.zeros(1, 1, 8, 8))


class Lists(nn.Module):
    """Gives a dictionary in one module and one map per image axis in another."""

    def __init__(self) -> None:
        super().__init__()
        self.dictionary = Given(lambda x: {"a": x})
        self.changing = Given(lambda x: [x] * (1 if x.shape[-1] == 16 else 2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.dictionary(image)
        self.changing(image)
        return image


class Given(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: torch.Tensor) -> object:
        return self.function(image)  # type: ignore[operator]


def test_outputs_that_are_no_maps_are_refused() -> None:
    with pytest.raises(InputError, match="give probe"):
        StageFeatures(Lists())
    with pytest.raises(InputError, match="gave no tensor"):
        StageFeatures(Lists(), stages=["dictionary"], probe=(16, 16)).extract(
            np.zeros((1, 16, 16), np.float32), (1.0, 1.0)
        )
    features = StageFeatures(Lists(), stages=["changing"], probe=(16, 16))
    with pytest.raises(InputError, match="changed"):
        features.extract(np.zeros((1, 32, 32), np.float32), (1.0, 1.0))
