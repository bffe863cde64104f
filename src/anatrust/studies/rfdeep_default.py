"""Study `rfdeep-default`: what a user without strange scans gets, on hippocampi and on hearts.

Nothing here is taught a tested shift: detectors learn from usual patients alone, or from changed copies of them
(`SYNTHETIC_OUTLIERS`), as `anatrust fit` does. Each patient is whole on one side: those not fitted on are tested as
they are and under every shift, so usual and strange scans are of the same people. *Mask* and *certainty* were chosen on
the 20 tuning patients of the hippocampus segmenter with other changes than the tested ones (boxes pasted from
elsewhere, swelling, smudging, signal loss, shuffled pieces); those patients are left out here, and the hearts were not
looked at. *Deep and mask* was added when the results of each alone had been seen. *Quality* and *parts* came when
hearts under noise and another grey-value curve were known to be missed; what they hold was chosen on those 20 patients
and on the eight hearts the heart's segmenter was trained on, under all kinds of shifts, and measured once on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.atomic import replacing
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.metrics import dice, label_lesions
from anatrust.ood.certainty import CERTAINTY_LEVELS, certainty
from anatrust.ood.crops import NoPrediction, anchored_crops
from anatrust.ood.detectors import make_detector
from anatrust.ood.features import Levels, ScanFeatures, describe
from anatrust.ood.mask_features import MaskFeatures
from anatrust.ood.quality_features import QualityFeatures
from anatrust.ood.screen import Screener, fit_screener
from anatrust.ood.splits import ScanKey
from anatrust.ood.synthetic import SYNTHETIC_OUTLIERS, shifted
from anatrust.statistics.conformal_p import conformal_p_value
from anatrust.studies import provenance
from anatrust.studies.intervals import allowance
from anatrust.studies.rfdeep_main import near_and_far
from anatrust.studies.rfdeep_methods import Placements, panel, settle
from anatrust.studies.rfdeep_scans import (
    CROPS,
    FAR,
    LESIONS,
    NEAR_LEVEL,
    STRENGTHS,
    SetName,
    Unit,
    before_and_after,
    data_files,
    far_scans,
    held_out_images,
    network,
    network_hash,
    packed,
    strength_of,
    unpacked,
)
from anatrust.studies.rfdeep_scores import at_ten_points, between, strength_at
from anatrust.studies.segmenters import HeldOutImage
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_CODE = (
    "anatrust.ood.certainty",
    "anatrust.ood.crops",
    "anatrust.ood.features",
    "anatrust.ood.logit_scores",
    "anatrust.ood.mask_features",
    "anatrust.ood.quality_features",
    "anatrust.ood.synthetic",
    "anatrust.models.descriptors",
    "anatrust.models.stage_features",
)
_NEEDS = (
    *_CODE,
    "anatrust.ood.combination",
    "anatrust.ood.detectors",
    "anatrust.ood.screen",
    "anatrust.studies.rfdeep_default",
    "anatrust.studies.rfdeep_scans",
)
_SIZES: Mapping[SetName, int] = {"hippocampus": 20, "cardiac": 14}
_MOST = 60  # hippocampus patients
_RATES = (0.05, 0.1, 0.2)
_TRIALS = 2_000  # re-splits of the calibration
_GROUPS = {"N": "normal", "HYP": "hypertrophy", "HF-I": "failure with infarct", "HF-NI": "failure without infarct"}


@dataclass(frozen=True)
class _Recipe:
    """Features and detectors; several are combined by rank, as `fit_screener` does."""

    features: tuple[str, ...]
    detectors: tuple[str, ...]

    @property
    def copies(self) -> bool:
        return "forest" in self.detectors


_RECIPES: Mapping[str, _Recipe] = {
    "forest, deep, changed copies": _Recipe(("deep",), ("forest",)),
    "both, deep and mask, changed copies": _Recipe(("deep", "mask"), ("forest", "mahalanobis")),
    "Mahalanobis, deep": _Recipe(("deep",), ("mahalanobis",)),
    "Mahalanobis, certainty": _Recipe(("certainty",), ("mahalanobis",)),
    "Mahalanobis, mask": _Recipe(("mask",), ("mahalanobis",)),
    "Mahalanobis, quality": _Recipe(("quality",), ("mahalanobis",)),
    "Mahalanobis, mask and certainty": _Recipe(("mask", "certainty"), ("mahalanobis",)),
    "Mahalanobis, deep and mask": _Recipe(("deep", "mask"), ("mahalanobis",)),
    "Mahalanobis, mask and quality": _Recipe(("mask", "quality"), ("mahalanobis",)),
    "parts, mask and quality": _Recipe(("mask", "quality"), ("parts",)),
    "parts, deep, mask and quality": _Recipe(("deep", "mask", "quality"), ("parts",)),
}
_TAKEN = ("parts, mask and quality", "parts, deep, mask and quality")
"""What `fit` does by default, and with a network and `+mask+quality`."""


_TEN_POINTS: Mapping[SetName, Mapping[str, int]] = {
    "hippocampus": {"blur": 4, "thick": 3, "contrast": 3, "lesion": 4},
    "cardiac": {"noise": 3, "bias": 4, "blur": 4, "thick": 4, "remap": 3, "lesion": 4},
}
"""The level by which a shift has cost the segmenter ten Dice points, as `rfdeep-main` found."""


def _datasets(name: SetName, quick: bool) -> tuple[str, ...]:
    """Usual scans, changed copies to learn from, far scans, shifts at the compared level and around ten points."""
    asked = {f"{kind} {NEAR_LEVEL}" for kind in (("noise", "lesion") if quick else STRENGTHS)}
    if not quick:
        asked |= {f"{kind} {at}" for kind, high in _TEN_POINTS[name].items() for at in (high - 1, high)}
        asked |= {f"{kind} {at}" for kind in LESIONS for at in (1, 2, 3, 4)}
    return ("usual", "copies", *FAR, *sorted(asked, reverse=True))


def _images(name: SetName, data: Path, quick: bool) -> tuple[HeldOutImage, ...]:
    """Images of the patients who are asked; hippocampus patients on whom the recipe was chosen are not."""
    images = held_out_images(name, data, quick)
    return images if name == "cardiac" else tuple(image for image in images if image.part == "pool")[:_MOST]


def _scans(
    name: SetName, dataset: str, data: Path, quick: bool
) -> list[tuple[ScanKey, Scan, npt.NDArray[Any] | None, str]]:
    if dataset in FAR:
        return far_scans(name, dataset, data, quick)
    kind = dataset.rpartition(" ")[0]
    found: list[tuple[ScanKey, Scan, npt.NDArray[Any] | None, str]] = []
    for number, image in enumerate(_images(name, data, quick)):
        scan, truth = image.scan, image.labels
        marks = LabelMap(np.asarray(truth > 0, dtype=np.uint8), scan.grid)
        if dataset == "copies":
            how = list(SYNTHETIC_OUTLIERS)[number % len(SYNTHETIC_OUTLIERS)]
            scan = shifted(scan, marks, how, SYNTHETIC_OUTLIERS[how])[0]
        elif (strength := strength_of(dataset)) is not None:
            scan = shifted(scan, marks, kind, strength)[0]
        found.append((ScanKey(dataset, image.patient, image.key), scan, truth, image.group))
    return found


def _units(name: SetName, dataset: str, data: Path, quick: bool) -> list[Unit]:
    """The scans of a data set, segmented and described; made once and kept."""
    identity = {
        "set": name,
        "dataset": dataset,
        "quick": quick,
        "strength": strength_of(dataset),
        "source": provenance.source_hash((*_CODE, "anatrust.studies.rfdeep_scans")),
        "network": network_hash(name, data, quick),
        "images": [image.key for image in _images(name, data, quick)],
    }
    stem = f"default-{name}-{dataset}-{provenance.fingerprint(identity)}".replace(" ", "-")
    file = Path("build/studies/rfdeep") / f"{stem}.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = [_unit(name, *scan, network(name, data, quick)) for scan in _scans(name, dataset, data, quick)]
        with replacing(file) as part, part.open("wb") as handle:
            np.savez(handle, **packed(made))  # type: ignore[arg-type]
    with np.load(file, allow_pickle=False) as kept:
        return unpacked(dict(kept))


def _unit(
    name: SetName, key: ScanKey, scan: Scan, truth: npt.NDArray[Any] | None, group: str, tools: tuple[Any, Any]
) -> Unit:
    import torch

    from anatrust.models.unet import normalised

    model, stages = tools
    with torch.inference_mode():
        soft = model(torch.from_numpy(normalised(scan.array))[None, None])[0].float().softmax(0).numpy()
    array = soft.argmax(axis=0) > 0
    mask = Mask(array, scan.grid)
    score = None if truth is None else float(dice(truth > 0, array))
    features: dict[str, npt.NDArray[np.float32]] = {}
    levels: dict[str, Levels] = {}
    identifier = f"{key.dataset}/{key.patient}/{key.scan}"
    drawn = anchored_crops(scan, mask, CROPS[name], identifier=identifier)
    local = MaskFeatures(intensity="percentile").of(scan, mask, identifier=identifier)
    if not isinstance(drawn, NoPrediction) and not isinstance(local, NoPrediction):
        deep = before_and_after(describe(drawn, stages))[0]
        unsure = certainty(ProbabilityMap(np.clip(soft, 0, 1), scan.grid, model.config.classes), mask)
        frame = QualityFeatures().of(scan, identifier=identifier)
        features = {"deep": deep.values, "mask": local.values, "certainty": unsure[None], "quality": frame.values}
        levels = {
            "deep": deep.levels,
            "mask": local.levels,
            "certainty": CERTAINTY_LEVELS,
            "quality": frame.levels,
        }
    components = int(label_lesions(array).max())
    return Unit(key, features, levels, np.zeros(0), score, int(array.sum()), components, group)


@cache
def _known(name: SetName, data: Path, quick: bool) -> Mapping[str, list[Unit]]:
    return {d: [u for u in _units(name, d, data, quick) if not u.empty] for d in _datasets(name, quick)}


def _joined(unit: Unit, recipe: _Recipe) -> ScanFeatures:
    """The recipe's features side by side, those of the whole scan repeated for each crop."""
    rows = max(len(unit.features[kind]) for kind in recipe.features)
    parts = [np.broadcast_to(v, (rows, v.shape[1])) for kind in recipe.features for v in (unit.features[kind],)]
    levels = tuple((f"{kind}: {name}", width) for kind in recipe.features for name, width in unit.levels[kind])
    return ScanFeatures(f"{unit.key}", np.concatenate(parts, axis=1), levels, " + ".join(recipe.features))


