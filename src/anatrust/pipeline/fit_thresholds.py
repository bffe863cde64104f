"""Every threshold of the gates, learnt from patients with known lesions so that few lesions are lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from anatrust.errors import AnatrustError, InputError
from anatrust.image.orientation import canonical
from anatrust.image.read import read_mask
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.pipeline.case import Names, label_table, mask_kind, read_case
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.finding import worst
from anatrust.pipeline.inspect import inspect_scan
from anatrust.pipeline.progress import Progress
from anatrust.rejection.candidate import Candidate
from anatrust.rejection.candidates import find_components
from anatrust.rejection.gates import candidate_gate, case_gate, case_score, existence_gate
from anatrust.rejection.settings import GateSettings, RejectionSettings
from anatrust.rejection.tissue import organ_overlap
from anatrust.statistics.risk_bounds import BoundName
from anatrust.statistics.risk_testing import learn_then_test

__all__ = ["GateFacts", "GatesSection", "fit_thresholds", "gate_facts", "gate_path", "learn_gates", "passing"]


# Quantiles of the tuning lesions' own values that a threshold is raised to.
_QUANTILES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3)


@dataclass(frozen=True, eq=False)
class GateFacts:
    """What the gates look at in one scan with lesions.

    Parameters
    ----------
    largest, share, distance
        Largest probability, share of positive voxels, Kolmogorov-Smirnov distance; None without
        probabilities.
    candidates, overlaps
        All candidates, and their share in the reference organs (None without anatomy).
    ndim
        Axes of the scan.
    lesions
        For every lesion the segmenter drew something of: the positions of those candidates.
    """

    largest: float | None
    share: float
    distance: float | None
    candidates: tuple[Candidate, ...]
    overlaps: tuple[float | None, ...]
    ndim: int
    lesions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class GatesSection:
    """Thresholds learnt from a cohort, and what is promised of them.

    Parameters
    ----------
    settings
        The gates; the given ones where nothing could be promised.
    feasible
        Whether the promise was reached.
    sensitivity, delta
        The promise: of the lesions the segmenter draws, at least ``sensitivity`` pass the gates on
        average over patients, with probability at least 1 - ``delta`` over cohorts.
    patients, tuning
        Patients tested on, and others the order of tests was chosen on.
    observed
        Mean share of drawn lesions that pass, over the patients tested on.
    removed
        Share of the tuning patients' false candidates that the gates refuse; not a promise.
    """

    settings: GateSettings
    feasible: bool
    sensitivity: float
    delta: float
    patients: int
    tuning: int
    observed: float
    removed: float

    def to_json(self) -> dict[str, Any]:
        """The section as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> GatesSection:
        """The section from :meth:`to_json`."""
        given = dict(plain)
        return cls(settings=GateSettings(**given.pop("settings")), **given)

    def with_gates(self) -> RejectionSettings:
        """The default settings of rejection behind these gates."""
        return RejectionSettings(gates=self.settings)

    @property
    def words(self) -> str:
        """One sentence on what is promised, or why nothing is."""
        if not self.feasible:
            return (
                f"gates: {self.patients} patients with lesions cannot assure a sensitivity of {self.sensitivity:g} "
                f"with confidence {1 - self.delta:g}; the thresholds stay as they were"
            )
        return (
            f"gates: of the lesions the segmenter draws at least {self.sensitivity:g} pass on average over patients, "
            f"with confidence {1 - self.delta:g} ({self.patients} patients)"
        )


def passing(facts: GateFacts, gates: GateSettings) -> tuple[int, ...]:
    """Positions of the candidates that pass all three gates, as in :func:`anatrust.rejection.reject`."""
    low = facts.largest is not None and facts.largest < gates.max_probability
    alike = facts.distance is not None and gates.ks_distance is not None and facts.distance < gates.ks_distance
    if not gates.enabled:
        return tuple(range(len(facts.candidates)))
    if low or alike or facts.share < gates.positive_share:
        return ()
    passed = [
        k
        for k, candidate in enumerate(facts.candidates)
        if candidate_gate(candidate, gates, ndim=facts.ndim, overlap=facts.overlaps[k]) is None
    ]
    refused = case_gate([facts.candidates[k] for k in passed], gates, ndim=facts.ndim)
    return tuple(passed) if refused is None else ()


