"""Study `planted-lesions`: which lesions each null finds, by contrast and size, and the realised FDR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.blob import Side, threshold_candidates
from anatrust.rejection.judge import reject
from anatrust.rejection.score import candidate_scores
from anatrust.rejection.settings import GateSettings, Null, RejectionSettings, TissueSettings
from anatrust.statistics.conformal_p import CohortNull
from anatrust.statistics.surrogate import Direction
from anatrust.studies import judge, planted_lesions_summary
from anatrust.studies.lesions import free_centres, plant_lesion
from anatrust.studies.needs import MODULES
from anatrust.studies.phantom_vessels import is_vessel, vessels_of
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tissues import (
    TissueSample,
    components,
    phantom_organ,
    random_places,
    source_files,
    volume_organ,
)

__all__ = ["STUDY"]

_SELF = ("anatrust.studies.planted_lesions", "anatrust.studies.phantom_vessels")
_REJECTION = tuple(
    f"anatrust.rejection.{room}"
    for room in ("judge", "nulls", "score", "compact_contrast", "comparison", "tissue", "correction")
)
_CONTRASTS = (0.25, 0.5, 1.0, 2.0)
_DIAMETERS = (5.0, 10.0, 20.0, 30.0)
_DRAWS = 199
_SURROGATES = 99
_ALPHA = 0.10
_ORGANS = {
    ("amos", "liver"): 6,
    ("amos", "spleen"): 1,
    ("ct3mm", "liver"): 5,
    ("ct3mm", "spleen"): 1,
    ("phantom", "liver"): 0,
    ("phantom", "spleen"): 0,
}
# Lesions per combination of contrast and diameter; phantoms they are planted in; whole scans.
_REPEATS = {"placement": 24, "placement-exceed": 3, "iid": 2, "block": 2, "surrogate-max": 12, "cohort": 24}
_REPEATS_LOCAL = 2
_PHANTOMS = 24
_SCANS = {"surrogate-max": 24, "placement": 16, "cohort": 16}
_SCANS_OTHERS = 8
# Lesions and phantoms with smaller numbers were looked at while the tests were made.
_FRESH = 1000
_COHORT = 19
_COHORT_NULLS = ("cohort", "cohort dark", "cohort drawn", "cohort drawn dark")
_PLAIN_NULLS = ("surrogate-max", "placement", "placement-exceed", "iid", "block")


def _cells(context: Context) -> list[Cell]:
    combinations = [(s, o, "intensity", n) for n in _PLAIN_NULLS for s, o in _ORGANS]
    combinations += [(s, o, "local", "placement") for s, o in _ORGANS if s == "phantom"]
    combinations += [("phantom", o, "intensity", n) for o in ("liver", "spleen") for n in _COHORT_NULLS]
    combinations += [("phantom", "spleen", "local", "surrogate-max")]
    combinations += [(s, o, "intensity", "surrogate-max dark") for s, o in _ORGANS if s == "amos"]
    fdr = [(s, o, n) for s, o in _ORGANS for n in ("placement", "iid") if s != "amos"]
    looked = ("surrogate-max", "surrogate-max dark", "cohort dark")
    fdr += [("phantom", o, n) for o in ("liver", "spleen") for n in looked]
    if context.quick:
        combinations = [
            ("phantom", "spleen", "intensity", "placement"),
            ("phantom", "spleen", "intensity", "cohort dark"),
        ]
        fdr = [("phantom", "spleen", "placement")]
    cells = []
    for source, organ, features, null in combinations:
        parameters = {"task": "power", "source": source, "organ": organ, "features": features, "null": null}
        cells.append(_cell(parameters, context))
    for source, organ, null in fdr:
        parameters = {"task": "fdr", "source": source, "organ": organ, "features": "intensity", "null": null}
        cells.append(_cell(parameters, context))
    # Those that promise something first: a run that is stopped has what matters.
    return sorted(cells, key=lambda cell: cell.parameters["null"] in ("placement-exceed", "iid", "block"))


def _cell(p: dict[str, str], context: Context) -> Cell:
    key = "/".join((p["task"], p["source"], p["organ"], p["features"], p["null"]))
    # Only these cells go through `reject`; the others call the tests themselves.
    whole = p["task"] == "fdr" or _plain(p["null"]) == "cohort"
    needs = (*MODULES[_plain(p["null"])], *_SELF, *(_REJECTION if whole else ()))
    return Cell(key, p, files=source_files(p["source"], context), needs=needs)


def _plain(null: str) -> str:
    """The null without further words.

    ``dark`` says that segmenter, lesions and test look for dark ones only, ``drawn`` that the candidate is what the
    segmenter drew of the lesion instead of the lesion itself.
    """
    return null.removesuffix(" dark").removesuffix(" drawn")


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    return _fdr(cell.parameters, context) if cell.parameters["task"] == "fdr" else _power(cell.parameters, context)


def _sample(source: str, organ: str, k: int, context: Context) -> TissueSample:
    if source == "phantom":
        return phantom_organ(_phantom_seed(k, context), organ, quick=context.quick)
    return _real(source, organ, context)


def _phantom_seed(k: int, context: Context) -> int:
    return 75_000 + 1000 * context.seed + k % _PHANTOMS


@lru_cache(maxsize=16)
def _real(source: str, organ: str, context: Context) -> TissueSample:
    sample = volume_organ(context, source, _ORGANS[source, organ], organ)
    if source != "amos":
        return sample
    # 0.85 mm pixels make whole organs slow; pairs of pixels are averaged to 1.7 mm.
    shape = tuple(n // 2 * 2 for n in sample.image.shape[:2])
    blocks = (shape[0] // 2, 2, shape[1] // 2, 2, sample.image.shape[2])
    image = sample.image[: shape[0], : shape[1]].reshape(blocks).mean(axis=(1, 3))
    domain = sample.domain[: shape[0], : shape[1]].reshape(blocks).min(axis=(1, 3))
    spacing = (2 * sample.spacing[0], 2 * sample.spacing[1], sample.spacing[2])
    return TissueSample("amos", organ, image, domain, spacing)


def _planted(
    sample: TissueSample,
    diameter: float,
    contrast: float,
    rng: np.random.Generator,
    taken: npt.NDArray[np.bool_] | None = None,
    *,
    dark: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
    """The sample with one lesion at a random place where it fits; None where none fits."""
    centres = free_centres(sample.domain, diameter, sample.spacing, taken)
    if len(centres) == 0:
        return None
    sign = 1.0 if rng.random() < 0.5 and not dark else -1.0
    shift = sign * contrast * float(sample.image[sample.domain].std())
    centre = centres[rng.integers(len(centres))]
    image, truth = plant_lesion(sample.image, centre, diameter, shift, sample.spacing, rng)
    truth &= sample.domain
    return (image, truth) if truth.sum() >= 2 else None


def _power(p: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Lesions planted one at a time; the candidate is the lesion's true mask, or what the segmenter drew of it."""
    null, dark = _plain(p["null"]), p["null"].endswith("dark")
    cohort = _cohort(p["organ"], dark, context) if null == "cohort" else None
    grid: dict[str, dict[str, int]] = {}
    # Only the exact null on intensity is drawn in full; the others skip what is not asked of them.
    full = null == "placement" and p["features"] == "intensity"
    contrasts: tuple[float, ...] = _CONTRASTS if full else (1.0, 2.0)
    diameters: tuple[float, ...] = _DIAMETERS if full else (10.0, 20.0, 30.0)
    draws = _SURROGATES if null == "surrogate-max" else _DRAWS
    repeats = _REPEATS[null] if p["features"] == "intensity" else _REPEATS_LOCAL
    if context.quick:
        contrasts, diameters = (0.25, 2.0), (12.0,)
    for contrast in contrasts:
        for diameter in diameters:
            found = {"n": 0, "k": 0, "undecidable": 0}
            for k in range(3 if context.quick else repeats):
                sample = _sample(p["source"], p["organ"], k, context)
                # The same lesions for every null and every kind of feature.
                rng = np.random.default_rng(
                    [context.seed, _FRESH + k, int(100 * contrast), int(diameter), _ORGANS[p["source"], p["organ"]]]
                )
                made = _planted(sample, diameter, contrast, rng, dark=dark)
                if made is None:
                    continue
                seed = 100 * context.seed + k
                if cohort is not None:
                    value, floor = _cohort_p(sample, *made, cohort, dark, drawn="drawn" in p["null"])
                else:
                    ill = replace(sample, image=made[0])
                    features = judge.features_of(ill, p["features"], null)
                    side: Direction = "darker" if dark else "both"
                    result = judge.p_values(null, features, ill, [made[1]], seed=seed, draws=draws, direction=side)[0]
                    value, floor = result.p_value, result.floor if result.abstained is None else 1.0
                found["n"] += 1
                found["k"] += int(value <= 0.05)
                found["undecidable"] += int(floor > 0.05)
            grid[f"{contrast:g} SD, {diameter:g} mm"] = found
    return {"grid": grid}


