"""A number for each structure that means something: bounds of Dice, HD95, volume and longest diameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.pipeline.bounds_evidence import DIRECTIONS, EVIDENCE, QUANTITIES, diameter_of, structure_evidence
from anatrust.statistics.conformal_bounds import BoundSide, ConformalBound, PatientEvidence, learn_bound
from anatrust.statistics.risk_control import patients_needed

__all__ = [
    "SIDES",
    "BoundsSection",
    "BoundsWorth",
    "StructureBounds",
    "bound_sentences",
    "fit_bounds",
    "predict_bounds",
]

SIDES: Mapping[str, BoundSide] = {"dice": "lower", "hd95": "upper", "volume": "interval", "diameter": "interval"}
"""Which side of each quantity is bounded."""

_AGAINST = {"dice": -1, "hd95": 1, "volume": 0, "diameter": 0}
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BoundsWorth:
    """What the bounds of one structure are worth, measured on the calibration scans.

    Parameters
    ----------
    dice, hd95
        Mean bound; None where nothing finite can be promised.
    constant_dice, constant_hd95
        The bounds the same patients give without any evidence; the gain is the difference.
    vacuous_dice, vacuous_hd95
        Share of scans whose bound says nothing: a Dice above 0, a HD95 below the image's diagonal.
    """

    dice: float | None
    constant_dice: float | None
    vacuous_dice: float
    hd95: float | None
    constant_hd95: float | None
    vacuous_hd95: float


@dataclass(frozen=True, eq=False)
class BoundsSection:
    """What was learnt about the quality of masks from label-free evidence.

    Parameters
    ----------
    alpha
        Share of scans like the calibration ones in which any structure may break its bound (for each quantity).
    structures, labels
        Names and numbers, as in the profile's sets.
    thresholds
        Outer and inner threshold of each structure that evidence is measured at; fixed on the learning patients.
    bounds
        One for each quantity.
    given_masks
        Whether the cohort came with masks; else they were derived from the probabilities.
    learnt
        Patients learnt from, none of them calibrated on.
    worth
        For each structure.
    screened
        Whether the abnormality that the profile's screening gives the scan is evidence too.
    history
        ``(patients, structures)`` mean sureness (see `sureness`) of each calibration patient, in an order
        that says nothing: what later scans are compared with when drift is looked for.
    groups
        Bounds of their own for each group of the cohort that is large enough: what was learnt is the same, calibrated
        within the group, where the promise then holds.
    """

    alpha: float
    structures: tuple[str, ...]
    labels: tuple[int, ...]
    thresholds: tuple[tuple[int, int], ...]
    bounds: Mapping[str, ConformalBound]
    given_masks: bool
    learnt: int
    worth: tuple[BoundsWorth, ...]
    history: npt.NDArray[np.float64]
    screened: bool = False
    groups: Mapping[str, Mapping[str, ConformalBound]] = field(default_factory=dict)

    @property
    def patients(self) -> int:
        """Calibrated on."""
        return self.bounds["dice"].patients

    def of_group(self, group: str | None) -> Mapping[str, ConformalBound]:
        """The bounds of a group, where it has its own; else those of everybody."""
        return self.groups.get(group or "", self.bounds)

    def to_json(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Plain values and arrays for a profile."""
        plain = {
            "alpha": self.alpha,
            "structures": list(self.structures),
            "labels": list(self.labels),
            "thresholds": [list(pair) for pair in self.thresholds],
            "bounds": {name: bound.to_json() for name, bound in self.bounds.items()},
            "given_masks": self.given_masks,
            "learnt": self.learnt,
            "worth": [vars(one) for one in self.worth],
            "screened": self.screened,
            "groups": {
                name: {what: bound.to_json() for what, bound in own.items()} for name, own in self.groups.items()
            },
        }
        return plain, {"history": self.history}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> BoundsSection:
        """The section :meth:`to_json` wrote."""
        return cls(
            float(plain["alpha"]),
            tuple(str(v) for v in plain["structures"]),
            tuple(int(v) for v in plain["labels"]),
            tuple((int(low), int(high)) for low, high in plain["thresholds"]),
            {name: ConformalBound.from_json(plain["bounds"][name]) for name in QUANTITIES},
            bool(plain["given_masks"]),
            int(plain["learnt"]),
            tuple(BoundsWorth(**one) for one in plain["worth"]),
            np.asarray(arrays["history"], dtype=np.float64),
            bool(plain.get("screened", False)),
            {
                str(name): {what: ConformalBound.from_json(own[what]) for what in QUANTITIES}
                for name, own in plain.get("groups", {}).items()
            },
        )

    def describe(self) -> list[str]:
        """One line a structure, for people: what the bounds are worth."""
        lines = []
        for name, worth in zip(self.structures, self.worth, strict=True):
            if worth.dice is None or worth.constant_dice is None:
                lines.append(f"bounds of {name}: {self.patients} patients promise nothing at {self.alpha:g}")
                continue
            far = "HD95 unbounded" if worth.hd95 is None else f"HD95 below {worth.hd95:.3g} on average"
            lines.append(
                f"bounds of {name}: Dice above {worth.dice:.2f} on average for {1 - self.alpha:.0%} of scans "
                f"({worth.dice - worth.constant_dice:+.2f} against one bound for all; "
                f"{worth.vacuous_dice:.0%} vacuous), {far}; "
                f"learnt on {self.learnt}, calibrated on {self.patients} patients"
            )
        lines += [
            f"bounds within group {name}: calibrated on {own['dice'].patients} patients"
            for name, own in self.groups.items()
        ]
        return lines


