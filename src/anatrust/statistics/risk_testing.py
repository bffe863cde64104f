"""Thresholds that keep a risk below α with probability 1 - δ, for monotone losses and for any loss.

:func:`assured_threshold` (risk-controlling prediction sets, Bates et al. 2021) is for monotone losses:
``P(risk <= alpha) >= 1 - delta`` over calibration cohorts. :func:`learn_then_test` (Angelopoulos et al.
2021) is for any bounded loss, Dice, HD95 clipped or precision among them: every threshold tested in an
order fixed beforehand, the first failure ends the walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.loss_curves import EMPTY_SET, LossCurve, SafeEnd
from anatrust.statistics.risk_bounds import BoundName, risk_p_value
from anatrust.statistics.risk_control import RiskThreshold, check_monotone

__all__ = ["LearnThenTest", "assured_threshold", "learn_then_test"]


def assured_threshold(
    curves: Sequence[LossCurve], alpha: float, delta: float, *, safe: SafeEnd, bound: BoundName = "betting"
) -> RiskThreshold:
    """The high-probability version of conformal risk control (RCPS).

    Parameters
    ----------
    curves
        One monotone loss curve a calibration patient, in an order that does not depend on the losses.
    alpha, delta
        The mean loss stays at most α with probability at least 1 - δ over calibrations.
    safe
        The end at which losses vanish, see :func:`~anatrust.statistics.risk_control.conformal_threshold`.

    Notes
    -----
    Walks from the safe end through every set that differs, and ends at the first whose mean loss is not
    shown to be at most α. O(sets·n) time in the worst case, walked in blocks of 256 sets.

    Guarantee
    ---------
    ``P(E[L] <= alpha) >= 1 - delta`` for independent patients. The true risk is monotone, so a wrong
    answer must have passed the first threshold that is too risky, a fixed one, whose losses equal those
    of a set on the walk: one test, no correction (Bates et al. 2021, theorem 1).
    """
    if not (0 < alpha < 1 and 0 < delta < 1):
        raise InputError(f"alpha and delta lie between 0 and 1, not at {alpha} and {delta}")
    check_monotone(curves, safe)
    best = _walk(curves, alpha, delta, safe, bound) if curves else None
    n = len(curves)
    if best is None:
        end = 0 if safe == "low" else EMPTY_SET
        words = f"infeasible: {n} patients cannot assure a mean loss of {alpha:g} with confidence {1 - delta:g}"
        return RiskThreshold(end, False, alpha, n, 0.0, safe, words)
    words = f"mean loss at most {alpha:g} with confidence {1 - delta:g} over calibrations on {n} patients"
    return RiskThreshold(best[0], True, alpha, n, best[1], safe, words)


def _walk(
    curves: Sequence[LossCurve], alpha: float, delta: float, safe: SafeEnd, bound: BoundName
) -> tuple[int, float] | None:
    """The last threshold, and its mean loss, before the first that fails the test."""
    breaks = np.unique(np.concatenate([curve.breaks for curve in curves]))
    # The set is the same from one break to the next; the threshold furthest from the safe end stands for it.
    stops = np.append(breaks[1:] - 1, EMPTY_SET) if safe == "low" else breaks[::-1]
    best: tuple[int, float] | None = None
    for start in range(0, stops.size, 256):
        block = stops[start : start + 256]
        losses = np.stack(
            [curve.losses[np.searchsorted(curve.breaks, block, side="right") - 1] for curve in curves], axis=-1
        )
        passed = risk_p_value(losses, alpha, bound=bound, delta=delta) <= delta
        count = block.size if passed.all() else int(np.argmin(passed))
        if count:
            best = int(block[count - 1]), float(losses[count - 1].mean())
        if count < block.size:
            break
    return best


@dataclass(frozen=True)
class LearnThenTest:
    """Which of the tested settings hold, and the p-value of each that was tested."""

    accepted: tuple[int, ...]
    p_values: tuple[float, ...]
    alpha: float
    delta: float


def learn_then_test(
    losses: npt.ArrayLike, alpha: float, delta: float, *, bound: BoundName = "hoeffding-bentkus"
) -> LearnThenTest:
    """Fixed-sequence learn-then-test for losses that need not be monotone.

    Parameters
    ----------
    losses
        ``(settings, patients)`` losses in [0, 1], the settings in the order of testing (safest first),
        fixed before these patients were looked at.
    alpha, delta
        Every accepted setting has risk at most α, all at once, with probability at least 1 - δ.

    Guarantee
    ---------
    ``P(some accepted setting has risk > alpha) <= delta`` (fixed-sequence testing of valid p-values).

    Examples
    --------
    >>> table = np.array([[0.0] * 60, [0.02] * 60, [0.5] * 60])
    >>> learn_then_test(table, 0.1, 0.1).accepted
    (0, 1)
    """
    table = np.asarray(losses, dtype=np.float64)
    if table.ndim != 2:
        raise InputError(f"losses have the shape (settings, patients), not {table.shape}")
    p_values: list[float] = []
    for row in table:
        p_values.append(float(risk_p_value(row, alpha, bound=bound, delta=delta)))
        if p_values[-1] > delta:
            break
    accepted = tuple(i for i, p in enumerate(p_values) if p <= delta)
    return LearnThenTest(accepted, tuple(p_values), alpha, delta)
