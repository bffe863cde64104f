"""Voxel counts of two masks and the overlap metrics that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.metrics.edge_cases import EdgeCases

__all__ = [
    "VoxelCounts",
    "count_voxels",
    "dice",
    "iou",
    "precision",
    "relative_volume_difference",
    "sensitivity",
    "specificity",
    "volume_difference",
]

# Blocks that stay in the cache: the conjunction is never written to memory.
_BLOCK = 1 << 17


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels in truth and prediction (``true_positive``), in one of them, or in neither."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def truth(self) -> int:
        """Voxels of the truth."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.true_positive + self.false_positive

    def dice(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """2 TP / (truth + prediction)."""
        total = self.truth + self.prediction
        return 2 * self.true_positive / total if total else edge_cases.overlap_both_empty

    def iou(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """TP / (truth or prediction), the Jaccard index."""
        union = self.truth + self.false_positive
        return self.true_positive / union if union else edge_cases.overlap_both_empty

    def sensitivity(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """TP / truth, the recall."""
        return self.true_positive / self.truth if self.truth else edge_cases.rate_undefined

    def specificity(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """TN / background of the truth."""
        background = self.true_negative + self.false_positive
        return self.true_negative / background if background else edge_cases.rate_undefined

    def precision(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """TP / prediction."""
        return self.true_positive / self.prediction if self.prediction else edge_cases.rate_undefined

    def relative_volume_difference(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """(prediction − truth) / truth."""
        return (self.prediction - self.truth) / self.truth if self.truth else edge_cases.rate_undefined


def _check_pair(truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> None:
    for name, array in (("truth", truth), ("prediction", prediction)):
        if array.dtype != np.bool_:
            raise InputError(f"the {name} is {array.dtype}, not boolean: say which label is meant, e.g. labels == 1")
    if truth.shape != prediction.shape:
        raise GeometryError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape: resample one")


def count_voxels(truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> VoxelCounts:
    """Count the four kinds of voxels of two masks.

    Parameters
    ----------
    truth, prediction
        Boolean arrays of one shape (any number of axes).

    Returns
    -------
    VoxelCounts
        Cost: one pass over both masks, no array of the size of the masks is made unless their
        memory layouts differ.

    Raises
    ------
    InputError
        If a mask is not boolean.
    GeometryError
        If the shapes differ.

    Examples
    --------
    >>> count_voxels(np.array([True, True, False, False]), np.array([True, False, True, False]))
    VoxelCounts(true_positive=1, false_positive=1, false_negative=1, true_negative=1)
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    _check_pair(truth, prediction)
    if truth.flags.f_contiguous and prediction.flags.f_contiguous:
        truth, prediction = truth.T, prediction.T
    a, b = truth.reshape(-1), prediction.reshape(-1)
    both = 0
    buffer = np.empty(min(_BLOCK, a.size), dtype=np.bool_)
    for start in range(0, a.size, _BLOCK):
        part = buffer[: min(_BLOCK, a.size - start)]
        np.logical_and(a[start : start + _BLOCK], b[start : start + _BLOCK], out=part)
        both += int(np.count_nonzero(part))
    in_truth, in_prediction = int(np.count_nonzero(a)), int(np.count_nonzero(b))
    return VoxelCounts(both, in_prediction - both, in_truth - both, a.size - in_truth - in_prediction + both)


def dice(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, edge_cases: EdgeCases = EdgeCases()
) -> float:
    """Dice coefficient of two boolean masks of one shape, from 0 (disjoint) to 1 (equal).

    See :func:`count_voxels` for the errors raised and the cost.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    >>> dice(np.zeros(3, bool), np.zeros(3, bool))
    1.0
    """
    return count_voxels(truth, prediction).dice(edge_cases)


def iou(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, edge_cases: EdgeCases = EdgeCases()
) -> float:
    """Intersection over union of two boolean masks of one shape; errors and cost as :func:`count_voxels`.

    Examples
    --------
    >>> iou(np.array([True, True, False]), np.array([True, False, False]))
    0.5
    """
    return count_voxels(truth, prediction).iou(edge_cases)


def sensitivity(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, edge_cases: EdgeCases = EdgeCases()
) -> float:
    """Share of the truth's voxels that were found; errors and cost as :func:`count_voxels`.

    Examples
    --------
    >>> sensitivity(np.array([True, True, False]), np.array([True, False, False]))
    0.5
    """
    return count_voxels(truth, prediction).sensitivity(edge_cases)


def specificity(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, edge_cases: EdgeCases = EdgeCases()
) -> float:
    """Share of the background's voxels left empty; errors and cost as :func:`count_voxels`.

    It depends on how much air the image shows: for "does the method invent lesions in healthy
    scans" count scans, see :class:`~anatrust.metrics.lesions.LesionMatching`.

    Examples
    --------
    >>> specificity(np.array([True, False, False]), np.array([True, True, False]))
    0.5
    """
    return count_voxels(truth, prediction).specificity(edge_cases)


def precision(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, edge_cases: EdgeCases = EdgeCases()
) -> float:
    """Share of the predicted voxels that are true; errors and cost as :func:`count_voxels`.

    Examples
    --------
    >>> precision(np.array([True, False, False]), np.array([True, True, False]))
    0.5
    """
    return count_voxels(truth, prediction).precision(edge_cases)


def volume_difference(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, voxel_volume: float = 1.0
) -> float:
    """Volume of the prediction minus that of the truth, in the unit of ``voxel_volume`` (mm³, or voxels).

    Errors and cost as :func:`count_voxels`.

    Examples
    --------
    >>> volume_difference(np.array([True, False, False]), np.array([True, True, True]), voxel_volume=2.0)
    4.0
    """
    counts = count_voxels(truth, prediction)
    return (counts.prediction - counts.truth) * voxel_volume


def relative_volume_difference(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, edge_cases: EdgeCases = EdgeCases()
) -> float:
    """(prediction − truth) / truth in volume: 0 is equal, −1 nothing found, no upper bound.

    Errors and cost as :func:`count_voxels`.

    Examples
    --------
    >>> relative_volume_difference(np.array([True, True, False]), np.array([True, True, True]))
    0.5
    """
    return count_voxels(truth, prediction).relative_volume_difference(edge_cases)