def _lost(scans: Sequence[GateFacts], gates: GateSettings) -> float:
    """Share of a patient's drawn lesions of which no candidate passes."""
    lost = total = 0
    for facts in scans:
        kept = set(passing(facts, gates))
        lost += sum(not kept.intersection(lesion) for lesion in facts.lesions)
        total += len(facts.lesions)
    return lost / total


def gate_path(scans: Sequence[GateFacts], base: GateSettings, *, most: float = 0.3) -> tuple[GateSettings, ...]:
    """Settings of rising strictness, safest first.

    The first leaves all gates open. Then, one step at a time, that threshold is raised to the next
    quantile of the lesions' own values that refuses most false candidates for each lesion it loses
    in these scans. The walk ends where more than the share ``most`` of the lesions is lost, or
    nothing more is gained. A lesion counts by its best candidate. The p-value arm of L1 stays
    open throughout: over thousands of correlated voxels it decides nothing.
    """
    wide = replace(
        base,
        max_probability=0.0,
        positive_share=0.0,
        ks_p=1.0,
        ks_distance=None,
        min_area=0.0,
        min_volume=0.0,
        min_voxels=0,
        mean_probability=0.0,
        overlap=0.0,
        case_score=0.0,
    )
    ladders = {name: _ladder(name, values) for name, values in _lesion_values(scans, base).items()}
    lesions = sum(len(facts.lesions) for facts in scans)
    path, rungs = [wide], dict.fromkeys(ladders, -1)
    lost, left = _counts(scans, wide)
    while True:
        best: tuple[float, str, GateSettings, int, int] | None = None
        for name, ladder in ladders.items():
            for rung in range(rungs[name] + 1, len(ladder)):
                gates = replace(path[-1], **{name: ladder[rung]})
                now_lost, now_left = _counts(scans, gates)
                if now_left < left or now_lost > lost:
                    worth = (left - now_left) / (now_lost - lost + 0.5)
                    if best is None or worth > best[0]:
                        best = worth, name, gates, rung, now_left
                    break
        if best is None or best[0] == 0:
            return tuple(path)
        _, name, gates, rungs[name], left = best
        lost = _counts(scans, gates)[0]
        if lost > most * lesions:
            return tuple(path)
        path.append(gates)


def _ladder(name: str, values: Sequence[float]) -> list[Any]:
    """The heights a threshold is raised to."""
    heights = sorted({float(np.quantile(values, q, method="lower")) for q in _QUANTILES})
    return [int(h) for h in heights] if name == "min_voxels" else heights


def _counts(scans: Sequence[GateFacts], gates: GateSettings) -> tuple[int, int]:
    """Lesions lost, and false candidates left."""
    lost = left = 0
    for facts in scans:
        kept = set(passing(facts, gates))
        lost += sum(not kept.intersection(lesion) for lesion in facts.lesions)
        left += len(kept - {k for lesion in facts.lesions for k in lesion})
    return lost, left


def _lesion_values(scans: Sequence[GateFacts], base: GateSettings) -> dict[str, list[float]]:
    """What the lesions of these scans reach at each gate."""
    values: dict[str, list[float]] = {}

    def add(name: str, value: float | None) -> None:
        if value is not None:
            values.setdefault(name, []).append(float(value))

    for facts in scans:
        if not facts.lesions:
            continue
        add("max_probability", facts.largest)
        add("positive_share", facts.share)
        add("ks_distance", facts.distance)
        scores = [case_score(facts.candidates[k], base, ndim=facts.ndim) for lesion in facts.lesions for k in lesion]
        add("case_score", max((s for s in scores if s is not None), default=None))
        for lesion in facts.lesions:
            mine = [facts.candidates[k] for k in lesion]
            largest = max(mine, key=lambda c: c.voxels)
            if largest.volume is None:
                add("min_voxels", largest.voxels)
            else:
                add("min_area" if facts.ndim == 2 else "min_volume", largest.volume)
            chances = [c.mean_probability for c in mine if c.mean_probability is not None]
            add("mean_probability", max(chances, default=None))
            add("overlap", max((o for k in lesion if (o := facts.overlaps[k]) is not None), default=None))
    return values


