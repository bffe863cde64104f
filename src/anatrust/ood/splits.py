"""One split of scans for all methods of a comparison: by data set and patient, never by scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from anatrust.errors import InputError

__all__ = ["ScanKey", "ScreeningSplit", "draw_split"]


@dataclass(frozen=True, order=True)
class ScanKey:
    """Which scan: its data set, patient, and own name within both; equal names in two sets are two scans."""

    dataset: str
    patient: str
    scan: str = ""

    @property
    def person(self) -> tuple[str, str]:
        """Whose scan it is; patients of different data sets are different people."""
        return self.dataset, self.patient


@dataclass(frozen=True)
class ScreeningSplit:
    """Who is fitted on, who calibrates, who is tested.

    Parameters
    ----------
    fit, calibrate, test
        Usual scans. Every patient is in one of them at most.
    outside_fit, outside_test
        Strange scans by data set; a set that is only tested has no scans to fit.
    seed
        It was drawn with.

    Raises
    ------
    InputError
        If a patient is in two parts: a score would be of a patient that was learnt from.
    """

    fit: tuple[ScanKey, ...]
    calibrate: tuple[ScanKey, ...]
    test: tuple[ScanKey, ...]
    outside_fit: dict[str, tuple[ScanKey, ...]]
    outside_test: dict[str, tuple[ScanKey, ...]]
    seed: int = 0

    def __post_init__(self) -> None:
        learnt = {key.person for part in (self.fit, *self.outside_fit.values()) for key in part}
        calibrated = {key.person for key in self.calibrate}
        tested = {key.person for part in (self.test, *self.outside_test.values()) for key in part}
        if learnt & calibrated or learnt & tested or calibrated & tested:
            raise InputError("a patient is in two parts of a split: split patients, never scans")


def _patients(keys: Iterable[ScanKey], rng: np.random.Generator) -> list[list[ScanKey]]:
    """Scans of each patient, patients in random order that does not depend on the order of the keys."""
    found: dict[tuple[str, str], list[ScanKey]] = {}
    for key in sorted(keys):
        found.setdefault(key.person, []).append(key)
    people = list(found)
    return [found[people[i]] for i in rng.permutation(len(people))]


def _joined(parts: Sequence[Sequence[ScanKey]]) -> tuple[ScanKey, ...]:
    return tuple(key for part in parts for key in part)


def draw_split(
    inside: Sequence[ScanKey],
    outside: Sequence[ScanKey],
    *,
    seed: int,
    fit: int = 20,
    calibrate: int = 0,
    fit_outside: int = 20,
    share_outside: float = 0.5,
    test_only: Sequence[str] = (),
    shared_people: bool = False,
) -> ScreeningSplit:
    """Draw a split.

    Parameters
    ----------
    inside, outside
        Usual scans, and strange scans of any number of data sets.
    seed
        The same seed and scans give the same split, whatever their order.
    fit, calibrate
        Usual *patients* to fit on and to calibrate on; all others are tested.
    fit_outside, share_outside
        Of each strange data set at most this many patients, and at most this share of them, may be fitted
        on; the others are tested.
    test_only
        Strange data sets nothing is learnt from (blinded cohorts).
    shared_people
        Whether a patient's name means the same person in all data sets, as where strange scans are changed
        versions of others: then each person has one part in all of them. Patients who are usual too follow
        their usual scans; of the others ``share_outside`` are fitted on.

    Raises
    ------
    InputError
        If there are too few patients.
    """
    rng = np.random.default_rng(seed)
    people = _patients(inside, rng)
    if fit < 2 or len(people) <= fit + calibrate:
        raise InputError(
            f"{len(people)} usual patients cannot give {fit} to fit, {calibrate} to calibrate and some to test"
        )
    parts = people[:fit], people[fit : fit + calibrate], people[fit + calibrate :]
    role = {part[0].patient: n for n, group in enumerate(parts) for part in group}
    if shared_people:
        others = sorted({key.patient for key in outside} - set(role))
        order = rng.permutation(len(others))
        learnt = round(share_outside * len(others))
        role |= {others[i]: 0 if place < learnt else 2 for place, i in enumerate(order)}
    outside_fit: dict[str, tuple[ScanKey, ...]] = {}
    outside_test: dict[str, tuple[ScanKey, ...]] = {}
    for dataset in sorted({key.dataset for key in outside}):
        own = _patients((key for key in outside if key.dataset == dataset), rng)
        most = 0 if dataset in test_only else min(fit_outside, round(share_outside * len(own)))
        if shared_people:
            learn = [p for p in own if role[p[0].patient] == 0][: 0 if dataset in test_only else fit_outside]
            rest = [p for p in own if role[p[0].patient] == 2]
        else:
            learn, rest = own[:most], own[most:]
        if learn:
            outside_fit[dataset] = _joined(learn)
        if rest:
            outside_test[dataset] = _joined(rest)
    fitted, calibrated, tested = (_joined(part) for part in parts)
    return ScreeningSplit(fitted, calibrated, tested, outside_fit, outside_test, seed)
