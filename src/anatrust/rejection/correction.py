"""From p-values to q-values, and the level each p-value must be able to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.rejection.settings import Correction, RejectionSettings
from anatrust.statistics.multiple_testing import (
    benjamini_hochberg,
    benjamini_yekutieli,
    calibrate_e,
    e_benjamini_hochberg,
    focused_bh,
    holm,
    weighted_benjamini_hochberg,
)

__all__ = ["Corrected", "correct", "needed_level", "of_maximum", "resolved_correction"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Corrected:
    """q-value of each test, whether it is significant, and the p-value it had to be able to reach."""

    q: FloatArray
    significant: BoolArray
    needed: FloatArray


def of_maximum(null: str, settings: RejectionSettings) -> bool:
    """Whether the null already takes the maximum over all candidates or places."""
    return null == "surrogate-max" or (null == "cohort" and settings.cohort_draw == "maximum")


def resolved_correction(null: str, settings: RejectionSettings) -> Correction:
    """The correction used where ``"auto"`` was asked for.

    Nulls of the maximum bound the familywise error already; conformal p-values against one
    random candidate a patient are positively dependent, so Benjamini-Hochberg holds; for all
    others Benjamini-Yekutieli, because tests that share their tissue may depend in any way.

    Examples
    --------
    >>> resolved_correction("surrogate-max", RejectionSettings()), resolved_correction("placement", RejectionSettings())
    ('familywise', 'by')
    """
    if settings.correction != "auto":
        return settings.correction
    if of_maximum(null, settings):
        return "familywise"
    return "bh" if null == "cohort" else "by"


def needed_level(
    correction: Correction, count: int, alpha: float, *, families: int | None = None, weights: FloatArray | None = None
) -> FloatArray:
    """The p-value a single test must be able to reach to be significant on its own.

    Parameters
    ----------
    correction
        Not ``"auto"``.
    count
        Number K of tests.
    alpha
        Level.
    families
        For nulls of the maximum: number of tissues tested separately; else None.
    weights
        Of ``"weighted-bh"``, with mean 1.

    Returns
    -------
    ``(count,)`` float64

    Examples
    --------
    >>> needed_level("bh", 4, 0.1)
    array([0.025, 0.025, 0.025, 0.025])
    """
    k = max(count, 1)
    if correction == "familywise":
        level = alpha / (k if families is None else max(families, 1))
    elif correction == "by":
        level = alpha / (k * float(np.sum(1.0 / np.arange(1, k + 1))))
    elif correction == "ebh":
        # e = 1 / (2 sqrt(p)) must reach K / alpha.
        level = (alpha / (2 * k)) ** 2
    else:
        level = alpha / k
    needed = np.full(count, level)
    return needed if weights is None else needed * weights


def correct(
    p: FloatArray,
    correction: Correction,
    alpha: float,
    *,
    families: int | None = None,
    sizes: Sequence[float] = (),
    ndim: int = 3,
    keep: Callable[[BoolArray], BoolArray] | None = None,
) -> Corrected:
    """Correct the p-values of one scan.

    Parameters
    ----------
    p
        ``(K,)`` p-values, one a tested candidate.
    correction
        ``"familywise"``: Bonferroni over tissues where the null takes the maximum within each
        (``families``), Holm over candidates otherwise. ``"bh"``, ``"by"``, ``"ebh"`` (e-values
        by the calibrator 1/(2√p), Vovk & Wang 2021), ``"weighted-bh"`` (weights proportional to
        a candidate's diameter, never to its contrast), ``"focused-bh"`` (the filter ``keep``
        runs after the test).
    alpha
        Level.
    families, sizes, ndim, keep
        As above; sizes in voxels.

    Examples
    --------
    >>> correct(np.array([0.01, 0.2]), "familywise", 0.1, families=1).significant
    array([ True, False])
    """
    weights = None
    if correction == "weighted-bh":
        lengths = np.asarray(sizes, dtype=np.float64) ** (1 / ndim)
        weights = lengths / lengths.mean() if len(lengths) else lengths
    needed = needed_level(correction, len(p), alpha, families=families, weights=weights)
    if correction == "familywise":
        q = holm(p) if families is None else np.minimum(p * max(families, 1), 1.0)
    elif correction == "by":
        q = benjamini_yekutieli(p)
    elif correction == "ebh":
        q = e_benjamini_hochberg(calibrate_e(p))
    elif weights is not None:
        q = weighted_benjamini_hochberg(p, weights)
    else:
        q = benjamini_hochberg(p)
    q = np.minimum(q, 1.0)
    significant = q <= alpha * (1 + 1e-12)
    if correction == "focused-bh" and keep is not None and len(p):
        significant = focused_bh(p, keep, alpha)
    return Corrected(q, significant, needed)