def _settings(null: str, alpha: float, dark: bool) -> RejectionSettings:
    return RejectionSettings(
        alpha=alpha,
        null=cast(Null, null),
        direction="darker" if dark else "both",
        gates=GateSettings(enabled=False),
        tissue=TissueSettings(reference="plain"),
        placement_beside=False,
        n_draws=999 if null == "placement" else _DRAWS,
    )


def _scan(sample: TissueSample, image: npt.NDArray[np.float64]) -> tuple[Scan, LabelMap]:
    grid: Grid = sample.organ.grid
    return Scan(image, grid), LabelMap(sample.domain.astype(np.uint8), grid, {1: sample.name})


def _proposals(scan: Scan, organ: Mask, dark: bool) -> npt.NDArray[np.bool_]:
    side: Side = "dark" if dark else "both"
    return threshold_candidates(scan, organ, contrast=2.5, side=side, smoothing=3.0, minimum=8.0, margin=0.0).array


@lru_cache(maxsize=8)
def _cohort(organ: str, dark: bool, context: Context) -> CohortNull:
    """Scores of what the threshold segmenter invents in lesion-free phantoms."""
    scores = []
    for k in range(19 if context.quick else _COHORT):
        sample = phantom_organ(30_000 + 1000 * context.seed + k, organ, quick=context.quick)
        scan, anatomy = _scan(sample, sample.image)
        mask = Mask(_proposals(scan, sample.organ, dark), scan.grid)
        settings = _settings("cohort", 0.05, dark)
        found = candidate_scores(scan, mask, anatomy, settings) if mask.array.any() else np.empty(0)
        scores.append(found[np.isfinite(found)])
    return CohortNull(tuple(scores))


