"""Thousands of patient-wise re-splits of a pool from losses computed once, and the quality of the sets they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import LabelledCase
from anatrust.metrics import surface_distances
from anatrust.statistics.loss_curves import (
    EMPTY_SET,
    LEVELS,
    LossCurve,
    SafeEnd,
    inner_loss_curve,
    outer_loss_curve,
)
from anatrust.statistics.risk_control import patients_needed

__all__ = [
    "METRICS",
    "Scored",
    "calibration_draws",
    "equal_loss_threshold",
    "improvement",
    "mean_and_error",
    "percent",
    "resplit_thresholds",
    "scored",
]

METRICS = ("stretch", "dice", "assd", "hd95", "components")
"""Of the outer set against the truth: size over size, overlap, distances (mm; pixels where unknown), pieces."""

_Floats = npt.NDArray[np.float64]
_EPSILON = 1e-12
Grade = Callable[[LabelledCase], npt.NDArray[np.uint16]]


@dataclass(frozen=True, eq=False)
class Scored:
    """A pool scored by one method.

    Parameters
    ----------
    patients
        Names, in order.
    outer, inner
        Loss curve of each patient.
    levels, truths, spacings, owner
        Of each image; ``owner`` indexes ``patients``.
    """

    patients: tuple[str, ...]
    outer: tuple[LossCurve, ...]
    inner: tuple[LossCurve, ...]
    levels: tuple[npt.NDArray[np.uint16], ...]
    truths: tuple[npt.NDArray[np.bool_], ...]
    spacings: tuple[tuple[float, ...], ...]
    owner: npt.NDArray[np.int64]

    def quality(self, threshold: int) -> _Floats:
        """``(patients, len(METRICS))`` of the outer sets at one threshold; a patient's images are averaged.

        An empty set stands at the image's diagonal from the truth.
        """
        rows = np.array(
            [
                _quality(levels, truth, spacing, threshold)
                for levels, truth, spacing in zip(self.levels, self.truths, self.spacings, strict=True)
            ]
        )
        return np.array([rows[self.owner == k].mean(axis=0) for k in range(len(self.patients))])

    def sizes(self, steps: int = 100) -> _Floats:
        """``(patients, steps + 1)``: size of the outer set over that of the structure at λ = 0, 1/steps, …, 1."""
        thresholds = np.rint((1 - np.arange(steps + 1) / steps) * (LEVELS - 1)).astype(np.int64)
        found = np.zeros((len(self.patients), steps + 1))
        own = np.zeros(len(self.patients))
        for levels, truth, k in zip(self.levels, self.truths, self.owner, strict=True):
            counts = np.bincount(levels.ravel(), minlength=LEVELS)
            found[k] += np.cumsum(counts[::-1])[::-1][thresholds]
            own[k] += np.count_nonzero(truth)
        return found / own[:, None]


def _grade(recipe: ScoreRecipe) -> Grade:
    return lambda case: recipe.levels(case.probabilities, case.image, case.grid, case.features)


def scored(cases: Iterable[LabelledCase], recipe: ScoreRecipe | Grade) -> Scored:
    """Score every image of a pool once, by a recipe or a function of the case that gives levels."""
    grade = recipe if callable(recipe) else _grade(recipe)
    images: dict[str, list[tuple[npt.NDArray[np.uint16], LabelledCase]]] = {}
    for case in cases:
        levels = grade(case)
        images.setdefault(case.patient, []).append((levels, case))
    outer, inner = [], []
    for own in images.values():
        pairs = [(levels, case.truth) for levels, case in own]
        missed, invented = outer_loss_curve(pairs), inner_loss_curve(pairs)
        assert missed is not None
        assert invented is not None
        outer.append(missed)
        inner.append(invented)
    flat = [(number, *one) for number, own in enumerate(images.values()) for one in own]
    return Scored(
        tuple(images),
        tuple(outer),
        tuple(inner),
        tuple(levels for _, levels, _ in flat),
        tuple(case.truth for _, _, case in flat),
        tuple(case.grid.spacing for _, _, case in flat),
        np.array([number for number, _, _ in flat]),
    )


def _quality(
    levels: npt.NDArray[np.uint16], truth: npt.NDArray[np.bool_], spacing: Sequence[float], threshold: int
) -> list[float]:
    from scipy.ndimage import label

    chosen = levels.astype(np.int64) >= threshold
    size, own = int(np.count_nonzero(chosen)), int(np.count_nonzero(truth))
    overlap = int(np.count_nonzero(chosen & truth))
    if size == 0:
        far = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
        return [0.0, 0.0, far, far, 0.0]
    # Sets that reach far into the background are a tree's worst case; in 2-D the transform is cheap.
    distances = surface_distances(
        truth, chosen, spacing=spacing, workers=1, engine="transform" if truth.ndim == 2 else "auto"
    )
    pieces = int(label(chosen, structure=np.ones((3,) * truth.ndim))[1])
    return [size / own, 2 * overlap / (size + own), distances.assd(), distances.hausdorff(), float(pieces)]


def calibration_draws(patients: int, calibration: int, splits: int, seed: int) -> npt.NDArray[np.bool_]:
    """``(splits, patients)``: who calibrates in each re-split; the others are tested on."""
    rng = np.random.default_rng(seed)
    draws = np.zeros((splits, patients), dtype=bool)
    for row in draws:
        row[rng.permutation(patients)[:calibration]] = True
    return draws


def _table(curves: Sequence[LossCurve]) -> tuple[npt.NDArray[np.int64], _Floats]:
    """All breaks of the curves and every curve's loss at each, ``(curves, breaks)``."""
    breaks = np.unique(np.concatenate([curve.breaks for curve in curves]))
    rows = [curve.losses[np.searchsorted(curve.breaks, breaks, side="right") - 1] for curve in curves]
    return breaks, np.array(rows)


