"""One scan made ready for judgement: oriented, candidates found, gates asked, tissue chosen.

Fitting a cohort and judging a scan both start here, so they cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from anatrust.errors import GeometryError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection.candidates import Components, find_components
from anatrust.rejection.gates import candidate_gate, case_gate, existence_gate, skipped_gates
from anatrust.rejection.settings import RejectionSettings
from anatrust.rejection.tissue import Tissue, find_tissues, organ_overlap

__all__ = ["Case", "later_gates", "prepare"]


@dataclass(frozen=True, eq=False)
class Case:
    """A scan in canonical orientation with its candidates.

    Parameters
    ----------
    scan
        In canonical orientation.
    components
        All candidates.
    failures
        For each candidate why a gate that runs *before* the test refused it, or None.
    overlaps
        For each candidate its share inside the reference organs; None without anatomy.
    tissues
        Normal tissue of those that no gate refused.
    notes
        What the gates could not look at, in words.
    settings
        As given.
    """

    scan: Scan
    components: Components
    failures: tuple[str | None, ...]
    overlaps: tuple[float | None, ...]
    tissues: tuple[Tissue, ...]
    notes: tuple[str, ...]
    settings: RejectionSettings

    @property
    def tested(self) -> tuple[int, ...]:
        """Positions of the candidates no gate refused, ascending."""
        return tuple(k for k, failure in enumerate(self.failures) if failure is None)


def prepare(
    scan: Scan,
    labels: LabelMap | Mask,
    *,
    anatomy: LabelMap | None,
    probabilities: ProbabilityMap | None,
    settings: RejectionSettings,
) -> Case:
    """Bring a scan and its mask to where candidates can be tested.

    Raises
    ------
    GeometryError
        If the images do not share one grid.
    InputError
        If a tissue asked for by name is not in the anatomy, or the connectivity does not exist.
    """
    _check_grids(labels.grid, scan, anatomy, probabilities)
    values = labels.array.view(np.uint8) if isinstance(labels, Mask) else labels.array
    names = {1: labels.name} if isinstance(labels, Mask) else labels.names
    # A copy as large as the frame costs more than to look whether one is needed.
    binary = values.dtype == np.uint8 and int(values.max(initial=0)) <= 1
    straight, grid = canonical(values, labels.grid)
    scan = replace(scan, array=canonical(scan.array, labels.grid)[0], grid=grid)
    chances = None if probabilities is None else canonical(probabilities.foreground, labels.grid)[0]
    organs = None if anatomy is None else replace(anatomy, array=canonical(anatomy.array, labels.grid)[0], grid=grid)
    components = find_components(
        straight,
        scan.array,
        grid,
        labels.grid,
        names=names,
        probabilities=chances,
        connectivity=settings.connectivity,
    )
    shares = organ_overlap(components, organs, settings.tissue)
    count = len(components.candidates)
    overlaps = (None,) * count if shares is None else tuple(float(s) for s in shares)
    failures: list[str | None] = [None] * count
    notes: tuple[str, ...] = ()
    if count:
        notes = skipped_gates(settings.gates, probabilities=chances is not None, anatomy=anatomy is not None)
    if count and settings.gates.enabled:
        existence = existence_gate(straight.view(np.bool_) if binary else straight != 0, chances, settings.gates)
        failures = [existence.failure] * count
        if settings.order == "gates-first" and existence.failure is None:
            failures = later_gates(components, overlaps, tuple(range(count)), settings)
    tested = [k for k, failure in enumerate(failures) if failure is None]
    tissues = find_tissues(scan, components, tested, anatomy=organs, settings=settings.tissue)
    return Case(scan, components, tuple(failures), overlaps, tissues, notes, settings)


def later_gates(
    components: Components,
    overlaps: tuple[float | None, ...],
    positions: tuple[int, ...],
    settings: RejectionSettings,
) -> list[str | None]:
    """Gates L2 and, over those that pass it, L3: for each candidate None or why it was refused.

    Candidates that are not in ``positions`` are left alone (None).
    """
    ndim = components.grid.ndim
    failures: list[str | None] = [None] * len(components.candidates)
    for k in positions:
        failures[k] = candidate_gate(components.candidates[k], settings.gates, ndim=ndim, overlap=overlaps[k])
    passed = [k for k in positions if failures[k] is None]
    failure = case_gate([components.candidates[k] for k in passed], settings.gates, ndim=ndim)
    for k in passed:
        failures[k] = failure
    return failures


def _check_grids(grid: Grid, scan: Scan, anatomy: LabelMap | None, probabilities: ProbabilityMap | None) -> None:
    for what, other in (("scan", scan), ("anatomy", anatomy), ("probability map", probabilities)):
        if other is not None and not other.grid.same_as(grid):
            raise GeometryError(f"the mask and the {what} lie on different grids: resample one to the other first")
