"""``segment`` over a cohort: one folder a scan, resumed where it stopped, and a table to fit on."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatrust.image.atomic import replacing
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.outputs import check_output_folder, replace_json
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.signatures import cohort_signatures

__all__ = ["CohortRun", "segment_cohort"]

_COLUMNS = (
    "id", "patient", "group", "image", "mask", "probabilities", "anatomy", "truth", "outlier", "lesion_free",
)  # fmt: skip


@dataclass(frozen=True)
class CohortRun:
    """What a run over a cohort left.

    Parameters
    ----------
    table
        ``cohort.csv``: the rows with their new masks, probabilities and anchors, ready for `fit`.
    done, skipped
        How many scans were segmented, and how many were there already.
    findings
        What only many scans show (sensitivity 1 and specificity 0, ...).
    """

    table: Path
    done: int
    skipped: int
    findings: tuple[Finding, ...]


def segment_cohort(
    cohort: Cohort,
    out: str | Path,
    run_one: Callable[[CohortRow, Path], Any],
    *,
    request: Mapping[str, Any],
    progress: Progress | None = None,
) -> CohortRun:
    """Segment every scan of a cohort into a folder of its own.

    Parameters
    ----------
    cohort
        The scans. Folders, ids and patients of the result are numbers (the table's lines, and
        patients in their order): names of people do not travel.
    out
        Folder of the results.
    run_one
        Segments one row into a folder: `segment` or `segment_plain` with everything else bound.
    request
        What is asked, as plain values. A row whose folder holds a finished run of the same request
        on the same image and anatomy (by their content: a table may be sorted anew) is not done
        again; a run that was interrupted leaves no folder.
    progress
        Told ``(stage, done, total)``.

    Raises
    ------
    InputError
        If a scan cannot be read; what was finished before stays and is not done again.
    """
    target = Path(out)
    check_output_folder(target)
    target.mkdir(parents=True, exist_ok=True)
    done = skipped = 0
    runs: list[tuple[dict[str, Any], bool]] = []
    for position, row in enumerate(cohort.rows):
        if progress:
            progress(f"row {row.number}", position, len(cohort.rows))
        folder = target / f"row-{row.number:05d}"
        mark = folder / "request.json"
        files = {"image": row.image, "anatomy": row.anatomy}
        hashes = {role: None if file is None else content_hash(file) for role, file in files.items()}
        asked = json.dumps({**request, "inputs": hashes}, sort_keys=True)
        if mark.is_file() and (folder / "run.json").is_file() and mark.read_text(encoding="utf-8") == asked:
            skipped += 1
        else:
            mark.unlink(missing_ok=True)
            run_one(row, folder)
            with replacing(mark) as part:
                part.write_text(asked, encoding="utf-8")
            done += 1
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if row.lesion_free is not None and "judgement" in record["configuration"]:
            runs.append((record, row.lesion_free))
    table = _write_table(cohort, target)
    findings = cohort_signatures(runs)
    replace_json(target / "findings.json", {"findings": [finding.to_json() for finding in findings]})
    if progress:
        progress("done", len(cohort.rows), len(cohort.rows))
    return CohortRun(table, done, skipped, findings)


def _write_table(cohort: Cohort, target: Path) -> Path:
    patients = {name: f"patient-{k:05d}" for k, name in enumerate(dict.fromkeys(r.patient for r in cohort.rows), 1)}
    table = target / "cohort.csv"
    names: dict[str, str] = {}
    with replacing(table) as part, part.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in cohort.rows:
            folder = target / f"row-{row.number:05d}"
            files = {
                "mask": _first(folder, "proposed.nii.gz", "mask.nii.gz", "proposed.png", "mask.png"),
                "probabilities": _first(folder, "probabilities.nii.gz", "probabilities.npy"),
                "anatomy": _first(folder, "anchors.nii.gz", "anchors.png"),
            }
            names |= _anchor_names(folder)
            given = {"image": row.image, "truth": row.truth}
            cells = {key: "" if p is None else os.path.relpath(p, target) for key, p in (given | files).items()}
            flags = {"outlier": row.outlier, "lesion_free": row.lesion_free}
            writer.writerow(
                {
                    "id": f"row-{row.number:05d}",
                    "patient": patients[row.patient],
                    "group": row.group,
                    **cells,
                    **{key: "" if value is None else str(value).lower() for key, value in flags.items()},
                }
            )
    if names:
        replace_json(target / "anchor_names.json", names)
    return table


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _anchor_names(folder: Path) -> dict[str, str]:
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    found: dict[str, str] = record["configuration"].get("anchors", {}).get("numbers", {})
    return found
