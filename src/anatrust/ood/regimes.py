"""What a detector is taught with when there are several strange data sets: each alone, all, or all but one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.ood.detectors import Detector
from anatrust.ood.features import Levels
from anatrust.ood.splits import ScanKey, ScreeningSplit

__all__ = ["Regime", "RegimeScores", "regime_scores"]

Regime = Literal["separate", "unified", "ensemble-mean", "ensemble-max", "lodo", "usual-only"]
Crops = Mapping[ScanKey, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class RegimeScores:
    """Scores of every tested scan, higher = stranger.

    Parameters
    ----------
    inside
        For each strange data set the usual test scans' scores ``(n,)`` by the detector that set is judged
        with, in the order of ``split.test``.
    outside
        For each strange data set its test scans' scores, in the order of the split.
    calibration
        The same for ``split.calibrate``.
    """

    inside: dict[str, npt.NDArray[np.float64]]
    outside: dict[str, npt.NDArray[np.float64]]
    calibration: dict[str, npt.NDArray[np.float64]]


def regime_scores(
    regime: Regime,
    split: ScreeningSplit,
    crops: Crops,
    make: Callable[[], Detector],
    *,
    levels: Levels | None = None,
    training_crops: int | None = 4,
    most: int = 20,
) -> RegimeScores:
    """Fit under a regime and score all test scans.

    Parameters
    ----------
    regime
        ``"separate"``: one detector a strange set, each tested on its own set (a test-only set is scored by
        the mean of all). ``"unified"``: one detector, ``most`` strange scans drawn from all sets together.
        ``"ensemble-mean"``, ``"ensemble-max"``: every crop gets the mean or maximum over the separate
        detectors, a scan the mean over its crops. ``"lodo"``: for each set a detector taught by the other
        sets, ``most`` scans of each (a test-only set: by all sets). ``"usual-only"``: no strange scans at all.
    split
        Shared by all methods of a comparison.
    crops
        Features ``(crops, d)`` of every scan of the split.
    make
        Gives an unfitted detector.
    levels, training_crops
        As in :func:`~anatrust.ood.screen.fit_screener`.
    most
        Strange scans a set that are learnt from.

    Raises
    ------
    InputError
        If the regime is unknown, a scan has no features, or too few strange sets can be learnt from.

    References
    ----------
    RF-Deep, arXiv 2512.08216: dataset-specific, unified, ensemble and leave-one-dataset-out.
    """
    if regime not in get_args(Regime):
        raise InputError(f"there is no regime {regime!r}: choose one of {', '.join(get_args(Regime))}")
    missing = [k for part in (split.fit, split.calibrate, split.test) for k in part if k not in crops]
    if missing:
        raise InputError(f"{len(missing)} scans of the split have no features: extract them, or take them out")
    sets, learnable = list(split.outside_test), list(split.outside_fit)

    def fitted(strange: Sequence[ScanKey]) -> Detector:
        def first(keys: Sequence[ScanKey]) -> list[npt.NDArray[Any]]:
            return [crops[k] if training_crops is None else crops[k][:training_crops] for k in keys]

        return make().fit(first(split.fit), first(strange), levels=levels, seed=split.seed)

    def fused(judges: Sequence[Detector], keys: Sequence[ScanKey], how: str) -> npt.NDArray[np.float64]:
        if not keys:
            return np.zeros(0)
        join = np.max if how == "ensemble-max" else np.mean
        counts = [len(crops[k]) for k in keys]
        # All rows at once: a detector scores each row on its own, whatever stands beside it.
        rows = np.concatenate([crops[k] for k in keys])
        each = join([j.score_crops(rows) for j in judges], axis=0)
        return np.array([part.mean() for part in np.split(each, np.cumsum(counts)[:-1])])

    def judged(judges_of: Callable[[str], Sequence[Detector]], how: str) -> RegimeScores:
        known: dict[tuple[int, ...], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
        inside, outside, calibration = {}, {}, {}
        for name in sets:
            judges = judges_of(name)
            mark = tuple(id(j) for j in judges)
            if mark not in known:
                known[mark] = fused(judges, split.test, how), fused(judges, split.calibrate, how)
            inside[name], calibration[name] = known[mark]
            outside[name] = fused(judges, split.outside_test[name], how)
        return RegimeScores(inside, outside, calibration)

    if regime == "usual-only":
        only = [fitted(())]
        return judged(lambda _: only, "mean")
    if not learnable:
        raise InputError("no strange data set can be learnt from: give one that is not only tested")
    if regime == "unified":
        pool = [key for name in learnable for key in split.outside_fit[name]]
        order = np.random.default_rng(split.seed).permutation(len(pool))[:most]
        one = [fitted([pool[i] for i in sorted(order)])]
        return judged(lambda _: one, "mean")
    if regime == "lodo":
        if len(learnable) < 2 and set(sets) & set(learnable):
            raise InputError("leaving one data set out needs two to learn from")
        made: dict[str, list[Detector]] = {}

        def left_out(name: str) -> list[Detector]:
            out = name if name in learnable else ""
            if out not in made:
                made[out] = [fitted([k for n in learnable if n != out for k in split.outside_fit[n][:most]])]
            return made[out]

        return judged(left_out, "mean")
    separate = {name: fitted(split.outside_fit[name][:most]) for name in learnable}
    if regime == "separate":
        return judged(lambda name: [separate[name]] if name in separate else list(separate.values()), "mean")
    return judged(lambda _: list(separate.values()), regime)
