"""From a plan to anchors: providers are asked in turn, what they say is checked, and failures are said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.anatomy.plausibility import check_anatomy
from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, crop_grid
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.planner import AnatomyPlan
from anatrust.models.protocols import AnchorProvider
from anatrust.pipeline.anchor_doubts import doubted
from anatrust.pipeline.anchor_sets import with_sets
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.profile import Profile
from anatrust.rejection.body import body_mask
from anatrust.rejection.regions import anchor_box, bounding_region

__all__ = ["AnchorSearch", "checked", "find_anchors"]

Source = Literal["anchors", "neighbours", "contralateral", "body"]

# Remarks of the knowledge table that say an organ is not what its label says.
_IMPLAUSIBLE = ("organ-too-small", "organ-too-large", "organ-on-wrong-side", "organ-far-from-neighbours")
# What a failed check leaves of a provider's own quality.
_DOUBT = 0.5
_MOST_NEIGHBOURS = 4
_LOOK = "Look at anchors.nii.gz on the scan in a viewer, or give the organ with --anatomy."
_CURE = "Give the organ with --anatomy, or another provider with --anchors."


@dataclass(frozen=True, eq=False)
class AnchorSearch:
    """Where the target is looked for, and what normal tissue it is compared with.

    Parameters
    ----------
    source
        ``"anchors"`` of the plan, ``"neighbours"`` or the mirrored ``"contralateral"`` organ in
        their place, or the whole ``"body"``.
    anchors
        All anchors that were looked at, used or not, in the order of the plan.
    organ
        M_∪ on the scan's grid: what the region is drawn around.
    box
        B_0, its bounding box.
    tissue
        Numbered organs to compare with; None where only a shell of body is left.
    findings
        What failed or was replaced, in words.
    """

    source: Source
    anchors: tuple[Anchor, ...]
    organ: Mask
    box: Region
    tissue: LabelMap | None
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the voxels, for ``run.json``."""
        return {
            "source": self.source,
            "anchors": [anchor.to_json() for anchor in self.anchors],
            "box": {"start": list(self.box.start), "stop": list(self.box.stop)},
            "numbers": {} if self.tissue is None else {str(k): v for k, v in sorted(self.tissue.names.items())},
        }


def checked(anchors: Iterable[Anchor], table: Knowledge | None = None) -> tuple[Anchor, ...]:
    """Anchors with what fails a person's anatomy marked unreliable.

    Volume, side and distance from neighbours come from the knowledge table (all given anchors
    together), size in voxels, contact with the image's edge and share of the frame from
    `anchor_box`. What a provider said itself stays.

    Guarantee
    ---------
    None: the limits are conventions. An anchor that passes is not shown to be right.
    """
    table = table or knowledge()
    given = tuple(anchors)
    there = [a for a in given if a.mask is not None]
    remarks: dict[str, list[str]] = {}
    if there:
        # What lies around the organs changes no check, so that a crop does; its edge is the image's only
        # where an organ reaches that.
        hull = _hull([anchor.mask for anchor in there if anchor.mask is not None])
        labels = np.zeros(hull.shape, np.uint8)
        for number, anchor in enumerate(there, start=1):
            labels[anchor.mask.array[hull.slices]] = number  # type: ignore[union-attr]
        names = {number: anchor.structure for number, anchor in enumerate(there, start=1)}
        cropped = LabelMap(labels, crop_grid(there[0].mask.grid, hull), names)  # type: ignore[union-attr]
        for remark in check_anatomy(cropped, table).remarks:
            if remark.code in _IMPLAUSIBLE:
                remarks.setdefault(remark.structure, []).append(_phrase(remark.sentence))
    result = []
    for anchor in given:
        if anchor.mask is None:
            result.append(anchor)
            continue
        box = anchor_box(anchor.mask.array)
        if box.status == "missing":
            result.append(Anchor.missing(anchor.structure, anchor.provider, "its mask is empty"))
            continue
        reasons = (*anchor.reasons, *box.reasons, *remarks.get(anchor.structure, ()))
        failed = len(reasons) > len(anchor.reasons)
        result.append(
            replace(anchor, status="unreliable", quality=anchor.quality * _DOUBT, reasons=reasons) if failed else anchor
        )
    return tuple(result)


