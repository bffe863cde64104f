"""Choosing the score on tuning patients, at the risk calibration will really aim at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import LabelledCase
from anatrust.errors import InputError
from anatrust.metrics import surface_distances
from anatrust.statistics.array_backend import like
from anatrust.statistics.loss_curves import outer_loss_curve, total_loss

__all__ = ["TrialRow", "Tuning", "aimed_risk", "border_crossing", "choose_recipe"]

Keep = Callable[[str, Callable[[], Any]], Any]
_BLEEDS = 0.5  # of the walk's affinity across true borders: half of what the walk brings is from elsewhere


@dataclass(frozen=True)
class TrialRow:
    """One recipe on the tuning patients, all cut at the same mean missed share.

    Distances are between the outer set and the truth, in mm (pixels where spacing is unknown);
    ``stretch`` is the size of the set over that of the truth. ``relative`` is the mean over
    patients of (ASSD and HD95 of this recipe over those of the plain score), below 1 is better;
    ``error`` its standard error.
    """

    label: str
    assd: float
    hd95: float
    stretch: float
    relative: float
    error: float


@dataclass(frozen=True)
class Tuning:
    """The chosen recipe, what it was chosen from, and advice in words."""

    recipe: ScoreRecipe
    rows: tuple[TrialRow, ...]
    aim: float
    patients: int
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a profile."""
        return {
            "recipe": self.recipe.to_json(),
            "rows": [asdict(row) for row in self.rows],
            "aim": self.aim,
            "patients": self.patients,
            "advice": list(self.advice),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tuning:
        """The tuning :meth:`to_json` wrote."""
        rows = tuple(TrialRow(**row) for row in values["rows"])
        recipe, advice = ScoreRecipe.from_json(values["recipe"]), tuple(values["advice"])
        return cls(recipe, rows, float(values["aim"]), int(values["patients"]), advice)


def aimed_risk(alpha: float, patients: int) -> float:
    """Empirical risk at which calibration on n patients will cut: ``((n + 1) α - 1) / n``, at least 0.

    Tuning at α itself would choose for sets that calibration will not make.

    Examples
    --------
    >>> round(aimed_risk(0.1, 18), 3), aimed_risk(0.1, 5)
    (0.05, 0.0)
    """
    if patients < 1:
        raise InputError("calibration needs at least one patient")
    return max(0.0, ((patients + 1) * alpha - 1) / patients)


def border_crossing(case: LabelledCase, recipe: ScoreRecipe) -> float:
    """Share of the walk's steps that cross the true border, among steps from nodes of the structure.

    0 for a graph that keeps to the anatomy; the structure's share of all nodes away from 1 for a
    random one. Above about a half the walk bleeds: a larger beta or fewer steps are needed.
    """
    if case.features is None or recipe.name != "graph":
        raise InputError("border crossing is measured on a 'graph' recipe with features")
    shape, spacing = case.truth.shape, case.grid.spacing
    features = case.features()
    inside = recipe.patches(shape, spacing).average(like(case.truth.astype(np.float64), features))
    matrix = recipe.transition(shape, spacing, features)
    mass = inside.sum()
    return float((inside * (matrix @ (1 - inside))).sum() / mass) if mass > 0 else 0.0


def _mean_crossing(cases: Sequence[LabelledCase], recipe: ScoreRecipe) -> float:
    return float(np.mean([border_crossing(case, recipe) for case in cases]))


def _cut(levels: Sequence[npt.NDArray[np.uint16]], cases: Sequence[LabelledCase], aim: float) -> int:
    """Threshold at which the mean missed share over patients is just within the aim."""
    pooled: dict[str, list[tuple[Any, Any]]] = {}
    for one, case in zip(levels, cases, strict=True):
        pooled.setdefault(case.patient, []).append((one, case.truth))
    curves = [curve for curve in map(outer_loss_curve, pooled.values()) if curve is not None]
    total, mass = total_loss(curves)
    return int(np.flatnonzero(total <= aim * mass + 1e-9)[-1])


def _quality(levels: npt.NDArray[np.uint16], case: LabelledCase, threshold: int) -> tuple[float, float, float]:
    """ASSD, HD95 and stretch of the outer set; the image's diagonal stands for the distance to nothing."""
    chosen = levels.astype(np.int64) >= threshold
    stretch = float(chosen.sum() / case.truth.sum())
    if not chosen.any():
        far = float(np.linalg.norm(np.multiply(case.grid.shape, case.grid.spacing)))
        return far, far, stretch
    distances = surface_distances(case.truth, chosen, spacing=case.grid.spacing, workers=1)
    return distances.assd(), distances.hausdorff(), stretch


def _measured(recipe: ScoreRecipe, cases: Sequence[LabelledCase], aim: float) -> list[tuple[float, float, float]]:
    """`_quality` of each case where the mean missed share is the one aimed at."""
    levels = [recipe.levels(c.probabilities, c.image, c.grid, c.features) for c in cases]
    threshold = _cut(levels, cases, aim)
    return [_quality(one, case, threshold) for one, case in zip(levels, cases, strict=True)]


def choose_recipe(
    cases: Sequence[LabelledCase],
    recipes: Sequence[ScoreRecipe],
    alpha: float,
    calibration_patients: int,
    *,
    progress: Callable[[int, int], None] | None = None,
    keep: Keep | None = None,
) -> Tuning:
    """The recipe whose outer sets lie closest to the truth at equal missed share, on tuning patients.

    Parameters
    ----------
    cases
        Tuning images; none of these patients may be calibrated or tested on.
    recipes
        What to choose from; the first is the plain score, kept unless another is better by more than
        its standard error (and, for a feature graph, keeps most of its affinity within the structure).
    alpha, calibration_patients
        The promise to come; they fix the risk at which recipes are compared.
    keep
        Called with each recipe's label and the function that measures it on all images (minutes on volumes): gives
        what that gives, from where it was kept if it was.

    Raises
    ------
    InputError
        If no recipe is given or no tuning patient has the structure.
    """
    present = [case for case in cases if case.truth.any()]
    if not recipes or not present:
        raise InputError("tuning needs at least one recipe and one patient with the structure")
    aim = aimed_risk(alpha, calibration_patients)
    patients = np.array([case.patient for case in present])
    rows: list[TrialRow] = []
    plain: npt.NDArray[np.float64] | None = None
    for number, recipe in enumerate(recipes):
        measure = partial(_measured, recipe, present, aim)
        table = np.array(measure() if keep is None else keep(recipe.label, measure))
        plain = table if plain is None else plain
        # A voxel is as exact as a mask can be; without this floor a perfect plain set makes ratios infinite.
        floor = np.array([min(case.grid.spacing) for case in present])[:, None]
        ratios = np.mean((table[:, :2] + floor) / (plain[:, :2] + floor), axis=1)
        means = np.array([ratios[patients == name].mean() for name in dict.fromkeys(patients)])
        error = float(means.std(ddof=1) / np.sqrt(means.size)) if means.size > 1 else float("inf")
        assd, hd95, stretch = table.mean(axis=0)
        rows.append(
            TrialRow(
                recipe.label,
                float(assd),
                float(hd95),
                float(stretch),
                float(means.mean()),
                0.0 if number == 0 else error,
            )
        )
        if progress:
            progress(number + 1, len(recipes))
    best = min(range(len(rows)), key=lambda i: rows[i].relative)
    chosen = best if rows[best].relative + rows[best].error < 1 else 0
    if recipes[chosen].name == "graph" and _mean_crossing(present, recipes[chosen]) > _BLEEDS:
        chosen = 0
    advice = _advice(rows, recipes, present, chosen, best, aim)
    return Tuning(recipes[chosen], tuple(rows), aim, len(set(patients)), advice)


def _advice(
    rows: Sequence[TrialRow],
    recipes: Sequence[ScoreRecipe],
    cases: Sequence[LabelledCase],
    chosen: int,
    best: int,
    aim: float,
) -> tuple[str, ...]:
    words: list[str] = []
    if aim == 0:
        words.append("too few calibration patients for this α: no set can be promised, add patients or raise α")
    if chosen != best:
        surely = rows[best].relative + rows[best].error < 1
        reason = "would bleed" if surely else "is not better by more than its standard error; add tuning patients"
        words.append(f"the plain score is kept: {rows[best].label} {reason}")
    walks = [recipe for recipe in recipes if recipe.name == "graph"]
    if walks:
        crossing = _mean_crossing(cases, walks[0])
        words.append(f"{crossing:.0%} of the walk's affinity crosses true borders")
        if crossing > _BLEEDS:
            words.append("the feature graph bleeds: raise beta, take fewer steps or another encoder")
    if rows[chosen].stretch > 2:
        words.append(
            "outer sets are more than twice the structure: the segmenter is weak here, or more steps are needed"
        )
    return tuple(words)
