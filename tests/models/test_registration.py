"""Registration: known displacements are found, whatever the storage order, and bad input is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.alignment import frame_pair, itk_image, local_correlation
from anatrust.models.annotation import Reference
from anatrust.models.registration import RegistrationSettings, register
from anatrust.models.registration_search import coverage
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.studies.nano_anatomy import bent, draw_patient
from anatrust.studies.rau_patients import as_reference


def blobs(shape: tuple[int, ...], shift: tuple[float, ...], scale: float = 1.0) -> np.ndarray:
    """Three unlike blobs, moved and scaled about the middle."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).astype(float)
    middle = np.array(shape) / 2
    places = middle + scale * np.array(
        [[-6.0, 0, 3][: len(shape)], [5.0, 5, -2][: len(shape)], [2.0, -7, 0][: len(shape)]]
    )
    image = np.zeros(shape)
    for place, size, height in zip(places, (4.0, 3.0, 2.5), (1.0, 0.7, 0.5), strict=True):
        image += height * np.exp(-((index - place - shift) ** 2).sum(-1) / (2 * (scale * size) ** 2))
    return image.astype(np.float32)


@pytest.mark.parametrize("shift", [(4.0, -3.0, 2.0), (0.0, 6.0, -3.0)])
def test_a_translation_is_found(shift: tuple[float, ...]) -> None:
    shape = (36, 34, 30)
    target = Scan(blobs(shape, (0, 0, 0)), Grid(shape, np.eye(4)))
    reference = Scan(blobs(shape, shift), Grid(shape, np.eye(4)))
    found = register(target, reference, RegistrationSettings(deformation="none", mirrored=False))
    point = found.transform.TransformPoint([18.0, 17.0, 15.0])
    assert np.allclose(np.array(point) - [18, 17, 15], shift, atol=0.6)
    assert found.similarity > 0.98


def test_a_scale_is_found_and_demons_do_not_spoil_it() -> None:
    shape = (48, 44)
    target = Scan(blobs(shape, (0, 0)), Grid(shape, np.eye(4)))
    reference = Scan(blobs(shape, (2, 3), 1.25), Grid(shape, np.eye(4)))
    plain = register(target, reference, RegistrationSettings(deformation="none"))
    demons = register(target, reference)
    assert plain.similarity > 0.95
    assert demons.similarity >= plain.similarity - 1e-3


def test_millimetres_count_not_voxels() -> None:
    fine = Scan(blobs((60, 60), (0, 0)), Grid((60, 60), np.diag([1.0, 1.0, 1.0, 1.0])))
    coarse = Scan(blobs((60, 60), (0, 0))[::2, ::3], Grid((30, 20), np.diag([2.0, 3.0, 1.0, 1.0])))
    found = register(fine, coarse, RegistrationSettings(deformation="none"))
    assert np.allclose(found.transform.TransformPoint([30.0, 20.0]), [30, 20], atol=1.0)


@pytest.mark.parametrize(("angle", "scale"), [(60, 1.0), (150, 1.0), (0, 0.75)])
def test_a_turned_or_scaled_view_is_found(angle: float, scale: float) -> None:
    shape = (60, 60)
    middle = np.array(shape) / 2 - 0.5
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    array = blobs(shape, (0, 0), 1.5)
    other = ndimage.affine_transform(array, matrix, middle - matrix @ middle, order=1)
    target, reference = (Scan(a, Grid(shape, np.eye(4))) for a in (other, array))
    searched = register(target, reference)
    assert searched.similarity > 0.95
    place = np.array([35.0, 22.0])
    assert np.allclose(searched.transform.TransformPoint(list(place)), matrix @ (place - middle) + middle, atol=1.5)
    upright = register(target, reference, RegistrationSettings(turned=False))
    assert upright.similarity < searched.similarity + 1e-6


def test_a_scan_of_half_the_size_within_padding_is_found() -> None:
    rng = np.random.default_rng(3)
    whole = ndimage.gaussian_filter(rng.normal(size=(36, 44, 36)), 3)
    whole = (whole - whole.min() + 0.3).astype(np.float32)
    middle = (np.array(whole.shape) - 1) / 2
    half = ndimage.affine_transform(whole, np.full(3, 2.0), middle - 2 * middle, order=1)
    target, reference = (Scan(a, Grid(a.shape, np.eye(4))) for a in (half, whole))
    found = register(target, reference, RegistrationSettings(deformation="none", mirrored=False))
    assert (half == 0).mean() > 0.8
    assert found.similarity > 0.9
    place = np.array([20.0, 17.0, 14.0])
    assert np.allclose(found.transform.TransformPoint(list(place)), 2 * (place - middle) + middle, atol=1.5)


