"""One patient through R²Seg: proposals in regions, several ways to judge them, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.region import Region
from anatrust.image.volumes import LabelMap, Mask
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.protocols import Segmenter
from anatrust.pipeline.propose import Proposal, ProposalSettings, propose
from anatrust.rejection.candidates import Components, find_components
from anatrust.rejection.judge import reject
from anatrust.rejection.regions import bounding_region
from anatrust.rejection.score import candidate_scores
from anatrust.rejection.settings import GateSettings, RejectionSettings, TissueSettings
from anatrust.statistics.conformal_p import CohortNull
from anatrust.studies.r2seg_cases import WORLDS, R2Case

__all__ = ["JUDGES", "PADS", "Judge", "Outcome", "cohort_null", "judge", "outcome", "proposal", "union_by"]

Bools = npt.NDArray[np.bool_]

PADS = {
    "phantom": 20.0,
    "phantom-mr": 20.0,
    "hippocampus": 4.0,
    "hippocampus-t2": 4.0,
    "cardiac": 10.0,
    "abdomen": 20.0,
}
"""Millimetres added around B_0; the plans' own are for whole trunks."""


@dataclass(frozen=True)
class Judge:
    """A way to decide which candidates are kept; None as settings keeps them all."""

    settings: RejectionSettings | None
    cohort: bool = False
    gates_alone: bool = False


def _settings(**changes: Any) -> RejectionSettings:
    gates = changes.pop("gates", GateSettings())
    tissue = TissueSettings(reference=changes.pop("reference", "plain"))
    alpha = changes.pop("alpha", 0.10)
    return RejectionSettings(alpha=alpha, placement_beside=False, n_draws=199, gates=gates, tissue=tissue, **changes)


JUDGES: Mapping[str, Judge] = {
    "segmenter alone": Judge(None),
    "gates alone": Judge(_settings(null="cohort"), cohort=True, gates_alone=True),
    "gates + cohort": Judge(_settings(null="cohort"), cohort=True),
    "gates + cohort, level 0.05": Judge(_settings(null="cohort", alpha=0.05), cohort=True),
    "gates + cohort, likely": Judge(_settings(null="cohort", score="likely-contrast/1"), cohort=True),
    "gates + cohort, likely, level 0.05": Judge(
        _settings(null="cohort", score="likely-contrast/1", alpha=0.05), cohort=True
    ),
    "gates + cohort, trimmed": Judge(_settings(null="cohort", reference="trimmed"), cohort=True),
    "cohort, no gates": Judge(_settings(null="cohort", gates=GateSettings(enabled=False)), cohort=True),
    "iid, as published": Judge(_settings(null="iid", order="published", correction="bh")),
    "gates only": Judge(_settings(null="iid"), gates_alone=True),
    "gates + surrogate": Judge(_settings(null="surrogate-max")),
}
"""The ways to judge, by name; level 0.10 and the tissue as it is, where the name does not say another.

Trimmed tissue is what profiles judge with by default. Candidates are ranked by ``compact-contrast/1``, and where the
name says likely by ``likely-contrast/1``.
"""


def proposal(
    case: R2Case,
    world: str,
    segmenter: Segmenter,
    *,
    settings: ProposalSettings | None = None,
    organ: Mask | None = None,
    regions: bool = True,
) -> Proposal:
    """What a segmenter proposes around the organ (by default the true one), or in the full frame without it."""
    chosen = WORLDS[world]
    plan = RulesPlanner().plan(chosen.target, "unknown")
    how = settings or ProposalSettings()
    if how.pad is None:
        how = replace(how, pad=PADS[world])
    if not regions:
        whole = Region.whole(case.scan.grid.shape)
        return propose(case.scan, segmenter, plan, box=whole, organ=None, settings=how)
    anchor = organ or case.anatomy.mask(chosen.organ)
    return propose(case.scan, segmenter, plan, box=bounding_region(anchor.array), organ=anchor, settings=how)


def tissue_of(case: R2Case, world: str, organ: Mask | None = None) -> LabelMap:
    """The organ alone as normal tissue, the true one or a given one."""
    name = WORLDS[world].organ
    mask = organ or case.anatomy.mask(name)
    return LabelMap(mask.array.astype(np.uint8), mask.grid, {1: name})


def cohort_null(
    scans: Sequence[Sequence[tuple[R2Case, Proposal, LabelMap]]], settings: RejectionSettings
) -> CohortNull:
    """Scores of what the segmenter invents in healthy patients (patient → scans)."""
    scores = []
    for patient in scans:
        found = [
            candidate_scores(case.scan, made.labels, tissue, settings, probabilities=made.probabilities)
            for case, made, tissue in patient
        ]
        scores.append(np.concatenate(found))
    return CohortNull(tuple(s[np.isfinite(s)] for s in scores))


