"""A screener as plain JSON values and arrays for a profile: no pickle, every part checked on the way back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.ood.combination import RankAverage
from anatrust.ood.cross import CrossCalibration
from anatrust.ood.detectors import restore_detector
from anatrust.ood.detectors.base import Arrays, taken
from anatrust.ood.detectors.trees import TRUSTED_TYPES
from anatrust.ood.screen import Screener, patients_for_rate

__all__ = ["screener_from_arrays", "screener_to_arrays"]

_KIND = "anatrust-screener"
_SCHEMA = 1


def screener_to_arrays(screener: Screener) -> tuple[dict[str, Any], Arrays]:
    """A document of JSON values and plain arrays (float64; uint8 for forests in skops).

    Patients are kept as hashes only. The document lists the types a forest may hold and a
    SHA-256 over itself and all arrays.

    Examples
    --------
    >>> from anatrust.ood.detectors import make_detector
    >>> from anatrust.ood.features import ScanFeatures
    >>> from anatrust.ood.screen import fit_screener
    >>> scans = [ScanFeatures(f"s{i}", np.eye(3) * i, (("a", 3),), "made so") for i in range(1, 5)]
    >>> screener = fit_screener([make_detector("knn", k=1)], scans, list("abcd"))
    >>> document, arrays = screener_to_arrays(screener)
    >>> screener_from_arrays(document, arrays).fit_identifiers
    ('s1', 's2', 's3', 's4')
    """
    arrays: Arrays = {"fit_means": screener.fit_means}
    detectors = []
    for number, detector in enumerate(screener.detectors):
        written, own = detector.to_arrays()
        detectors.append(written)
        arrays |= {f"detector{number}.{name}": value for name, value in own.items()}
    if screener.average is not None:
        arrays |= {f"average.{name}": value for name, value in screener.average.to_arrays().items()}
    groups = None
    if screener.calibration is not None:
        groups = list(screener.calibration)
        arrays |= {f"calibration{i}": scores for i, scores in enumerate(screener.calibration.values())}
    document: dict[str, Any] = {
        "kind": _KIND,
        "schema": _SCHEMA,
        "detectors": detectors,
        "identity": screener.identity,
        "levels": [list(level) for level in screener.levels],
        "fit_identifiers": list(screener.fit_identifiers),
        "fit_patients": sorted(screener.fit_patients),
        "flag_rate": screener.flag_rate,
        "groups": groups,
        "trusted_types": list(TRUSTED_TYPES),
    }
    if screener.cross is not None:
        members = [screener_to_arrays(member) for member in screener.cross.members]
        document["cross"] = [written for written, _ in members]
        arrays["cross_scores"] = screener.cross.scores
        for number, (_, own) in enumerate(members):
            arrays |= {f"cross{number}.{name}": value for name, value in own.items()}
    document["digest"] = _digest(document, arrays)
    return document, arrays


def screener_from_arrays(document: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Screener:
    """The screener :func:`screener_to_arrays` wrote; scores are the same to the last bit.

    Raises
    ------
    FormatError
        One line, if it is foreign, newer, incomplete, or was changed.
    """
    if document.get("kind") != _KIND:
        raise FormatError("this is no screening section: give a profile written by 'anatrust fit'")
    if document.get("schema") != _SCHEMA:
        raise FormatError(
            f"the screening section has schema {document.get('schema')!r}, this version reads {_SCHEMA}:"
            " update anatrust or fit the profile again"
        )
    plain = {name: value for name, value in document.items() if name != "digest"}
    if document.get("digest") != _digest(plain, arrays):
        raise FormatError("the screening section is incomplete or was changed: fit the profile again")
    try:
        return _read(plain, arrays)
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise FormatError(f"the screening section cannot be read ({error}): fit the profile again") from None


def _digest(document: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _part(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _read(document: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Screener:
    detectors = tuple(
        restore_detector(written, _part(arrays, f"detector{number}."))
        for number, written in enumerate(document["detectors"])
    )
    levels = tuple((str(name), int(width)) for name, width in document["levels"])
    identifiers = tuple(str(name) for name in document["fit_identifiers"])
    if not detectors or any(detector.levels_ != levels for detector in detectors):
        raise FormatError("the detectors of the screening section do not fit its levels: fit the profile again")
    average = RankAverage.from_arrays(_part(arrays, "average."), len(detectors)) if len(detectors) > 1 else None
    calibration = None
    if document["groups"] is not None:
        calibration = {
            str(group): np.sort(taken(arrays, f"calibration{number}", (None,)))
            for number, group in enumerate(document["groups"])
        }
    patients_for_rate(float(document["flag_rate"]))
    cross = None
    if "cross" in document:
        members = [screener_from_arrays(own, _part(arrays, f"cross{i}.")) for i, own in enumerate(document["cross"])]
        if any(member.levels != levels or member.identity != document["identity"] for member in members):
            raise FormatError("parts of the screening section do not fit each other: fit the profile again")
        cross = CrossCalibration(tuple(members), taken(arrays, "cross_scores", (len(members),)))
    return Screener(
        detectors,
        average,
        str(document["identity"]),
        levels,
        identifiers,
        frozenset(str(key) for key in document["fit_patients"]),
        taken(arrays, "fit_means", (len(identifiers), sum(width for _, width in levels))),
        float(document["flag_rate"]),
        calibration,
        cross,
    )
