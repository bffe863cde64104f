"""How well an abnormality score tells strange scans from usual ones; strange is the positive class throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["DetectionMetrics", "aupr", "auroc", "compare_auroc", "detection_metrics", "fpr_at_tpr"]

FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]


def _scores(inside: npt.ArrayLike, outside: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    usual, strange = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    if usual.ndim != 1 or strange.ndim != 1 or not usual.size or not strange.size:
        raise InputError(
            f"detection needs one score a scan of both kinds, not shapes {usual.shape} and {strange.shape}"
        )
    if np.isnan(usual).any() or np.isnan(strange).any():
        raise InputError("a score is NaN: score every scan, or use inf for one that could not be scored")
    return usual, strange


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Chance that a random strange scan scores above a random usual one, ties counted half.

    Parameters
    ----------
    inside, outside
        ``(n,)`` and ``(m,)`` scores of usual and strange scans, higher = stranger, infinities allowed.

    Returns
    -------
    float
        In [0, 1]; the Mann–Whitney statistic over n·m. Cost: a sort.

    Raises
    ------
    InputError
        If a list is empty or a score is NaN.

    Examples
    --------
    >>> auroc([0.1, 0.2, 0.3], [0.25, 0.9])
    0.8333333333333334
    """
    usual, strange = _scores(inside, outside)
    ordered = np.sort(usual)
    below, to = (np.searchsorted(ordered, strange, side=side) for side in ("left", "right"))
    return float((below + to).sum() / (2.0 * usual.size * strange.size))


