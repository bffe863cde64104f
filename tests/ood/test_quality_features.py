"""Image quality of the whole frame: each fault moves the numbers that are named after it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.ood import QualityFeatures

SHAPES = ((48, 40), (24, 20, 16))


def scan(array: np.ndarray, modality: str | None = None) -> Scan:
    return Scan(array.astype(np.float32), Grid(array.shape, np.eye(4)), modality)  # type: ignore[arg-type]


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Tissue-like: smooth structure and a little noise."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
    return np.asarray(100 + 20 * field / field.std() + rng.standard_normal(shape))


def split(values: np.ndarray, ndim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of differences (axes, lags) and of noise, and grey values."""
    return values[: 3 * ndim].reshape(ndim, 3), values[3 * ndim : 3 * ndim + 4], values[3 * ndim + 4 :]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_levels_name_all_columns_and_units_do_not_matter(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    image = smooth(rng, shape)
    found = QualityFeatures().of(scan(image), identifier="a")
    assert found.levels == QualityFeatures().levels(len(shape))
    assert found.values.shape == (1, 3 * len(shape) + 9)
    other = QualityFeatures().of(scan(7.5 * image + 300), identifier="a")
    np.testing.assert_allclose(found.values, other.values, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_median_second_difference_is_the_deviation_of_white_noise(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    image = rng.standard_normal((200, 200) if len(shape) == 2 else (50, 40, 40))
    noise = split(QualityFeatures().of(scan(image), identifier="a").values[0], len(shape))[1]
    # Clipping at 0.5 and 99.5 % changes the deviation a little; 0.6745 is the median of |N(0, 1)|.
    assert np.exp(noise[1]) == pytest.approx(0.6745, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_blur_and_thick_slices_move_their_own_numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    image = smooth(rng, shape)

    def of(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return split(QualityFeatures().of(scan(array), identifier="a").values[0], len(shape))

    steps, noise, _ = of(image)
    noisy, blurred = of(image + 10 * rng.standard_normal(shape)), of(ndimage.gaussian_filter(image, 1.0))
    assert (noisy[1] > noise + 0.5).all()
    assert (noisy[0][:, 0] > steps[:, 0] + 0.3).all()
    assert (blurred[1] < noise - 0.5).all()
    # Neighbours grow alike sooner than voxels four apart.
    assert ((blurred[0] - steps)[:, 0] < (blurred[0] - steps)[:, 2]).all()
    thick = of(ndimage.uniform_filter1d(image, 5, axis=0))[0] - steps
    assert thick[0, 0] < thick[1:, 0].min() - 0.2


def test_another_curve_moves_the_grey_values_and_ct_keeps_its_units(rng: np.random.Generator) -> None:
    image = np.abs(smooth(rng, (40, 40)))
    plain, curved = (split(QualityFeatures().of(scan(v), identifier="a").values[0], 2)[2] for v in (image, image**3))
    assert curved[2] < plain[2] - 0.05
    one, other = (QualityFeatures().of(scan(image + v, "CT"), identifier="a").values[0] for v in (0, 100))
    assert other[-3] - one[-3] == pytest.approx(100 / 800, abs=1e-3)


def test_single_slices_and_constant_scans_give_finite_numbers() -> None:
    for array in (np.zeros((5, 6)), np.arange(30.0).reshape(5, 6, 1), np.zeros((2, 2))):
        assert np.isfinite(QualityFeatures().of(scan(array), identifier="a").values).all()
