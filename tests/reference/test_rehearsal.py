"""Rehearsals: what references whose labels were kept back say of an answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, Reference, Structure
from anatrust.models.registration import RegistrationSettings
from anatrust.reference import ReferenceBank, RegistrationReasoner
from anatrust.reference.rehearsal import Rehearsal, RehearsedReasoner, lessons_of, lessons_of_bank

QUICK = RegistrationReasoner(RegistrationSettings(turned=False, mirrored=False, demons_steps=10), least_similarity=-1)
NAMES = {1: "organ", 2: "vagrant"}


def patient(seed: int) -> Reference:
    """An organ that looks the same in everybody, and one that lies anywhere inside it and cannot be seen."""
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[:48, :44]
    image = 0.3 * (((x - 24) / 21) ** 2 + ((y - 22) / 19) ** 2 < 1)
    labels = np.zeros(image.shape, np.uint8)
    organ = ((x - 22) / 12) ** 2 + ((y - 21) / 9) ** 2 < 1
    image[organ], labels[organ] = 0.8, 1
    angle = rng.uniform(0, 2 * np.pi)
    labels[(x - 22 - 8 * np.cos(angle)) ** 2 + (y - 21 - 6 * np.sin(angle)) ** 2 < 8] = 2
    grid = Grid(image.shape, np.diag([2.0, 2, 2, 1]))
    scan = Scan((image + rng.normal(0, 0.02, image.shape)).astype(np.float32), grid, identifier=f"p{seed}")
    return Reference(scan, LabelMap(labels, grid, NAMES), f"p{seed}")


def test_a_structure_that_lies_elsewhere_in_everybody_is_doubted_and_its_steady_neighbour_is_not() -> None:
    references, target = [patient(n) for n in range(6)], patient(9)
    plain = QUICK.annotate(target.scan, references)
    told = RehearsedReasoner(QUICK, Rehearsal.hold(QUICK, lessons_of(references))).annotate(target.scan, references)
    assert np.array_equal(told.labels.array, plain.labels.array)
    organ, vagrant = told.structures
    assert organ.sure
    assert (organ.expected or 0.0) > 0.9
    assert not vagrant.sure
    if vagrant.found:
        assert vagrant.expected is not None
        assert vagrant.expected < 0.5
    assert told.decision == "review"
    assert any("vagrant" in reason for reason in told.reasons)
    assert told.reasoner.startswith("rehearsed/1 ")


def test_the_expected_overlap_is_the_mean_of_a_linear_law_whatever_each_structure_s_own_level() -> None:
    rng = np.random.default_rng(3)
    levels = {n: rng.uniform(0.3, 0.7) for n in range(1, 9)}
    tried = {}
    for number, level in levels.items():
        confidences = rng.uniform(0.5, 0.9, 6)
        tried[number] = tuple((float(c), float(level + 0.5 * (c - 0.7) + rng.normal(0, 0.02))) for c in confidences)
    held = Rehearsal(tried)
    for number, level in levels.items():
        assert held.expected(number, 0.8) == pytest.approx(level + 0.05, abs=0.04)


def test_structures_that_scatter_are_drawn_to_the_common_level_and_steady_ones_keep_their_own() -> None:
    rng = np.random.default_rng(5)
    levels = np.linspace(0.5, 0.8, 7)

    def errors(noise: float) -> tuple[float, float]:
        """Mean errors of what is expected, and of each structure's own mean."""
        trials = {n: np.clip(level + rng.normal(0, noise, 4), 0, 1) for n, level in enumerate(levels)}
        held = Rehearsal({n: tuple((0.7, float(v)) for v in values) for n, values in trials.items()})
        told = np.array([held.expected(n, 0.7) for n in trials], float)
        means = np.array([values.mean() for values in trials.values()])
        return float(np.abs(told - levels).mean()), float(np.abs(means - levels).mean())

    assert errors(0.001)[0] < 0.002
    together, alone = np.mean([errors(0.25) for _ in range(200)], axis=0)
    assert together < 0.9 * alone


def test_a_falling_slope_is_chance_and_what_was_tried_seldom_is_not_told() -> None:
    held = Rehearsal({1: ((0.6, 0.9), (0.7, 0.8), (0.8, 0.7)), 2: ((0.6, 0.9), (0.7, 0.8))})
    assert held.expected(1, 0.9) == held.expected(1, 0.5) == pytest.approx(0.8)
    assert held.expected(2, 0.7) is None
    assert held.expected(7, 0.7) is None


class Copyist:
    """Draws what its first reference shows, surely."""

    identity = "copyist/1"

    def annotate(self, target: Scan, references: list[Reference], progress: object = None) -> Annotation:
        first = references[0]
        found = tuple(
            Structure(n, name, ((0, 48), (0, 44)), 0.9, voxels=int((first.labels.array == n).sum()))
            for n, name in first.names().items()
        )
        return Annotation(first.labels, found, (), self.identity, ((first.identifier, 1.0),))


def test_nobody_rehearses_on_labels_of_his_own() -> None:
    references = [patient(n) for n in range(5)]
    lessons = lessons_of(references, most=4)
    assert [one.identifier for one, _ in lessons] == ["p0", "p1", "p2", "p3"]
    assert all(one not in others and len(others) == 4 for one, others in lessons)
    bank = replace(ReferenceBank.build([*references, *references], [*range(5), *range(5)]), threshold=-1.0)
    for one, others in lessons_of_bank(bank, patient(7).scan, k=3):
        assert others
        assert one.identifier not in [o.identifier for o in others]
    same = Rehearsal.hold(Copyist(), [(references[0], [references[0]])] * 3)
    assert same.expected(1, 0.9) == 1.0


def test_what_a_scan_does_not_have_says_nothing_of_how_it_is_drawn() -> None:
    full = patient(1)
    without = replace(
        full, labels=LabelMap(np.where(full.labels.array == 2, 0, full.labels.array), full.labels.grid, NAMES)
    )
    held = Rehearsal.hold(Copyist(), [(full, [full])] * 3 + [(without, [full])] * 3)
    assert len(held.tried[1]) == 6
    assert held.tried[2] == ((0.9, 1.0),) * 3


def test_too_few_references_are_one_clear_line() -> None:
    references = [patient(n) for n in range(3)]
    with pytest.raises(InputError, match="cannot be rehearsed: give 4 or more"):
        lessons_of(references)
    bank = replace(ReferenceBank.build(references), threshold=-1.0)
    with pytest.raises(InputError, match="needs 4"):
        lessons_of_bank(bank, patient(7).scan)