def _counts(usual: FloatArray, strange: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Usual and strange scans at or above each distinct score, from the highest score down."""
    cuts = np.unique(np.concatenate([usual, strange]))[::-1]
    false = usual.size - np.searchsorted(np.sort(usual), cuts, side="left")
    true = strange.size - np.searchsorted(np.sort(strange), cuts, side="left")
    return false.astype(np.float64), true.astype(np.float64)


def aupr(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Average precision: sum over thresholds of precision times the recall gained there.

    Parameters
    ----------
    positive, negative
        Scores of the class to be found (higher = more of it) and of the other. For AUPR-out give
        the strange scans first; for AUPR-in the usual ones first and all scores negated.

    Raises
    ------
    InputError
        If a list is empty or a score is NaN.

    Examples
    --------
    >>> round(aupr([0.25, 0.9], [0.1, 0.2, 0.3]), 4)
    0.8333
    """
    other, found = _scores(negative, positive)
    false, true = _counts(other, found)
    gained = np.diff(true, prepend=0.0)
    return float(np.sum(gained * true / (true + false)) / found.size)


def fpr_at_tpr(inside: npt.ArrayLike, outside: npt.ArrayLike, *, tpr: float = 0.95) -> float:
    """Share of usual scans flagged at the highest threshold that flags at least ``tpr`` of the strange ones.

    FPR95 with strange as the positive class. Every distinct score is a threshold: dropping
    "intermediate" ROC points, as scikit-learn does by default, can report a larger value on ties.

    Raises
    ------
    InputError
        If a list is empty, a score is NaN, or ``tpr`` is not in (0, 1].

    Examples
    --------
    >>> fpr_at_tpr([0.1, 0.2, 0.3], [0.25, 0.9])
    0.3333333333333333
    """
    if not 0 < tpr <= 1:
        raise InputError(f"the true positive rate is a share above 0 and at most 1, not {tpr}")
    usual, strange = _scores(inside, outside)
    false, true = _counts(usual, strange)
    # The same division as a ROC curve makes, so that 19 of 20 reaches 0.95.
    return float(false[np.argmax(true / strange.size >= tpr)] / usual.size)


@dataclass(frozen=True)
class DetectionMetrics:
    """Point values and percentile intervals of a bootstrap over scans.

    ``n_inside`` and ``n_outside`` count the scans. Intervals are (low, high) at ``confidence``.
    """

    auroc: float
    aupr_out: float
    aupr_in: float
    fpr95: float
    auroc_interval: Interval
    aupr_out_interval: Interval
    aupr_in_interval: Interval
    fpr95_interval: Interval
    n_inside: int
    n_outside: int
    confidence: float

    @property
    def rank_biserial(self) -> float:
        """Effect size of Mann and Whitney's test, in [-1, 1]: 2 AUROC - 1."""
        return 2 * self.auroc - 1


def _panel(usual: FloatArray, strange: FloatArray) -> tuple[float, float, float, float]:
    return auroc(usual, strange), aupr(strange, usual), aupr(-usual, -strange), fpr_at_tpr(usual, strange)


def _check_draws(draws: int, confidence: float) -> None:
    if draws < 1 or not 0 < confidence < 1:
        raise InputError(f"a bootstrap needs at least one draw and a confidence in (0, 1), not {draws}, {confidence}")


def detection_metrics(
    inside: npt.ArrayLike, outside: npt.ArrayLike, *, draws: int = 1000, confidence: float = 0.95, seed: int = 0
) -> DetectionMetrics:
    """AUROC, AUPR of both kinds and FPR95 with intervals from resampling scans within each kind.

    Parameters
    ----------
    inside, outside
        One score a scan, higher = stranger; one scan a patient, or the intervals are too narrow.
    draws, confidence, seed
        Of the bootstrap. Cost: ``draws`` sorts.

    Returns
    -------
    DetectionMetrics
        The interval says how far the value could lie for other *scans* of the same detector; how
        far it moves when the detector is fitted again is a matter of re-splits, not shown by it.

    Raises
    ------
    InputError
        If a list is empty, a score is NaN, or a bootstrap setting is impossible.

    Examples
    --------
    >>> found = detection_metrics([0.1, 0.2, 0.3], [0.25, 0.9, 0.8], draws=50)
    >>> round(found.auroc, 3), found.n_outside
    (0.889, 3)
    """
    _check_draws(draws, confidence)
    usual, strange = _scores(inside, outside)
    rng = np.random.default_rng(seed)
    tables = [
        _panel(rng.choice(usual, usual.size), rng.choice(strange, strange.size))  # both with replacement
        for _ in range(draws)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(tables), (tail, 1 - tail), axis=0)
    roc, out, inn, fpr = ((float(a), float(b)) for a, b in zip(low, high, strict=True))
    return DetectionMetrics(*_panel(usual, strange), roc, out, inn, fpr, usual.size, strange.size, confidence)


def compare_auroc(
    first: tuple[npt.ArrayLike, npt.ArrayLike],
    second: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, Interval]:
    """AUROC of the first detector minus that of the second *on the same scans*, with a paired interval.

    Parameters
    ----------
    first, second
        ``(inside, outside)`` scores of each detector, scan by scan in the same order.
    draws, confidence, seed
        Of the bootstrap over scans; both detectors are resampled alike.

    Raises
    ------
    InputError
        If the detectors did not score the same number of scans, or as in :func:`detection_metrics`.

    Examples
    --------
    >>> compare_auroc(([0.1, 0.2], [0.9, 0.8]), ([0.1, 0.9], [0.9, 0.8]), draws=20)[0]
    0.375
    """
    _check_draws(draws, confidence)
    (a_in, a_out), (b_in, b_out) = _scores(*first), _scores(*second)
    if a_in.size != b_in.size or a_out.size != b_out.size:
        raise InputError("a paired comparison needs both detectors' scores of the same scans in the same order")
    rng = np.random.default_rng(seed)
    gaps = []
    for _ in range(draws):
        i, o = rng.integers(a_in.size, size=a_in.size), rng.integers(a_out.size, size=a_out.size)
        gaps.append(auroc(a_in[i], a_out[o]) - auroc(b_in[i], b_out[o]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(gaps, (tail, 1 - tail))
    return auroc(a_in, a_out) - auroc(b_in, b_out), (float(low), float(high))
