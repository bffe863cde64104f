"""The candidate's statistic: the same number when a cohort is fitted and when a scan is judged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection.case import Case, prepare
from anatrust.rejection.comparison import Comparison, compare_with
from anatrust.rejection.settings import RejectionSettings
from anatrust.statistics.embedding_mmd import fit_embedding, mmd2_from_embedding_sums
from anatrust.statistics.histogram_mmd import histogram_statistics, level_counts
from anatrust.statistics.kernels import Kernel, median_bandwidth

__all__ = ["SCORE_IDENTITY", "candidate_score", "candidate_scores", "scores_of", "wrong_side"]

# Frequencies of the random Fourier features are part of the score's definition.
_SEED = 0
_RANK = 256
SCORE_IDENTITY = "mmd2-volume/2"
"""Name and revision of the score and of the tissue it compares with: only scores of equal identity may be ranked
among each other. Revision 2: candidates without an organ share the body around all of them."""


def candidate_score(comparison: Comparison, position: int) -> float:
    """Size-scaled unbiased MMD² between a candidate and its normal tissue; higher = stranger.

    MMD² · v·w / (v + w), with v and w the volumes of candidate and tissue in mm³ (mm²; voxels
    where the spacing is unknown): the scaling under which the statistic of a normal place keeps
    its size whatever the place's volume. Without it specks of noise outrank every larger lesion.

    Gaussian kernel, bandwidth by the median heuristic on candidate and tissue together. Graded
    intensities are compared exactly, vectors through 256 random Fourier features with fixed
    frequencies. With a mixture reference it is the smallest value over the classes. Minus
    infinity where no comparison can be made, or where the candidate is on the wrong side
    (``settings.direction``): such a candidate is never kept.

    References
    ----------
    Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), equation 3 and theorem 12 (the
    scaling); R2Seg, "Reject".
    """
    if comparison.refusal(position) is not None or wrong_side(comparison, position):
        return -np.inf
    own = _rows(comparison.features[comparison.candidate(position)])
    voxel = comparison.case.components.grid.voxel_volume
    scores = []
    for part in comparison.classes:
        rest = _rows(comparison.features[part])
        scale = voxel * len(own) * len(rest) / (len(own) + len(rest))
        scores.append(scale * _mmd2(own, rest))
    return min(scores)


def wrong_side(comparison: Comparison, position: int) -> bool:
    """Whether a one-sided judgement was asked for and the candidate lies on the other side."""
    direction = comparison.case.settings.direction
    if direction == "both":
        return False
    contrast = comparison.contrast(position)
    if contrast is None:
        normal = comparison.case.scan.array[comparison.tissue.box][comparison.normal]
        contrast = comparison.case.components.candidates[position].mean_intensity - float(normal.mean())
    return contrast <= 0 if direction == "brighter" else contrast >= 0


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


def scores_of(case: Case) -> dict[int, float]:
    """Score of every candidate that no earlier gate refused, by position."""
    found = {}
    for tissue in case.tissues:
        comparison = compare_with(case, tissue)
        found.update({position: candidate_score(comparison, position) for position in tissue.members})
    return found


def candidate_scores(
    scan: Scan,
    labels: LabelMap | Mask,
    anatomy: LabelMap | None = None,
    settings: RejectionSettings | None = None,
    *,
    probabilities: ProbabilityMap | None = None,
) -> npt.NDArray[np.float64]:
    """Scores of a scan's candidates, for the cohort null.

    Candidates go through the same gates as in :func:`anatrust.rejection.reject` with these
    settings, so what is fitted on lesion-free patients is what is judged later.

    Parameters
    ----------
    scan, labels, anatomy, probabilities
        Of one patient, all on one grid.
    settings
        Default settings if None.

    Returns
    -------
    float64 array
        One score for each candidate that reaches the test, in candidate order; empty if there
        is none. Minus infinity where a candidate cannot be compared.

    Raises
    ------
    GeometryError
        If the images do not share one grid.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((40, 40), np.eye(4))
    >>> image = np.random.default_rng(0).normal(100, 10, (40, 40)).astype(np.float32)
    >>> mask = np.zeros((40, 40), bool)
    >>> mask[10:16, 10:16] = True
    >>> organ = LabelMap(np.ones((40, 40), np.uint8), grid, {1: "liver"})
    >>> normal = candidate_scores(Scan(image, grid), Mask(mask, grid), organ)
    >>> strange = candidate_scores(Scan(image + 40 * mask.astype(np.float32), grid), Mask(mask, grid), organ)
    >>> bool(strange[0] > 10 * abs(normal[0]))
    True
    """
    settings = (RejectionSettings() if settings is None else settings).under("cohort")
    case = prepare(scan, labels, anatomy=anatomy, probabilities=probabilities, settings=settings)
    scores = scores_of(case)
    return np.array([scores[position] for position in case.tested], dtype=np.float64)
