"""What several references led to, voted into one annotation of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Annotation, Reference, Structure, boxes_of
from anatrust.reference.fusion import grey_overlap
from anatrust.reference.pictures import from_view, greys
from anatrust.reference.registration_reasoner import confidence_of
from anatrust.reference.relations import relations_of

__all__ = ["Opinion", "together"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Opinion:
    """What one reference led to: masks as a reader sees them, how certain, and why a structure is absent; by label."""

    masks: Mapping[int, Bools]
    certain: Mapping[int, float]
    absent: Mapping[int, str]


def together(
    target: Scan,
    view: npt.NDArray[np.float32],
    names: Mapping[int, str],
    used: Sequence[Reference],
    opinions: Sequence[Opinion],
    reasoner: str,
    remarks: tuple[str, ...] = (),
) -> Annotation:
    """Weighted votes of the references, pixel by pixel; more than half of the weight draws.

    Parameters
    ----------
    target, view
        An image, and as a reader sees it.
    names
        Of all structures.
    used, opinions
        The references and what each led to.
    reasoner, remarks
        Who reasoned, and what it remarks.
    """
    weights = np.array([r.weight for r in used]) / sum(r.weight for r in used)
    best, winner = np.full(view.shape, 0.5), np.zeros(view.shape, np.int64)
    for label in names:
        share = np.zeros(view.shape)
        for weight, opinion in zip(weights, opinions, strict=True):
            if label in opinion.masks:
                share += weight * opinion.masks[label]
        # A smaller structure drawn upon a larger one stays visible: ties go to the later, rarer claim.
        size = int((share > 0.5).sum())
        wins = (share > best) | ((share == best) & (share > 0.5) & (size < _sizes(winner)))
        winner[wins], best[wins] = label, share[wins]
    labels = LabelMap(from_view(winner.astype(np.min_scalar_type(int(winner.max()))), target.grid), target.grid, names)
    boxes = boxes_of(labels)
    structures = []
    for label, name in names.items():
        if label not in boxes:
            told = [o.absent[label] for o in opinions if label in o.absent]
            reason = told[0] if told else "lost the vote against its neighbours"
            structures.append(Structure(label, name, None, 0.0, reason=reason))
            continue
        mine = winner == label
        agreement = None
        if len(used) > 1:
            parts = [o.masks.get(label, np.zeros_like(mine)) for o in opinions]
            agreement = float(sum(w * dice(p, mine) for w, p in zip(weights, parts, strict=True)))
        sure = float(sum(w * o.certain.get(label, 0.0) for w, o in zip(weights, opinions, strict=True)))
        looks = max(_looks(view[mine], r, label) for r in used)
        structures.append(
            Structure(
                label, name, boxes[label], round(confidence_of(agreement, sure, looks), 4), voxels=int(mine.sum()),
                agreement=None if agreement is None else round(agreement, 4),
                similarity=round(sure, 4), appearance=round(looks, 4),
            )
        )  # fmt: skip
    relations = relations_of([r.labels for r in used], labels)
    told_used = tuple((r.identifier, float(w)) for r, w in zip(used, weights, strict=True))
    return Annotation(labels, tuple(structures), relations, reasoner, told_used, remarks)


def _sizes(winner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At each pixel, how many pixels the present winner has."""
    _, place, counts = np.unique(winner, return_inverse=True, return_counts=True)
    return np.asarray(counts[place].reshape(winner.shape))


def _looks(mine: npt.NDArray[np.float32], reference: Reference, label: int) -> float:
    theirs = greys(reference.scan)[canonical(reference.labels.array, reference.labels.grid)[0] == label]
    return grey_overlap(mine, theirs) if theirs.size else 0.0
