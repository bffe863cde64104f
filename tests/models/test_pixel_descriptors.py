"""Descriptors of the pixel classifier: eigenvalues, scales in mm, flips, crops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region
from anatrust.image.volumes import Mask, Scan
from anatrust.models.pixel_classifier import PixelCase, PixelRecipe, train_pixel_classifier
from anatrust.models.pixel_descriptors import PixelDescriptors, symmetric_eigenvalues


def scan_of(image, spacing):
    steps = (*spacing, *(1.0,) * (3 - len(spacing)))
    return Scan(image.astype(np.float32), Grid(image.shape, np.diag([*steps, 1.0])))


@pytest.mark.parametrize("ndim", [2, 3])
@given(data=st.data())
def test_eigenvalues_equal_lapack(ndim, data):
    matrices = data.draw(arrays(np.float64, (5, ndim, ndim), elements=st.floats(-100, 100, allow_subnormal=False)))
    matrices = matrices + matrices.transpose(0, 2, 1)
    entries = {(a, b): matrices[:, a, b] for a in range(ndim) for b in range(a, ndim)}
    found = np.stack(symmetric_eigenvalues(entries, ndim), axis=1)
    assert np.allclose(found, np.linalg.eigvalsh(matrices), atol=1e-4)


def test_eigenvalues_tell_a_blob_from_a_vessel_and_a_sheet():
    x, y, z = np.indices((33, 33, 33)) - 16.0
    shapes = {"blob": x**2 + y**2 + z**2, "vessel": x**2 + y**2, "sheet": x**2}
    middle = {}
    for name, squared in shapes.items():
        image = np.exp(-squared / 18)
        found = PixelDescriptors(scales=(3.0,)).encode(scan_of(image, (1.0, 1.0, 1.0)))
        middle[name] = found[16, 16, 16, 3:]
    # A bright thing bends down along each axis in which it ends.
    for name, ends in (("blob", 3), ("vessel", 2), ("sheet", 1)):
        values = middle[name]
        assert (values < -0.1).sum() == ends
        assert np.abs(values[ends:]).max(initial=0.0) < 0.02


def test_lengths_are_in_mm():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(24, 24, 24))
    fine = np.repeat(image, 2, axis=2)
    encoder = PixelDescriptors(scales=(6.0, 9.0))
    coarse, thin = (encoder.encode(scan_of(i, s)) for i, s in ((image, (2.0, 2.0, 2.0)), (fine, (2.0, 2.0, 1.0))))
    means = coarse[..., 1], thin[..., 1].reshape(24, 24, 24, 2).mean(axis=-1)
    assert np.abs(means[0] - means[1])[6:-6, 6:-6, 6:-6].max() < 0.1 * float(means[0].std())


@pytest.mark.parametrize("shape", [(20, 17), (14, 12, 11)])
def test_flips_change_nothing(shape):
    image = np.random.default_rng(1).normal(size=shape)
    encoder = PixelDescriptors()
    plain = encoder.encode(scan_of(image, (2.0,) * len(shape)))
    assert plain.shape == (*shape, encoder.width(len(shape)))
    flipped = encoder.encode(scan_of(image[::-1], (2.0,) * len(shape)))[::-1]
    assert np.abs(plain - flipped).max() < 1e-4


def test_a_crop_with_the_margin_sees_the_same():
    image = np.random.default_rng(2).normal(size=(60, 60))
    encoder = PixelDescriptors(scales=(1.0, 2.0))
    wide = int(np.ceil(encoder.margin)) + 2
    whole = encoder.encode(scan_of(image, (1.0, 1.0)))
    part = encoder.encode(scan_of(image[10:50, 10:50], (1.0, 1.0)))
    inner = slice(wide, 40 - wide)
    assert np.abs(whole[10:50, 10:50][inner, inner] - part[inner, inner]).max() < 1e-5


def test_impossible_scales_and_recipes_are_refused():
    with pytest.raises(InputError, match="positive length"):
        PixelDescriptors(scales=(1.0, 0.0))
    with pytest.raises(InputError, match="choose scales or local"):
        PixelRecipe(features="deep")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1 voxel"):
        PixelRecipe(least=0)


def test_what_learnt_from_volumes_refuses_images_and_rims_are_known():
    """Brightness that only the rim has is learnt as a rim, not as a lesion."""
    rng = np.random.default_rng(3)
    index = np.indices((40, 40, 40)) - 19.5
    organ = (index**2).sum(axis=0) < 17**2
    core = (index**2).sum(axis=0) < 14.5**2
    lesion = ((index - np.array([5, 0, 0]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 16
    image = rng.normal(0, 1, organ.shape) + 4.0 * (organ & ~core) + 4.0 * lesion
    scan = scan_of(image, (1.0, 1.0, 1.0))
    case = PixelCase(scan, Mask(lesion, scan.grid), Mask(organ, scan.grid))
    model = train_pixel_classifier([case], PixelRecipe(trees=30, least=20))
    other = ((index + np.array([5, 0, 0]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 16
    image = rng.normal(0, 1, organ.shape) + 4.0 * (organ & ~core) + 4.0 * other
    found = model.probabilities(scan_of(image, (1.0, 1.0, 1.0)), Region.whole(organ.shape), case.organ)
    assert found[other].mean() > 0.5
    assert found[organ & ~core].mean() < 0.05
    with pytest.raises(InputError, match="learnt from volumes, the scan is 2-D"):
        model.probabilities(scan_of(image[0], (1.0, 1.0)), Region.whole((40, 40)))
