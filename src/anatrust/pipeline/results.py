"""The folder of one run: verdict, masks, table, page, and the record of what made them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from anatrust.image.adapter import written_name
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.image.write import write_mask, write_probabilities
from anatrust.ood.crops import Crops
from anatrust.pipeline.case import Case, content_hash
from anatrust.pipeline.judging import Judged
from anatrust.pipeline.outputs import output_folder, replace_json, run_record, write_candidates, write_structures
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.screening import crops_of
from anatrust.pipeline.verdict import Verdict

if TYPE_CHECKING:
    from anatrust.conformal.sets import PredictionSet
    from anatrust.ood.explain import Explanation

__all__ = ["PageWriter", "write_results"]


class PageWriter(Protocol):
    """What writes the page: the report room's `write_report`, which stands above this room."""

    def __call__(
        self,
        path: str | Path,
        verdict: Verdict,
        scan: Scan,
        labels: LabelMap,
        kept: Mask,
        rejected: Mask,
        *,
        probabilities: ProbabilityMap | None = None,
        sets: Sequence[PredictionSet] = (),
        explanation: Explanation | None = None,
        crops: Sequence[Grid] = (),
        run: Mapping[str, Any] | None = None,
    ) -> object:
        """Write one self-contained HTML file."""
        ...


def write_results(
    out: str | Path,
    judged: Judged,
    case: Case,
    *,
    sources: Mapping[str, object],
    profile: Profile | str | Path | None,
    configuration: Mapping[str, Any],
    seed: int,
    timings: Mapping[str, float],
    page: PageWriter | None,
    command: str = "assess",
    images: Mapping[str, Mask | LabelMap | ProbabilityMap] | None = None,
) -> Verdict:
    """Write everything a run leaves, all of it or nothing, and return the verdict that names the files.

    Parameters
    ----------
    out
        The folder.
    judged, case
        What was decided, and about what.
    sources
        Where scan, mask, probabilities and anatomy came from: paths or objects.
    profile, configuration, seed, timings
        For ``run.json``.
    page
        Writes ``report.html``; None leaves it out.
    command
        Which verb this is, for ``run.json``.
    images
        Further images to write, by role; probabilities are stored as NIfTI.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    begin = time.perf_counter()
    # A picture's mask is a picture; all else is NIfTI on the scan's grid.
    suffix = ".png" if case.scan.grid.layout == "raster" else ".nii.gz"
    organs = judged.verdict.kind == "organ"
    files = {
        "verdict": "verdict.json",
        "kept": f"kept{suffix}",
        "rejected": f"rejected{suffix}",
        **({"structures": "structures.csv"} if organs else {"candidates": "candidates.csv"}),
        **({} if page is None else {"report": "report.html"}),
        "run": "run.json",
    }
    masks = dict(_set_masks(judged, suffix))
    if judged.undecidable.array.any():
        masks["undecidable"] = (f"undecidable{suffix}", judged.undecidable)
    files |= {role: name for role, (name, _) in masks.items()}
    inputs = _inputs(case, sources, profile)
    more = images or {}
    files |= {role: f"{role}{'.nii.gz' if isinstance(i, ProbabilityMap) else suffix}" for role, i in more.items()}
    verdict = replace(judged.verdict, files=files)
    with output_folder(out) as folder:
        write_mask(folder / files["kept"], judged.kept)
        write_mask(folder / files["rejected"], judged.rejected)
        for name, mask in masks.values():
            write_mask(folder / name, mask)
        for role, image in more.items():
            if isinstance(image, ProbabilityMap):
                write_probabilities(folder / files[role], image)
            else:
                write_mask(folder / files[role], image)
        if organs:
            write_structures(folder / files["structures"], verdict)
        else:
            write_candidates(folder / files["candidates"], verdict)
        (folder / files["verdict"]).write_text(verdict.dumps() + "\n", encoding="utf-8")
        if page is not None:
            page(
                folder / files["report"],
                verdict,
                case.scan,
                case.labels,
                judged.kept,
                judged.rejected,
                probabilities=case.probabilities,
                sets=judged.sets,
                explanation=judged.explanation,
                crops=_crops(judged, case, profile),
                run={"inputs": inputs, "seed": seed, "settings": configuration},
            )
        record = run_record(
            command=command,
            configuration=configuration,
            inputs=inputs,
            seed=seed,
            timings={**timings, "write": time.perf_counter() - begin},
            outputs=list(folder.iterdir()),
        )
        replace_json(folder / files["run"], record)
    return verdict


def _set_masks(judged: Judged, suffix: str) -> Iterator[tuple[str, tuple[str, Mask]]]:
    """Role, file name and mask of every set; sets of several structures overlap, so each has a file."""
    single = len(judged.sets) == 1
    for found, summary in zip(judged.sets, judged.verdict.sets, strict=True):
        for side, mask in (("inner", found.inner), ("outer", found.outer)):
            role = side if single else f"{side}_{summary.label}"
            yield role, (f"{role}{suffix}", mask)


def _crops(judged: Judged, case: Case, profile: Profile | str | Path | None) -> tuple[Grid, ...]:
    """Where the crops lie that screening looked at; drawn again, from the same seed."""
    if judged.explanation is None or profile is None:
        return ()
    section = Profile.of(profile).screening
    if section is None or section.measured.of_mask:  # which measures the mask as a whole
        return ()
    drawn = crops_of(case.scan, case.labels, section.crops)
    return drawn.grids if isinstance(drawn, Crops) else ()


def _inputs(
    case: Case, sources: Mapping[str, object], profile: Profile | str | Path | None
) -> dict[str, dict[str, str]]:
    images: dict[str, Scan | LabelMap | ProbabilityMap | None] = {
        "scan": case.scan,
        "mask": case.labels,
        "probabilities": case.probabilities,
        "anatomy": case.anatomy,
    }
    inputs = {role: _about(sources.get(role), image) for role, image in images.items() if image is not None}
    if isinstance(profile, Profile):
        inputs["profile"] = {"name": "Profile in memory", "cohort_hash": profile.cohort_hash}
    elif profile is not None:
        inputs["profile"] = {"name": written_name(profile), "sha256": content_hash(profile)}
    return inputs


def _about(source: object, image: Scan | LabelMap | ProbabilityMap) -> dict[str, str]:
    """Name and hash of an input: of the file where there is one, else of what was read from the object."""
    if isinstance(source, str | Path):
        return {"name": written_name(source), "sha256": content_hash(source)}
    return {"name": f"{type(source).__name__} in memory", "sha256": content_hash(image)}