def test_the_same_scans_give_the_same_alignment() -> None:
    # Large enough that the metric takes samples, and with texture, so that it matters which.
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(300, 300)), 4).astype(np.float32)
    grid = Grid((250, 250), np.eye(4))
    target = Scan(texture[20:270, 20:270].copy(), grid)
    reference = Scan(ndimage.rotate(texture, 4, reshape=False, order=1)[23:273, 16:266].copy(), grid)
    settings = RegistrationSettings(deformation="none", mirrored=False, turned=False)
    one, other = (register(target, reference, settings) for _ in range(2))
    assert one.transform.GetParameters() == other.transform.GetParameters()


def test_an_upright_scan_is_not_turned() -> None:
    shape = (36, 34, 30)
    target, reference = (Scan(blobs(shape, s), Grid(shape, np.eye(4))) for s in ((0, 0, 0), (3, -2, 1)))
    plain, searched = (
        register(target, reference, RegistrationSettings(deformation="none", turned=t)) for t in (False, True)
    )
    assert np.allclose(plain.moved, searched.moved)


def annotated(target: Reference, reference: Reference) -> float:
    """Mean Dice of what one reference says of the target, over the structures both show."""
    answer = RegistrationReasoner(least_similarity=-1.0).annotate(target.scan, [reference]).labels.array
    there = [n for n in target.labels.labels() if n in reference.labels.labels()]
    return float(np.mean([dice(target.labels.array == n, answer == n) for n in there]))


def part(whole: Reference, columns: slice) -> Reference:
    """A strip of a picture and its labels."""
    array, labels = (a[:, columns].copy() for a in (whole.scan.array, whole.labels.array))
    grid = Grid(array.shape, whole.scan.grid.affine, True, "slice")
    return Reference(Scan(array, grid), LabelMap(labels, grid, whole.labels.names), "part")


def test_a_view_that_looks_like_a_small_part_is_not_taken() -> None:
    reference = as_reference(draw_patient(700_001, "x-ray", size=72))
    target = as_reference(bent(draw_patient(710_001, "x-ray", size=72), scale=2.0))
    assert annotated(target, reference) > 0.5  # 0.00 while a view that lay for the most part beside it was taken


def test_scans_of_other_parts_of_the_body_stay_upright() -> None:
    reference, target = (as_reference(draw_patient(k, "ct", size=72)) for k in (700_020, 710_020))
    assert annotated(part(target, slice(24, None)), part(reference, slice(0, 48))) > 0.4


def test_coverage_is_what_a_view_could_cover() -> None:
    image = itk_image(np.zeros((40, 60), np.float32), (1.0, 1.0))
    view = SimpleITK.AffineTransform(2)
    view.SetCenter((20.0, 30.0))
    assert coverage(image, image, view) == 1
    for matrix in ((2.0, 0, 0, 2.0), (0.5, 0, 0, 0.5), (np.sqrt(0.5), -np.sqrt(0.5), np.sqrt(0.5), np.sqrt(0.5))):
        view.SetMatrix(matrix)
        assert coverage(image, image, view) == 1
    view.SetMatrix((1.0, 0, 0, 1.0))
    view.SetTranslation((0.0, 30.0))
    assert coverage(image, image, view) == pytest.approx(0.5, abs=0.05)
    view.SetTranslation((0.0, 90.0))
    assert coverage(image, image, view) == 0


