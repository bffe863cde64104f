"""What can be said of a mask without the truth, and what the truth then says of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.image.grid import Grid
from anatrust.metrics import surface_distances
from anatrust.rejection.candidates import largest_diameter

__all__ = ["DIRECTIONS", "EVIDENCE", "QUANTITIES", "diameter_of", "structure_evidence", "structure_truth"]

EVIDENCE = ("expected Dice", "inner over outer", "certainty", "log size", "largest piece")
"""Label-free evidence of one structure on one scan, in order (see :func:`structure_evidence`)."""

QUANTITIES = ("dice", "hd95", "volume", "diameter")
"""What is bounded, in order (see :func:`structure_truth`)."""

DIRECTIONS = {"dice": (1, 1, 1, 0, 1), "hd95": (-1, -1, -1, 0, -1), "volume": (0,) * 5, "diameter": (0,) * 5}
"""Where more evidence can only mean more (+1) or less (-1) of a quantity."""

_Bool = npt.NDArray[np.bool_]


def structure_evidence(
    levels: npt.NDArray[np.uint16],
    thresholds: tuple[int, int],
    probabilities: npt.ArrayLike,
    mask: _Bool,
    grid: Grid,
) -> npt.NDArray[np.float64]:
    """Label-free evidence of one structure, ``(5,)`` in the order of :data:`EVIDENCE`.

    Parameters
    ----------
    levels
        Quantised score (``recipe.levels``), the grid's shape.
    thresholds
        Outer and inner threshold, fixed on other patients.
    probabilities
        Foreground probabilities, the grid's shape.
    mask
        What the segmenter drew.
    grid
        Of all of them.

    Notes
    -----
    *Expected Dice*: ``2 Σ p over the mask / (Σ p + |mask|)``, what the Dice would be if the probabilities
    were right. *Inner over outer*: size of the sure over that of the possible structure. *Certainty*: mean of
    ``|2p - 1|`` where p is not nearly 0. *Log size*: of the mask in mm³. *Largest piece*: its share of the
    mask. Each is 0 where there is nothing to measure. O(voxels).
    """
    import cc3d

    p = np.asarray(probabilities, dtype=np.float64)
    size, mass = int(np.count_nonzero(mask)), float(p.sum())
    total = mass + size
    chosen = levels.astype(np.int64)
    outer = int(np.count_nonzero(chosen >= thresholds[0]))
    inner = int(np.count_nonzero(chosen >= max(thresholds)))
    unsure = p[p > 0.05]
    largest = 0.0
    if size:
        pieces = cc3d.statistics(cc3d.connected_components(mask.astype(np.uint8)))["voxel_counts"][1:]
        largest = float(pieces.max() / size)
    return np.array(
        [
            2 * float(p[mask].sum()) / total if total > 0 else 0.0,
            inner / outer if outer else 0.0,
            float(np.abs(2 * unsure - 1).mean()) if unsure.size else 0.0,
            float(np.log1p(size * grid.voxel_volume)),
            largest,
        ]
    )


def structure_truth(mask: _Bool, truth: _Bool, grid: Grid) -> npt.NDArray[np.float64]:
    """What the truth says of a mask, ``(4,)`` in the order of :data:`QUANTITIES`.

    Dice; log of HD95 (plus a voxel); log of the true over the drawn volume and of the true over the drawn
    longest diameter (plus a voxel each), so that bounds are ratios. NaN where neither holds a voxel:
    there is nothing to bound. HD95 is infinite where one of the two is empty.
    """
    drawn, there = int(np.count_nonzero(mask)), int(np.count_nonzero(truth))
    if not drawn and not there:
        return np.full(4, np.nan)
    voxel, step = grid.voxel_volume, min(grid.spacing)
    dice = 2 * int(np.count_nonzero(mask & truth)) / (drawn + there)
    distance = np.inf
    if drawn and there:
        distance = float(np.log(surface_distances(truth, mask, spacing=grid.spacing).hausdorff() + step))
    volume = float(np.log((there * voxel + voxel) / (drawn * voxel + voxel)))
    diameter = float(np.log((diameter_of(truth, grid) + step) / (diameter_of(mask, grid) + step)))
    return np.array([dice, distance, volume, diameter])


def diameter_of(mask: _Bool, grid: Grid) -> float:
    """Longest diameter (largest Feret diameter) of a mask in mm, in pixels where spacing is unknown; 0 if empty."""
    if not mask.any():
        return 0.0
    return largest_diameter(np.argwhere(mask), grid.affine[:3, : grid.ndim])