def _fitted(
    recipe: _Recipe, known: Mapping[str, list[Unit]], people: Sequence[str], seed: int, quick: bool
) -> Screener:
    """As `anatrust fit` would, with one changed copy of each scan fitted on."""
    usual, copies = ([u for u in known[d] if u.key.patient in set(people)] for d in ("usual", "copies"))
    settings: Mapping[str, Mapping[str, Any]] = {
        "forest": {"trees": 50 if quick else 300, "jobs": 1},
        "mahalanobis": {"normalise": "zscore"},
    }
    judges = [make_detector(d, **settings.get(d, {})) for d in recipe.detectors]
    strange = [_joined(u, recipe) for u in copies] if recipe.copies else []
    return fit_screener(judges, [_joined(u, recipe) for u in usual], [u.key.patient for u in usual], strange, seed=seed)


def _people(known: Mapping[str, list[Unit]], seed: int, number: int) -> list[str]:
    names = sorted({u.key.patient for u in known["usual"]})
    return [names[i] for i in np.random.default_rng([seed, number]).permutation(len(names))]


def _cells(context: Context) -> list[Cell]:
    sets: tuple[SetName, ...] = ("hippocampus",) if context.quick else ("hippocampus", "cardiac")
    cells = []
    for name in sets:
        files = data_files(name, context.path(), quick=context.quick)
        cells += [
            Cell(f"scans/{name}/{dataset}", {"set": name, "dataset": dataset}, files=files, needs=_NEEDS)
            for dataset in _datasets(name, context.quick)
        ]
        for recipe in _RECIPES if not context.quick else (_TAKEN[0], "forest, deep, changed copies"):
            full = 20 if _RECIPES[recipe].copies else 100
            parameters = {"set": name, "recipe": recipe, "resplits": 2 if context.quick else full}
            cells.append(Cell(f"resplits/{name}/{recipe}", parameters, files=files, needs=_NEEDS))
        if name == "cardiac":
            for recipe in ("Mahalanobis, deep", *_TAKEN):
                parameters = {"set": name, "recipe": recipe, "resplits": 100}
                cells.append(Cell(f"groups/{name}/{recipe}", parameters, files=files, needs=_NEEDS))
    parameters = {"set": "hippocampus", "recipe": _TAKEN[0], "resplits": 4 if context.quick else _TRIALS}
    files = data_files("hippocampus", context.path(), quick=context.quick)
    return [*cells, Cell("validity/hippocampus", parameters, files=files, needs=_NEEDS)]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    if "dataset" in p:
        found = _units(p["set"], p["dataset"], context.path(), context.quick)
        scored: dict[str, list[float]] = {}
        for unit in found:
            if unit.dice is not None:
                scored.setdefault(unit.key.patient, []).append(unit.dice)
        mean = round(float(np.mean([np.mean(v) for v in scored.values()])), 4) if scored else None
        empty = sum(u.empty for u in found)
        return {"scans": len(found), "patients": len({u.key.patient for u in found}), "empty": empty, "dice": mean}
    known, recipe = _known(p["set"], context.path(), context.quick), _RECIPES[p["recipe"]]
    if cell.key.startswith("validity"):
        return _validity(known, recipe, p["resplits"], context)
    if cell.key.startswith("groups"):
        return _groups(known, recipe, p["resplits"], context)
    fit = 6 if context.quick else _SIZES[p["set"]]
    panels: dict[str, list[dict[str, float]]] = {}
    placements = {f"near {NEAR_LEVEL}": Placements(), "far": Placements(), "lesion 4": Placements()}
    for number in range(p["resplits"]):
        people = _people(known, context.seed, number)
        screener = _fitted(recipe, known, people[:fit], number, context.quick)
        tested = set(people[fit:])
        asked = {d: [u for u in rows if d in FAR or u.key.patient in tested] for d, rows in known.items()}
        del asked["copies"]
        made = {d: screener.abnormality([_joined(u, recipe) for u in rows]) for d, rows in asked.items()}
        strange = [d for d in made if d != "usual"]
        pooled = near_and_far([d for d in strange if d.rpartition(" ")[0] not in LESIONS])
        for group, members in ({d: [d] for d in strange} | pooled).items():
            outside = np.concatenate([made[m] for m in members])
            panels.setdefault(group, []).append(panel(made["usual"], outside))
            if group in placements:
                whose = [u.key.patient for m in members for u in asked[m]]
                placements[group].add(made["usual"], outside, [u.key.patient for u in asked["usual"]], whose)
    return {
        "rows": {g: {m: settle([row[m] for row in rows]) for m in ("auroc", "fpr95")} for g, rows in panels.items()},
        "intervals": {g: own.interval(seed=context.seed) for g, own in placements.items() if own.outside},
    }