def resplit_thresholds(
    curves: Sequence[LossCurve], draws: npt.NDArray[np.bool_], alpha: float, *, safe: SafeEnd
) -> tuple[npt.NDArray[np.int64], _Floats]:
    """The threshold of every re-split and everybody's loss at it.

    Equal to :func:`~anatrust.statistics.risk_control.conformal_threshold` on each re-split's calibration
    patients, for all of them at once.

    Returns
    -------
    thresholds ``(splits,)`` and losses ``(splits, patients)``. Too few calibration patients, or losses that
    do not fit, give the safe end.
    """
    breaks, table = _table(curves)
    thresholds = np.empty(len(draws), dtype=np.int64)
    losses = np.empty(draws.shape)
    for start in range(0, len(draws), 100):
        chosen = draws[start : start + 100]
        n = chosen.sum(axis=1)
        total = chosen.astype(np.float64) @ table
        budget = np.maximum((n + 1) * alpha - 1, 0.0) + _EPSILON * n
        fits = total <= budget[:, None]
        for k, row in enumerate(fits):
            index = _furthest(row, safe)
            enough = n[k] >= patients_needed(alpha) and row[0 if safe == "low" else -1]
            if not enough:
                thresholds[start + k] = 0 if safe == "low" else EMPTY_SET
                losses[start + k] = table[:, 0 if safe == "low" else -1]
            else:
                # A step holds from its break to the next one: the furthest threshold of the last step that fits.
                last = index + 1 < len(breaks)
                thresholds[start + k] = (
                    (breaks[index + 1] - 1 if last else EMPTY_SET) if safe == "low" else breaks[index]
                )
                losses[start + k] = table[:, index]
    return thresholds, losses


def _furthest(fits: npt.NDArray[np.bool_], safe: SafeEnd) -> int:
    """Index of the last step that fits on the unbroken way from the safe end."""
    row = fits if safe == "low" else fits[::-1]
    steps = len(row) if row.all() else int(np.argmin(row))
    index = max(steps - 1, 0)
    return index if safe == "low" else len(row) - 1 - index


def equal_loss_threshold(curves: Sequence[LossCurve], level: float) -> int:
    """The largest threshold at which the mean missed share over *all* these patients is at most a level.

    A diagnostic, no promise: it uses the truth of those it is reported on, so that methods are compared at
    the same error.
    """
    breaks, table = _table(curves)
    index = int(np.flatnonzero(table.mean(axis=0) <= level + _EPSILON)[-1])
    return int(breaks[index + 1] - 1) if index + 1 < len(breaks) else EMPTY_SET


def mean_and_error(by_patient: npt.ArrayLike) -> dict[str, Any]:
    """Mean over patients, its standard error, and the spread."""
    values = np.asarray(by_patient, dtype=np.float64)
    quantiles = np.quantile(values, [0.1, 0.5, 0.9]).round(4).tolist()
    error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0
    return {"mean": round(float(values.mean()), 4), "se": round(error, 4), "quantiles": quantiles}


def improvement(
    own: npt.ArrayLike, rival: npt.ArrayLike, owner: npt.ArrayLike, *, seed: int, draws: int = 2000
) -> dict[str, Any]:
    """``1 - mean(own) / mean(rival)`` with a paired bootstrap over patients: above 0 is better (smaller).

    ``owner`` numbers the patient of each value; a patient's values are drawn together.

    Examples
    --------
    >>> improvement([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [0, 1, 2], seed=0)
    {'share': 0.5, 'interval': [0.5, 0.5]}
    """
    index = np.asarray(owner)
    sums = np.array([np.bincount(index, weights=np.asarray(v, dtype=np.float64)) for v in (own, rival)])
    patients = sums.shape[1]
    drawn = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=draws)
    tops, bottoms = drawn @ sums[0], drawn @ sums[1]
    low, high = np.quantile(1 - tops / bottoms, [0.025, 0.975])
    share = 1 - sums[0].sum() / sums[1].sum()
    return {"share": round(float(share), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def percent(gain: Mapping[str, Any]) -> str:
    """What :func:`improvement` found, for a table.

    Examples
    --------
    >>> percent({"share": 0.25, "interval": [-0.1, 0.5]})
    '+25 (-10 to +50)'
    """
    low, high = gain["interval"]
    return f"{100 * gain['share']:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"
