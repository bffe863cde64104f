"""Logit scores against scipy, and what cannot be scored."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.ood.crops import Crops, CropSettings, anchored_crops
from anatrust.ood.logit_scores import crop_boxes, logit_map, pooled_score, roi_scores


def test_equals_scipy(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(3, 5, 6)) * 50  # large: exp must not overflow
    share = softmax(logits, axis=0)
    np.testing.assert_allclose(logit_map(logits, "msp"), -share.max(axis=0))
    np.testing.assert_allclose(logit_map(logits, "maxlogit"), -logits.max(axis=0))
    np.testing.assert_allclose(logit_map(logits, "energy"), -logsumexp(logits, axis=0))
    np.testing.assert_allclose(logit_map(logits, "entropy"), entropy(share, axis=0), atol=1e-12)
    for score in ("msp", "entropy"):
        found = logit_map(share, score, kind="probabilities")  # type: ignore[arg-type]
        np.testing.assert_allclose(found, logit_map(logits, score), atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("score", ["msp", "maxlogit", "energy", "entropy"])
def test_unsure_is_stranger(score: str) -> None:
    sure, unsure = logit_map(np.array([[9.0, 0.1], [0.0, 0.0]]), score)  # type: ignore[arg-type]
    assert unsure > sure


def test_poolings(rng: np.random.Generator) -> None:
    values, mask = rng.normal(size=(6, 7)), rng.random((6, 7)) > 0.5
    marked = values[mask]
    expected = {
        "mean": marked.mean(),
        "max": marked.max(),
        "p95": np.percentile(marked, 95),
        "median": np.median(marked),
    }
    for pooling, value in expected.items():
        assert pooled_score(values, mask, pooling) == pytest.approx(value)  # type: ignore[arg-type]


def test_crops_find_their_voxels_on_the_outputs_grid(rng: np.random.Generator) -> None:
    grid = Grid((60, 50, 20), np.diag([-0.8, 0.8, 3.0, 1.0]))
    mask = np.zeros(grid.shape, bool)
    mask[5:8, 40:44, 3:5] = mask[50:55, 4:8, 15:18] = True
    scan = Scan(rng.random(grid.shape).astype(np.float32), grid, identifier="a")
    crops = anchored_crops(scan, Mask(mask, grid), CropSettings(edge=32))
    assert isinstance(crops, Crops)
    boxes = crop_boxes(crops.grids, grid)
    for box, crop in zip(boxes, crops.grids, strict=True):
        voxels = np.argwhere(np.ones(grid.shape, bool))
        index = crop.to_index(grid.to_world(voxels))
        inside = ((index >= -0.5) & (index < np.array(crop.shape) - 0.5)).all(axis=1)
        expected = voxels[inside]
        assert [(s.start, s.stop) for s in box] == list(
            zip(expected.min(axis=0).tolist(), (expected.max(axis=0) + 1).tolist(), strict=True)
        )
    values = rng.normal(size=grid.shape)
    found = roi_scores(values, mask, boxes, least_voxels=5)
    np.testing.assert_allclose(found, [values[b][mask[b]].mean() for b in boxes if mask[b].sum() >= 5])


@pytest.mark.parametrize(
    "call",
    [
        lambda: logit_map(np.ones((2, 3)), "odin"),  # type: ignore[arg-type]
        lambda: logit_map(np.ones((1, 3)), "msp"),
        lambda: logit_map(np.full((2, 3), np.nan), "msp"),
        lambda: logit_map(np.full((2, 3), 0.5), "energy", kind="probabilities"),
        lambda: logit_map(np.full((2, 3), 0.7), "msp", kind="probabilities"),
        lambda: pooled_score(np.ones(3), np.zeros(3, bool)),
        lambda: pooled_score(np.ones(3), np.ones(4, bool)),
        lambda: pooled_score(np.ones(3), np.ones(3, bool), "min"),  # type: ignore[arg-type]
        lambda: roi_scores(np.ones(3), np.ones(4, bool), [(slice(0, 2),)]),
        lambda: roi_scores(np.ones(30), np.ones(30, bool), [(slice(0, 9),)]),
    ],
)
def test_bad_input_is_one_line(call: object) -> None:
    with pytest.raises(InputError) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)
