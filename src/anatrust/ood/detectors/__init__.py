"""Detectors by name: those taught by strange scans, those that know usual ones alone, and a score given as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.ood.detectors.base import Detector
from anatrust.ood.detectors.forest import Forest
from anatrust.ood.detectors.given import GivenScore
from anatrust.ood.detectors.isolation import Isolation
from anatrust.ood.detectors.level_ensemble import LevelEnsemble, PartEnsemble
from anatrust.ood.detectors.logistic import Logistic
from anatrust.ood.detectors.mahalanobis import Mahalanobis
from anatrust.ood.detectors.mlp import MultilayerPerceptron
from anatrust.ood.detectors.neighbours import NearestNeighbours

__all__ = [
    "Detector",
    "Forest",
    "GivenScore",
    "Isolation",
    "LevelEnsemble",
    "Logistic",
    "Mahalanobis",
    "MultilayerPerceptron",
    "NearestNeighbours",
    "PartEnsemble",
    "detector_names",
    "make_detector",
    "restore_detector",
]

_KINDS: dict[str, type[Detector]] = {
    kind.name: kind
    for kind in (
        Forest,
        Logistic,
        MultilayerPerceptron,
        Mahalanobis,
        NearestNeighbours,
        Isolation,
        LevelEnsemble,
        PartEnsemble,
        GivenScore,
    )
}


def detector_names() -> tuple[str, ...]:
    """Names of all detectors, those taught by strange scans first."""
    return tuple(_KINDS)


def make_detector(name: str, **settings: Any) -> Detector:
    """An unfitted detector.

    Raises
    ------
    InputError
        If the name or a setting is unknown.

    Examples
    --------
    >>> make_detector("mahalanobis", normalise="l2").needs_outliers
    False
    """
    if name not in _KINDS:
        raise InputError(f"there is no detector {name!r}: choose one of {', '.join(_KINDS)}")
    try:
        return _KINDS[name](**settings)
    except TypeError as error:
        raise InputError(f"the detector '{name}' cannot be made ({error}): look at its settings") from None


def restore_detector(document: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Detector:
    """The detector that :meth:`Detector.to_arrays` wrote.

    Raises
    ------
    FormatError
        If it is foreign, newer or damaged.
    """
    kind = _KINDS.get(str(document.get("detector")))
    if kind is None:
        raise FormatError(f"there is no detector {document.get('detector')!r} in this version: fit the profile again")
    return kind.restore(document, arrays)
