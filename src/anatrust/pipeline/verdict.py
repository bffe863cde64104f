"""The answer about one scan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files as package_files
from types import MappingProxyType
from typing import Any, Literal, get_args

from anatrust.errors import FormatError, InputError
from anatrust.image.volumes import Scan
from anatrust.ood.screen import Screening
from anatrust.pipeline.bounds import StructureBounds
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.levels import Levels
from anatrust.pipeline.organ import StructureCheck
from anatrust.pipeline.sets import SetSummary
from anatrust.rejection.candidate import Candidate

__all__ = ["ACCEPT_MEANS", "SCHEMA_VERSION", "Decision", "Kind", "ScanSummary", "Statement", "Strength", "Verdict"]

SCHEMA_VERSION = 1
ACCEPT_MEANS = "nothing that was tested failed"

Decision = Literal["accept", "review", "abstain"]
Kind = Literal["lesion", "organ"]
Strength = Literal["exact", "approximate", "none"]


@dataclass(frozen=True)
class Statement:
    """One sentence the verdict stands for.

    Parameters
    ----------
    text
        The sentence, in words a clinician reads.
    level
        Its error level α; None where no level is claimed.
    strength
        ``"exact"`` under the assumption the sentence names, ``"approximate"`` (shown by a
        study), or ``"none"``: a description without a guarantee.
    about
        What it speaks of: ``"candidates"``, ``"structures"``, ``"sets"`` or ``"scan"``.
    """

    text: str
    level: float | None
    strength: Strength
    about: str

    def __post_init__(self) -> None:
        if self.strength not in get_args(Strength):
            raise InputError(f"a statement's strength is one of {', '.join(get_args(Strength))}, not {self.strength!r}")
        if self.strength != "none" and self.level is None:
            raise InputError(f"a statement that is {self.strength} names its level: {self.text}")


@dataclass(frozen=True)
class ScanSummary:
    """What the judged scan is, without its voxels: size, geometry, modality, and our name for it."""

    identifier: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    orientation: str
    modality: str
    units: str

    @classmethod
    def of(cls, scan: Scan) -> ScanSummary:
        """Summary of a scan."""
        grid = scan.grid
        return cls(scan.identifier, grid.shape, grid.spacing, grid.unit, grid.orientation, scan.modality, scan.units)


@dataclass(frozen=True, eq=True)
class Verdict:
    """The answer about one scan: a decision, its reasons, and what stands behind them.

    Parameters
    ----------
    decision
        ``"accept"``: nothing that was tested failed. ``"review"``: a person should look,
        the reasons say at what. ``"abstain"``: no answer can be given.
    reasons
        Why, one sentence each, the gravest first; never empty.
    kind
        ``"lesion"``: candidates were judged by rejection. ``"organ"``: only the form of the
        labelled structures was checked.
    scan
        What was judged.
    levels
        The tolerated error levels.
    statements
        What is promised and what is not, each with its level.
    findings
        What the input gate noticed.
    candidates
        The judged lesions (empty for organs).
    structures
        The checked organs (empty for lesions).
    sets
        Inner and outer set of each structure the profile can promise something about.
    bounds
        Bounds of Dice, HD95, volume and longest diameter of each structure, where the profile has some.
    screening
        Whether the scan is like those the segmenter was made for; None where the profile cannot say.
    null, correction
        How the p-values were made ("none" where nothing was tested).
    notes
        What was skipped or could not be done.
    files
        Written files by role (``"kept"``, ``"report"``, …), names relative to the output folder.
    version
        Of anatrust.

    Raises
    ------
    InputError
        If the decision is unknown, has no reason, or accepts where a candidate was not kept.

    Guarantee
    ---------
    None of its own: each statement names its level and its assumption. ``accept`` means, in
    these words, "nothing that was tested failed".
    """

    decision: Decision
    reasons: tuple[str, ...]
    kind: Kind
    scan: ScanSummary
    levels: Levels
    statements: tuple[Statement, ...] = ()
    findings: tuple[Finding, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    structures: tuple[StructureCheck, ...] = ()
    sets: tuple[SetSummary, ...] = ()
    bounds: tuple[StructureBounds, ...] = ()
    screening: Screening | None = None
    null: str = "none"
    correction: str = "none"
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        if self.decision not in get_args(Decision):
            raise InputError(f"a decision is one of {', '.join(get_args(Decision))}, not {self.decision!r}")
        if self.kind not in get_args(Kind):
            raise InputError(f"a verdict's kind is one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not self.reasons:
            raise InputError("a verdict gives at least one reason")
        contradicts = (
            any(f.severity != "info" for f in self.findings)
            or any(c.decision != "kept" for c in self.candidates)
            or any(s.failed for s in self.structures)
            or (self.screening is not None and not self.screening.passed)
            or any(not (s.inner_feasible and s.outer_feasible) for s in self.sets)
        )
        if self.decision == "accept" and contradicts:
            raise InputError("'accept' contradicts a warning, a candidate not kept, a failed check, set or screening")
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))

    def counts(self) -> dict[str, int]:
        """How many candidates were kept, rejected and undecidable."""
        decisions = [c.decision for c in self.candidates]
        return {name: decisions.count(name) for name in ("kept", "rejected", "undecidable")}

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values that fulfil :meth:`json_schema`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "anatrust": self.version,
            "decision": self.decision,
            "accept_means": ACCEPT_MEANS,
            "reasons": list(self.reasons),
            "kind": self.kind,
            "scan": {
                **asdict(self.scan),
                "shape": list(self.scan.shape),
                "spacing": list(self.scan.spacing),
            },
            "levels": self.levels.to_json(),
            "null": self.null,
            "correction": self.correction,
            "statements": [asdict(s) for s in self.statements],
            "findings": [f.to_json() for f in self.findings],
            "candidates": [c.to_json() for c in self.candidates],
            "structures": [s.to_json() for s in self.structures],
            "sets": [asdict(s) for s in self.sets],
            "bounds": [asdict(b) for b in self.bounds],
            "screening": None if self.screening is None else self.screening.to_json(),
            "notes": list(self.notes),
            "files": dict(self.files),
        }

    def dumps(self) -> str:
        """The verdict as JSON text; NaN never appears."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Verdict:
        """Inverse of :meth:`to_json`; takes the text too.

        Raises
        ------
        FormatError
            If the text is not a verdict, or of a newer schema version.
        """
        try:
            plain = json.loads(data) if isinstance(data, str) else data
            version = plain["schema_version"]
            if not isinstance(version, int) or version < 1:
                raise FormatError(f"the verdict's schema version is {version!r}: this is not an anatrust verdict")
            if version > SCHEMA_VERSION:
                raise FormatError(
                    f"the verdict has schema version {version}, newer than {SCHEMA_VERSION}: upgrade anatrust"
                )
            scan = {**plain["scan"], "shape": tuple(plain["scan"]["shape"]), "spacing": tuple(plain["scan"]["spacing"])}
            return cls(
                decision=plain["decision"],
                reasons=tuple(plain["reasons"]),
                kind=plain["kind"],
                scan=ScanSummary(**scan),
                levels=Levels(**plain["levels"]),
                statements=tuple(Statement(**s) for s in plain["statements"]),
                findings=tuple(Finding.from_json(f) for f in plain["findings"]),
                candidates=tuple(_candidate(c) for c in plain["candidates"]),
                structures=tuple(StructureCheck.from_json(s) for s in plain["structures"]),
                sets=tuple(SetSummary(**s) for s in plain["sets"]),
                bounds=tuple(StructureBounds(**b) for b in plain.get("bounds", ())),
                screening=_screening(plain["screening"]),
                null=plain["null"],
                correction=plain["correction"],
                notes=tuple(plain["notes"]),
                files=plain["files"],
                version=plain["anatrust"],
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise FormatError(f"this is not an anatrust verdict ({type(error).__name__}: {error})") from error

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """The published JSON Schema of :meth:`to_json` (``pipeline/verdict.schema.json``)."""
        text = package_files("anatrust.pipeline").joinpath("verdict.schema.json").read_text(encoding="utf-8")
        schema: dict[str, Any] = json.loads(text)
        return schema


def _candidate(plain: Mapping[str, Any]) -> Candidate:
    given = dict(plain)
    given["centroid_index"] = tuple(given["centroid_index"])
    given["centroid_world"] = tuple(given["centroid_world"])
    given["bounding_box"] = tuple((start, stop) for start, stop in given["bounding_box"])
    return Candidate(**given)


def _screening(plain: Mapping[str, Any] | None) -> Screening | None:
    return None if plain is None else Screening(**{**plain, "reasons": tuple(plain["reasons"])})
