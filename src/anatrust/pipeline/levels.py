"""The tolerated error levels: one dial for all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from anatrust.errors import InputError

__all__ = ["Levels"]


@dataclass(frozen=True)
class Levels:
    """The level α of each statement a verdict can make.

    Parameters
    ----------
    candidates
        False discovery rate among the kept candidates.
    sets
        Share missed by outer sets (where a profile has sets).
    screening
        Share of normal scans that screening flags (where a profile has screening).

    Raises
    ------
    InputError
        If a level is not strictly between 0 and 1.

    Examples
    --------
    >>> Levels()
    Levels(candidates=0.1, sets=0.1, screening=0.05)
    >>> Levels.all_at(0.2).screening
    0.2
    """

    candidates: float = 0.10
    sets: float = 0.10
    screening: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, int | float) and 0 < value < 1):
                raise InputError(f"the level alpha of {field.name} is {value!r}: give a number between 0 and 1")

    @classmethod
    def all_at(cls, alpha: float | None) -> Levels:
        """All levels at ``alpha``; the defaults if it is None."""
        return cls() if alpha is None else cls(alpha, alpha, alpha)

    def to_json(self) -> dict[str, float]:
        """The levels as plain JSON values."""
        return asdict(self)