def find_anchors(
    scan: Scan,
    plan: AnatomyPlan,
    providers: Sequence[AnchorProvider],
    *,
    table: Knowledge | None = None,
    profile: Profile | None = None,
) -> AnchorSearch:
    """Go down the chain of providers until the plan's anchors are found.

    Each anchor is taken from the first provider whose answer passes the checks. Where none of the
    plan's anchors is found, its neighbours give the region; else the organ of the other side,
    mirrored; else the whole body (R²Seg's conservative fallback). The organ of the other side also
    serves as normal tissue. Every step down is a finding.

    Parameters
    ----------
    scan
        The scan.
    plan
        Whose anchors are wanted.
    providers
        In the order of trust.
    table
        The knowledge; the built-in one by default.
    profile
        Where its sets are of an anchor organ (graded from masks), the outer set takes the place of
        the organ as region, and the inner set as normal tissue.

    Raises
    ------
    InputError
        If a provider cannot be used at all.
    """
    table = table or knowledge()
    looked = _chain(scan, plan.anchors, providers, table)
    good = [a for a in looked if a.status == "ok"]
    # Where no anchor is found at all, one sentence says so and why; one that is there but not relied on has its own.
    findings = [_finding(a, table) for a in looked if a.reasons and (good or a.status != "missing")]
    others = _other_sides(plan.anchors, table)
    order = (*plan.anchors, *others)
    if good:
        return _search("anchors", scan, looked, good, good, findings, profile, order)
    opposite = [a for a in _chain(scan, tuple(others), providers, table) if a.status == "ok"]
    near = tuple(key for key in plan.stand_ins if key not in others)
    beside: list[Anchor] = []
    for key in near:
        beside += [a for a in _chain(scan, (key,), providers, table) if a.status == "ok"]
        if len(beside) == _MOST_NEIGHBOURS:
            break
    wanted = _missed(looked, table)
    if beside:
        named = _listed([table.structure(a.structure).name for a in beside])
        findings.append(
            Finding(
                "warning",
                "anchor-stand-in",
                f"No anchor was found ({wanted}); the search ran around its neighbours ({named}).",
                _CURE,
            )
        )
        return _search("neighbours", scan, (*looked, *beside, *opposite), beside, opposite, findings, None, order)
    if opposite:
        findings.append(
            Finding(
                "warning",
                "anchor-contralateral",
                f"No anchor was found ({wanted}); the search ran where the organ of the other side lies, mirrored.",
                _CURE,
            )
        )
        mirrored = [replace(a, mask=_mirrored(a.mask, scan)) for a in opposite if a.mask is not None]
        return _search("contralateral", scan, (*looked, *opposite), mirrored, opposite, findings, None, order)
    findings.append(
        Finding(
            "warning",
            "anchor-failed",
            f"No anchor was found ({wanted}); the search ran over the whole body.",
            _CURE,
        )
    )
    straight, grid = canonical(scan.array, scan.grid)
    body = Mask(restore(body_mask(replace(scan, array=straight, grid=grid)), scan.grid), scan.grid, "body")
    return AnchorSearch("body", looked, body, bounding_region(body.array), None, tuple(findings))


def _chain(
    scan: Scan, structures: tuple[str, ...], providers: Sequence[AnchorProvider], table: Knowledge
) -> tuple[Anchor, ...]:
    """For each structure the first answer that passes, else the best one that does not."""
    best: dict[str, Anchor] = {}
    for provider in providers:
        open_ones = [key for key in structures if key not in best or best[key].status != "ok"]
        if not open_ones:
            break
        for anchor in doubted(scan, checked(provider.find(scan, open_ones), table), table):
            before = best.get(anchor.structure)
            if before is None:
                best[anchor.structure] = anchor
            elif anchor.status == "ok" or anchor.quality > before.quality:
                # Who gave the first one must hear that it is not what the scan is judged with.
                why = ", ".join(before.reasons)
                if before.status == "unreliable":
                    said = f"it takes the place of that from {before.provider}, not relied on: {why}"
                else:
                    said = f"it comes from {anchor.provider}, since {why}"
                best[anchor.structure] = replace(anchor, reasons=(said, *anchor.reasons))
    nobody = "nobody was asked: there is no anatomy and no provider"
    return tuple(best.get(key) or Anchor.missing(key, "none", nobody) for key in structures)


