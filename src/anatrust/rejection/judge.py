"""Judge every candidate of a scan: kept, rejected or undecidable, each with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.orientation import restore
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection.candidate import Candidate, Decision
from anatrust.rejection.case import Case, later_gates, prepare
from anatrust.rejection.comparison import Comparison, compare_with
from anatrust.rejection.correction import Corrected, correct, needed_level, of_maximum, resolved_correction
from anatrust.rejection.nulls import scan_tests
from anatrust.rejection.result import Rejection
from anatrust.rejection.score import candidate_score, check_score, wrong_side
from anatrust.rejection.settings import Null, RejectionSettings
from anatrust.rejection.statements import statements
from anatrust.statistics.conformal_p import CohortNull

__all__ = ["reject"]

# Draws are raised up to here where the correction needs a smaller p floor than those asked for.
_MOST_DRAWS = 9_999
_MOST_SURROGATES = 1_999


@dataclass
class _Evidence:
    """What is known of one candidate."""

    tissue: str = ""
    contrast: float | None = None
    statistic: float | None = None
    p: float | None = None
    floor: float | None = None
    placement_p: float | None = None
    q: float | None = None
    unable: str | None = None
    wrong_side: bool = False


def reject(
    scan: Scan,
    labels: LabelMap | Mask,
    *,
    anatomy: LabelMap | None = None,
    probabilities: ProbabilityMap | None = None,
    cohort_null: CohortNull | None = None,
    settings: RejectionSettings | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Rejection:
    """Decide for each connected component of a mask whether it differs from normal tissue.

    Components are found, plausibility gates asked, each survivor compared with the normal
    tissue of its organ (or with the body around it), the p-values corrected for their number,
    and each candidate is kept, rejected or called undecidable with one sentence why.

    Parameters
    ----------
    scan
        The scan.
    labels
        The mask to judge: every non-zero label is a lesion label.
    anatomy
        Organs; the tissue is the organ a candidate lies in. Without it, the body around the candidates.
    probabilities
        The segmenter's probabilities; gates that need them are skipped, in words, without.
    cohort_null
        Scores of the same segmenter's candidates in lesion-free patients, made by
        :func:`anatrust.rejection.score.candidate_scores` with the same settings.
    settings
        All choices; the defaults if None.
    seed
        Of all random draws. Results do not depend on axis order, candidate order or threads.
    progress
        Told ``(done, total)``: comparisons of candidates with their tissue, by each null that is asked.

    Returns
    -------
    Rejection
        All masks lie on the grid of ``labels``.

    Raises
    ------
    GeometryError
        If the images do not share one grid.
    InputError
        If the cohort null is asked for and not given, its score needs probabilities that are not given, a named
        tissue is missing, or the connectivity does not exist. Degenerate *candidates* are never an error: they become
        undecidable, with the reason.

    Guarantee
    ---------
    In ``statements``, by null; see `RejectionSettings` and the concepts page.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((60, 60), np.eye(4))
    >>> image = np.random.default_rng(1).normal(100, 10, (60, 60)).astype(np.float32)
    >>> mask = np.zeros((60, 60), bool)
    >>> mask[10:15, 10:15] = mask[40:45, 40:45] = True
    >>> image[10:15, 10:15] += 60
    >>> organ = LabelMap(np.ones((60, 60), np.uint8), grid, {1: "liver"})
    >>> chosen = RejectionSettings(null="placement")
    >>> result = reject(Scan(image, grid), Mask(mask, grid, "lesion"), anatomy=organ, settings=chosen)
    >>> sorted((c.decision, round(c.contrast)) for c in result.candidates)
    [('kept', 6), ('rejected', 0)]
    """
    settings = RejectionSettings() if settings is None else settings
    null = _resolved_null(cohort_null, settings)
    if null == "cohort":
        check_score(settings, probabilities=probabilities is not None)
    case = prepare(scan, labels, anatomy=anatomy, probabilities=probabilities, settings=settings.under(null))
    correction = resolved_correction(null, settings)
    evidence, families = _gather(case, null, cohort_null, settings, seed, _Progress(progress))
    tested = tuple(k for k in case.tested if evidence[k].p is not None)

    def keep(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Gates after the test: those of the chosen that pass them."""
        positions = tuple(k for k, yes in zip(tested, chosen, strict=True) if yes)
        refused = later_gates(case.components, case.overlaps, positions, settings)
        return np.array([yes and refused[k] is None for k, yes in zip(tested, chosen, strict=True)], dtype=bool)

    late = settings.order == "published" and settings.gates.enabled
    corrected = correct(
        np.array([evidence[k].p for k in tested], dtype=np.float64),
        correction,
        settings.alpha,
        families=families if of_maximum(null, settings) else None,
        sizes=[case.components.candidates[k].voxels for k in tested],
        ndim=case.components.grid.ndim,
        keep=keep if late else None,
    )
    decisions = _decide(case, evidence, tested, corrected, null, late)
    judged = tuple(
        replace(
            candidate,
            contrast=evidence[k].contrast,
            tissue=evidence[k].tissue,
            statistic=evidence[k].statistic,
            p_value=evidence[k].p,
            p_floor=evidence[k].floor,
            q_value=evidence[k].q,
            null=None if evidence[k].p is None else null,
            placement_p=evidence[k].placement_p,
            decision=decisions[k][0],
            reason=decisions[k][1],
        )
        for k, candidate in enumerate(case.components.candidates)
    )
    undecidable = sum(c.decision == "undecidable" for c in judged)
    patients = 0 if cohort_null is None else cohort_null.n_patients
    said = statements(
        null if tested else "none",
        correction,
        settings,
        tested=len(tested),
        undecidable=undecidable,
        patients=patients,
    )
    return Rejection(
        candidates=judged,
        kept=_mask_of(case, judged, "kept", labels),
        rejected=_mask_of(case, judged, "rejected", labels),
        undecidable=_mask_of(case, judged, "undecidable", labels),
        statements=said,
        notes=(*case.notes, *_about_tissue(case, null, decisions)),
        null=null if tested else "none",
        correction=correction if tested else "none",
        settings=settings,
    )


