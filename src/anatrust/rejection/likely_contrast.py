"""How sure the segmenter is of a candidate that stands out, for its size and roundness: a score of probabilities."""

from __future__ import annotations

import math

from anatrust.rejection.compact_contrast import local_contrast, root_size, roundness
from anatrust.rejection.comparison import Comparison

__all__ = ["likely_contrast"]

# Contrasts far beyond this many standard deviations count alike: of what stands out the segmenter knows more.
_ENOUGH = 0.5


def likely_contrast(comparison: Comparison, position: int) -> float:
    """Root size times squared mean probability, squared roundness and a contrast that saturates; ``likely-contrast/1``.

    (p ρ)² · √v · tanh(2c). Here p is the mean probability the segmenter gives inside, v the volume in mm³ (mm²; voxels
    where the spacing is unknown), ρ and c are the roundness and the contrast of ``compact-contrast/1`` (`roundness`,
    `local_contrast`). p · √v is the score of a candidate in the paper (R²Seg, arXiv 2511.12691, gate L3). The contrast
    only asks whether a candidate stands out at all: beyond one standard deviation all count alike, because what
    stands out most in a healthy organ (a papillary muscle in a bright ventricle, a vessel) does so by several, more
    than a lesion. Whether it looks like a lesion the segmenter has learnt, and a segmenter that is sure of everything
    leaves size and roundness to decide.

    Raises
    ------
    ValueError
        If the candidates carry no probabilities; `anatrust.rejection.score.check_score` tells users before.

    Notes
    -----
    Chosen among products of powers of mean, median or largest probability (or its excess over one half, or its mean
    log-odds), contrast saturating at 0.25 to 3, volume and roundness, one for all populations, on candidates in no
    study: clear lesions kept at level 0.10, in place of those by ``compact-contrast/1``, 0.87 for 0.47 and 0.59 for
    0.38 in 18 hearts (U-Net, pixel classifier, each taught on the other half), 0.72 for 0.35 in phantoms with a
    threshold on contrast, 0.92 for 0.93 and 0.87 for 0.85 in phantoms and 0.87 for 0.91 in hippocampi with pixel
    classifiers. Without any contrast it would keep as many; with it nothing is kept that looks like its surroundings.
    """
    chance = comparison.case.components.candidates[position].mean_probability
    if chance is None:
        raise ValueError("likely-contrast/1 needs the segmenter's probabilities")
    stands_out = math.tanh(local_contrast(comparison, position) / _ENOUGH)
    # Rounding may leave a mean a little outside of [0, 1].
    chance = min(max(chance, 0.0), 1.0)
    return (chance * roundness(comparison, position)) ** 2 * root_size(comparison, position) * stands_out