def _validity(known: Mapping[str, list[Unit]], recipe: _Recipe, resplits: int, context: Context) -> Mapping[str, Any]:
    """How often a usual patient gets p ≤ t, drawn at random with those fitted and calibrated on."""
    fit, n = (4, 5) if context.quick else (20, 19)
    by_patient = {u.key.patient: u for u in known["usual"]}
    values = []
    for number in range(resplits):
        people = _people(known, context.seed + 9, number)
        screener = _fitted(recipe, known, people[:fit], number, context.quick)
        scores = screener.abnormality([_joined(by_patient[p], recipe) for p in people[fit : fit + n + 1]])
        values.append(float(conformal_p_value(np.sort(scores[:n]), float(scores[n]))))
    shares = {str(t): round(float(np.mean([v <= t + 1e-9 for v in values])), 4) for t in _RATES}
    return {"calibration": n, "resplits": resplits, "shares": shares}


def _groups(known: Mapping[str, list[Unit]], recipe: _Recipe, resplits: int, context: Context) -> Mapping[str, Any]:
    """A pathology group as strange, told from patients of the other groups that were not fitted on either."""
    group_of = {u.key.patient: u.group for u in known["usual"]}
    found: dict[str, list[float]] = {}
    for group in _GROUPS:
        for number in range(resplits):
            others = [p for p in _people(known, context.seed + 5, number) if group_of[p] != group]
            fit = round(0.65 * len(others))
            screener = _fitted(recipe, known, others[:fit], number, context.quick)
            usual = [u for u in known["usual"] if u.key.patient in others[fit:]]
            strange = [u for u in known["usual"] if group_of[u.key.patient] == group]
            sides = [screener.abnormality([_joined(u, recipe) for u in rows]) for rows in (usual, strange)]
            found.setdefault(group, []).append(panel(*sides)["auroc"])
    counts = {g: sum(own == g for own in group_of.values()) for g in _GROUPS}
    return {g: {"auroc": settle(rows), "patients": counts[g]} for g, rows in found.items()}


