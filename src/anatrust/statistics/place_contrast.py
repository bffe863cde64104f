"""How far a shape's mean stands out from its surroundings, at many places of a tissue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.statistics.place_statistics import Placed
from anatrust.statistics.places import Shape, TissueField

__all__ = ["contrast_statistics", "surroundings"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Where less than this share of the surroundings is tissue, all the rest of the tissue stands for them.
_ENOUGH = 0.2
_THREADS = 4


def surroundings(shape: Shape, extent: Sequence[int], spacing: Sequence[float]) -> IntArray:
    """The shell around a shape, as runs of voxels along the last axis.

    Its inner edge lies one voxel (of the finest axis) off the shape, as far as a blurred edge reaches;
    its outer edge as far off as the radius of the ball of the shape's volume, at least three voxels.

    Parameters
    ----------
    shape
        The shape.
    extent
        ``(3,)`` voxels of the tissue's box along each axis; along an axis of one voxel the shell has no width.
    spacing
        ``(3,)`` voxel size.

    Returns
    -------
    ndarray of int64
        ``(runs, 4)`` relative to the shape's anchor: the first two indices of a run, and its first and last
        along the last axis.

    Examples
    --------
    >>> one = Shape.of(np.array([12]), np.array([1, 5, 5]))
    >>> surroundings(one, (1, 5, 5), (1.0, 1.0, 1.0))[:2].tolist()
    [[0, -3, 0, 0], [0, -2, -2, 2]]
    """
    inside = np.zeros(shape.high - shape.low + 1, dtype=bool)
    corner = np.array(np.unravel_index(shape.anchor, tuple(extent))) + shape.low
    starts = np.stack(np.unravel_index(shape.anchor + shape.offsets, tuple(extent)), axis=1) - corner
    for (a, b, c), length in zip(starts.tolist(), shape.lengths.tolist(), strict=True):
        inside[a, b, c : c + length] = True
    wide = [axis for axis in range(3) if extent[axis] > 1] or [2]
    step = min(spacing[axis] for axis in wide)
    volume = shape.size * math.prod(spacing[axis] for axis in wide)
    radius = {1: volume / 2, 2: math.sqrt(volume / math.pi), 3: (0.75 * volume / math.pi) ** (1 / 3)}[len(wide)]
    reach = max(radius, 3 * step) * (1 + 1e-9)
    pad = np.array([int(reach / spacing[axis]) if axis in wide else 0 for axis in range(3)])
    away = ndimage.distance_transform_edt(~np.pad(inside, [(n, n) for n in pad]), sampling=spacing)
    shell = (away > step * (1 + 1e-9)) & (away <= reach)
    edges = np.diff(np.pad(shell, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=2)
    first, last = np.argwhere(edges == 1), np.argwhere(edges == -1)
    corner = shape.low - pad
    return np.concatenate([first + corner, last[:, 2:] - 1 + corner[2]], axis=1)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def place_contrasts(
    total: FloatArray,
    count: npt.NDArray[np.int32],
    anchors: IntArray,
    offsets: IntArray,
    lengths: IntArray,
    shell: IntArray,
    extent: IntArray,
    gone: IntArray,
    rows: npt.NDArray[np.int32],
) -> FloatArray:
    """Mean under the shape minus mean of the tissue in the shell around it, at each anchor.

    `total` and `count` are running sums of values and tissue over the flat box, with a leading zero. What is left
    out of the tissue is taken out of the sums: `gone` are its runs ``(n, 2)``, first and one past the last voxel,
    ascending, and those of row r begin at ``rows[r]``. No run leaves its row, and none touches a place.
    """
    size = lengths.sum()
    everything, everywhere = total[-1], count[-1]
    for k in range(gone.shape[0]):
        everything -= total[gone[k, 1]] - total[gone[k, 0]]
        everywhere -= count[gone[k, 1]] - count[gone[k, 0]]
    enough = _ENOUGH * (shell[:, 3] - shell[:, 2] + 1).sum()
    found = np.empty(anchors.size)
    for i in range(anchors.size):
        anchor = anchors[i]
        x, y, z = anchor % extent[2], (anchor // extent[2]) % extent[1], anchor // (extent[2] * extent[1])
        inside = 0.0
        for run in range(offsets.size):
            start = anchor + offsets[run]
            inside += total[start + lengths[run]] - total[start]
        around, held = 0.0, 0
        for run in range(shell.shape[0]):
            a, b = z + shell[run, 0], y + shell[run, 1]
            first, last = max(x + shell[run, 2], 0), min(x + shell[run, 3], extent[2] - 1)
            if a >= 0 and b >= 0 and a < extent[0] and b < extent[1] and first <= last:
                row = a * extent[1] + b
                # Unsigned, so that no index is taken to count from the end.
                start, end = np.uint32(row * extent[2] + first), np.uint32(row * extent[2] + last + 1)
                around += total[end] - total[start]
                held += count[end] - count[start]
                for k in range(rows[np.uint32(row)], rows[np.uint32(row + 1)]):
                    low, high = max(start, gone[k, 0]), min(end, gone[k, 1])
                    if low < high:
                        around -= total[high] - total[low]
                        held -= count[high] - count[low]
        if held == 0 or held < enough:
            around, held = everything - inside, everywhere - size
        found[i] = inside / size - around / held
    return found


def contrast_statistics(whole: TissueField, trials: Sequence[Placed], spacing: Sequence[float]) -> list[FloatArray]:
    """Squared contrast of every place of every trial to its surroundings.

    Parameters
    ----------
    whole
        A domain with one feature.
    trials
        Shapes and places.
    spacing
        ``(3,)`` voxel size along the axes of `whole`.

    Returns
    -------
    list of ndarray
        For each trial ``(places,)``: the squared distance of the contrast from the median over the places. It is the
        MMD² of the linear kernel against the surroundings instead of the whole tissue, so slow trends of the
        tissue drop out. O(places · runs of shape and shell) a trial, and once O(voxels of the box).
    """
    values = np.zeros(whole.domain.size)
    values[whole.domain.reshape(-1)] = whole.values[:, 0] - whole.values[:, 0].mean()
    total = np.concatenate([[0.0], np.cumsum(values)])
    count = np.concatenate([[0], np.cumsum(whole.domain.reshape(-1))], dtype=np.int32)
    extent = np.array(whole.domain.shape, dtype=np.int64)
    starts = np.arange(extent[0] * extent[1] + 1) * extent[2]

    def one(trial: Placed) -> FloatArray:
        shape, gone = trial.shape, np.empty((0, 2), dtype=np.int64)
        if trial.left_out is not None:
            first = trial.left_out.anchor + trial.left_out.offsets
            order = np.argsort(first)
            gone = np.stack([first, first + trial.left_out.lengths], axis=1)[order]
        rows = np.searchsorted(gone[:, 0], starts).astype(np.int32)
        shell = surroundings(shape, whole.domain.shape, spacing)
        found = place_contrasts(total, count, trial.anchors, shape.offsets, shape.lengths, shell, extent, gone, rows)
        return np.asarray((found - np.median(found)) ** 2)

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(one, trials))
