"""The page of a profile's sets: what was chosen, at which threshold, and how errors and sizes depend on it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from anatrust.conformal.sets import SetCalibration
from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.set_curves import SetCurves
from anatrust.statistics.loss_curves import EMPTY_SET

__all__ = ["write_fit_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTH, _HEIGHT = 340.0, 150.0
_LARGEST = 2.0  # times the structure: what is invented is counted up to once its size
_TRIALS = 10
_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def write_fit_page(path: str | os.PathLike[str], profile: Profile) -> Path:
    """Write what `fit` learnt of sets: one HTML file that works offline and asks the network for nothing.

    For each structure the score that was chosen among its rivals, the mean missed and invented shares of the
    calibration patients against the threshold (the calibration curves), and the size of the sets against it.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced in one step.
    profile
        With a section of sets.

    Raises
    ------
    InputError
        If the profile has none.
    """
    from jinja2 import Environment, StrictUndefined

    sets = profile.sets
    if sets is None:
        raise InputError("the profile has no section of sets: there is nothing to draw")
    curves = sets.curves or (None,) * len(sets.calibrations)
    text = resources.files("anatrust.report").joinpath("assets/fit.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(text).render(
        policy=_POLICY,
        profile=profile,
        structures=[
            _structure(calibration, tuning, curve)
            for calibration, tuning, curve in zip(sets.calibrations, sets.tunings, curves, strict=True)
        ],
        width=_WIDTH,
        height=_HEIGHT,
        largest=_LARGEST,
    )
    target = Path(path)
    with replacing(target) as part:
        part.write_text(page, encoding="utf-8")
    return target


def _structure(
    calibration: SetCalibration, tuning: Mapping[str, Any] | None, curve: SetCurves | None
) -> dict[str, Any]:
    """What the page shows of one structure."""
    rows = [] if tuning is None else list(tuning["rows"])
    label = calibration.recipe.label
    best = sorted(rows, key=lambda row: row["relative"])[:_TRIALS]
    shown = best + [row for row in rows if row["label"] == label and row not in best]
    return {
        "name": calibration.structure,
        "score": label,
        "trials": [{**row, "chosen": row["label"] == label} for row in shown],
        "tried": len(rows),
        "tuned_on": 0 if tuning is None else tuning["patients"],
        "advice": [] if tuning is None else tuning["advice"],
        "alpha": calibration.outer.alpha,
        "patients": calibration.patients,
        "empty": calibration.empty,
        "sides": [
            {"name": side, "threshold": one.threshold / EMPTY_SET, "words": words, "feasible": one.feasible}
            for (side, words), one in zip(
                calibration.promises.items(), (calibration.outer, calibration.inner), strict=True
            )
        ],
        "curves": None if curve is None else _drawn(curve, calibration),
    }


def _drawn(curve: SetCurves, calibration: SetCalibration) -> dict[str, Any]:
    """Paths of the curves, and where the thresholds and the promised level lie."""
    at = [curve.place(threshold) for threshold in curve.thresholds]
    return {
        "missed": _path(at, curve.missed, 1.0),
        "invented": _path(at, curve.invented, 1.0),
        "size": _path(at, curve.size, _LARGEST),
        "level": round(_HEIGHT * (1 - calibration.outer.alpha), 1),
        "whole": round(_HEIGHT * (1 - 1 / _LARGEST), 1),
        "outer": round(_WIDTH * curve.place(calibration.outer.threshold), 1),
        "inner": round(_WIDTH * curve.place(calibration.inner.threshold), 1),
        "ticks": [(round(_WIDTH * curve.place(round(EMPTY_SET * v)), 1), f"{v:g}") for v in _TICKS],
    }


def _path(x: Sequence[float], y: Sequence[float], top: float) -> str:
    points = (f"{_WIDTH * a:.1f} {_HEIGHT * (1 - min(b, top) / top):.1f}" for a, b in zip(x, y, strict=True))
    return "M" + "L".join(points)
