"""What the page lists and draws: the candidates of a lesion mask, or the structures of an organ mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.region import label_boxes, labelled_as
from anatrust.image.volumes import LabelMap, Mask

__all__ = ["Entry", "listed", "middle_of"]


@dataclass(frozen=True)
class Entry:
    """One row of the table, and where in the scan it lies.

    ``plain`` is the candidate or structure as the verdict gives it; ``index`` and ``world`` are
    the point the view goes to, ``box`` is ``(start, stop)`` along each axis.
    """

    number: int
    outcome: str
    index: tuple[float, ...]
    world: tuple[float, ...]
    box: tuple[tuple[int, int], ...]
    plain: Mapping[str, Any]


def listed(
    verdict: Mapping[str, Any], labels: LabelMap | Mask, kept: Mask, rejected: Mask
) -> tuple[tuple[Entry, ...], dict[str, npt.NDArray[np.bool_]]]:
    """The rows of the table in the verdict's order, and a mask for each outcome that occurs.

    For organs (``verdict["kind"]``) the outcomes are ``passed`` and ``failed``, drawn from
    ``labels``; ``kept`` and ``rejected`` then play no part.
    """
    if verdict["kind"] == "organ":
        array = labels.array.view(np.uint8) if isinstance(labels, Mask) else labels.array
        boxes = label_boxes(array)
        entries = tuple(_structure(s, labels, boxes[s["label"]]) for s in verdict["structures"])
        masks = {
            outcome: labelled_as(array, [e.number for e in entries if e.outcome == outcome])
            for outcome in ("passed", "failed")
        }
    else:
        entries = tuple(_candidate(c) for c in verdict["candidates"])
        drawn = np.asarray(labels.array != 0)
        masks = {
            "kept": kept.array,
            "rejected": rejected.array,
            "undecidable": drawn & ~kept.array & ~rejected.array,
        }
    return entries, {outcome: mask for outcome, mask in masks.items() if mask.any()}


def _candidate(plain: Mapping[str, Any]) -> Entry:
    return Entry(
        int(plain["number"]),
        plain["decision"] or "undecidable",
        tuple(plain["centroid_index"]),
        tuple(plain["centroid_world"]),
        tuple((int(a), int(b)) for a, b in plain["bounding_box"]),
        plain,
    )


def _structure(plain: Mapping[str, Any], labels: LabelMap | Mask, box: tuple[slice, ...]) -> Entry:
    index, extent = middle_of(labels.array[box] == plain["label"], [edge.start for edge in box])
    return Entry(
        int(plain["label"]),
        "failed" if plain["failed"] else "passed",
        index,
        tuple(float(v) for v in labels.grid.to_world(index)),
        extent,
        plain,
    )


def middle_of(
    mask: npt.NDArray[np.bool_], start: Sequence[int] = ()
) -> tuple[tuple[float, ...], tuple[tuple[int, int], ...]]:
    """The voxel of a mask nearest to its centre, and its box; bent organs do not hold their centroid.

    ``start`` is where the mask's first voxel lies in the image, if the mask is a part of it.
    """
    places = np.argwhere(np.ascontiguousarray(mask)) + np.array(start or (0,) * mask.ndim)
    index = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
    box = tuple((int(a), int(b) + 1) for a, b in zip(places.min(axis=0), places.max(axis=0), strict=True))
    return tuple(float(v) for v in index), box
