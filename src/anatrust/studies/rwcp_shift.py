"""Study `rwcp-shift`: what a profile is worth on other scans, other patients and another anatomy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.volumes import Scan
from anatrust.statistics.loss_curves import LossCurve, outer_loss_curve, quantise
from anatrust.statistics.risk_control import conformal_threshold, weighted_threshold
from anatrust.studies.rwcp_cases import NEEDS, calibration_size, units
from anatrust.studies.rwcp_resplits import calibration_draws, mean_and_error, resplit_thresholds
from anatrust.studies.segmenters import HeldOutImage, held_out, unet
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_Floats = npt.NDArray[np.float64]
_ALPHA = 0.1
_SHIFTS = ("none", "noise", "contrast", "resolution")


def _cells(context: Context) -> list[Cell]:
    needs = (*NEEDS, "anatrust.studies.rwcp_shift", "anatrust.statistics.risk_control")
    strong = [u for u in units(context) if u.label == 1 and (u.strength == "strong" or context.quick)]
    return [Cell(u.key, {"set": u.image_set, "strength": u.strength}, u.files(context), needs) for u in strong]


def _shifted(image: HeldOutImage, kind: str) -> npt.NDArray[np.float32]:
    """The scan as a worse or other scanner would give it."""
    array = image.scan.array.astype(np.float32)
    low, high = np.percentile(array, (1, 99))
    if kind == "noise":
        rng = np.random.default_rng([3, *image.key.encode()])
        return array + np.asarray(0.15 * (high - low) * rng.normal(size=array.shape), dtype=np.float32)
    if kind == "contrast":
        scaled = np.clip((array - low) / max(high - low, 1e-6), 0, None)
        return np.asarray(scaled**0.5, dtype=np.float32)
    smooth = ndimage.gaussian_filter(array, 1.0)
    for axis in range(array.ndim):  # every second sample is kept and shown twice
        smooth = np.repeat(np.take(smooth, range(0, array.shape[axis], 2), axis=axis), 2, axis=axis)
        smooth = np.take(smooth, range(array.shape[axis]), axis=axis)
    return np.asarray(smooth, dtype=np.float32)


Curves = dict[str, dict[str, LossCurve]]  # class name → patient → curve


def _curves(
    images: Sequence[HeldOutImage], probabilities: Sequence[npt.NDArray[Any]], classes: Sequence[str]
) -> Curves:
    found: Curves = {}
    for label, name in enumerate(classes[1:], start=1):
        pairs: dict[str, list[Any]] = {}
        for image, p in zip(images, probabilities, strict=True):
            pairs.setdefault(image.patient, []).append((quantise(p[label]), image.labels == label))
        made = {patient: outer_loss_curve(own) for patient, own in pairs.items()}
        found[name] = {patient: curve for patient, curve in made.items() if curve is not None}
    return found


def _covariates(images: Sequence[HeldOutImage], probabilities: Sequence[npt.NDArray[Any]]) -> dict[str, _Floats]:
    """What is seen of a patient without truth: confidence, indecision and log size of the prediction, image noise."""
    rows: dict[str, list[list[float]]] = {}
    for image, p in zip(images, probabilities, strict=True):
        front = 1 - p[0].astype(np.float64)
        array = image.scan.array.astype(np.float64)
        noise = np.median(np.abs(array - ndimage.gaussian_filter(array, 1.0))) / (array.std() + 1e-9)
        inside = front[front > 0.5]
        confidence = float(inside.mean()) if inside.size else 0.5
        rows.setdefault(image.patient, []).append(
            [confidence, float(np.minimum(front, 1 - front).sum() / (front.sum() + 1)), np.log(front.sum() + 1), noise]
        )
    return {patient: np.mean(own, axis=0) for patient, own in rows.items()}


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.unet import UNetSegmenter

    p = cell.parameters
    name, strength = p["set"], p["strength"]
    segmenter = UNetSegmenter(unet(name, strength, context.path(), quick=context.quick))
    everything = held_out(name, strength, context.path(), quick=context.quick)
    classes = segmenter.model.config.classes
    splits = 100 if context.quick else 1000
    made: dict[str, Any] = {}
    for kind in _SHIFTS[:2] if context.quick else _SHIFTS:
        images, soft = list(everything), [image.probabilities for image in everything]
        if kind != "none":
            scans = [Scan(_shifted(i, kind), i.scan.grid, i.scan.modality) for i in everything]
            images = [replace(i, scan=scan) for i, scan in zip(everything, scans, strict=True)]
            soft = [segmenter.predict(scan).array for scan in scans]
        made[kind] = {"images": images, "soft": soft}
    clean = made["none"]
    pool = [k for k, image in enumerate(everything) if image.part == "pool"]
    result: dict[str, Any] = {"shifts": {}}
    base = _curves([clean["images"][k] for k in pool], [clean["soft"][k] for k in pool], classes)
    for kind, own in made.items():
        there = _curves([own["images"][k] for k in pool], [own["soft"][k] for k in pool], classes)
        rows = {}
        for structure in classes[1:]:
            rows[structure] = _transferred(base[structure], there[structure], splits, context.seed)
            if kind != "none":
                weights = _ratios(clean, own, list(base[structure]))
                rows[structure]["weighted"] = _weighted(
                    base[structure], there[structure], *weights, context.seed, 4 if context.quick else 20
                )
        result["shifts"][kind] = rows
    result["case mix"] = {s: _case_mix(base[s], clean, context) for s in classes[1:]}
    if name == "cardiac":
        result["other part"] = _other_part(base[classes[1]], context)
    elif len(classes) > 2:
        one, two = classes[1], classes[2]
        result["other anatomy"] = {
            f"{one} → {two}": _transferred(base[one], base[two], splits, context.seed),
            f"{two} → {one}": _transferred(base[two], base[one], splits, context.seed),
        }
    return result


def _transferred(
    here: Mapping[str, LossCurve], there: Mapping[str, LossCurve], splits: int, seed: int
) -> dict[str, Any]:
    """Thresholds of these losses' re-splits applied to the others' test patients."""
    patients = [p for p in here if p in there]
    n = calibration_size(len(patients))
    draws = calibration_draws(len(patients), n, splits, seed)
    thresholds, _ = resplit_thresholds([here[p] for p in patients], draws, _ALPHA, safe="low")
    values, place = np.unique(thresholds, return_inverse=True)
    table = np.array([[there[p].at(int(q)) for p in patients] for q in values])
    losses = table[place]
    return {"n": n, **mean_and_error((losses * ~draws).sum(axis=0) / (~draws).sum(axis=0))}


def _ratios(clean: Mapping[str, Any], own: Mapping[str, Any], patients: Sequence[str]) -> tuple[_Floats, _Floats]:
    """Likelihood ratios shifted/clean of the pool's clean and shifted scans, learnt on the tuning patients."""
    from sklearn.linear_model import LogisticRegression

    before, after = (_covariates(m["images"], m["soft"]) for m in (clean, own))
    tuning = [i.patient for i in clean["images"] if i.part == "tuning"]
    known = list(dict.fromkeys(tuning))
    x = np.array([before[p] for p in known] + [after[p] for p in known])
    middle, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    model = LogisticRegression(C=0.3).fit((x - middle) / spread, [0] * len(known) + [1] * len(known))

    def ratio(rows: Mapping[str, _Floats]) -> _Floats:
        shares = model.predict_proba((np.array([rows[p] for p in patients]) - middle) / spread)[:, 1]
        return np.asarray(shares / (1 - shares), dtype=np.float64)

    return ratio(before), ratio(after)


