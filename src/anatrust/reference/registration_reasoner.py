"""The classical reasoner: register each reference to the target and let them vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from anatrust.errors import InputError
from anatrust.image.orientation import restore
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, Reference, Structure, boxes_of
from anatrust.models.registration import RegistrationSettings, register
from anatrust.reference.fusion import Fused, Vote, fuse, vote_of
from anatrust.reference.relations import relations_of

__all__ = ["RegistrationReasoner"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RegistrationReasoner:
    """Registration and label fusion: the honest baseline, and the default, for it needs no weights.

    Parameters
    ----------
    settings
        Of the registration.
    least_similarity
        Correlation of target and moved reference below which a reference is left out, as one of
        another body part or modality.
    least_appearance
        Histogram overlap inside a structure below which it counts as absent: what lies where it
        should be does not look like it (a resected organ, for instance).
    least_likeness
        Where both that overlap and the local correlation there are below this, it counts as absent too: a deformed
        label may slip onto neighbours whose grey values are not quite unlike.
    mirror_margin
        By how much a mirrored reference must look more like the target before that is remarked.
    """

    settings: RegistrationSettings = field(default_factory=RegistrationSettings)
    least_similarity: float = 0.5
    least_appearance: float = 0.25
    least_likeness: float = 0.4
    mirror_margin: float = 0.05
    name: str = "registration"

    @property
    def identity(self) -> str:
        """Name, revision and settings."""
        return (
            f"{self.name}/3 {self.settings} least-similarity={self.least_similarity:g}"
            f" least-appearance={self.least_appearance:g} least-likeness={self.least_likeness:g}"
            f" mirror-margin={self.mirror_margin:g}"
        )

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """Names, boxes, masks, relations and confidences of the references' structures in the target.

        Parameters
        ----------
        target
            The scan to annotate.
        references
            At least one; numbers must mean the same structure in all of them.
        progress
            Told ``("register", done, total)``.

        Returns
        -------
        Annotation
            On the target's grid. A structure that the references put outside the image, that lost
            the vote, or that does not look like itself there is null. Abstains if no reference can be brought
            to look like the target.

        Raises
        ------
        InputError
            If there is no reference, numbers are named differently, or volume and image are mixed.
        """
        names = merged_names(references)
        votes, remarks = self.votes(target, references, progress)
        return self.decide(target, names, votes, remarks)

    def votes(
        self, target: Scan, references: Sequence[Reference], progress: Progress | None = None
    ) -> tuple[tuple[Vote, ...], tuple[str, ...]]:
        """The references moved onto the target, without those that do not come to look like it; and why."""
        votes: list[Vote] = []
        remarks: list[str] = []
        for done, reference in enumerate(references):
            if progress:
                progress("register", done, len(references))
            alignment = register(target, reference.scan, self.settings)
            if alignment.similarity < self.least_similarity:
                remarks.append(
                    f"the reference {reference.identifier} was left out: after registration it correlates only"
                    f" {alignment.similarity:.2f} with the scan"
                )
            else:
                votes.append(vote_of(reference, alignment))
        if progress:
            progress("register", len(references), len(references))
        return tuple(votes), tuple(remarks)

    def decide(
        self, target: Scan, names: dict[int, str], votes: Sequence[Vote], remarks: tuple[str, ...] = ()
    ) -> Annotation:
        """What the votes say together about the structures of ``names``; abstains without a vote."""
        if not votes:
            reason = "no suitable reference: none can be brought to look like the scan"
            return Annotation.none(target, names, self.identity, reason, remarks)
        mirrored = sum((v.alignment.mirrored_gain or 0.0) > self.mirror_margin for v in votes)
        if 2 * mirrored > len(votes):
            remarks = (
                *remarks,
                "the scan looks more like a mirrored reference: check its left and right, or situs inversus;"
                " names were not swapped",
            )
        return self._answer(target, names, votes, fuse(votes), remarks)

    def _answer(
        self, target: Scan, names: dict[int, str], votes: Sequence[Vote], fused: Fused, remarks: tuple[str, ...]
    ) -> Annotation:
        sizes = dict(zip(*(v.tolist() for v in np.unique(fused.labels, return_counts=True)), strict=True))
        absent: dict[int, str] = {}
        for number in names:
            if not fused.asked.get(number):
                absent[number] = "outside the scan, as the references lie"
            elif not sizes.get(number):
                absent[number] = "lost the vote against its neighbours"
            elif fused.appearance[number] < self.least_appearance:
                absent[number] = (
                    f"what lies there does not look like it (grey values overlap by {fused.appearance[number]:.0%})"
                ).replace("%", " %")
            elif max(fused.similarity[number], fused.appearance[number]) < self.least_likeness:
                absent[number] = (
                    f"what lies there does not look like it (local correlation {fused.similarity[number]:.2f}, grey"
                    f" values overlap by {100 * fused.appearance[number]:.0f} %)"
                )
        kept = np.where(np.isin(fused.labels, list(absent)), 0, fused.labels)
        array = restore(kept.astype(np.min_scalar_type(int(kept.max()))), target.grid)
        labels = LabelMap(array, target.grid, {n: names[n] for n in names})
        boxes = boxes_of(labels)
        structures = []
        for number, name in sorted(names.items()):
            confidence, reason = 0.0, absent.get(number, "")
            if not reason:
                parts = (fused.agreement[number], fused.similarity[number], fused.appearance[number])
                confidence = round(confidence_of(*parts), 4)
            structures.append(
                Structure(
                    number,
                    name,
                    None if reason else boxes[number],
                    confidence,
                    voxels=0 if reason else int(sizes[number]),
                    agreement=_rounded(fused.agreement.get(number)),
                    similarity=_rounded(fused.similarity.get(number)),
                    appearance=_rounded(fused.appearance.get(number)),
                    reason=reason,
                )
            )
        relations = relations_of([v.reference.labels for v in votes], labels)
        total = sum(v.reference.weight for v in votes)
        used = tuple((v.reference.identifier, v.reference.weight / total) for v in votes)
        return Annotation(labels, tuple(structures), relations, self.identity, used, remarks)


def confidence_of(agreement: float | None, similarity: float, appearance: float) -> float:
    """Confidence of a structure: the geometric mean of what is known about it.

    Examples
    --------
    >>> round(confidence_of(None, 0.64, 0.81), 2), round(confidence_of(0.9, 0.64, 0.81), 3)
    (0.72, 0.776)
    """
    parts = [similarity, appearance] if agreement is None else [agreement, similarity, appearance]
    return float(np.clip(np.prod(parts), 0, 1) ** (1 / len(parts)))


def merged_names(references: Sequence[Reference]) -> dict[int, str]:
    """The structures of all references by number.

    Raises
    ------
    InputError
        If there is no reference, or a number has two names.
    """
    if not references:
        raise InputError("there is no reference: give at least one labelled scan")
    names: dict[int, str] = {}
    for reference in references:
        for number, name in reference.names().items():
            if names.setdefault(number, name) != name:
                raise InputError(
                    f"label {number} is {names[number]!r} in one reference and {name!r} in {reference.identifier}:"
                    " give references with one table of labels"
                )
    return dict(sorted(names.items()))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
