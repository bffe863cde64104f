"""What one patient says in calibration: losses against thresholds, evidence, and the truth about the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.image.atomic import replacing
from anatrust.models.protocols import Encoder
from anatrust.pipeline.bounds_evidence import EVIDENCE, QUANTITIES, structure_evidence, structure_truth
from anatrust.pipeline.labelled import LabelledImage
from anatrust.pipeline.sets import described_for
from anatrust.statistics.loss_curves import LossCurve, inner_loss_curve, lesion_miss_curve, outer_loss_curve

__all__ = ["PatientRecord", "StructureRecord", "read_record", "record_patient"]

_CURVES = ("outer", "inner", "lesions")


@dataclass(frozen=True, eq=False)
class StructureRecord:
    """One structure of one patient, all scans pooled into one loss.

    ``outer``, ``inner`` and ``lesions`` are None where the structure is absent; ``evidence`` is
    ``(scans, 5)`` and ``targets`` ``(scans, 4)``.
    """

    outer: LossCurve | None
    inner: LossCurve | None
    lesions: LossCurve | None
    evidence: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PatientRecord:
    """All structures of one patient, by label; ``diagonal`` and ``step`` of the smallest image and voxel."""

    structures: Mapping[int, StructureRecord]
    scans: int
    diagonal: float
    step: float

    def bound_rows(self, labels: Iterable[int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Evidence ``(scans, structures, 5)`` and targets ``(scans, structures, 4)``; unknown structures are NaN."""
        evidence, targets = [], []
        width = max((one.evidence.shape[1] for one in self.structures.values()), default=len(EVIDENCE))
        for label in labels:
            one = self.structures.get(label)
            evidence.append(np.zeros((self.scans, width)) if one is None else one.evidence)
            targets.append(np.full((self.scans, len(QUANTITIES)), np.nan) if one is None else one.targets)
        return np.stack(evidence, axis=1), np.stack(targets, axis=1)

    def without_losses(self) -> PatientRecord:
        """The same with evidence and targets alone, a few numbers a scan; the losses are gathered elsewhere."""
        bare = {k: replace(one, outer=None, inner=None, lesions=None) for k, one in self.structures.items()}
        return replace(self, structures=bare)

    def save(self, file: Path) -> None:
        """Write it whole or not at all."""
        names: dict[str, npt.NDArray[Any]] = {"size": np.array([self.scans, self.diagonal, self.step])}
        for label, one in self.structures.items():
            names[f"{label}/evidence"], names[f"{label}/targets"] = one.evidence, one.targets
            for side in _CURVES:
                curve = getattr(one, side)
                if curve is not None:
                    names[f"{label}/{side}_breaks"], names[f"{label}/{side}_losses"] = curve.breaks, curve.losses
        with replacing(file) as part, part.open("wb") as handle:
            np.savez(handle, **names)  # type: ignore[arg-type]


def read_record(file: Path) -> PatientRecord | None:
    """The record :meth:`PatientRecord.save` wrote; None where there is none or it is damaged."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as kept:
            scans, diagonal, step = kept["size"].tolist()
            found: dict[int, StructureRecord] = {}
            for label in sorted({int(name.partition("/")[0]) for name in kept if "/" in name}):
                outer, inner, lesions = (
                    LossCurve(kept[f"{label}/{side}_breaks"], kept[f"{label}/{side}_losses"])
                    if f"{label}/{side}_breaks" in kept
                    else None
                    for side in _CURVES
                )
                found[label] = StructureRecord(
                    outer, inner, lesions, kept[f"{label}/evidence"], kept[f"{label}/targets"]
                )
        return PatientRecord(found, int(scans), diagonal, step)
    except (OSError, ValueError, KeyError, EOFError):
        return None  # only ever written whole; a damaged one is made again


def record_patient(
    images: Iterable[LabelledImage],
    recipes: Mapping[int, ScoreRecipe],
    thresholds: Mapping[int, tuple[int, int]] | None,
    encoder: Encoder,
    *,
    lesions: bool = False,
    abnormality: Callable[[LabelledImage], float] | None = None,
) -> PatientRecord:
    """Everything calibration needs of one patient, scan after scan.

    Parameters
    ----------
    images
        Of the patient.
    recipes
        Score of each structure, by label.
    thresholds
        Outer and inner threshold at which evidence is measured; None measures none.
    encoder
        Of the feature graph.
    lesions
        Whether to count the truth's connected pieces.
    abnormality
        Gives a sixth column of evidence: how strange a scan is.
    """
    import cc3d

    pairs: dict[int, list[tuple[Any, Any]]] = {label: [] for label in recipes}
    numbered: dict[int, list[tuple[Any, Any]]] = {label: [] for label in recipes}
    evidence: dict[int, list[Any]] = {label: [] for label in recipes}
    targets: dict[int, list[Any]] = {label: [] for label in recipes}
    scans, diagonals, steps = 0, [np.inf], [np.inf]
    for image in images:
        scans += 1
        grid = image.scan.grid
        diagonals.append(float(np.linalg.norm(np.multiply(grid.shape, grid.spacing))))
        steps.append(min(grid.spacing))
        strange = [] if abnormality is None or thresholds is None else [abnormality(image)]
        for label, recipe in recipes.items():
            truth = np.asarray(image.truth.array == label)
            channel = image.probabilities.get(label)
            if channel is None:
                channel = np.zeros(grid.shape, dtype=np.float32)
            levels = recipe.levels(channel, image.scan.array, grid, described_for(recipe, image.scan, encoder))
            pairs[label].append((levels, truth))
            if lesions:
                numbered[label].append((levels, cc3d.connected_components(truth.astype(np.uint8))))
            mask = image.masks.get(label)
            if thresholds is not None and mask is not None:
                own = structure_evidence(levels, thresholds[label], channel, mask, grid)
                evidence[label].append(np.append(own, strange))
                targets[label].append(structure_truth(mask, truth, grid))
            else:
                evidence[label].append(np.zeros(len(EVIDENCE) + len(strange)))
                targets[label].append(np.full(len(QUANTITIES), np.nan))
    found = {
        label: StructureRecord(
            outer_loss_curve(pairs[label]),
            inner_loss_curve(pairs[label]),
            lesion_miss_curve(numbered[label]) if lesions else None,
            np.array(evidence[label]).reshape(scans, len(EVIDENCE) if not scans else -1),
            np.array(targets[label]).reshape(scans, len(QUANTITIES)),
        )
        for label in recipes
    }
    return PatientRecord(found, scans, min(diagonals), min(steps))
