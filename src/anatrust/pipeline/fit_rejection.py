"""From lesion-free scans, and what a segmenter drew there, to the cohort null."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.errors import AnatrustError, InputError
from anatrust.image.atomic import replacing
from anatrust.pipeline.case import Case, Names, content_hash, label_table, read_case
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.finding import worst
from anatrust.pipeline.inspect import inspect_scan
from anatrust.pipeline.profile import RejectionSection
from anatrust.pipeline.progress import Progress
from anatrust.rejection.settings import SCORES, RejectionSettings
from anatrust.statistics.conformal_p import CohortNull

__all__ = ["FittedRejection", "LeftOutError", "Progress", "fit_rejection", "lesion_free_case", "without_level"]

Scores = npt.NDArray[np.float64]

# Part of every cache key: raise it when the meaning of a cached row changes.
_CACHE_VERSION = 1


@dataclass(frozen=True, eq=False)
class FittedRejection:
    """The section, the content keys of the scans it rests on, and what could not be fitted."""

    section: RejectionSection
    keys: tuple[str, ...]
    notes: tuple[str, ...]


def fit_rejection(
    cohort: Cohort,
    *,
    modality: str | None = None,
    settings: RejectionSettings | None = None,
    anatomy_names: Names = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> FittedRejection:
    """Fit the cohort null of rejection; parameters and rows used as in `fit`.

    Raises
    ------
    InputError
        If no row can be used, a row contradicts itself, only some rows have an anatomy, or the score needs
        probabilities that a row lacks.

    Guarantee
    ---------
    Of the null it makes, see `CohortNull`: patients exchangeable, same segmenter, same settings.
    """
    settings = (settings or RejectionSettings()).scored()
    rows = [row for row in cohort if row.lesion_free]
    _check(cohort, rows, settings)
    table = label_table(anatomy_names)
    choices = [_CACHE_VERSION, __version__, without_level(settings).to_json(), modality, sorted(table.items())]
    patients: dict[str, list[Scores]] = {}
    keys, left_out = [], []
    for done, row in enumerate(rows):
        if progress:
            progress("fit", done, len(rows))
        try:
            key = _key(row, choices)
            scores = _cached(cache, key)
            if scores is None:
                scores = _score(row, settings, modality, table)
                _keep(cache, key, scores)
        except LeftOutError as reason:
            left_out.append(row.number)
            if warn:
                warn(f"{cohort.source}, row {row.number}: left out, {reason}")
            continue
        keys.append(key)
        patients.setdefault(row.patient, []).append(scores)
    if progress:
        progress("fit", len(rows), len(rows))
    if not patients:
        raise InputError(
            f"{cohort.source}: none of the {len(rows)} lesion-free scans could be used; see the lines above"
        )
    section = RejectionSection(
        settings=settings,
        null=CohortNull(tuple(np.concatenate(parts) for parts in patients.values())),
        scans=len(keys),
        anatomy=rows[0].anatomy is not None,
        probabilities=any(row.probabilities is not None for row in rows),
    )
    return FittedRejection(section, tuple(keys), _not_fitted(cohort, rows, left_out, section))


class LeftOutError(Exception):
    """Why one lesion-free scan cannot be used."""


def _check(cohort: Cohort, rows: list[CohortRow], settings: RejectionSettings) -> None:
    if not rows:
        raise InputError(
            f"{cohort.source}: no row has lesion_free = true, nothing can be fitted; mark the scans of healthy people"
        )
    for row in rows:
        if row.mask is None:
            raise InputError(
                f"{cohort.source}, row {row.number}, column mask: the cell is empty; give what the segmenter drew there"
            )
        if settings.needs_probabilities and row.probabilities is None:
            raise InputError(
                f"{cohort.source}, row {row.number}, column probabilities: the cell is empty and the score "
                f"{settings.score} looks at them; give them, or choose {SCORES[0]}"
            )
    with_anatomy = [row for row in rows if row.anatomy is not None]
    if with_anatomy and len(with_anatomy) != len(rows):
        without = next(row for row in rows if row.anatomy is None)
        raise InputError(
            f"{cohort.source}, row {without.number}, column anatomy: the cell is empty but other rows have one; give "
            "all or none"
        )


def _key(row: CohortRow, choices: list[object]) -> str:
    parts = [
        None if f is None else content_hash(f) for f in (row.image, row.mask, row.probabilities, row.truth, row.anatomy)
    ]
    return hashlib.sha256(json.dumps([parts, choices], sort_keys=True).encode()).hexdigest()


def lesion_free_case(row: CohortRow, modality: str | None, table: dict[int, str]) -> Case:
    """One lesion-free scan with what the segmenter drew there.

    Parameters
    ----------
    row
        With a mask; its truth absent or all zero.
    modality, table
        As in `read_scan`; names of the anatomy's labels.

    Raises
    ------
    LeftOutError
        If it cannot be read, or the gate finds an error in it.
    InputError
        If its truth contradicts it.
    """
    from anatrust.image.read import read_mask

    try:
        case = read_case(
            row.image,
            row.mask,
            probabilities=row.probabilities,
            anatomy=row.anatomy,
            modality=modality,
            anatomy_names=table,
        )
        truth = None if row.truth is None else read_mask(row.truth, reference=case.scan.grid)
    except AnatrustError as error:
        raise LeftOutError(str(error)) from error
    if truth is not None and truth.array.any():
        raise InputError(
            f"row {row.number}, column lesion_free: true, but the truth holds {int((truth.array != 0).sum())} voxels; "
            "correct one of them"
        )
    findings = inspect_scan(case.scan, case.labels, case.probabilities)
    if worst(findings) == "error":
        raise LeftOutError(findings[0].sentence)
    return case


def _score(row: CohortRow, settings: RejectionSettings, modality: str | None, table: dict[int, str]) -> Scores:
    from anatrust.rejection import candidate_scores

    case = lesion_free_case(row, modality, table)
    scores: Scores = candidate_scores(
        case.scan, case.labels, anatomy=case.anatomy, probabilities=case.probabilities, settings=settings
    )
    return scores


def _cached(folder: Path | None, key: str) -> Scores | None:
    if folder is None or not (file := folder / f"{key}.json").is_file():
        return None
    try:
        return np.array(json.loads(file.read_text(encoding="utf-8"))["scores"], dtype=np.float64)
    except (ValueError, KeyError, TypeError):
        # Only ever written whole; a damaged one is computed again.
        return None


def _keep(folder: Path | None, key: str, scores: Scores) -> None:
    if folder is not None:
        with replacing(folder / f"{key}.json") as part:
            part.write_text(json.dumps({"scores": scores.tolist()}), encoding="utf-8")


def _not_fitted(
    cohort: Cohort, rows: list[CohortRow], left_out: list[int], section: RejectionSection
) -> tuple[str, ...]:
    """What the profile does not hold; rows by number, for file names may name patients."""
    lines = []
    if left_out:
        listed = ", ".join(map(str, left_out[:20])) + (" ..." if len(left_out) > 20 else "")
        lines.append(f"rejection: {len(left_out)} of {len(rows)} lesion-free scans were left out (rows {listed})")
    other = len(cohort) - len(rows)
    if other:
        lines.append(f"rejection: {other} scans not marked lesion_free were not used for it")
    alpha = section.settings.alpha
    if section.null.floor > alpha:
        lines.append(
            f"rejection: {section.null.n_patients} lesion-free patients give p-values of at least "
            f"{section.null.floor:.3g}; level {alpha:g} needs {int(np.ceil(1 / alpha - 1))}"
        )
    return tuple(lines)


def without_level(settings: RejectionSettings) -> RejectionSettings:
    """The settings with the parts that do not change scores at their defaults, for comparison."""
    plain = RejectionSettings()
    return replace(
        settings,
        alpha=plain.alpha,
        null=plain.null,
        correction=plain.correction,
        cohort_draw=plain.cohort_draw,
        n_draws=plain.n_draws,
        n_surrogates=plain.n_surrogates,
        placement_beside=plain.placement_beside,
    )
