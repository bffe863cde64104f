"""Whether a label map of organs can be a person: sizes, sides, pieces, neighbours and gaps, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import median

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.entries import Structure
from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.anatomy.organs import normal_name
from anatrust.image.region import label_boxes
from anatrust.image.volumes import LabelMap

__all__ = ["AnatomyCheck", "AnatomyRemark", "check_anatomy", "structure_of"]

# Conventions of ours: how far an organ must be on the wrong side, or from all its neighbours (mm).
_WRONG_SIDE = 10.0
_FAR = 60.0
# Pieces smaller than this share of the structure are specks, not pieces.
_PIECE = 0.1
_MIDLINE = ("spinal_cord", "sacrum", "sternum", "vertebra")


@dataclass(frozen=True)
class AnatomyRemark:
    """One thing about a label map that hardly any person has.

    ``code`` is for machines: ``"organ-too-small"``, ``"organ-too-large"``, ``"organ-in-pieces"``,
    ``"organ-on-wrong-side"``, ``"organ-far-from-neighbours"``, ``"organ-missing-between"`` or
    ``"organs-out-of-order"``. ``structure`` is an identifier of the knowledge table.
    """

    code: str
    structure: str
    sentence: str
    cure: str


@dataclass(frozen=True)
class AnatomyCheck:
    """All remarks, the structures that were known, and in ``notes`` what could not be checked."""

    remarks: tuple[AnatomyRemark, ...]
    structures: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    row: Structure
    volume: float  # ml, where the grid has a 3-D spacing
    centre: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    pieces: int
    touches: bool


@lru_cache(maxsize=8)
def _names(table: Knowledge) -> dict[str, str]:
    names: dict[str, str] = {}
    for row in table.structures.values():
        own = [name for labels in row.labels.values() if len(labels) == 1 for name in labels]
        for name in (row.id, row.name, *own, *row.synonyms):
            names.setdefault(normal_name(name), row.id)
    return names


def structure_of(name: str, table: Knowledge | None = None) -> str | None:
    """The identifier of the structure that a label's name means exactly; None if there is none.

    >>> structure_of("Left_Kidney"), structure_of("postcava"), structure_of("lesion")
    ('kidney_left', 'inferior_vena_cava', None)
    """
    return _names(table or knowledge()).get(normal_name(name))


def check_anatomy(labels: LabelMap, table: Knowledge | None = None) -> AnatomyCheck:
    """Compare every label whose name the knowledge table knows with what the table says of it.

    Parameters
    ----------
    labels
        Named structures on their grid; the grid's orientation decides what is left. Sizes and
        sides need a 3-D grid with spacing: where it has none, a note says so.
    table
        The knowledge; the built-in one by default.

    Returns
    -------
    AnatomyCheck
        Remarks in the order of the labels. A structure on the edge of the image is never called
        too small, in pieces or far from its neighbours, for the image cuts it. Cost: one pass, and
        one labelling of components inside each structure's box.

    Guarantee
    ---------
    None: the ranges are wide conventions for adults. A remark is a reason to look (situs inversus,
    a horseshoe kidney or a removed organ are people too), and silence proves nothing.

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> array = np.zeros((60, 60, 60), np.uint8)
    >>> array[20:24, 20:24, 20:24] = 1
    >>> check_anatomy(LabelMap(array, Grid(array.shape, np.eye(4)), {1: "liver"})).remarks[0].sentence
    'The liver has 0.064 ml, less than the 500 ml expected of a whole one.'
    """
    table = table or knowledge()
    seen = _look(labels, table)
    notes = []
    remarks: list[AnatomyRemark] = []
    if not labels.grid.spacing_known or labels.grid.ndim < 3:
        notes.append("Sizes, sides and neighbours of organs were not checked: the image has no 3-D spacing.")
    else:
        for mine in seen.values():
            remarks += _of_size(mine)
            remarks += _of_neighbours(mine, seen, table)
        middle = _midline(seen)
        if middle is None:
            notes.append("Sides of single organs were not checked: no label marks the middle of the body.")
        remarks += _of_sides(seen, middle)
    for mine in seen.values():
        remarks += _of_pieces(mine)
    remarks += _of_chains(seen, ordered=labels.grid.ndim == 3)
    order = {key: number for number, key in enumerate(seen)}
    remarks.sort(key=lambda remark: order[remark.structure])
    return AnatomyCheck(tuple(remarks), tuple(seen), tuple(notes))


def _look(labels: LabelMap, table: Knowledge) -> dict[str, _Seen]:
    from scipy import ndimage

    found: dict[str, _Seen] = {}
    for number, box in label_boxes(labels.array).items():
        key = structure_of(labels.names.get(number, ""), table)
        if key is None or key in found:
            continue
        row = table.structure(key)
        inside = labels.array[box] == number
        size = int(np.count_nonzero(inside))
        counted, count = ndimage.label(inside, structure=np.ones((3,) * inside.ndim, dtype=bool))
        sizes = np.bincount(counted.ravel())[1:] if count > 1 else np.array([size])
        start = np.array([part.start for part in box])
        centre = np.array(ndimage.center_of_mass(inside)) + start
        corners = labels.grid.to_world([[p.start for p in box], [p.stop - 1 for p in box]])
        touches = any(p.start == 0 or p.stop == n for p, n in zip(box, labels.array.shape, strict=True) if n > 2)
        found[key] = _Seen(
            row=row,
            volume=size * labels.grid.voxel_volume / 1000,
            centre=labels.grid.to_world(centre),
            low=corners.min(axis=0),
            high=corners.max(axis=0),
            pieces=int((sizes >= _PIECE * size).sum()),
            touches=touches,
        )
    return found


def _of_size(mine: _Seen) -> Iterator[AnatomyRemark]:
    if mine.row.volume_ml is None:
        return
    (low, high), volume = mine.row.volume_ml, mine.volume
    cure = "Look at the mask: a part may be missing, or a neighbour included."
    if volume < low and not mine.touches:
        sentence = f"The {mine.row.name} has {volume:.3g} ml, less than the {low:g} ml expected of a whole one."
        yield AnatomyRemark("organ-too-small", mine.row.id, sentence, cure)
    if volume > high:
        sentence = f"The {mine.row.name} has {volume:.4g} ml, more than the {high:g} ml expected at most."
        yield AnatomyRemark("organ-too-large", mine.row.id, sentence, cure)


def _of_pieces(mine: _Seen) -> Iterator[AnatomyRemark]:
    if mine.row.pieces is not None and mine.pieces > mine.row.pieces and not mine.touches:
        most = "one piece" if mine.row.pieces == 1 else f"at most {mine.row.pieces} pieces"
        yield AnatomyRemark(
            "organ-in-pieces",
            mine.row.id,
            f"The {mine.row.name} lies in {mine.pieces} pieces; it comes in {most}.",
            "Look at the mask: one of the pieces may be something else.",
        )


def _of_neighbours(mine: _Seen, seen: dict[str, _Seen], table: Knowledge) -> Iterator[AnatomyRemark]:
    near = [seen[key] for key in table.neighbours(mine.row.id) if key in seen]
    if not near or mine.touches:
        return
    gaps = [np.maximum(np.maximum(mine.low - one.high, one.low - mine.high), 0) for one in near]
    distances = [float(np.linalg.norm(gap)) for gap in gaps]
    closest = int(np.argmin(distances))
    if distances[closest] > _FAR:
        other = near[closest].row.name
        yield AnatomyRemark(
            "organ-far-from-neighbours",
            mine.row.id,
            f"The {mine.row.name} is {distances[closest]:.0f} mm from the {other}, its nearest neighbour.",
            "Look at the mask: it may lie in the wrong place.",
        )


def _midline(seen: dict[str, _Seen]) -> float | None:
    places = [float(s.centre[0]) for s in seen.values() if s.row.id in _MIDLINE or s.row.part_of == "vertebra"]
    return median(places) if places else None


def _of_sides(seen: dict[str, _Seen], middle: float | None) -> Iterator[AnatomyRemark]:
    cure = "Look at the mask and at the scan's orientation: left and right may be swapped."
    for key, mine in seen.items():
        if key.endswith("_left") and (other := seen.get(f"{key.removesuffix('_left')}_right")) is not None:
            # World x grows to the patient's right.
            if mine.centre[0] > other.centre[0]:
                sentence = f"The {mine.row.name} lies to the right of the {other.row.name}."
                yield AnatomyRemark("organ-on-wrong-side", key, sentence, cure)
        elif middle is not None:
            side = mine.row.usual_side or mine.row.laterality
            beyond = float(mine.centre[0] - middle)
            wrong = beyond > _WRONG_SIDE if side == "left" else side == "right" and beyond < -_WRONG_SIDE
            paired = f"{key.removesuffix('_right')}_left" in seen
            if wrong and not paired:
                where = "right" if side == "left" else "left"
                sentence = f"The {mine.row.name} lies {abs(beyond):.0f} mm to the {where} of the middle of the body."
                yield AnatomyRemark("organ-on-wrong-side", key, sentence, cure)
    if middle is None and "liver" in seen and "spleen" in seen and seen["liver"].centre[0] < seen["spleen"].centre[0]:
        yield AnatomyRemark("organ-on-wrong-side", "liver", "The liver lies to the left of the spleen.", cure)


def _of_chains(seen: dict[str, _Seen], *, ordered: bool) -> Iterator[AnatomyRemark]:
    for chain in _chains():
        present = [number for number, key in enumerate(chain) if key in seen]
        for above, below in pairwise(present):
            first, second = seen[chain[above]], seen[chain[below]]
            missing = below - above - 1
            if missing:
                what = "one is" if missing == 1 else f"{missing} are"
                yield AnatomyRemark(
                    "organ-missing-between",
                    chain[below],
                    f"Between the {first.row.name} and the {second.row.name} {what} missing.",
                    "Look at the mask: one may be unlabelled, or the numbering may have slipped.",
                )
            elif ordered and chain[0].startswith("vertebrae") and second.centre[2] > first.centre[2]:
                yield AnatomyRemark(
                    "organs-out-of-order",
                    chain[below],
                    f"The {second.row.name} lies above the {first.row.name}.",
                    "Look at the mask and at the scan's orientation: the numbering may run the wrong way.",
                )


@lru_cache(maxsize=1)
def _chains() -> tuple[tuple[str, ...], ...]:
    spine = [f"vertebrae_C{n}" for n in range(1, 8)] + [f"vertebrae_T{n}" for n in range(1, 13)]
    spine += [f"vertebrae_L{n}" for n in range(1, 6)] + ["vertebrae_S1"]
    return (tuple(spine), *(tuple(f"rib_{side}_{n}" for n in range(1, 13)) for side in ("left", "right")))
