"""Calibrated inner and outer sets of one structure: fit → conformalize → predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import Features, ScoreRecipe
from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask
from anatrust.statistics.loss_curves import LossCurve, inner_loss_curve, outer_loss_curve
from anatrust.statistics.risk_control import LossSketch, RiskThreshold, conformal_threshold
from anatrust.statistics.risk_testing import assured_threshold

__all__ = [
    "LabelledCase",
    "PredictionSet",
    "SetCalibration",
    "calibrate_curves",
    "conformalize",
    "patient_curves",
]


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """What calibration needs of one image: probabilities, scan, truth, and whose it is.

    ``probabilities`` and ``image`` have the grid's shape; ``truth`` is boolean. Several cases of
    one ``patient`` make one loss.
    """

    patient: str
    probabilities: npt.NDArray[Any]
    image: npt.NDArray[Any]
    truth: npt.NDArray[np.bool_]
    grid: Grid
    features: Features | None = None


@dataclass(frozen=True, eq=False)
class PredictionSet:
    """Where the structure surely is (``inner``) and where it may be (``outer``).

    ``inner`` lies within ``outer``. A set that could not be calibrated is the safe one (outer:
    everything; inner: nothing) and says so in its statement; it never counts as success.
    ``statements`` are those of the outer and the inner set; ``feasible`` says of the inner and the
    outer set whether they could be calibrated.
    """

    structure: str
    inner: Mask
    outer: Mask
    alpha: float
    statements: tuple[str, ...]
    feasible: tuple[bool, bool]

    def __post_init__(self) -> None:
        if not self.inner.grid.same_as(self.outer.grid) or (self.inner.array & ~self.outer.array).any():
            raise InputError(f"the inner set of {self.structure} must lie within the outer one, on the same grid")


@dataclass(frozen=True)
class SetCalibration:
    """The thresholds of one structure and what they rest on; one entry of a profile.

    ``patients`` counts those with the structure, ``empty`` those without, which are left out: the
    promise is about scans in which the structure is present.
    """

    structure: str
    recipe: ScoreRecipe
    outer: RiskThreshold
    inner: RiskThreshold
    patients: int
    empty: int

    @property
    def promises(self) -> dict[str, str]:
        """What is promised of the ``"outer"`` and the ``"inner"`` set, in words."""
        return {
            "outer": _told(self.outer.sentence, "missed", "be missed"),
            "inner": _told(self.inner.sentence, "invented", "get"),
        }

    def predict(
        self, probabilities: npt.ArrayLike, image: npt.ArrayLike, grid: Grid, features: Features | None = None
    ) -> PredictionSet:
        """Both sets on one scan; the same score and the same quantisation as at calibration.

        Guarantee
        ---------
        Over patients like the calibration ones: the outer set misses at most α of the structure on
        average, the inner set invents at most α of its size on average. Not a promise about this
        scan. Cutting the inner set to the outer one can only lower what it invents.
        """
        return self.sets_of(self.recipe.levels(probabilities, image, grid, features), grid)

    def sets_of(self, levels: npt.NDArray[np.uint16], grid: Grid) -> PredictionSet:
        """Both sets from the recipe's levels, where they are known already."""
        # A threshold of 65 536 (the empty set) is beyond uint16; NumPy compares with it rightly all the same.
        outer = levels >= self.outer.threshold
        inner = (levels >= self.inner.threshold) & outer
        return PredictionSet(
            self.structure,
            Mask(inner, grid, name=f"{self.structure} inner"),
            Mask(outer, grid, name=f"{self.structure} outer"),
            self.outer.alpha,
            tuple(f"{side} set of {self.structure}: {text}" for side, text in self.promises.items()),
            (self.inner.feasible, self.outer.feasible),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a profile."""
        return {
            "structure": self.structure,
            "recipe": self.recipe.to_json(),
            "outer": asdict(self.outer),
            "inner": asdict(self.inner),
            "patients": self.patients,
            "empty": self.empty,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SetCalibration:
        """The calibration :meth:`to_json` wrote."""
        return cls(
            str(values["structure"]),
            ScoreRecipe.from_json(values["recipe"]),
            RiskThreshold(**values["outer"]),
            RiskThreshold(**values["inner"]),
            int(values["patients"]),
            int(values["empty"]),
        )


def _told(sentence: str, share: str, more: str) -> str:
    """A threshold's sentence about its loss, with the loss called what it is here."""
    return sentence.replace("mean loss", f"mean {share} share").replace("may lose more", f"may {more} more")


def conformalize(
    cases: Iterable[LabelledCase],
    recipe: ScoreRecipe,
    alpha: float,
    *,
    structure: str = "structure",
    assurance: float | None = None,
) -> SetCalibration:
    """Calibrate both sets on patients that had no part in choosing the recipe.

    Parameters
    ----------
    cases
        Calibration images; those of one patient must follow each other. Read one patient at a
        time, so a generator over volumes needs the memory of one patient.
    recipe
        Fixed beforehand, on other patients.
    alpha
        Promised mean share, for both sets.
    structure
        Name used in statements.
    assurance
        δ: promise the mean with confidence 1 - δ over calibrations instead of on average over them.

    Raises
    ------
    InputError
        If the images of one patient are not together (they would count twice).
    """
    low, high = LossSketch("low"), LossSketch("high")
    kept: list[tuple[LossCurve, LossCurve]] = []  # an assurance asks for every patient's loss, not only for their sum
    empty = 0
    for images in _by_patient(cases):
        curves = patient_curves(images, recipe)
        if curves is None:
            empty += 1
        elif assurance is None:
            low.add(curves[0])
            high.add(curves[1])
        else:
            kept.append(curves)
    if assurance is None:
        sides = low.threshold(alpha), high.threshold(alpha)
        return SetCalibration(structure, recipe, *sides, low.patients, empty)
    outer, inner = [pair[0] for pair in kept], [pair[1] for pair in kept]
    return calibrate_curves(outer, inner, recipe, alpha, structure=structure, assurance=assurance, empty=empty)


def patient_curves(cases: Iterable[LabelledCase], recipe: ScoreRecipe) -> tuple[LossCurve, LossCurve] | None:
    """Losses of the outer and the inner set of one patient; None where the structure is absent."""
    images = [(recipe.levels(c.probabilities, c.image, c.grid, c.features), c.truth) for c in cases]
    missed, invented = outer_loss_curve(images), inner_loss_curve(images)
    return None if missed is None or invented is None else (missed, invented)


def calibrate_curves(
    outer: Sequence[LossCurve],
    inner: Sequence[LossCurve],
    recipe: ScoreRecipe,
    alpha: float,
    *,
    structure: str = "structure",
    assurance: float | None = None,
    empty: int = 0,
) -> SetCalibration:
    """`conformalize` from losses that are known already, one pair a patient (see `patient_curves`)."""
    if assurance is None:
        low = conformal_threshold(outer, alpha, safe="low")
        high = conformal_threshold(inner, alpha, safe="high")
    else:
        low = assured_threshold(outer, alpha, assurance, safe="low")
        high = assured_threshold(inner, alpha, assurance, safe="high")
    return SetCalibration(structure, recipe, low, high, len(outer), empty)


def _by_patient(cases: Iterable[LabelledCase]) -> Iterator[list[LabelledCase]]:
    """The images of one patient at a time."""
    finished: set[str] = set()
    for patient, images in groupby(cases, key=lambda case: case.patient):
        if patient in finished:
            raise InputError(f"the images of patient '{patient}' are not together: sort the cases by patient")
        finished.add(patient)
        yield list(images)
