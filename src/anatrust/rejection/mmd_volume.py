"""Size-scaled MMD² between a candidate and its normal tissue: the score of older profiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.rejection.comparison import Comparison
from anatrust.statistics.embedding_mmd import fit_embedding, mmd2_from_embedding_sums
from anatrust.statistics.histogram_mmd import histogram_statistics, level_counts
from anatrust.statistics.kernels import Kernel, median_bandwidth

__all__ = ["mmd2_volume"]

# Frequencies of the random Fourier features are part of the score's definition.
_SEED = 0
_RANK = 256


def mmd2_volume(comparison: Comparison, position: int) -> float:
    """Size-scaled unbiased MMD² between a candidate and its normal tissue; ``mmd2-volume/2``.

    MMD² · v·w / (v + w), with v and w the volumes of candidate and tissue in mm³ (mm²; voxels
    where the spacing is unknown): the scaling under which the statistic of a normal place keeps
    its size whatever the place's volume. Without it specks of noise outrank every larger lesion;
    with it a tree of vessels outranks every smaller one.

    Gaussian kernel, bandwidth by the median heuristic on candidate and tissue together. Graded
    intensities are compared exactly, vectors through 256 random Fourier features with fixed
    frequencies. With a mixture reference it is the smallest value over the classes.

    Revision 2: candidates without an organ share the body around all of them.

    References
    ----------
    Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), equation 3 and theorem 12 (the
    scaling); R2Seg, "Reject".
    """
    own = _rows(comparison.inside(position))
    voxel = comparison.case.components.grid.voxel_volume
    scores = []
    for part in comparison.classes:
        rest = _rows(comparison.features[part])
        scale = voxel * len(own) * len(rest) / (len(own) + len(rest))
        scores.append(scale * _mmd2(own, rest))
    return min(scores)


def _rows(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return features.reshape(len(features), -1).astype(np.float64)


def _mmd2(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    pool = np.concatenate([x, y])
    kernel = Kernel("gaussian", median_bandwidth(pool, seed=_SEED))
    if pool.shape[1] == 1:
        levels, inside, outside = level_counts(x[:, 0], y[:, 0])
        return float(histogram_statistics(levels, inside + outside, inside[None], [kernel])[0, 0])
    embedding = fit_embedding(pool[:2], kernel, method="fourier", rank=_RANK, seed=_SEED)
    total_x = embedding(x).sum(axis=0)
    total = total_x + embedding(y).sum(axis=0)
    # |z|² = 1 for every point of a Fourier embedding.
    return float(mmd2_from_embedding_sums(total_x, float(len(x)), len(x), total, float(len(pool)), len(pool)))
