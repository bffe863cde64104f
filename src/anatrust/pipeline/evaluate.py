"""Metrics of a whole table: each scan, each structure, each group, with intervals and paired tests."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.errors import AnatrustError, InputError
from anatrust.image.atomic import replacing
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Mask
from anatrust.metrics import EdgeCases, cldice, metric_panel, risk_coverage
from anatrust.metrics.edge_cases import plain_number
from anatrust.metrics.lesions import MatchingRule, match_lesions
from anatrust.metrics.surface import HausdorffDefinition, surface_distances
from anatrust.pipeline.case import Names, content_hash, label_table
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.statistics.multiple_testing import benjamini_hochberg

__all__ = ["METRICS", "Evaluation", "EvaluationSettings", "ScanMetrics", "evaluate"]

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
_NO_EVIDENCE = "no pair of scans differs"
Progress = Callable[[str, int, int], None]


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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was measured.

    Parameters
    ----------
    scans
        One entry a scan, structure and prediction.
    unreadable
        Row numbers and why they were left out.
    settings
        How.
    columns
        Metadata columns the summary is broken down by.
    summary
        ``structure → which → breakdown ("all", "COLUMN = value") → metric → patients, mean, interval, median,
        infinite``.
    comparisons
        Paired tests of the mask against each rival: on the same scans, patients as units.
    risk
        Risk–coverage of a screening's abnormality against 1 - Dice, where one was given.
    """

    scans: tuple[ScanMetrics, ...]
    unreadable: tuple[tuple[int, str], ...]
    settings: EvaluationSettings
    columns: tuple[str, ...]
    summary: Mapping[str, Any]
    comparisons: tuple[Mapping[str, Any], ...]
    risk: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: definitions first, then the numbers; no patient and no scan is named."""
        return {
            "schema": 1,
            "settings": self.settings.to_json(),
            "scans": len({s.row.id for s in self.scans}),
            "patients": len({s.row.patient for s in self.scans}),
            "left_out": [{"row": number, "reason": reason} for number, reason in self.unreadable],
            "summary": self.summary,
            "comparisons": list(self.comparisons),
            "risk_coverage": self.risk,
        }

    def write_table(self, path: Path) -> None:
        """One line a scan, structure and prediction, with the table's own columns beside."""
        more = sorted({name for s in self.scans for name in s.row.metadata})
        names = [m for m in (*METRICS, "truth_volume", "prediction_volume", "merges", "splits") if self._has(m)]
        with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(
                ["id", "group", "structure", "prediction", *names, "truth_empty", "prediction_empty", *more]
            )
            for s in self.scans:
                numbers = ["" if math.isnan(s.values[m]) else f"{s.values[m]:.6g}" for m in names]
                flags = [str(s.truth_empty).lower(), str(s.prediction_empty).lower()]
                own = [s.row.metadata.get(name, "") for name in more]
                writer.writerow([s.row.id, s.row.group, s.structure, s.which, *numbers, *flags, *own])

    def _has(self, metric: str) -> bool:
        return all(metric in s.values for s in self.scans)


