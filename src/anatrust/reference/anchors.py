"""Anchor organs for `segment` where no organ model is at hand: from labelled references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.anatomy.plausibility import structure_of
from anatrust.errors import InputError
from anatrust.image.volumes import Scan
from anatrust.models.anchor import Anchor
from anatrust.models.anchors.label_map import LabelMapAnchors, with_parts
from anatrust.models.annotation import SURE, Annotation, Reference
from anatrust.models.protocols import Reasoner
from anatrust.reference.bank import ReferenceBank
from anatrust.reference.registration_reasoner import RegistrationReasoner

__all__ = ["ReferenceAnchors"]


class ReferenceAnchors:
    """Organs carried over from labelled scans of other people.

    Parameters
    ----------
    source
        Labelled references, or a bank that chooses them for each scan.
    reasoner
        Registration by default.
    k
        References to take from a bank.
    table
        The knowledge in which label names are looked up.

    Raises
    ------
    InputError
        If there is no reference.
    """

    name: ClassVar[str] = "reference"

    def __init__(
        self,
        source: ReferenceBank | Sequence[Reference],
        *,
        reasoner: Reasoner | None = None,
        k: int = 5,
        table: Knowledge | None = None,
    ) -> None:
        if not isinstance(source, ReferenceBank) and not source:
            raise InputError("anchors from references need at least one labelled scan")
        self.source = source
        self.reasoner = reasoner or RegistrationReasoner()
        self.k = k
        self.table = table or knowledge()
        self._last: tuple[Scan, Annotation] | None = None

    @property
    def identity(self) -> str:
        """The reasoner's, and how references were chosen."""
        kind = f"bank k={self.k}" if isinstance(self.source, ReferenceBank) else f"{len(self.source)} references"
        return f"{self.name}/1 {kind}: {self.reasoner.identity}"

    def find(self, scan: Scan, structures: Sequence[str]) -> tuple[Anchor, ...]:
        """One anchor for each structure; unreliable where it is unsure or the scan seems mirrored.

        Cost: one annotation a scan, however many structures and calls.
        """
        found = self._annotation(scan)
        if found.abstained:
            return tuple(Anchor.missing(key, self.name, found.abstained) for key in structures)
        anchors = LabelMapAnchors(found.labels, self.table).find(scan, structures)
        return tuple(self._graded(anchor, found) for anchor in anchors)

    def _annotation(self, scan: Scan) -> Annotation:
        if self._last is not None and self._last[0] is scan:
            return self._last[1]
        if isinstance(self.source, ReferenceBank):
            retrieval = self.source.retrieve(scan, self.k)
            references = self.source.references(retrieval)
            names = {n: name for e in self.source.entries for n, name in e.reference.names().items()}
            refused = retrieval.refused
        else:
            references, names, refused = tuple(self.source), {}, ""
        if refused:
            found = Annotation.none(scan, names, self.reasoner.identity, f"no suitable reference: {refused}")
        else:
            found = self.reasoner.annotate(scan, references)
        self._last = (scan, found)
        return found

    def _graded(self, anchor: Anchor, found: Annotation) -> Anchor:
        keys = set(with_parts(anchor.structure, self.table))
        mine = [s for s in found.structures if structure_of(s.name, self.table) in keys]
        if anchor.status == "missing":
            told = next((s.reason for s in mine if s.reason), "no reference shows it")
            return Anchor.missing(anchor.structure, self.name, told)
        quality = float(np.mean([s.confidence for s in mine if s.found]))
        reasons = [f"low confidence ({quality:.2f})"] if quality < SURE else []
        reasons += [f"{s.name}: a Dice of {s.expected:.2f} is to be expected" for s in mine if s.hard]
        reasons += [remark for remark in found.remarks if "mirrored" in remark]
        status = anchor.status if not reasons else "unreliable"
        return replace(
            anchor, provider=self.name, quality=round(quality, 4), status=status, reasons=(*anchor.reasons, *reasons)
        )
