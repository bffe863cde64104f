"""``anatrust demo``: the whole way on made-up patients, without any download."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import Quiet, Verbose
from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.image.volumes import LabelMap, Mask
    from anatrust.pipeline.verdict import Verdict
    from anatrust.studies.phantom import Phantom

__all__ = ["demo_command"]

_PATIENTS = 19
_THREADS = 2
_LOOKED_AT = ("liver", "spleen")
_SEGMENTER = "dark spots"


def demo_command(
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")] = Path(
        "anatrust-demo"
    ),
    patients: Annotated[int, typer.Option(metavar="N", help="Lesion-free patients for the profile.")] = _PATIENTS,
    seed: Annotated[int, typer.Option(metavar="N", help="Which patients are made up.")] = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Judge the false alarms and lesions of a made-up patient; needs no data, takes under a minute.

    A phantom abdomen CT with three lesions; a simple segmenter proposes candidates, lesions and
    false alarms; its false alarms in lesion-free phantoms become a profile; assess uses it.
    """
    if patients < 1 or seed < 0:
        raise InputError("--patients is at least 1 and --seed at least 0")
    from anatrust.image.write import write_mask, write_scan
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.fit import fit
    from anatrust.report.assess import assess
    from anatrust.studies.phantom import phantom_scan

    data = out / "data"
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {data}: {error.strerror}") from None
    with progress_bar(quiet) as progress:

        def make(number: int) -> list[str]:
            # Number 0 is the one to judge; the others are healthy.
            phantom = phantom_scan(1000 * (seed + 1) + number, lesions=0 if number else 3, quick=True)
            files = [f"{name}_{number:02d}.nii.gz" for name in ("scan", "mask", "anatomy")]
            write_scan(data / files[0], phantom.scan)
            write_mask(data / files[1], propose(phantom))
            write_mask(data / files[2], organs(phantom))
            return [f"healthy-{number:02d}", *files, "true"]

        rows = []
        # Interpolation and Fourier transforms leave the interpreter to others: two threads, half the time.
        pool = ThreadPoolExecutor(_THREADS)
        try:
            for number, row in enumerate(pool.map(make, range(patients + 1))):
                rows += [row] if number else []
                if progress:
                    progress("making patients up", number + 1, patients + 1)
        finally:
            pool.shutdown(cancel_futures=True)
        table = data / "cohort.csv"
        with table.open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows(
                [["id", "image", "mask", "anatomy", "lesion_free"], *rows]
            )
        profile = fit(
            Cohort.read(table),
            segmenter=_SEGMENTER,
            modality="CT",
            anatomy_names="totalsegmentator_ct",
            progress=progress,
        )
        profile.save(out / "demo.profile")
        verdict = assess(
            data / "scan_00.nii.gz",
            data / "mask_00.nii.gz",
            anatomy=data / "anatomy_00.nii.gz",
            anatomy_names="totalsegmentator_ct",
            modality="CT",
            profile=out / "demo.profile",
            names={1: "candidate"},
            seed=seed,
            out=out,
            progress=progress,
        )
    if not quiet:
        from anatrust.cli.show_verdict import verdict_text
        from anatrust.image.read import read_mask

        truth = phantom_scan(1000 * (seed + 1), lesions=3, quick=True).truth
        typer.echo(verdict_text(verdict))
        typer.echo("")
        typer.echo(found_text(truth, read_mask(data / "mask_00.nii.gz"), read_mask(out / "kept.nii.gz"), verdict))
        typer.echo(f"The page to look at: {out / 'report.html'}")
        typer.echo(
            f"The same by hand: anatrust assess -i {data / 'scan_00.nii.gz'} -m {data / 'mask_00.nii.gz'} "
            f"--modality CT --anatomy {data / 'anatomy_00.nii.gz'} --anatomy-names totalsegmentator_ct "
            f"--profile {out / 'demo.profile'} -o OUT"
        )
    return 0


def organs(phantom: Phantom) -> LabelMap:
    """The phantom's organs without its bone, which is one column and no vertebra of a person."""
    import numpy as np

    from anatrust.image.volumes import LabelMap

    drawn = phantom.anatomy
    bone = [number for number, name in drawn.names.items() if name.startswith("vertebra")]
    names = {number: name for number, name in drawn.names.items() if number not in bone}
    return LabelMap(np.where(np.isin(drawn.array, bone), 0, drawn.array).astype(drawn.array.dtype), drawn.grid, names)


def propose(phantom: Phantom) -> Mask:
    """What a simple segmenter draws in liver and spleen: dark lesions, ducts, troughs of the noise."""
    import numpy as np

    from anatrust.image.volumes import Mask
    from anatrust.models.blob import threshold_candidates

    drawn = np.zeros(phantom.scan.grid.shape, dtype=bool)
    for organ in _LOOKED_AT:
        drawn |= threshold_candidates(
            phantom.scan, phantom.anatomy.mask(organ), side="dark", contrast=3.0, minimum=11.0
        ).array
    return Mask(drawn, phantom.scan.grid, "candidate")


def found_text(truth: LabelMap, drawn: LabelMap, kept: LabelMap, verdict: Verdict) -> str:
    """How the decisions compare with what was planted."""
    import numpy as np
    from scipy import ndimage

    lesions = truth.labels()
    found, left = (sum(bool(m.array[truth.array == n].any()) for n in lesions) for m in (drawn, kept))
    counts = verdict.counts()
    false = len(verdict.candidates) - counts["kept"]
    numbered, _ = ndimage.label(kept.array != 0, np.ones((3,) * kept.array.ndim))
    on_lesions = len(np.unique(numbered[(numbered > 0) & (truth.array != 0)]))
    return (
        f"What is true, since the patient is made up: of {len(lesions)} lesions the segmenter drew {found} and the "
        f"verdict keeps {left}. Of the {counts['kept']} kept candidates {on_lesions} are lesions; {false} others were "
        "not kept. What the segmenter did not draw nobody can keep."
    )
