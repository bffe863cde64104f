"""Features of one tissue and its candidates, ready for any test."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.rejection.case import Case
from anatrust.rejection.contamination import split_classes, trim_atypical
from anatrust.rejection.features import graded_intensity, local_features
from anatrust.rejection.tissue import Tissue, dilated
from anatrust.statistics.pieces import Claims, Piece

__all__ = ["Comparison", "compare_with"]

# What tissue of a single grey value is taken to vary by, in features: less than a grade.
_LEAST_SPREAD = 1 / 4096


@dataclass(frozen=True, eq=False)
class Comparison:
    """A tissue with its features.

    Parameters
    ----------
    case, tissue
        Where it comes from.
    features
        ``(*box)`` graded intensity or ``(*box, d)`` whitened descriptors.
    normal
        The reference voxels: the tissue without candidates and, if asked for, trimmed.
    dropped
        What trimming took away.
    classes
        ``normal`` split into classes; one for plain and trimmed references.
    """

    case: Case
    tissue: Tissue
    features: npt.NDArray[np.float32]
    normal: npt.NDArray[np.bool_]
    dropped: npt.NDArray[np.bool_]
    classes: tuple[npt.NDArray[np.bool_], ...]

    def candidate(self, position: int) -> npt.NDArray[np.bool_]:
        """A candidate as a mask of the tissue's box."""
        return self.case.components.within(position, self.tissue.box)

    def piece(self, position: int) -> Piece:
        """A candidate as a piece of the tissue's box."""
        components, box = self.case.components, self.tissue.box
        # A member lies in its tissue's box.
        own = components.boxes[position]
        start = tuple(o.start - b.start for o, b in zip(own, box, strict=True))
        return Piece(self.tissue.region.shape, start, components.within(position, own))

    def domain(self, members: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Tissue in which places are compared: the region (trimmed) and the candidates themselves."""
        where = self.tissue.region & ~self.dropped
        for position in members:
            own = self.piece(position)
            where[own.box] |= own.mask
        return where

    def others(self, members: tuple[int, ...]) -> Claims:
        """The other candidates, dilated, without the tested one's own voxels: left out when each is tested."""
        return Claims(self.tissue.claims, [self._dilated(position) for position in members])

    def _dilated(self, position: int) -> Piece:
        """A candidate with the gap around it."""
        found = dilated(position, self.tissue.box, self.case.components, self.case.settings.tissue.gap)
        # A member lies in its tissue's box.
        assert found is not None
        return Piece(self.tissue.region.shape, tuple(edge.start for edge in found[0]), found[1])

    def inside(self, position: int) -> npt.NDArray[np.float32]:
        """``(voxels, ...)`` features of a candidate."""
        own = self.piece(position)
        values: npt.NDArray[np.float32] = self.features[own.box][own.mask]
        return values

    def contrast(self, position: int) -> float | None:
        """Mean grey value inside minus that of the normal tissue, in its standard deviations; None if it has none.

        Of all of the tissue: what trimming leaves varies less than tissue does.
        """
        if self._whole is None:
            return None
        mean, deviation = self._whole
        inside = self.case.components.candidates[position].mean_intensity
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            contrast = float((inside - mean) / deviation)
        return contrast if np.isfinite(contrast) else None

    @cached_property
    def _whole(self) -> tuple[np.float64, np.float64] | None:
        """Mean and standard deviation of all of the normal tissue, the same for every candidate; None without it."""
        values = self.case.scan.array[self.tissue.box][self.normal | self.dropped].astype(np.float64)
        if values.size < 2:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            return values.mean(), values.std()

    @cached_property
    def spread(self) -> npt.NDArray[np.float64]:
        """``(d,)`` robust standard deviation of each feature over all of the normal tissue; never 0.

        1.4826 times the median distance to the median, so that a cyst in the tissue does not widen it; where more
        than half of the tissue is of one grade, the plain standard deviation.
        """
        where = self.normal | self.dropped
        found = []
        # One feature at a time: an abdomen has ten million voxels.
        for column in np.moveaxis(self.features.reshape(*where.shape, -1), -1, 0):
            values = column[where].astype(np.float64)
            robust = 1.4826 * float(np.median(np.abs(values - np.median(values))))
            found.append(max(robust if robust > _LEAST_SPREAD else float(values.std()), _LEAST_SPREAD))
        return np.array(found)

    @cached_property
    def levels(self) -> tuple[npt.NDArray[np.float64], ...]:
        """``(d,)`` mean of each feature over each of the classes."""
        rows = (self.features[part].reshape(np.count_nonzero(part), -1) for part in self.classes)
        return tuple(values.mean(axis=0, dtype=np.float64) for values in rows)

    @cached_property
    def _sound(self) -> tuple[int, bool]:
        """Voxels of the reference, and whether the features of the tissue are finite."""
        return int(np.count_nonzero(self.normal)), bool(np.isfinite(self.features[self.domain(())]).all())

    def refusal(self, position: int) -> str | None:
        """Why no test of this candidate can be made, or None."""
        own = self.case.components.candidates[position].voxels
        least = self.case.settings.tissue.min_voxels
        count, finite = self._sound
        if own < 2:
            return "it has 1 voxel, and a comparison needs at least 2"
        if count < least:
            return (
                f"its normal tissue ({self.tissue.description}) has {count} voxels left beside the candidates,"
                f" and a comparison needs {least}"
            )
        if not (finite and np.isfinite(self.inside(position)).all()):
            return "its features are not finite numbers (grey values too large to square)"
        return None


def compare_with(case: Case, tissue: Tissue) -> Comparison:
    """Compute the features of a tissue and choose its reference voxels.

    Features and reference depend on the tissue and all candidates in it, never on which
    candidate is tested.
    """
    settings = case.settings
    image = case.scan.array[tissue.box]
    normal = tissue.normal
    region = tissue.region.copy()
    for position in tissue.members:
        box = case.components.boxes[position]
        here = tuple(slice(o.start - b.start, o.stop - b.start) for o, b in zip(box, tissue.box, strict=True))
        region[here] |= case.components.within(position, box)
    grey = graded_intensity(image, region, percentiles=settings.percentiles, levels=settings.levels)
    reference: npt.NDArray[np.bool_] = normal
    classes: tuple[npt.NDArray[np.bool_], ...] = (normal,)
    if settings.tissue.reference == "trimmed":
        reference = trim_atypical(grey, normal, settings.tissue.trim)
        classes = (reference,)
    elif settings.tissue.reference == "mixture":
        classes = split_classes(grey, normal, settings.tissue.components)
        classes = tuple(c for c in classes if np.count_nonzero(c) >= settings.tissue.min_voxels) or (normal,)
    features: npt.NDArray[Any] = grey
    if settings.features == "local":
        features = local_features(case.scan, tissue.box, reference if reference.sum() >= 2 else region)
    return Comparison(case, tissue, features, reference, normal & ~reference, classes)
