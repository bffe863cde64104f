"""Study `r2seg-questions`: thresholds by size and contrast, anchors that are off, tissue that is not normal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.volumes import LabelMap, Mask
from anatrust.pipeline.propose import Proposal
from anatrust.rejection.score import candidate_scores
from anatrust.rejection.settings import TissueSettings
from anatrust.statistics.conformal_p import CohortNull
from anatrust.studies.r2seg_anchors import wrong_anchor
from anatrust.studies.r2seg_cases import R2Case, cases
from anatrust.studies.r2seg_cells import NEEDS, VARIANTS
from anatrust.studies.r2seg_judge import JUDGES, Judge, Outcome, judge, outcome, proposal, tissue_of
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import SIZES, numbers, row
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["REMEDIES", "STUDY", "adjusted_by_class", "contaminated"]

Bools = npt.NDArray[np.bool_]

_WORLD = "phantom"
_SEGMENTER = "pixels, several scales"
_FULL = JUDGES["gates + cohort"]
_ALPHA = 0.10
_HEALTHY, _TEST = 29, 16
# Thresholds by class are learnt from half of the healthy patients, so that more are needed.
_MANY_HEALTHY, _MANY_TEST = 79, 100
_SHOWN = ("clear lesions", "lesions", "any kept", "false a scan")
_CONTAMINATION = (0.0, 0.1, 0.2, 0.4)
_OFF = ("true organ", "shifted 20 mm", "dilated 20 mm")
# mm³: below a ball of 8 mm, of 12 mm, above.
_SIZES = (270.0, 900.0)
# Standard deviations of the organ.
_CONTRASTS = (-2.5, -1.0, 1.0, 2.5)
_CLASSES = (len(_SIZES) + 1) * (len(_CONTRASTS) + 1)

REMEDIES: Mapping[str, TissueSettings] = {
    "plain": TissueSettings(reference="plain"),
    "trimmed by 40 %": TissueSettings(reference="trimmed", trim=0.4),
    "mixture": TissueSettings(reference="mixture"),
    "rim of 8 mm": TissueSettings(reference="plain", rim=8.0),
}
"""Ways to choose the normal tissue."""


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.r2seg_questions", "anatrust.studies.r2seg_anchors")
    remedies = ("plain", "trimmed by 40 %") if context.quick else tuple(REMEDIES)
    cells = [Cell("sizes", {"question": "sizes"}, needs=needs)]
    return [*cells, *(Cell(f"tissue/{name}", {"question": "tissue", "remedy": name}, needs=needs) for name in remedies)]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    if cell.parameters["question"] == "sizes":
        return _by_class(context)
    return _with_tissue(cell.parameters["remedy"], context)


def contaminated(case: R2Case, share: float, rng: np.random.Generator, *, name: str = "liver") -> R2Case:
    """The case with cysts in a share of the organ that is neither lesion nor within two voxels of one.

    Cysts are what is left of a smooth random field above a threshold, three deviations of the organ
    darker: regions, as they are in patients, not single voxels.
    """
    if share == 0:
        return case
    organ = case.anatomy.mask(name).array
    free = organ & ~ndimage.binary_dilation(case.target, iterations=2)
    field = ndimage.gaussian_filter(rng.standard_normal(organ.shape), 2.0)
    cysts = free & (field >= np.quantile(field[free], 1 - share))
    image = case.scan.array.astype(np.float32)
    image[cysts] -= 3 * float(image[organ].std())
    return replace(case, scan=replace(case.scan, array=image))


def _given(case: R2Case, anchor: str) -> Mask:
    true = case.anatomy.mask("liver")
    return Mask(wrong_anchor(true.array, anchor, case), true.grid, "liver")


@lru_cache(maxsize=8)
def _proposals(part: str, anchor: str, context: Context, *, many: bool = False) -> tuple[tuple[R2Case, Proposal], ...]:
    model = segmenter(_SEGMENTER, _WORLD, context)
    healthy, test = (_MANY_HEALTHY, _MANY_TEST) if many else (_HEALTHY, _TEST)
    limit = healthy if part == "healthy" else 4 if context.quick else test
    return tuple(
        (case, proposal(case, _WORLD, model, settings=VARIANTS["regions"], organ=_given(case, anchor)))
        for patient in cases(_WORLD, part, context, limit=limit)
        for case in patient
    )


def _with_tissue(remedy: str, context: Context) -> Mapping[str, Any]:
    """Contaminated tissue and wrong anchors, the null fitted on clean patients behind true organs."""
    assert _FULL.settings is not None
    how = Judge(replace(_FULL.settings, tissue=REMEDIES[remedy]), cohort=True)
    null = CohortNull(
        tuple(
            candidate_scores(c.scan, made.labels, tissue_of(c, _WORLD), how.settings, probabilities=made.probabilities)
            for c, made in _proposals("healthy", "true organ", context)
        )
    )
    found: dict[str, Any] = {}
    for share in _CONTAMINATION[:: 3 if context.quick else 1]:
        outcomes: list[Outcome] = []
        for number, (case, made) in enumerate(_proposals("test", "true organ", context)):
            # Proposed on the clean image: the question is the tissue, not what the segmenter makes of cysts.
            seen = contaminated(case, share, np.random.default_rng([context.seed, number, 43]))
            outcomes.append(outcome(case, judge(seen, made, tissue_of(case, _WORLD), how, null, seed=context.seed)))
        found[f"{100 * share:.0f} % cysts"] = numbers(outcomes, seed=context.seed)
    for name in _OFF[1:2] if context.quick else _OFF:
        outcomes = []
        for case, made in _proposals("test", name, context):
            tissue = tissue_of(case, _WORLD, _given(case, name))
            outcomes.append(outcome(case, judge(case, made, tissue, how, null, seed=context.seed)))
        found[f"anchor: {name}"] = numbers(outcomes, seed=context.seed)
    return found


@dataclass(frozen=True, eq=False)
class _Scored:
    """What passed the gates in one scan: score and class of each by way, and which lesion it hits (0: none)."""

    case: R2Case
    score: npt.NDArray[np.float64]
    size: npt.NDArray[np.intp]
    contrast: npt.NDArray[np.intp]
    lesion: npt.NDArray[np.intp]


def _scored(case: R2Case, made: Proposal) -> _Scored:
    """With one probability gate for all, so that every component is scored."""
    assert _FULL.settings is not None
    tissue: LabelMap = tissue_of(case, _WORLD)
    settings = replace(_FULL.settings, gates=replace(_FULL.settings.gates, enabled=False))
    scores = candidate_scores(case.scan, made.labels, tissue, settings, probabilities=made.probabilities)
    components = judge(case, made, tissue, JUDGES["segmenter alone"]).components
    hit = [int(case.truth.ravel()[voxels].max(initial=0)) for voxels in components.voxels]
    sizes = np.array([len(voxels) * case.scan.grid.voxel_volume for voxels in components.voxels])
    normal = case.scan.array[(tissue.array > 0) & (made.labels.array == 0)].astype(np.float64)
    means = np.array([c.mean_intensity for c in components.candidates])
    contrasts = (means - normal.mean()) / normal.std()
    classes = np.digitize(sizes, _SIZES), np.digitize(contrasts, _CONTRASTS)
    return _Scored(case, scores, *classes, np.array(hit, dtype=np.intp))


def _both(scored: _Scored) -> npt.NDArray[np.intp]:
    return scored.size * (len(_CONTRASTS) + 1) + scored.contrast


def _by_class(context: Context) -> Mapping[str, Any]:
    """One score for all, against scores divided by what other healthy patients' candidates of the class reach."""
    healthy = [_scored(*pair) for pair in _proposals("healthy", "true organ", context, many=True)]
    tested = [_scored(*pair) for pair in _proposals("test", "true organ", context, many=True)]
    others, rest = healthy[: len(healthy) // 2], healthy[len(healthy) // 2 :]
    ways: dict[str, tuple[Sequence[_Scored], Callable[[_Scored], npt.NDArray[np.float64]]]] = {
        "one score": (healthy, lambda s: s.score),
        "one score, half of the patients": (rest, lambda s: s.score),
    }
    kinds: dict[str, Callable[[_Scored], npt.NDArray[np.intp]]] = {
        "size": lambda s: s.size,
        "contrast": lambda s: s.contrast,
        "size and contrast": _both,
    }
    for name, kind in kinds.items():
        adjusted = adjusted_by_class(
            np.concatenate([kind(s) for s in others]), np.concatenate([s.score for s in others])
        )
        ways[f"by {name}, learnt from the other half"] = (
            rest,
            lambda s, kind=kind, adjusted=adjusted: adjusted(kind(s), s.score),  # type: ignore[misc]
        )
    found: dict[str, Any] = {}
    for name, (ranked, score) in ways.items():
        null = CohortNull(tuple(v[np.isfinite(v)] for v in map(score, ranked)))
        found[name] = _numbers_of(tested, score, null)
    return found


def adjusted_by_class(
    classes: npt.NDArray[np.intp], scores: npt.NDArray[np.float64]
) -> Callable[[npt.NDArray[np.intp], npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """From class and score to the score over the 90 % quantile of healthy candidates of that class.

    Learnt once and for all from some healthy candidates; small classes keep the quantile of all.
    """
    good = np.isfinite(scores)
    floor = max(float(np.quantile(scores[good], 0.9)) if good.any() else 1.0, 1e-6)
    scale = np.full(max(int(classes.max(initial=0)) + 1, _CLASSES), floor)
    for k in np.unique(classes[good]):
        mine = scores[(classes == k) & good]
        if len(mine) >= 10:
            scale[k] = max(float(np.quantile(mine, 0.9)), 0.1 * floor)
    return lambda kind, score: score / scale[kind]


def _numbers_of(
    tested: Sequence[_Scored], score: Callable[[_Scored], npt.NDArray[np.float64]], null: CohortNull
) -> dict[str, Any]:
    """Shares of lesions found by class of diameter, and of healthy patients with something kept."""
    lesions: list[tuple[float, bool]] = []
    kept_in_healthy: list[bool] = []
    for s in tested:
        kept = np.array([null.p_value(float(v)) <= _ALPHA for v in score(s)], dtype=bool)
        if s.case.lesions:
            lesions += [
                (spec.diameter, bool(kept[s.lesion == n].any())) for n, spec in enumerate(s.case.lesions, start=1)
            ]
        else:
            kept_in_healthy.append(bool(kept.any()))
    made: dict[str, Any] = {}
    for name, (low, high) in SIZES.items():
        mine = [found for d, found in lesions if low <= d < high]
        made[name] = [int(sum(mine)), len(mine)]
    return {**made, "any kept": [int(sum(kept_in_healthy)), len(kept_in_healthy)]}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """For each remedy: the level and the clear lesions without and with the most cysts."""
    summary = {}
    for key, found in results.items():
        if key.startswith("tissue/"):
            worst = found[f"{100 * _CONTAMINATION[-1]:.0f} % cysts"]
            values = {n: worst[n] for n in ("clear lesions", "any kept")}
            summary[key.removeprefix("tissue/")] = {n: None if v is None else v["value"] for n, v in values.items()}
    return {"at 40 % cysts": summary}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    names = (*SIZES, "any kept")
    sizes = [
        [way, *("{} of {}".format(*found[name]) for name in names)] for way, found in result["cells"]["sizes"].items()
    ]
    lines: dict[str, list[list[Any]]] = {"contamination": [], "anchors": []}
    for key, found in result["cells"].items():
        if not key.startswith("tissue/"):
            continue
        for what, values in found.items():
            kind = "anchors" if what.startswith("anchor: ") else "contamination"
            lines[kind].append(
                [f"{key.removeprefix('tissue/')}: {what.removeprefix('anchor: ')}", *row(values, _SHOWN)]
            )
    return {
        "sizes": markdown_table(["score", *names], sizes),
        **{kind: markdown_table(["normal tissue", *_SHOWN], rows) for kind, rows in lines.items()},
    }


STUDY = Study(
    name="r2seg-questions",
    question="Do thresholds by size and contrast, other references or robust anchors help where R²Seg is weak?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
