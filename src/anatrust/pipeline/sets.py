"""Calibrated sets in a profile, and on one scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import Features, ScoreRecipe
from anatrust.conformal.sets import PredictionSet, SetCalibration
from anatrust.errors import InputError
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.encoders import EncoderChoice, PatchEncoder, make_encoder
from anatrust.models.protocols import Encoder
from anatrust.pipeline.set_curves import SetCurves

__all__ = [
    "DescribedScan",
    "ScoredScan",
    "SetSummary",
    "SetsSection",
    "class_channels",
    "described_for",
    "predict_sets",
    "score_scan",
]


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
    choice
        How to make that encoder again.
    groups
        Calibrations of their own for each group of the cohort that is large enough, in the same order; the
        promise then holds within the group. None for a structure the group has too few patients with.
    split
        How many patients served what, in all and by group.
    curves
        How errors and sizes depend on the threshold, in the same order; empty in profiles of older versions.
    scans
        Beginnings of the SHA-256 of the scans it rests on, by which `verify` knows them again; empty in profiles of
        older versions.
    """

    calibrations: tuple[SetCalibration, ...]
    labels: tuple[int, ...]
    tunings: tuple[Mapping[str, Any] | None, ...]
    alpha: float
    assurance: float | None
    graded_masks: bool
    encoder: str
    choice: EncoderChoice = field(default_factory=EncoderChoice)
    groups: Mapping[str, tuple[SetCalibration | None, ...]] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[SetCurves | None, ...] = ()
    scans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.calibrations) == len(self.labels) == len(self.tunings):
            raise InputError("sets need as many labels and tunings as calibrations")
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))

    def of_group(self, group: str | None) -> tuple[SetCalibration, ...]:
        """The calibrations of a group, where it has its own; else those of everybody."""
        own = self.groups.get(group or "")
        if own is None:
            return self.calibrations
        return tuple(one or everybody for one, everybody in zip(own, self.calibrations, strict=True))

    def make_encoder(self, weights: str | None = None) -> Encoder | None:
        """The encoder the scores need, checked to be the one they were fitted with; None where none is needed.

        Parameters
        ----------
        weights
            Where its weights lie now, if not where the profile says.

        Raises
        ------
        InputError
            If it is not at hand, or is another one.
        """
        everyone = [*self.calibrations, *(c for own in self.groups.values() for c in own if c is not None)]
        if not any(c.recipe.needs_features for c in everyone):
            return None
        plain = self.choice.to_json()
        encoder = make_encoder(EncoderChoice.from_json(plain | {"weights": weights} if weights else plain))
        if encoder.identity != self.encoder:
            raise InputError(
                f"the profile's sets were fitted with another version of the encoder {self.choice.name}: give the "
                "weights it was fitted with, or fit it again"
            )
        return encoder

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
            "choice": self.choice.to_json(),
            "groups": {name: [None if c is None else c.to_json() for c in own] for name, own in self.groups.items()},
            "split": dict(self.split),
            "curves": [None if one is None else one.to_json() for one in self.curves],
            "scans": list(self.scans),
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
            EncoderChoice.from_json(plain["choice"]) if "choice" in plain else EncoderChoice(),
            {
                str(name): tuple(None if c is None else SetCalibration.from_json(c) for c in own)
                for name, own in plain.get("groups", {}).items()
            },
            dict(plain.get("split", {})),
            tuple(None if one is None else SetCurves.from_json(one) for one in plain.get("curves", ())),
            tuple(plain.get("scans", ())),
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
    """A scan's features when asked for.

    Local descriptors are brought to zero mean and unit deviation, for cosines compare nothing else; features of
    networks stay as they are, as published.
    """

    scan: Scan
    encoder: Encoder

    def __call__(self) -> npt.NDArray[np.float64]:
        """Features of shape ``(*scan.grid.shape, d)``."""
        features = self.encoder.encode(self.scan)
        if isinstance(self.encoder, PatchEncoder):
            return features.astype(np.float64)
        axes = tuple(range(features.ndim - 1))
        deviation = features.std(axis=axes, dtype=np.float64)
        centred: npt.NDArray[np.float64] = features - features.mean(axis=axes, dtype=np.float64)
        return centred / np.where(deviation > 0, deviation, 1.0)


def described_for(recipe: ScoreRecipe, scan: Scan, encoder: Encoder) -> Features:
    """The features a recipe needs of a scan, at the resolution it needs them.

    A graph joins patches: for an encoder that has patches of its own their means are handed over, and no
    voxel gets a copy of its patch's features (121 GB for a CT of 512×512×300 and 384 features).
    """
    if recipe.name != "graph" or not isinstance(encoder, PatchEncoder):
        return DescribedScan(scan, encoder)
    given, spacing = recipe.parameters, scan.grid.spacing
    size = [max(1, round(given["patch"] / step)) for step in spacing]
    if given["slices"] and len(size) == 3:
        size[int(np.argmax(spacing))] = 1
    nodes = recipe.patches(scan.grid.shape, spacing).grid

    def means() -> npt.NDArray[np.float64]:
        found = encoder.encode_patches(scan).block_means(size)
        return found.reshape(*nodes, found.shape[-1])

    return means


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


@dataclass(frozen=True, eq=False)
class ScoredScan:
    """One scan as the sets see it: probability and quantised score of each structure, by label."""

    probabilities: Mapping[int, npt.NDArray[Any]]
    levels: Mapping[int, npt.NDArray[np.uint16]]


def score_scan(
    section: SetsSection,
    scan: Scan,
    *,
    probabilities: ProbabilityMap | None,
    mask: LabelMap,
    encoder: Encoder | None = None,
) -> ScoredScan:
    """The score of every structure of a profile on one scan; sets and bounds are made from it.

    Parameters
    ----------
    section
        Of the profile.
    scan, probabilities, mask
        On one grid.
    encoder
        The one of ``section.make_encoder()``, where many scans are scored; None makes it.

    Raises
    ------
    InputError
        If the profile was fitted on probabilities and none are given, or a class is missing.
    """
    used = encoder or section.make_encoder() or LocalDescriptors()
    if not section.graded_masks and probabilities is None:
        raise InputError("the profile's sets grade probabilities: give them with -p")
    channels = class_channels(None if section.graded_masks else probabilities, mask, None)
    found, levels = {}, {}
    for label, calibration in zip(section.labels, section.calibrations, strict=True):
        if label not in channels and not section.graded_masks:
            raise InputError(f"the probabilities have no channel for {calibration.structure} (label {label})")
        found[label] = channels.get(label, np.zeros(scan.grid.shape, dtype=np.float32))
        features = described_for(calibration.recipe, scan, used)
        levels[label] = calibration.recipe.levels(found[label], scan.array, scan.grid, features)
    return ScoredScan(found, levels)


def predict_sets(
    section: SetsSection,
    scan: Scan,
    *,
    probabilities: ProbabilityMap | None,
    mask: LabelMap,
    encoder: Encoder | None = None,
    group: str | None = None,
) -> tuple[PredictionSet, ...]:
    """Both sets of every structure of a profile, on one scan.

    Parameters
    ----------
    section, scan, probabilities, mask, encoder
        As in `score_scan`.
    group
        Whose calibration to use, where the profile has one of that group.

    Raises
    ------
    InputError
        If the profile was fitted on probabilities and none are given, or a class is missing.
    """
    scored = score_scan(section, scan, probabilities=probabilities, mask=mask, encoder=encoder)
    pairs = zip(section.labels, section.of_group(group), strict=True)
    return tuple(calibration.sets_of(scored.levels[label], scan.grid) for label, calibration in pairs)
