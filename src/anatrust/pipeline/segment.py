"""R²Seg end to end: plan, anchors, regions, segmentation, rejection, verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatrust._version import __version__
from anatrust.image.read import read_scan
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.models.anchors.label_map import LabelMapAnchors
from anatrust.models.anchors.prompted import PromptedAnchors
from anatrust.models.planner import AnatomyPlan, PlanModality, Planner
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.protocols import AnchorProvider, Segmenter
from anatrust.models.registry import default_anchors, load_segmenter, registered_models
from anatrust.pipeline.anchors import AnchorSearch, find_anchors
from anatrust.pipeline.case import Case, Names, check_seed, label_map_on, label_table
from anatrust.pipeline.decide import decide
from anatrust.pipeline.finding import Finding, worst
from anatrust.pipeline.inspect import inspect_scan
from anatrust.pipeline.judging import (
    Judged,
    add_screening,
    add_sets,
    case_for,
    judge_lesions,
    judge_settings,
    not_judged,
)
from anatrust.pipeline.levels import Levels
from anatrust.pipeline.outputs import check_output_folder
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.propose import Proposal, ProposalSettings, propose
from anatrust.pipeline.results import PageWriter, write_results
from anatrust.pipeline.signatures import failure_signatures, judgement_record
from anatrust.pipeline.verdict import ScanSummary, Verdict
from anatrust.rejection.settings import RejectionSettings

__all__ = ["anchor_chain", "segment"]

# What the input gate says of a mask that somebody brought helps nobody whose mask was made here.
_CURES = {
    "outside-body": "Give the organ (--anatomy, --anchors), so that the search stays in it, or raise --threshold.",
    "huge-mask": "Give the organ (--anatomy, --anchors), or raise --threshold.",
}
_STAGES = ("read", "plan", "anchors", "segment", "inspect", "judge", "write")


@dataclass
class _Run:
    """Progress and timings of one call."""

    progress: Progress | None
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.say(name, name)
        begin = time.perf_counter()
        yield
        self.timings[name] = time.perf_counter() - begin

    def say(self, stage: str, words: str) -> None:
        if self.progress:
            done = len(_STAGES) if stage == "done" else _STAGES.index(stage)
            self.progress(words, done, len(_STAGES))

    def compared(self, done: int, total: int) -> None:
        """Tells how many comparisons of candidates with tissue are done."""
        self.say("judge", f"judge comparison {done} of {total}")


def segment(
    scan: object,
    target: str,
    *,
    segmenter: Segmenter | str = "blob",
    weights: str | Path | None = None,
    device: str = "cpu",
    planner: Planner | None = None,
    anatomy: object | None = None,
    anatomy_names: Names = None,
    anchors: Sequence[AnchorProvider] = (),
    anchor_profile: Profile | str | Path | None = None,
    proposal: ProposalSettings | None = None,
    profile: Profile | str | Path | None = None,
    alpha: float | None = None,
    settings: RejectionSettings | None = None,
    modality: str | None = None,
    spacing: float | Sequence[float] | None = None,
    series: int | str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    page: PageWriter | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Find a tumour from its words, with a frozen model and no training, and say what may be trusted.

    A planner turns the words into anchor organs; providers find them; the model is asked in regions
    around them, through mirrored views; what it draws becomes candidates, which pass gates and are
    compared with normal tissue, as in `assess`.

    Parameters
    ----------
    scan
        Path or object, as for `read_scan`.
    target
        What is looked for, in words: ``"liver tumour"``.
    segmenter, weights, device
        A segmenter, or its name in the registry with what it needs; see ``anatrust info``.
    planner
        Rules by default; see `RulesPlanner` and `LLMPlanner`.
    anatomy, anatomy_names
        A label map of organs, asked for anchors first; names as for `read_case`.
    anchors
        Further providers, asked in this order; then the segmenter itself, where it answers for
        organs, and the embedded providers.
    anchor_profile
        A profile with sets of an anchor organ: its outer set is the region, its inner set the tissue.
    proposal
        Views, fusion, regions and thresholds; see `ProposalSettings`.
    profile, alpha, settings, modality, spacing, series, seed, out, page, progress
        As for `assess`. ``out`` also gets ``proposed.nii.gz``, ``probabilities.nii.gz`` and,
        where anchors were found, ``anchors.nii.gz``; ``run.json`` holds the plan,
        the prompts, and a language model's raw answer.

    Returns
    -------
    Verdict
        Memory beside the model: about 20 bytes a voxel where the search is the whole body.

    Raises
    ------
    InputError
        If something cannot be read, the words mean nothing that is known, or the segmenter cannot
        read such a scan.

    Guarantee
    ---------
    That of `assess`, for the candidates of this segmenter; see `Verdict.statements`. A tumour that
    the model does not draw, or that lies outside the regions, is not found, and nothing here tells.

    References
    ----------
    R2Seg (arXiv 2511.12691).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(100, 10, (48, 48)).astype(np.float32)
    >>> image[20:28, 20:28] += 60
    >>> liver = np.zeros(image.shape, np.uint8)
    >>> liver[6:42, 6:42] = 1
    >>> space = np.eye(4)
    >>> verdict = segment(
    ...     (image, space), "liver tumour", anatomy=(liver, space), anatomy_names={1: "liver"}, modality="CT"
    ... )
    >>> [c.decision for c in verdict.candidates]
    ['kept']
    """
    run = _Run(progress)
    levels = Levels.all_at(alpha)
    how = proposal or ProposalSettings()
    check_seed(seed)
    if out is not None:
        check_output_folder(out)
    with run.stage("read"):
        model = load_segmenter(segmenter, weights, device=device) if isinstance(segmenter, str) else segmenter
        fitted = None if profile is None else Profile.of(profile)
        organ_sets = None if anchor_profile is None else Profile.of(anchor_profile)
        image = read_scan(scan, modality=modality, spacing=spacing, series=series)
        organs, moved = (None, ()) if anatomy is None else _organs(anatomy, anatomy_names, image)
    with run.stage("plan"):
        kind: PlanModality = "unknown" if image.modality == "photo" else image.modality
        plan = (planner or RulesPlanner()).plan(target, kind)
    with run.stage("anchors"):
        chain = anchor_chain(model, organs, anchors, device)
        search = find_anchors(image, plan, chain, profile=organ_sets)
    with run.stage("segment"):
        proposed = propose(
            image,
            model,
            plan,
            box=search.box,
            organ=search.organ,
            settings=how,
            tell=lambda done, of: run.say("segment", f"segment region {done + 1} of {of}"),
        )
    chances = proposed.probabilities if model.capabilities.probabilities else None
    case, remarks = case_for(fitted, Case(image, proposed.labels, chances, search.tissue))
    chosen = judge_settings(settings, fitted, case, levels)
    with run.stage("inspect"):
        findings = (
            *search.findings,
            *proposed.findings,
            # Of an empty mask, that every probability is 0 is no news.
            *_for_own_mask(inspect_scan(image, proposed.labels, chances if proposed.components else None)),
            *moved,
            *remarks,
            *_of_another(fitted, model),
        )
    base = Verdict(
        "review",
        ("not judged yet",),
        "lesion",
        ScanSummary.of(image),
        levels,
        findings=_graded(findings),
        version=__version__,
    )
    with run.stage("judge"):
        if worst(findings) == "error":
            judged = not_judged(base, case)
        else:
            judged = judge_lesions(base, case, fitted, chosen, seed, run.compared)
            if fitted is not None:
                judged = add_screening(add_sets(judged, case, fitted), case, fitted)
    configuration = _configuration(model, plan, chain, search, proposed, how, judged, chosen, levels, organs)
    configuration |= {"modality": modality, "series": series}
    configuration["spacing"] = None if spacing is None else [float(v) for v in np.atleast_1d(np.asarray(spacing))]
    # Timings are left out here: a verdict must not depend on how fast the machine is.
    judged = _with_findings(judged, failure_signatures({"configuration": configuration}))
    if out is None:
        run.say("done", "done")
        return judged.verdict
    run.say("write", "write")
    verdict = write_results(
        out,
        judged,
        case,
        sources={"scan": scan, "anatomy": anatomy},
        profile=profile,
        configuration=configuration,
        seed=seed,
        timings=run.timings,
        page=page,
        command="segment",
        images=_images(search, proposed, case),
    )
    run.say("done", "done")
    return verdict