def _lost(results: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float]:
    """Dice points each shift costs; the same patients with and without it."""
    scans = {k.rpartition("/")[2]: v for k, v in results.items() if k.startswith(f"scans/{name}/")}
    usual = scans["usual"]["dice"]
    return {d: round(100 * (usual - own["dice"]), 2) for d, own in scans.items() if strength_of(d) is not None}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    del context
    summary: dict[str, Any] = {"targets": []}
    for name in ("hippocampus", "cardiac"):
        if f"scans/{name}/usual" not in results:
            continue
        lost = _lost(results, name)
        reached = {k: place for k in (*STRENGTHS, *LESIONS) if (place := at_ten_points(k, lost)) is not None}
        own = {k.split("/", 2)[2]: v for k, v in results.items() if k.startswith(f"resplits/{name}/")}
        ten = {r: {k: round(between(v["rows"], k, at), 4) for k, at in reached.items()} for r, v in own.items()}
        summary[name] = {"dice_lost": lost, "at_ten_points": ten}
        # Only what we recommend is held to the targets; its rivals stand beside it in the table of detectors.
        for recipe in (r for r in own if r in _TAKEN):
            value = own[recipe]["rows"]["far"]["auroc"]["mean"]
            summary["targets"].append(_target(f"{name}: {recipe}: far", ">= 0.99", value, value >= 0.99))
            for kind, value in ten[recipe].items():
                where = f"where the segmenter has lost 10 points ({strength_at(kind, reached):.3g})"
                what = f"{name}: {recipe}: {kind} {where}"
                summary["targets"].append(_target(what, ">= 0.93", value, value >= 0.93))
    found = results["validity/hippocampus"]
    for t, share in found["shares"].items():
        lowest = np.floor(float(t) * (found["calibration"] + 1) + 1e-9) / (found["calibration"] + 1)
        slack = allowance(float(t), found["resplits"]) - float(t)
        words = f"{lowest:.2f} - {slack:.3f} to {float(t):.2f} + {slack:.3f}"
        good = bool(lowest - slack <= share <= float(t) + slack)
        summary["targets"].append(_target(f"hippocampus: {_TAKEN[0]}: P(p <= {t})", words, share, good))
    return summary


