"""Segment and propose: a frozen model is asked inside the regions, and its answers become candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.region import Region, bounding_box
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.models.asking import ask, check_readable
from anatrust.models.planner import MAX_PAD, AnatomyPlan
from anatrust.models.prompts import tumour_prompts
from anatrust.models.protocols import Segmenter
from anatrust.models.segmentation import Prompt
from anatrust.models.views import Fusion, View, ViewSet, views_of
from anatrust.pipeline.finding import Finding
from anatrust.rejection.regions import fuse_regions, search_regions

__all__ = ["Proposal", "ProposalSettings", "plain_proposal", "propose"]

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class ProposalSettings:
    """How a frozen model is asked (R²Seg, "Segment and propose").

    Parameters
    ----------
    views
        ``"paper"`` (identity, left-right, front-back), ``"identity"`` or ``"flips"`` (all 4 or 8).
    fusion
        Over views and regions: ``"max"`` (paper) or ``"mean"``.
    include_full
        Whether the full frame is a further region: one reading of the paper has it, two have not.
        With maximum fusion a region can then only add to what the model draws without regions.
    pad, scales
        δ in mm and Γ in place of the plan's; None leaves them to the plan.
    threshold
        τ_bin. The paper's value is unknown; ours is 0.5.
    max_candidates
        At most so many components are judged, those of the highest score S = mean probability ×
        length first; the others are dropped, and the verdict says so. Chosen before anything is
        tested, and without looking at the image, so no p-value suffers.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    views: ViewSet = "paper"
    fusion: Fusion = "max"
    include_full: bool = False
    pad: float | None = None
    scales: tuple[float, ...] | None = None
    threshold: float = 0.5
    max_candidates: int = 50

    def __post_init__(self) -> None:
        if self.views not in ("identity", "paper", "flips"):
            raise InputError(f"the views are {self.views!r}: choose identity, paper or flips")
        if self.fusion not in ("max", "mean"):
            raise InputError(f"the fusion is {self.fusion!r}: choose max or mean")
        if not 0 < self.threshold < 1:
            raise InputError(f"the threshold is {self.threshold:g}: give a probability between 0 and 1")
        if self.max_candidates < 1:
            raise InputError(f"at most {self.max_candidates} candidates: give 1 or more")
        if self.pad is not None and not 0 <= self.pad <= MAX_PAD:
            raise InputError(f"the padding is {self.pad:g} mm: give 0 to {MAX_PAD:g}")
        if self.scales is not None:
            scales = tuple(float(s) for s in self.scales)
            if not scales or not all(0 < s < float("inf") for s in scales):
                raise InputError(f"the region scales are {list(scales)}: give positive numbers")
            object.__setattr__(self, "scales", scales)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**asdict(self), "scales": None if self.scales is None else list(self.scales)}


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a segmenter proposes.

    Parameters
    ----------
    probabilities
        P_final on the scan's grid, one channel; 0 outside all regions.
    labels
        1{P_final ≥ τ}, at most ``max_candidates`` components of it.
    regions
        The B_γ that were asked, smallest first.
    words
        What the model was asked in, for the image as it is.
    views
        Names of the views that were asked.
    components, largest
        Components before the limit, and the largest probability.
    findings
        What was dropped, in words.
    """

    probabilities: ProbabilityMap
    labels: LabelMap
    regions: tuple[Region, ...]
    words: tuple[str, ...]
    views: tuple[str, ...]
    components: int
    largest: float
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All but the images, for ``run.json``."""
        return {
            "regions": [{"start": list(r.start), "stop": list(r.stop)} for r in self.regions],
            "words": list(self.words),
            "views": list(self.views),
            "components": self.components,
            "largest_probability": round(self.largest, 6),
            "voxels": int(np.count_nonzero(self.labels.array)),
        }


def propose(
    scan: Scan,
    segmenter: Segmenter,
    plan: AnatomyPlan,
    *,
    box: Region,
    organ: Mask | None,
    settings: ProposalSettings | None = None,
    tell: Tell | None = None,
) -> Proposal:
    """P_final = max_γ max_g Inv(g) ∘ f(g(I|B_γ); c), thresholded.

    Parameters
    ----------
    scan, segmenter, plan
        What is asked, whom, and for what.
    box, organ
        B_0, and the anchors for segmenters that look inside an organ.
    settings
        See `ProposalSettings`.
    tell
        Told ``(regions done, regions)``.

    Returns
    -------
    Proposal
        Cost: one answer of the model a region and view. A model that sees the whole scan anyway and
        that mirrors cannot change is asked once, for the largest region.

    Raises
    ------
    InputError
        If the model does not read such a scan or has no words for the target.

    References
    ----------
    R2Seg (arXiv 2511.12691), "Segment and propose".
    """
    settings = settings or ProposalSettings()
    check_readable(segmenter, scan)
    pad = plan.pad if settings.pad is None else settings.pad
    scales = plan.scales if settings.scales is None else settings.scales
    regions = search_regions(box, scan.grid, pad=pad, scales=sorted(scales), square=plan.square)
    able = segmenter.capabilities
    if able.context == "scan" and not able.mirrors:
        # Its answers agree wherever regions overlap, and the largest region covers the others.
        regions = regions[-1:]
    words = _words(segmenter, plan)
    prompt = Prompt(plan.target, words(None), organ)
    views = views_of(scan.grid, settings.views if able.mirrors else "identity")
    count = len(regions) + settings.include_full

    def answer(number: int, region: Region) -> npt.NDArray[np.float32]:
        if tell:
            tell(number, count)
        return ask(segmenter, scan, region, prompt, words=words, views=views, fusion=settings.fusion)

    def answers() -> Iterator[tuple[Region, npt.NDArray[np.float32]]]:
        # The largest first: it is pasted as it is, and only the smaller ones are compared with what is there.
        for number, region in enumerate(reversed(regions)):
            yield region, answer(number, region)
        if settings.include_full:
            whole = Region.whole(scan.grid.shape)
            yield whole, answer(len(regions), whole)

    fused = fuse_regions(scan.grid.shape, answers(), fusion=settings.fusion)
    return _proposal(scan, fused, plan.target, regions, prompt.words, views, settings)


