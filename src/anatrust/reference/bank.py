"""The bank: labelled scans from which the references of a new scan are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Reference
from anatrust.reference.descriptor import Described, ScanDescriptor, mutual_share

__all__ = ["BankEntry", "Chosen", "ReferenceBank", "Retrieval", "slices_of"]

_TEMPERATURE = 0.1
_FALLBACK = 0.5
_SHORTLIST = 10


@dataclass(frozen=True, eq=False)
class BankEntry:
    """A labelled scan, whose it is (a number, never a name), and its description."""

    reference: Reference
    patient: int
    described: Described


@dataclass(frozen=True)
class Chosen:
    """An entry chosen for a scan: its place in the bank, cosine, share of mutual patches, and weight."""

    entry: int
    cosine: float
    mutual: float
    weight: float


@dataclass(frozen=True)
class Retrieval:
    """The references for a scan, best first, or why there is none."""

    chosen: tuple[Chosen, ...]
    refused: str = ""


@dataclass(frozen=True, eq=False)
class ReferenceBank:
    """Labelled scans with their descriptions and the cosine from which one is suitable.

    Use `ReferenceBank.build`.

    Parameters
    ----------
    entries
        At least one.
    descriptor
        Identity of what described them; a query must be described by the same.
    threshold
        Least cosine of a suitable reference.
    calibrated
        Whether the threshold comes from leave-one-patient-out; else it is the convention 0.5.
    quantile
        Share of scans like the bank's that the threshold refuses at most, where it is calibrated.
    """

    entries: tuple[BankEntry, ...]
    descriptor: str
    threshold: float
    calibrated: bool
    quantile: float = 0.05

    def __post_init__(self) -> None:
        if not self.entries:
            raise InputError("a bank needs at least one labelled scan")

    @classmethod
    def build(
        cls,
        references: Sequence[Reference],
        patients: Sequence[object] | None = None,
        *,
        descriptor: ScanDescriptor | None = None,
        quantile: float = 0.05,
    ) -> ReferenceBank:
        """Describe labelled scans and calibrate the threshold.

        Parameters
        ----------
        references
            Volumes and images may be mixed; they are never compared with each other.
        patients
            Whose each is; by default all are of different patients. Only equality is kept.
        descriptor
            The embedded one by default.
        quantile
            The threshold is the cosine below which this share of the bank's patients would fall,
            each compared with the others (leave one patient out). With fewer than 1/quantile − 1 patients
            it is 0.5, and ``calibrated`` is False.

        Raises
        ------
        InputError
            If there is none, numbers of patients and references differ, or the quantile is not
            within 0 and 1.

        Guarantee
        ---------
        For a new patient exchangeable with the bank's, P(no suitable reference) is at most about the
        quantile: each patient's score is the best cosine of its worst scan with the other patients.
        Approximate, for the left-out scores share the bank (as the jackknife's do); tested by simulation.
        """
        owners = list(range(len(references))) if patients is None else list(patients)
        if len(owners) != len(references) or not references:
            raise InputError(f"{len(references)} references and {len(owners)} patients: give one patient for each")
        if not 0 < quantile < 1:
            raise InputError(f"the quantile is {quantile:g}: give a share between 0 and 1")
        describe = descriptor or ScanDescriptor()
        numbers: dict[object, int] = {}
        entries = tuple(
            BankEntry(reference, numbers.setdefault(owner, len(numbers)), describe.describe(reference.scan))
            for reference, owner in zip(references, owners, strict=True)
        )
        best = _leave_one_out(entries)
        rank = int(np.floor((len(best) + 1) * quantile))
        calibrated = rank >= 1
        threshold = float(np.sort(best)[rank - 1]) if calibrated else _FALLBACK
        return cls(entries, describe.identity, threshold, calibrated, quantile)

    def retrieve(
        self,
        scan: Scan,
        k: int = 5,
        *,
        descriptor: ScanDescriptor | None = None,
        without: Iterable[int] = (),
        diverse: float = 0.0,
    ) -> Retrieval:
        """The ``k`` references of a scan: nearest by cosine, then by how many patches choose each other.

        Parameters
        ----------
        scan
            The scan to find references for.
        k
            How many at most; entries below the threshold are never taken.
        descriptor
            The one the bank was built with; the embedded one by default.
        without
            Patients (numbers of the bank) to leave out, for studies.
        diverse
            From 0 to 1: how much a reference loses by looking like one that is chosen already, as in Medical SAM 2's
            memory (arXiv 2408.00874).

        Returns
        -------
        Retrieval
            Weights are a softmax of cosine / 0.1 and sum to 1. Empty with the reason where no
            entry is of the scan's kind and modality, or none is near enough.

        Raises
        ------
        InputError
            If ``k`` is below 1, or the description is not the bank's.
        """
        describe = descriptor or ScanDescriptor()
        if describe.identity != self.descriptor:
            raise InputError(f"the bank was described by {self.descriptor!r}, not {describe.identity!r}: use the same")
        if k < 1 or not 0 <= diverse <= 1:
            raise InputError(
                f"k is {k} and diverse {diverse:g}: ask for at least one reference, and a share from 0 to 1"
            )
        left_out = set(without)
        here = [i for i, e in enumerate(self.entries) if e.patient not in left_out]
        kind = [i for i in here if self.entries[i].reference.scan.grid.ndim == scan.grid.ndim]
        if not kind:
            what = "an image" if scan.grid.ndim == 2 else "a volume"
            return Retrieval((), f"the bank holds no reference that is {what}")
        same = [i for i in kind if _compatible(scan, self.entries[i].reference.scan)]
        if not same:
            others = sorted({self.entries[i].reference.scan.modality for i in kind})
            return Retrieval((), f"the scan is {scan.modality} and the bank holds {', '.join(others)}")
        own = describe.describe(scan)
        cosines = {i: float(own.whole @ self.entries[i].described.whole) for i in same}
        near = sorted((i for i in same if cosines[i] >= self.threshold), key=lambda i: (-cosines[i], i))
        if not near:
            top = max(cosines.values())
            return Retrieval((), f"the nearest has a cosine of {top:.2f}, below the bank's {self.threshold:.2f}")
        short = near[: max(k, _SHORTLIST)]
        mutual = {i: mutual_share(own.patches, self.entries[i].described.patches, scan.grid.ndim) for i in short}
        order = self._ordered({i: cosines[i] + mutual[i] for i in short}, k, diverse)
        raw = np.exp([(cosines[i] - cosines[order[0]]) / _TEMPERATURE for i in order])
        weights = raw / raw.sum()
        return Retrieval(tuple(Chosen(i, cosines[i], mutual[i], float(w)) for i, w in zip(order, weights, strict=True)))

    def _ordered(self, scores: dict[int, float], k: int, diverse: float) -> list[int]:
        """The best first; each next one counts less the more it resembles one before it."""
        order: list[int] = []
        whole = {i: self.entries[i].described.whole for i in scores}
        for _ in range(min(k, len(scores))):
            left = [i for i in scores if i not in order]
            alike = {i: max((float(whole[i] @ whole[j]) for j in order), default=0.0) for i in left}
            order.append(min(left, key=lambda i: (-scores[i] * (1 - diverse * alike[i]), i)))
        return order

    def references(self, retrieval: Retrieval) -> tuple[Reference, ...]:
        """The labelled scans of a retrieval, with its weights."""
        return tuple(replace(self.entries[c.entry].reference, weight=c.weight) for c in retrieval.chosen)

    def summary(self) -> dict[str, Any]:
        """What is in it, as plain JSON values."""
        names = Counter(name for e in self.entries for name in e.reference.names().values())
        scans = [e.reference.scan for e in self.entries]
        return {
            "references": len(self.entries),
            "patients": len({e.patient for e in self.entries}),
            "volumes": sum(s.grid.ndim == 3 for s in scans),
            "images": sum(s.grid.ndim == 2 for s in scans),
            "modalities": dict(sorted(Counter(s.modality for s in scans).items())),
            "structures": dict(sorted(names.items())),
            "descriptor": self.descriptor,
            "threshold": round(self.threshold, 4),
            "calibrated": self.calibrated,
            "quantile": self.quantile,
        }


def slices_of(reference: Reference, *, axis: int = 2, every: int = 1, least: int = 1) -> Iterator[Reference]:
    """The labelled slices of a volume as references for images.

    Parameters
    ----------
    reference
        A volume.
    axis
        Array axis across which it is cut.
    every
        Takes every so many slices.
    least
        Labelled voxels a slice must have.

    Raises
    ------
    InputError
        If it is an image already, or the axis does not exist.
    """
    scan, labels = reference.scan, reference.labels
    if scan.grid.ndim != 3 or axis not in (0, 1, 2) or every < 1:
        raise InputError("slices are cut from a volume across axis 0, 1 or 2, every one or more")
    rest = [a for a in range(3) if a != axis]
    for index in range(0, scan.grid.shape[axis], every):
        cut = tuple(index if a == axis else slice(None) for a in range(3))
        drawn = np.ascontiguousarray(labels.array[cut])
        if np.count_nonzero(drawn) < max(1, least):
            continue
        affine = scan.grid.affine[:, [*rest, axis, 3]].copy()
        affine[:3, 3] = scan.grid.to_world([index if a == axis else 0 for a in range(3)])
        grid = Grid(tuple(scan.grid.shape[a] for a in rest), affine, scan.grid.spacing_known, "slice")
        name = f"{reference.identifier} slice {index}"
        image = replace(scan, array=np.ascontiguousarray(scan.array[cut]), grid=grid, identifier=name)
        yield Reference(image, LabelMap(drawn, grid, labels.names), name, reference.weight)


def _compatible(one: Scan, other: Scan) -> bool:
    return "unknown" in (one.modality, other.modality) or one.modality == other.modality


def _leave_one_out(entries: Sequence[BankEntry]) -> npt.NDArray[np.float64]:
    """Each patient's best cosine with the others: of its worst scan, one number a patient."""
    vectors = [e.described.whole for e in entries]
    best: dict[int, float] = {}
    for i, one in enumerate(entries):
        others = [
            float(vectors[i] @ vectors[j])
            for j, other in enumerate(entries)
            if other.patient != one.patient
            and other.reference.scan.grid.ndim == one.reference.scan.grid.ndim
            and _compatible(one.reference.scan, other.reference.scan)
        ]
        if others:
            best[one.patient] = min(best.get(one.patient, 1.0), max(others))
    return np.array(list(best.values()))
