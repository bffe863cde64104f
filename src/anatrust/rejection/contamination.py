"""When the normal tissue holds a cyst or another lesion: trimmed and mixture references.

Contamination is a region, not a voxel, so both look at grey values averaged over a small
neighbourhood: single noisy voxels are neither trimmed nor made a class of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["smoothed", "split_classes", "trim_atypical"]

# Neighbourhood over which grey values are averaged, in voxels.
_SIGMA = 1.5
_GRADES = 256
# Two classes count as two only if their means are this many standard deviations apart and each
# holds this share. One Gaussian cut into two or three pieces would show 2.6 to 2.8.
_SEPARATION = 3.0
_SMALLEST_SHARE = 0.02
_ROUNDS = 200


def smoothed(values: npt.NDArray[np.floating], tissue: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Mean of each tissue voxel's neighbourhood within the tissue, as a 1-D array in array order."""
    from scipy import ndimage

    inside = tissue.astype(np.float64)
    weight = ndimage.gaussian_filter(inside, _SIGMA, mode="constant")
    total = ndimage.gaussian_filter(np.where(tissue, values, 0.0).astype(np.float64), _SIGMA, mode="constant")
    means: npt.NDArray[np.float64] = total[tissue] / weight[tissue]
    return means


def _histogram(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], float]:
    """Grade of each value, how many have each grade, and the width of a grade."""
    low, high = float(values.min()), float(values.max())
    width = (high - low) / (_GRADES - 1)
    grade = np.rint((values - low) / width).astype(np.int64) if width > 0 else np.zeros(len(values), dtype=np.int64)
    return grade, np.bincount(grade, minlength=_GRADES).astype(np.float64), width


def trim_atypical(
    values: npt.NDArray[np.floating], tissue: npt.NDArray[np.bool_], fraction: float
) -> npt.NDArray[np.bool_]:
    """The tissue without its most atypical share.

    A voxel is as typical as the kernel mean of the tissue is high at its (smoothed) grey value:
    the points farthest from the mean embedding are dropped. Equal values stay or go together,
    so slightly less than ``fraction`` may be dropped.

    Parameters
    ----------
    values
        Grey values.
    tissue
        Boolean, the same shape.
    fraction
        Share to drop, 0 to 0.5.

    Returns
    -------
    bool array
        A subset of ``tissue`` holding at least ``1 - fraction`` of it.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((20, 20)) + np.linspace(0, 1, 20)
    >>> image[2:6, 2:6] = 9.0
    >>> kept = trim_atypical(image, np.ones((20, 20), bool), 0.1)
    >>> bool(kept[3:5, 3:5].any()), bool(kept.mean() >= 0.9)
    (False, True)
    """
    if fraction <= 0 or not tissue.any():
        return tissue.copy()
    grade, counts, width = _histogram(smoothed(values, tissue))
    if width == 0:
        return tissue.copy()
    levels = np.arange(_GRADES, dtype=np.float64)
    spread = max(1.0, float(np.sqrt(np.average((levels - np.average(levels, weights=counts)) ** 2, weights=counts))))
    kernel = np.exp(-((levels[:, None] - levels[None]) ** 2) / (2 * spread**2))
    typical = kernel @ counts
    # Whole grades go, the least typical first, as long as no more than the fraction is lost.
    order = np.argsort(typical, kind="stable")
    gone = order[np.cumsum(counts[order]) <= fraction * counts.sum()]
    kept = tissue.copy()
    kept[tissue] = ~np.isin(grade, gone)
    return kept


def _fit(
    counts: npt.NDArray[np.float64], k: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, npt.NDArray[np.int64]]:
    """EM of k Gaussians of one common deviation on a histogram, started in equal steps.

    Returns weights, means, deviation and the class of each grade. The common deviation puts
    borders half-way: a wide class would otherwise claim the blurred rim of a narrow one.
    """
    levels = np.arange(len(counts), dtype=np.float64)
    occupied = np.flatnonzero(counts)
    extent = float(occupied[-1] - occupied[0])
    means = occupied[0] + extent * (np.arange(k) + 0.5) / k
    deviation = max(1.0, extent / (2.0 * k))
    weights = np.full(k, 1.0 / k)
    share = np.zeros((k, len(counts)))
    for _ in range(_ROUNDS):
        log = np.log(np.maximum(weights, 1e-300))[:, None]
        log = log - 0.5 * ((levels[None] - means[:, None]) / deviation) ** 2
        share = np.exp(log - log.max(axis=0))
        share /= share.sum(axis=0)
        mass = np.maximum(share @ counts, 1e-12)
        moved = (share @ (counts * levels)) / mass
        variance = float(((share * (levels[None] - moved[:, None]) ** 2) @ counts).sum() / counts.sum())
        deviation = float(np.sqrt(max(variance, 0.25)))
        weights = mass / counts.sum()
        step = float(np.abs(moved - means).max())
        means = moved
        if step < 1e-3:
            break
    return weights, means, deviation, share.argmax(axis=0)


def split_classes(
    values: npt.NDArray[np.floating], tissue: npt.NDArray[np.bool_], components: int
) -> tuple[npt.NDArray[np.bool_], ...]:
    """Split tissue into up to three classes of grey value, darkest first.

    A mixture of Gaussians is fitted to the smoothed grey values, the largest number of classes
    first; it is accepted if neighbouring classes lie three standard deviations apart and each
    holds at least 2 % of the tissue.

    Returns
    -------
    tuple of bool arrays
        Disjoint, covering ``tissue``; a single one if the tissue is of one kind.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).normal(size=(40, 40))
    >>> image[:12] += 20.0
    >>> [int(c.sum()) for c in split_classes(image, np.ones((40, 40), bool), 2)]
    [1120, 480]
    """
    if not tissue.any():
        return (tissue.copy(),)
    grade, counts, _ = _histogram(smoothed(values, tissue))
    for k in range(components, 1, -1):
        weights, means, deviation, best = _fit(counts, k)
        # Equal starts in ascending order stay in ascending order, so class 0 is the darkest.
        sizes = np.bincount(best, weights=counts, minlength=k)
        apart = (np.diff(means) > _SEPARATION * deviation).all()
        if apart and weights.min() >= _SMALLEST_SHARE and sizes.all():
            found = []
            for number in range(k):
                part = np.zeros(tissue.shape, dtype=bool)
                part[tissue] = best[grade] == number
                found.append(part)
            return tuple(found)
    return (tissue.copy(),)
