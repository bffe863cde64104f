"""Surface distances: analytic cases, MONAI and surface-distance as oracles, both engines, edge cases."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import binary_erosion

from anatrust.errors import GeometryError, InputError
from anatrust.metrics import EdgeCases, SurfaceDistances, assd, dice, hd95, surface_distances, surface_voxels

# MONAI warns about an argument it passes to itself.
pytestmark = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")

ORACLE = json.loads((Path(__file__).parent / "surface_distance.json").read_text(encoding="utf-8"))["cases"]

shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7)
pairs = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))
steps = st.lists(st.floats(0.2, 5), min_size=3, max_size=3)


def onehot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask[None, None].astype(np.float32))


def brute_force(source: np.ndarray, target: np.ndarray, step: np.ndarray) -> np.ndarray:
    a, b = np.argwhere(surface_voxels(source)) * step, np.argwhere(surface_voxels(target)) * step
    return np.sort(np.linalg.norm(a[:, None] - b[None], axis=-1).min(axis=1))


@given(hnp.arrays(bool, shapes))
def test_the_surface_is_what_erosion_takes_away(mask: np.ndarray) -> None:
    before = mask.copy()
    assert np.array_equal(surface_voxels(mask), mask & ~binary_erosion(mask))
    assert np.array_equal(mask, before)


@given(pairs, steps)
@settings(deadline=None)
def test_engines_equal_brute_force(masks: tuple[np.ndarray, np.ndarray], spacing: list[float]) -> None:
    truth, prediction = masks
    step = np.array(spacing[: truth.ndim])
    for engine in ("auto", "tree", "transform"):
        found = surface_distances(truth, prediction, spacing=step, engine=engine, workers=1)
        if truth.any() and prediction.any():
            np.testing.assert_allclose(
                np.sort(found.truth_to_prediction), brute_force(truth, prediction, step), atol=1e-9
            )
            np.testing.assert_allclose(
                np.sort(found.prediction_to_truth), brute_force(prediction, truth, step), atol=1e-9
            )
        else:
            assert found.truth_to_prediction.size == surface_voxels(truth).sum()
            assert np.isinf(found.prediction_to_truth).all()


@given(pairs, steps)
@settings(deadline=None, max_examples=60)
def test_monai_agrees(masks: tuple[np.ndarray, np.ndarray], spacing: list[float]) -> None:
    truth, prediction = (m.copy() for m in masks)
    truth.flat[0] = prediction.flat[-1] = True
    step = spacing[: truth.ndim]
    theirs = float(compute_average_surface_distance(onehot(prediction), onehot(truth), True, True, spacing=step))
    assert assd(truth, prediction, spacing=step) == pytest.approx(theirs, rel=1e-5)
    theirs = float(compute_hausdorff_distance(onehot(prediction), onehot(truth), True, percentile=95, spacing=step))
    # MONAI interpolates its quantile in single precision, which near 0 loses digits that a relative bound counts.
    assert hd95(truth, prediction, spacing=step) == pytest.approx(theirs, rel=1e-5, abs=5e-6)


@given(pairs, st.floats(0, 100))
@settings(deadline=None)
def test_symmetric_and_ordered(masks: tuple[np.ndarray, np.ndarray], percentile: float) -> None:
    truth, prediction = (m.copy() for m in masks)
    truth.flat[0] = prediction.flat[-1] = True
    there, back = surface_distances(truth, prediction), surface_distances(prediction, truth)
    assert there.assd() == pytest.approx(back.assd())
    for definition in ("pooled", "max-directed"):
        value = there.hausdorff(percentile, definition)
        assert value == pytest.approx(back.hausdorff(percentile, definition))
        assert value <= there.hausdorff(100, definition) + 1e-12
    assert there.hausdorff(100, "pooled") == there.hausdorff(100, "max-directed")
    assert surface_distances(truth, truth).hausdorff(100) == 0


def test_a_shifted_plate() -> None:
    """Two plates one voxel thick, 3 voxels of 2 mm apart: every distance is 6 mm."""
    truth, prediction = np.zeros((2, 12, 6, 6), bool)
    truth[3], prediction[6] = True, True
    spacing = (2.0, 1.0, 1.0)
    assert assd(truth, prediction, spacing=spacing) == 6.0
    assert hd95(truth, prediction, spacing=spacing) == 6.0
    assert hd95(truth, prediction, spacing=spacing, definition="pooled") == 6.0


def test_the_two_definitions_of_hd95_differ() -> None:
    """One direction is far for one voxel in ten, the other is large and close: pooling dilutes the far ones."""
    far, close = np.array([0.0] * 9 + [10.0]), np.zeros(1000)
    distances = SurfaceDistances(far, close)
    assert distances.hausdorff(95, "max-directed") == pytest.approx(5.5)
    assert distances.hausdorff(95, "pooled") == 0.0


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_surface_distance_is_near(name: str) -> None:
    """It weighs surface elements by area and places them between voxels: at most a voxel apart."""
    case = ORACLE[name]
    truth, prediction = (draw(case["shape"], case["spacing"], case[side]) for side in ("truth", "prediction"))
    assert [truth.sum(), prediction.sum()] == case["voxels"]
    assert dice(truth, prediction) == pytest.approx(case["dice"])
    found = surface_distances(truth, prediction, spacing=case["spacing"])
    averages = [found.truth_to_prediction.mean(), found.prediction_to_truth.mean()]
    np.testing.assert_allclose(averages, case["average_distances"], atol=0.5 * max(case["spacing"]), rtol=0.06)
    assert found.hausdorff() == pytest.approx(case["hd95"], abs=max(case["spacing"]))


def draw(shape: list[int], spacing: list[float], parts: dict[str, list]) -> np.ndarray:
    """The same drawing as in oracles/surface_distance_values.py; the voxel counts prove it."""
    mask = np.zeros(shape, bool)
    for box in parts.get("boxes", []):
        mask[tuple(slice(*edge) for edge in box)] = True
    grid = np.indices(shape)
    for centre, radius in parts.get("balls", []):
        mask |= sum(((grid[i] - c) * spacing[i]) ** 2 for i, c in enumerate(centre)) <= radius**2
    return mask


def test_real_spine_masks(shared_data: Path) -> None:
    folder = shared_data / "spine_mask_pairs" / "examples" / "spine_seg" / "semantic"
    images = [nibabel.load(folder / f"{name}.nii.gz") for name in ("ref", "pred")]
    truth, prediction = (np.asarray(i.dataobj) for i in images)
    spacing = [float(v) for v in images[0].header.get_zooms()]
    for label in (41, 49):
        a, b = truth == label, prediction == label
        by_tree = surface_distances(a, b, spacing=spacing, engine="tree")
        by_transform = surface_distances(a, b, spacing=spacing, engine="transform")
        assert by_tree.assd() == pytest.approx(by_transform.assd(), rel=1e-9)
        theirs = float(compute_average_surface_distance(onehot(b), onehot(a), True, True, spacing=spacing))
        assert by_tree.assd() == pytest.approx(theirs, rel=1e-5)
        theirs = float(compute_hausdorff_distance(onehot(b), onehot(a), True, percentile=95, spacing=spacing))
        assert by_tree.hausdorff() == pytest.approx(theirs, rel=1e-5)


def test_the_policy_answers_for_missing_surfaces() -> None:
    nothing, something = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    assert assd(nothing, nothing) == hd95(nothing, nothing) == 0
    assert assd(nothing, something) == hd95(something, nothing) == math.inf
    policy = EdgeCases(distance_both_empty=7, distance_one_empty=9)
    assert assd(nothing, nothing, edge_cases=policy) == 7
    assert hd95(nothing, something, edge_cases=policy) == 9
    assert math.isnan(assd(nothing, something, edge_cases=EdgeCases.undefined()))


def test_bad_arguments_are_refused() -> None:
    mask = np.eye(3, dtype=bool)
    with pytest.raises(InputError, match="2 positive lengths"):
        assd(mask, mask, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="2 positive lengths"):
        assd(mask, mask, spacing=(1.0, 0.0))
    with pytest.raises(InputError, match="engine 'fast'"):
        surface_distances(mask, mask, engine="fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="HD95 definition 'mean'"):
        hd95(mask, mask, definition="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="percentile is 101"):
        surface_distances(mask, mask).hausdorff(101)
    with pytest.raises(GeometryError, match="differ in shape"):
        assd(mask, np.eye(4, dtype=bool))
