"""Do the scans that come in stop being like the old ones? Online p-values and a martingale with an alarm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError

__all__ = ["DriftMonitor", "DriftStep"]

_STAKES = np.array([-1.0, 0.0, 1.0])


@dataclass(frozen=True)
class DriftStep:
    """After one scan: its online p-value, the wealth of the bet against "nothing changed", and its largest so far."""

    p_value: float
    wealth: float
    largest: float
    alarm: bool


@dataclass
class DriftMonitor:
    """Sequential test that scans, in order of date, stay exchangeable with the calibration scans.

    Each new score is ranked among all before it (calibration scans first), ties at random, and then
    appended: without drift these p-values are independent and uniform, whatever the scores. A
    "simple jumper" martingale bets on them being small or large; if nothing changes its wealth ever
    reaches 1/level with probability at most ``level``.

    Parameters
    ----------
    calibration
        ``(n,)`` scores of usual scans, by the same fitted detector; may be empty.
    level
        Chance of a false alarm over the *whole* future, however long.
    jump
        How readily the bet changes sides (0.01 in the source).
    seed
        Of the ties.

    Guarantee
    ---------
    Ville's inequality: P(alarm ever) ≤ level while all scans are exchangeable. Nothing is promised
    about how soon a change is found. Scans of one patient close together are not exchangeable:
    give one a patient.

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman. Retrain or not retrain: conformal test
    martingales for change-point detection. COPA 2021, algorithm 1.

    Examples
    --------
    >>> monitor = DriftMonitor(np.arange(50.0), level=0.05)
    >>> steps = [monitor.update(1000.0 + i) for i in range(30)]
    >>> steps[0].alarm, steps[-1].alarm
    (False, True)
    """

    calibration: npt.ArrayLike
    level: float = 0.01
    jump: float = 0.01
    seed: int = 0
    count: int = field(default=0, init=False)
    largest: float = field(default=1.0, init=False)
    _history: list[float] = field(default_factory=list, init=False, repr=False)
    _capital: npt.NDArray[np.float64] = field(default_factory=lambda: np.full(3, 1 / 3), init=False, repr=False)

    def __post_init__(self) -> None:
        scores = np.asarray(self.calibration, dtype=np.float64)
        if scores.ndim != 1 or np.isnan(scores).any():
            raise InputError("calibration scores are one row of numbers without NaN")
        if not 0 < self.level < 1 or not 0 <= self.jump <= 1:
            raise InputError(f"level lies in (0, 1) and jump in [0, 1], not {self.level} and {self.jump}")
        self._history = scores.tolist()

    @property
    def wealth(self) -> float:
        """Present wealth; 1 at the start."""
        return float(self._capital.sum())

    @property
    def alarm(self) -> bool:
        """Whether the wealth ever reached 1/level."""
        return self.largest >= 1 / self.level

    def update(self, score: float) -> DriftStep:
        """Take in the next scan's abnormality (higher = stranger).

        Raises
        ------
        InputError
            If it is NaN (for a scan without prediction choose +inf, for calibration scans too).
        """
        if np.isnan(score):
            raise InputError("a score is NaN: give +inf for a scan that could not be scored")
        past = np.array(self._history)
        # Seeded by place, so that a monitor read from a file goes on as if it had never stopped.
        tie = np.random.default_rng([self.seed, self.count]).random()
        p = float(((past > score).sum() + tie * ((past == score).sum() + 1)) / (past.size + 1))
        self._history.append(float(score))
        self.count += 1
        shared = (1 - self.jump) * self._capital + self.jump * self._capital.sum() / 3
        self._capital = shared * (1 + _STAKES * (p - 0.5))
        self.largest = max(self.largest, self.wealth)
        return DriftStep(p, self.wealth, self.largest, self.alarm)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays for a file."""
        header = {"schema": 1, "level": self.level, "jump": self.jump, "seed": self.seed, "count": self.count}
        return {
            "history": np.array(self._history, dtype=np.float64),
            "capital": np.append(self._capital, self.largest),
            "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> DriftMonitor:
        """The monitor :meth:`to_arrays` wrote.

        Raises
        ------
        FormatError
            If it is foreign, newer or damaged.
        """
        try:
            header = json.loads(arrays["header"].tobytes())
            if header["schema"] != 1:
                raise FormatError(f"the drift monitor has schema {header['schema']}, newer than this version: update")
            monitor = cls(arrays["history"], header["level"], header["jump"], header["seed"])
            *capital, largest = (float(v) for v in arrays["capital"])
            count = int(header["count"])
            if (
                len(capital) != 3
                or min(capital) < 0
                or not largest >= sum(capital)
                or not 0 <= count <= len(monitor._history)
            ):
                raise FormatError("the drift monitor's wealth does not fit its history: start it again")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"this is no drift monitor ({str(error).splitlines()[0]}): start it again") from None
        monitor._capital, monitor.largest, monitor.count = np.array(capital), largest, count
        return monitor
