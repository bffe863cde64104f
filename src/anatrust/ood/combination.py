"""Several detectors as one score: the average of their ranks among usual scans they were not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.ood.detectors.base import Rows, taken

__all__ = ["RankAverage"]


@dataclass(frozen=True, eq=False)
class RankAverage:
    """Mean over detectors of a score's rank among reference scores of usual scans.

    Fixed before calibration, so conformal p-values of the average are valid; picking the best
    detector on the calibration patients would not be.

    Parameters
    ----------
    references
        ``(detectors, n)`` scores of the fit patients' usual scans, each by a detector that was
        fitted without that scan (in-sample scores are too low).

    Raises
    ------
    InputError
        If there is no score or one is not finite.

    Examples
    --------
    >>> average = RankAverage(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    >>> average.of(np.array([[2.5], [15.0]])).tolist()
    [0.5]
    """

    references: Rows
    schema: ClassVar[int] = 1

    def __post_init__(self) -> None:
        references = np.sort(np.array(self.references, dtype=np.float64), axis=-1)
        if references.ndim != 2 or not references.size or not np.isfinite(references).all():
            raise InputError("a rank average needs finite reference scores (detectors, scans)")
        references.setflags(write=False)
        object.__setattr__(self, "references", references)

    def of(self, scores: npt.ArrayLike) -> Rows:
        """``(k,)`` averages of ``(detectors, k)`` scores.

        A rank is the share of reference scores below (ties half). Beyond the largest reference it
        goes on growing towards one further rank, so very strange scans do not tie; below the
        smallest likewise.
        """
        given = np.asarray(scores, dtype=np.float64)
        if given.ndim != 2 or len(given) != len(self.references):
            raise InputError(f"scores of {len(self.references)} detectors are needed, not shape {given.shape}")
        return np.asarray(np.mean([_ranks(*pair) for pair in zip(self.references, given, strict=True)], axis=0))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays for a file."""
        return {"references": self.references}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], detectors: int) -> RankAverage:
        """The average :meth:`to_arrays` wrote, of this many detectors."""
        references = taken(arrays, "references", (detectors, None))
        if not references.size:
            raise FormatError("the reference scores of a rank average are missing: fit the profile again")
        return cls(references)


def _ranks(reference: Rows, scores: Rows) -> Rows:
    n = reference.size
    below, to = (np.searchsorted(reference, scores, side=side) for side in ("left", "right"))
    spread = float(np.ptp(reference)) or 1.0
    over = np.maximum(scores - reference[-1], 0.0)
    under = np.maximum(reference[0] - scores, 0.0)
    return np.asarray(((below + to) / 2 + over / (over + spread) - under / (under + spread)) / n)
