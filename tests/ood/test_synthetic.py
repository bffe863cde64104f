"""Made-up strange scans: each kind does what it says, grows with its strength, and knows no storage order or clock."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.ood import SHIFTS, SYNTHETIC_OUTLIERS, shifted


def patient(shape: tuple[int, ...] = (24, 28, 20)) -> tuple[Scan, LabelMap]:
    rng = np.random.default_rng(5)
    tissue = 100 + 30 * ndimage.gaussian_filter(rng.normal(size=shape), 2) * 5
    grid = Grid(shape, np.diag([1.0, 1.0, 2.0, 1.0]))
    marks = np.zeros(shape, np.uint8)
    marks[tuple(slice(n // 3, 2 * n // 3) for n in shape)] = 1
    return Scan(tissue.astype(np.float32), grid, modality="MR"), LabelMap(marks, grid)


def change(kind: str, strength: float, shape: tuple[int, ...] = (24, 28, 20), seed: int = 0) -> float:
    scan, labels = patient(shape)
    return float(np.abs(shifted(scan, labels, kind, strength, seed=seed)[0].array - scan.array).mean())


@pytest.mark.parametrize("kind", [k for k in SHIFTS if k != "flip"])
@pytest.mark.parametrize("shape", [(24, 28, 20), (30, 26)])
def test_strength_zero_changes_nothing_and_more_changes_more(kind: str, shape: tuple[int, ...]) -> None:
    small, large = {"thick": (3.0, 9.0), "blur": (0.7, 3.0)}.get(kind, (0.1, 0.7))
    if kind.startswith("lesion"):
        small, large = 3.0, 9.0
    assert change(kind, 0.0, shape) == 0
    assert 0 < change(kind, small, shape) < change(kind, large, shape)


@pytest.mark.parametrize("kind", SHIFTS)
def test_the_same_scan_and_seed_give_the_same_shift(kind: str) -> None:
    scan, labels = patient()
    one, two = (shifted(scan, labels, kind, 0.5, seed=4)[0].array for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert np.isfinite(one).all()


def test_noise_and_gain_are_as_strong_as_said() -> None:
    scan, labels = patient((40, 40, 40))
    flat = Scan(np.where(labels.array > 0, 100.0, 40.0).astype(np.float32), scan.grid)
    noisy = shifted(flat, labels, "noise", 0.05)[0].array
    assert np.std(noisy[labels.array > 0]) == pytest.approx(0.05 * 60, rel=0.1)
    gain = shifted(flat, labels, "bias", 0.3)[0].array[labels.array > 0]
    assert np.exp(-0.3) * 60 + 40 - 1e-3 <= gain.min() < gain.max() <= np.exp(0.3) * 60 + 40 + 1e-3


def test_ghosts_lie_a_quarter_of_the_field_away() -> None:
    scan = Scan(np.zeros((32, 32), np.float32), Grid((32, 32), np.eye(4)))
    array = np.zeros((32, 32), np.float32)
    array[12:16, 12:16] = 1.0
    scan = Scan(array, scan.grid)
    ghosted = shifted(scan, LabelMap((array > 0).astype(np.uint8), scan.grid), "ghosting", 0.5)[0].array - array
    assert max(ghosted[20:24, 12:16].max(), ghosted[12:16, 20:24].max()) > 0.05


def test_thick_slices_leave_no_detail_along_their_axis() -> None:
    scan, labels = patient()
    thick = shifted(scan, labels, "thick", 12.0)[0].array
    across, along = (np.abs(np.diff(a, 2, axis=2)).mean() for a in (scan.array, thick))
    assert along < 0.5 * across


def test_flips_take_the_marks_along_and_lesions_lie_at_them() -> None:
    scan, labels = patient()
    turned, marks = shifted(scan, labels, "flip", 1.0)
    assert np.sort(turned.array[marks.array > 0]).tolist() == np.sort(scan.array[labels.array > 0]).tolist()
    assert not np.array_equal(turned.array, scan.array)
    ill, same = shifted(scan, labels, "lesion", 8.0)
    grown = np.argwhere(np.abs(ill.array - scan.array) > 20)
    near = ndimage.distance_transform_edt(labels.array == 0, sampling=scan.grid.spacing)
    assert len(grown) > 10
    assert near[tuple(grown.T)].max() <= 5.5
    assert same is labels
    empty = LabelMap(np.zeros_like(labels.array), labels.grid)
    np.testing.assert_allclose(shifted(scan, empty, "lesion", 8.0)[0].array, scan.array, rtol=1e-5)


def test_lesions_like_their_surroundings_stay_within_their_grey_values() -> None:
    scan, labels = patient()
    ramp = Scan((50 + 3.0 * np.indices(scan.array.shape)[0]).astype(np.float32), scan.grid)
    changed = {kind: shifted(ramp, labels, kind, 8.0)[0].array for kind in ("lesion", "lesion-grey", "lesion-dark")}
    low, high = float(ramp.array.min()), float(ramp.array.max())
    assert changed["lesion"].max() > high + 0.05 * (high - low)
    for kind, sign in (("lesion-grey", 1), ("lesion-dark", -1)):
        moved = np.abs(changed[kind] - ramp.array) > 0.3 * (high - low) * 0.3
        core = changed[kind][moved]
        assert low - 0.2 * (high - low) < core.mean() < high
        # The bright one raises the dark side of the ramp, the dark one lowers the bright side.
        assert sign * (changed[kind] - ramp.array)[moved].mean() > 0


def test_what_is_impossible_is_refused() -> None:
    scan, labels = patient()
    with pytest.raises(InputError, match="no shift"):
        shifted(scan, labels, "magic", 1.0)
    with pytest.raises(InputError, match="strength"):
        shifted(scan, labels, "noise", -1.0)
    with pytest.raises(GeometryError):
        shifted(scan, LabelMap(labels.array, Grid(labels.array.shape, np.eye(4))), "noise", 1.0)
    assert set(SYNTHETIC_OUTLIERS) <= set(SHIFTS)