def test_storage_order_changes_nothing() -> None:
    shape = (30, 26, 22)
    target = blobs(shape, (0, 0, 0))
    reference = Scan(blobs(shape, (3, -2, 1)), Grid(shape, np.diag([1.0, 1.2, 1.5, 1.0])))
    affine = np.diag([1.0, 1.2, 1.5, 1.0])
    first = register(Scan(target, Grid(shape, affine)), reference)
    for order, flip in itertools.product([(2, 0, 1), (1, 0, 2)], [(True, False, True)]):
        stored = target.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flip)]
        turned = np.eye(4)
        turned[:3, :3] = affine[:3, :3][:, list(order)]
        for axis, f in enumerate(flip):
            if f:
                turned[:3, 3] += turned[:3, axis] * (stored.shape[axis] - 1)
                turned[:3, axis] *= -1
        again = register(Scan(np.ascontiguousarray(stored), Grid(stored.shape, turned)), reference)
        assert again.similarity == pytest.approx(first.similarity, abs=1e-6)
        assert np.allclose(again.moved, first.moved, atol=1e-5)


def test_a_mirrored_scan_is_noticed() -> None:
    shape = (40, 36, 24)
    array = blobs(shape, (0, 0, 0))
    reference = Scan(array, Grid(shape, np.eye(4)))
    mirrored = register(Scan(array[::-1].copy(), Grid(shape, np.eye(4))), reference).mirrored_gain
    straight = register(reference, reference).mirrored_gain
    assert mirrored is not None
    assert straight is not None
    assert mirrored > 0.05 > straight


def test_labels_move_with_the_image_and_boxes_agree() -> None:
    shape = (40, 36, 24)
    target, reference = (Scan(blobs(shape, s), Grid(shape, np.eye(4))) for s in ((0, 0, 0), (3, 2, -1)))
    found = register(target, reference)
    mask = canonical(reference.array > 0.5, reference.grid)[0]
    whole = found.move(mask.astype(np.float32))
    part = found.move(mask[10:35, 5:30].astype(np.float32), start=(8, 6, 2), shape=(20, 20, 15), offset=(10, 5, 0))
    assert np.allclose(whole[8:28, 6:26, 2:17], part, atol=1e-4)
    truth = target.array > 0.5
    assert 2 * (truth & (whole > 0.5)).sum() / (truth.sum() + (whole > 0.5).sum()) > 0.85


def test_mutual_information_serves_inverted_contrast() -> None:
    shape = (48, 48)
    target = Scan(blobs(shape, (0, 0)), Grid(shape, np.eye(4)), "MR")
    other = Scan(1 - blobs(shape, (4, -3)), Grid(shape, np.eye(4)), "CT")
    found = register(target, other, RegistrationSettings(deformation="bspline", mirrored=False))
    assert found.similarity < -0.8, "grey values are inverted"
    assert np.allclose(np.array(found.transform.TransformPoint([24.0, 24.0])) - 24, (4, -3), atol=1.5)


def test_local_correlation_is_one_for_equal_images_and_zero_for_flat_ones(rng: np.random.Generator) -> None:
    image = rng.normal(0.5, 0.2, (30, 30)).astype(np.float32)
    assert local_correlation(image, image).min() > 0.95
    assert np.allclose(local_correlation(image, np.full_like(image, 0.5)), 0, atol=1e-3)
    assert local_correlation(image, 1 - image).max() < -0.95


def test_bad_input_is_refused() -> None:
    volume = Scan(blobs((20, 20, 20), (0, 0, 0)), Grid((20, 20, 20), np.eye(4)))
    image = Scan(blobs((20, 20), (0, 0)), Grid((20, 20), np.eye(4)))
    with pytest.raises(GeometryError, match="same kind"):
        register(volume, image)
    with pytest.raises(GeometryError, match="too thin"):
        register(Scan(np.random.default_rng(0).random((20, 20, 3)), Grid((20, 20, 3), np.eye(4))), volume)
    with pytest.raises(InputError, match="one grey value"):
        register(Scan(np.zeros((20, 20)), Grid((20, 20), np.eye(4))), image)
    with pytest.raises(InputError, match="deformation"):
        RegistrationSettings(deformation="magic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1000 voxels"):
        RegistrationSettings(voxels=10)


def test_pictures_of_different_sizes_are_matched_by_their_diagonals() -> None:
    frames = frame_pair(Grid.without_spacing((60, 80)), Grid.without_spacing((30, 40)))
    assert frames[1].spacing[0] == pytest.approx(2 * frames[0].spacing[0])
    sides = [n * s for n, s in zip(frames[0].shape, frames[0].spacing, strict=True)]
    assert np.linalg.norm(sides) == pytest.approx(256)