@dataclass(frozen=True)
class StructureBounds:
    """The bounds of one structure on one scan; None where nothing can be promised.

    Bounds have three figures, lower ones rounded down and upper ones up, so that whoever shows them promises no more
    than was calibrated.

    Lengths in mm and volumes in mm³ (mm² in 2-D), in pixels where the spacing is unknown. ``volume`` and
    ``diameter`` are those of the mask; their bounds are about the true structure.
    """

    structure: str
    label: int
    alpha: float
    dice_lower: float | None
    hd95_upper: float | None
    volume: float
    volume_lower: float | None
    volume_upper: float | None
    diameter: float
    diameter_lower: float | None
    diameter_upper: float | None
    unit: str


def fit_bounds(
    learn: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    calibrate: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    alpha: float,
    *,
    structures: Mapping[int, str],
    thresholds: Sequence[tuple[int, int]],
    given_masks: bool,
    diagonal: float,
    step: float,
    groups: Sequence[str] = (),
) -> BoundsSection:
    """Learn and calibrate all four bounds.

    Parameters
    ----------
    learn, calibrate
        Evidence ``(scans, structures, 5)`` and targets ``(scans, structures, 4)`` of each patient, see
        `structure_evidence` and `structure_truth`; a sixth column of evidence is the scan's abnormality. No
        patient is in both.
    alpha
        Promised share, for each quantity and all structures at once.
    structures, thresholds, given_masks
        For the section.
    diagonal, step
        Length beyond which a bound of HD95 says nothing (of the smallest image), and a voxel's edge.
    groups
        Group of each calibration patient, "" for none, fixed beforehand: groups of at least ``1/α - 1`` patients get
        bounds of their own, beside those of everybody.

    Guarantee
    ---------
    That of :func:`~anatrust.statistics.conformal_bounds.fit_bound`, within each group that has bounds of its own.
    """
    made: dict[str, ConformalBound] = {}
    members = {name: [k for k, own in enumerate(groups) if own == name] for name in sorted({*groups} - {""})}
    members = {name: own for name, own in members.items() if len(own) >= patients_needed(alpha)}
    by_group: dict[str, dict[str, ConformalBound]] = {name: {} for name in members}
    screened = learn[0][0].shape[-1] > len(EVIDENCE)
    for number, name in enumerate(QUANTITIES):
        pairs = [
            [PatientEvidence(evidence, targets[..., number]) for evidence, targets in patients]
            for patients in (learn, calibrate)
        ]
        # Strangeness can only speak against a mask.
        directions = (*DIRECTIONS[name], _AGAINST[name]) if screened else DIRECTIONS[name]
        learnt = learn_bound(pairs[0], SIDES[name], alpha, directions=directions)
        made[name] = learnt.conformalize(pairs[1])
        for group, own in members.items():
            by_group[group][name] = learnt.conformalize([pairs[1][k] for k in own])
    rows = np.concatenate([evidence for evidence, _ in calibrate])
    history = np.array([sureness(evidence).mean(axis=0) for evidence, _ in calibrate])
    return BoundsSection(
        alpha,
        tuple(structures.values()),
        tuple(structures),
        tuple(thresholds),
        made,
        given_masks,
        len(learn),
        tuple(_worth(made, rows, k, diagonal, step) for k in range(len(structures))),
        history[np.lexsort(history.T)],
        screened,
        by_group,
    )