def learn_gates(
    patients: Sequence[Sequence[GateFacts]],
    *,
    base: GateSettings | None = None,
    sensitivity: float = 0.9,
    delta: float = 0.1,
    seed: int = 0,
) -> GatesSection:
    """Thresholds of all gates that lose few lesions, by learn-then-test over patients.

    Half of the patients choose the order of settings (see `gate_path`), the others test them one
    after the other, safest first, until one fails. The last that passed is taken.

    Parameters
    ----------
    patients
        The scans of each patient; patients without a drawn lesion say nothing and are left out.
    base
        What is kept where nothing can be promised, and the form of the case score.
    sensitivity, delta
        The promise, see `GatesSection`.
    seed
        Of the split.

    Guarantee
    ---------
    For exchangeable patients of whose lesions the segmenter draws at least one: the mean share of
    drawn lesions that pass is at least ``sensitivity``, with probability at least 1 - ``delta`` over
    cohorts. Lesions the segmenter does not draw, and those the test rejects later, are not in it.

    References
    ----------
    Angelopoulos et al., Learn then test, 2021.
    """
    if not (0 < sensitivity < 1 and 0 < delta < 1):
        raise InputError(f"sensitivity and delta lie between 0 and 1, not at {sensitivity} and {delta}")
    base = base or GateSettings()
    useful = [scans for scans in patients if sum(len(facts.lesions) for facts in scans)]
    order = np.random.default_rng([seed, 41]).permutation(len(useful))
    half = len(useful) // 2
    tuning, testing = [useful[k] for k in order[:half]], [useful[k] for k in order[half:]]
    chosen, observed = base, 0.0
    accepted: tuple[int, ...] = ()
    if tuning and testing:
        path = gate_path([facts for scans in tuning for facts in scans], base)
        losses = np.array([[_lost(scans, gates) for scans in testing] for gates in path])
        # The bound is chosen by n alone: betting is the sharper one except for few patients without any loss.
        # The order of patients is the shuffle above, which knows nothing of the losses, as the bet asks.
        bound: BoundName = "betting" if len(testing) * (1 - sensitivity) >= 4 else "hoeffding-bentkus"
        accepted = learn_then_test(losses, 1 - sensitivity, delta, bound=bound).accepted
        if accepted:
            chosen, observed = path[accepted[-1]], 1 - float(losses[accepted[-1]].mean())
    if not accepted and testing:
        observed = 1 - float(np.mean([_lost(scans, base) for scans in testing]))
    return GatesSection(
        chosen, bool(accepted), sensitivity, delta, len(testing), len(tuning), observed, _removed(tuning, chosen)
    )


def _removed(patients: Sequence[Sequence[GateFacts]], gates: GateSettings) -> float:
    refused = total = 0
    for scans in patients:
        for facts in scans:
            true = {k for lesion in facts.lesions for k in lesion}
            false = set(range(len(facts.candidates))) - true
            refused += len(false - set(passing(facts, gates)))
            total += len(false)
    return refused / total if total else 0.0