def _target(what: str, required: str, observed: float, met: bool) -> dict[str, Any]:
    return {"what": what, "required": required, "observed": observed, "met": met}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    made = {}
    cells = result["cells"]
    for name in ("hippocampus", "cardiac"):
        own = {k.split("/", 2)[2]: v for k, v in cells.items() if k.startswith(f"resplits/{name}/")}
        if not own:
            continue
        ten = result["summary"][name]["at_ten_points"]
        kinds = list(next(iter(ten.values())))
        rows = []
        for recipe, found in own.items():
            near, low = found["rows"][f"near {NEAR_LEVEL}"], found["intervals"][f"near {NEAR_LEVEL}"]
            rows.append(
                [
                    recipe,
                    f"{near['auroc']['mean']:.3f} ({low[0]:.2f}–{low[1]:.2f})",
                    f"{near['fpr95']['mean']:.2f}",
                    f"{found['rows']['far']['auroc']['mean']:.3f}",
                    *(f"{ten[recipe][kind]:.3f}" for kind in kinds),
                ]
            )
        heads = ["detector", f"near {NEAR_LEVEL} (95 % over patients)", "FPR95", "far"]
        made[name] = markdown_table([*heads, *(f"{kind} at 10 points" for kind in kinds)], rows)
    groups = {k.split("/", 2)[2]: v for k, v in cells.items() if k.startswith("groups/")}
    if groups:
        rows = []
        for group, words in _GROUPS.items():
            cellsof = [v[group] for v in groups.values()]
            numbers = [f"{v['auroc']['mean']:.2f} ({v['auroc']['low']:.2f}–{v['auroc']['high']:.2f})" for v in cellsof]
            rows.append([words, cellsof[0]["patients"], *numbers])
        made["groups"] = markdown_table(["group held out", "patients", *groups], rows)
    targets = result["summary"]["targets"]
    rows = [[t["what"], t["required"], f"{t['observed']:.3f}", "yes" if t["met"] else "**no**"] for t in targets]
    made["targets"] = markdown_table(["target", "required", "observed", "met"], rows)
    return made


STUDY = Study(
    name="rfdeep-default",
    question="What finds shifts that nothing was taught, in few patients too?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
