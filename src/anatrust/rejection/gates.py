"""The three gates of R2Seg: whether the case holds anything (L1, L3) and a candidate is plausible (L2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.region import bounding_box
from anatrust.rejection.candidate import Candidate
from anatrust.rejection.settings import GateSettings

__all__ = ["Existence", "candidate_gate", "case_gate", "case_score", "existence_gate", "skipped_gates"]

# Probabilities are compared on this many bins: D is exact up to what one bin holds.
_BINS = 4096


@dataclass(frozen=True)
class Existence:
    """What gate L1 measured.

    ``failure`` is None if the case passes, else one sentence. Values that need probabilities
    are None without them.
    """

    failure: str | None
    positive_share: float
    max_probability: float | None = None
    ks_distance: float | None = None
    ks_p: float | None = None


def existence_gate(
    positive: npt.NDArray[np.bool_],
    probabilities: npt.NDArray[np.floating[Any]] | None,
    settings: GateSettings,
) -> Existence:
    """L1: whether the map as a whole claims that there is anything.

    R2Seg (arXiv 2511.12691), gate L1: negative if the largest probability is too small, or too
    few voxels are positive, or a two-sample Kolmogorov-Smirnov test cannot tell the
    probabilities of foreground and background apart. The last arm compares thousands of
    correlated voxels, so its p-value is practically always 0; the distance D itself can be used
    instead (``settings.ks_distance``).

    Parameters
    ----------
    positive
        The mask, any shape.
    probabilities
        Foreground probabilities of the same shape, or None: then only the share is looked at.
    settings
        The thresholds.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.array([True, False, False, False])
    >>> existence_gate(mask, np.array([0.3, 0.1, 0.1, 0.1]), GateSettings()).failure
    'gate L1: the largest probability, 0.3, is below 0.5'
    """
    share = float(np.count_nonzero(positive) / positive.size)
    top = distance = p = None
    if probabilities is not None:
        # Outside the regions everything is 0.
        box = bounding_box(probabilities) or (slice(0, 0),) * probabilities.ndim
        busy = probabilities[box]
        top = float(busy.max(initial=-np.inf if busy.size == probabilities.size else 0.0))
        distance, p = _ks(positive, busy, box)
    failure = None
    if top is not None and top < settings.max_probability:
        failure = f"gate L1: the largest probability, {top:.3g}, is below {settings.max_probability:g}"
    elif share < settings.positive_share:
        failure = f"gate L1: the share of positive voxels, {share:.3g}, is below {settings.positive_share:g}"
    elif p is not None and p > settings.ks_p:
        failure = (
            "gate L1: the probabilities inside and outside the mask cannot be told apart"
            f" (Kolmogorov-Smirnov p = {p:.3g} above {settings.ks_p:g})"
        )
    elif distance is not None and settings.ks_distance is not None and distance < settings.ks_distance:
        failure = (
            "gate L1: the probabilities inside and outside the mask are too alike"
            f" (Kolmogorov-Smirnov D = {distance:.3g} below {settings.ks_distance:g})"
        )
    return Existence(failure, share, top, distance, p)


def _ks(
    positive: npt.NDArray[np.bool_], busy: npt.NDArray[np.floating[Any]], box: tuple[slice, ...]
) -> tuple[float, float]:
    """Two-sample KS distance and asymptotic p-value; (0, 1) where one side is empty.

    `busy` are the probabilities in a box, beyond which all are 0.
    """
    from scipy.stats import kstwobign

    m = int(np.count_nonzero(positive))
    n = positive.size - m
    if m == 0 or n == 0:
        return 0.0, 1.0
    # What is 0 falls into the first bin.
    everything = _histogram(busy)
    everything[0] += positive.size - busy.size
    inside = _histogram(busy[positive[box]])
    inside[0] += m - int(inside.sum())
    gap = np.abs(np.cumsum(inside) / m - np.cumsum(everything - inside) / n).max()
    return float(gap), float(kstwobign.sf(gap * math.sqrt(m * n / (m + n))))


def _histogram(chances: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """How many probabilities lie in each bin; that of 1 is the last. Exact: the bins' number is a power of two."""
    counts = np.zeros(_BINS, dtype=np.int64)
    # Slab by slab: in the cache it takes half as long.
    for slab in chances if chances.ndim > 1 else [chances]:
        wide = slab if slab.itemsize > 2 else slab.astype(np.float32)
        # Rounding may leave probabilities a little below 0 or above 1; whole numbers are cut towards 0.
        bins = np.minimum(wide * wide.dtype.type(_BINS), _BINS - 1).astype(np.int16)
        counts += np.bincount(bins.ravel(), minlength=_BINS)
    return counts


