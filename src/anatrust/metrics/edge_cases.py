"""What a metric answers when the truth or the prediction is empty: one policy object, written down with the result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from anatrust.errors import InputError

__all__ = ["EdgeCases", "plain_number"]


def plain_number(value: float) -> float | str | None:
    """A metric's value as strict JSON: NaN becomes None, infinity ``"inf"``.

    Examples
    --------
    >>> plain_number(math.nan), plain_number(math.inf), plain_number(0.5)
    (None, 'inf', 0.5)
    """
    if math.isnan(value):
        return None
    return "inf" if value == math.inf else value


@dataclass(frozen=True)
class EdgeCases:
    """The value each family of metrics takes where its formula is 0/0 or has nothing to measure.

    Tumour data hold healthy scans, so these values decide averages: a correct empty mask that
    counts as Dice 1 can dominate a mean. Report Dice on scans with lesions and specificity on
    scans without, and store the policy beside the numbers.

    Parameters
    ----------
    overlap_both_empty
        Dice and IoU when truth and prediction are both empty. (With one of them empty the
        formula itself gives 0.)
    rate_undefined
        Sensitivity without truth, precision without prediction, specificity without
        background, and the relative volume difference without truth.
    distance_both_empty, distance_one_empty
        ASSD and HD95 when both surfaces, or one of them, do not exist.
    lesions_both_empty
        Lesion F1 when there is no lesion in the truth and none in the prediction.

    Raises
    ------
    InputError
        If an overlap or rate lies outside [0, 1] or a distance is negative (NaN is allowed:
        "leave this scan out of the mean").

    Examples
    --------
    >>> EdgeCases().overlap_both_empty, EdgeCases().distance_one_empty
    (1.0, inf)
    >>> EdgeCases.from_json(EdgeCases().to_json()).to_json() == EdgeCases().to_json()
    True
    """

    overlap_both_empty: float = 1.0
    rate_undefined: float = math.nan
    distance_both_empty: float = 0.0
    distance_one_empty: float = math.inf
    lesions_both_empty: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = float(getattr(self, field.name))
            highest = math.inf if field.name.startswith("distance") else 1.0
            if not (math.isnan(value) or 0 <= value <= highest):
                raise InputError(f"EdgeCases.{field.name} is {value:g}: give NaN or a number from 0 to {highest:g}")
            object.__setattr__(self, field.name, value)

    @classmethod
    def undefined(cls) -> EdgeCases:
        """The policy that leaves every such scan out: all values NaN (as MONAI does by default)."""
        return cls(*[math.nan] * len(fields(cls)))

    def to_json(self) -> dict[str, float | str | None]:
        """Plain JSON values, see :func:`plain_number`."""
        return {key: plain_number(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> EdgeCases:
        """The policy :meth:`to_json` wrote; an unknown key is an :class:`~anatrust.errors.InputError`."""
        unknown = sorted(set(plain) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"unknown edge case {unknown[0]!r}: known are {', '.join(f.name for f in fields(cls))}")
        return cls(**{key: math.nan if value is None else float(value) for key, value in plain.items()})