def _labels(truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_], grid: Grid) -> LabelMap:
    """Lesions are label 1, what is not a lesion label 2: components never mix the two."""
    near = ndimage.binary_dilation(truth, iterations=2)
    return LabelMap(truth.astype(np.uint8) + 2 * (found & ~near).astype(np.uint8), grid)


def _cohort_p(
    sample: TissueSample,
    image: npt.NDArray[np.float64],
    truth: npt.NDArray[np.bool_],
    cohort: CohortNull,
    dark: bool,
    *,
    drawn: bool,
) -> tuple[float, float]:
    """p-value of the lesion among what the segmenter proposes in the same scan; 1 where it did not draw it."""
    scan, anatomy = _scan(sample, image)
    found = _proposals(scan, sample.organ, dark)
    labels = _labels(truth, found, scan.grid)
    if drawn:
        own = np.logical_or.reduce([c for c in components(found) if _matches(c, truth)] or [np.zeros_like(found)])
        labels = LabelMap(own.astype(np.uint8) + 2 * (found & ~own).astype(np.uint8), scan.grid)
    judged = reject(scan, labels, anatomy=anatomy, cohort_null=cohort, settings=_settings("cohort", 0.05, dark))
    # A lesion that the edge of the organ cut into pieces counts by its largest piece.
    lesion = next((c for c in judged.candidates if c.label == 1), None)
    return (1.0 if lesion is None or lesion.p_value is None else lesion.p_value), cohort.floor