def _size(candidate: Candidate, ndim: int, settings: GateSettings) -> tuple[float, float, str]:
    """Size, smallest allowed size and their unit."""
    if candidate.volume is None:
        return float(candidate.voxels), float(settings.min_voxels), "voxels"
    if ndim == 2:
        return candidate.volume, settings.min_area, "mm²"
    return candidate.volume, settings.min_volume, "mm³"


def candidate_gate(
    candidate: Candidate, settings: GateSettings, *, ndim: int, overlap: float | None = None
) -> str | None:
    """L2: whether one candidate is big, certain and well placed enough; None, or why not.

    R2Seg, gate L2: size, mean probability, share inside the reference organs. The arms that
    need probabilities or an anatomy are left out without them.

    Parameters
    ----------
    candidate, settings
        What is judged and the thresholds.
    ndim
        2 or 3: sizes are areas or volumes.
    overlap
        Share of the candidate inside the reference organs; None without anatomy.

    Examples
    --------
    >>> c = Candidate(1, 1, "lesion", 4, 4.0, 2.0, (1.5, 1.5), (1.5, 1.5, 0.0), ((1, 3), (1, 3)), 120.0)
    >>> candidate_gate(c, GateSettings(), ndim=2)
    'gate L2: its size, 4 mm², is below 10 mm²'
    """
    size, least, unit = _size(candidate, ndim, settings)
    if size < least:
        return f"gate L2: its size, {size:.4g} {unit}, is below {least:g} {unit}"
    chance = candidate.mean_probability
    if chance is not None and chance < settings.mean_probability:
        return f"gate L2: its mean probability, {chance:.3g}, is below {settings.mean_probability:g}"
    if overlap is not None and overlap < settings.overlap:
        return f"gate L2: {overlap:.0%} of it lies in the reference organs, less than {settings.overlap:.0%}"
    return None


def case_score(candidate: Candidate, settings: GateSettings, *, ndim: int) -> float | None:
    """S of one candidate: mean probability times (or by) its length; None without probabilities.

    The length is √area in 2-D, as published, and the cube root of the volume in 3-D; in mm, or
    in pixels where the spacing is unknown.

    Examples
    --------
    >>> c = Candidate(1, 1, "x", 4, 16.0, 4.0, (1.5, 1.5), (1.5, 1.5, 0.0), ((1, 3), (1, 3)), 9.0, 0.5)
    >>> case_score(c, GateSettings(), ndim=2), case_score(c, GateSettings(case_form="quotient"), ndim=2)
    (2.0, 0.125)
    """
    if candidate.mean_probability is None:
        return None
    size = float(candidate.voxels) if candidate.volume is None else candidate.volume
    length = math.sqrt(size) if ndim == 2 else size ** (1 / 3)
    if settings.case_form == "product":
        return candidate.mean_probability * length
    return candidate.mean_probability / length


def case_gate(candidates: Sequence[Candidate], settings: GateSettings, *, ndim: int) -> str | None:
    """L3: whether the best of the surviving candidates is convincing; None, or why not.

    R2Seg, gate L3: S* = max S below the threshold empties the mask. Without candidates or
    probabilities there is nothing to say.
    """
    scores = [s for c in candidates if (s := case_score(c, settings, ndim=ndim)) is not None]
    if not scores or max(scores) >= settings.case_score:
        return None
    return f"gate L3: the best candidate's score, {max(scores):.3g}, is below {settings.case_score:g}"


def skipped_gates(settings: GateSettings, *, probabilities: bool, anatomy: bool) -> tuple[str, ...]:
    """In words, what the gates could not look at."""
    if not settings.enabled:
        return ("The gates were switched off.",)
    notes = []
    if not probabilities:
        notes.append(
            "No probabilities were given, so the gates on them were skipped (L1: largest probability and"
            " Kolmogorov-Smirnov; L2: mean probability; L3: case score)."
        )
    if not anatomy:
        notes.append("No organ was named as reference, so gate L2 did not ask whether candidates lie in one.")
    return tuple(notes)
