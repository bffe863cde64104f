"""A memory that adapts to the target: views of the reference that fit it, and the target's own first answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anatrust.errors import InputError
from anatrust.image.orientation import canonical, restore
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.alignment import frame_pair, from_itk, itk_image, one_thread
from anatrust.models.annotation import Annotation, Reference
from anatrust.models.protocols import Reasoner
from anatrust.models.registration_search import turned_starts
from anatrust.reference.pictures import greys

__all__ = ["AdaptiveMemory", "cycle_consistency", "fitting_views"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AdaptiveMemory:
    """Any reasoner, with references that are brought to fit the target before it sees them.

    Each reference is tried as it is and in the turned or enlarged views that look most like the target. Labels
    are carried to the target and back, and the view on which they come back best is kept: a score that needs no labels
    of the target. With ``again`` the target, with what was surely found in it, joins the references and the reasoner is
    asked once more; that answer counts only where it comes back better than the first.

    Parameters
    ----------
    reasoner
        Who answers.
    views
        Turned or enlarged views tried for each reference beside the reference itself; 0 tries none.
    again
        Whether the target's own first answer becomes a reference of a second round.
    margin
        By how much a view must come back better than the reference as it is.
    name
        In results.

    References
    ----------
    The open question on adaptive memory of RAU (arXiv 2509.22404). Cycle consistency as a score without labels: Zhou et
    al., Learning dense correspondence via 3D-guided cycle consistency, CVPR 2016.
    """

    reasoner: Reasoner
    views: int = 3
    again: bool = False
    margin: float = 0.05
    name: str = "adaptive"

    def __post_init__(self) -> None:
        if self.views < 0 or not 0 <= self.margin < 1:
            raise InputError("an adaptive memory tries no negative number of views, with a margin from 0 to 1")

    @property
    def identity(self) -> str:
        """Name, revision, settings and reasoner."""
        return f"{self.name}/1 views={self.views} again={self.again} margin={self.margin:g}: {self.reasoner.identity}"

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """As the reasoner answers, from the references in the views that fit.

        Cost: ``2 * (views + 1)`` answers a reference and one for all; two more with ``again``.

        Raises
        ------
        InputError
            As the reasoner does.
        """
        chosen, remarks = [], []
        for done, reference in enumerate(references):
            if progress:
                progress("views", done, len(references))
            view, told = self._fitting(target, reference)
            chosen.append(view)
            remarks += told
        answer = self.reasoner.annotate(target, chosen, progress)
        if self.again:
            answer = self._asked_again(target, chosen, answer)
        return replace(answer, reasoner=self.identity, remarks=(*remarks, *answer.remarks))

    def _fitting(self, target: Scan, reference: Reference) -> tuple[Reference, list[str]]:
        views = fitting_views(target, reference, self.views)
        if not views:
            return reference, []
        scores = [
            cycle_consistency(self.reasoner, target, one, self.reasoner.annotate(target, [one]))
            for one in (reference, *views)
        ]
        best = int(np.argmax(scores))
        if scores[best] <= scores[0] + self.margin:
            return reference, []
        return views[best - 1], [
            f"the reference {reference.identifier} was turned or enlarged to fit the scan: carried there and back its"
            f" labels overlap by {scores[best]:.2f}, as it is by {scores[0]:.2f}"
        ]

    def _asked_again(self, target: Scan, chosen: Sequence[Reference], first: Annotation) -> Annotation:
        sure = [s.number for s in first.structures if s.sure]
        if not sure:
            return first
        drawn = np.where(np.isin(first.labels.array, sure), first.labels.array, 0)
        weight = float(np.mean([r.weight for r in chosen]))
        own = Reference(target, replace(first.labels, array=drawn), "the scan itself", weight)
        second = self.reasoner.annotate(target, [*chosen, own])
        before, after = (
            float(np.mean([cycle_consistency(self.reasoner, target, r, answer) for r in chosen]))
            for answer in (first, second)
        )
        return second if after > before else first


def cycle_consistency(reasoner: Reasoner, target: Scan, reference: Reference, answer: Annotation) -> float:
    """Mean Dice of a reference's labels and what the answer, as a reference in its turn, says of its scan.

    A structure that does not come back counts 0. Cost: one answer.
    """
    if not answer.labels.array.any():
        return 0.0
    back = reasoner.annotate(reference.scan, [Reference(target, answer.labels, "answer")])
    found = []
    for number in reference.labels.labels():
        one, other = reference.labels.array == number, back.labels.array == number
        found.append(2 * float((one & other).sum()) / float(one.sum() + other.sum()))
    return float(np.mean(found))


def fitting_views(target: Scan, reference: Reference, count: int) -> list[Reference]:
    """The reference turned or enlarged, on the target's grid, in the views that look most like the target.

    Parameters
    ----------
    target
        The scan to look like.
    reference
        Of the same kind (volume or image).
    count
        How many, the likeliest first; a view that shows no label is left out.

    Returns
    -------
    list of Reference
        What lies outside the reference repeats its border. Cost: see `turned_starts`.
    """
    import SimpleITK

    frames = frame_pair(target.grid, reference.scan.grid)
    fixed, moving = frames[0].image(greys(target)), frames[1].image(greys(reference.scan))
    image = canonical(reference.scan.array, reference.scan.grid)[0].astype(np.float32)
    labels = canonical(reference.labels.array, reference.labels.grid)[0]
    numbers, dense = np.unique(labels, return_inverse=True)

    def seen(array: Any, transform: Any, *, nearest: bool) -> Any:
        resampler = one_thread(SimpleITK.ResampleImageFilter())
        resampler.SetReferenceImage(fixed)
        resampler.SetTransform(transform)
        resampler.SetInterpolator(SimpleITK.sitkNearestNeighbor if nearest else SimpleITK.sitkLinear)
        resampler.SetUseNearestNeighborExtrapolator(not nearest)
        return from_itk(resampler.Execute(itk_image(array, frames[1].spacing)))

    views = []
    for start in turned_starts(fixed, moving, False)[:count]:
        # One more than the place in the list, so that the outside is told from the first label.
        places = seen((dense.reshape(labels.shape) + 1).astype(np.int32), start, nearest=True)
        drawn = np.concatenate([[0], numbers])[places].astype(labels.dtype)
        if drawn.any():
            grey = restore(seen(image, start, nearest=False), target.grid)
            view = LabelMap(restore(drawn, target.grid), target.grid, reference.labels.names)
            scan = Scan(grey, target.grid, reference.scan.modality, identifier=reference.scan.identifier)
            views.append(Reference(scan, view, reference.identifier, reference.weight))
    return views
