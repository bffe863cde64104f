"""Numbers of one scan: a prediction against its truth, structure by structure, kept by content."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatrust._version import __version__
from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Mask
from anatrust.metrics import EdgeCases, cldice, metric_panel
from anatrust.metrics.edge_cases import plain_number
from anatrust.metrics.lesions import MatchingRule, match_lesions
from anatrust.metrics.surface import HausdorffDefinition, surface_distances
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.cohort import CohortRow

__all__ = ["METRICS", "EvaluationSettings", "ScanMetrics", "measure_scan", "named_alike"]

METRICS = (
    "dice",
    "iou",
    "surface_dice",
    "assd",
    "hd95",
    "cldice",
    "sensitivity",
    "specificity",
    "precision",
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
    "volume_difference",
    "relative_volume_difference",
)
"""What is summarised; `cldice` only where it was asked for."""

_NOTHING = ""  # the structure of a scan in which neither mask holds anything, until the whole table is known


@dataclass(frozen=True)
class EvaluationSettings:
    """How masks are compared; written beside every number.

    Parameters
    ----------
    edge_cases, hd95_definition, surface_tolerance, lesion_rule, lesion_threshold
        See :func:`~anatrust.metrics.metric_panel`.
    labels
        ``"each"`` label of the truth or prediction on its own, or ``"union"`` of all as one mask.
    centrelines
        Whether clDice is computed (for vessels; slow on large organs).
    draws, confidence, seed
        Of the bootstrap over patients.
    """

    edge_cases: EdgeCases = field(default_factory=EdgeCases)
    hd95_definition: HausdorffDefinition = "max-directed"
    surface_tolerance: float = 2.0
    lesion_rule: MatchingRule = "any-overlap"
    lesion_threshold: float = 0.5
    labels: str = "each"
    centrelines: bool = False
    draws: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels not in ("each", "union"):
            raise InputError(f"labels are evaluated 'each' or as one 'union', not {self.labels!r}")
        if self.draws < 100 or not 0 < self.confidence < 1:
            raise InputError("intervals need at least 100 draws and a confidence between 0 and 1")
        # Refused here by those who know, before a table is read.
        mark = np.ones((1, 1), dtype=bool)
        match_lesions(mark, mark, rule=self.lesion_rule, threshold=self.lesion_threshold)
        apart = surface_distances(mark, mark)
        apart.hausdorff(95, definition=self.hd95_definition)
        apart.surface_dice(self.surface_tolerance)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"edge_cases": self.edge_cases.to_json()}


@dataclass(frozen=True)
class ScanMetrics:
    """Numbers of one structure in one scan.

    ``values`` by the names in :data:`METRICS` and ``truth_volume``, ``prediction_volume``, ``merges``, ``splits``;
    ``which`` is ``"mask"`` or the column of a rival prediction.
    """

    row: CohortRow
    structure: str
    which: str
    values: Mapping[str, float]
    truth_empty: bool
    prediction_empty: bool
    unit: str


def measure_scan(
    row: CohortRow, which: str, file: Path, settings: EvaluationSettings, cache: Path | None
) -> list[ScanMetrics]:
    """All structures of one prediction, from the cache where they are.

    Parameters
    ----------
    row, which, file
        The scan with its truth, and the prediction: ``"mask"`` or a rival's column, and its file.
    settings
        How they are compared.
    cache
        Folder for finished predictions, by content; None keeps nothing.

    Raises
    ------
    InputError
        If an image cannot be read, they do not lie in one space, or yes and no are written differently.
    """
    hashes = [content_hash(f) for f in (row.image, row.truth or file, file)]
    parts = [__version__, "by number", *hashes, settings.to_json()]
    kept = None
    if cache is not None:
        name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        kept = cache / f"evaluation-{name}.json"
        try:
            stored = json.loads(kept.read_text(encoding="utf-8"))
            return [_unpacked(row, which, one) for one in stored]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # never written, or damaged: measured again
    scan = read_scan(row.image)
    truth = read_mask(row.truth, reference=scan.grid)
    prediction = read_mask(file, reference=scan.grid)
    found = []
    for structure, one, other in _structures(truth, prediction, settings.labels):
        panel = metric_panel(
            one,
            other,
            edge_cases=settings.edge_cases,
            hd95_definition=settings.hd95_definition,
            surface_tolerance=settings.surface_tolerance,
            lesion_rule=settings.lesion_rule,
            lesion_threshold=settings.lesion_threshold,
        )
        plain = panel.to_json()
        values = {m: _number(plain[m]) for m in METRICS if m in plain}
        values |= {
            "truth_volume": panel.counts.truth * one.grid.voxel_volume,
            "prediction_volume": panel.counts.prediction * one.grid.voxel_volume,
            "merges": float(panel.lesions.merges),
            "splits": float(panel.lesions.splits),
        }
        if settings.centrelines:
            values["cldice"] = cldice(one.array, other.array, edge_cases=settings.edge_cases)
        found.append(ScanMetrics(row, structure, which, values, panel.truth_empty, panel.prediction_empty, panel.unit))
    if kept is not None:
        with replacing(kept) as part:
            part.write_text(json.dumps([_packed(s) for s in found]), encoding="utf-8")
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _packed(s: ScanMetrics) -> dict[str, Any]:
    values = {name: plain_number(value) for name, value in s.values.items()}
    return {"structure": s.structure, "values": values, "empty": [s.truth_empty, s.prediction_empty], "unit": s.unit}


def _unpacked(row: CohortRow, which: str, plain: Mapping[str, Any]) -> ScanMetrics:
    values = {name: _number(value) for name, value in plain["values"].items()}
    truth_empty, prediction_empty = (bool(v) for v in plain["empty"])
    return ScanMetrics(row, plain["structure"], which, values, truth_empty, prediction_empty, plain["unit"])


def _structures(truth: LabelMap, prediction: LabelMap, labels: str) -> list[tuple[str, Mask, Mask]]:
    """Name, truth and prediction of every structure; a label that only one of them has counts too."""
    held = [{int(v) for v in np.unique(m.array) if v} for m in (truth, prediction)]
    if labels == "each" and {255} in held and held[0] != held[1] and all(len(own) == 1 for own in held):
        # A yes/no mask in two spellings: nobody means the Dice of 0 that this would give.
        raise InputError(
            f"the truth holds label {min(held[0])} alone and the other mask label {min(held[1])} alone: write both with"
            " the same number, or compare them as one union (--labels union)"
        )
    numbers = sorted(held[0] | held[1])
    if labels == "union" or not numbers:
        whole = tuple(Mask(np.asarray(m.array != 0), m.grid) for m in (truth, prediction))
        return [("mask" if labels == "union" else _NOTHING, whole[0], whole[1])]
    found = []
    for number in numbers:
        name = truth.names.get(number) or prediction.names.get(number) or _unnamed(number)
        pair = tuple(Mask(np.asarray(m.array == number), m.grid) for m in (truth, prediction))
        found.append((name, pair[0], pair[1]))
    return found


def _unnamed(number: int) -> str:
    return f"label {number}"


def named_alike(scans: Sequence[ScanMetrics], names: Mapping[int, str]) -> list[ScanMetrics]:
    """Structures by one name in all scans, whatever else a scan holds.

    A scan in which neither mask holds anything counts for every structure of the table.
    """
    given = {_unnamed(number): name for number, name in names.items()}
    structures = list(dict.fromkeys(s.structure for s in scans if s.structure != _NOTHING)) or ["mask"]
    if len(structures) == 1 and structures[0].startswith("label "):
        given = {structures[0]: "mask"} | given
    return [
        replace(s, structure=given.get(name, name))
        for s in scans
        for name in (structures if s.structure == _NOTHING else [s.structure])
    ]
