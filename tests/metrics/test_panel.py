"""The panel holds what the single metrics say, and can be written as strict JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anatrust.errors import GeometryError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask
from anatrust.metrics import EdgeCases, assd, dice, hd95, iou, match_lesions, metric_panel, precision, specificity

GRID = Grid((20, 24, 10), np.diag([0.8, 1.0, 2.5, 1.0]))


@pytest.fixture
def masks(rng: np.random.Generator) -> tuple[Mask, Mask]:
    truth, prediction = np.zeros((2, *GRID.shape), bool)
    truth[4:12, 5:14, 2:7] = prediction[6:14, 5:12, 2:8] = True
    truth[16:18, 20:22, 8] = prediction[1, 1, 1] = True
    return Mask(truth, GRID), Mask(prediction, GRID)


def test_panel_equals_the_single_metrics(masks: tuple[Mask, Mask]) -> None:
    truth, prediction = (m.array for m in masks)
    panel = metric_panel(*masks, hd95_definition="pooled", lesion_rule="iou", lesion_threshold=0.3)
    assert panel.dice == dice(truth, prediction)
    assert panel.iou == iou(truth, prediction)
    assert panel.precision == precision(truth, prediction)
    assert panel.specificity == specificity(truth, prediction)
    assert panel.sensitivity == (truth & prediction).sum() / truth.sum()
    assert panel.assd == assd(truth, prediction, spacing=GRID.spacing)
    assert panel.hd95 == hd95(truth, prediction, spacing=GRID.spacing, definition="pooled")
    assert panel.volume_difference == pytest.approx(masks[1].volume - masks[0].volume)
    assert panel.relative_volume_difference == pytest.approx(masks[1].volume / masks[0].volume - 1)
    assert panel.lesions == match_lesions(truth, prediction, rule="iou", threshold=0.3)
    assert (panel.unit, panel.truth_empty, panel.prediction_empty) == ("mm", False, False)


def test_panel_is_strict_json(masks: tuple[Mask, Mask]) -> None:
    plain = metric_panel(*masks).to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["hd95_definition"] == "max-directed"
    assert plain["edge_cases"] == EdgeCases().to_json()
    nothing = Mask(np.zeros(GRID.shape, bool), GRID)
    empty = metric_panel(nothing, masks[1]).to_json()
    json.dumps(empty, allow_nan=False)
    assert (empty["dice"], empty["sensitivity"], empty["assd"]) == (0.0, None, "inf")
    assert (empty["truth_empty"], empty["prediction_empty"]) == (True, False)
    healthy = metric_panel(nothing, nothing)
    assert (healthy.dice, healthy.hd95, healthy.prediction_empty) == (1.0, 0.0, True)


def test_two_dimensions_without_spacing() -> None:
    grid = Grid.without_spacing((8, 9))
    array = np.zeros(grid.shape, bool)
    array[2:5, 2:5] = True
    panel = metric_panel(Mask(array, grid), Mask(np.roll(array, 2, axis=1), grid))
    assert (panel.unit, panel.volume_difference) == ("px", 0.0)


def test_another_grid_is_refused(masks: tuple[Mask, Mask]) -> None:
    other = Grid(GRID.shape, np.diag([1.0, 1.0, 2.5, 1.0]))
    with pytest.raises(GeometryError, match="resample one"):
        metric_panel(masks[0], Mask(masks[1].array, other))
