"""From findings, candidates and checks to a decision with reasons."""

from __future__ import annotations

from collections.abc import Sequence

from anatrust.ood.screen import Screening
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.organ import StructureCheck
from anatrust.pipeline.sets import SetSummary
from anatrust.pipeline.verdict import ACCEPT_MEANS, Decision
from anatrust.rejection.candidate import Candidate

__all__ = ["decide", "split_reason"]

_KNOWN = "; known is that "


def decide(
    findings: Sequence[Finding],
    candidates: Sequence[Candidate] = (),
    structures: Sequence[StructureCheck] = (),
    sets: Sequence[SetSummary] = (),
    screening: Screening | None = None,
) -> tuple[Decision, tuple[str, ...]]:
    """Decide on the safe side, and say why.

    *abstain* if the gate found an error, or candidates exist and none could be decided;
    *review* if there was a warning, nothing to test, a rejected or undecidable candidate, one kept
    by a null that promises nothing (block, iid), a failed check, or an infeasible set; else
    *accept*, which means "nothing that was tested failed".

    Examples
    --------
    >>> decide([])
    ('review', ('nothing was tested: the mask holds no candidate and no structure',))
    """
    errors = [f.sentence for f in findings if f.severity == "error"]
    rejected = [c for c in candidates if c.decision == "rejected"]
    open_ones = [c for c in candidates if c.decision not in ("kept", "rejected")]
    if errors:
        return "abstain", tuple(errors)
    if candidates and len(open_ones) == len(candidates):
        why = open_ones[0].reason or "its row says why"
        if len(candidates) == 1:
            first = f"the only candidate could not be decided: {why}"
        else:
            # Candidates are numbered by size; what is known of one in spite of that is not true of all.
            first = (
                f"none of the {len(candidates)} candidates could be decided, the largest because {split_reason(why)[0]}"
            )
        return "abstain", (first, *_others(findings, structures, sets, screening))
    reasons = []
    if rejected:
        reasons.append(f"{_count(rejected, candidates)} rejected: {_why(rejected)}")
    if open_ones:
        given = "the reason given with it" if len(open_ones) == 1 else "the reasons given with them"
        reasons.append(f"{_count(open_ones, candidates)} undecidable, for {given}")
    for null, unproven in _kept_without_promise(candidates).items():
        reasons.append(f"{_count(unproven, candidates)} kept by the null '{null}', which promises nothing")
    reasons += _others(findings, structures, sets, screening)
    if not candidates and not structures:
        reasons.append("nothing was tested: the mask holds no candidate and no structure")
    return ("review", tuple(reasons)) if reasons else ("accept", (ACCEPT_MEANS,))


def split_reason(reason: str) -> tuple[str, str]:
    """Why a candidate could not be judged, and what is known of it in spite of that (empty where nothing is).

    >>> split_reason("too few patches; known is that its mean lies 3.0 standard deviations below that of liver")
    ('too few patches', 'its mean lies 3.0 standard deviations below that of liver')
    """
    why, _, known = reason.partition(_KNOWN)
    return why, known


def _kept_without_promise(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Kept candidates by the permutation null that kept them: for comparison alone, no ground to accept."""
    nulls = {null: [c for c in candidates if c.decision == "kept" and c.null == null] for null in ("block", "iid")}
    return {null: kept for null, kept in nulls.items() if kept}


def _others(
    findings: Sequence[Finding],
    structures: Sequence[StructureCheck],
    sets: Sequence[SetSummary],
    screening: Screening | None,
) -> list[str]:
    """Reasons to look that are no candidates."""
    reasons = [f"{s.name}: {', '.join(s.failed)}" for s in structures if s.failed]
    if screening is not None and not screening.passed:
        reasons += [f"screening: {sentence}" for sentence in screening.reasons]
    reasons += [
        f"sets of {s.structure}: {side} set infeasible, too few patients were calibrated on"
        for s in sets
        for side, feasible in (("inner", s.inner_feasible), ("outer", s.outer_feasible))
        if not feasible
    ]
    return reasons + [f.sentence for f in findings if f.severity == "warning"]


def _why(rejected: Sequence[Candidate]) -> str:
    """By the test, by the gates, or by both: a candidate that a gate stopped was never compared with anything."""
    stopped = sum(c.reason.startswith("gate ") for c in rejected)
    tested = len(rejected) - stopped
    parts = ["not shown to differ from normal tissue"] if tested else []
    parts += ["stopped by a gate before any test"] if stopped else []
    return parts[0] if len(parts) == 1 else f"{tested} {parts[0]}, {stopped} {parts[1]}"


def _count(some: Sequence[Candidate], every: Sequence[Candidate]) -> str:
    verb = "candidate was" if len(every) == 1 else "candidates was" if len(some) == 1 else "candidates were"
    return f"{len(some)} of {len(every)} {verb}"