def _weighted(
    here: Mapping[str, LossCurve],
    there: Mapping[str, LossCurve],
    w_here: _Floats,
    w_there: _Floats,
    seed: int,
    splits: int,
) -> dict[str, Any]:
    """Weighted thresholds, one a test patient; fewer re-splits, for each test patient has a threshold of its own."""
    patients = list(here)
    curves = [here[p] for p in patients]
    draws = calibration_draws(len(patients), calibration_size(len(patients)), splits, seed)
    losses = np.full(draws.shape, np.nan)
    infeasible, sizes = [], []
    for row, draw in enumerate(draws):
        chosen = np.flatnonzero(draw)
        sizes.append(w_here[chosen].sum() ** 2 / (w_here[chosen] ** 2).sum())
        for k in np.flatnonzero(~draw):
            found = weighted_threshold([curves[i] for i in chosen], w_here[chosen], w_there[k], _ALPHA, safe="low")
            infeasible.append(not found.feasible)
            if found.feasible:  # an infeasible set is the whole image; it must not count as a success
                losses[row, k] = there[patients[k]].at(found.threshold)
    seen = np.isfinite(losses).any(axis=0)
    numbers = mean_and_error(np.nanmean(losses[:, seen], axis=0)) if seen.any() else {"mean": None, "se": None}
    return {**numbers, "infeasible": round(float(np.mean(infeasible)), 3), "effective": round(float(np.mean(sizes)), 1)}


