"""Everything fitted from a cohort, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.errors import FormatError, InputError
from anatrust.pipeline.archive import read_archive, write_archive
from anatrust.pipeline.bounds import BoundsSection
from anatrust.pipeline.fit_thresholds import GatesSection
from anatrust.pipeline.screening import ScreeningSection
from anatrust.pipeline.sets import SetsSection
from anatrust.rejection.settings import SCORES, RejectionSettings
from anatrust.statistics.conformal_p import CohortNull
from anatrust.statistics.realised_level import realised_level

__all__ = ["PROFILE_SCHEMA_VERSION", "Profile", "RejectionSection"]

PROFILE_SCHEMA_VERSION = 2
_FORMAT = "anatrust-profile"
_DOCUMENT = "profile.json"


@dataclass(frozen=True, eq=False)
class RejectionSection:
    """What rejection learnt: how odd the candidates are that a segmenter proposes in healthy patients.

    Parameters
    ----------
    settings
        The settings the scores were computed with; a scan is judged with the same. Their score is never ``"auto"``:
        that becomes the newest here.
    null
        Candidate scores by lesion-free patient, the scans of a patient pooled. The order of
        patients carries no meaning.
    scans
        Scans the scores come from.
    anatomy
        Whether organs were given as normal tissue; a scan is judged likewise.
    probabilities
        Whether any of the scans came with the segmenter's probabilities, which gates and some scores look at; None in
        profiles that do not say.
    """

    settings: RejectionSettings
    null: CohortNull
    scans: int
    anatomy: bool
    probabilities: bool | None = None

    def __post_init__(self) -> None:
        # A profile names its score, whatever is the newest when it is read.
        object.__setattr__(self, "settings", self.settings.scored())


@dataclass(frozen=True, eq=False)
class Profile:
    """Everything fitted from one cohort for one segmenter; partial profiles are legal.

    Parameters
    ----------
    segmenter
        Name of the segmenter that drew the masks; a promise holds for no other.
    modality
        Modality of the cohort's scans, or ``"unknown"``.
    cohort_hash
        SHA-256 over the contents of the files it was fitted from; says which cohort, not who.
    rejection
        Section of `rejection`; None if it could not be fitted.
    sets
        Section of `conformal`; None if it could not be fitted.
    screening
        Section of `ood`; None if it could not be fitted.
    gates
        Learnt thresholds of the gates; the rejection section's settings hold them too.
    bounds
        What evidence says about the quality of masks; None if it could not be fitted.
    not_fitted
        What could not be fitted and why, one sentence each.
    version
        Of anatrust that fitted it.

    Guarantee
    ---------
    None of its own. It holds no patient name, id or file name.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> section = RejectionSection(RejectionSettings(), CohortNull((np.array([0.2]),)), 1, False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Profile("demo", "CT", "0" * 64, section).save(folder + "/demo.profile")
    ...     Profile.load(folder + "/demo.profile").rejection.null.n_patients
    1
    """

    segmenter: str
    modality: str
    cohort_hash: str
    rejection: RejectionSection | None = None
    not_fitted: tuple[str, ...] = ()
    version: str = __version__
    sets: SetsSection | None = None
    screening: ScreeningSection | None = None
    gates: GatesSection | None = None
    bounds: BoundsSection | None = None

    def save(self, path: str | Path) -> None:
        """Write the profile as one zip, whole or not at all; the same profile gives the same bytes.

        Raises
        ------
        InputError
            If the folder cannot be written to.
        """
        sections: dict[str, Any] = {}
        arrays: dict[str, dict[str, npt.NDArray[Any]]] = {}
        if self.rejection is not None:
            section = self.rejection
            # Sorted, so that the order of patients in the table cannot be read off.
            patients = sorted(tuple(np.sort(scores).tolist()) for scores in section.null.per_patient)
            null = CohortNull(tuple(np.array(scores, dtype=np.float64) for scores in patients))
            arrays["rejection"] = null.to_arrays()
            settings = section.settings.to_json()
            sections["rejection"] = {
                "score": settings.pop("score"),
                "settings": settings,
                "patients": null.n_patients,
                "scans": section.scans,
                "candidates": null.n_candidates,
                "floor": null.floor,
                "anatomy": section.anatomy,
            }
            if section.probabilities is not None:
                sections["rejection"]["probabilities"] = section.probabilities
        if self.sets is not None:
            sections["sets"] = self.sets.to_json()
        if self.gates is not None:
            sections["gates"] = self.gates.to_json()
        if self.screening is not None:
            sections["screening"], arrays["screening"] = self.screening.to_arrays()
        if self.bounds is not None:
            sections["bounds"], arrays["bounds"] = self.bounds.to_json()
        document = {
            "format": _FORMAT,
            "schema_version": PROFILE_SCHEMA_VERSION,
            "anatrust": self.version,
            "segmenter": self.segmenter,
            "modality": self.modality,
            "cohort_hash": self.cohort_hash,
            "sections": sections,
            "not_fitted": list(self.not_fitted),
        }
        write_archive(path, _DOCUMENT, document, arrays)

    @classmethod
    def of(cls, source: object) -> Profile:
        """A profile, or the one in a file.

        Raises
        ------
        InputError
            If it is neither, or as :meth:`load`.
        """
        if isinstance(source, str | Path):
            return cls.load(source)
        if not isinstance(source, cls):
            raise InputError(f"a profile is a Profile or its file, not of type {type(source).__name__}")
        return source

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile of this or an older schema version.

        Raises
        ------
        InputError
            If there is no such file.
        FormatError
            If it is foreign, damaged, changed, or of a newer schema version: one line.
        """
        document, arrays = read_archive(path, _DOCUMENT)
        name = Path(path).name
        if document.get("format") != _FORMAT:
            raise FormatError(f"{name} is not an anatrust profile: give one written by 'anatrust fit'")
        version = document.get("schema_version")
        if isinstance(version, int) and version > PROFILE_SCHEMA_VERSION:
            raise FormatError(
                f"{name} has schema version {version}, newer than {PROFILE_SCHEMA_VERSION}: upgrade anatrust to read it"
            )
        reader = _READERS.get(version) if isinstance(version, int) else None
        if reader is None:
            raise FormatError(f"{name} has the unknown schema version {version!r}: fit it again")
        try:
            return reader(document, arrays)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # InputError is a ValueError: its own sentence says more than its type.
            what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise FormatError(f"{name} is inconsistent ({what}): fit it again") from error

    def describe(self) -> list[str]:
        """What the profile holds, then what could not be fitted and advice, one line each, for people."""
        return [*self.holds(), *self.not_fitted]

    def holds(self) -> list[str]:
        """What the profile holds alone."""
        lines = [f"segmenter {self.segmenter}, modality {self.modality}, cohort {self.cohort_hash[:12]}"]
        if self.rejection is not None:
            null = self.rejection.null
            lines.append(
                f"rejection: {null.n_candidates} candidates of {null.n_patients} lesion-free patients "
                f"({self.rejection.scans} scans), score {self.rejection.settings.score}, "
                f"smallest p-value {null.floor:.3g}{_spread(self.rejection)}"
            )
        if self.sets is not None:
            lines += [
                f"sets of {c.structure}: {c.patients} patients, score {c.recipe.label}, outer "
                f"{'calibrated' if c.outer.feasible else 'infeasible'}, inner "
                f"{'calibrated' if c.inner.feasible else 'infeasible'} at {self.sets.alpha:g}"
                for c in self.sets.calibrations
            ]
            lines += _split_lines(self.sets)
        if self.gates is not None and self.gates.feasible:
            lines.append(f"{self.gates.words}; {self.gates.removed:.0%} of false candidates refused in tuning")
        if self.bounds is not None:
            lines += self.bounds.describe()
        if self.screening is not None:
            screener = self.screening.screener
            calibrated = f"{screener.n_calibration} calibrated on"
            if screener.cross is not None:
                calibrated = f"the same calibrated on, each left out in turn (at most {screener.promise:g} flagged)"
            lines.append(
                f"screening: {len(screener.fit_patients)} patients fitted on, {calibrated}, "
                f"flags {screener.flag_rate:g} of usual scans; {self.screening.measured.words}, "
                f"{' and '.join(detector.name for detector in screener.detectors)}"
            )
        return lines


def _spread(section: RejectionSection) -> str:
    """How far this one cohort may be off its level, in words; nothing where it decides nothing."""
    alpha, draw = section.settings.alpha, section.settings.cohort_draw
    low, high = realised_level(section.null.n_patients, alpha)
    if high == 0 or draw != "maximum":
        return ""
    return (
        f"; at level {alpha:g} 95 % of cohorts of this size let {low:.2f} to {high:.2f} of lesion-free patients through"
    )


def _split_lines(sets: SetsSection) -> list[str]:
    """Who served what, in all and by group."""
    split = sets.split
    if not split:
        return []
    lines = [
        f"split by patient: {split['learning']} to learn from ({split['tuning']} of them to choose the score), "
        f"{split['calibration']} to calibrate on"
    ]
    lines += [
        f"group {name}: {learning} to learn from, {calibration} to calibrate on, "
        + ("thresholds of its own" if name in sets.groups else "no thresholds of its own")
        for name, (learning, calibration) in split["groups"].items()
    ]
    return lines


def _read(document: Mapping[str, Any], arrays: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> Profile:
    plain = document["sections"].get("rejection")
    section = None
    if plain is not None:
        # Scores of another definition cannot be ranked among those of this one: each profile judges by its own.
        score = plain.get("score", "mmd2-volume/1")
        if score not in SCORES:
            known = ", ".join(SCORES)
            raise FormatError(f"its candidates were scored by {score}, this version knows the scores {known}")
        null = CohortNull.from_arrays(arrays["rejection"])
        if null.n_patients != plain["patients"]:
            raise FormatError(f"it names {plain['patients']} patients and holds {null.n_patients}")
        section = RejectionSection(
            settings=RejectionSettings.from_json(plain["settings"] | {"score": score}),
            null=null,
            scans=int(plain["scans"]),
            anatomy=bool(plain["anatomy"]),
            probabilities=bool(plain["probabilities"]) if "probabilities" in plain else None,
        )
    return Profile(
        segmenter=str(document["segmenter"]),
        modality=str(document["modality"]),
        cohort_hash=str(document["cohort_hash"]),
        rejection=section,
        sets=SetsSection.from_json(document["sections"]["sets"]) if "sets" in document["sections"] else None,
        screening=ScreeningSection.from_arrays(document["sections"]["screening"], arrays.get("screening", {}))
        if "screening" in document["sections"]
        else None,
        gates=GatesSection.from_json(document["sections"]["gates"]) if "gates" in document["sections"] else None,
        bounds=BoundsSection.from_json(document["sections"]["bounds"], arrays["bounds"])
        if "bounds" in document["sections"]
        else None,
        not_fitted=tuple(str(line) for line in document["not_fitted"]),
        version=str(document["anatrust"]),
    )


# Readers of old versions stay here for good; each has a golden file under tests/pipeline/data.
_READERS: dict[int, Callable[[Mapping[str, Any], Mapping[str, Mapping[str, npt.NDArray[Any]]]], Profile]] = {
    1: _read,  # version 2 adds bounds and, in sets, groups, encoder and split: all absent in version 1
    2: _read,
}
