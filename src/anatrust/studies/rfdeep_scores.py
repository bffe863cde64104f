"""Study `rfdeep-scores`: the score of every scan by every detector and re-split; what finds a local change.

A bright ball in an otherwise usual scan changes little of a crop's averages. Two ways to see more with nothing new to
learn from: the forest reads the crops' histogram beside their deep features (*deep and histogram*), or detectors of
three kinds of evidence are combined by the mean of their ranks among the usual scans fitted on, each left out in turn
(*together*: deep forest, histogram forest, the segmenter's entropy). The first was preferred by leaving patients out
among the fit patients of four re-splits; the members of the second are one of each kind the study has at every
strength. Neither was chosen by the numbers below. Detectors are taught 20 strange scans of all kinds; *taught lesions*
ones 20 scans with a lesion of the third size instead (RF-Deep's data-set-specific regime).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu

from anatrust.metrics import auroc
from anatrust.ood.combination import RankAverage
from anatrust.ood.splits import ScanKey, ScreeningSplit
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.rfdeep_lodo import cheaper
from anatrust.studies.rfdeep_main import NEEDS, all_datasets, every_unit, sizes
from anatrust.studies.rfdeep_methods import Method, Placements, resplit, scores, settle
from anatrust.studies.rfdeep_scans import FAR, NEAR_LEVEL, STRENGTHS, Unit, data_files, strength_of, units
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "at_ten_points", "between", "strength_at"]

JOINT, TOGETHER = "forest, deep and histogram", "together"
_LESIONS = {"forest, deep, taught lesions": "forest, deep", f"{JOINT}, taught lesions": JOINT}
_MEMBERS = ("forest, deep", "forest, histogram", "entropy mean")
_ALONE = ("logistic, deep", "Mahalanobis, deep", "kNN, deep", "Mahalanobis, histogram")
_LOGITS = ("msp mean", "maxlogit mean", "energy mean")
_NAMES = ("forest, deep", JOINT, TOGETHER, "forest, histogram", "entropy mean", *_ALONE, *_LOGITS, *_LESIONS)
_COLUMNS = ("run", "dataset", "patient", "scan", "dice", "volume", "components", *_NAMES)
_FOLDS = 4
_POINTS = 10.0


def _cells(context: Context) -> list[Cell]:
    files = data_files("hippocampus", context.path(), quick=context.quick)
    needs = (*NEEDS, "anatrust.studies.rfdeep_scores", "anatrust.studies.rfdeep_lodo", "anatrust.ood.combination")
    return [
        Cell("cost", {}, files=files, needs=needs),
        *(Cell(f"run {n}", {"run": n}, files=files, needs=needs) for n in range(2 if context.quick else 10)),
    ]


def _joint(known: Mapping[ScanKey, Unit]) -> dict[ScanKey, Unit]:
    """Units with a prediction, deep features and histograms side by side crop by crop."""
    found = {}
    for key, unit in known.items():
        if not unit.empty:
            pair = unit.features["deep"], unit.features["histogram"]
            features = {**unit.features, "joint": np.concatenate(pair, axis=1)}
            levels = {**unit.levels, "joint": (*unit.levels["deep"], *unit.levels["histogram"])}
            found[key] = replace(unit, features=features, levels=levels)
    return found


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    if cell.key == "cost":
        return _cost(context)
    known = _joint(every_unit("hippocampus", context.path(), context.quick))
    fit, strange = sizes("hippocampus", context.quick)
    split = resplit(known, seed=context.seed * 100_000 + cell.parameters["run"], fit=fit, fit_outside=strange)
    plain = [name for name in _NAMES if name not in (JOINT, TOGETHER, *_LESIONS)]
    methods = {name: cheaper(name, quick=context.quick) for name in plain}
    methods[JOINT] = replace(methods["forest, deep"], name=JOINT, kind="joint")
    made = {name: scores(method, split, known) for name, method in methods.items()}
    taught = f"lesion {NEAR_LEVEL}" if f"lesion {NEAR_LEVEL}" in split.outside_fit else next(iter(split.outside_fit))
    one = replace(split, outside_fit={taught: split.outside_fit[taught]})
    made |= {name: scores(methods[usual], one, known) for name, usual in _LESIONS.items()}
    sets = list(split.outside_test)
    inside = {name: found.inside[sets[0]] for name, found in made.items()}
    outside = {name: found.outside for name, found in made.items()}
    average = RankAverage(np.array([_left_out(methods[name], split, known) for name in _MEMBERS]))
    inside[TOGETHER] = average.of([inside[name] for name in _MEMBERS])
    outside[TOGETHER] = {d: average.of([outside[name][d] for name in _MEMBERS]) for d in sets}
    rows = _rows(cell.parameters["run"], known, split.test, inside)
    for dataset in sets:
        own = {name: outside[name][dataset] for name in _NAMES}
        rows += _rows(cell.parameters["run"], known, split.outside_test[dataset], own)
    return {"rows": rows}


def _rows(
    run: int, known: Mapping[ScanKey, Unit], keys: Sequence[ScanKey], found: Mapping[str, npt.NDArray[np.float64]]
) -> list[list[Any]]:
    return [
        [
            run,
            key.dataset,
            key.patient,
            key.scan,
            "" if (unit := known[key]).dice is None else round(float(unit.dice or 0.0), 4),
            unit.volume,
            unit.components,
            *(float(f"{found[name][i]:.5g}") for name in _NAMES),
        ]
        for i, key in enumerate(keys)
    ]


def _left_out(method: Method, split: ScreeningSplit, known: Mapping[ScanKey, Unit]) -> npt.NDArray[np.float64]:
    """Scores of the usual scans fitted on, each by a detector fitted without its fold of patients."""
    found = np.empty(len(split.fit))
    dataset = next(iter(split.outside_test))
    asked = {dataset: split.outside_test[dataset][:1]}
    for fold in range(_FOLDS):
        out = [i for i in range(len(split.fit)) if i % _FOLDS == fold]
        rest = tuple(key for i, key in enumerate(split.fit) if i % _FOLDS != fold)
        held = tuple(split.fit[i] for i in out)
        part = ScreeningSplit(rest, held, (), split.outside_fit, asked, split.seed)
        found[out] = scores(method, part, known).calibration[dataset]
    return found


def _cost(context: Context) -> Mapping[str, Any]:
    """Dice points each shift costs the segmenter, by patient against the same patients unshifted."""

    def by_patient(dataset: str) -> dict[str, float]:
        found = units("hippocampus", dataset, context.path(), quick=context.quick)
        return {u.key.patient: u.dice for u in found if u.dice is not None}

    before = by_patient("unshifted")
    costs = {}
    for dataset in all_datasets(quick=context.quick):
        if dataset.rpartition(" ")[0] in STRENGTHS:
            after = by_patient(dataset)
            gaps = np.array([100 * (before[p] - after[p]) for p in sorted(after)])
            low, high = patient_bootstrap(gaps[:, None], lambda v: float(v.mean()), seed=context.seed)
            costs[dataset] = [round(float(v), 2) for v in (gaps.mean(), low, high)]
    return {"points": costs}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    points = {d: v[0] for d, v in results["cost"]["points"].items()}
    runs = [v["rows"] for k, v in results.items() if k.startswith("run ")]
    table: dict[str, dict[str, Any]] = {}
    for name in _NAMES:
        column = _COLUMNS.index(name)
        for dataset in sorted({row[1] for rows in runs for row in rows} - {"usual"}):
            table.setdefault(name, {})[dataset] = _compared(runs, dataset, column, context.seed)
    reached = {kind: found for kind in STRENGTHS if (found := at_ten_points(kind, points)) is not None}
    curves = {name: {kind: between(table[name], kind, place) for kind, place in reached.items()} for name in table}
    targets = []
    for name in ("forest, deep", JOINT, TOGETHER, *_LESIONS):
        for kind, value in curves[name].items():
            if name in _LESIONS and kind != "lesion":
                continue
            at = f"{strength_at(kind, reached):.3g}"
            what = f"{name}: {kind} where the segmenter has lost {_POINTS:g} Dice points ({at})"
            targets.append({"what": what, "required": ">= 0.93", "observed": round(value, 4), "met": value >= 0.93})
    return {"detectors": table, "at_ten_points": curves, "cost": dict(results["cost"]["points"]), "targets": targets}


def _compared(runs: Sequence[Sequence[Sequence[Any]]], dataset: str, column: int, seed: int) -> dict[str, Any]:
    """AUROC, its interval over patients, rank-biserial effect size and Mann–Whitney's p of one shift."""
    values, chances, placements = [], [], Placements()
    for rows in runs:
        usual = [(row[2], row[column]) for row in rows if row[1] == "usual"]
        strange = [(row[2], row[column]) for row in rows if row[1] == dataset]
        if not strange:
            continue
        one, other = (np.array([score for _, score in side], dtype=float) for side in (usual, strange))
        values.append(auroc(one, other))
        chances.append(float(mannwhitneyu(other, one, alternative="greater").pvalue))
        placements.add(one, other, [p for p, _ in usual], [p for p, _ in strange])
    return {
        "auroc": settle(values),
        "interval": placements.interval(seed=seed),
        "rank_biserial": round(2 * float(np.mean(values)) - 1, 4),
        "median_p": float(f"{np.median(chances):.3g}"),
    }


