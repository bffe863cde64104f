"""Conformal risk control: thresholds whose expected loss on the next patient is at most α.

Guarantee
---------
For exchangeable patients and losses in [0, 1] that never grow towards the safe end, the threshold
of :func:`conformal_threshold` satisfies ``E[L(next patient)] <= alpha``, the mean being over
calibration cohorts *and* the next patient (Angelopoulos, Bates, Fisch, Lei, Schuster: Conformal
risk control, ICLR 2024, theorem 1). It says nothing about one patient or one voxel. It needs
``n >= 1/alpha - 1`` patients; with fewer the answer is *infeasible*: the safe end, said in words.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.loss_curves import EMPTY_SET, LossCurve, SafeEnd, total_loss

__all__ = [
    "LossSketch",
    "OnlineThreshold",
    "RiskThreshold",
    "check_monotone",
    "conformal_threshold",
    "effective_sample_size",
    "grouped_thresholds",
    "patients_needed",
    "simultaneous_curve",
    "weighted_threshold",
]

# Sums of n rational losses carry rounding of this size. A sum this close to the budget is a tie and
# counts as equal: losses on a lattice (k of m lesions) tie often, and giving ties away would halve the
# budget of small cohorts. The promise is thereby exceeded by 1e-12 at most, which no cohort can show.
_SLACK = 1e-12


@dataclass(frozen=True)
class RiskThreshold:
    """A calibrated threshold and what it rests on.

    ``threshold`` is a level 0..65536; ``feasible`` is False where the promise cannot be made, and
    then ``threshold`` is the safe end. ``mean_loss`` is the calibration mean there.
    """

    threshold: int
    feasible: bool
    alpha: float
    patients: int
    mean_loss: float
    safe: SafeEnd
    sentence: str


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"alpha is a share between 0 and 1, not {alpha}")


def patients_needed(alpha: float) -> int:
    """Fewest calibration patients for which a mean loss of α can be promised: ``ceil(1/α) - 1``.

    Examples
    --------
    >>> [patients_needed(a) for a in (0.2, 0.1, 0.05, 0.02)]
    [4, 9, 19, 49]
    """
    _check_alpha(alpha)
    return max(1, int(np.ceil(1 / alpha - 1e-9)) - 1)


def _select(total: npt.NDArray[np.float64], budget: float, safe: SafeEnd) -> int:
    """The threshold furthest from the safe end whose total loss, and all on the way to it, fits the budget."""
    fits = total <= budget
    if safe == "low":
        return int(np.argmin(fits)) - 1 if not fits.all() else EMPTY_SET
    return EMPTY_SET + 1 - int(np.argmin(fits[::-1])) if not fits.all() else 0


def _safe_end(safe: SafeEnd) -> int:
    return 0 if safe == "low" else EMPTY_SET


def check_monotone(curves: Sequence[LossCurve], safe: SafeEnd) -> None:
    """Refuse loss curves that grow somewhere on the way to the safe end."""
    bad = next((i for i, curve in enumerate(curves) if not curve.is_monotone(safe)), None)
    if bad is not None:
        raise _not_monotone(bad, safe)


def _not_monotone(number: int, safe: SafeEnd) -> InputError:
    return InputError(
        f"loss curve {number} is not monotone towards the safe end '{safe}': use curve.monotone('{safe}')"
    )


class LossSketch:
    """Everything risk control needs to know of a cohort, gathered in one pass: 0.5 MB, whatever its size.

    The sum of the patients' losses at each of the 65 537 thresholds, exactly, and their number. Sketches of two
    parts of a cohort merge into that of the whole.

    Parameters
    ----------
    safe
        The end at which losses vanish, see `conformal_threshold`.

    Examples
    --------
    >>> here, there = LossSketch("low"), LossSketch("low")
    >>> for i in range(10):
    ...     here.add(LossCurve([0, 100 + i], [0.0, 1.0]))
    ...     there.add(LossCurve([0, 110 + i], [0.0, 1.0]))
    >>> here.merge(there)
    >>> here.patients, here.threshold(0.1).threshold
    (20, 100)
    """

    def __init__(self, safe: SafeEnd) -> None:
        self.safe = safe
        self.patients = 0
        self._steps = np.zeros(EMPTY_SET + 1)

    def add(self, curve: LossCurve) -> None:
        """One more patient.

        Raises
        ------
        InputError
            If the curve grows somewhere on the way to the safe end.
        """
        if not curve.is_monotone(self.safe):
            raise _not_monotone(self.patients, self.safe)
        self._steps[curve.breaks] += np.diff(curve.losses, prepend=0.0)
        self.patients += 1

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """Sum of the losses at every threshold 0..65536."""
        return np.cumsum(self._steps)

    def merge(self, other: LossSketch) -> None:
        """Add the patients of another sketch, none of whom is in this one."""
        if other.safe != self.safe:
            raise InputError("only sketches of losses with the same safe end can be merged")
        self._steps += other._steps
        self.patients += other.patients

    def threshold(self, alpha: float) -> RiskThreshold:
        """The exact threshold of `conformal_threshold`; O(65 536)."""
        _check_alpha(alpha)
        n, safe = self.patients, self.safe
        end = _safe_end(safe)
        if n < patients_needed(alpha):
            words = f"infeasible: a mean loss of {alpha:g} needs {patients_needed(alpha)} patients, there are {n}"
            return RiskThreshold(end, False, alpha, n, 0.0, safe, words)
        total = self.total
        budget = max((n + 1) * alpha - 1, 0.0) + _SLACK * n
        # Losses need not vanish at the safe end (an invented share may); then nothing can be promised.
        if total[end] > budget:
            words = f"infeasible: even the safest set loses {total[end] / n:.3g} on average"
            return RiskThreshold(end, False, alpha, n, float(total[end] / n), safe, words)
        threshold = _select(total, budget, safe)
        words = f"mean loss at most {alpha:g} over patients like the {n} calibrated on; one patient may lose more"
        return RiskThreshold(threshold, True, alpha, n, float(total[threshold] / n), safe, words)


def conformal_threshold(curves: Iterable[LossCurve], alpha: float, *, safe: SafeEnd) -> RiskThreshold:
    """Exact conformal risk control: no grid, the threshold itself.

    Parameters
    ----------
    curves
        One monotone loss curve a calibration patient; a generator needs the memory of one.
    alpha
        Promised mean loss of the next patient.
    safe
        ``"low"`` for losses that vanish for large sets (missed share), ``"high"`` for losses that
        vanish for small ones (invented share).

    Raises
    ------
    InputError
        If α is not in (0, 1) or a curve is not monotone.

    Notes
    -----
    Picks the threshold furthest from the safe end with ``(sum of losses + 1) / (n + 1) <= alpha``.
    O(n·breaks + 65536) time, 1 MB (`LossSketch`).

    Guarantee
    ---------
    ``E[loss] <= alpha`` for exchangeable patients (see the module); a simulation tests it.

    Examples
    --------
    >>> from anatrust.statistics.loss_curves import LossCurve
    >>> curves = [LossCurve([0, 100 + i], [0.0, 1.0]) for i in range(19)]
    >>> found = conformal_threshold(curves, 0.1, safe="low")
    >>> found.threshold, found.feasible
    (100, True)
    >>> conformal_threshold(curves[:3], 0.1, safe="low").feasible
    False
    """
    _check_alpha(alpha)
    sketch = LossSketch(safe)
    for curve in curves:
        sketch.add(curve)
    return sketch.threshold(alpha)


def weighted_threshold(
    curves: Sequence[LossCurve], weights: npt.ArrayLike, test_weight: float, alpha: float, *, safe: SafeEnd
) -> RiskThreshold:
    """Conformal risk control under covariate shift; the threshold depends on the scan through its weight.

    ``weights`` are the likelihood ratios (new over calibration distribution) of the calibration
    patients and ``test_weight`` that of the scan at hand. Exact for known ratios, approximate for
    learnt ones: learn them on other data, and show :func:`effective_sample_size`
    (Tibshirani et al. 2019; Angelopoulos et al. 2024, proposition 4).
    """
    _check_alpha(alpha)
    check_monotone(curves, safe)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (len(curves),) or not np.isfinite(values).all() or (values < 0).any() or values.sum() == 0:
        raise InputError("give one finite, non-negative weight a calibration patient, not all zero")
    if not (np.isfinite(test_weight) and test_weight >= 0):
        raise InputError(f"the weight of the scan must be finite and not negative, not {test_weight}")
    total, mass = total_loss(curves, values)
    budget = alpha * (mass + test_weight) - test_weight + _SLACK * mass
    n = len(curves)
    ess = effective_sample_size(values)
    feasible = bool(total[_safe_end(safe)] <= budget)
    threshold = _select(total, budget, safe) if feasible else _safe_end(safe)
    share = float(np.clip(total[threshold] / mass, 0, 1))
    words = (
        f"weighted mean loss at most {alpha:g} if the weights are right; {n} patients count as {ess:.1f}"
        if feasible
        else f"infeasible: this scan's weight is too large against {n} patients that count as {ess:.1f}"
    )
    return RiskThreshold(threshold, feasible, alpha, n, share, safe, words)


def effective_sample_size(weights: npt.ArrayLike) -> float:
    """Kish's ``(Σw)² / Σw²``: how many equally weighted patients the weighted ones are worth.

    Examples
    --------
    >>> effective_sample_size([1, 1, 1, 1]), effective_sample_size([1, 0, 0, 0])
    (4.0, 1.0)
    """
    values = np.asarray(weights, dtype=np.float64)
    return float(values.sum() ** 2 / (values**2).sum())


def grouped_thresholds(
    curves: Sequence[LossCurve], groups: Sequence[Hashable], alpha: float, *, safe: SafeEnd
) -> Mapping[Hashable, RiskThreshold]:
    """One threshold a group fixed before calibration (Mondrian): the promise holds within each.

    A group of too few patients is infeasible by itself; it is not merged silently.
    """
    if len(curves) != len(groups):
        raise InputError(f"{len(curves)} loss curves but {len(groups)} groups")
    return {
        group: conformal_threshold([c for c, g in zip(curves, groups, strict=True) if g == group], alpha, safe=safe)
        for group in dict.fromkeys(groups)
    }


def simultaneous_curve(curves: Sequence[LossCurve]) -> LossCurve:
    """The largest of a patient's class losses at every threshold: controlling it controls them all at once."""
    if not curves:
        raise InputError("a simultaneous loss needs at least one class")
    breaks = np.unique(np.concatenate([curve.breaks for curve in curves]))
    stacked = [curve.losses[np.searchsorted(curve.breaks, breaks, side="right") - 1] for curve in curves]
    return LossCurve(breaks, np.max(stacked, axis=0))


@dataclass(frozen=True)
class OnlineThreshold:
    """Adaptive threshold for a stream whose truth arrives later; safe end ``"low"``.

    After each revealed loss the threshold moves by ``step * (alpha - loss)`` (Gibbs & Candès 2021;
    Feldman et al. 2023). Guarantee: the *long-run average* loss tends to at most α for any
    stream; nothing is promised for one scan.
    """

    threshold: float
    alpha: float
    step: float

    def update(self, loss: float) -> OnlineThreshold:
        """The next state, given the loss of the last set."""
        if not 0 <= loss <= 1:
            raise InputError(f"a loss lies in [0, 1], not {loss}")
        # Below 0 the set is the whole image already; staying there keeps the integral of the errors honest.
        moved = self.threshold + self.step * (self.alpha - loss) * EMPTY_SET
        return OnlineThreshold(float(np.clip(moved, 0, EMPTY_SET)), self.alpha, self.step)
