"""What a mask is judged by: rejection for lesions, form for organs, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from anatrust.errors import GeometryError, InputError
from anatrust.image.region import labelled_as
from anatrust.image.volumes import LabelMap, Mask, Modality
from anatrust.pipeline.bounds import StructureBounds, bound_sentences, predict_bounds
from anatrust.pipeline.case import Case
from anatrust.pipeline.decide import decide
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.fit_rejection import without_level
from anatrust.pipeline.labelled import derived_mask
from anatrust.pipeline.levels import Levels
from anatrust.pipeline.organ import anatomy_findings, check_structures
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.screening import scan_abnormality, screen_scan
from anatrust.pipeline.sets import ScoredScan, SetSummary, score_scan
from anatrust.pipeline.verdict import Statement, Strength, Verdict
from anatrust.rejection.settings import RejectionSettings

if TYPE_CHECKING:
    from anatrust.conformal.sets import PredictionSet
    from anatrust.ood.explain import Explanation
    from anatrust.rejection.result import Rejection

__all__ = [
    "Judged",
    "add_screening",
    "add_sets",
    "case_for",
    "judge_lesions",
    "judge_organs",
    "judge_settings",
    "not_judged",
]

_OTHER_MODALITY = "the profile was fitted on {} and this scan is {}: use a profile of the same modality"
# How far the sentence about each null's p-values holds under the assumption it names.
_STRENGTH: dict[str, Strength] = {"cohort": "exact", "placement": "exact", "surrogate-max": "approximate"}
_FEWER_GATES = (
    "The profile's null was fitted behind gates that look at probabilities, and this scan came without: its candidates "
    "passed fewer gates than those they are ranked among, so the level is approximate. Give --probabilities."
)


@dataclass(frozen=True, eq=False)
class Judged:
    """A verdict with what goes with it.

    ``kept``, ``rejected`` and ``undecidable`` are disjoint and together the mask that was judged;
    where nothing could be judged all of it is undecidable. ``sets`` are in the verdict's order;
    ``explanation`` says what drives the screening.
    """

    verdict: Verdict
    kept: Mask
    rejected: Mask
    undecidable: Mask
    sets: tuple[PredictionSet, ...] = ()
    explanation: Explanation | None = None

    def __post_init__(self) -> None:
        for other in (self.rejected, self.undecidable):
            if not other.grid.same_as(self.kept.grid):
                raise GeometryError("the masks of kept, rejected and undecidable candidates must share one grid")


def case_for(profile: Profile | None, case: Case) -> tuple[Case, tuple[Finding, ...]]:
    """The case as the profile takes it: of a scan that does not say its modality, that of the profile.

    Sets, bounds and screening learnt how grey values of one modality look, so a profile is never
    used on another one.

    Raises
    ------
    InputError
        If scan and profile are known to be of two modalities.
    """
    if profile is None or profile.modality == "unknown" or profile.modality == case.scan.modality:
        return case, ()
    if case.scan.modality == "unknown":
        finding = Finding(
            "info",
            "modality-of-the-profile",
            f"Nothing says the scan's modality, so it was taken for {profile.modality}, like the profile's scans.",
            "Say --modality, and use a profile of that modality.",
        )
        return replace(case, scan=replace(case.scan, modality=cast(Modality, profile.modality))), (finding,)
    if any((profile.sets, profile.bounds, profile.screening)):
        raise InputError(_OTHER_MODALITY.format(profile.modality, case.scan.modality))
    return case, ()


def judge_settings(
    settings: RejectionSettings | None, profile: Profile | None, case: Case, levels: Levels
) -> RejectionSettings:
    """The settings to judge with; a profile's scores compare only with scores made alike.

    Raises
    ------
    InputError
        If the profile was fitted with other settings, anatomy or modality.
    """
    section = profile.rejection if profile else None
    if profile is None or section is None:
        learnt = RejectionSettings() if profile is None or profile.gates is None else profile.gates.with_gates()
        chosen = settings or learnt
        if chosen.null == "cohort":
            raise InputError(
                "the cohort null needs a profile with a rejection section: give --profile, or another null"
            )
        return replace(chosen, alpha=levels.candidates)
    theirs = section.settings
    if settings is not None and settings.score == "auto":
        settings = replace(settings, score=theirs.score)
    if settings is not None and settings.tissue.reference == "auto":
        # Profiles of before there was a choice by null hold the reference they were fitted with.
        tissue = replace(settings.tissue, reference=theirs.tissue.reference, trim=theirs.tissue.trim)
        settings = replace(settings, tissue=tissue)
    if settings is not None and without_level(settings) != without_level(theirs):
        raise InputError(
            "the profile was fitted with other settings of features, gates or tissue: leave them to the profile"
        )
    asked = settings or theirs
    if asked.null in ("auto", "cohort"):
        if section.anatomy != (case.anatomy is not None):
            have, lack = ("with", "without") if section.anatomy else ("without", "with")
            raise InputError(
                f"the profile was fitted {have} anatomy and this scan comes {lack}: give or leave out "
                "--anatomy likewise"
            )
        if theirs.needs_probabilities and case.probabilities is None:
            raise InputError(
                f"the profile ranks candidates by {theirs.score}, which looks at the segmenter's probabilities, and "
                "this scan comes without: give --probabilities"
            )
        if "unknown" not in (profile.modality, case.scan.modality) and profile.modality != case.scan.modality:
            raise InputError(_OTHER_MODALITY.format(profile.modality, case.scan.modality))
    return replace(asked, alpha=levels.candidates)


def _empty(case: Case, name: str) -> Mask:
    return Mask(np.zeros(case.scan.grid.shape, dtype=bool), case.scan.grid, name)


def not_judged(base: Verdict, case: Case) -> Judged:
    """The verdict where the input gate found an error."""
    decision, reasons = decide(base.findings)
    notes = ("the mask was not judged: the input gate found an error",)
    verdict = replace(base, decision=decision, reasons=reasons, notes=notes)
    undecidable = Mask(np.asarray(case.labels.array != 0), case.scan.grid, "undecidable")
    return Judged(verdict, _empty(case, "kept"), _empty(case, "rejected"), undecidable)


def judge_organs(base: Verdict, case: Case, progress: Callable[[int, int], None] | None = None) -> Judged:
    """The verdict on organs: their form. Kept are those of which nothing failed."""
    checks = check_structures(case.labels, progress)
    remarks, unchecked = anatomy_findings(case.labels)
    findings = (*base.findings, *remarks)
    decision, reasons = decide(findings, structures=checks)
    text = (
        "Only the form of the labelled structures was checked (separate pieces, holes, contact with the image's edge)"
        " and, where their names are known, whether sizes, sides and neighbours can be a person's. "
        "Whether their outline is right was not tested."
    )
    verdict = replace(
        base,
        decision=decision,
        reasons=reasons,
        structures=checks,
        findings=findings,
        statements=(Statement(text, None, "none", "structures"),),
        notes=(*base.notes, *unchecked),
    )
    bad = [check.label for check in checks if check.failed]
    failed = labelled_as(case.labels.array, bad)
    passed = (case.labels.array != 0) & ~failed
    parts = Mask(passed, case.scan.grid, "kept"), Mask(failed, case.scan.grid, "rejected")
    return Judged(verdict, *parts, _empty(case, "undecidable"))


def judge_lesions(
    base: Verdict,
    case: Case,
    profile: Profile | None,
    settings: RejectionSettings,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Judged:
    """The verdict on lesions: each component kept, rejected or undecidable."""
    from anatrust.rejection import reject

    section = profile.rejection if profile else None
    result: Rejection = reject(
        case.scan,
        case.labels,
        anatomy=case.anatomy,
        probabilities=case.probabilities,
        cohort_null=section.null if section and settings.null in ("auto", "cohort") else None,
        settings=settings,
        seed=seed,
        progress=progress,
    )
    findings = base.findings
    if case.anatomy is not None:
        findings = (*findings, *anatomy_findings(case.anatomy, "anatomy")[0])
    # The other way round more gates refuse, and nothing is kept that would not have been.
    bare = bool(section and section.probabilities) and case.probabilities is None and settings.gates.enabled
    fewer = bare and result.null == "cohort"
    decision, reasons = decide(findings, result.candidates)
    verdict = replace(
        base,
        findings=findings,
        decision=decision,
        reasons=reasons,
        candidates=result.candidates,
        statements=_statements(result, profile, "approximate" if fewer else _STRENGTH.get(result.null, "none")),
        null=result.null,
        correction=result.correction,
        notes=(*result.notes, _FEWER_GATES) if fewer else result.notes,
    )
    return Judged(verdict, result.kept, result.rejected, result.undecidable)


def add_screening(judged: Judged, case: Case, profile: Profile) -> Judged:
    """The same verdict with what screening says of the scan, where the profile has a section for it."""
    section = profile.screening
    if section is None:
        return judged
    base = judged.verdict
    if section.measured.certainty and case.probabilities is None:
        note = (
            "the profile's screening measures how sure the segmenter is and no probabilities were given: not screened"
        )
        return replace(judged, verdict=replace(base, notes=(*base.notes, note)))
    screening, explanation = screen_scan(section, case.scan, case.labels, case.probabilities)
    usual = screening.verdict in ("usual", "strange")
    promise = section.screener.promise
    text = (
        f"Of usual scans, from patients like those calibrated on, at most {promise:g} are called strange, "
        "on average over calibrations; how many strange scans are found is not promised."
    )
    made = Statement(text, promise if usual else None, "exact" if usual else "none", "scan")
    decision, reasons = decide(base.findings, base.candidates, base.structures, base.sets, screening)
    verdict = replace(
        base, decision=decision, reasons=reasons, screening=screening, statements=(*base.statements, made)
    )
    return replace(judged, verdict=verdict, explanation=explanation)


def add_sets(
    judged: Judged, case: Case, profile: Profile, *, group: str | None = None, weights: str | None = None
) -> Judged:
    """The same verdict with the profile's sets and bounds, or a note on why there are none.

    ``group`` picks the thresholds of a group of the cohort; ``weights`` says where those of the profile's encoder
    lie now.
    """
    section = profile.sets
    if section is None:
        return judged
    base = judged.verdict
    if not section.graded_masks and case.probabilities is None:
        note = "the profile's sets grade probabilities and none were given: no sets"
        return replace(judged, verdict=replace(base, notes=(*base.notes, note)))
    encoder = section.make_encoder(weights)
    scored = score_scan(section, case.scan, probabilities=case.probabilities, mask=case.labels, encoder=encoder)
    found = tuple(
        calibration.sets_of(scored.levels[label], case.scan.grid)
        for label, calibration in zip(section.labels, section.of_group(group), strict=True)
    )
    summaries = tuple(SetSummary.of(one, label) for one, label in zip(found, section.labels, strict=True))
    made = []
    for one in found:
        for text, feasible in zip(one.statements, reversed(one.feasible), strict=True):
            made.append(Statement(text, one.alpha if feasible else None, "exact" if feasible else "none", "sets"))
    bounds, about_bounds = _bounds(case, profile, scored, group)
    own_bounds = group if profile.bounds is not None and group in profile.bounds.groups else None
    made += [
        Statement(text, bounds[0].alpha if claims else None, "exact" if claims else "none", "structures")
        for text, claims in bound_sentences(bounds, ndim=case.scan.grid.ndim, group=own_bounds)
    ]
    notes = [*base.notes, *about_bounds]
    if group and group not in section.groups:
        notes.append(f"the profile has no thresholds of group {group}: the sets' promise is averaged over all groups")
    if group and bounds and own_bounds is None:
        notes.append(f"the profile has no bounds of group {group}: the bounds' promise is averaged over all groups")
    if section.alpha != base.levels.sets:
        notes.append(
            f"the profile's sets promise {section.alpha:g}, whatever level was asked for; fit again to change it"
        )
    decision, reasons = decide(base.findings, base.candidates, base.structures, summaries, base.screening)
    verdict = replace(
        base,
        decision=decision,
        reasons=reasons,
        sets=summaries,
        bounds=bounds,
        statements=(*base.statements, *made),
        notes=tuple(notes),
    )
    return replace(judged, verdict=verdict, sets=found)


def _bounds(
    case: Case, profile: Profile, scored: ScoredScan, group: str | None
) -> tuple[tuple[StructureBounds, ...], list[str]]:
    """The bounds of the mask, or words about why there are none."""
    section = profile.bounds
    if section is None:
        return (), []
    masks = {label: np.asarray(case.labels.array == label) for label in section.labels}
    if not section.given_masks and case.probabilities is not None:
        theirs = derived_mask(case.probabilities)
        if any((masks[label] != theirs[label]).any() for label in section.labels):
            note = (
                "no bounds: the profile bounds the quality of the mask that the probabilities give (the most probable "
                "class), and this mask is another"
            )
            return (), [note]
    strange = None
    if section.screened and profile.screening is not None:
        drawn = np.where(np.isin(case.labels.array, section.labels), case.labels.array, 0)
        labels = LabelMap(drawn, case.scan.grid)
        strange = scan_abnormality(profile.screening, case.scan, labels, case.probabilities)
    told = predict_bounds(
        section, scored.levels, scored.probabilities, masks, case.scan.grid, abnormality=strange, group=group
    )
    return told, []


def _statements(result: Rejection, profile: Profile | None, strength: Strength) -> tuple[Statement, ...]:
    """Each sentence with its level, where it claims one; the others describe."""
    made = [
        Statement(c.text, c.level, "none" if c.level is None else strength, "candidates") for c in result.statements
    ]
    if result.null == "cohort" and profile is not None:
        text = f"The profile is of the segmenter '{profile.segmenter}'; for masks of another tool it promises nothing."
        made.append(Statement(text, None, "none", "candidates"))
    return tuple(made)
