"""What every hypothesis test of this room returns, and for whom its p-value is true."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from anatrust.errors import InputError

__all__ = ["VALID_FOR", "NullName", "TestResult"]

NullName = Literal["iid", "block", "placement", "surrogate-max", "cohort"]

VALID_FOR: Mapping[str, str] = MappingProxyType(
    {
        "iid": "exchangeable pixels, which the pixels of a scan are not: invalid on images, kept for fidelity",
        "block": "exchangeable spatial blocks: approximate, invalid where blocks differ or correlate",
        "placement": "a place chosen without looking at the image, uniformly among the admissible ones: exact",
        "surrogate-max": "places chosen by looking at this image: approximate, the tissue must resemble its surrogates",
        "cohort": "candidates of the same segmenter in exchangeable patients: exact on average over calibrations",
    }
)
"""For each null hypothesis, the candidates for which P(p ≤ t) ≤ t holds, and how well."""


@dataclass(frozen=True)
class TestResult:
    """Outcome of one hypothesis test.

    Parameters
    ----------
    statistic
        Observed value of the test statistic (larger = more different). NaN when the test
        abstained. For aggregated tests it is the aggregate, not one kernel's MMD².
    p_value
        In (0, 1]. 1.0 when the test abstained.
    floor
        The smallest p-value this test could have returned, e.g. ``1 / (B + 1)``. Compare it
        with the level *before* trusting a "not significant".
    n_draws
        Null draws that were compared with the observed statistic (not counting itself).
    null
        How the null draws were made; see `VALID_FOR`.
    engine
        How the statistic was computed, e.g. ``"histogram"``; ``"none"`` when nothing was.
    valid_for
        The candidates for which the p-value is true, in words.
    abstained
        None, or one sentence why no test could be made.

    Raises
    ------
    InputError
        If a value is out of its range.

    Examples
    --------
    >>> result = TestResult(0.2, 0.01, 0.001, 999, "iid", "histogram", VALID_FOR["iid"])
    >>> result.abstained is None
    True
    >>> TestResult.abstain("the candidate has 1 voxel; a test needs 2", null="placement").p_value
    1.0

    Guarantee
    ---------
    None by itself: `valid_for` repeats what the test that made it promises.
    """

    # pytest collects classes called Test*; this one is no test case.
    __test__ = False

    statistic: float
    p_value: float
    floor: float
    n_draws: int
    null: NullName
    engine: str
    valid_for: str
    abstained: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.p_value <= 1.0:
            raise InputError(f"a p-value must lie in (0, 1], not {self.p_value}: add the observed value to the draws")
        if not 0.0 < self.floor <= 1.0 or self.p_value < self.floor * (1 - 1e-12):
            raise InputError(f"the p floor {self.floor} must lie in (0, 1] and not above p = {self.p_value}")
        if self.abstained is None and not math.isfinite(self.statistic):
            raise InputError(f"a test statistic must be finite, not {self.statistic}: abstain instead")
        if self.abstained is not None and self.p_value != 1.0:
            raise InputError(f"an abstained test has p = 1, not {self.p_value}")

    @classmethod
    def abstain(
        cls, reason: str, *, null: NullName, engine: str = "none", n_draws: int = 0, floor: float = 1.0
    ) -> TestResult:
        """Make the result of a test that could not be made: p = 1, so nothing is rejected.

        Parameters
        ----------
        reason
            One sentence: what is missing.
        null, engine, n_draws, floor
            As in the class.
        """
        return cls(math.nan, 1.0, floor, n_draws, null, engine, VALID_FOR[null], reason)
