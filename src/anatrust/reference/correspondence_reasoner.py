"""The training-free reasoner: dense feature matching, then label chances that follow the image's edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anatrust.image.orientation import canonical, restore
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, Reference, Structure, boxes_of
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.protocols import Encoder
from anatrust.reference.descriptor import reduced
from anatrust.reference.matching import Cells, cells_of, label_shares, match_cells
from anatrust.reference.random_walk import walk_labels
from anatrust.reference.registration_reasoner import confidence_of, merged_names
from anatrust.reference.relations import relations_of

__all__ = ["BoxPrompter", "CorrespondenceReasoner"]

Progress = Callable[[str, int, int], None]
Floats = npt.NDArray[np.float32]

_WALKED = {2: 96, 3: 40}


class BoxPrompter(Protocol):
    """Draws what a box and a point show in a picture, as SAM 2 does."""

    @property
    def identity(self) -> str:
        """Exactly which model."""

    def draw(
        self, image: Floats, boxes: Sequence[tuple[float, float, float, float]], points: Sequence[tuple[float, float]]
    ) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Masks ``(n, rows, columns)`` and their predicted IoU ``(n,)``; boxes and points as (x, y) in pixels."""


@dataclass(frozen=True)
class CorrespondenceReasoner:
    """Matching of local features, without registration and without training.

    Every cell of the target takes the labels of the reference cells it looks like; a random walk
    lets these chances follow the edges of the image, or a prompted model (SAM 2) draws each
    structure of an image from its box and its surest point.

    Parameters
    ----------
    encoder
        Of dense features; the embedded local descriptors by default, DINOv3 where there is one.
    prompter
        Draws the masks of images (not of volumes) from boxes; None: the random walk.
    least_likeness
        Mean cosine of matches below which a reference is left out.
    least_iou
        Predicted IoU of the prompter below which the walk's mask stays.
    """

    encoder: Encoder = field(default_factory=lambda: LocalDescriptors(1.5, 1.0, (1.0, 2.0, 4.0)))
    prompter: BoxPrompter | None = None
    least_likeness: float = 0.5
    least_iou: float = 0.5
    name: str = "correspondence"

    @property
    def identity(self) -> str:
        """Name, revision, encoder, prompter and settings."""
        drawn = self.prompter.identity if self.prompter else "random walk"
        return f"{self.name}/1 {self.encoder.identity}; {drawn}; least-likeness={self.least_likeness:g}"

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """Names, boxes, masks, relations and confidences of the references' structures in the target.

        Raises
        ------
        InputError
            If there is no reference, numbers are named differently, or volume and image are mixed.
        """
        names = merged_names(references)
        numbers = tuple(names)
        own = cells_of(target, self.encoder)
        shares, trusts, used, remarks = [], [], [], []
        for done, reference in enumerate(references):
            if progress:
                progress("match", done, len(references))
            share, likeness = self._matched(own, reference, numbers)
            if likeness < self.least_likeness:
                remarks.append(
                    f"the reference {reference.identifier} was left out: its places look like the scan's only to"
                    f" {likeness:.2f}"
                )
                continue
            shares.append(share)
            trusts.append(reference.weight)
            used.append(reference)
        if not used:
            reason = "no suitable reference: none has places that look like the scan's"
            return Annotation.none(target, names, self.identity, reason, tuple(remarks))
        chances = np.average(shares, axis=0, weights=trusts)
        labels, chance = self._drawn(target, chances, own.shape, numbers, names)
        structures = self._structures(names, numbers, labels, chance, shares, own.shape)
        relations = relations_of([r.labels for r in used], labels)
        total = float(sum(trusts))
        weights = tuple((r.identifier, w / total) for r, w in zip(used, trusts, strict=True))
        return Annotation(labels, structures, relations, self.identity, weights, tuple(remarks))

    def _matched(self, own: Cells, reference: Reference, numbers: tuple[int, ...]) -> tuple[Floats, float]:
        """Label shares of the target's cells by one reference, and how alike matched places are."""
        matches = match_cells(own, cells_of(reference.scan, self.encoder))
        given = label_shares(reference.labels, numbers)
        moved = (given[matches.best] * matches.weights[..., None]).sum(axis=1)
        return np.asarray(moved, dtype=np.float32), float(matches.likeness[matches.mutual].mean())

    def _drawn(
        self, target: Scan, chances: Floats, shape: tuple[int, ...], numbers: tuple[int, ...], names: dict[int, str]
    ) -> tuple[LabelMap, Floats]:
        from scipy import ndimage

        image, _ = canonical(target.array, target.grid)
        size = _WALKED[target.grid.ndim]
        small = reduced(image.astype(np.float32), size)
        prior = np.stack([reduced(c.reshape(shape), size) for c in chances.T])
        prior = np.clip(prior, 0, 1) / np.maximum(prior.sum(axis=0), 1e-6)
        walked = walk_labels(small, prior)
        best, winner = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.intp)
        factors = [n / size for n in image.shape]
        for label, chance in enumerate(walked):
            wide = ndimage.zoom(chance, factors, order=1, grid_mode=True, mode="nearest")
            wins = wide > best
            winner[wins], best[wins] = label, wide[wins]
        array = np.array([0, *numbers])[winner]
        if self.prompter is not None and target.grid.ndim == 2:
            array = self._prompted(image.astype(np.float32), array, best)
        smallest = np.min_scalar_type(int(array.max()))
        return LabelMap(restore(array.astype(smallest), target.grid), target.grid, names), walked

    def _prompted(self, image: Floats, drawn: npt.NDArray[np.intp], best: Floats) -> npt.NDArray[np.intp]:
        """Each structure drawn anew from its box and surest point; smaller ones lie on top of larger ones."""
        assert self.prompter is not None
        present = [int(n) for n in np.unique(drawn) if n]
        if not present:
            return drawn
        low, high = (float(v) for v in np.percentile(image, (0.5, 99.5)))
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        boxes, points = [], []
        for number in present:
            inside = np.argwhere(drawn == number)
            (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
            boxes.append((float(left), float(top), float(right), float(bottom)))
            row, column = np.unravel_index(int(np.where(drawn == number, best, -1).argmax()), drawn.shape)
            points.append((float(column) + 0.5, float(row) + 0.5))
        masks, quality = self.prompter.draw(grey, boxes, points)
        result = np.where(np.isin(drawn, present), 0, drawn)
        kept = [
            m if q >= self.least_iou and m.any() else drawn == n
            for n, m, q in zip(present, masks, quality, strict=True)
        ]
        for k in sorted(range(len(present)), key=lambda k: -int(kept[k].sum())):
            result[kept[k]] = present[k]
        return result

    def _structures(
        self,
        names: dict[int, str],
        numbers: tuple[int, ...],
        labels: LabelMap,
        walked: Floats,
        shares: Sequence[Floats],
        shape: tuple[int, ...],
    ) -> tuple[Structure, ...]:
        boxes = boxes_of(labels)
        sizes = dict(zip(*(v.tolist() for v in np.unique(labels.array, return_counts=True)), strict=True))
        decided = walked.argmax(axis=0)
        found = []
        for place, number in enumerate(numbers, start=1):
            if number not in boxes:
                found.append(Structure(number, names[number], None, 0.0, reason="no place of the scan looks like it"))
                continue
            inside = decided == place
            certain = float(walked[place][inside].mean()) if inside.any() else 0.0
            voices = [s[:, place].reshape(shape) > 0.5 for s in shares]
            common = reduced(inside.astype(np.float32), shape[0]) > 0.5
            overlaps = [2 * (v & common).sum() / max(1, v.sum() + common.sum()) for v in voices]
            agreement = float(np.mean(overlaps)) if len(shares) > 1 else None
            confidence = round(confidence_of(agreement, certain, certain), 4)
            found.append(
                Structure(
                    number,
                    names[number],
                    boxes[number],
                    confidence,
                    voxels=int(sizes[number]),
                    agreement=None if agreement is None else round(agreement, 4),
                    similarity=round(certain, 4),
                )
            )
        return tuple(found)
