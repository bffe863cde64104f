"""Distances between the surfaces of two masks: ASSD and HD95, each with its definition named.

The surface is made of voxels (in the mask, with a face neighbour outside it or outside the
image), as in MONAI, MedPy and SimpleITK. Implementations that weigh surface elements by area
(surface-distance of Google DeepMind) give slightly other values; ``docs/papers.md`` has them
side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.region import bounding_box
from anatrust.metrics.edge_cases import EdgeCases
from anatrust.metrics.overlap import _check_pair

__all__ = ["HausdorffDefinition", "SurfaceDistances", "assd", "hd95", "surface_distances", "surface_voxels"]

HausdorffDefinition = Literal["max-directed", "pooled"]
Engine = Literal["auto", "tree", "transform"]

# A tree query costs about this many voxels of a distance transform (measured, benchmarks/metrics.py).
_QUERY_IN_VOXELS = 8


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance of each surface voxel of one mask to the nearest surface voxel of the other.

    Parameters
    ----------
    truth_to_prediction, prediction_to_truth
        Distances in the unit of the spacing (mm), float64, in no particular order. Empty if
        that mask is empty; infinite if the other one is.
    """

    truth_to_prediction: npt.NDArray[np.float64]
    prediction_to_truth: npt.NDArray[np.float64]

    def _empty(self, edge_cases: EdgeCases) -> float | None:
        sizes = (self.truth_to_prediction.size, self.prediction_to_truth.size)
        if all(sizes):
            return None
        return edge_cases.distance_one_empty if any(sizes) else edge_cases.distance_both_empty

    def assd(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """Average symmetric surface distance: the mean over the voxels of both surfaces together."""
        empty = self._empty(edge_cases)
        if empty is not None:
            return empty
        count = self.truth_to_prediction.size + self.prediction_to_truth.size
        return float((self.truth_to_prediction.sum() + self.prediction_to_truth.sum()) / count)

    def hausdorff(
        self,
        percentile: float = 95.0,
        definition: HausdorffDefinition = "max-directed",
        edge_cases: EdgeCases = EdgeCases(),
    ) -> float:
        """Percentile of the surface distances (100: the Hausdorff distance itself).

        ``"max-directed"`` takes the percentile in each direction and then the larger one
        (MONAI, Metrics Reloaded); ``"pooled"`` takes it over both directions together (MedPy,
        panoptica). They differ, so name the one you report.
        """
        if definition not in get_args(HausdorffDefinition):
            raise InputError(f"HD95 definition {definition!r}: choose 'max-directed' or 'pooled'")
        if not 0 <= percentile <= 100:
            raise InputError(f"the percentile is {percentile:g}: give a number from 0 to 100")
        empty = self._empty(edge_cases)
        if empty is not None:
            return empty
        directed = (self.truth_to_prediction, self.prediction_to_truth)
        if definition == "pooled":
            return float(np.percentile(np.concatenate(directed), percentile))
        return float(max(np.percentile(d, percentile) for d in directed))

    def surface_dice(self, tolerance: float, edge_cases: EdgeCases = EdgeCases()) -> float:
        """Share of the voxels of both surfaces that lie within ``tolerance`` (mm) of the other surface.

        Also called normalised surface distance (Nikolov et al. 2018). With one mask empty it is 0.
        """
        if not 0 <= tolerance < math.inf:
            raise InputError(f"the tolerance of surface Dice is {tolerance:g}: give millimetres from 0")
        both = (self.truth_to_prediction, self.prediction_to_truth)
        total = sum(d.size for d in both)
        if not total:
            return edge_cases.overlap_both_empty
        return float(sum(np.count_nonzero(d <= tolerance) for d in both) / total)


def surface_voxels(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Voxels of a mask with a face neighbour outside it; beyond the image's edge counts as outside.

    Parameters
    ----------
    mask
        Boolean array, 2-D or 3-D.

    Returns
    -------
    numpy.ndarray
        Boolean array of the same shape. Cost: two passes per axis.

    Examples
    --------
    >>> surface_voxels(np.ones((3, 3), bool)).sum()
    np.int64(8)
    """
    inside = mask.copy()
    for axis in range(mask.ndim):
        ahead, behind = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        ahead[1:] &= behind[:-1]
        ahead[:-1] &= behind[1:]
        ahead[0] = ahead[-1] = False
    return mask & ~inside


def _by_tree(
    source: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64], workers: int
) -> npt.NDArray[np.float64]:
    from scipy.spatial import cKDTree

    # Voxels on both surfaces are at distance 0 and need no query.
    apart = np.argwhere(source & ~target) * spacing
    distances = np.zeros(np.count_nonzero(source))
    if len(apart):
        tree = cKDTree(np.argwhere(target) * spacing, balanced_tree=False)
        distances[: len(apart)] = tree.query(apart, workers=workers)[0]
    return distances


def _by_transform(
    source: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    distances: npt.NDArray[np.float64] = distance_transform_edt(~target, sampling=spacing)[source]
    return distances


def surface_distances(
    truth: npt.NDArray[np.bool_],
    prediction: npt.NDArray[np.bool_],
    *,
    spacing: Sequence[float] | None = None,
    engine: Engine = "auto",
    workers: int = -1,
) -> SurfaceDistances:
    """Distances between the surfaces of two masks, in both directions.

    Parameters
    ----------
    truth, prediction
        Boolean arrays of one shape, 2-D or 3-D.
    spacing
        Voxel edge lengths in mm along the array's axes; None: distances in voxels.
    engine
        ``"tree"`` (k-d tree on the surface voxels), ``"transform"`` (Euclidean distance
        transform of the box around both masks) or ``"auto"``, the cheaper of the two. They
        agree to rounding.
    workers
        Threads of the tree; -1: all cores. The result does not depend on it.

    Returns
    -------
    SurfaceDistances
        Cost: the box around both masks is passed over a few times; then about 1 µs a surface
        voxel that is not shared (tree; more where the surfaces are far apart) or 0.1 µs a voxel
        of the box (transform). Concentric surfaces far apart are the tree's worst case: up to
        2.6 times the transform was seen.

    Raises
    ------
    InputError
        If a mask is not boolean, the spacing has another length than the masks have axes, is
        not positive, or the engine is unknown.
    GeometryError
        If the shapes differ.

    Examples
    --------
    >>> a, b = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    >>> a[2, 2] = b[2, 5] = True
    >>> surface_distances(a, b, spacing=(1.0, 2.0)).assd()
    6.0
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    _check_pair(truth, prediction)
    step = np.ones(truth.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if step.shape != (truth.ndim,) or not (np.isfinite(step).all() and step.min() > 0):
        raise InputError(f"spacing {spacing!r}: give {truth.ndim} positive lengths, one an axis")
    if engine not in get_args(Engine):
        raise InputError(f"engine {engine!r}: choose 'auto', 'tree' or 'transform'")
    true_box, predicted_box = bounding_box(truth), bounding_box(prediction)
    if true_box is None or predicted_box is None:
        sizes = [int(surface_voxels(m).sum()) for m in (truth, prediction)]
        return SurfaceDistances(*[np.full(size, np.inf) for size in sizes])
    # The box of both masks; a mask that meets the box's edge has its surface there either way.
    box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(true_box, predicted_box, strict=True))
    a, b = surface_voxels(truth[box]), surface_voxels(prediction[box])
    if engine == "auto":
        queries = int(np.count_nonzero(a ^ b))
        engine = "tree" if queries * _QUERY_IN_VOXELS < 2 * a.size else "transform"
    if engine == "tree":
        return SurfaceDistances(_by_tree(a, b, step, workers), _by_tree(b, a, step, workers))
    return SurfaceDistances(_by_transform(a, b, step), _by_transform(b, a, step))


def assd(
    truth: npt.NDArray[np.bool_],
    prediction: npt.NDArray[np.bool_],
    *,
    spacing: Sequence[float] | None = None,
    edge_cases: EdgeCases = EdgeCases(),
) -> float:
    """Average symmetric surface distance in mm; arguments, errors and cost as :func:`surface_distances`.

    Examples
    --------
    >>> a = np.zeros((5, 5), bool)
    >>> a[1, 1] = True
    >>> assd(a, np.roll(a, 2, axis=0), spacing=(1.5, 1.0))
    3.0
    """
    return surface_distances(truth, prediction, spacing=spacing).assd(edge_cases)


def hd95(
    truth: npt.NDArray[np.bool_],
    prediction: npt.NDArray[np.bool_],
    *,
    spacing: Sequence[float] | None = None,
    definition: HausdorffDefinition = "max-directed",
    edge_cases: EdgeCases = EdgeCases(),
) -> float:
    """95th percentile of the surface distances in mm, by the named definition.

    See :meth:`SurfaceDistances.hausdorff` for the definitions and :func:`surface_distances` for
    arguments, errors and cost.

    Examples
    --------
    >>> a = np.zeros((5, 5), bool)
    >>> a[1, 1] = True
    >>> hd95(a, np.roll(a, 2, axis=0), definition="pooled")
    2.0
    """
    return surface_distances(truth, prediction, spacing=spacing).hausdorff(95.0, definition, edge_cases)
