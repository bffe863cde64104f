"""Where structures lie to each other: directions that all references show, and touching."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap
from anatrust.models.annotation import Relation

__all__ = ["Layout", "broken_relations", "layout_of", "relations_of", "touching"]

_WORDS = {
    "R": ("left of", "right of"),
    "L": ("right of", "left of"),
    "A": ("behind", "in front of"),
    "P": ("in front of", "behind"),
    "S": ("below", "above"),
    "I": ("above", "below"),
}
_NEIGHBOURS = 4
# A direction counts where the centroids lie apart by this share of the mean extent along the axis.
_CLEAR = 0.5

Layout = frozenset[tuple[int, str, int]]


def layout_of(labels: LabelMap, among: Iterable[tuple[int, int]] | None = None) -> Layout:
    """All clear relations of a label map, as ``(label, relation, label)``.

    Parameters
    ----------
    labels
        The structures. Directions are the patient's, whatever the storage order: an image
        without a third axis has no relation along it.
    among
        Pairs to look at; by default each structure with its four nearest.

    Returns
    -------
    frozenset
        Directions where centroids lie apart by at least half the mean extent along the axis,
        and ``"touches"`` (6-neighbours, 4 in 2-D).

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> array = np.zeros((9, 9, 4), np.uint8)
    >>> array[1:3, 3:6], array[6:8, 3:6] = 1, 2
    >>> sorted(layout_of(LabelMap(array, Grid(array.shape, np.eye(4)))))
    [(1, 'left of', 2), (2, 'right of', 1)]
    """
    array, grid = canonical(labels.array, labels.grid)
    numbers = np.array(labels.labels(), dtype=np.int64)
    if numbers.size < 2:
        return frozenset()
    dense = (np.searchsorted(numbers, array) + 1).astype(np.int32)
    dense[array == 0] = 0
    index = np.arange(1, numbers.size + 1)
    centres = np.array(ndimage.center_of_mass(dense > 0, dense, index)) * grid.spacing
    boxes = ndimage.find_objects(dense)
    extents = np.array([[s.stop - s.start for s in box] for box in boxes]) * grid.spacing
    met = touching(dense, numbers.size)
    pairs = _nearest(centres) if among is None else _indices(numbers, among)
    found: set[tuple[int, str, int]] = set()
    for a, b in pairs:
        one, other = int(numbers[a]), int(numbers[b])
        for axis, letter in enumerate(grid.orientation):
            gap = centres[a, axis] - centres[b, axis]
            if abs(gap) >= _CLEAR * (extents[a, axis] + extents[b, axis]) / 2:
                found.add((one, _WORDS[letter][int(gap > 0)], other))
        if met[a + 1, b + 1]:
            found.add((one, "touches", other))
    return frozenset(found)


def relations_of(references: Sequence[LabelMap], target: LabelMap) -> tuple[Relation, ...]:
    """Relations on which all references agree, and whether the target has them.

    Touching is taken only where every reference shows it and never used against the target
    where labels were drawn apart by less than a voxel.

    Parameters
    ----------
    references
        Label maps with equal meanings of numbers.
    target
        The label map to look at.

    Returns
    -------
    tuple of Relation
        Directions only between structures that the target has; each pair once. Names are the target's.
    """
    layouts = [layout_of(labels) for labels in references]
    pairs = {(a, b) for layout in layouts for a, _, b in layout}
    layouts = [layout_of(labels, pairs) for labels in references]
    common = frozenset.intersection(*layouts) if layouts else frozenset()
    present = set(target.labels())
    here = layout_of(target, pairs)
    told = []
    for a, relation, b in sorted(common):
        mirrored = (b, _opposite(relation), a)
        if not {a, b} <= present or relation == "touches" or (mirrored in common and b < a):
            continue
        # Broken only where the target shows the opposite: a gap that is not clear decides nothing.
        holds = (a, _opposite(relation), b) not in here
        told.append(Relation(_name(target, a), relation, _name(target, b), holds))
    return tuple(told)


def broken_relations(relations: Iterable[Relation]) -> tuple[Relation, ...]:
    """Those that do not hold."""
    return tuple(r for r in relations if not r.holds)


def _opposite(relation: str) -> str:
    for words in _WORDS.values():
        if relation in words:
            return words[1 - words.index(relation)]
    return relation


def _name(labels: LabelMap, number: int) -> str:
    return labels.names.get(number, f"label {number}")


def _nearest(centres: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    order = np.argsort(apart, axis=1, kind="stable")[:, : min(_NEIGHBOURS, len(centres) - 1)]
    return [(a, int(b)) for a in range(len(centres)) for b in order[a]]


def _indices(numbers: npt.NDArray[np.int64], among: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    place = {int(n): k for k, n in enumerate(numbers)}
    return [(place[a], place[b]) for a, b in sorted(among) if a in place and b in place]


def touching(dense: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.bool_]:
    """``(count + 1, count + 1)``: which numbers of a dense map from 0 to ``count`` lie beside each other."""
    met = np.zeros((count + 1, count + 1), dtype=bool)
    for axis in range(dense.ndim):
        one = np.take(dense, range(dense.shape[axis] - 1), axis=axis).ravel()
        other = np.take(dense, range(1, dense.shape[axis]), axis=axis).ravel()
        met[one, other] = True
    return met | met.T
