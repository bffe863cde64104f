"""Features of a cohort's rows, and what is kept of them on disk so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.errors import FormatError, InputError
from anatrust.image.atomic import replacing
from anatrust.image.read import read_mask, read_probabilities, read_scan
from anatrust.ood.crops import NoPrediction
from anatrust.ood.features import ScanFeatures
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.cohort import CohortRow
from anatrust.pipeline.finding import Finding, worst
from anatrust.pipeline.inspect import inspect_scan
from anatrust.pipeline.screening_features import Description

__all__ = ["FeatureCache", "Refused", "row_features"]

_CACHE_SCHEMA = 3


@dataclass(frozen=True)
class Refused:
    """The input gate found an error: the scan is not screened at all."""

    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        """The first error in words."""
        return next(f.sentence for f in self.findings if f.severity == "error")


@dataclass(frozen=True)
class FeatureCache:
    """Features of scans on disk, one file a scan, named by what they were made from.

    Each file is written whole or not at all, so a killed run goes on where it stopped, and several
    processes may share a folder. Its header says from which bytes, with which description and by which
    version it was made; a file that is damaged or says otherwise is made again. No pickle.
    """

    folder: Path

    def key(self, row: CohortRow, description: Description, modality: str | None) -> str:
        """A name of the row's bytes, the description and this version."""
        return hashlib.sha256(json.dumps(self._header(row, description, modality), sort_keys=True).encode()).hexdigest()

    def _header(self, row: CohortRow, description: Description, modality: str | None) -> dict[str, Any]:
        return {
            "schema": _CACHE_SCHEMA,
            "anatrust": __version__,
            "image": content_hash(row.image),
            "mask": _content(row.mask),
            "description": description.identity,
            **({"probabilities": _content(row.probabilities)} if description.certainty else {}),
            "modality": modality,
        }

    def read(
        self, row: CohortRow, description: Description, modality: str | None
    ) -> ScanFeatures | NoPrediction | None:
        """What is kept of this row; None where nothing (usable) is."""
        file = self.folder / f"screening-{self.key(row, description, modality)}.npz"
        try:
            with file.open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
                arrays = dict(kept)
            provenance = json.loads(arrays.pop("provenance").tobytes())
            nothing = provenance.pop("no_prediction", None)
            if provenance != self._header(row, description, modality):
                return None
            return NoPrediction(*nothing) if nothing else ScanFeatures.from_arrays(arrays)
        except (
            FormatError,
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            BadZipFile,
            zlib.error,
        ):
            return None

    def write(
        self, row: CohortRow, description: Description, modality: str | None, found: ScanFeatures | NoPrediction
    ) -> None:
        """Keep what was found."""
        provenance = self._header(row, description, modality)
        arrays: dict[str, npt.NDArray[Any]] = {}
        if isinstance(found, NoPrediction):
            provenance["no_prediction"] = [found.identifier, found.reason]
        else:
            arrays = found.to_arrays()
        arrays["provenance"] = np.frombuffer(json.dumps(provenance, sort_keys=True).encode(), dtype=np.uint8)
        file = self.folder / f"screening-{self.key(row, description, modality)}.npz"
        with replacing(file) as part, part.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]


def row_features(
    row: CohortRow, description: Description, *, modality: str | None = None, cache: FeatureCache | None = None
) -> ScanFeatures | NoPrediction | Refused:
    """Features of one row of a cohort, from the cache where they are.

    A row known to be an outlier passes the input gate whatever it finds: it is there because it is strange.

    Raises
    ------
    AnatrustError
        If a file cannot be read or the mask is missing.
    """
    if row.mask is None:
        raise InputError("the mask is missing: screening looks where the segmenter drew")
    if cache is not None and (kept := cache.read(row, description, modality)) is not None:
        return kept
    scan = read_scan(row.image, modality=modality)
    labels = read_mask(row.mask, reference=scan.grid)
    findings = tuple(inspect_scan(scan, labels))
    if not row.outlier and worst(findings) == "error":
        return Refused(findings)
    soft = None
    if description.certainty and row.probabilities is not None:
        soft = read_probabilities(row.probabilities, reference=scan.grid)
    found = description.of(scan, labels, soft)
    if cache is not None:
        cache.write(row, description, modality, found)
    return found


def _content(file: Path | None) -> str | None:
    return None if file is None else content_hash(file)
