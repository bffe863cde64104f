"""Segmenters taught in several ways, and tested patients judged by all the others: cells of `r2seg-left-out`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.region import Region
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.models.pixel_classifier import PixelCase, PixelRecipe, train_pixel_classifier
from anatrust.models.protocols import Segmenter
from anatrust.models.segmentation import Prompt
from anatrust.models.segmenters.pixel_classifier import PixelTarget
from anatrust.pipeline.propose import Proposal
from anatrust.rejection.score import candidate_scores
from anatrust.rejection.settings import RejectionSettings
from anatrust.statistics.conformal_p import CohortNull
from anatrust.studies.r2seg_cases import WORLDS, R2Case, _planted, _real
from anatrust.studies.r2seg_cells import VARIANTS
from anatrust.studies.r2seg_judge import JUDGES, Outcome, judge, outcome, proposal, tissue_of
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers
from anatrust.studies.study import Context
from anatrust.studies.tissues import TissueSample, cardiac_patients

__all__ = ["EXACT", "IID", "LEVELS", "STEPS", "Arm", "null_maxima", "run_arm", "taught"]

# The scans of a patient that are looked at, numbered.
Patient = Sequence[tuple[int, TissueSample]]

STEPS = {
    "proposed": "segmenter alone",
    "past the gates": "gates alone",
    "kept, level 0.10": "gates + cohort",
    "kept, level 0.05": "gates + cohort, level 0.05",
    "likely, level 0.10": "gates + cohort, likely",
    "likely, level 0.05": "gates + cohort, likely, level 0.05",
}
IID = "iid, as published"
EXACT = "drawn exactly"
LEVELS = {"kept, level 0.10": 0.10, "kept, level 0.05": 0.05, "likely, level 0.10": 0.10, "likely, level 0.05": 0.05}
_PLANTINGS = 3
# Settings by score, of the ways to judge that rank candidates among those of the healthy.
_RANKED: dict[str, RejectionSettings] = {
    settings.scored().score: settings
    for name in STEPS.values()
    if JUDGES[name].cohort and (settings := JUDGES[name].settings) is not None
}


@dataclass(frozen=True)
class Arm:
    """One way to divide and to teach.

    The first ``teach`` patients teach the segmenter: one of `r2seg_models.segmenter` (with the scans and plantings it
    has there), or ``"pixels"`` or ``"unet"`` taught anew on all slices of the teachers with ``plantings`` lesions a
    scan. ``inside`` sets to 0 what it answers outside the organ, as the pixel classifier does. Tested are the
    same patients as in the ablation, each as they are and with lesions planted in copies of every scan. With
    ``others`` the null of a tested patient is made of all patients but the teachers and itself; else of the healthy
    ones alone, as in the ablation.
    """

    world: str
    model: str
    teach: int
    plantings: int = 0
    variant: str = "regions"
    others: bool = True
    inside: bool = False


class _Inside:
    """A segmenter that answers inside the organ alone."""

    def __init__(self, model: Segmenter) -> None:
        self._model = model
        self.name, self.capabilities = model.name, model.capabilities
        self.identity = f"inside({model.identity})"

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """What the model answers, 0 outside the organ of the prompt."""
        found = self._model.segment(scan, prompt, region)
        assert prompt.organ is not None
        return ProbabilityMap(found.array * prompt.organ.array[region.slices], found.grid)


def taught(arm: Arm, context: Context) -> Segmenter:
    """The segmenter of an arm; minutes."""
    if not arm.plantings:
        return segmenter(arm.model, arm.world, context)
    if arm.model == "pixels":
        organ = WORLDS[arm.world].organ
        shown = (PixelCase(c.scan, Mask(c.target, c.scan.grid), c.anatomy.mask(organ)) for c in _lessons(arm, context))
        return PixelTarget(train_pixel_classifier(shown, PixelRecipe(other=12_000)))
    model = _network(replace(arm, variant="regions", inside=False), context)
    return _Inside(model) if arm.inside else model


@lru_cache(maxsize=2)
def _network(arm: Arm, context: Context) -> Segmenter:
    """A U-Net taught anew."""
    from anatrust.models.segmenters.unet import UNetTarget
    from anatrust.models.unet import UNetConfig
    from anatrust.models.unet_training import TrainingRecipe, train_unet

    cases = list(_lessons(arm, context))
    images = [c.scan.array.astype(np.float32) for c in cases]
    labels = [c.target.astype(np.uint8) for c in cases]
    steps, ndim = 12 if context.quick else 1200, images[0].ndim
    recipe = TrainingRecipe(steps=steps, batch=8, crop=24 if ndim == 3 else 48, flips=(0, 1), seed=context.seed)
    return UNetTarget(train_unet(images, labels, UNetConfig(ndim, ("background", "lesion"), (16, 32, 64)), recipe))


def _lessons(arm: Arm, context: Context) -> Iterator[R2Case]:
    """Every scan (in hearts: every slice) of the patients that teach, with lesions planted in copies of it."""
    every: dict[str, Patient] = {}
    if arm.world == "cardiac":
        every = {name: list(enumerate(samples)) for name, samples in cardiac_patients(context)}
    for k, patient in enumerate(_real(arm.world, context)[: 2 if context.quick else arm.teach]):
        for n, sample in every.get(patient[0][1].patient, patient)[: 2 if context.quick else None]:
            for copy in range(1 if context.quick else arm.plantings):
                rng = np.random.default_rng([context.seed, k, n, copy, 41])
                yield _planted(sample, WORLDS[arm.world], True, rng)


def run_arm(arm: Arm, model: Segmenter, pool: Sequence[int], tested: Sequence[int], context: Context) -> dict[str, Any]:
    """Numbers by way to judge, lesions at every step, and the null.

    Parameters
    ----------
    arm, model
        How candidates are proposed.
    pool
        Numbers of the patients whose healthy scans make the null.
    tested
        Numbers of those who are tested; one of them that is in the pool is left out of its own null.
    """
    patients = _real(arm.world, context)
    world = WORLDS[arm.world]

    def seen(case: R2Case) -> tuple[R2Case, Proposal, LabelMap]:
        made = proposal(case, arm.world, model, settings=VARIANTS[arm.variant])
        return case, made, tissue_of(case, arm.world)

    def planted(k: int, copy: int) -> list[R2Case]:
        rngs = ((s, np.random.default_rng([context.seed, k, n, copy, 17])) for n, s in patients[k])
        return [_planted(sample, world, copy > 0, rng) for sample, rng in rngs]

    healthy = {k: [seen(case) for case in planted(k, 0)] for k in sorted({*pool, *tested})}
    scores = {
        k: {score: _scores(scans, settings) for score, settings in _RANKED.items()} for k, scans in healthy.items()
    }
    results: dict[str, list[Outcome]] = {name: [] for name in (*STEPS.values(), IID, EXACT)}
    for k in tested:
        nulls = {score: CohortNull(tuple(scores[other][score] for other in pool if other != k)) for score in _RANKED}
        copies = range(1, 2 if context.quick else _PLANTINGS + 1)
        ill = [seen(case) for copy in copies for case in planted(k, copy)]
        for case, made, tissue in (*healthy[k], *ill):
            for name in (*STEPS.values(), IID):
                judged = judge(case, made, tissue, JUDGES[name], nulls[_score(name)], seed=context.seed)
                results[name].append(outcome(case, judged))
            name = "gates + cohort"
            exact = judge(case, _exact(case, made), tissue, JUDGES[name], nulls[_score(name)], seed=context.seed)
            results[EXACT].append(outcome(case, exact))
    return {
        "judges": {name: numbers(found, seed=context.seed) for name, found in results.items()},
        "null patients": len([k for k in pool if k != tested[0]]),
        "null maxima": null_maxima([scores[k][_score("gates + cohort")] for k in pool]),
        "null maxima, likely": null_maxima([scores[k][_score("gates + cohort, likely")] for k in pool]),
    }


def _score(name: str) -> str:
    """What a way to judge ranks candidates by; where it ranks none, any."""
    settings = JUDGES[name].settings
    return next(iter(_RANKED)) if settings is None else settings.scored().score


def _scores(scans: Sequence[tuple[R2Case, Proposal, LabelMap]], settings: RejectionSettings) -> npt.NDArray[np.float64]:
    """The scores of all candidates in the scans of a healthy patient."""
    found = np.concatenate(
        [
            candidate_scores(case.scan, made.labels, tissue, settings, probabilities=made.probabilities)
            for case, made, tissue in scans
        ]
    )
    return np.asarray(found[np.isfinite(found)])


def _exact(case: R2Case, made: Proposal) -> Proposal:
    """A proposal that holds what was planted and nothing else, drawn as it is."""
    truth = case.target
    names = made.labels.names
    chances = ProbabilityMap(truth.astype(np.float32)[None], case.scan.grid)
    return replace(made, probabilities=chances, labels=LabelMap(truth.astype(np.uint8), case.scan.grid, names))


def null_maxima(scores: Sequence[npt.NDArray[np.float64]]) -> list[float]:
    """The largest score of every healthy patient, falling; 0 where nothing reached the test.

    Examples
    --------
    >>> null_maxima([np.array([1.0, 3.0]), np.array([]), np.array([7.25])])
    [7.25, 3.0, 0.0]
    """
    return sorted((round(float(s.max()), 2) if s.size else 0.0 for s in scores), reverse=True)
