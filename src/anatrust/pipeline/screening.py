"""The screening section of a profile, and what it says of one scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.ood.crops import CropSettings, NoPrediction
from anatrust.ood.explain import Explanation, explain
from anatrust.ood.features import ScanFeatures
from anatrust.ood.persistence import screener_from_arrays, screener_to_arrays
from anatrust.ood.screen import Screener, Screening
from anatrust.pipeline.screening_features import Description, crops_of

__all__ = ["ScreeningSection", "crops_of", "scan_abnormality", "screen_features", "screen_scan"]


@dataclass(frozen=True, eq=False)
class ScreeningSection:
    """What screening learnt.

    Parameters
    ----------
    screener
        Fitted and calibrated detectors.
    crops
        How crops are drawn.
    modality
        Handed to `read_scan` when fitted; the intensity rule depends on it.
    description
        What is measured; the embedded local descriptors if None.
    synthetic
        How many of the strange scans it learnt from were made from usual ones, by kind.
    """

    screener: Screener
    crops: CropSettings
    modality: str | None
    description: Description | None = None
    synthetic: Mapping[str, int] | None = None

    @property
    def measured(self) -> Description:
        """What is measured in a scan."""
        return self.description or Description("descriptors", self.crops)

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values and plain arrays for a profile; a network goes along whole."""
        document, arrays = screener_to_arrays(self.screener)
        measured, weights = self.measured.to_arrays()
        plain = {
            "screener": document,
            "crops": self.crops.to_json(),
            "modality": self.modality,
            "description": measured,
            "synthetic": dict(self.synthetic or {}),
        }
        return plain, arrays | weights

    @classmethod
    def from_arrays(cls, plain: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> ScreeningSection:
        """The section :meth:`to_arrays` wrote; profiles from before there was a choice measure local descriptors."""
        crops = CropSettings.from_json(plain["crops"])
        own = {name: value for name, value in arrays.items() if not name.startswith("encoder.")}
        screener = screener_from_arrays(plain["screener"], own)
        description = Description.from_arrays(plain.get("description", {"kind": "descriptors"}), crops, arrays)
        if description.identity != screener.identity:
            raise FormatError("screening measured otherwise when it was fitted, or with other packages")
        return cls(screener, crops, plain["modality"], description, dict(plain.get("synthetic") or {}))


def screen_features(
    section: ScreeningSection, features: ScanFeatures | NoPrediction, *, group: str | None = None
) -> Screening:
    """What the section says of a scan's features.

    Parameters
    ----------
    section, features
        Fitted, and measured alike.
    group
        The scan's group, where the calibration is by group. None where it is not known: then it is judged
        by the group in which it is least strange, which keeps the promise whichever group it is of.

    Raises
    ------
    InputError
        If a group is given that was not calibrated.
    """
    if section.screener.cross is not None:
        return section.screener.screen(features)
    groups = list(section.screener.calibration or {})
    if group is None or groups == [""]:
        found = [section.screener.screen(features, group=name) for name in groups]
        if not found:
            raise InputError("the screener is not calibrated: fit the profile again")
        return max(found, key=lambda s: (s.p_value or 0.0, s.verdict == "infeasible"))
    return section.screener.screen(features, group=group)


def scan_abnormality(
    section: ScreeningSection, scan: Scan, labels: LabelMap, probabilities: ProbabilityMap | None = None
) -> float:
    """The abnormality of a scan as a number to reckon with; without a prediction the largest calibrated one."""
    features = section.measured.of(scan, labels, probabilities)
    if isinstance(features, NoPrediction):
        screener = section.screener
        kept = [screener.cross.scores] if screener.cross is not None else [*(screener.calibration or {}).values()]
        known = [scores.max() for scores in kept if scores.size]
        return float(max(known, default=0.0))
    return float(section.screener.abnormality([features])[0])


def screen_scan(
    section: ScreeningSection,
    scan: Scan,
    labels: LabelMap,
    probabilities: ProbabilityMap | None = None,
    *,
    group: str | None = None,
) -> tuple[Screening, Explanation | None]:
    """Ask whether the model may be used on this scan, and why it says so; no explanation without a prediction.

    Raises
    ------
    InputError
        If the section measures the segmenter's certainty and there are no probabilities.
    """
    features = section.measured.of(scan, labels, probabilities)
    screening = screen_features(section, features, group=group)
    return screening, None if isinstance(features, NoPrediction) else explain(section.screener, features)