@dataclass(frozen=True, eq=False)
class Judged:
    """Candidates with the p-value of each (1 where none) and whether it is kept."""

    components: Components
    kept: npt.NDArray[np.bool_]
    p: npt.NDArray[np.float64]


def judge(
    case: R2Case, made: Proposal, tissue: LabelMap, how: Judge, null: CohortNull | None = None, *, seed: int = 0
) -> Judged:
    """Decide on the candidates of one scan."""
    labels = made.labels
    components = find_components(labels.array, case.scan.array, case.scan.grid, labels.grid, names=labels.names)
    count = len(components.candidates)
    if how.settings is None or count == 0:
        return Judged(components, np.ones(count, dtype=bool), np.ones(count))
    result = reject(
        case.scan,
        labels,
        anatomy=tissue,
        probabilities=made.probabilities,
        cohort_null=null if how.cohort else None,
        settings=how.settings,
        seed=seed,
    )
    p = np.array([1.0 if c.p_value is None else c.p_value for c in result.candidates])
    if how.gates_alone:
        return Judged(components, np.array([not c.reason.startswith("gate ") for c in result.candidates]), p)
    return Judged(components, np.array([c.decision == "kept" for c in result.candidates]), p)


@dataclass(frozen=True)
class Outcome:
    """Counts of one scan, additive over scans.

    ``lesions`` holds diameter, contrast, whether found and the smallest p of its candidates;
    ``false_p`` the p-value of every false candidate, ``false_small`` how many kept ones are smaller
    than a ball of 10 mm.
    """

    patient: str
    ill: bool
    kept_any: bool
    lesions: tuple[tuple[float, float, bool, float], ...]
    false_kept: int
    false_small: int
    true_kept_small: int
    slices: tuple[int, int, int, int]  # ill, ill and drawn in, healthy, healthy and empty
    area: float  # mm² drawn on healthy slices
    dice: float  # sum over ill slices
    voxels: tuple[int, int, int, int]  # both, prediction alone, truth alone, neither
    false_p: tuple[float, ...]


def outcome(case: R2Case, judged: Judged) -> Outcome:
    """Compare what is kept with the truth."""
    truth, grid = case.target, case.scan.grid
    kept = np.zeros(truth.size, dtype=bool)
    found = dict.fromkeys(range(1, len(case.lesions) + 1), False)
    best = dict.fromkeys(found, 1.0)
    false_kept = false_small = small_true = 0
    false_p = []
    ball = 4 / 3 * np.pi * 5.0**3 if grid.ndim == 3 else np.pi * 5.0**2
    flat = case.truth.ravel()
    for voxels, keep, p in zip(judged.components.voxels, judged.kept, judged.p, strict=True):
        hit = [int(n) for n in np.unique(flat[voxels]) if n]
        small = len(voxels) * grid.voxel_volume < ball
        if keep:
            kept[voxels] = True
        if not hit:
            false_p.append(round(float(p), 5))
            false_kept += int(keep)
            false_small += int(keep and small)
        for n in hit:
            found[n] |= bool(keep)
            best[n] = min(best[n], float(p))
        small_true += int(bool(hit) and bool(keep) and small)
    mask = kept.reshape(truth.shape)
    lesions = tuple(
        (round(s.diameter, 2), round(s.contrast, 3), found[n], round(best[n], 5))
        for n, s in enumerate(case.lesions, start=1)
        if (case.truth == n).any()
    )
    planes = (0, 1) if truth.ndim == 3 else None
    t, m = (np.atleast_1d(a.sum(axis=planes)) for a in (truth, mask))
    both = np.atleast_1d((truth & mask).sum(axis=planes))
    ill = t > 0
    step = float(np.prod(grid.spacing[:2]))
    return Outcome(
        case.patient,
        bool(truth.any()),
        bool(mask.any()),
        lesions,
        false_kept,
        false_small,
        small_true,
        (int(ill.sum()), int((ill & (m > 0)).sum()), int((~ill).sum()), int((~ill & (m == 0)).sum())),
        float(m[~ill].sum() * step),
        float((2 * both[ill] / (t[ill] + m[ill])).sum()),
        (
            int((truth & mask).sum()),
            int((mask & ~truth).sum()),
            int((truth & ~mask).sum()),
            int((~truth & ~mask).sum()),
        ),
        tuple(false_p),
    )


def union_by(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by patient, in order of appearance."""
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.patient, []).append(one)
    return groups