def _search(
    source: Source,
    scan: Scan,
    looked: tuple[Anchor, ...],
    around: Sequence[Anchor],
    tissue: Sequence[Anchor],
    findings: Sequence[Finding],
    profile: Profile | None,
    order: Sequence[str],
) -> AnchorSearch:
    """The search around some anchors; ``order`` numbers the tissue, so that the maps of a cohort read alike."""
    sets, said = with_sets(around, scan, profile) if profile is not None else ({}, ())
    outer = []
    for anchor in around:
        assert anchor.mask is not None
        outer.append(sets[anchor.structure].outer.array if anchor.structure in sets else anchor.mask.array)
    organ = outer[0] if len(outer) == 1 else np.logical_or.reduce(outer)
    labels: npt.NDArray[np.uint8] = np.zeros(scan.grid.shape, dtype=np.uint8)
    names = {}
    for anchor in tissue:
        assert anchor.mask is not None
        number = order.index(anchor.structure) + 1
        inner = sets[anchor.structure].inner.array if anchor.structure in sets else anchor.mask.array
        # Only the organ's own box is touched: a frame is a hundred times as large.
        box = bounding_region(inner).slices if inner.any() else (slice(0, 0),) * inner.ndim
        labels[box][inner[box] & (labels[box] == 0)] = number
        names[number] = anchor.structure
    return AnchorSearch(
        source,
        tuple(looked),
        Mask(organ, scan.grid, "+".join(a.structure for a in around)),
        bounding_region(organ),
        LabelMap(labels, scan.grid, names) if names else None,
        (*findings, *said),
    )


def _hull(masks: Sequence[Mask]) -> Region:
    """The box of all masks, one voxel wider where the image goes on."""
    boxes = [bounding_region(mask.array) for mask in masks]
    shape = masks[0].array.shape
    start = tuple(max(0, min(edges) - 1) for edges in zip(*(box.start for box in boxes), strict=True))
    stops = zip(*(box.stop for box in boxes), strict=True)
    return Region(start, tuple(min(n, max(edges) + 1) for edges, n in zip(stops, shape, strict=True)))


def _missed(anchors: Sequence[Anchor], table: Knowledge) -> str:
    """The organs that were wanted, with the reason where one is not there."""
    return "; ".join(
        ": ".join((table.structure(a.structure).name, *(("; ".join(a.reasons),) if a.status == "missing" else ())))
        for a in anchors
    )


def _finding(anchor: Anchor, table: Knowledge) -> Finding:
    name = table.structure(anchor.structure).name
    why = "; ".join(anchor.reasons)
    if anchor.status == "missing":
        # With another anchor at hand a missing one costs little: the uterus of a man, say.
        return Finding("info", "anchor-missing", f"The anchor {name} is missing: {why}.", _CURE)
    if anchor.status == "ok":
        return Finding("warning", "anchor-remark", f"The anchor {name} was found, but {why}.", _LOOK)
    return Finding("warning", "anchor-unreliable", f"The anchor {name} was not relied on: {why}.", _CURE)


def _other_sides(structures: Sequence[str], table: Knowledge) -> list[str]:
    found = []
    for key in structures:
        for side, other in (("_left", "_right"), ("_right", "_left")):
            twin = key.removesuffix(side) + other
            if key.endswith(side) and twin in table.structures:
                found.append(twin)
    return found


def _mirrored(mask: Mask, scan: Scan) -> Mask:
    """A mask mirrored at the middle of the body, from left to right."""
    straight, grid = canonical(scan.array, scan.grid)
    body = body_mask(replace(scan, array=straight, grid=grid))
    inside = np.flatnonzero(body.any(axis=tuple(range(1, body.ndim))))
    moved = canonical(mask.array, mask.grid)[0]
    there = np.zeros_like(moved)
    index = np.arange(len(moved))
    other = inside[0] + inside[-1] - index
    fits = (other >= 0) & (other < len(moved))
    there[other[fits]] = moved[index[fits]]
    return Mask(restore(there, mask.grid), mask.grid, mask.name)


def _phrase(sentence: str) -> str:
    return f"{sentence[0].lower()}{sentence[1:].removesuffix('.')}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
