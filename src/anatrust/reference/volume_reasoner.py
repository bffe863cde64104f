"""Volumes with a reasoner that reads images: key slices are asked about, the rest is followed from them, both ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.orientation import canonical, restore
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, NamedRegion, Reference, Structure, boxes_of
from anatrust.models.protocols import Reasoner, RegionNamer
from anatrust.reference.bank import slices_of
from anatrust.reference.descriptor import ScanDescriptor
from anatrust.reference.pictures import greys
from anatrust.reference.registration_reasoner import confidence_of, merged_names
from anatrust.reference.relations import relations_of
from anatrust.reference.slice_tracking import RegisteredSlices, SliceTracker

__all__ = ["VolumeReasoner", "key_places"]

Progress = Callable[[str, int, int], None]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_WINDOW = 0.2  # of the volume's length: how far from where it is expected a slice is looked for
_LOST = 0.5


@dataclass(frozen=True)
class VolumeReasoner:
    """Annotates a volume with a reasoner that reads images.

    On a few key slices, where the reference shows most of its structures at their largest, the reasoner is asked with
    the reference's slice that looks most like it. A tracker follows what it drew through the volume, both ways from
    each key slice. Where structures get lost between slices in which they are present, the reasoner is asked
    again there, and all is followed anew. With three planes each votes.

    References
    ----------
    RAU's open question on volumes; MedVol-R1 (arXiv 2605.26621) propagates from a key slice likewise.

    Parameters
    ----------
    reasoner
        Reads images.
    tracker
        Follows: by registration of neighbouring slices, or SAM 2's memory.
    keys
        Key slices of each plane and reference.
    again
        Further slices of each plane that may be asked about where structures got lost.
    tri_planar
        Whether sagittal and coronal slices are asked about too; three times the cost.
    """

    reasoner: Reasoner
    tracker: SliceTracker = field(default_factory=RegisteredSlices)
    keys: int = 3
    again: int = 2
    tri_planar: bool = False
    name: str = "volume"

    def __post_init__(self) -> None:
        if self.keys < 1 or self.again < 0:
            raise InputError("a volume needs at least one key slice, and no negative number of further ones")

    @property
    def identity(self) -> str:
        """Name, revision, reasoner, tracker and settings."""
        planes = "three planes" if self.tri_planar else "axial"
        how = f"{planes} keys={self.keys} again={self.again}"
        return f"{self.name}/1 {how}: {self.reasoner.identity}; {self.tracker.identity}"

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """Names, boxes, masks, relations and confidences in a volume; an image is handed on as it is.

        Raises
        ------
        InputError
            If there is no reference, or numbers are named differently.
        """
        names = merged_names(references)
        if target.grid.ndim == 2:
            return self.reasoner.annotate(target, references, progress)
        planes = (2, 1, 0) if self.tri_planar else (2,)
        total: dict[int, Floats] = {}
        certain: dict[int, list[float]] = {}
        remarks: list[str] = []
        for done, axis in enumerate(planes):
            if progress:
                progress("slices", done, len(planes))
            chances = self._along(axis, target, references, certain, remarks)
            for label, values in chances.items():
                before = total.get(label, np.zeros(values.shape, np.float32))
                total[label] = (before + values / len(planes)).astype(np.float32)
        if progress:
            progress("slices", len(planes), len(planes))
        if not total:
            why = remarks[0] if remarks else "the reasoner drew nothing on any key slice"
            return Annotation.none(target, names, self.identity, f"no answer on any key slice: {why}", tuple(remarks))
        return self._answer(target, names, references, total, certain, tuple(dict.fromkeys(remarks)))

    def name_regions(self, target: Scan, regions: LabelMap, references: Sequence[Reference]) -> tuple[NamedRegion, ...]:
        """As the reasoner of images names them; for images alone."""
        if not isinstance(self.reasoner, RegionNamer) or target.grid.ndim != 2:
            raise InputError("outlined regions are asked about in images, of a reasoner that can be asked")
        return self.reasoner.name_regions(target, regions, references)

    def _along(
        self,
        axis: int,
        target: Scan,
        references: Sequence[Reference],
        certain: dict[int, list[float]],
        remarks: list[str],
    ) -> dict[int, Floats]:
        """Chances by label on the target's canonical grid, from the slices across one axis."""
        mine = _sliced(Reference(target, LabelMap(np.ones(target.grid.shape, np.uint8), target.grid)), axis)
        describe = ScanDescriptor()
        anchors: dict[int, dict[int, Bools]] = {}
        others = [_sliced(r, axis) for r in references]

        def ask(place: int, one: Reference) -> None:
            answer = self.reasoner.annotate(mine[place].scan, [one])
            if answer.abstained:
                remarks.append(f"a key slice got no answer: {answer.abstained}")
            drawn = canonical(answer.labels.array, answer.labels.grid)[0]
            for s in answer.structures:
                if s.found:
                    anchors.setdefault(place, {}).setdefault(s.number, np.zeros(drawn.shape, bool))
                    anchors[place][s.number] |= drawn == s.number
                    certain.setdefault(s.number, []).append(s.confidence)

        def alike(one: Reference, places: Sequence[int], pool: Mapping[int, Reference], length: int, at: float) -> int:
            seen = describe.describe(one.scan).whole
            near = [k for k in places if abs(k / max(1, length - 1) - at) <= _WINDOW] or list(places)
            scores = {k: _cosine(describe, seen, pool[k].scan) for k in near}
            return max(near, key=lambda k: (scores[k], -abs(k / max(1, length - 1) - at)))

        for reference, slices in zip(references, others, strict=True):
            length = canonical(reference.labels.array, reference.labels.grid)[0].shape[axis]
            for key in key_places(reference, axis, self.keys):
                ask(alike(slices[key], list(mine), mine, len(mine), key / max(1, length - 1)), slices[key])
        if not any(mask.any() for masks in anchors.values() for mask in masks.values()):
            return {}
        volume = np.moveaxis(greys(target), axis, 0)
        chances, present = self.tracker.track(np.ascontiguousarray(volume), anchors)
        lost = _lost(present, anchors)[: self.again]
        for place in lost:
            reference, slices = references[0], others[0]
            length = canonical(reference.labels.array, reference.labels.grid)[0].shape[axis]
            best = alike(mine[place], list(slices), slices, length, place / max(1, len(mine) - 1))
            ask(place, slices[best])
        if lost:
            chances, present = self.tracker.track(np.ascontiguousarray(volume), anchors)
        return {label: np.moveaxis(c * (present[label] > 0)[:, None, None], 0, axis) for label, c in chances.items()}

    def _answer(
        self,
        target: Scan,
        names: dict[int, str],
        references: Sequence[Reference],
        total: Mapping[int, Floats],
        certain: Mapping[int, Sequence[float]],
        remarks: tuple[str, ...],
    ) -> Annotation:
        numbers = sorted(total)
        stacked = np.stack([total[n] for n in numbers])
        best = stacked.argmax(axis=0)
        drawn = np.where(stacked.max(axis=0) > 0.5, np.array(numbers)[best], 0)
        smallest = np.min_scalar_type(int(drawn.max()))
        labels = LabelMap(restore(drawn.astype(smallest), target.grid), target.grid, names)
        boxes = boxes_of(labels)
        structures = []
        for label, name in names.items():
            if label not in boxes:
                reason = "was seen on no key slice" if label not in total else "did not win the vote of the slices"
                structures.append(Structure(label, name, None, 0.0, reason=reason))
                continue
            inside = drawn == label
            mean = float(np.clip(total[label][inside].mean(), 0, 1))
            own = float(np.mean(certain[label]))
            confidence = round(confidence_of(None, mean, own), 4)
            size = int(inside.sum())
            structures.append(Structure(label, name, boxes[label], confidence, voxels=size, similarity=round(mean, 4)))
        relations = relations_of([r.labels for r in references], labels)
        weight = sum(r.weight for r in references)
        used = tuple((r.identifier, r.weight / weight) for r in references)
        return Annotation(labels, tuple(structures), relations, self.identity, used, remarks)


