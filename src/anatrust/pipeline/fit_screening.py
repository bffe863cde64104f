"""Fitting screening on a cohort's usual and strange scans, or on usual ones and what is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatrust.errors import AnatrustError, InputError, MissingExtraError
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.ood.crops import NoPrediction
from anatrust.ood.cross import fit_cross_screener
from anatrust.ood.detectors import detector_names, make_detector
from anatrust.ood.features import ScanFeatures
from anatrust.ood.screen import Screener, fit_screener, patients_for_rate
from anatrust.ood.synthetic import SYNTHETIC_OUTLIERS, shifted
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.progress import Progress, Warn
from anatrust.pipeline.screening import ScreeningSection
from anatrust.pipeline.screening_cache import FeatureCache, Refused, row_features
from anatrust.pipeline.screening_features import Description, make_description

__all__ = ["FittedScreening", "fit_screening"]

_MOST_FITTED = 40
_LEAST_OUTLIERS = 10
_LEAST_FITTED = 5
_CROSS_TREES = 100
# Features of different units: shrinking their covariance means something on one scale only.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {"mahalanobis": {"normalise": "zscore"}}


@dataclass(frozen=True, eq=False)
class FittedScreening:
    """The section, the content keys of the scans it rests on, and what could not be fitted."""

    section: ScreeningSection | None
    keys: tuple[str, ...]
    notes: tuple[str, ...]


def fit_screening(
    cohort: Cohort,
    *,
    flag_rate: float = 0.05,
    modality: str | None = None,
    description: Description | None = None,
    detectors: Sequence[str] | None = None,
    synthetic_outliers: bool = False,
    by_group: bool = False,
    cross_conformal: bool = False,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> FittedScreening:
    """Fit screening on the rows that say ``outlier = false`` (usual) and ``true`` (strange), with masks.

    Usual patients are split once, by seed: some are fitted on, and at least ``1/flag_rate - 1`` others
    calibrate. With strange scans of ten patients a random forest and a Mahalanobis distance (one a part where several
    kinds of features stand side by side, averaged) are combined by rank; else the distance, which needs usual scans
    only, stands alone.

    Parameters
    ----------
    cohort
        The table. A strange patient who is also a usual one is never learnt from as strange if calibrated on.
    flag_rate, modality, seed
        Share of usual scans that may be flagged; of all scans; of the split.
    description
        What is measured; local descriptors in the mask and its rim, and image quality, if None.
    detectors
        Names of detectors to fit instead; several are combined by rank, never the best one picked.
    synthetic_outliers
        Make strange scans of the usual ones that are fitted on, one each, by `SYNTHETIC_OUTLIERS` in turn. They
        are no substitute for real ones: the profile says how many were made. Where certainty is measured they are
        segmented again, so the network must be a U-Net of anatrust.
    by_group
        Calibrate within each ``group`` of the table (each needs ``1/flag_rate - 1`` patients).
    cross_conformal
        Fit and calibrate on the same usual patients, leaving each out in turn, where there are too few to hold
        any out: ``1/flag_rate - 1`` suffice, but up to twice the flag rate may be flagged. Forests have 100 trees,
        as there is one a patient.
    cache
        Folder of a `FeatureCache`; None keeps nothing.
    progress, warn
        Told ``(stage, done, total)``, and one line for each scan that is left out.

    Guarantee
    ---------
    That of `Screener`: fitting and calibration share no patient. With ``cross_conformal`` that of
    `CrossCalibration`, twice the flag rate.
    """
    rows = [row for row in cohort if row.outlier is not None and row.mask is not None]
    if not any(row.outlier is False for row in rows):
        return FittedScreening(None, (), ("screening: no row with a mask says outlier = false",))
    unknown = [name for name in detectors or () if name not in detector_names()]
    if unknown:
        raise InputError(f"there is no detector {unknown[0]!r}: choose some of {', '.join(detector_names())}")
    description = description or make_description()
    if synthetic_outliers and description.certainty and _segmenter(description) is None:
        raise InputError(
            "changed copies of scans have no probabilities unless the network can be run on them (a U-Net of anatrust):"
            " leave out --synthetic-outliers or +certainty"
        )
    store = None if cache is None else FeatureCache(cache)
    found = _measured(rows, description, modality, store, progress, warn)
    usual = [(row, features) for row, features in found if row.outlier is False]
    patients = [*dict.fromkeys(row.patient for row, _ in usual)]
    if cross_conformal and by_group:
        raise InputError("cross-conformal screening has no groups: leave out --by-group or --cross-conformal")
    chosen = _everyone(patients) if cross_conformal else _chosen(patients, flag_rate, seed)
    if chosen is None:
        words = f"screening: {len(patients)} usual patients with a prediction are too few to fit and calibrate"
        return FittedScreening(None, (), (words,))
    fitted = [(row, features) for row, features in usual if row.patient in chosen]
    held = [(row, features) for row, features in usual if row.patient not in chosen]
    calibrated = {row.patient for row, _ in held}
    if cross_conformal:  # a new patient brings no strange scans along, so those of usual patients are left out
        calibrated = chosen
    shown = [(row, features) for row, features in found if row.outlier and row.patient not in calibrated]
    strange = [features for _, features in shown]
    owners = [""] * len(strange)
    made: Counter[str] = Counter()
    if synthetic_outliers:
        kinds = list(SYNTHETIC_OUTLIERS)
        for number, (row, _) in enumerate(fitted):
            if progress:
                progress("making strange scans", number, len(fitted))
            kind = kinds[number % len(kinds)]
            features = _made(row, kind, description, modality, seed)
            if features is not None:
                strange.append(features)
                owners.append(row.patient)
                made[kind] += 1
    # Many scans of few people teach a forest who they are.
    people = len({row.patient for row, _ in shown}) + sum(made.values())
    alone = "parts" if description.beside else "mahalanobis"
    names = tuple(detectors or (("forest", alone) if people >= _LEAST_OUTLIERS else (alone,)))
    taught = any(make_detector(name).needs_outliers for name in names)
    if taught and len(strange) < 2:
        raise InputError(
            f"{' and '.join(names)} learn from strange scans, there are {len(strange)}: mark some as outlier"
        )
    settings = {**_SETTINGS, **({"forest": {"trees": _CROSS_TREES}} if cross_conformal else {})}
    judges = [make_detector(name, **settings.get(name, {})) for name in names]
    learnt = [features for _, features in fitted], [row.patient for row, _ in fitted], strange if taught else ()
    screener: Screener
    if cross_conformal:
        screener = fit_cross_screener(
            judges, *learnt, outside_patients=owners if taught else None, flag_rate=flag_rate, seed=seed
        )
    else:
        screener = fit_screener(judges, *learnt, flag_rate=flag_rate, seed=seed).conformalize(
            [features for _, features in held],
            [row.patient for row, _ in held],
            groups=[row.group for row, _ in held] if by_group else None,
        )
    notes = [
        f"screening: {scores.size} calibration patients{f' of group {group!r}' if group else ''} cannot flag at "
        f"{flag_rate:g}; {patients_for_rate(flag_rate)} are needed beside {len(chosen)} to fit on"
        for group, scores in (screener.calibration or {}).items()
        if scores.size < patients_for_rate(flag_rate)
    ]
    if notes and patients_for_rate(flag_rate) <= len(patients) and not by_group:
        notes[-1] += "; --cross-conformal can, with these patients, and promises twice the rate"
    if cross_conformal and len(patients) < patients_for_rate(flag_rate):
        words = f"screening: {len(patients)} patients cannot flag at {flag_rate:g}, {patients_for_rate(flag_rate)} can"
        notes.append(words)
    if strange and not taught and not detectors:
        words = f"screening: {len(strange)} strange scans of {people} patients are too few to learn from"
        notes.append(f"{words}, {_LEAST_OUTLIERS} patients are needed")
    if made:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(made.items()))
        notes.append(f"screening: {sum(made.values())} of its strange scans were made from usual ones ({listed})")
    keys = FeatureCache(Path())
    section = ScreeningSection(screener, description.crops, modality, description, dict(made))
    return FittedScreening(section, tuple(keys.key(row, description, modality) for row, _ in found), tuple(notes))


def _everyone(patients: Sequence[str]) -> set[str] | None:
    """All usual patients, to fit on and to calibrate; None where there are too few."""
    return set(patients) if len(patients) > _LEAST_FITTED else None


def _chosen(patients: Sequence[str], flag_rate: float, seed: int) -> set[str] | None:
    """The usual patients to fit on; None where there are too few."""
    count = min(_MOST_FITTED, len(patients) - patients_for_rate(flag_rate))
    count = max(count, min(_LEAST_FITTED, len(patients) - 1))
    if count < _LEAST_FITTED:
        return None
    order = np.random.default_rng(seed).permutation(len(patients))
    return {patients[k] for k in order[:count]}


def _measured(
    rows: Sequence[CohortRow],
    description: Description,
    modality: str | None,
    cache: FeatureCache | None,
    progress: Progress | None,
    warn: Warn | None,
) -> list[tuple[CohortRow, ScanFeatures]]:
    """Rows and their features; those that cannot be used are told and left out."""
    found = []
    for done, row in enumerate(rows):
        if progress:
            progress("screening", done, len(rows))
        try:
            features = row_features(row, description, modality=modality, cache=cache)
            if isinstance(features, Refused | NoPrediction):
                raise InputError(features.reason)
        except MissingExtraError:
            raise  # of no row's making
        except AnatrustError as error:
            if warn:
                warn(f"row {row.number}: left out of the screening, {error}")
            continue
        found.append((row, features))
    return found


def _made(row: CohortRow, kind: str, description: Description, modality: str | None, seed: int) -> ScanFeatures | None:
    """Features of a usual scan after a shift; None where nothing is marked any more."""
    if row.mask is None:
        return None
    scan = read_scan(row.image, modality=modality)
    changed, marks = shifted(scan, read_mask(row.mask, reference=scan.grid), kind, SYNTHETIC_OUTLIERS[kind], seed=seed)
    soft = None
    segment = _segmenter(description) if description.certainty else None
    if segment is not None:
        soft = segment(changed)
        marks = LabelMap(np.asarray(soft.array.argmax(axis=0), dtype=np.uint16), changed.grid)
    features = description.of(changed, marks, soft)
    return None if isinstance(features, NoPrediction) else features


def _segmenter(description: Description) -> Callable[[Scan], ProbabilityMap] | None:
    """What segments a changed scan again: the network that is measured with, where it is a whole one."""
    if description.encoder is None or description.encoder.architecture != "unet":
        return None
    from anatrust.models.unet import UNetSegmenter

    return UNetSegmenter(description.encoder.features.model).predict  # type: ignore[arg-type]
