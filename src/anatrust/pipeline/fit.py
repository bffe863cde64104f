"""From a cohort table to a profile: everything the cohort allows, and words for what it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from anatrust.errors import InputError
from anatrust.models.encoders import EncoderChoice
from anatrust.ood.detectors import make_detector
from anatrust.pipeline.case import Names
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit_rejection import fit_rejection
from anatrust.pipeline.fit_screening import fit_screening
from anatrust.pipeline.fit_sets import SetOptions, fit_sets
from anatrust.pipeline.fit_thresholds import fit_thresholds
from anatrust.pipeline.outputs import check_output_folder
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.screening_features import Description
from anatrust.rejection.settings import RejectionSettings

__all__ = ["fit"]


def fit(
    cohort: Cohort | str | Path,
    *,
    segmenter: str = "unnamed",
    modality: str | None = None,
    settings: RejectionSettings | None = None,
    names: Names = None,
    anatomy_names: Names = None,
    alpha: float = 0.10,
    assurance: float | None = None,
    simultaneous: bool = False,
    lesion_wise: bool = False,
    encoder: EncoderChoice | None = None,
    flag_rate: float = 0.05,
    screening: Description | None = None,
    detectors: Sequence[str] | None = None,
    synthetic_outliers: bool = False,
    by_group: bool = False,
    cross_conformal: bool = False,
    sensitivity: float = 0.9,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> Profile:
    """Fit everything the cohort allows: the cohort null of rejection, calibrated sets and bounds, screening.

    The null uses the rows with ``lesion_free = true``, a mask, and a truth that is absent or all
    zero: scans of healthy people, with what the segmenter drew there. An empty mask counts: the
    segmenter invented nothing in this patient. Sets use the other rows that have a truth, with
    probabilities or, where no row has any, with masks. Screening uses the rows that say whether they
    are an outlier, with masks. A scan the gate finds an error in is left
    out, as it would be when judged. All scans (slices) of one patient are pooled.

    Parameters
    ----------
    cohort
        The table, or its path.
    segmenter
        Name of the segmenter that drew the masks.
    modality
        Of all scans, as in `read_scan`.
    settings
        How candidates are scored; a scan is later judged with the same.
    names, anatomy_names
        Names of the labels of the truth, and of those in the ``anatomy`` column, see `label_table`.
    flag_rate
        Share of usual scans that screening may call strange.
    screening, detectors, synthetic_outliers, by_group, cross_conformal
        What screening measures, with which detectors, whether it makes strange scans of usual ones, and
        whether it calibrates by group or on the patients it is fitted on: see `fit_screening`.
    sensitivity
        Of the lesions the segmenter draws, the mean share that passes the learnt gates, with
        confidence 0.9; see `GatesSection`.
    alpha, assurance, simultaneous, lesion_wise
        What is promised of sets, see `SetOptions`; ``alpha`` is also the share of scans that may break a bound
        of Dice, HD95, volume or diameter.
    encoder
        Whose features the random walk's graph joins; local descriptors if None.
    seed
        Of the split of the patients with a truth into tuning and calibration.
    cache
        Folder that keeps what was learnt from each finished scan, keyed by content: a fit that was
        killed goes on where it stopped. None keeps nothing.
    progress, warn
        Told ``(stage, done, total)``, and one line for each scan that is left out.

    Returns
    -------
    Profile
        ``not_fitted`` says what could not be fitted.

    Raises
    ------
    InputError
        If no row can be used, a row contradicts itself, or only some rows have an anatomy.

    Guarantee
    ---------
    Of each section its own, see `CohortNull` and `conformalize`: patients exchangeable, same
    segmenter, same settings.
    """
    cohort = Cohort.of(cohort)
    shares = {"flag_rate": flag_rate, "sensitivity": sensitivity, "alpha": alpha, "assurance": assurance}
    for name, share in shares.items():
        if share is not None and not 0 < share < 1:
            raise InputError(f"{name} is a share between 0 and 1, not {share}")
    for detector in detectors or ():
        make_detector(detector)
    folder = None if cache is None else Path(cache)
    if folder is not None:
        check_output_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
    healthy = any(row.lesion_free for row in cohort)
    labelled = any(row.truth is not None and not row.lesion_free for row in cohort)
    screened = any(row.outlier is not None for row in cohort)
    if not healthy and not labelled and not screened:
        raise InputError(
            f"{cohort.source}: no row has lesion_free = true, a truth or an outlier mark, nothing can be fitted; mark "
            "the scans of healthy people, or give the truth of others"
        )
    notes: list[str] = []
    keys: list[str] = []
    same = sum(row.mask is not None and row.mask == row.truth and not row.lesion_free for row in cohort)
    if same:
        notes.append(
            f"{same} rows give one file as mask and truth: what is learnt from them holds for a segmenter that is "
            "always right; give the masks that yours drew"
        )
    rejection = sets = bounds = screened_section = gates = None
    settings = settings or RejectionSettings()
    if labelled and settings.gates.enabled:
        learnt = fit_thresholds(
            cohort,
            sensitivity=sensitivity,
            settings=settings,
            modality=modality,
            anatomy_names=anatomy_names,
            seed=seed,
            progress=progress,
            warn=warn,
        )
        gates = learnt.section
        notes += learnt.notes
        if gates is not None:
            # The null is fitted behind the same gates that are asked later.
            settings = replace(settings, gates=gates.settings)
    else:
        notes.append("gates: they were switched off" if labelled else "gates: no row with a lesion has a truth")
    if healthy:
        found = fit_rejection(
            cohort,
            modality=modality,
            settings=settings,
            anatomy_names=anatomy_names,
            cache=folder,
            progress=progress,
            warn=warn,
        )
        rejection = found.section
        keys += found.keys
        notes += found.notes
    else:
        notes.append("rejection: no row has lesion_free = true; without healthy people there is no cohort null")
    if screened:
        asked = fit_screening(
            cohort,
            flag_rate=flag_rate,
            modality=modality,
            description=screening,
            detectors=detectors,
            synthetic_outliers=synthetic_outliers,
            by_group=by_group,
            cross_conformal=cross_conformal,
            seed=seed,
            cache=folder,
            progress=progress,
            warn=warn,
        )
        screened_section = asked.section
        keys += asked.keys
        notes += asked.notes
    else:
        notes.append("screening: no row says whether it is an outlier")
    if labelled:
        fitted = fit_sets(
            cohort,
            SetOptions(
                alpha=alpha,
                assurance=assurance,
                simultaneous=simultaneous,
                lesion_wise=lesion_wise,
                encoder=encoder or EncoderChoice(),
            ),
            modality=modality,
            names=names,
            screening=screened_section,
            seed=seed,
            cache=folder,
            progress=progress,
            warn=warn,
        )
        sets, bounds = fitted.section, fitted.bounds
        keys += fitted.keys
        notes += fitted.notes
    else:
        notes.append("sets: no row with a lesion has a truth")
    return Profile(
        segmenter=segmenter,
        modality=modality or "unknown",
        cohort_hash=hashlib.sha256("".join(sorted(keys)).encode()).hexdigest(),
        rejection=rejection,
        sets=sets,
        bounds=bounds,
        screening=screened_section,
        gates=gates,
        not_fitted=tuple(notes),
    )
