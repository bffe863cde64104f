"""Rows with a truth, read: the scan, what the segmenter thinks of each structure, its mask, and the truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.conformal.sets import LabelledCase
from anatrust.errors import AnatrustError, InputError
from anatrust.image.read import read_mask, read_probabilities, read_scan
from anatrust.image.region import Region, crop_scan
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.models.encoders import PatchEncoder
from anatrust.models.protocols import Encoder
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.cohort import CohortRow
from anatrust.pipeline.finding import worst
from anatrust.pipeline.inspect import inspect_scan
from anatrust.pipeline.progress import Warn
from anatrust.pipeline.sets import DescribedScan, class_channels

__all__ = ["LabelledImage", "LabelledReader", "derived_mask", "labelled_case", "region_of", "rows_key", "scan_mark"]

_CACHE_VERSION = 2
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One row, read.

    Parameters
    ----------
    scan
        The image.
    probabilities
        Foreground probability of each structure (0 and 1 where masks are graded), by label.
    masks
        What the segmenter drew of each structure, by label.
    truth
        What is there.
    soft
        The probabilities as they were read; None where masks are graded.
    """

    scan: Scan
    probabilities: dict[int, npt.NDArray[Any]]
    masks: dict[int, _Bool]
    truth: LabelMap
    soft: ProbabilityMap | None = None


def derived_mask(soft: ProbabilityMap) -> dict[int, _Bool]:
    """The mask probabilities stand for: the most probable class, or 0.5 where classes may overlap.

    Channels count as in :func:`~anatrust.pipeline.sets.class_channels`: a background first, then labels 1, 2, …
    """
    if soft.classes[0] != "background":
        return {number + 1: np.asarray(channel >= 0.5) for number, channel in enumerate(soft.array)}
    winner = soft.array.argmax(axis=0)
    return {number: np.asarray(winner == number) for number in range(1, soft.array.shape[0])}


class LabelledReader:
    """Reads rows, leaves out what the gate refuses (said once), and knows which channel is which structure.

    Parameters
    ----------
    modality
        As in `read_scan`.
    graded
        Whether masks stand for the probabilities nobody has.
    warn
        Told one line for each row that is left out.
    names
        Of the truth's labels, over those the files give.
    """

    def __init__(
        self, modality: str | None, graded: bool, warn: Warn | None = None, names: Mapping[int, str] | None = None
    ) -> None:
        self.modality, self.graded, self.warn, self.names = modality, graded, warn, dict(names or {})
        self._told: set[int] = set()

    def structures(self, rows: Iterable[CohortRow]) -> dict[int, str]:
        """Names of the truth's labels, by number, over the given rows."""
        found: dict[int, str] = {}
        for row in rows:
            image = self.read(row)
            if image is None:
                continue
            for label in image.truth.labels():
                if label in image.probabilities:
                    name = self.names.get(label, image.truth.names.get(label, f"label {label}"))
                    found.setdefault(label, name)
        return dict(sorted(found.items()))

    def read(self, row: CohortRow) -> LabelledImage | None:
        """One row, or None where it must be left out."""
        try:
            scan = read_scan(row.image, modality=self.modality)
            truth = read_mask(row.truth, reference=scan.grid)
            soft = None if self.graded else read_probabilities(row.probabilities, reference=scan.grid)
            mask = read_mask(row.mask, reference=scan.grid) if row.mask is not None else None
            labels = mask if mask is not None else truth
            findings = inspect_scan(scan, labels, soft)
            if worst(findings) == "error":
                raise InputError(next(f.sentence for f in findings if f.severity == "error"))
        except AnatrustError as error:
            if self.warn and row.number not in self._told:
                self._told.add(row.number)
                self.warn(f"row {row.number}: left out of the sets, {error}")
            return None
        channels = class_channels(soft, mask, truth)
        if mask is None and soft is not None:
            masks = derived_mask(soft)
        else:
            masks = {} if mask is None else {label: np.asarray(mask.array == label) for label in channels}
        return LabelledImage(scan, channels, masks, truth, soft)

    def images(self, rows: Sequence[CohortRow]) -> Iterator[LabelledImage]:
        """The readable images of one patient."""
        for row in rows:
            image = self.read(row)
            if image is not None:
                yield image

    def cases(self, rows: Sequence[CohortRow], label: int, encoder: Encoder) -> Iterator[LabelledCase]:
        """The images of one patient for one structure, for the choice of a score: cut to where it may be.

        See `region_of`. An encoder that sees whole slices gets them whole.
        """
        for image in self.images(rows):
            if label in image.probabilities:
                whole = Region.whole(image.scan.grid.shape)
                region = whole if isinstance(encoder, PatchEncoder) else region_of(image, label)
                yield labelled_case(rows[0].patient, image, label, encoder, region)


def region_of(image: LabelledImage, label: int, *, margin: float = 20.0) -> Region:
    """The box of everything a structure's truth or a probability of 0.001 reaches, and a margin in mm.

    Comparing scores there instead of in a whole CT takes a fraction of the time and memory. It decides only which
    score is chosen; calibration sees whole scans.
    """
    grid = image.scan.grid
    there = (image.probabilities[label] >= 0.001) | (image.truth.array == label)
    if not there.any():
        return Region.whole(grid.shape)
    start, stop = [], []
    for axis, (size, step) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        reached = np.flatnonzero(there.any(axis=tuple(k for k in range(there.ndim) if k != axis)))
        pad = int(np.ceil(margin / step))
        start.append(max(0, int(reached[0]) - pad))
        stop.append(min(size, int(reached[-1]) + 1 + pad))
    return Region(tuple(start), tuple(stop))


def labelled_case(patient: str, image: LabelledImage, label: int, encoder: Encoder, region: Region) -> LabelledCase:
    """What the choice of a score needs of one structure of an image, in a region of it; holds nothing else of it."""
    view = crop_scan(image.scan, region)
    scan = replace(view, array=view.array.copy())
    soft = image.probabilities[label][region.slices].copy()
    truth = np.asarray(image.truth.array[region.slices] == label)
    return LabelledCase(patient, soft, scan.array, truth, scan.grid, DescribedScan(scan, encoder))


def scan_mark(row: CohortRow) -> str:
    """Beginning of the SHA-256 of a row's scan: tells whether a scan is the same, and nothing else about it."""
    return content_hash(row.image)[:16]


def rows_key(rows: Sequence[CohortRow], choices: Sequence[Any]) -> str:
    """Name of what was learnt from some rows: by content, so that it survives renaming and no name enters it."""
    contents = [
        [None if f is None else content_hash(f) for f in (row.image, row.mask, row.probabilities, row.truth)]
        for row in rows
    ]
    text = json.dumps([_CACHE_VERSION, __version__, contents, list(choices)], sort_keys=True)
    return "sets-" + hashlib.sha256(text.encode()).hexdigest()
