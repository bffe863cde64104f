"""The phantom must look like a patient to a statistician: volumes, HU, noise, exchangeable seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.studies.lesions import LesionSpec, free_centres, lesion_profile, plant_lesion
from anatrust.studies.phantom import Phantom, phantom_scan
from anatrust.studies.phantom_vessels import bare_liver, is_vessel, vessels_of
from anatrust.studies.textures import texture_field
from anatrust.studies.tissues import phantom_organ


@pytest.fixture(scope="module")
def patients() -> list[Phantom]:
    return [phantom_scan(seed, lesions=0, quick=True) for seed in range(4)]


def test_the_same_seed_gives_the_same_patient(patients: list[Phantom]) -> None:
    again = phantom_scan(0, lesions=0, quick=True)
    np.testing.assert_array_equal(again.scan.array, patients[0].scan.array)
    np.testing.assert_array_equal(again.anatomy.array, patients[0].anatomy.array)
    assert not np.array_equal(patients[1].scan.array, patients[0].scan.array)


def test_lesions_change_nothing_outside_themselves(patients: list[Phantom]) -> None:
    ill = phantom_scan(0, lesions=2, quick=True)
    np.testing.assert_array_equal(ill.anatomy.array, patients[0].anatomy.array)
    near = ndimage.binary_dilation(ill.truth.array > 0, iterations=4)
    np.testing.assert_array_equal(ill.scan.array[~near], patients[0].scan.array[~near])
    assert len(ill.lesions) == 2
    assert ill.truth.labels() == (1, 2)
    assert patients[0].truth.labels() == ()


@pytest.mark.parametrize(
    ("organ", "least", "most"),
    [
        ("liver", 700, 2600),
        ("spleen", 60, 450),
        ("kidney_left", 50, 320),
        ("kidney_right", 50, 320),
        ("pancreas", 15, 150),
        ("aorta", 15, 120),
        ("stomach", 60, 500),
    ],
)
def test_organ_volumes_are_plausible(patients: list[Phantom], organ: str, least: float, most: float) -> None:
    volumes = [p.anatomy.mask(organ).volume / 1000 for p in patients]
    assert all(least < v < most for v in volumes), volumes
    assert np.std(volumes) > 0.01 * np.mean(volumes), "patients differ"


@pytest.mark.parametrize(
    ("organ", "low", "high"),
    [
        ("liver", 85, 130),
        ("spleen", 95, 140),
        ("kidney_left", 105, 195),
        ("aorta", 135, 180),
        ("gallbladder", -10, 45),
        ("autochthon_left", 30, 75),
    ],
)
def test_levels_are_in_the_range_of_a_portal_venous_scan(
    patients: list[Phantom], organ: str, low: float, high: float
) -> None:
    for p in patients:
        core = ndimage.binary_erosion(p.anatomy.mask(organ).array)
        assert core.sum() > 5
        assert low < float(np.median(p.scan.array[core])) < high


def test_air_fat_and_bone_are_where_they_belong(patients: list[Phantom]) -> None:
    for p in patients:
        assert p.scan.array.dtype == np.int16
        assert float(np.median(p.scan.array[0])) < -950
        bone = p.scan.array[p.anatomy.mask("vertebrae_L1").array]
        assert 120 < np.median(bone) < 350
        share_fat = np.mean((p.scan.array > -140) & (p.scan.array < -60))
        assert 0.04 < share_fat < 0.5


def test_noise_is_correlated_in_plane_as_after_filtered_back_projection(patients: list[Phantom]) -> None:
    p = patients[0]
    core = ndimage.binary_erosion(p.anatomy.mask("spleen").array)
    values = np.where(core, p.scan.array - p.scan.array[core].mean(), np.nan)
    inside = values[core]
    assert 6 < inside.std() < 22
    lag = np.nanmean(values[1:] * values[:-1]) / inside.var()
    assert 0.03 < lag < 0.8, "neighbours correlate, so pixels are not exchangeable"


def test_a_planted_lesion_has_the_size_and_contrast_asked_for() -> None:
    spec = LesionSpec("liver", 24.0, -3.0)
    with_lesion = phantom_scan(3, lesions=[spec])
    without = phantom_scan(3, lesions=0)
    mask = with_lesion.truth.array == 1
    volume = mask.sum() * 27
    assert 0.6 < volume / (4 / 3 * np.pi * 12**3) < 1.4
    liver = with_lesion.anatomy.mask("liver").array
    shift = (with_lesion.scan.array[mask].astype(float) - without.scan.array[mask]).mean()
    assert shift / without.scan.array[liver].std() == pytest.approx(-3.0, abs=0.1)


def test_impossible_lesions_are_refused() -> None:
    with pytest.raises(InputError, match="has no 'heart'"):
        phantom_scan(0, lesions=[LesionSpec("heart", 10, 1)], quick=True)
    with pytest.raises(InputError, match="no place for a lesion"):
        phantom_scan(0, lesions=[LesionSpec("aorta", 80, 1)], quick=True)
    with pytest.raises(InputError, match="diameter"):
        lesion_profile((8, 8), (4, 4), 0.0, (1, 1), np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["gaussian", "exponential"])
@pytest.mark.parametrize("length", [2.0, 6.0])
def test_texture_correlation_falls_to_one_over_e_at_its_length(kind: str, length: float) -> None:
    fields = [texture_field((160, 160), length, np.random.default_rng(s), kind=kind) for s in range(12)]  # type: ignore[arg-type]
    step = int(length)
    lagged = np.mean([np.mean(f[step:] * f[:-step]) for f in fields])
    assert abs(np.mean([f.var() for f in fields]) - 1) < 0.1
    assert abs(lagged - np.exp(-1)) < 0.08


def test_texture_is_anisotropic_in_voxels_when_the_voxels_are() -> None:
    field = texture_field((200, 60), 8.0, np.random.default_rng(1), spacing=(1.0, 4.0))
    along, across = np.mean(field[2:] * field[:-2]), np.mean(field[:, 2:] * field[:, :-2])
    assert along > 0.8
    assert abs(across - np.exp(-1)) < 0.2


def test_ct_noise_lacks_the_lowest_frequencies() -> None:
    field = texture_field((128, 128), 2.0, np.random.default_rng(2), kind="ct")
    power = np.abs(np.fft.fft2(field)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij"))
    peak = power[(radius > 0.06) & (radius < 0.1)].mean()
    assert power[(radius > 0) & (radius < 0.015)].mean() < 0.4 * peak
    assert power[radius > 0.4].mean() < 0.2 * peak


def test_mixture_keeps_variance_one() -> None:
    field = texture_field((200, 200), 3.0, np.random.default_rng(3), kind="mixture", white_share=0.4)
    assert abs(field.var() - 1) < 0.1
    assert abs(np.mean(field[1:] * field[:-1]) - 0.6 * np.exp(-1 / 9)) < 0.08


def test_bad_textures_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="correlation_length"):
        texture_field((4, 4), 0.0, rng)
    with pytest.raises(InputError, match="spacing has 1"):
        texture_field((4, 4), 1.0, rng, spacing=(1.0,))
    with pytest.raises(InputError, match="unknown texture kind"):
        texture_field((4, 4), 1.0, rng, kind="wood")  # type: ignore[arg-type]


def test_a_lesion_off_the_image_leaves_no_trace() -> None:
    image = np.zeros((10, 10))
    planted, truth = plant_lesion(image, (500, 500), 4.0, 5.0, (1, 1), np.random.default_rng(0))
    assert not truth.any()
    np.testing.assert_array_equal(planted, image)


def test_free_centres_fit_and_avoid_what_is_taken() -> None:
    organ = np.zeros((30, 30), dtype=bool)
    organ[5:25, 5:25] = True
    taken = np.zeros_like(organ)
    taken[5:15] = True
    centres = free_centres(organ, 6.0, (1.0, 1.0), taken)
    assert len(centres)
    assert centres[:, 0].min() >= 15 + 2
    assert centres[:, 0].max() <= 24 - 2


def test_vessels_are_what_the_bare_liver_lacks() -> None:
    sample, vessels, bare = phantom_organ(15_003, "liver"), vessels_of(15_003), bare_liver(15_003)
    assert np.array_equal(sample.domain, bare.domain)
    assert not (vessels & ~sample.domain).any()
    assert 0.005 < vessels.sum() / sample.domain.sum() < 0.06
    removed = sample.image - bare.image
    assert removed.min() == 0
    assert removed[vessels].min() >= 14
    # Only what the phantom paints as vessels is taken out: the noise stays as it is.
    beside = sample.domain & ~vessels
    before, after = (s.image[vessels].mean() - s.image[beside].mean() for s in (sample, bare))
    assert abs(after) < 4 < 15 < before
    assert np.median(removed[beside]) == 0


def test_a_candidate_is_a_vessel_if_a_quarter_of_it_is() -> None:
    vessels = np.arange(16).reshape(4, 4) < 4
    assert is_vessel(np.ones((4, 4), dtype=bool), vessels)
    assert not is_vessel(np.arange(16).reshape(4, 4) > 0, vessels)
