"""Calibrated sets in a profile, and on one scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.sets import PredictionSet, SetCalibration
from anatrust.errors import InputError
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.models.descriptors import LocalDescriptors

__all__ = ["DescribedScan", "SetSummary", "SetsSection", "class_channels", "predict_sets"]


@dataclass(frozen=True, eq=False)
class SetsSection:
    """What conformal prediction learnt: thresholds for each structure.

    Parameters
    ----------
    calibrations
        One for each structure, keyed by the class name of the probabilities (of the label where
        masks were graded).
    labels
        The truth's label number of each structure, in the same order.
    tunings
        What each score was chosen from, as plain values; empty where there was nothing to tune on.
    alpha, assurance
        What was promised; assurance None promises the mean.
    graded_masks
        True where the cohort had no probabilities and masks were graded by distance.
    encoder
        Identity of the encoder of the feature graph.
    """

    calibrations: tuple[SetCalibration, ...]
    labels: tuple[int, ...]
    tunings: tuple[Mapping[str, Any] | None, ...]
    alpha: float
    assurance: float | None
    graded_masks: bool
    encoder: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for a profile."""
        return {
            "calibrations": [c.to_json() for c in self.calibrations],
            "labels": list(self.labels),
            "tunings": list(self.tunings),
            "alpha": self.alpha,
            "assurance": self.assurance,
            "graded_masks": self.graded_masks,
            "encoder": self.encoder,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> SetsSection:
        """The section :meth:`to_json` wrote."""
        return cls(
            tuple(SetCalibration.from_json(c) for c in plain["calibrations"]),
            tuple(int(v) for v in plain["labels"]),
            tuple(plain["tunings"]),
            float(plain["alpha"]),
            None if plain["assurance"] is None else float(plain["assurance"]),
            bool(plain["graded_masks"]),
            str(plain["encoder"]),
        )


@dataclass(frozen=True)
class SetSummary:
    """Inner and outer set of one structure, in numbers.

    Parameters
    ----------
    structure, label
        Its name and number.
    alpha
        Promised mean error.
    inner_voxels, outer_voxels
        Sizes; the outer set of an infeasible calibration is the whole image.
    inner_volume, outer_volume
        In mm³ (mm² in 2-D); None where the voxel size is unknown.
    inner_feasible, outer_feasible
        Whether the promise could be made at all.
    """

    structure: str
    label: int
    alpha: float
    inner_voxels: int
    outer_voxels: int
    inner_volume: float | None
    outer_volume: float | None
    inner_feasible: bool
    outer_feasible: bool

    @classmethod
    def of(cls, found: PredictionSet, label: int) -> SetSummary:
        """Summary of a prediction set."""
        known = found.inner.grid.spacing_known
        return cls(
            found.structure,
            label,
            found.alpha,
            int(np.count_nonzero(found.inner.array)),
            int(np.count_nonzero(found.outer.array)),
            found.inner.volume if known else None,
            found.outer.volume if known else None,
            found.feasible[0],
            found.feasible[1],
        )


@dataclass(frozen=True, eq=False)
class DescribedScan:
    """A scan's descriptors when asked for, of zero mean and unit deviation: cosines compare nothing else."""

    scan: Scan
    encoder: LocalDescriptors

    def __call__(self) -> npt.NDArray[np.float64]:
        """Features of shape ``(*scan.grid.shape, d)``."""
        features = self.encoder.encode(self.scan)
        axes = tuple(range(features.ndim - 1))
        deviation = features.std(axis=axes, dtype=np.float64)
        centred: npt.NDArray[np.float64] = features - features.mean(axis=axes, dtype=np.float64)
        return centred / np.where(deviation > 0, deviation, 1.0)


def class_channels(
    soft: ProbabilityMap | None, mask: LabelMap | None, truth: LabelMap | None
) -> dict[int, npt.NDArray[Any]]:
    """Foreground probability of each label: the channels but a background one are labels 1, 2 and so on."""
    if soft is None:
        if mask is None:
            return {}
        numbers = mask.labels() if truth is None else sorted({*mask.labels(), *truth.labels()})
        return {number: (mask.array == number).astype(np.float32) for number in numbers}
    first = 1 if soft.classes[0] == "background" else 0
    return {number: soft.array[number - 1 + first] for number in range(1, soft.array.shape[0] + 1 - first)}


def predict_sets(
    section: SetsSection, scan: Scan, *, probabilities: ProbabilityMap | None, mask: LabelMap
) -> tuple[PredictionSet, ...]:
    """Both sets of every structure of a profile, on one scan.

    Raises
    ------
    InputError
        If the profile was fitted on probabilities and none are given, or a class is missing.
    """
    encoder = LocalDescriptors()
    if section.encoder != encoder.identity:
        raise InputError("the profile's sets were fitted with another version of the descriptors: fit it again")
    if not section.graded_masks and probabilities is None:
        raise InputError("the profile's sets grade probabilities: give them with -p")
    channels = class_channels(None if section.graded_masks else probabilities, mask, None)
    made = []
    for label, calibration in zip(section.labels, section.calibrations, strict=True):
        if label not in channels and not section.graded_masks:
            raise InputError(f"the probabilities have no channel for {calibration.structure} (label {label})")
        channel = channels.get(label, np.zeros(scan.grid.shape, dtype=np.float32))
        made.append(calibration.predict(channel, scan.array, scan.grid, DescribedScan(scan, encoder)))
    return tuple(made)
