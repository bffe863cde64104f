"""What `reject` returns: the judged candidates, three masks, and what may be said about them."""

from __future__ import annotations

from dataclasses import dataclass

from anatrust.errors import GeometryError
from anatrust.image.volumes import Mask
from anatrust.rejection.candidate import Candidate, Decision
from anatrust.rejection.settings import RejectionSettings
from anatrust.rejection.statements import Claim

__all__ = ["Rejection"]


@dataclass(frozen=True, eq=False)
class Rejection:
    """The judged candidates of one scan.

    Every candidate is in exactly one of the three masks. An *undecidable* candidate is neither
    kept nor rejected: nothing could be shown for it, so it is listed for a person to look at.

    Parameters
    ----------
    candidates
        In canonical order (number 1 first), each with decision and reason.
    kept, rejected, undecidable
        Masks on the grid of the mask that was judged.
    statements
        What is guaranteed about the kept candidates, at which level and under which assumption,
        and what is not; one sentence each, with the level it claims.
    notes
        What was skipped or could not be done, in words (gates without probabilities, ...).
    null, correction
        The null and the correction actually used ("none" where nothing was tested).
    settings
        The settings asked for.
    """

    candidates: tuple[Candidate, ...]
    kept: Mask
    rejected: Mask
    undecidable: Mask
    statements: tuple[Claim, ...]
    notes: tuple[str, ...]
    null: str
    correction: str
    settings: RejectionSettings

    def __post_init__(self) -> None:
        for other in (self.rejected, self.undecidable):
            if not other.grid.same_as(self.kept.grid):
                raise GeometryError("the masks of kept, rejected and undecidable candidates must share one grid")

    def of(self, decision: Decision) -> tuple[Candidate, ...]:
        """The candidates with this decision."""
        return tuple(c for c in self.candidates if c.decision == decision)