def anchor_chain(
    segmenter: Segmenter, organs: LabelMap | None, given: Sequence[AnchorProvider], device: str
) -> tuple[AnchorProvider, ...]:
    """Who is asked for anchors, in the order of trust: the user's map, those given, the segmenter, the embedded."""
    chain: list[AnchorProvider] = [] if organs is None else [LabelMapAnchors(organs)]
    chain += given
    if segmenter.capabilities.organs:
        chain.append(PromptedAnchors(segmenter))
    there = {provider.name for provider in chain}
    chain += [provider for provider in default_anchors(device) if provider.name not in there]
    return tuple(chain)


def _organs(anatomy: object, names: Names, scan: Scan) -> tuple[LabelMap, tuple[Finding, ...]]:
    labels, moved = label_map_on(anatomy, scan.grid, "anatomy")
    return LabelMap(labels.array, labels.grid, {**labels.names, **label_table(names)}), moved


def _of_another(profile: Profile | None, model: Segmenter) -> tuple[Finding, ...]:
    """A profile that names one of our segmenters, and not the one that is asked; free names are left to the user."""
    named = "" if profile is None else profile.segmenter
    known = {entry.name for entry in registered_models() if entry.kind == "segmenter"}
    # What lies in files may be of any of them.
    if named.partition("(")[0] not in known or named in (model.name, model.identity) or model.name == "precomputed":
        return ()
    return (
        Finding(
            "warning",
            "profile-of-another-segmenter",
            f"The profile was fitted for the segmenter {named}, and {model.identity} was asked: it promises nothing.",
            "Run this segmenter over the cohort and fit a profile for it.",
        ),
    )