def gate_facts(
    scan: Scan,
    labels: LabelMap,
    truth: LabelMap,
    anatomy: LabelMap | None = None,
    probabilities: ProbabilityMap | None = None,
    settings: RejectionSettings | None = None,
) -> GateFacts:
    """What the gates see in a scan, and which candidates are lesions; all images on one grid.

    A lesion is a component (26 neighbours) of the truth, each label by itself.
    """
    import cc3d

    settings = settings or RejectionSettings()
    values, grid = canonical(labels.array, labels.grid)
    image, _ = canonical(scan.array, scan.grid)
    chances = None if probabilities is None else canonical(probabilities.foreground, labels.grid)[0]
    organs = None if anatomy is None else replace(anatomy, array=canonical(anatomy.array, labels.grid)[0], grid=grid)
    found = find_components(
        values, image, grid, labels.grid, names=labels.names, probabilities=chances, connectivity=settings.connectivity
    )
    shares = organ_overlap(found, organs, settings.tissue)
    count = len(found.candidates)
    # Only its numbers are wanted, so no threshold may cut them short.
    seen = existence_gate(values != 0, chances, GateSettings())
    real = canonical(truth.array, truth.grid)[0].astype(np.uint16)
    pieces = cc3d.connected_components(real, connectivity=8 if real.ndim == 2 else 26).ravel()
    touched: dict[int, list[int]] = {}
    for position, voxels in enumerate(found.voxels):
        for piece in np.unique(pieces[voxels]):
            if piece:
                touched.setdefault(int(piece), []).append(position)
    return GateFacts(
        seen.max_probability,
        seen.positive_share,
        seen.ks_distance,
        found.candidates,
        (None,) * count if shares is None else tuple(float(s) for s in shares),
        real.ndim,
        tuple(tuple(touched[piece]) for piece in sorted(touched)),
    )


@dataclass(frozen=True, eq=False)
class FittedGates:
    """The section (None where no row could be used) and what could not be fitted."""

    section: GatesSection | None
    notes: tuple[str, ...]


def fit_thresholds(
    cohort: Cohort,
    *,
    sensitivity: float,
    delta: float = 0.1,
    settings: RejectionSettings | None = None,
    modality: str | None = None,
    anatomy_names: Names = None,
    seed: int = 0,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> FittedGates:
    """Learn the gates from the rows that have a lesion mask and a truth; parameters as in `fit` and `learn_gates`.

    Raises
    ------
    InputError
        If sensitivity or delta is impossible.
    """
    rows = [row for row in cohort if row.truth is not None and row.mask is not None and not row.lesion_free]
    if not rows:
        return FittedGates(None, ("gates: no row with a lesion has a mask and a truth",))
    settings = settings or RejectionSettings()
    table = label_table(anatomy_names)
    patients: dict[str, list[GateFacts]] = {}
    for done, row in enumerate(rows):
        if progress:
            progress("gates", done, len(rows))
        try:
            facts = _row_facts(row, settings, modality, table)
        except AnatrustError as reason:
            if warn:
                warn(f"{cohort.source}, row {row.number}: left out of the gates, {reason}")
            continue
        if facts is not None:
            patients.setdefault(row.patient, []).append(facts)
    if progress:
        progress("gates", len(rows), len(rows))
    if not patients:
        return FittedGates(None, ("gates: the masks with a truth show organs, not lesions",))
    section = learn_gates(list(patients.values()), base=settings.gates, sensitivity=sensitivity, delta=delta, seed=seed)
    return FittedGates(section, () if section.feasible else (section.words,))


def _row_facts(
    row: CohortRow, settings: RejectionSettings, modality: str | None, table: dict[int, str]
) -> GateFacts | None:
    """Facts of one row; None where the mask shows organs."""
    case = read_case(
        row.image,
        row.mask,
        probabilities=row.probabilities,
        anatomy=row.anatomy,
        modality=modality,
        anatomy_names=table,
    )
    truth = read_mask(row.truth, reference=case.scan.grid)
    if mask_kind(case.labels) == "organ" and case.labels.labels():
        return None
    findings = inspect_scan(case.scan, case.labels, case.probabilities)
    if worst(findings) == "error":
        raise InputError(findings[0].sentence)
    return gate_facts(case.scan, case.labels, truth, case.anatomy, case.probabilities, settings)
