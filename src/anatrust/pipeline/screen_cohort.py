"""Screening a whole table: one row a scan, and whether the scans drift as time goes by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from anatrust.errors import AnatrustError, FormatError, InputError, MissingExtraError
from anatrust.image.atomic import replacing
from anatrust.image.read import read_mask, read_scan
from anatrust.metrics import label_lesions
from anatrust.ood.drift import DriftMonitor, DriftStep
from anatrust.ood.screen import Screening, patient_key
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.screening import ScreeningSection, screen_features
from anatrust.pipeline.screening_cache import FeatureCache, Refused, row_features

__all__ = ["Drift", "MaskSummary", "ScreenedRow", "by_date", "mask_summary", "screen_cohort"]


@dataclass(frozen=True)
class MaskSummary:
    """What the segmenter drew: components (corners connect), volume in cc (cm² in 2-D), share of the largest one."""

    components: int
    volume: float
    largest_share: float


def mask_summary(array: npt.NDArray[Any], voxel_volume: float) -> MaskSummary:
    """Of everything a mask marks; the volume of a voxel in mm³.

    Examples
    --------
    >>> mask_summary(np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]]), 1000.0)
    MaskSummary(components=2, volume=3.0, largest_share=0.6666666666666666)
    """
    sizes = np.bincount(label_lesions(np.asarray(array) != 0).ravel())[1:]
    total = int(sizes.sum())
    return MaskSummary(len(sizes), total * voxel_volume / 1000, float(sizes.max() / total) if total else 0.0)


@dataclass(frozen=True)
class ScreenedRow:
    """What is said of one row: a screening, or why there is none; the mask in numbers; drift after it."""

    row: CohortRow
    screening: Screening | None
    refused: tuple[str, ...] = ()
    unreadable: str = ""
    mask: MaskSummary | None = None
    step: DriftStep | None = None

    @property
    def verdict(self) -> str:
        """That of the screening; ``"refused"`` by the input gate; ``"unreadable"``."""
        if self.screening is not None:
            return self.screening.verdict
        return "refused" if self.refused else "unreadable"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences for people."""
        if self.screening is not None:
            return self.screening.reasons
        return self.refused or (self.unreadable,)


class Drift:
    """Feeds a `DriftMonitor` with scans in order of time, one a patient, and keeps it in a file.

    Parameters
    ----------
    section
        Its calibration scores are the history that is compared with.
    file
        Where the monitor is kept between runs (``.npz``, no pickle); None keeps it in memory. An existing
        file goes on where it stopped and must be of the same calibration.
    level
        Chance of a false alarm over the whole future.

    Raises
    ------
    FormatError
        If the file is foreign, damaged, or of another profile.
    """

    def __init__(self, section: ScreeningSection, *, file: Path | None = None, level: float = 0.01) -> None:
        if section.screener.cross is not None:
            raise InputError("drift needs scores of patients that were not fitted on: fit without --cross-conformal")
        calibration = section.screener.calibration or {}
        scores = np.sort(np.concatenate([*calibration.values()])) if calibration else np.zeros(0)
        self.file, self._seen = file, set[str]()
        self.monitor = DriftMonitor(scores, level=level)
        if file is not None and file.is_file():
            try:
                with file.open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
                    arrays = dict(kept)
                self._seen = set(json.loads(arrays.pop("patients").tobytes()))
            except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
                raise FormatError(f"{file} is no drift monitor ({error}): give another file or start again") from None
            self.monitor = DriftMonitor.from_arrays(arrays)
            past = arrays["history"][: scores.size]
            if not np.array_equal(past, scores) or self.monitor.level != level:
                raise FormatError(f"{file} was begun with another profile or level: give another file or start again")

    def take(self, row: CohortRow, screening: Screening) -> DriftStep | None:
        """Enter a scan; None for a further scan of a patient who is in already, and for one without a score."""
        key = patient_key(row.patient)
        if screening.abnormality is None or key in self._seen:
            return None
        self._seen.add(key)
        return self.monitor.update(screening.abnormality)

    def save(self) -> None:
        """Write the monitor to its file, whole or not at all."""
        if self.file is None:
            return
        arrays = self.monitor.to_arrays()
        arrays["patients"] = np.frombuffer(json.dumps(sorted(self._seen)).encode(), dtype=np.uint8)
        with replacing(self.file) as part, part.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]


def by_date(cohort: Cohort, column: str) -> Cohort:
    """The rows in order of a date column (ISO 8601 or DICOM's YYYYMMDD); equal dates keep the table's order.

    Raises
    ------
    InputError
        If the column is missing or a cell is no date.
    """
    if not any(column in row.metadata for row in cohort):
        raise InputError(f"{cohort.source} has no column {column!r}: name the one that holds the dates")

    def moment(row: CohortRow) -> datetime:
        text = row.metadata.get(column, "")
        try:
            return datetime.combine(date.fromisoformat(text), datetime.min.time()) if len(text) <= 10 else _moment(text)
        except ValueError:
            raise InputError(
                f"{cohort.source}, row {row.number}, column {column}: {text!r} is no date; write 2026-01-31"
            ) from None

    return Cohort(tuple(sorted(cohort, key=moment)), cohort.source)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)


def screen_cohort(
    section: ScreeningSection,
    cohort: Cohort,
    *,
    modality: str | None = None,
    cache: Path | None = None,
    drift: Drift | None = None,
    progress: Progress | None = None,
) -> Iterator[ScreenedRow]:
    """Screen every row, in the table's order.

    Parameters
    ----------
    section
        Of a profile.
    cohort
        With masks; where the profile is calibrated by group, ``group`` says which.
    modality
        Handed to `read_scan`; the section's own if None.
    cache
        Folder of a `FeatureCache`: a run that was killed goes on where it stopped.
    drift
        Told every scan in this order (see :func:`by_date`).
    progress
        Told ``(stage, done, total)``.

    Yields
    ------
    ScreenedRow
        One a row: a table is for audits, so a scan that cannot be read is a row too, never a lost run.
    """
    store = None if cache is None else FeatureCache(cache)
    groups = set(section.screener.calibration or {})
    for done, row in enumerate(cohort):
        if progress:
            progress("screen", done, len(cohort))
        try:
            found = row_features(row, section.measured, modality=modality or section.modality, cache=store)
            if isinstance(found, Refused):
                yield ScreenedRow(row, None, tuple(f.sentence for f in found.findings if f.severity == "error"))
                continue
            screening = screen_features(section, found, group=row.group if row.group in groups else None)
            summary = _summary(row, modality or section.modality)
        except MissingExtraError:
            raise  # of no row's making
        except AnatrustError as error:
            yield ScreenedRow(row, None, unreadable=str(error))
            continue
        step = drift.take(row, screening) if drift is not None else None
        yield ScreenedRow(row, screening, mask=summary, step=step)


def _summary(row: CohortRow, modality: str | None) -> MaskSummary:
    scan = read_scan(row.image, modality=modality)
    labels = read_mask(row.mask, reference=scan.grid)
    return mask_summary(labels.array, scan.grid.voxel_volume)
