"""Study `rwcp-bounds`: whether bounds of Dice, HD95, volume and diameter hold, and what they are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.tuning import aimed_risk
from anatrust.errors import InputError
from anatrust.pipeline.bounds import SIDES
from anatrust.pipeline.bounds_evidence import DIRECTIONS, QUANTITIES, structure_evidence, structure_truth
from anatrust.statistics.conformal_bounds import PatientEvidence, learn_bound
from anatrust.statistics.loss_curves import (
    EMPTY_SET,
    LossCurve,
    inner_loss_curve,
    outer_loss_curve,
    quantise,
    total_loss,
)
from anatrust.statistics.risk_control import patients_needed
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.rwcp_bounds_summary import ALPHA, figures, summarise, tables
from anatrust.studies.segmenters import HeldOutImage, held_out, image_set
from anatrust.studies.study import Cell, Context, Study

__all__ = ["STUDY", "parted"]

_SETS = (("cardiac", "strong"), ("cardiac", "weak"), ("hippocampus", "strong"), ("hippocampus", "weak"))
# Learnings of the regression, and splits of the other patients into calibration and test for each.
_LEARNINGS, _SPLITS = 20, 50
_LEARNT_SHARE, _TESTED_SHARE = 0.25, 0.25
_NEEDS = (
    "anatrust.studies.rwcp_bounds",
    "anatrust.studies.segmenters",
    "anatrust.pipeline.bounds_evidence",
    "anatrust.statistics.conformal_bounds",
    "anatrust.statistics.quantile_regression",
    "anatrust.models.unet",
    "anatrust.models.unet_training",
)
_Rows = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _cells(context: Context) -> list[Cell]:
    cells = []
    for name, strength in _SETS[2:3] if context.quick else _SETS:
        files: tuple[str, ...] = ()
        if context.data is not None:
            files = image_set(name, context.data, quick=context.quick).paths()
        cells.append(Cell(f"{name}/{strength}", {"set": name, "strength": strength}, files=files, needs=_NEEDS))
    return cells


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    images = held_out(p["set"], p["strength"], context.path(), quick=context.quick)
    labels = range(1, len(images[0].probabilities))
    by_patient: dict[str, list[HeldOutImage]] = defaultdict(list)
    for image in images:
        by_patient[image.patient].append(image)
    tuning = [name for name, own in by_patient.items() if own[0].part == "tuning"]
    pool = [name for name, own in by_patient.items() if own[0].part == "pool"]
    thresholds = {k: _provisional([by_patient[name] for name in tuning], k, len(pool) // 2) for k in labels}
    rows = {name: _rows(own, thresholds) for name, own in by_patient.items()}
    rng = np.random.default_rng([context.seed, len(pool)])
    found = {name: _resplit(rows, tuning, pool, number, rng, context.quick) for number, name in enumerate(QUANTITIES)}
    return {"patients": len(pool), "learnt_always": len(tuning), "quantities": found}


def parted(pool: int) -> tuple[int, int]:
    """How many patients of a pool the regression learns on besides the tuning patients, and how many are tested.

    A quarter each; fewer are tested where the rest, which calibrates, would be too few for the promise.

    Raises
    ------
    InputError
        If nobody would be left to be tested.

    Examples
    --------
    >>> parted(80), parted(16)
    ((20, 20), (4, 3))
    """
    learnt = round(_LEARNT_SHARE * pool)
    tested = min(round(_TESTED_SHARE * pool), pool - learnt - patients_needed(ALPHA))
    if tested < 1:
        raise InputError(f"{pool} patients are too few to learn, calibrate and test bounds: 13 are needed")
    return learnt, tested


def _levels(image: HeldOutImage, label: int) -> npt.NDArray[np.uint16]:
    return quantise(np.clip(image.probabilities[label].astype(np.float64), 0, 1))


def _provisional(patients: Sequence[Sequence[HeldOutImage]], label: int, calibration: int) -> tuple[int, int]:
    """Outer and inner threshold on the tuning patients, at the risk calibration will aim at."""
    aim, sides = aimed_risk(ALPHA, calibration), []
    for make, end in ((outer_loss_curve, -1), (inner_loss_curve, 0)):
        curves: list[LossCurve] = []
        for own in patients:
            curve = make([(_levels(image, label), np.asarray(image.labels == label)) for image in own])
            if curve is not None:
                curves.append(curve)
        total, mass = total_loss(curves)
        fits = np.flatnonzero(total <= aim * mass + 1e-9)
        sides.append(int(fits[end]) if fits.size else (0 if end else EMPTY_SET))
    return sides[0], sides[1]


def _rows(images: Sequence[HeldOutImage], thresholds: Mapping[int, tuple[int, int]]) -> _Rows:
    """Evidence ``(scans, structures, 5)`` and targets ``(scans, structures, 4)`` of one patient."""
    evidence, targets = [], []
    for image in images:
        winner, grid = image.probabilities.argmax(axis=0), image.scan.grid
        own = [(np.asarray(winner == k), np.asarray(image.labels == k)) for k in thresholds]
        evidence.append(
            [
                structure_evidence(_levels(image, k), pair, image.probabilities[k].astype(np.float64), mask, grid)
                for (k, pair), (mask, _) in zip(thresholds.items(), own, strict=True)
            ]
        )
        targets.append([structure_truth(mask, truth, grid) for mask, truth in own])
    return np.array(evidence), np.array(targets)


def _resplit(
    rows: Mapping[str, _Rows],
    tuning: Sequence[str],
    pool: Sequence[str],
    number: int,
    rng: np.random.Generator,
    quick: bool,
) -> dict[str, Any]:
    """One quantity over all re-splits: broken bounds, and what the bounds say on patients they were not made on."""
    name = QUANTITIES[number]
    patients = {who: PatientEvidence(rows[who][0], rows[who][1][..., number]) for who in rows}
    # A quick run has few patients, and calibration needs nine of them.
    learnt, tested = (3, 3) if quick else parted(len(pool))
    broken: list[list[float]] = []
    told: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for _ in range(2 if quick else _LEARNINGS):
        order = [pool[k] for k in rng.permutation(len(pool))]
        model = learn_bound(
            [patients[who] for who in (*tuning, *order[:learnt])], SIDES[name], ALPHA, directions=DIRECTIONS[name]
        )
        shares = []
        for _ in range(3 if quick else _SPLITS):
            rest = [order[learnt:][k] for k in rng.permutation(len(pool) - learnt)]
            bound = model.conformalize([patients[who] for who in rest[tested:]])
            for who in rest[:tested]:
                one = patients[who]
                found = bound.bounds(one.evidence)
                wrong = (one.targets < found[..., 0] - 1e-9) | (one.targets > found[..., 1] + 1e-9)
                known = ~np.isnan(one.targets).all(axis=1)
                if known.any():
                    shares.append(float(wrong[known].any(axis=1).mean()))
                    told[who].append(_told(name, found, np.array(bound.constant), one.targets))
        broken.append(shares)
    means = np.array([np.mean(one) for one in broken])
    table = np.array([np.nanmean(np.array(own), axis=0) for own in told.values()])
    result: dict[str, Any] = {
        "broken": round(float(means.mean()), 4),
        "se": round(float(means.std(ddof=1) / np.sqrt(means.size)), 4),
        "calibrated_on": len(pool) - learnt - tested,
        "bound": round(float(np.nanmean(table[:, 0])), 4),
        "constant": round(float(np.nanmean(table[:, 1])), 4),
        "vacuous": round(float(np.nanmean(table[:, 2])), 4),
        "vacuous_constant": round(float(np.nanmean(table[:, 3])), 4),
    }
    gain = table[:, 0] - table[:, 1]
    low, high = patient_bootstrap(gain[~np.isnan(gain)][:, None], lambda v: float(v.mean()), seed=0)
    result["difference"] = [round(float(np.nanmean(gain)), 4), round(low, 4), round(high, 4)]
    if name == "dice":
        result["points"] = _points(rows, tuning, pool, patients, rng)
    return result


def _told(
    name: str, found: npt.NDArray[np.float64], constant: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Mean bound and constant bound of a patient in readable units, and the share of bounds that say nothing."""
    flat = np.broadcast_to(constant, found.shape)
    known = ~np.isnan(targets)
    values = []
    for pair in (found[known], flat[known]):
        if name == "dice":
            values.append((np.maximum(pair[:, 0], 0), pair[:, 0] <= 0))
        elif name == "hd95":
            values.append(
                (np.where(np.isfinite(pair[:, 1]), np.exp(np.minimum(pair[:, 1], 20)), np.nan), np.isinf(pair[:, 1]))
            )
        else:  # how many times the upper end is the lower one
            wide = np.exp(np.minimum(pair[:, 1] - pair[:, 0], 20))
            values.append((wide, np.isinf(pair[:, 1])))
    (own, empty), (steady, none) = values
    return float(own.mean()), float(steady.mean()), float(empty.mean()), float(none.mean())


