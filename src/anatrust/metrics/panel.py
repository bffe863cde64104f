"""All metrics of one prediction in one call, with the definitions and the edge-case policy beside the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from anatrust.errors import GeometryError
from anatrust.image.volumes import Mask
from anatrust.metrics.edge_cases import EdgeCases, plain_number
from anatrust.metrics.lesions import LesionMatching, MatchingRule, match_lesions
from anatrust.metrics.overlap import VoxelCounts, count_voxels
from anatrust.metrics.surface import HausdorffDefinition, surface_distances

__all__ = ["MetricPanel", "metric_panel"]


@dataclass(frozen=True)
class MetricPanel:
    """The metrics of one prediction against one truth.

    ``assd``, ``hd95`` and ``surface_tolerance`` are in ``unit`` (``"mm"``, or ``"px"`` where the spacing is unknown),
    ``volume_difference`` in its cube (square in 2-D). ``truth_empty`` and ``prediction_empty``
    tell healthy scans apart: report Dice where the truth is not empty, and the share of empty
    predictions where it is.
    """

    dice: float
    iou: float
    sensitivity: float
    specificity: float
    precision: float
    volume_difference: float
    relative_volume_difference: float
    assd: float
    hd95: float
    hd95_definition: HausdorffDefinition
    unit: str
    counts: VoxelCounts
    lesions: LesionMatching
    edge_cases: EdgeCases
    surface_dice: float = math.nan
    surface_tolerance: float = 2.0

    @property
    def truth_empty(self) -> bool:
        """Whether the truth holds no voxel."""
        return self.counts.truth == 0

    @property
    def prediction_empty(self) -> bool:
        """Whether the prediction holds no voxel."""
        return self.counts.prediction == 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, see :func:`~anatrust.metrics.edge_cases.plain_number`."""
        numbers = {
            "dice": self.dice,
            "iou": self.iou,
            "sensitivity": self.sensitivity,
            "specificity": self.specificity,
            "precision": self.precision,
            "volume_difference": self.volume_difference,
            "relative_volume_difference": self.relative_volume_difference,
            "assd": self.assd,
            "hd95": self.hd95,
            "surface_dice": self.surface_dice,
            "lesion_sensitivity": self.lesions.sensitivity(self.edge_cases),
            "lesion_precision": self.lesions.precision(self.edge_cases),
            "lesion_f1": self.lesions.f1(self.edge_cases),
        }
        plain: dict[str, Any] = {key: plain_number(value) for key, value in numbers.items()}
        plain |= {
            "hd95_definition": self.hd95_definition,
            "surface_tolerance": self.surface_tolerance,
            "unit": self.unit,
            "truth_empty": self.truth_empty,
            "prediction_empty": self.prediction_empty,
            "lesions": self.lesions.to_json(),
            "edge_cases": self.edge_cases.to_json(),
        }
        return plain


def metric_panel(
    truth: Mask,
    prediction: Mask,
    *,
    edge_cases: EdgeCases = EdgeCases(),
    hd95_definition: HausdorffDefinition = "max-directed",
    surface_tolerance: float = 2.0,
    lesion_rule: MatchingRule = "any-overlap",
    lesion_threshold: float = 0.5,
    connectivity: int | None = None,
) -> MetricPanel:
    """Compare a predicted mask with the truth.

    Parameters
    ----------
    truth, prediction
        Masks on the same grid.
    edge_cases
        What is answered when one of them is empty.
    hd95_definition
        See :meth:`~anatrust.metrics.surface.SurfaceDistances.hausdorff`.
    surface_tolerance
        Of the surface Dice, in the unit of the spacing; choose what two readers differ by.
    lesion_rule, lesion_threshold, connectivity
        See :func:`~anatrust.metrics.lesions.match_lesions`.

    Returns
    -------
    MetricPanel

    Raises
    ------
    GeometryError
        If the masks lie on different grids.
    InputError
        If a definition or rule is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((8, 8, 8), np.diag([1.0, 1.0, 2.0, 1.0]))
    >>> box = np.zeros(grid.shape, bool)
    >>> box[2:6, 2:6, 2:6] = True
    >>> panel = metric_panel(Mask(box, grid), Mask(np.roll(box, 1, axis=2), grid))
    >>> panel.dice, panel.hd95, panel.unit, panel.lesions.found
    (0.75, 2.0, 'mm', 1)
    """
    if not truth.grid.same_as(prediction.grid):
        raise GeometryError(f"truth lies on {truth.grid}, prediction on {prediction.grid}: resample one to the other")
    counts = count_voxels(truth.array, prediction.array)
    distances = surface_distances(truth.array, prediction.array, spacing=truth.grid.spacing)
    return MetricPanel(
        dice=counts.dice(edge_cases),
        iou=counts.iou(edge_cases),
        sensitivity=counts.sensitivity(edge_cases),
        specificity=counts.specificity(edge_cases),
        precision=counts.precision(edge_cases),
        volume_difference=(counts.prediction - counts.truth) * truth.grid.voxel_volume,
        relative_volume_difference=counts.relative_volume_difference(edge_cases),
        assd=distances.assd(edge_cases),
        hd95=distances.hausdorff(95.0, hd95_definition, edge_cases),
        hd95_definition=hd95_definition,
        unit=truth.grid.unit,
        counts=counts,
        lesions=match_lesions(
            truth.array, prediction.array, rule=lesion_rule, threshold=lesion_threshold, connectivity=connectivity
        ),
        edge_cases=edge_cases,
        surface_dice=distances.surface_dice(surface_tolerance, edge_cases),
        surface_tolerance=surface_tolerance,
    )
