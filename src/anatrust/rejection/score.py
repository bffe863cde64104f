"""The candidate's statistic: the same number when a cohort is fitted and when a scan is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection.case import Case, prepare
from anatrust.rejection.compact_contrast import compact_contrast
from anatrust.rejection.comparison import Comparison, compare_with
from anatrust.rejection.likely_contrast import likely_contrast
from anatrust.rejection.mmd_volume import mmd2_volume
from anatrust.rejection.settings import SCORES, RejectionSettings

__all__ = ["candidate_score", "candidate_scores", "check_score", "scores_of", "wrong_side"]

_SCORES: Mapping[str, Callable[[Comparison, int], float]] = {
    "compact-contrast/1": compact_contrast,
    "likely-contrast/1": likely_contrast,
    "mmd2-volume/2": mmd2_volume,
}


def candidate_score(comparison: Comparison, position: int) -> float:
    """How strange a candidate is against its normal tissue, by the score the settings name; higher = stranger.

    The cohort null holds for any score that does not look at the calibration patients' order; the score decides the
    power alone. ``compact-contrast/1``: `compact_contrast`; ``likely-contrast/1``, with the segmenter's probabilities:
    `likely_contrast`; ``mmd2-volume/2``, of older profiles: `mmd2_volume`.

    Minus infinity where no comparison can be made, or where the candidate is on the wrong side
    (``settings.direction``): such a candidate is never kept.
    """
    if comparison.refusal(position) is not None or wrong_side(comparison, position):
        return -np.inf
    return _SCORES[comparison.case.settings.scored().score](comparison, position)


def check_score(settings: RejectionSettings, *, probabilities: bool) -> None:
    """Refuse a score that needs probabilities where there are none.

    Nothing else stands in for them: a score made another way would not compare with those of the null.

    Raises
    ------
    InputError
        If the score the settings name looks at probabilities and none are given.

    Examples
    --------
    >>> check_score(RejectionSettings(score="likely-contrast/1"), probabilities=True)
    """
    if settings.needs_probabilities and not probabilities:
        raise InputError(
            f"the score {settings.score} looks at the segmenter's probabilities: give them, or fit with {SCORES[0]}, "
            "which does without"
        )


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
    InputError
        If the score needs probabilities and none are given.

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
    check_score(settings, probabilities=probabilities is not None)
    case = prepare(scan, labels, anatomy=anatomy, probabilities=probabilities, settings=settings)
    scores = scores_of(case)
    return np.array([scores[position] for position in case.tested], dtype=np.float64)
