"""How well structures can be carried over, told by references whose own labels were kept from the reasoner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from anatrust.errors import InputError
from anatrust.image.volumes import Scan
from anatrust.metrics.overlap import dice
from anatrust.models.annotation import Annotation, Reference
from anatrust.models.protocols import Reasoner
from anatrust.reference.bank import ReferenceBank
from anatrust.reference.descriptor import ScanDescriptor

__all__ = ["Rehearsal", "RehearsedReasoner", "lessons_of", "lessons_of_bank"]

Progress = Callable[[str, int, int], None]
Lesson = tuple[Reference, Sequence[Reference]]

_LEAST = 3  # patients in whom a structure must have been tried
_FEWEST = 4  # references of which one can be left out at a time


@dataclass(frozen=True)
class Rehearsal:
    """What a reasoner made of labelled scans as if they had no labels: for each structure its confidences and Dice.

    Use `Rehearsal.hold`.

    Parameters
    ----------
    tried
        By label number: ``(confidence, Dice)`` of each labelled scan that has it and in which it was drawn.

    Examples
    --------
    >>> held = Rehearsal({1: ((0.7, 0.8), (0.8, 0.9), (0.9, 1.0)), 2: ((0.6, 0.3), (0.7, 0.4), (0.8, 0.5))})
    >>> held.expected(1, 0.8), held.expected(2, 0.8), held.expected(3, 0.8)
    (0.9, 0.5, None)
    """

    tried: Mapping[int, tuple[tuple[float, float], ...]]

    @classmethod
    def hold(cls, reasoner: Reasoner, lessons: Sequence[Lesson], progress: Progress | None = None) -> Rehearsal:
        """Let a reasoner annotate labelled scans from others, and compare.

        Parameters
        ----------
        reasoner
            Who will annotate the target.
        lessons
            Labelled scans, each with the references to be used for it: of other patients, see `lessons_of`.
        progress
            Told ``("rehearse", done, total)``.

        Returns
        -------
        Rehearsal
            What a scan does not have, and what was called null, does not count. Cost: one answer a lesson.
        """
        tried: dict[int, list[tuple[float, float]]] = {}
        for done, (scan, references) in enumerate(lessons):
            if progress:
                progress("rehearse", done, len(lessons))
            answer = reasoner.annotate(scan.scan, references)
            for s in answer.structures:
                truth = scan.labels.array == s.number
                if s.found and truth.any():
                    overlap = float(dice(truth, np.asarray(answer.labels.array == s.number)))
                    tried.setdefault(s.number, []).append((s.confidence, overlap))
        if progress:
            progress("rehearse", len(lessons), len(lessons))
        return cls({number: tuple(found) for number, found in sorted(tried.items())})

    def expected(self, number: int, confidence: float) -> float | None:
        """The Dice to expect of a structure that is there and is drawn with this confidence.

        Dice is linear in the confidence, with one slope and a level for each structure, drawn towards the mean level
        the more its trials differ among themselves (a random intercept, by moments). None where it was tried in fewer
        than three scans.

        Guarantee
        ---------
        None for one structure: an estimate for targets exchangeable with the references, measured in the study
        `rau-tubes`.
        """
        slope, levels = self._law
        if number not in levels:
            return None
        return round(float(np.clip(levels[number] + slope * confidence, 0, 1)), 4)

    @cached_property
    def _law(self) -> tuple[float, dict[int, float]]:
        """The slope of Dice on confidence within structures, a falling one taken for chance, and their levels."""
        trials = {number: np.array(found) for number, found in self.tried.items() if len(found) >= _LEAST}
        if not trials:
            return 0.0, {}
        apart = np.concatenate([t - t.mean(axis=0) for t in trials.values()])
        spread = float((apart[:, 0] ** 2).sum())
        slope = max(0.0, float((apart[:, 0] * apart[:, 1]).sum()) / spread) if spread > 0 else 0.0
        rest = {number: t[:, 1] - slope * t[:, 0] for number, t in trials.items()}
        sizes = np.array([len(r) for r in rest.values()])
        within = sum(float(((r - r.mean()) ** 2).sum()) for r in rest.values()) / max(1, sizes.sum() - len(sizes) - 1)
        means = np.array([r.mean() for r in rest.values()])
        between = max(0.0, float(means.var(ddof=1)) - within * float((1 / sizes).mean())) if len(means) > 1 else np.inf
        kept = 1 / (1 + within / (sizes * between)) if between > 0 else np.zeros(len(means))
        level = means.mean() + kept * (means - means.mean())
        return slope, dict(zip(rest, level.tolist(), strict=True))


@dataclass(frozen=True)
class RehearsedReasoner:
    """Any reasoner that says of each structure what overlap a rehearsal leads it to expect.

    Parameters
    ----------
    reasoner
        Who answers, and who rehearsed.
    rehearsal
        Of labels with the same numbers.
    """

    reasoner: Reasoner
    rehearsal: Rehearsal
    name: str = "rehearsed"

    @property
    def identity(self) -> str:
        """Name, revision, how many structures were rehearsed, and the reasoner."""
        return f"{self.name}/1 {len(self.rehearsal.tried)} structures: {self.reasoner.identity}"

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """As the reasoner answers; structures that the references' own labels show to be hard are no longer sure.

        Raises
        ------
        InputError
            As the reasoner does.
        """
        answer = self.reasoner.annotate(target, references, progress)
        told = tuple(
            replace(s, expected=self.rehearsal.expected(s.number, s.confidence)) if s.found else s
            for s in answer.structures
        )
        return replace(answer, structures=told, reasoner=self.identity)


def lessons_of(references: Sequence[Reference], most: int = 8) -> list[Lesson]:
    """Each reference with all others, for references of as many patients.

    Parameters
    ----------
    references
        Four at least: of fewer, hardly anything is left for the one that is left out.
    most
        Lessons, the first ones.

    Raises
    ------
    InputError
        If there are fewer than four.
    """
    if len(references) < _FEWEST:
        raise InputError(
            f"{len(references)} references cannot be rehearsed: give {_FEWEST} or more, of as many patients, or a bank"
        )
    return [(one, [other for other in references if other is not one]) for one in references[:most]]


def lessons_of_bank(
    bank: ReferenceBank, scan: Scan, k: int = 5, most: int = 8, *, descriptor: ScanDescriptor | None = None
) -> list[Lesson]:
    """The bank's scans nearest to a target, each with the references that the bank gives it from other patients.

    Parameters
    ----------
    bank, scan
        Where the target's references come from, and the target.
    k
        References a lesson, as many as the target gets.
    most
        Lessons.
    descriptor
        The bank's, as for `ReferenceBank.retrieve`.

    Raises
    ------
    InputError
        If fewer than four of its scans can be annotated from others.
    """
    lessons: list[Lesson] = []
    for one in bank.retrieve(scan, most, descriptor=descriptor).chosen:
        entry = bank.entries[one.entry]
        found = bank.retrieve(entry.reference.scan, k, descriptor=descriptor, without=(entry.patient,))
        if found.chosen:
            lessons.append((entry.reference, bank.references(found)))
    if len(lessons) < _FEWEST:
        raise InputError(
            f"only {len(lessons)} scans of the bank that suit this one have references of other patients: a rehearsal"
            f" needs {_FEWEST}"
        )
    return lessons