def key_places(reference: Reference, axis: int, count: int) -> tuple[int, ...]:
    """Slices of a labelled volume that together show its structures at their largest.

    Greedily: each next slice is the one that most raises the sum, over structures, of the largest share of its
    greatest area that any chosen slice shows.

    Parameters
    ----------
    reference
        A volume.
    axis
        Canonical axis across which it is sliced.
    count
        At most; fewer where more add nothing.

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> array = np.zeros((8, 8, 9), np.uint8)
    >>> array[1:5, 1:5, 2], array[1:3, 1:3, 3], array[5:7, 5:7, 6:8] = 1, 1, 2
    >>> grid = Grid(array.shape, np.eye(4))
    >>> key_places(Reference(Scan(array.astype(float), grid), LabelMap(array, grid)), 2, 3)
    (2, 6)
    """
    drawn = np.moveaxis(canonical(reference.labels.array, reference.labels.grid)[0], axis, 0)
    areas = np.stack([(drawn == n).sum(axis=(1, 2)) for n in reference.labels.labels()]).astype(float)
    shares = areas / areas.max(axis=1, keepdims=True)
    chosen: list[int] = []
    best = np.zeros(len(shares))
    for _ in range(count):
        gains = np.maximum(shares, best[:, None]).sum(axis=0) - best.sum()
        if gains.max() <= 1e-9:
            break
        chosen.append(int(gains.argmax()))
        best = np.maximum(best, shares[:, chosen[-1]])
    return tuple(sorted(chosen))


def _sliced(reference: Reference, axis: int) -> dict[int, Reference]:
    """Slices of the volume in canonical order, by place; those without a label are left out."""
    image, grid = canonical(reference.scan.array, reference.scan.grid)
    drawn = canonical(reference.labels.array, reference.labels.grid)[0]
    straight = Reference(
        replace(reference.scan, array=image, grid=grid),
        LabelMap(drawn, grid, reference.labels.names),
        reference.identifier,
        reference.weight,
    )
    places = [k for k in range(drawn.shape[axis]) if np.take(drawn, k, axis).any()]
    return dict(zip(places, slices_of(straight, axis=axis), strict=True))


def _cosine(describe: ScanDescriptor, seen: Floats, scan: Scan) -> float:
    try:
        return float(seen @ describe.describe(scan).whole)
    except InputError:  # a blank slice looks like nothing
        return -1.0


def _lost(present: Mapping[int, Floats], anchors: Mapping[int, Mapping[int, Bools]]) -> list[int]:
    """Slices between a structure's own key slices where it is not present, the longest gaps' middles first."""
    gaps: list[tuple[int, int]] = []
    for label, values in present.items():
        own = sorted(k for k, masks in anchors.items() if label in masks and masks[label].any())
        for low, high in itertools.pairwise(own):
            missing = [k for k in range(low + 1, high) if values[k] < _LOST]
            if missing:
                gaps.append((len(missing), missing[len(missing) // 2]))
    return list(dict.fromkeys(place for _, place in sorted(gaps, key=lambda g: (-g[0], g[1]))))