def _for_own_mask(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(replace(f, cure=_CURES[f.code]) if f.code in _CURES else f for f in findings)


def _graded(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = ("error", "warning", "info")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def _with_findings(judged: Judged, more: tuple[Finding, ...]) -> Judged:
    """The same verdict with more findings, decided anew."""
    if not more:
        return judged
    verdict = judged.verdict
    findings = _graded((*verdict.findings, *more))
    decision, reasons = decide(findings, verdict.candidates, verdict.structures, verdict.sets, verdict.screening)
    return replace(judged, verdict=replace(verdict, findings=findings, decision=decision, reasons=reasons))


def _configuration(
    model: Segmenter,
    plan: AnatomyPlan,
    chain: Sequence[AnchorProvider],
    search: AnchorSearch,
    proposed: Proposal,
    how: ProposalSettings,
    judged: Judged,
    chosen: RejectionSettings,
    levels: Levels,
    organs: LabelMap | None,
) -> dict[str, Any]:
    null = judged.verdict.null
    draws = 0 if null in ("none", "cohort") else chosen.n_surrogates if null == "surrogate-max" else chosen.n_draws
    return {
        "target": plan.target,
        "plan": plan.to_json(),
        "segmenter": {"identity": model.identity, **model.capabilities.to_json()},
        "providers": [provider.identity for provider in chain],
        "anchors": search.to_json(),
        "settings": how.to_json(),
        "proposal": proposed.to_json(),
        "judgement": judgement_record(judged.verdict.candidates, draws=draws, null=null, organs=organs),
        "levels": levels.to_json(),
        "rejection": chosen.to_json(),
    }


def _images(search: AnchorSearch, proposed: Proposal, case: Case) -> Mapping[str, Mask | LabelMap | ProbabilityMap]:
    images: dict[str, Mask | LabelMap | ProbabilityMap] = {"proposed": case.labels.mask()}
    if search.tissue is not None:
        images["anchors"] = search.tissue
    if case.probabilities is not None and case.scan.grid.layout != "raster":
        images["probabilities"] = proposed.probabilities
    return images
