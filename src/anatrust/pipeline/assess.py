"""The way of one scan: read, inspect, judge, say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from anatrust._version import __version__
from anatrust.errors import InputError
from anatrust.image.volumes import LabelMap
from anatrust.pipeline.case import Names, check_seed, mask_kind, read_case
from anatrust.pipeline.finding import worst
from anatrust.pipeline.inspect import inspect_scan
from anatrust.pipeline.judging import (
    add_screening,
    add_sets,
    case_for,
    judge_lesions,
    judge_organs,
    judge_settings,
    not_judged,
)
from anatrust.pipeline.levels import Levels
from anatrust.pipeline.outputs import check_output_folder
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.results import PageWriter, write_results
from anatrust.pipeline.verdict import Kind, ScanSummary, Verdict
from anatrust.rejection.settings import RejectionSettings

__all__ = ["assess"]

_STAGES = ("read", "inspect", "judge", "write")


@dataclass
class _Run:
    """Progress and timings of one call."""

    progress: Progress | None
    timings: dict[str, float] = field(default_factory=dict)

    def begin(self, name: str) -> None:
        if self.progress:
            self.progress(name, _STAGES.index(name), len(_STAGES))

    def within(self, what: str) -> Callable[[int, int], None] | None:
        """Tells how far a long stage has come, by another name than its own."""
        told = self.progress
        return None if told is None else lambda done, total: told(what, done, total)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.begin(name)
        begin = time.perf_counter()
        yield
        self.timings[name] = time.perf_counter() - begin

    def finish(self) -> None:
        if self.progress:
            self.progress("done", len(_STAGES), len(_STAGES))


def assess(
    scan: object,
    mask: object,
    *,
    probabilities: object | None = None,
    anatomy: object | None = None,
    profile: Profile | str | Path | None = None,
    kind: Literal["auto", "lesion", "organ"] = "auto",
    alpha: float | None = None,
    settings: RejectionSettings | None = None,
    modality: str | None = None,
    spacing: float | Sequence[float] | None = None,
    series: int | str | None = None,
    names: Names = None,
    anatomy_names: Names = None,
    group: str | None = None,
    encoder_weights: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    page: PageWriter | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Judge a mask that any tool drew on a scan.

    Lesion masks: each connected component is a candidate and is kept, rejected or undecidable
    by its p-value against normal tissue (or against what the segmenter invents in healthy
    patients, with a profile). Organ masks: pieces, holes and contact with the image's edge.

    Parameters
    ----------
    scan, mask, probabilities, anatomy
        Paths or objects (nibabel, SimpleITK, torch, ``(array, affine)``). The mask and the
        others must lie in the scan's space; they are resampled where geometry proves it.
    profile
        A `Profile` or its file. Its settings are used, for only so its scores compare.
    kind
        What the mask shows; ``"auto"`` takes organs where all label names are organs.
    alpha
        Sets all error levels; None: 0.10, 0.10 and 0.05, see `Levels`.
    settings
        Of rejection; ``alpha`` in it is replaced by the level of candidates.
    modality, spacing, series, names, anatomy_names
        See `read_case`.
    group
        Of the patient (site, scanner, pathology): sets by the thresholds of that group, where the profile has some.
    encoder_weights
        Where the weights of the profile's encoder lie, if its score needs them and they are not where the profile says.
    seed
        Of all random draws.
    out
        Folder for ``verdict.json``, ``kept.nii.gz``, ``rejected.nii.gz``, ``candidates.csv``
        (``structures.csv`` for organs), ``report.html`` and ``run.json``; where something could not
        be decided also ``undecidable.nii.gz``, and with a profile of sets ``inner.nii.gz`` and
        ``outer.nii.gz`` (one pair a structure). Masks of pictures are PNG. None writes nothing.
        Files appear when all is done; an interrupted run leaves none.
    page
        Writes ``report.html``. `anatrust.assess`, the way to call this function, gives the one
        of the report room; without one there is no page.
    progress
        Told ``(stage, done, total)``: the four stages, and within ``judge`` the ``comparisons`` of candidates with
        their tissue, or the ``structures`` of an organ mask. An exception from it stops the run, which then leaves
        nothing.

    Returns
    -------
    Verdict

    Raises
    ------
    InputError
        If something cannot be read, or the profile does not fit what it is used for.

    Guarantee
    ---------
    Each statement of the verdict names its level and assumption; ``accept`` means "nothing
    that was tested failed". The same inputs and seed give the same verdict, whatever the
    orientation the files are stored in.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(100, 10, (24, 24, 12)).astype(np.float32)
    >>> organ = np.zeros(image.shape, np.uint8)
    >>> organ[6:18, 6:18, 3:9] = 1
    >>> verdict = assess((image, np.eye(4)), (organ, np.eye(4)), kind="organ")
    >>> verdict.decision, verdict.reasons
    ('accept', ('nothing that was tested failed',))
    """
    run = _Run(progress)
    levels = Levels.all_at(alpha)
    if kind not in ("auto", "lesion", "organ"):
        raise InputError(f"the kind of a mask is auto, lesion or organ, not {kind!r}")
    if not isinstance(settings, RejectionSettings | None):
        raise InputError(f"settings are RejectionSettings, not of type {type(settings).__name__}")
    check_seed(seed)
    if out is not None:
        check_output_folder(out)
    with run.stage("read"):
        fitted = None if profile is None else Profile.of(profile)
        case = read_case(
            scan,
            mask,
            probabilities=probabilities,
            anatomy=anatomy,
            modality=modality,
            spacing=spacing,
            series=series,
            names=names,
            anatomy_names=anatomy_names,
        )
        case, remarks = case_for(fitted, case)
        shows: Kind = mask_kind(case.labels) if kind == "auto" else kind
        chosen = judge_settings(settings, fitted, case, levels) if shows == "lesion" else RejectionSettings()
    with run.stage("inspect"):
        findings = (*inspect_scan(case.scan, case.labels, case.probabilities, kind=shows), *case.remarks, *remarks)
    base = Verdict(
        "review",
        ("not judged yet",),
        shows,
        ScanSummary.of(case.scan),
        levels,
        findings=findings,
        version=__version__,
    )
    with run.stage("judge"):
        if worst(findings) == "error":
            judged = not_judged(base, case)
        elif shows == "organ":
            judged = judge_organs(base, case, run.within("structures"))
        else:
            judged = judge_lesions(base, case, fitted, chosen, seed, run.within("comparisons"))
        if fitted is not None and worst(findings) != "error":
            sets = add_sets(judged, case, fitted, group=group, weights=encoder_weights)
            judged = add_screening(sets, case, fitted)
    if out is None:
        run.finish()
        return judged.verdict
    configuration = {
        "kind": shows,
        "levels": levels.to_json(),
        "modality": modality,
        "spacing": None if spacing is None else [float(v) for v in np.atleast_1d(np.asarray(spacing))],
        "series": series,
        "group": group,
        "names": _names(case.labels),
        "anatomy_names": _names(case.anatomy),
        "rejection": chosen.to_json() if shows == "lesion" else None,
    }
    run.begin("write")
    verdict = write_results(
        out,
        judged,
        case,
        sources={"scan": scan, "mask": mask, "probabilities": probabilities, "anatomy": anatomy},
        profile=profile,
        configuration=configuration,
        seed=seed,
        timings=run.timings,
        page=page,
    )
    run.finish()
    return verdict


def _names(labels: LabelMap | None) -> dict[str, str] | None:
    """The names of the labels that are there."""
    if labels is None:
        return None
    return {str(number): labels.names[number] for number in labels.labels() if number in labels.names}
