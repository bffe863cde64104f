"""Screening in a profile: fitted on a cohort's usual (and strange) scans, asked about one scan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.errors import AnatrustError, FormatError, InputError
from anatrust.image.atomic import replacing
from anatrust.image.orientation import canonical
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.ood.crops import Crops, CropSettings, NoPrediction, anchored_crops
from anatrust.ood.detectors import make_detector
from anatrust.ood.explain import Explanation, explain
from anatrust.ood.features import DescriptorFeatures, ScanFeatures, describe
from anatrust.ood.persistence import screener_from_arrays, screener_to_arrays
from anatrust.ood.screen import Screener, Screening, fit_screener, patients_for_rate
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.finding import worst
from anatrust.pipeline.inspect import inspect_scan

__all__ = ["FittedScreening", "ScreeningSection", "crops_of", "fit_screening", "screen_scan"]

_MOST_FITTED = 40
_LEAST_OUTLIERS = 10
_LEAST_FITTED = 5
_CACHE_VERSION = 1
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class ScreeningSection:
    """What screening learnt.

    Parameters
    ----------
    screener
        Fitted and calibrated detectors.
    crops
        How crops are drawn.
    modality
        Handed to `read_scan` when fitted; the intensity rule depends on it.
    """

    screener: Screener
    crops: CropSettings
    modality: str | None

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values and plain arrays for a profile."""
        document, arrays = screener_to_arrays(self.screener)
        return {"screener": document, "crops": self.crops.to_json(), "modality": self.modality}, arrays

    @classmethod
    def from_arrays(cls, plain: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> ScreeningSection:
        """The section :meth:`to_arrays` wrote."""
        return cls(
            screener_from_arrays(plain["screener"], arrays), CropSettings.from_json(plain["crops"]), plain["modality"]
        )


@dataclass(frozen=True, eq=False)
class FittedScreening:
    """The section, the content keys of the scans it rests on, and what could not be fitted."""

    section: ScreeningSection | None
    keys: tuple[str, ...]
    notes: tuple[str, ...]


def crops_of(scan: Scan, labels: LabelMap, crops: CropSettings) -> Crops | NoPrediction:
    """The crops around everything the mask marks, the same at every call.

    Crops are seeded from the voxels themselves in canonical order: the same scan gives the same
    features under any file name and storage order, and no name enters a profile.
    """
    array, _ = canonical(scan.array, scan.grid)
    own = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    mask = Mask(np.asarray(labels.array != 0), scan.grid)
    return anchored_crops(scan, mask, crops, identifier=f"scan {own.hexdigest()[:12]}")


def features_of(scan: Scan, labels: LabelMap, crops: CropSettings) -> ScanFeatures | NoPrediction:
    """Features of those crops."""
    drawn = crops_of(scan, labels, crops)
    return drawn if isinstance(drawn, NoPrediction) else describe(drawn, DescriptorFeatures())


def fit_screening(
    cohort: Cohort,
    *,
    flag_rate: float = 0.05,
    modality: str | None = None,
    crops: CropSettings | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> FittedScreening:
    """Fit screening on the rows that say ``outlier = false`` (usual) and ``true`` (strange), with masks.

    Usual patients are split once, by seed: some are fitted on, and at least ``1/flag_rate - 1`` others
    calibrate. With ten strange scans or more a random forest and a Mahalanobis distance are combined by
    rank; else the Mahalanobis distance, which needs usual scans only, stands alone. Features are
    the embedded local descriptors, around the mask.

    Guarantee
    ---------
    That of `Screener`: fitting and calibration share no patient.
    """
    rows = [row for row in cohort if row.outlier is not None and row.mask is not None]
    if not any(row.outlier is False for row in rows):
        return FittedScreening(None, (), ("screening: no row with a mask says outlier = false",))
    crops = crops or CropSettings()
    found: list[tuple[CohortRow, ScanFeatures]] = []
    for done, row in enumerate(rows):
        if progress:
            progress("screening", done, len(rows))
        features = _read(row, crops, modality, cache, warn)
        if features is not None:
            found.append((row, features))
    usual = [(row, features) for row, features in found if row.outlier is False]
    strange = [features for row, features in found if row.outlier]
    patients = [*dict.fromkeys(row.patient for row, _ in usual)]
    count = min(_MOST_FITTED, len(patients) - patients_for_rate(flag_rate))
    count = max(count, min(_LEAST_FITTED, len(patients) - 1))
    if count < _LEAST_FITTED:
        words = f"screening: {len(patients)} usual patients with a prediction are too few to fit and calibrate"
        return FittedScreening(None, (), (words,))
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen = {patients[k] for k in order[:count]}
    names = ("forest", "mahalanobis") if len(strange) >= _LEAST_OUTLIERS else ("mahalanobis",)
    fitted = [(row, features) for row, features in usual if row.patient in chosen]
    held = [(row, features) for row, features in usual if row.patient not in chosen]
    screener = fit_screener(
        [make_detector(name) for name in names],
        [features for _, features in fitted],
        [row.patient for row, _ in fitted],
        strange if len(names) > 1 else (),
        flag_rate=flag_rate,
        seed=seed,
    ).conformalize([features for _, features in held], [row.patient for row, _ in held])
    notes = []
    if len(patients) - count < patients_for_rate(flag_rate):
        notes.append(
            f"screening: {len(patients) - count} calibration patients cannot flag at {flag_rate:g}; "
            f"{patients_for_rate(flag_rate)} are needed beside {count} to fit on"
        )
    if strange and len(names) == 1:
        notes.append(f"screening: {len(strange)} strange scans are too few to learn from, {_LEAST_OUTLIERS} are needed")
    keys = tuple(_key(row, crops, modality) for row, _ in found)
    return FittedScreening(ScreeningSection(screener, crops, modality), keys, tuple(notes))


def screen_scan(section: ScreeningSection, scan: Scan, labels: LabelMap) -> tuple[Screening, Explanation | None]:
    """Ask whether the model may be used on this scan, and why it says so; no explanation without a prediction."""
    features = features_of(scan, labels, section.crops)
    screening = section.screener.screen(features)
    return screening, None if isinstance(features, NoPrediction) else explain(section.screener, features)


def _key(row: CohortRow, crops: CropSettings, modality: str | None) -> str:
    contents = [None if f is None else content_hash(f) for f in (row.image, row.mask)]
    text = json.dumps([_CACHE_VERSION, __version__, contents, crops.to_json(), modality], sort_keys=True)
    return "screening-" + hashlib.sha256(text.encode()).hexdigest()


def _read(
    row: CohortRow,
    crops: CropSettings,
    modality: str | None,
    cache: Path | None,
    warn: Callable[[str], None] | None,
) -> ScanFeatures | None:
    """Features of one row, from the cache where they are; None where the scan must be left out."""
    file = None if cache is None else cache / f"{_key(row, crops, modality)}.npz"
    if file is not None and file.is_file():
        try:
            with np.load(file, allow_pickle=False) as kept:
                return ScanFeatures.from_arrays(dict(kept))
        except (FormatError, OSError, ValueError):
            pass  # Only ever written whole; a damaged one is made again.
    try:
        scan = read_scan(row.image, modality=modality)
        labels = read_mask(row.mask, reference=scan.grid)
        findings = inspect_scan(scan, labels)
        # A strange scan is here because it is strange; usual ones must pass the gate, as when judged.
        if not row.outlier and worst(findings) == "error":
            raise InputError(next(f.sentence for f in findings if f.severity == "error"))
        features = features_of(scan, labels, crops)
        if isinstance(features, NoPrediction):
            raise InputError(features.reason)
    except AnatrustError as error:
        if warn:
            warn(f"row {row.number}: left out of the screening, {error}")
        return None
    if file is not None:
        with replacing(file) as part, part.open("wb") as handle:
            np.savez(handle, **features.to_arrays())  # type: ignore[arg-type]
    return features