def with_abnormality(evidence: npt.NDArray[np.float64], abnormality: float) -> npt.NDArray[np.float64]:
    """Evidence ``(..., 5)`` with the scan's abnormality as a sixth column."""
    return np.concatenate([evidence, np.full((*evidence.shape[:-1], 1), abnormality)], axis=-1)


def sureness(evidence: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How sure the segmenter is: expected Dice plus inner over outer, ``(..., 5)`` to ``(...)``.

    The first says nothing of hard masks, the second nothing of very sure probabilities.
    """
    total: npt.NDArray[np.float64] = evidence[..., 0] + evidence[..., 1]
    return total


def _exp(logarithm: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The exponential; a bound drawn far beyond what was learnt from is huge, not an overflow."""
    return np.asarray(np.exp(np.minimum(logarithm, 700.0)), dtype=np.float64)


def _worth(
    made: Mapping[str, ConformalBound], rows: npt.NDArray[np.float64], k: int, diagonal: float, step: float
) -> BoundsWorth:
    dice = made["dice"].bounds(rows)[:, k, 0]
    far = _exp(made["hd95"].bounds(rows)[:, k, 1]) - step
    steady, steady_far = made["dice"].constant[k][0], made["hd95"].constant[k][1]
    return BoundsWorth(
        float(np.maximum(dice, 0).mean()) if made["dice"].feasible else None,
        max(steady, 0.0) if np.isfinite(steady) else None,
        float((dice <= 0).mean()),
        float(np.minimum(far, diagonal).mean()) if made["hd95"].feasible else None,
        float(_exp(steady_far)) - step if np.isfinite(steady_far) else None,
        float((far >= diagonal).mean()),
    )


def predict_bounds(
    section: BoundsSection,
    levels: Mapping[int, npt.NDArray[np.uint16]],
    probabilities: Mapping[int, npt.NDArray[Any]],
    masks: Mapping[int, _Bool],
    grid: Grid,
    *,
    abnormality: float | None = None,
    group: str | None = None,
) -> tuple[StructureBounds, ...]:
    """The bounds of every structure on one scan.

    Parameters
    ----------
    section
        Of the profile.
    levels, probabilities, masks
        Quantised score, foreground probability and mask of each structure, by label.
    grid
        Of the scan.
    abnormality
        Of the scan, where the section was fitted with it.
    group
        Of the patient: bounds of that group, where the section has some.

    Raises
    ------
    InputError
        If the section needs the scan's abnormality and none is given.
    """
    evidence = np.stack(
        [
            structure_evidence(levels[label], pair, probabilities[label], masks[label], grid)
            for label, pair in zip(section.labels, section.thresholds, strict=True)
        ]
    )
    if section.screened:
        if abnormality is None:
            raise InputError("the profile's bounds need the scan's abnormality: its screening section is missing")
        evidence = with_abnormality(evidence, abnormality)
    bounds = section.of_group(group)
    found = {name: bounds[name].bounds(evidence) for name in QUANTITIES}
    step = min(grid.spacing)
    diagonal = float(np.linalg.norm(np.multiply(grid.shape, grid.spacing)))
    whole = float(np.prod(grid.shape)) * grid.voxel_volume
    made = []
    for k, (label, name) in enumerate(zip(section.labels, section.structures, strict=True)):
        mask = masks[label]
        volume, diameter = float(np.count_nonzero(mask)) * grid.voxel_volume, diameter_of(mask, grid)
        dice, far = float(found["dice"][k, 0]), float(_exp(found["hd95"][k, 1])) - step
        # What the logarithm of a ratio was bounded by, back in its unit (see structure_truth).
        sizes = _exp(found["volume"][k]) * (volume + grid.voxel_volume) - grid.voxel_volume
        lengths = _exp(found["diameter"][k]) * (diameter + step) - step
        smallest, largest = (float(v) for v in np.maximum(sizes, 0))
        shortest, longest = (float(v) for v in np.maximum(lengths, 0))
        made.append(
            StructureBounds(
                name,
                label,
                section.alpha,
                _shown(min(dice, 1.0), math.floor) if dice > 0 else None,
                _shown(max(far, 0.0), math.ceil) if far < diagonal else None,
                volume,
                _shown(smallest, math.floor) if largest < whole else None,
                _shown(largest, math.ceil) if largest < whole else None,
                diameter,
                _shown(shortest, math.floor) if longest < diagonal else None,
                _shown(longest, math.ceil) if longest < diagonal else None,
                grid.unit,
            )
        )
    return tuple(made)


def _shown(value: float, towards: Callable[[float], int]) -> float:
    """Three significant figures on the safe side.

    >>> _shown(0.5578, math.floor), _shown(1924.7, math.ceil), _shown(0.81, math.floor), _shown(0.0, math.floor)
    (0.557, 1930.0, 0.81, 0.0)
    """
    if value == 0:
        return 0.0
    digits = 2 - math.floor(math.log10(value))
    safe = -1e-9 if towards is math.ceil else 1e-9  # what has three figures keeps them, whatever its bits
    return round(towards(value * 10.0**digits + safe) / 10.0**digits, max(digits, 0))


def bound_sentences(
    bounds: Sequence[StructureBounds], *, ndim: int = 3, group: str | None = None
) -> list[tuple[str, bool]]:
    """What the bounds say, one sentence a quantity, and whether it promises anything.

    ``ndim`` of the scan decides whether a size is a volume or an area; ``group`` names the one whose own bounds
    they are.

    Examples
    --------
    >>> one = StructureBounds("ventricle", 1, 0.1, 0.81, None, 90.0, 80.0, 99.5, 9.0, None, None, "mm")
    >>> bound_sentences([one])[0][0]
    'For at least 90 % of scans like these the Dice is above the bound shown; here the bound is 0.81.'
    """
    if not bounds:
        return []
    unit = bounds[0].unit
    size, cube = ("volume", "mm³") if ndim == 3 else ("area", "mm²")
    cube = cube if unit == "mm" else "pixels"
    told = {
        "the Dice is above": [(b.structure, None if b.dice_lower is None else f"{b.dice_lower:.3g}") for b in bounds],
        "the HD95 is below": [
            (b.structure, None if b.hd95_upper is None else f"{b.hd95_upper:.3g} {unit}") for b in bounds
        ],
        f"the true {size} lies within": [(b.structure, _range(b.volume_lower, b.volume_upper, cube)) for b in bounds],
        "the true longest diameter lies within": [
            (b.structure, _range(b.diameter_lower, b.diameter_upper, unit)) for b in bounds
        ],
    }
    made = []
    for words, shown in told.items():
        whose = f"scans of group {group} like these" if group else "scans like these"
        begin = f"For at least {100 * (1 - bounds[0].alpha):g} % of {whose} {words} the bound"
        if len(shown) == 1:
            what = shown[0][1]
            here = f"here the bound is {what}" if what else "here nothing can be promised"
            made.append((f"{begin} shown; {here}.", what is not None))
        else:
            listed = ", ".join(f"{name} {what or 'nothing'}" for name, what in shown)
            made.append((f"{begin} shown for every structure; here: {listed}.", any(what for _, what in shown)))
    return made


def _range(low: float | None, high: float | None, unit: str) -> str | None:
    if low is None or high is None:
        return None
    low_text, high_text = (f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in (low, high))
    return f"{low_text} to {high_text} {unit}"