def _points(
    rows: Mapping[str, _Rows],
    tuning: Sequence[str],
    pool: Sequence[str],
    patients: Mapping[str, PatientEvidence],
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    """Bound and Dice of scans of half of the pool, for one split: what a figure shows."""
    order = [pool[k] for k in rng.permutation(len(pool))]
    learnt = max(2, round(_LEARNT_SHARE * len(pool)))
    half = learnt + max((len(pool) - learnt) // 2, patients_needed(ALPHA))
    model = learn_bound(
        [patients[who] for who in (*tuning, *order[:learnt])], "lower", ALPHA, directions=DIRECTIONS["dice"]
    )
    bound = model.conformalize([patients[who] for who in order[learnt:half]])
    x, y = [], []
    for who in order[half:]:
        shown = np.maximum(bound.bounds(patients[who].evidence)[..., 0], 0).ravel()
        truth = rows[who][1][..., 0].ravel()
        keep = ~np.isnan(truth)
        x += shown[keep].round(3).tolist()
        y += truth[keep].round(3).tolist()
    return {"bound": x[:400], "dice": y[:400]}


STUDY = Study(
    name="rwcp-bounds",
    question="Do bounds of Dice, HD95, volume and longest diameter hold on new patients, and what are they worth?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=tables,
    figures=figures,
)
