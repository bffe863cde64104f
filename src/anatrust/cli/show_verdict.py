"""A verdict for people, as plain text."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anatrust.cli.console import columns
from anatrust.pipeline.decide import split_reason

if TYPE_CHECKING:
    from anatrust.pipeline.verdict import Verdict
    from anatrust.rejection.candidate import Candidate

__all__ = ["tell_verdict", "verdict_text"]

_GRAVITY = {"accept": 0, "review": 1, "abstain": 2}

_WIDTH = 100
_MOST_ROWS = 30
_MOST_REASONS = 8
# What makes one reason of many equal ones: "(p is 0.18 to 0.76)", "on which depends whether p is 0.005 or 0.78".
_FIGURES = re.compile(r" \(p is [^)]*\)|, on which depends whether p is \S+ or \S+$")


def tell_verdict(verdict: Verdict, out: Path | None, *, json: bool, quiet: bool, fail_on: str | None) -> int:
    """Print a verdict, as text or as JSON alone, and return the exit code."""
    if json:
        typer.echo(verdict.dumps())
    elif not quiet:
        typer.echo(verdict_text(verdict, out))
    return 3 if fail_on is not None and _GRAVITY[verdict.decision] >= _GRAVITY[fail_on] else 0


def verdict_text(verdict: Verdict, out: Path | None = None) -> str:
    """The verdict in words: decision, reasons, findings, table, what is promised, where files are."""
    scan = verdict.scan
    size = "x".join(map(str, scan.shape))
    step = "x".join(f"{v:.3g}" for v in scan.spacing)
    what = scan.modality if scan.modality != "unknown" else "scan"
    lines = [f"{verdict.decision.upper()}  {scan.identifier or 'scan'} ({what}, {size} voxels of {step} {scan.unit})"]
    if verdict.candidates:
        counts = ", ".join(f"{count} {decision}" for decision, count in verdict.counts().items() if count)
        lines += _item(f"Candidates: {counts}")
    # A finding that is a reason stands there, with its cure; the others follow.
    cures = {finding.sentence: finding.cure for finding in verdict.findings}
    for reason in verdict.reasons:
        lines += _item(f"- {reason} {cures.get(reason, '')}")
    others = [finding for finding in verdict.findings if finding.sentence not in verdict.reasons]
    if others:
        lines += ["", "Input gate:"]
        for finding in others:
            lines += _item(f"- {finding.severity}: {finding.sentence} {finding.cure}")
    if verdict.candidates:
        lines += ["", *_candidates(verdict)]
    if verdict.structures:
        lines += ["", *_structures(verdict)]
    if verdict.sets:
        lines += ["", *_sets(verdict)]
    if verdict.screening is not None:
        lines += ["", f"Screening: {verdict.screening.verdict.replace('_', ' ')}"]
        for reason in verdict.screening.reasons:
            lines += _item(f"- {reason}")
    if verdict.statements:
        lines += ["", "What is promised, and what not:"]
        for statement in verdict.statements:
            lines += _item(f"- {statement.text}")
    for note in verdict.notes:
        lines += _item(f"- {note}")
    if out is not None:
        lines += ["", f"The page to look at: {out / verdict.files['report']}"]
    return "\n".join(lines)


def _item(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _candidates(verdict: Verdict) -> list[str]:
    rows = [
        [
            str(c.number),
            c.decision or "",
            c.name,
            _size(c),
            "" if c.contrast is None else f"{c.contrast:+.1f}",
            _p(c.p_value),
            _p(c.q_value),
            c.tissue,
        ]
        for c in verdict.candidates[:_MOST_ROWS]
    ]
    lines = columns(["#", "decision", "label", "size", "contrast", "p", "q", "compared with"], rows)
    if len(verdict.candidates) > _MOST_ROWS:
        lines.append(f"... and {len(verdict.candidates) - _MOST_ROWS} more in candidates.csv")
    # Those without a p-value: the table does not say why; the reason of an only one stands above already.
    why: dict[str, list[Candidate]] = {}
    for c in verdict.candidates[:_MOST_ROWS]:
        if c.p_value is None and c.reason and not any(c.reason in said for said in verdict.reasons):
            # What is known of it in spite of that is its own; several are listed under what they share.
            why.setdefault(_FIGURES.sub("", split_reason(c.reason)[0]), []).append(c)
    for reason, group in list(why.items())[:_MOST_REASONS]:
        numbers = ", ".join(str(c.number) for c in group)
        lines += _item(f"{numbers}: {group[0].reason if len(group) == 1 else reason}")
    if len(why) > _MOST_REASONS:
        lines.append(f"  ... and {len(why) - _MOST_REASONS} more reasons in candidates.csv")
    return lines


def _size(candidate: Candidate) -> str:
    if candidate.diameter is None or candidate.volume is None:
        return f"{candidate.voxels} px"
    if len(candidate.bounding_box) == 2:
        return f"{candidate.diameter:.0f} mm, {candidate.volume:.0f} mm2"
    return f"{candidate.diameter:.0f} mm, {plain_number(candidate.volume / 1000, 2)} ml"


def plain_number(value: float, digits: int) -> str:
    """A number with so many significant figures and no exponent."""
    return f"{float(f'{value:.{digits}g}'):.10g}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _sets(verdict: Verdict) -> list[str]:
    flat = len(verdict.scan.shape) == 2
    rows = [
        [
            s.structure,
            _volume(s.inner_voxels, s.inner_volume, flat) if s.inner_feasible else "not calibrated",
            _volume(s.outer_voxels, s.outer_volume, flat) if s.outer_feasible else "not calibrated",
        ]
        for s in verdict.sets
    ]
    return columns(["set of", "inner", "outer"], rows)


def _volume(voxels: int, volume: float | None, flat: bool) -> str:
    if volume is None:
        return f"{voxels} px"
    return f"{volume:.0f} mm2" if flat else f"{plain_number(volume / 1000, 3)} ml"


def _structures(verdict: Verdict) -> list[str]:
    rows = [
        [
            str(s.label),
            s.name,
            _volume(s.voxels, s.volume, len(verdict.scan.shape) == 2),
            str(s.components),
            f"{s.border_share:.0%}" if s.border_share else "",
            ", ".join(s.failed) or "nothing failed",
        ]
        for s in verdict.structures
    ]
    return columns(["#", "structure", "size", "pieces", "on edge", "checks"], rows)