def _resolved_null(cohort_null: CohortNull | None, settings: RejectionSettings) -> Null:
    if settings.null == "cohort" and cohort_null is None:
        raise InputError(
            "the cohort null needs lesion-free patients: give a profile fitted on some, or choose another null"
        )
    if settings.null != "auto":
        return settings.null
    if cohort_null is None:
        return "surrogate-max"
    floor = cohort_null.floor if settings.cohort_draw == "maximum" else cohort_null.floor_random
    return "cohort" if floor <= settings.alpha * (1 + 1e-12) else "surrogate-max"


class _Progress:
    """Counts comparisons."""

    def __init__(self, told: Callable[[int, int], None] | None) -> None:
        self._told = told
        self._before = self.total = 0

    def within(self, done: int) -> None:
        if self._told is not None:
            self._told(self._before + done, self.total)

    def finish(self, count: int) -> None:
        self.within(count)
        self._before += count


def _gather(
    case: Case,
    null: Null,
    cohort_null: CohortNull | None,
    settings: RejectionSettings,
    seed: int,
    progress: _Progress,
) -> tuple[list[_Evidence], int]:
    """Evidence on every candidate, and the number of families of tests that each took their own maximum."""
    evidence = [_Evidence() for _ in case.components.candidates]
    correction = resolved_correction(null, settings)
    families = None
    if of_maximum(null, settings):
        single = null == "cohort" or case.settings.tissue.reference != "mixture"
        families = len(case.tissues) if single else len(case.tested)
    level = float(needed_level(correction, max(len(case.tested), 1), settings.alpha, families=families).min())
    wanted = math.ceil(1.0 / level - 1e-9)
    n_draws = max(settings.n_draws, min(_MOST_DRAWS, wanted))
    n_surrogates = max(settings.n_surrogates, min(_MOST_SURROGATES, wanted))
    families_tested = 0
    beside_too = settings.placement_beside and null != "placement"
    progress.total = len(case.tested) * (2 if beside_too else 1)
    progress.finish(0)
    for tissue in case.tissues:
        comparison = compare_with(case, tissue)
        for k in tissue.members:
            evidence[k] = _described(comparison, k)
        able = [k for k in tissue.members if evidence[k].unable is None]
        if not able:
            progress.finish(len(tissue.members) * (2 if beside_too else 1))
            continue
        if null == "cohort":
            assert cohort_null is not None
            _rank(comparison, able, cohort_null, evidence, seed)
        else:
            found = scan_tests(
                comparison,
                null,
                n_draws=n_draws,
                n_surrogates=n_surrogates,
                seed=seed,
                progress=progress.within,
            )
            for k, result in found.items():
                own = evidence[k]
                if result.abstained is not None:
                    own.unable = result.abstained
                    continue
                own.statistic, own.p, own.floor = result.statistic, result.p_value, result.floor
        progress.finish(len(tissue.members))
        if beside_too:
            # A null made from this scan needs the odd places that trimming takes out.
            whole = replace(case, settings=settings.under("placement"))
            other = comparison if whole.settings == case.settings else compare_with(whole, tissue)
            beside = scan_tests(
                other,
                "placement",
                n_draws=settings.n_draws,
                n_surrogates=1,
                seed=seed,
                progress=progress.within,
            )
            progress.finish(len(tissue.members))
            for k, result in beside.items():
                evidence[k].placement_p = None if result.abstained is not None else result.p_value
        elif null == "placement":
            for k in able:
                evidence[k].placement_p = evidence[k].p
        tested = sum(evidence[k].p is not None for k in able)
        # Against several classes each candidate has maxima of its own.
        families_tested += min(tested, 1) if len(comparison.classes) == 1 else tested
        for k in able:
            if evidence[k].wrong_side and evidence[k].p is not None:
                evidence[k].p = 1.0
    return evidence, 1 if null == "cohort" else families_tested


