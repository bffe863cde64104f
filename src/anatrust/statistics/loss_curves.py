"""Losses of one patient as exact step functions of a threshold.

A membership score in [0, 1] is quantised to 65 536 levels (:func:`quantise`), the same way at
calibration and at prediction, so that a threshold means the same set on every machine. The
*set at threshold q* is ``{voxel: level >= q}``: q = 0 is the whole image, q = 65 536 is empty.
Every loss of that set is then a step function of q, stored exactly by its breaks; a cohort of
volumes that do not fit in memory is reduced patient by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = [
    "EMPTY_SET",
    "LEVELS",
    "LossCurve",
    "SafeEnd",
    "inner_loss_curve",
    "lesion_miss_curve",
    "outer_loss_curve",
    "quantise",
    "total_loss",
]

LEVELS = 65_536
EMPTY_SET = LEVELS
_PIECE = 1 << 16
SafeEnd = Literal["low", "high"]
_Levels = npt.NDArray[np.uint16]


def quantise(score: npt.ArrayLike) -> _Levels:
    """Levels 0..65535 (``uint16``, same shape) of scores in [0, 1]; monotone, one pass.

    Raises
    ------
    InputError
        If a score is NaN or outside [0, 1] by more than rounding.

    Examples
    --------
    >>> quantise([0.0, 0.5, 1.0]).tolist()
    [0, 32768, 65535]
    """
    values = np.asarray(score)
    if values.size:
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            raise InputError(f"scores lie in [{low:.3g}, {high:.3g}], not [0, 1]: apply softmax or sigmoid to logits")
    levels: _Levels = np.empty(values.shape, dtype=np.uint16)
    flat, out = values.ravel(), levels.reshape(-1)
    # Piece by piece: a volume's float64 copies would not fit into the cache, and hardly into memory.
    for start in range(0, flat.size, _PIECE):
        part = flat[start : start + _PIECE].astype(np.float64)
        np.clip(part, 0, 1, out=part)
        part *= LEVELS - 1
        out[start : start + _PIECE] = np.rint(part, out=part)
    return levels


@dataclass(frozen=True, eq=False)
class LossCurve:
    """A bounded loss of one patient against the threshold q in 0..65536.

    ``losses[j]`` holds for ``breaks[j] <= q < breaks[j + 1]``; ``breaks[0]`` is 0.
    """

    breaks: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        breaks = np.asarray(self.breaks, dtype=np.int64)
        losses = np.asarray(self.losses, dtype=np.float64)
        if breaks.ndim != 1 or breaks.shape != losses.shape or breaks.size == 0 or breaks[0] != 0:
            raise InputError("a loss curve needs as many losses as breaks, the first break at 0")
        if (np.diff(breaks) <= 0).any() or breaks[-1] > EMPTY_SET:
            raise InputError(f"breaks of a loss curve ascend within 0..{EMPTY_SET}")
        # Written so that NaN fails too: a NaN loss must never turn into a threshold.
        if not ((losses >= 0) & (losses <= 1)).all():
            raise InputError("losses lie in [0, 1] and are never NaN: divide by their bound, and state empty truths")
        object.__setattr__(self, "breaks", breaks)
        object.__setattr__(self, "losses", losses)

    @classmethod
    def from_function(cls, loss: Callable[[int], float], thresholds: Iterable[int]) -> LossCurve:
        """Curve of any loss evaluated at ascending thresholds; held constant in between."""
        at = np.unique(np.asarray([0, *thresholds], dtype=np.int64))
        return cls(at, np.array([loss(int(q)) for q in at], dtype=np.float64))

    def at(self, threshold: int) -> float:
        """Loss of the set at one threshold."""
        return float(self.losses[np.searchsorted(self.breaks, threshold, side="right") - 1])

    def is_monotone(self, safe: SafeEnd) -> bool:
        """Whether the loss never grows on the way to the safe end."""
        steps = np.diff(self.losses)
        return bool((steps >= 0).all() if safe == "low" else (steps <= 0).all())

    def monotone(self, safe: SafeEnd) -> LossCurve:
        """The smallest monotone loss above this one: its supremum over all safer thresholds' complements.

        Conformal risk control needs losses that only fall towards the safe end. Any bounded loss
        becomes one by replacing it with the supremum over the thresholds between itself and the
        safe end, which is conservative (Angelopoulos et al. 2024, section 4.1).
        """
        if safe == "low":
            return LossCurve(self.breaks, np.maximum.accumulate(self.losses))
        return LossCurve(self.breaks, np.maximum.accumulate(self.losses[::-1])[::-1])


def _counts(images: Iterable[tuple[Any, Any]], *, inside: bool) -> tuple[npt.NDArray[np.int64], int]:
    """Histogram of the levels inside (or outside) the truth, and the truth's size, over a patient's images."""
    histogram = np.zeros(LEVELS, dtype=np.int64)
    size = 0
    for levels, truth in images:
        chosen, where = np.asarray(levels), np.asarray(truth)
        if chosen.dtype != np.uint16 or where.dtype != np.bool_ or chosen.shape != where.shape:
            raise InputError("give uint16 levels (see quantise) and a boolean truth of the same shape")
        size += int(np.count_nonzero(where))
        histogram += np.bincount(chosen[where if inside else ~where], minlength=LEVELS)
    return histogram, size


def outer_loss_curve(images: Iterable[tuple[Any, Any]]) -> LossCurve | None:
    r"""Missed share of the structure, ``|Y \ C| / |Y|``; falls to 0 at the safe end ``"low"``.

    Parameters
    ----------
    images
        Pairs of ``uint16`` levels and boolean truth, any shapes. All images of one patient are
        pooled into one loss, because the patient is the exchangeable unit.

    Returns
    -------
    The curve, or None where the truth is empty: a missed share of nothing is not defined, and the
    guarantee is then about patients who have the structure. One pass; memory 0.5 MB.

    Examples
    --------
    >>> levels = quantise([0.9, 0.6, 0.2, 0.8])
    >>> curve = outer_loss_curve([(levels, np.array([True, True, False, False]))])
    >>> curve.at(0), round(curve.at(40000), 2), curve.at(EMPTY_SET)
    (0.0, 0.5, 1.0)
    """
    histogram, size = _counts(images, inside=True)
    if size == 0:
        return None
    levels = np.flatnonzero(histogram)
    missed = np.cumsum(histogram[levels])
    return LossCurve(np.concatenate([[0], levels + 1]), np.concatenate([[0.0], missed / size]))


def inner_loss_curve(images: Iterable[tuple[Any, Any]]) -> LossCurve | None:
    r"""Invented share ``min(1, |C \ Y| / |Y|)``; falls to 0 at the safe end ``"high"``.

    Unlike the precision ``|C \\ Y| / |C|`` it is monotone, so its control is exact. Returns None
    where the truth is empty.

    Examples
    --------
    >>> levels = quantise([0.9, 0.6, 0.2, 0.8])
    >>> curve = inner_loss_curve([(levels, np.array([True, True, False, False]))])
    >>> curve.at(0), curve.at(30000), curve.at(60000)
    (1.0, 0.5, 0.0)
    """
    histogram, size = _counts(images, inside=False)
    if size == 0:
        return None
    levels = np.flatnonzero(histogram)
    above = np.cumsum(histogram[levels][::-1])[::-1]
    losses = np.concatenate([np.minimum(1.0, above / size), [0.0]])
    return LossCurve(np.concatenate([[0], levels + 1]), losses)


def lesion_miss_curve(images: Iterable[tuple[Any, Any]], *, touched: float = 0.1) -> LossCurve | None:
    """Share of lesions hardly touched by the outer set; safe end ``"low"``.

    Parameters
    ----------
    images
        Pairs of ``uint16`` levels and an integer array numbering the lesions (0 is background;
        a number is one lesion, within an image).
    touched
        A lesion counts as missed when the set holds less than this share of its voxels.

    Returns
    -------
    The curve, or None where there is no lesion.
    """
    if not 0 < touched <= 1:
        raise InputError(f"touched is a share in (0, 1], not {touched}")
    last_hits: list[int] = []
    for levels, lesions in images:
        chosen, numbers = np.asarray(levels), np.asarray(lesions)
        if chosen.shape != numbers.shape:
            raise InputError("levels and lesions need the same shape")
        for number in np.unique(numbers[numbers != 0]):
            inside = np.sort(chosen[numbers == number])[::-1]
            # The lesion stays touched up to the level of its k-th highest voxel.
            last_hits.append(int(inside[int(np.ceil(touched * inside.size - 1e-9)) - 1]))
    if not last_hits:
        return None
    levels_hit, counts = np.unique(last_hits, return_counts=True)
    missed = np.cumsum(counts) / len(last_hits)
    return LossCurve(np.concatenate([[0], levels_hit + 1]), np.concatenate([[0.0], missed]))


def total_loss(
    curves: Iterable[LossCurve], weights: npt.ArrayLike | None = None
) -> tuple[npt.NDArray[np.float64], float]:
    """Sum of (weighted) losses at every threshold 0..65536, and the sum of the weights.

    One pass over the curves and 0.5 MB, whatever their number: two totals of two halves of a
    cohort add up to the total of the cohort.
    """
    steps = np.zeros(LEVELS + 1)
    mass = 0.0
    given = None if weights is None else iter(np.asarray(weights, dtype=np.float64))
    for curve in curves:
        weight = 1.0 if given is None else float(next(given))
        mass += weight
        steps[curve.breaks] += weight * np.diff(curve.losses, prepend=0.0)
    return np.cumsum(steps), mass