def at_ten_points(kind: str, points: Mapping[str, float]) -> float | None:
    """Level (a fraction between two) at which a shift has cost ten points; None where it never does."""
    levels = [level for level in range(1, 5) if f"{kind} {level}" in points]
    for level in levels:
        here = points[f"{kind} {level}"]
        if here >= _POINTS:
            before = points.get(f"{kind} {level - 1}", 0.0)
            return level - 1 + (_POINTS - before) / (here - before)
    return None


def between(rows: Mapping[str, Any], kind: str, place: float) -> float:
    """AUROC between two strengths, linearly; nothing is told apart at strength 0."""
    low, share = int(place), place - int(place)
    ends = [0.5 if level == 0 else rows[f"{kind} {level}"]["auroc"]["mean"] for level in (low, min(low + 1, 4))]
    return float(ends[0] + share * (ends[1] - ends[0]))


def strength_at(kind: str, reached: Mapping[str, float]) -> float:
    """The strength at the level :func:`at_ten_points` gave."""
    low, share = int(reached[kind]), reached[kind] - int(reached[kind])
    ends = [0.0 if level == 0 else strength_of(f"{kind} {level}") or 0.0 for level in (low, min(low + 1, 4))]
    return ends[0] + share * (ends[1] - ends[0])


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    own = result["summary"]["detectors"]
    lesions = [d for d in (f"lesion {level}" for level in range(1, 5)) if d in own["forest, deep"]]
    near = [d for kind in STRENGTHS if (d := f"{kind} {NEAR_LEVEL}") in own["forest, deep"]]
    rows = []
    for name in _NAMES:
        found = own[name]
        cells = [f"{found[d]['auroc']['mean']:.3f}" for d in lesions]
        if lesions:
            low, high = found[lesions[-1]]["interval"]
            cells[-1] += f" ({low:.2f}–{high:.2f})"
        ten = result["summary"]["at_ten_points"][name].get("lesion")
        mean = float(np.mean([found[d]["auroc"]["mean"] for d in near]))
        every = "–" if name in _LESIONS else f"{mean:.3f}"
        rows.append([name, *cells, "–" if ten is None else f"{ten:.3f}", every])
    heads = [f"{STRENGTHS['lesion'][int(d[-1]) - 1]:g} mm" for d in lesions]
    made = {"lesion": markdown_table(["detector", *heads, "at 10 points", f"all near {NEAR_LEVEL}, mean"], rows)}
    shown = ("forest, deep", JOINT, TOGETHER, "forest, histogram", "entropy mean")
    made["effects"] = markdown_table(
        ["shift", *shown],
        [
            [d, *(f"{own[n][d]['rank_biserial']:+.2f} ({_chance(own[n][d]['median_p'])})" for n in shown)]
            for d in (*near, *lesions[-1:], *(d for d in FAR if d in own["forest, deep"]))
        ],
    )
    rows = [
        [t["what"], t["required"], f"{t['observed']:.3f}", "yes" if t["met"] else "**no**"]
        for t in result["summary"]["targets"]
    ]
    if rows:  # the quick form has one strength only
        made["targets"] = markdown_table(["target", "required", "observed", "met"], rows)
    return made


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    own, cost = result["summary"]["detectors"], result["summary"]["cost"]
    lines = {}
    for name in ("forest, deep", JOINT, TOGETHER, *_LESIONS, "msp mean"):
        levels = [d for d in (f"lesion {level}" for level in range(1, 5)) if d in own[name]]
        if levels:
            lines[name] = {"x": [cost[d][0] for d in levels], "y": [own[name][d]["auroc"]["mean"] for d in levels]}
    if not lines:
        return {}
    panel = {"title": "an inserted lesion of 4, 7, 10 and 14 mm", "lines": lines}
    return {"lesion": {"panels": [panel], "xlabel": "Dice points lost", "ylabel": "AUROC", "level": 0.93}}


STUDY = Study(
    name="rfdeep-scores",
    question="What does each detector say of each scan, and what finds a change of a few millimetres?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
    columns=_COLUMNS,
)