def _described(comparison: Comparison, k: int) -> _Evidence:
    """Tissue and contrast of a candidate, and why it cannot be tested if so."""
    unable = comparison.refusal(k)
    return _Evidence(
        tissue=comparison.tissue.description,
        contrast=comparison.contrast(k),
        unable=unable,
        wrong_side=unable is None and wrong_side(comparison, k),
    )


def _rank(
    comparison: Comparison, able: list[int], cohort_null: CohortNull, evidence: list[_Evidence], seed: int
) -> None:
    """Cohort p-values of the candidates of one tissue."""
    maximum = comparison.case.settings.cohort_draw == "maximum"
    for k in able:
        score = candidate_score(comparison, k)
        own = evidence[k]
        own.statistic = score if np.isfinite(score) else None
        own.p = cohort_null.p_value(score) if maximum else cohort_null.p_value_random(score, seed)
        own.floor = cohort_null.floor if maximum else cohort_null.floor_random


def _decide(
    case: Case,
    evidence: list[_Evidence],
    tested: tuple[int, ...],
    corrected: Corrected,
    null: str,
    late: bool,
) -> dict[int, tuple[Decision, str]]:
    """Decision and reason of every candidate; fills in the q-values."""
    alpha = case.settings.alpha
    decisions: dict[int, tuple[Decision, str]] = {}
    significant = tuple(k for k, yes in zip(tested, corrected.significant, strict=True) if yes)
    after = later_gates(case.components, case.overlaps, significant, case.settings) if late else []
    for row, k in enumerate(tested):
        own = evidence[k]
        own.q = float(corrected.q[row])
        needed = float(corrected.needed[row])
        assert own.p is not None
        assert own.floor is not None
        measured = f"p = {own.p:.3g}, corrected {own.q:.3g}, {null}"
        if k in significant and late and after[k] is not None:
            decisions[k] = ("rejected", f"it differs from {own.tissue} ({measured}) but {after[k]}")
        elif k in significant:
            decisions[k] = ("kept", f"it differs from {own.tissue} ({measured})")
        elif own.wrong_side:
            side = case.settings.direction
            decisions[k] = ("rejected", f"it is not {side} than {own.tissue}, and only {side} ones were asked for")
        elif own.floor > needed * (1 + 1e-12):
            decisions[k] = (
                "undecidable",
                f"the smallest p-value this test could give, {own.floor:.3g}, is above the {needed:.3g} needed to be"
                f" kept at level {alpha:g} ({measured})",
            )
        else:
            decisions[k] = ("rejected", f"it was not shown to differ from {own.tissue} ({measured})")
    for k, failure in enumerate(case.failures):
        if failure is not None:
            decisions[k] = ("rejected", failure)
        elif k not in decisions:
            decisions[k] = ("undecidable", f"{evidence[k].unable}{_known(evidence[k])}")
    return decisions


def _known(own: _Evidence) -> str:
    """What can be said of a candidate that the null could not judge, after the reason why not; empty if nothing."""
    if own.placement_p is None or own.contrast is None:
        return ""
    side = "above" if own.contrast >= 0 else "below"
    share = f"{own.placement_p:.2g}" if own.placement_p < 0.001 else f"{own.placement_p:.1%}".replace("%", " %")
    return (
        f"; known is that its mean lies {abs(own.contrast):.1f} standard deviations {side} that of {own.tissue}, and"
        f" that {share} of the places tried for its shape there look as odd (placement): that decides only about a"
        " mask drawn without looking at this image"
    )


def _about_tissue(case: Case, null: Null, decisions: dict[int, tuple[Decision, str]]) -> tuple[str, ...]:
    """What to know of the tissue, and what helps where it is only the body around the candidates."""
    tissue = case.settings.tissue
    if null == "cohort" and tissue.reference == "trimmed" and tissue.trim > 0 and case.tissues:
        share = f"{tissue.trim:.0%}".replace("%", " %")
        return (f"The most atypical {share} of the normal tissue was left out of it: cysts, other lesions.",)
    around = [k for tissue in case.tissues if tissue.around for k in tissue.members]
    if null == "surrogate-max" and any(decisions[k][0] != "kept" for k in around):
        return (
            "The body around candidates is a few large structures, in which little short of glaring is found. Organs"
            " (--anatomy) or a profile of lesion-free scans (--profile) allow more; so does --null placement, if the"
            " mask was drawn without looking at this image.",
        )
    beside = [k for tissue in case.tissues if not tissue.around for k in tissue.members]
    if null == "surrogate-max" and any(decisions[k][0] == "undecidable" for k in beside):
        return (
            "Where an organ is too small or too coarse for texture surrogates to tell, a profile of lesion-free scans"
            " (--profile) decides; so does --null placement, if the mask was drawn without looking at this image.",
        )
    if null == "placement" and around:
        return (
            "The tissue was laid around the candidates, with them in its middle: for this null that is approximate;"
            " an organ (--anatomy) makes it exact.",
        )
    return ()


def _mask_of(case: Case, judged: tuple[Candidate, ...], decision: Decision, labels: LabelMap | Mask) -> Mask:
    positions = tuple(k for k, c in enumerate(judged) if c.decision == decision)
    return Mask(restore(case.components.union(positions), labels.grid), labels.grid, decision)