def evaluate(
    cohort: Cohort,
    *,
    settings: EvaluationSettings | None = None,
    rivals: Sequence[str] = (),
    folder: Path = Path(),
    by: Sequence[str] = ("group",),
    names: Names = None,
    abnormality: Mapping[str, float] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the masks of a table with their truth.

    Parameters
    ----------
    cohort
        Rows with ``mask`` and ``truth``.
    settings
        How they are compared.
    rivals, folder
        Further columns that name other predictions of the same scans, and the folder (the table's) these files
        are relative to.
    by
        Columns the summary is broken down by: ``group`` or any further column.
    names
        Names of the labels, see `label_table`. Without any the only label of a table is called "mask".
    abnormality
        A screening's score by scan id, for a risk–coverage curve against 1 - Dice (mean over structures).
    cache
        Folder for finished rows: a run that was killed goes on where it stopped.
    progress
        Told ``(stage, done, total)``.

    Returns
    -------
    Evaluation
        A patient with several scans counts once, by the mean. Intervals are percentile bootstraps over
        patients; infinite distances (nothing predicted) are counted, and left out of means.

    Raises
    ------
    InputError
        If no row has both, or a column does not exist.
    """
    settings, table = settings or EvaluationSettings(), label_table(names)
    _check_columns(cohort, rivals, by)
    if not any(row.truth is not None and row.mask is not None for row in cohort):
        raise InputError(f"{cohort.source}: no row has both a mask and a truth; give these columns")
    scans: list[ScanMetrics] = []
    unreadable: list[tuple[int, str]] = []
    rows = [row for row in cohort if row.truth is not None]
    for done, row in enumerate(rows):
        if progress:
            progress("evaluate", done, len(rows))
        try:
            files = {"mask": row.mask, **{name: _beside(row, name, folder) for name in rivals}}
            for which, file in files.items():
                if file is None:
                    raise InputError(f"the {which} is missing")
                scans += _measured(row, which, file, settings, cache)
        except AnatrustError as error:
            unreadable.append((row.number, str(error)))
            scans = [s for s in scans if s.row is not row]
    if not scans:
        raise InputError(f"{cohort.source}: no row could be read, the first one: {unreadable[0][1]}")
    scans = _named(scans, table)
    summary = _summary(scans, by, settings)
    comparisons = _comparisons(scans, rivals, settings)
    risk = None if abnormality is None else _risk(scans, abnormality)
    return Evaluation(tuple(scans), tuple(unreadable), settings, tuple(by), summary, comparisons, risk)


def _check_columns(cohort: Cohort, rivals: Sequence[str], by: Sequence[str]) -> None:
    known = {name for row in cohort for name in row.metadata}
    for column in (*rivals, *(name for name in by if name != "group")):
        if column not in known:
            raise InputError(
                f"{cohort.source} has no column {column!r}: "
                + (f"choose one of {', '.join(sorted(known))}" if known else "it has none beside those of every cohort")
            )


def _beside(row: CohortRow, column: str, folder: Path) -> Path:
    """The file a rival column names, relative to the table's folder."""
    text = row.metadata.get(column, "")
    if not text:
        raise InputError(f"column {column}: the cell is empty")
    file = folder / text
    if not file.is_file():
        raise InputError(f"column {column}: there is no file {text!r} beside the table; correct the path")
    return file


def _measured(
    row: CohortRow, which: str, file: Path, settings: EvaluationSettings, cache: Path | None
) -> list[ScanMetrics]:
    """All structures of one prediction, from the cache where they are."""
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


def _named(scans: Sequence[ScanMetrics], names: Mapping[int, str]) -> list[ScanMetrics]:
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


def _by_patient(scans: Sequence[ScanMetrics], metric: str) -> tuple[npt.NDArray[np.float64], int]:
    """The mean of each patient's finite values, and how many scans were infinite."""
    people: dict[str, list[float]] = {}
    infinite = 0
    for s in scans:
        value = s.values.get(metric, math.nan)
        infinite += int(math.isinf(value))
        # Dice of a scan without the structure says nothing about how well it is outlined.
        if math.isfinite(value) and not (metric in ("dice", "iou", "surface_dice", "cldice") and s.truth_empty):
            people.setdefault(s.row.patient, []).append(value)
    return np.array([np.mean(v) for v in people.values()]), infinite


def _interval(values: npt.NDArray[np.float64], settings: EvaluationSettings) -> list[float] | None:
    """Percentile bootstrap of the mean over patients; none for fewer than five."""
    if len(values) < 5:
        return None
    rng = np.random.default_rng(settings.seed)
    means = values[rng.integers(0, len(values), (settings.draws, len(values)))].mean(axis=1)
    tail = (1 - settings.confidence) / 2
    return [round(float(v), 5) for v in np.quantile(means, (tail, 1 - tail))]


def _described(scans: Sequence[ScanMetrics], settings: EvaluationSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in METRICS:
        if not any(metric in s.values for s in scans):
            continue
        values, infinite = _by_patient(scans, metric)
        if len(values):
            found[metric] = {
                "patients": len(values),
                "mean": round(float(values.mean()), 5),
                "interval": _interval(values, settings),
                "median": round(float(np.median(values)), 5),
                "infinite": infinite,
            }
    healthy = [s for s in scans if s.truth_empty]
    found["empty_truth"] = {"scans": len(healthy), "left_empty": sum(s.prediction_empty for s in healthy)}
    found["missed"] = sum(s.prediction_empty and not s.truth_empty for s in scans)
    found["scans"] = len(scans)
    return found


def _value(row: CohortRow, column: str) -> str:
    return row.group if column == "group" else row.metadata.get(column, "")


def _summary(scans: Sequence[ScanMetrics], by: Sequence[str], settings: EvaluationSettings) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for s in scans:
        summary.setdefault(s.structure, {}).setdefault(s.which, {})
    for structure, predictions in summary.items():
        for which in predictions:
            own = [s for s in scans if s.structure == structure and s.which == which]
            parts: dict[str, Any] = {"all": _described(own, settings)}
            for column in by:
                values = sorted({_value(s.row, column) for s in own} - {""})
                for value in values:
                    chosen = [s for s in own if _value(s.row, column) == value]
                    parts[f"{column} = {value}"] = _described(chosen, settings)
            predictions[which] = parts
    return summary


def _comparisons(
    scans: Sequence[ScanMetrics], rivals: Sequence[str], settings: EvaluationSettings
) -> tuple[Mapping[str, Any], ...]:
    """Paired differences mask - rival by patient: bootstrap interval, Wilcoxon signed-rank, BH over all tests."""
    from scipy.stats import wilcoxon

    found: list[dict[str, Any]] = []
    for structure in dict.fromkeys(s.structure for s in scans):
        own = {(s.which, s.row.id): s for s in scans if s.structure == structure}
        ids = [i for which, i in own if which == "mask"]
        for rival in rivals:
            for metric in METRICS:
                gaps: dict[str, list[float]] = {}
                for i in ids:
                    pair = own["mask", i], own.get((rival, i))
                    if pair[1] is None or metric not in pair[0].values:
                        continue
                    gap = pair[0].values[metric] - pair[1].values[metric]
                    if math.isfinite(gap):
                        gaps.setdefault(pair[0].row.patient, []).append(gap)
                values = np.array([np.mean(v) for v in gaps.values()])
                if len(values) < 2:
                    continue
                p = float(wilcoxon(values).pvalue) if np.any(values != 0) else 1.0
                found.append(
                    {
                        "structure": structure,
                        "rival": rival,
                        "metric": metric,
                        "patients": len(values),
                        "difference": round(float(values.mean()), 5),
                        "interval": _interval(values, settings),
                        "p": p,
                        "note": "" if np.any(values != 0) else _NO_EVIDENCE,
                    }
                )
    if found:
        adjusted = benjamini_hochberg(np.array([row["p"] for row in found]))
        for row, q in zip(found, adjusted.tolist(), strict=True):
            row["q"] = q
    return tuple(found)


def _risk(scans: Sequence[ScanMetrics], abnormality: Mapping[str, float]) -> dict[str, Any]:
    """Whether what screening says orders the scans by how well they are segmented."""
    losses: dict[str, list[float]] = {}
    for s in scans:
        if s.which == "mask" and not s.truth_empty:
            losses.setdefault(s.row.id, []).append(1 - s.values["dice"])
    ids = [i for i in losses if i in abnormality]
    if len(ids) < 2:
        raise InputError("the screening names fewer than two of the evaluated scans: use the same ids in both tables")
    curve = risk_coverage([abnormality[i] for i in ids], [float(np.mean(losses[i])) for i in ids])
    return {
        "scans": len(ids),
        "aurc": round(curve.aurc, 5),
        "best_aurc": round(curve.best_aurc, 5),
        "random_aurc": round(curve.random_aurc, 5),
        "coverage": [round(float(v), 4) for v in curve.coverage],
        "risk": [round(float(v), 5) for v in curve.risk],
    }
