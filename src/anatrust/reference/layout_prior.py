"""What a bank knows about the layout of a body, how an answer breaks it, and a repair that keeps true oddities."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.image.orientation import canonical, restore
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, Reference, Structure, boxes_of
from anatrust.models.protocols import Reasoner
from anatrust.reference.relations import relations_of, touching

__all__ = ["LayoutPrior", "Piece", "Repaired", "RepairedReasoner"]

Progress = Callable[[str, int, int], None]
Rule = tuple[int, int, int]  # structure, canonical axis, other: the first lies towards the axis's start

_CLEAR = 0.5  # of the mean extent: how far apart centres lie in a clear direction
_PIECE = 0.02  # of the main piece: smaller ones are not looked at


@dataclass(frozen=True, eq=False)
class Piece:
    """A connected piece of a label map: its label, voxels in the dense map, size, centre and extent in millimetres."""

    label: int
    index: int
    size: float
    centre: npt.NDArray[np.float64]
    extent: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired label map, what was done to it in words, and violations before and after."""

    labels: LabelMap
    done: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class LayoutPrior:
    """Relations that a bank's label maps share: the organs' graph.

    Use `LayoutPrior.learn`.

    Parameters
    ----------
    rules
        Directions that hold in nearly all maps: ``(a, axis, b)`` says that a's centre lies clearly towards the start
        of the canonical axis (left, behind, below) as seen from b's.
    parts
        ``(part, whole)``: the centre of the part lies within the box of the whole in nearly all maps. The
        organs' tree.
    orientation
        Of the canonical axes; maps of another plane are not judged.
    patients
        How many label maps it was learnt from.
    price_of_a_name, price_of_a_loss
        Share of a piece's relations that must be broken before it changes its name, and before it is taken away.
    """

    rules: frozenset[Rule]
    parts: frozenset[tuple[int, int]]
    orientation: str
    patients: int
    price_of_a_name: float = 0.15
    price_of_a_loss: float = 0.25

    @classmethod
    def learn(cls, maps: Sequence[LabelMap], *, share: float = 0.95, least: int = 5) -> LayoutPrior:
        """Keep what holds in at least ``share`` of the maps that show both structures, and these are ``least``.

        Raises
        ------
        InputError
            If there are fewer maps than ``least``, or they lie in different planes.
        """
        if len(maps) < least:
            raise InputError(
                f"a layout is learnt from {least} labelled scans at least, not from {len(maps)}: give more references"
                " of the scan's plane, or leave the priors out"
            )
        grids = {canonical(m.array, m.grid)[1].orientation for m in maps}
        if len(grids) > 1:
            raise InputError("a layout is learnt from scans of one plane, or from volumes")
        held: Counter[Rule] = Counter()
        inside: Counter[tuple[int, int]] = Counter()
        seen: Counter[tuple[int, int]] = Counter()
        for one in maps:
            whole = {p.label: p for p in _pieces(one, connected=False)[0]}
            pieces = _pieces(one)[0]
            mains = _mains(pieces)
            counted = [p for p in pieces if p.size >= _PIECE * mains[p.label].size]
            for a, b in itertools.permutations(whole, 2):
                seen[a, b] += 1
                own, other = [p for p in counted if p.label == a], [p for p in counted if p.label == b]
                inside[a, b] += all(_within(p, mains[b]) for p in own)
                # An organ that others cut into pieces may lie on both sides of a third.
                against = set().union(
                    *(_directions(mains[b], p) for p in own), *(_directions(p, mains[a]) for p in other)
                )
                held.update((a, axis, b) for axis in _directions(whole[a], whole[b]) - against)
        enough = {pair for pair, count in seen.items() if count >= least}
        rules = frozenset(r for r, n in held.items() if (r[0], r[2]) in enough and n >= share * seen[r[0], r[2]])
        parts = frozenset(p for p, n in inside.items() if p in enough and n >= share * seen[p])
        return cls(rules, parts, grids.pop(), len(maps))

    def violations(self, labels: LabelMap) -> int:
        """How many of its relations a label map breaks: pairs in which a piece shows the opposite direction.

        Pieces below a fiftieth of the structure's main one are not looked at. Cost: one labelling of pieces.

        Raises
        ------
        InputError
            If the map lies in another plane.
        """
        pieces, _ = self._read(labels)
        mains = _mains(pieces)
        broken = set()
        for piece in pieces:
            if piece.size >= _PIECE * mains[piece.label].size:
                broken |= {(piece.label, b) for b in self._broken(piece, piece.label, mains)[0]}
        return len({frozenset(pair) for pair in broken})

    def repair(self, labels: LabelMap) -> Repaired:
        """Take stray pieces away or give them the name of what they touch, until no change lowers the energy.

        The energy is the sum, over pieces, of the share of relations broken, plus a price for each change. The
        main piece of a structure is never taken away: an organ in a strange place stays there; it may only exchange
        its name with another. Where the whole layout agrees better with a mirrored body nothing is changed, and that
        is said.

        Raises
        ------
        InputError
            If the map lies in another plane.
        """
        pieces, dense = self._read(labels)
        before = self.violations(labels)
        if not pieces:
            return Repaired(labels, (), before, before)
        if self._mirrored(pieces):
            told = "its layout is that of a mirrored body: nothing was put in order (check its left and right)"
            return Repaired(labels, (told,), before, before)
        named = {p.index: p.label for p in pieces}
        met = touching(dense, len(pieces))
        done = []
        for _ in range(len(pieces)):
            mains = _mains([replace(p, label=named[p.index]) for p in pieces if named[p.index]])
            best = min(self._changes(pieces, named, mains, met, labels.names), key=lambda c: (c[0], c[2]), default=None)
            if best is None or best[0] >= -1e-9:
                break
            named |= best[1]
            done.append(best[2])
        table = np.array([0, *(named[p.index] for p in pieces)])
        array = restore(table[dense].astype(labels.array.dtype), labels.grid)
        found = LabelMap(array, labels.grid, labels.names)
        after = self.violations(found)
        # A repair that leaves the layout no better was none.
        return Repaired(found, tuple(done), before, after) if after <= before else Repaired(labels, (), before, before)

    @cached_property
    def _axes(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """The axes of the rules between two structures."""
        found: dict[tuple[int, int], tuple[int, ...]] = {}
        for a, axis, b in self.rules:
            found[a, b] = (*found.get((a, b), ()), axis)
        return found

    def _changes(
        self,
        pieces: Sequence[Piece],
        named: Mapping[int, int],
        mains: Mapping[int, Piece],
        met: npt.NDArray[np.bool_],
        names: Mapping[int, str],
    ) -> list[tuple[float, dict[int, int], str]]:
        """Every change of one piece, and exchanges of two main pieces: gain (below 0 is better), names, words."""
        called: Callable[[int], str] = lambda n: names.get(n, f"label {n}")  # noqa: E731
        found = []
        held = {m.index for m in mains.values()}
        for piece in pieces:
            own = named[piece.index]
            if not own or piece.index in held or piece.size < _PIECE * mains[own].size:
                continue
            now = self._strain(piece, own, mains)
            found.append((self.price_of_a_loss - now, {piece.index: 0}, f"a piece of {called(own)} was taken away"))
            for other, main in mains.items():
                if other != own and piece.size <= main.size and met[piece.index, main.index]:
                    gain = self._strain(piece, other, mains) + self.price_of_a_name - now
                    found.append((gain, {piece.index: other}, f"a piece of {called(own)} is now {called(other)}"))
        for a, b in itertools.combinations(sorted(mains), 2):
            one, two = mains[a], mains[b]
            now = self._strain(one, a, mains) + self._strain(two, b, mains)
            turned = {**mains, a: replace(two, label=a), b: replace(one, label=b)}
            gain = self._strain(two, a, turned) + self._strain(one, b, turned) + 2 * self.price_of_a_name - now
            if gain < 0:
                found.append((gain, {one.index: b, two.index: a}, f"{called(a)} and {called(b)} exchanged names"))
        return found

    def _strain(self, piece: Piece, label: int, mains: Mapping[int, Piece]) -> float:
        """The share of relations that a piece would break under this label."""
        broken, asked = self._broken(piece, label, mains)
        return len(broken) / asked if asked else 0.0

    def _broken(self, piece: Piece, label: int, mains: Mapping[int, Piece]) -> tuple[set[int], int]:
        """The structures to which a piece stands wrongly under this label, and how many were asked."""
        broken, asked = set(), 0
        for other, main in mains.items():
            if other == label:
                continue
            towards, away = self._axes.get((label, other), ()), self._axes.get((other, label), ())
            part = (label, other) in self.parts
            if not towards and not away and not part:
                continue
            asked += 1
            gap, clear = main.centre - piece.centre, _CLEAR * (piece.extent + main.extent) / 2
            against = any(-gap[k] >= clear[k] for k in towards) or any(gap[k] >= clear[k] for k in away)
            if against or (part and not _within(piece, main)):
                broken.add(other)
        return broken, asked

    def _mirrored(self, pieces: Sequence[Piece]) -> bool:
        """Whether the main pieces agree better with a body whose left and right are exchanged."""
        sides = [k for k, letter in enumerate(self.orientation) if letter in "RL"]
        if not sides:
            return False
        sided = [r for r in self.rules if r[1] == sides[0]]
        mains = _mains(pieces)
        agree = against = 0
        for a, axis, b in sided:
            if a in mains and b in mains:
                agree += axis in _directions(mains[a], mains[b])
                against += axis in _directions(mains[b], mains[a])
        return against > agree

    def _read(self, labels: LabelMap) -> tuple[list[Piece], npt.NDArray[np.int32]]:
        pieces, dense, orientation = _pieces(labels)
        if orientation != self.orientation:
            raise InputError(
                f"the layout was learnt in the plane {self.orientation}, and the labels lie in {orientation}"
            )
        return pieces, dense


@dataclass(frozen=True)
class RepairedReasoner:
    """Any reasoner, with its answer put in order by a layout that a bank has taught.

    Parameters
    ----------
    reasoner
        Who answers.
    prior
        Of label maps with the same numbers.
    """

    reasoner: Reasoner
    prior: LayoutPrior
    name: str = "repaired"

    @property
    def identity(self) -> str:
        """Name, revision, layout and reasoner."""
        known = f"{len(self.prior.rules)} directions, {len(self.prior.parts)} parts of {self.prior.patients} scans"
        return f"{self.name}/1 {known}: {self.reasoner.identity}"

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """As the reasoner answers; what was put in order is remarked.

        Raises
        ------
        InputError
            As the reasoner does, or if the scan lies in another plane than the layout's.
        """
        answer = self.reasoner.annotate(target, references, progress)
        if answer.abstained:
            return replace(answer, reasoner=self.identity)
        repaired = self.prior.repair(answer.labels)
        boxes = boxes_of(repaired.labels)
        sizes = dict(zip(*(v.tolist() for v in np.unique(repaired.labels.array, return_counts=True)), strict=True))
        structures = tuple(_resized(s, boxes, sizes) for s in answer.structures)
        return replace(
            answer,
            labels=repaired.labels,
            structures=structures,
            relations=relations_of([r.labels for r in references], repaired.labels),
            reasoner=self.identity,
            remarks=(*repaired.done, *answer.remarks),
        )


def _resized(one: Structure, boxes: Mapping[int, tuple[tuple[int, int], ...]], sizes: Mapping[int, int]) -> Structure:
    if one.number not in boxes:
        return one
    return replace(one, box=boxes[one.number], voxels=int(sizes[one.number]))


def _pieces(labels: LabelMap, *, connected: bool = True) -> tuple[list[Piece], npt.NDArray[np.int32], str]:
    """Connected pieces, their numbers voxel by voxel in canonical order, and the axes' directions; or whole labels."""
    array, grid = canonical(labels.array, labels.grid)
    dense = np.zeros(array.shape, np.int32)
    pieces: list[Piece] = []
    for label in labels.labels():
        mask = array == label
        split = ndimage.label(mask)[0] if connected else mask.astype(np.int32)
        for k, box in enumerate(ndimage.find_objects(split), start=1):
            inside = split[box] == k
            places = np.argwhere(inside) + [s.start for s in box]
            index = len(pieces) + 1
            dense[box][inside] = index
            extent = np.array([s.stop - s.start for s in box]) * grid.spacing
            size = float(len(places)) * float(np.prod(grid.spacing))
            pieces.append(Piece(label, index, size, places.mean(axis=0) * grid.spacing, extent))
    return pieces, dense, grid.orientation


def _mains(pieces: Sequence[Piece]) -> dict[int, Piece]:
    """Each label's largest piece."""
    mains: dict[int, Piece] = {}
    for piece in pieces:
        if piece.label not in mains or piece.size > mains[piece.label].size:
            mains[piece.label] = piece
    return mains


def _directions(one: Piece, other: Piece) -> set[int]:
    """Canonical axes along which the first lies clearly towards the start, seen from the second."""
    gap, mean = other.centre - one.centre, (one.extent + other.extent) / 2
    return {int(k) for k in np.flatnonzero(gap >= _CLEAR * mean)}


def _within(part: Piece, whole: Piece) -> bool:
    """Whether a piece's centre lies in the box of another."""
    return bool((np.abs(part.centre - whole.centre) <= whole.extent / 2).all())
