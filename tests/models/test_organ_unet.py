"""The organ model: made-up images, the loss of partly labelled maps, resuming, and anchors on the scan's grid."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.organ_unet import ORGAN_CLASSES, OrganCard, organ_card
from anatrust.models.organ_unet_synthesis import (
    AnatomyCase,
    SynthesisRecipe,
    even_intensities,
    fine_tissues,
    synthesise,
)

torch = pytest.importorskip("torch")

from anatrust.models.anchors.organ_unet import OrganUNetAnchors  # noqa: E402
from anatrust.models.organ_unet import OrganModel, embedded_organ_model, label_organs, on_sides  # noqa: E402
from anatrust.models.organ_unet_training import OrganRecipe, partial_loss, train_organ_unet  # noqa: E402
from anatrust.models.unet import UNet, UNetConfig  # noqa: E402

SMALL = SynthesisRecipe(spacing=10.0, edge=(14, 16), height=(6, 8))


@pytest.fixture(scope="module")
def case() -> AnatomyCase:
    """A box of a body with a liver, a spleen and two kidneys, 5 mm voxels."""
    shape = (48, 40, 30)
    rng = np.random.default_rng(0)
    organs = np.zeros(shape, np.uint8)
    organs[26:42, 10:30, 10:26] = 1
    organs[6:14, 8:18, 14:24] = 2
    organs[14:19, 6:12, 4:14] = organs[28:33, 6:12, 3:10] = 3
    image = np.full(shape, -1000, np.float32)
    image[3:45, 3:37] = 30
    for number, level in ((1, 110), (2, 120), (3, 180)):
        image[organs == number] = level
    image += rng.normal(0, 8, shape).astype(np.float32)
    tissues, parents = fine_tissues(image, organs)
    return AnatomyCase("box", image, organs, tissues, parents, (5.0, 5.0, 5.0))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-500, 500))
def test_intensities_do_not_depend_on_gain_and_offset(seed, gain, offset):
    image = np.random.default_rng(seed).gamma(2.0, 30.0, (9, 8, 7))
    one, other = even_intensities(image), even_intensities(gain * image + offset)
    assert abs(float(one.mean())) < 1e-4
    assert abs(float(one.std()) - 1) < 1e-4
    assert np.abs(one - other).max() < 1e-2


def test_a_flat_image_stays_finite():
    assert not even_intensities(np.full((3, 3, 3), 7.0)).any()


def test_tissues_lie_within_structures_and_the_rest_falls_apart(case):
    for tissue in np.unique(case.tissues):
        assert len(np.unique(case.organs[case.tissues == tissue])) == 1
    rest = np.unique(case.tissues[case.organs == 0])
    assert len(rest) > 3
    assert len(np.unique(case.parents[rest])) == len(rest), "every part of the rest is a structure of its own"
    liver = np.unique(case.tissues[case.organs == 1])
    assert len(np.unique(case.parents[liver])) == 1
    # The darkest tissue is the air, and is number 0, which the painter leaves dark.
    assert case.image[case.tissues == 0].mean() < -900


def test_made_up_images_are_reproducible_varied_and_on_their_labels(case):
    shapes, grey = set(), []
    for seed in range(12):
        image, organs = synthesise(case, np.random.default_rng(seed), SMALL)
        again, same = synthesise(case, np.random.default_rng(seed), SMALL)
        assert np.array_equal(image, again)
        assert np.array_equal(organs, same)
        assert image.shape == organs.shape
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert set(np.unique(organs)) <= {0, 1, 2, 3}
        shapes.add(image.shape)
        if (organs == 1).sum() > 20:
            grey.append(float(image[organs == 1].mean()))
    assert len(shapes) > 3
    assert np.std(grey) > 0.3, "the liver is bright in one image and dark in another"


@pytest.mark.parametrize(("mirror", "least", "most"), [(0.0, 0.0, 0.0), (0.5, 0.2, 0.8)])
def test_as_many_of_the_images_are_mirrored_as_the_recipe_says(case, mirror, least, most):
    still = {"scale": 0.0, "rotation": 0.0, "shear": 0.0, "bend": 0.0}
    recipe = SynthesisRecipe(spacing=5.0, edge=(48, 48), height=(30, 30), voxels=10**6, mirror=mirror, **still)

    def side(organs):
        liver, spleen = (np.argwhere(organs == k)[:, 0].mean() for k in (1, 2))
        return bool(liver > spleen)

    turned = []
    for seed in range(30):
        _, organs = synthesise(case, np.random.default_rng(seed), recipe)
        if (organs == 1).any() and (organs == 2).any():
            turned.append(side(organs) != side(case.organs))
    assert len(turned) > 15
    assert least <= np.mean(turned) <= most


def test_the_loss_is_cross_entropy_and_dice_and_forgives_unknown_classes():
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=(1, 4, 5, 5, 5)).astype(np.float32))
    target = torch.from_numpy(rng.integers(0, 3, (1, 5, 5, 5)))
    p, one = logits.softmax(1), torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    dice = [float(2 * (p[:, c] * one[:, c]).sum() + 1) / float(p[:, c].sum() + one[:, c].sum() + 1) for c in (1, 2)]
    expected = float(torch.nn.functional.cross_entropy(logits, target)) + 1 - np.mean(dice)
    assert float(partial_loss(logits, target)) == pytest.approx(expected, rel=1e-5)
    # Class 3 everywhere instead of background: wrong, unless the map does not know class 3.
    background = torch.zeros_like(target)
    sure = torch.full((1, 4, 5, 5, 5), -20.0)
    sure[:, 3] = 20.0
    assert float(partial_loss(sure, background)) > 10
    assert float(partial_loss(sure, background, [3])) < 1e-4
    weighted = float(partial_loss(logits, target, balance=0.5))
    assert np.isfinite(weighted)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(case, tmp_path):
    recipe = OrganRecipe(steps=6, widths=(4, 8), every=3, synthesis=SMALL)
    whole = train_organ_unet([case], [1.0], recipe, tmp_path / "whole").state_dict()

    class Stop(Exception):
        pass

    def stop(step: int, _steps: int, _loss: float) -> None:
        if step == 4:
            raise Stop

    with pytest.raises(Stop):
        train_organ_unet([case], [1.0], recipe, tmp_path / "parts", progress=stop)
    steps: list[int] = []
    resumed = train_organ_unet([case], [1.0], recipe, tmp_path / "parts", progress=lambda s, _n, _l: steps.append(s))
    assert steps == [4, 5, 6]
    for name, value in resumed.state_dict().items():
        assert torch.allclose(value, whole[name], atol=1e-5), name
    with pytest.raises(InputError, match="holds another training"):
        train_organ_unet([case], [2.0], recipe, tmp_path / "parts")
    with pytest.raises(InputError, match="give a positive share"):
        train_organ_unet([case], [], recipe, tmp_path)


def tiny(seed: int = 0) -> OrganModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OrganModel(UNet(UNetConfig(3, ORGAN_CLASSES, (4, 8))))


def scan(shape=(40, 36, 30), spacing=(4.0, 4.0, 5.0), seed=0) -> Scan:
    rng = np.random.default_rng(seed)
    return Scan(rng.normal(100, 20, shape).astype(np.float32), Grid(shape, np.diag([*spacing, 1.0])))


def test_organs_lie_on_the_scans_grid_however_it_is_stored():
    straight = scan()
    labels = tiny().organs(straight)
    assert labels.grid.same_as(straight.grid)
    assert len(labels.labels()) > 1
    for order in list(permutations(range(3)))[1:3]:
        affine = straight.grid.affine.copy()
        affine[:3, :3] = affine[:3, list(order)]
        affine[:3, 3] += affine[:3, 0] * (straight.array.shape[order[0]] - 1)
        affine[:3, 0] *= -1
        array = np.flip(straight.array.transpose(order), 0)
        other = tiny().organs(Scan(array, Grid(array.shape, affine)))
        assert np.array_equal(canonical(other.array, other.grid)[0], labels.array)


def test_wanted_organs_are_labelled_as_among_all():
    """Two round organs that touch, on a coarse grid and on a finer one whose axes run otherwise."""
    coarse = Grid((14, 13, 12), np.diag([10.0, 10.0, 10.0, 1.0]))
    x, y, z = np.indices(coarse.shape)
    shares = np.full((len(ORGAN_CLASSES), *coarse.shape), 1e-3, np.float32)
    for number, centre, width in ((1, (5, 6, 6), 2.5), (2, (9, 6, 6), 1.5)):
        shares[number] = np.exp(-sum((v - c) ** 2 for v, c in zip((x, y, z), centre, strict=True)) / 2 / width**2)
    shares[0] = 0.4
    shares /= shares.sum(axis=0)
    affine = np.array([[0.0, -3.0, 0, 130], [4.0, 0, 0, 5], [0, 0, 3.5, -4], [0, 0, 0, 1]])
    fine = Grid((30, 44, 35), affine)
    seen = ProbabilityMap(shares, coarse, ORGAN_CLASSES)
    whole = label_organs(seen, fine)
    assert whole.labels() == (1, 2)
    for number in whole.labels():
        alone = label_organs(seen, fine, [ORGAN_CLASSES[number]])
        assert np.array_equal(alone.array, np.where(whole.array == number, number, 0))
    assert not label_organs(seen, fine, ["aorta"]).array.any()


def test_what_cannot_hold_organs_is_refused_or_missing():
    model = tiny()
    thin = scan((40, 36, 3), (4.0, 4.0, 5.0))
    with pytest.raises(InputError, match="thinner than 30 mm"):
        model.organs(thin)
    flat = Scan(np.zeros((9, 9), np.float32), Grid((9, 9), np.eye(4)))
    with pytest.raises(InputError, match="volumes with a spacing"):
        model.look(flat)
    card = OrganCard({"liver": 0.9}, {}, ("liver",), {})
    (anchor,) = OrganUNetAnchors(model, card).find(thin, ["liver"])
    assert anchor.status == "missing"
    assert "thinner" in anchor.reasons[0]
    # In micrometres by mistake: resampled to 10 mm it would take 10^10 voxels.
    (anchor,) = OrganUNetAnchors(model, card).find(scan((122, 101, 30), (300.0, 300.0, 300.0)), ["liver"])
    assert anchor.reasons == ("the scan would be 36.6 x 30.3 x 9 m large",)
    with pytest.raises(FormatError, match="train it again"):
        OrganModel(UNet(UNetConfig(3, ("background", "liver"), (4, 8))))
    with pytest.raises(InputError, match="least agreement"):
        OrganUNetAnchors(model, card, least_agreement=2.0)


def test_only_offered_organs_are_anchors_and_a_guess_is_unreliable():
    card = OrganCard({"liver": 0.9, "pancreas": 0.3}, {}, ("liver", "kidneys"), {})
    provider = OrganUNetAnchors(tiny(), card)
    image = scan()
    found = {a.structure: a for a in provider.find(image, ["liver", "pancreas", "uterus", "kidney", "kidney_left"])}
    assert found["pancreas"].reasons[0].endswith("it never saw was 0.30, below 0.7)")
    assert "does not know" in found["uterus"].reasons[0]
    # An untrained network sees something else where the image is a little larger or smaller.
    for key in ("liver", "kidney"):
        assert found[key].status in ("unreliable", "missing")
        if found[key].status == "unreliable":
            assert "views of the scan agree only" in found[key].reasons[0]
    lax = OrganUNetAnchors(tiny(), card, least_agreement=0.0)
    whole, left = lax.find(image, ["kidney", "kidney_left"])
    if whole.mask is not None and left.mask is not None:
        assert (left.mask.array <= whole.mask.array).all()


def test_a_scan_and_its_mirror_image_show_the_same_body():
    """The header says left and right; the model sees them, and the two answers are mirror images."""
    model, image = tiny(), scan()
    turned = Scan(np.ascontiguousarray(image.array[::-1]), image.grid)
    one, other = model.look(image), model.look(turned)
    assert one.mirrored != other.mirrored
    assert np.allclose(one.shares.array, other.shares.array[:, ::-1], atol=1e-5)
    assert one.agreement == pytest.approx(other.agreement)
    card = OrganCard({}, {}, ("kidneys",), {})
    sides = ["kidney_left", "kidney_right"]
    first, second = (OrganUNetAnchors(model, card, least_agreement=0.0).find(s, sides) for s in (image, turned))
    for a, b in zip(first, second, strict=True):
        assert a.mask is not None
        assert b.mask is not None
        # What was the left kidney is the left kidney still, on the other side of the picture.
        assert np.array_equal(a.mask.array, b.mask.array[::-1])
        assert any("mirrored" in reason for reason in (*a.reasons, *b.reasons))


def test_sides_are_split_by_the_world_not_by_the_index():
    mask = np.ones((4, 2, 2), bool)
    grid = Grid((4, 2, 2), np.diag([-1.0, 1.0, 1.0, 1.0]))  # x falls along the first axis: 0, -1, -2, -3
    left, right = on_sides(mask, grid, -1.5)
    assert right[:2].all()
    assert not right[2:].any()
    assert np.array_equal(left, ~right)


def test_the_embedded_weights_fit_their_card():
    card = organ_card()
    assert set(card.offered) <= set(card.dice) <= set(ORGAN_CLASSES)
    assert all(card.dice[organ] >= 0.7 for organ in card.offered)
    assert {"data", "licence", "limits", "recipe", "sha256"} <= set(card.facts)
    assert embedded_organ_model().digest == card.facts["sha256"]


def test_the_weights_draw_a_liver_as_well_as_the_card_says(shared_data):
    """On the abdominal MR: the shipped network, which was shown all patients, is no worse than the one that was not."""
    from anatrust.image.read import read_mask, read_scan

    folder = shared_data / "abdomen_ct_mr"
    image = read_scan(folder / "mr_small.nii.gz", modality="MR")
    truth = read_mask(folder / "mr_small_labels.nii.gz", reference=image.grid).array == 5
    believed = OrganCard({}, {}, ("liver",), {"sha256": organ_card().facts["sha256"]})
    (anchor,) = OrganUNetAnchors(card=believed).find(image, ["liver"])
    assert anchor.status == "ok"
    assert [reason.split(",")[0] for reason in anchor.reasons] == ["it was drawn on voxels of 5 mm"]
    drawn = anchor.mask.array
    dice = 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum())
    assert dice >= organ_card().patients["mr"]["liver"] - 0.02


def test_only_what_the_card_offers_is_given_and_without_an_offer_nothing_is_loaded():
    provider = OrganUNetAnchors()
    (pancreas,) = provider.find(scan(), ["pancreas"])
    assert "pancreas" not in organ_card().offered
    assert provider._model is None
    assert f"it never saw was {organ_card().dice['pancreas']:.2f}, below 0.7" in pancreas.reasons[0]
    for anchor in provider.find(scan(), ["liver", "spleen"]):
        if anchor.structure not in organ_card().offered:
            assert anchor.status == "missing"
    assert organ_card().facts["sha256"][:16] in provider.identity
