"""A segmenter alone, over one scan or a cohort: masks, probabilities and logits, and nothing judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.adapter import written_name
from anatrust.image.read import read_scan
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.image.write import write_mask, write_probabilities, write_scan
from anatrust.models.planner import AnatomyPlan, PlanModality, Planner
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.protocols import Segmenter
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.outputs import check_output_folder, output_folder, replace_json, run_record
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.propose import Proposal, ProposalSettings, plain_proposal

__all__ = ["logits_of", "segment_plain"]

# float32 probabilities are no closer to 0 and 1 than this says anything.
_SURE = 1e-7


def logits_of(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """log(p / (1 - p)), clipped at about ±16 where the probability is 0 or 1.

    >>> logits_of(np.array([0.5, 1.0])).round().tolist()
    [0.0, 16.0]
    """
    p = np.clip(probabilities.astype(np.float32), np.float32(_SURE), np.float32(1 - _SURE))
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float32)


def segment_plain(
    scan: object,
    target: str,
    segmenter: Segmenter,
    out: str | Path,
    *,
    planner: Planner | None = None,
    settings: ProposalSettings | None = None,
    modality: str | None = None,
    spacing: float | Sequence[float] | None = None,
    series: int | str | None = None,
    progress: Progress | None = None,
) -> Proposal:
    """Run a segmenter over the whole frame and save what it says: the baseline, and what sets are fitted on.

    Neither anchors, regions nor mirrored views are used, and nothing is judged.

    Parameters
    ----------
    scan, target, segmenter
        What is asked, for what, and whom.
    out
        Folder for ``mask.nii.gz``, ``probabilities.nii.gz``, ``logits.nii.gz`` (float32) and
        ``run.json``; pictures get a PNG mask and ``.npy`` arrays of the picture's own axes.
    planner, settings, modality, spacing, series, progress
        As for `anatrust.segment`; of the settings only the threshold counts.

    Raises
    ------
    InputError
        If something cannot be read or written.
    """
    check_output_folder(out)
    timings: dict[str, float] = {}
    begin = time.perf_counter()
    image = read_scan(scan, modality=modality, spacing=spacing, series=series)
    kind: PlanModality = "unknown" if image.modality == "photo" else image.modality
    plan = (planner or RulesPlanner()).plan(target, kind)
    timings["read"] = time.perf_counter() - begin
    if progress:
        progress("segment", 1, 3)
    begin = time.perf_counter()
    how = settings or ProposalSettings()
    found = plain_proposal(image, segmenter, plan, how)
    timings["segment"] = time.perf_counter() - begin
    if progress:
        progress("write", 2, 3)
    _write(Path(out), scan, image, plan, segmenter, found, how, timings)
    if progress:
        progress("done", 3, 3)
    return found


def _write(
    out: Path,
    source: object,
    image: Scan,
    plan: AnatomyPlan,
    segmenter: Segmenter,
    found: Proposal,
    how: ProposalSettings,
    timings: dict[str, float],
) -> None:
    begin = time.perf_counter()
    with output_folder(out) as folder:
        _write_images(folder, found.labels, found.probabilities)
        path = source if isinstance(source, str | Path) else None
        name = written_name(path) if path is not None else f"{type(source).__name__} in memory"
        record = run_record(
            command="segment --plain",
            configuration={
                "target": plan.target,
                "plan": plan.to_json(),
                "segmenter": {"identity": segmenter.identity, **segmenter.capabilities.to_json()},
                "settings": how.to_json(),
                "proposal": found.to_json(),
            },
            inputs={"scan": {"name": name, "sha256": content_hash(image if path is None else path)}},
            seed=0,
            timings={**timings, "write": time.perf_counter() - begin},
            outputs=list(folder.iterdir()),
        )
        replace_json(folder / "run.json", record)


def _write_images(folder: Path, labels: LabelMap, probabilities: ProbabilityMap) -> None:
    if labels.grid.layout == "raster":
        write_mask(folder / "mask.png", labels)
        np.save(folder / "probabilities.npy", probabilities.array)
        np.save(folder / "logits.npy", logits_of(probabilities.array))
        return
    write_mask(folder / "mask.nii.gz", labels)
    write_probabilities(folder / "probabilities.nii.gz", probabilities)
    write_scan(folder / "logits.nii.gz", Scan(logits_of(probabilities.array[0]), labels.grid))