def plain_proposal(
    scan: Scan, segmenter: Segmenter, plan: AnatomyPlan, settings: ProposalSettings | None = None
) -> Proposal:
    """The baseline: the model asked once for the full frame, with neither anchors, regions nor views.

    Raises
    ------
    InputError
        As for `propose`.
    """
    settings = settings or ProposalSettings()
    words = _words(segmenter, plan)
    whole = Region.whole(scan.grid.shape)
    views = views_of(scan.grid, "identity")
    answer = ask(segmenter, scan, whole, Prompt(plan.target, words(None)), views=views)
    return _proposal(scan, answer, plan.target, (whole,), words(None), views, settings, limited=False)


def _words(segmenter: Segmenter, plan: AnatomyPlan) -> Callable[[View | None], tuple[str, ...]]:
    able = segmenter.capabilities

    def words(view: View | None) -> tuple[str, ...]:
        if "text" not in able.prompts:
            return ()
        return tumour_prompts(plan, able.wording, mirrored=view is not None and view.swaps_sides)

    if "text" in able.prompts and not words(None):
        raise InputError(f"the segmenter {segmenter.name!r} has no words for {plan.target!r}: choose another segmenter")
    return words


def _proposal(
    scan: Scan,
    fused: npt.NDArray[np.float32],
    target: str,
    regions: tuple[Region, ...],
    words: tuple[str, ...],
    views: tuple[View, ...],
    settings: ProposalSettings,
    *,
    limited: bool = True,
) -> Proposal:
    # Outside of what was asked all is 0: there the frame's untouched memory need not be read, nor the mask's written.
    asked = (Region.whole(fused.shape),) if settings.include_full else regions
    edges = zip(zip(*(r.start for r in asked), strict=True), zip(*(r.stop for r in asked), strict=True), strict=True)
    hull = tuple(slice(min(starts), max(stops)) for starts, stops in edges)
    inside, mask = fused[hull], np.zeros(fused.shape, dtype=bool)
    np.greater_equal(inside, settings.threshold, out=mask[hull])
    count = _keep_best(mask, fused, scan, settings.max_candidates) if limited else 0
    findings: tuple[Finding, ...] = ()
    if count > settings.max_candidates:
        findings = (
            Finding(
                "warning",
                "too-many-proposals",
                f"The segmenter proposed {count} candidates; the {settings.max_candidates} of the highest score "
                "(mean probability x size) were judged and the others dropped.",
                "Raise the threshold, give an anchor organ, or raise the limit (--max-candidates).",
            ),
        )
    return Proposal(
        ProbabilityMap(fused[None], scan.grid),
        LabelMap(mask.view(np.uint8), scan.grid, {1: target}),
        regions,
        words,
        tuple(view.name for view in views),
        count,
        float(inside.max(initial=-np.inf if inside.size == fused.size else 0.0)),
        findings,
    )


def _keep_best(mask: npt.NDArray[np.bool_], chances: npt.NDArray[np.float32], scan: Scan, most: int) -> int:
    """Drop all but the best components from a mask, in place; returns how many there were."""
    import cc3d

    box = bounding_box(mask)
    if box is None:
        return 0
    # Views: what is dropped in the box is dropped in the mask.
    mask, chances = mask[box], chances[box]
    # Never boolean: cc3d 4.1.1 labels 8-connected boolean images wrongly.
    crop = np.ascontiguousarray(mask).view(np.uint8)
    numbered = cc3d.connected_components(crop, connectivity=8 if mask.ndim == 2 else 26)
    index = np.nonzero(crop)
    component = numbered[index]
    del numbered
    sizes = np.bincount(component)
    count = len(sizes) - 1
    if count <= most:
        return count
    means = np.bincount(component, weights=chances[index]) / np.maximum(sizes, 1)
    score = means * (sizes * scan.grid.voxel_volume) ** (1 / 2 if mask.ndim == 2 else 1 / 3)
    score[0] = -1
    # Equal scores go by place in the patient, so that the file's axes do not decide.
    places = zip(index, box, strict=True)
    centres = [np.bincount(component, weights=p) / np.maximum(sizes, 1) + edge.start for p, edge in places]
    world = np.round(scan.grid.to_world(np.stack(centres, axis=1)), 3)
    order = np.lexsort((*world.T, -np.round(score, 6)))
    keep = np.zeros(len(sizes), dtype=bool)
    keep[order[:most]] = True
    mask[index] = keep[component]
    return count