def _case_mix(curves: Mapping[str, LossCurve], clean: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Another mix of the same patients: those of small predictions are drawn more often, by known weights."""
    seen = _covariates(clean["images"], clean["soft"])
    patients = list(curves)
    size = np.array([seen[p][2] for p in patients])
    w = np.exp(-1.0 * (size - size.mean()) / (size.std() + 1e-9))
    splits = 20 if context.quick else 100
    draws = calibration_draws(len(patients), calibration_size(len(patients)), splits, context.seed)
    plain, weighted, infeasible = [], [], 0.0
    for draw in draws:
        chosen, tested = np.flatnonzero(draw), np.flatnonzero(~draw)
        own = [curves[patients[i]] for i in chosen]
        common = conformal_threshold(own, _ALPHA, safe="low").threshold
        share = w[tested] / w[tested].sum()
        plain.append(float(share @ [curves[patients[k]].at(common) for k in tested]))
        found = [weighted_threshold(own, w[chosen], w[k], _ALPHA, safe="low") for k in tested]
        own_losses = [curves[patients[k]].at(f.threshold) for k, f in zip(tested, found, strict=True)]
        weighted.append(float(share @ own_losses))
        infeasible += float(share @ [not f.feasible for f in found]) / splits
    return {
        "plain": round(float(np.mean(plain)), 4),
        "weighted": round(float(np.mean(weighted)), 4),
        "se": round(float(np.std(plain) / np.sqrt(len(patients) / (~draws[0]).sum())), 4),
        "infeasible": round(infeasible, 3),
        "effective": round(float(w.sum() ** 2 / (w**2).sum()), 1),
    }


def _other_part(curves: Mapping[str, LossCurve], context: Context) -> dict[str, Any]:
    """Calibrated on the patients of one part of the collection, tested on those of the other."""
    from anatrust.studies.segmenters import image_set

    files = image_set("cardiac", context.path(), quick=context.quick).files
    parts = {p: files[p][0][0].split("/")[1] for p in curves}
    result = {}
    for here, there in (("part1", "part2"), ("part2", "part1")):
        own = [curves[p] for p in curves if parts[p] == here]
        other = [curves[p] for p in curves if parts[p] == there]
        for alpha in (0.1, 0.2):
            row: dict[str, Any] = {"n": len(own), "tested": len(other)}
            found = conformal_threshold(own, alpha, safe="low")
            row |= mean_and_error([c.at(found.threshold) for c in other]) if found.feasible else {"infeasible": True}
            result[f"{here} → {there}, α = {alpha:g}"] = row
    return result


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    targets = []
    for key, found in results.items():
        for structure, row in found["shifts"]["none"].items():
            met = row["mean"] <= _ALPHA + 2 * row["se"]
            targets.append({"what": f"{key}: without shift the promise holds for {structure}", "met": bool(met)})
        for structure, row in found["case mix"].items():
            met = row["weighted"] <= _ALPHA + 2 * row["se"]
            targets.append({"what": f"{key}: known weights keep the promise for {structure}", "met": bool(met)})
    return {"targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows, mix, others = [], [], []
    for key, found in sorted(result["cells"].items()):
        where = key.rsplit("/", 1)[0]
        for kind in (k for k in _SHIFTS if k in found["shifts"]):
            for structure, row in found["shifts"][kind].items():
                w = row.get("weighted")
                own = ["–", "–", "–"]
                if w:
                    mean = "–" if w["mean"] is None else f"{w['mean']:.3f} ± {w['se']:.3f}"
                    own = [mean, f"{100 * w['infeasible']:.0f} %", f"{w['effective']:.1f} of {row['n']}"]
                rows.append([f"{where}, {structure}, {kind}", row["n"], f"{row['mean']:.3f} ± {row['se']:.3f}", *own])
        for structure, row in found["case mix"].items():
            numbers = [f"{row['plain']:.3f}", f"{row['weighted']:.3f}", f"{100 * row['infeasible']:.0f} %"]
            mix.append([f"{where}, {structure}", *numbers, f"{row['effective']:.1f}"])
        for part in ("other part", "other anatomy"):
            for what, row in found.get(part, {}).items():
                mean = "infeasible" if "infeasible" in row else f"{row['mean']:.3f} ± {row['se']:.3f}"
                others.append([f"{where}: {what}", row["n"], mean])
    weights = ["with learnt weights (feasible scans)", "infeasible scans", "effective sample size"]
    targets = [[t["what"], t["met"]] for t in result["summary"]["targets"]]
    return {
        "scans": markdown_table([f"outer set, α = {_ALPHA:g}", "n", "mean missed share", *weights], rows),
        "mix": markdown_table(
            ["more small structures than at calibration", "without weights", "with known weights",
             "infeasible", "effective sample size"], mix,
        ),
        "others": markdown_table(["calibrated on → used on", "n", "mean missed share"], others),
        "targets": markdown_table(["target", "met"], targets),
    }  # fmt: skip


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels = []
    for key, found in sorted(result["cells"].items()):
        kinds = [kind for kind in _SHIFTS if kind in found["shifts"]]  # a JSON's keys are sorted
        bars = {}
        for structure in found["shifts"]["none"]:
            rows = [found["shifts"][kind][structure] for kind in kinds]
            bars[structure] = {
                "y": kinds,
                "x": [row["mean"] for row in rows],
                "error": [[row["mean"] - 2 * row["se"], row["mean"] + 2 * row["se"]] for row in rows],
            }
        panels.append({"title": key.rsplit("/", 1)[0], "bars": bars})
    return {"scans": {"panels": panels, "xlabel": f"mean missed share (promised: {_ALPHA:g})", "ylabel": ""}}


STUDY = Study(
    name="rwcp-shift",
    question="What is left of the promise on noisy, coarse and other scans, other patients and another anatomy?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