def _matches(candidate: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> bool:
    """Whether a candidate is a lesion: they share a tenth of what both cover."""
    return bool((candidate & truth).sum() >= 0.1 * (candidate | truth).sum())


def _fdr(p: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Scans with three lesions and several normal candidates, judged as a whole by `reject`."""
    null, dark = _plain(p["null"]), p["null"].endswith("dark")
    cohort = _cohort(p["organ"], dark, context) if null == "cohort" else None
    settings = _settings(null, _ALPHA, dark)
    shares, beside, kept_true, all_true, any_false = [], [], 0, 0, 0
    for k in range(3 if context.quick else _SCANS.get(null, _SCANS_OTHERS)):
        rng = np.random.default_rng([context.seed, _FRESH + k, 5])
        sample = _sample(p["source"], p["organ"], k, context)
        image, truth = _three_lesions(sample, rng, dark)
        scan, anatomy = _scan(sample, image)
        blind = null in ("placement", "iid")
        proposed = _blind_candidates(sample, truth, rng) if blind else _proposals(scan, sample.organ, dark)
        labels = _labels(truth, proposed, scan.grid)
        judged = reject(scan, labels, anatomy=anatomy, cohort_null=cohort, settings=settings, seed=context.seed)
        kept = [c.label for c in judged.of("kept")]
        false = kept.count(2)
        shares.append(false / len(kept) if kept else 0.0)
        if (p["source"], p["organ"], null) == ("phantom", "liver", "surrogate-max"):
            vessels = vessels_of(_phantom_seed(k, context), quick=context.quick)
            wrong = components(judged.kept.array & (labels.array == 2))
            other = sum(not is_vessel(candidate, vessels) for candidate in wrong)
            beside.append(other / len(kept) if kept else 0.0)
        any_false += int(false > 0)
        kept_true += kept.count(1)
        all_true += sum(c.label == 1 for c in judged.candidates)
    found = {
        "alpha": _ALPHA,
        "scans": len(shares),
        "fdr": round(float(np.mean(shares)), 4),
        "se": _standard_error(shares),
        "any_false": any_false,
        "kept_true": kept_true,
        "all_true": all_true,
    }
    if beside:
        # A vessel does differ from the tissue around it: counted as found rightly here, as false above.
        found |= {"fdr_beside_vessels": round(float(np.mean(beside)), 4), "se_beside_vessels": _standard_error(beside)}
    return found


def _standard_error(shares: list[float]) -> float:
    return round(float(np.std(shares, ddof=1) / np.sqrt(len(shares))), 4)


def _three_lesions(
    sample: TissueSample, rng: np.random.Generator, dark: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    image = sample.image
    truth = np.zeros(image.shape, dtype=bool)
    for _ in range(3):
        taken = ndimage.binary_dilation(truth, iterations=3)
        now = replace(sample, image=image)
        made = _planted(now, float(rng.uniform(8, 16)), float(rng.uniform(1.0, 3.0)), rng, taken, dark=dark)
        if made is not None:
            image, truth = made[0], truth | made[1]
    return image, truth


def _blind_candidates(
    sample: TissueSample, truth: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Up to seven separate balls of normal tissue at random places."""
    found = np.zeros(truth.shape, dtype=bool)
    for ball in _draw_balls(sample, rng):
        near = ndimage.binary_dilation(ball, iterations=2)
        if not (near & (found | ndimage.binary_dilation(truth, iterations=2))).any():
            found |= ball
    return found


def _draw_balls(sample: TissueSample, rng: np.random.Generator) -> Iterator[npt.NDArray[np.bool_]]:
    for _ in range(7):
        yield from random_places(sample, float(rng.uniform(8, 16)), 1, rng)


STUDY = Study(
    name="planted-lesions",
    question="Which planted lesions does each null find, by contrast and size, and what share of the kept is false?",
    cells=_cells,
    run=_run,
    summarise=planted_lesions_summary.summarise,
    tables=planted_lesions_summary.tables,
    figures=planted_lesions_summary.figures,
)
