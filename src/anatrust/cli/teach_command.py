"""``anatrust teach``: a segmenter of one's own, from a labelled cohort, in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import AnatomyNames, Modality, Quiet, Verbose
from anatrust.errors import InputError

__all__ = ["teach_command"]


def teach_command(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT.csv", help="Table of scans; CSV or Parquet.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The classifier to write.")],
    organ: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Look in this organ of the anatomy; may be repeated.")
    ] = None,
    trees: Annotated[int, typer.Option(metavar="N", help="Boosting rounds.")] = 200,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the voxels that are drawn.")] = 0,
    modality: Modality = None,
    anatomy_names: AnatomyNames = None,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Train the segmenter 'pixel-classifier' on scans with a truth; minutes, no graphics card.

    The table has the columns id, image and truth; also anatomy, and lesion_free = true for healthy
    people. Use FILE with segment --segmenter pixel-classifier --weights FILE, and fit its profile on
    other patients than these.
    """
    from anatrust.models.pixel_classifier import PixelRecipe
    from anatrust.models.segmenters.pixel_classifier import PixelTarget
    from anatrust.pipeline.case import content_hash
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.outputs import replace_json, run_record
    from anatrust.pipeline.teach import teach

    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"cannot write the classifier {out}: give a file in a folder that exists")
    begin = time.perf_counter()
    recipe = PixelRecipe(trees=trees, seed=seed)

    def warn(line: str) -> None:
        if not quiet:
            typer.echo(f"anatrust: {line}", err=True)

    with progress_bar(quiet) as progress:
        model = teach(
            Cohort.read(cohort),
            organs=organ or (),
            recipe=recipe,
            modality=modality,
            anatomy_names=anatomy_names,
            progress=progress,
            warn=warn,
        )
    model.save(out)
    record = run_record(
        command="teach",
        configuration={"organs": list(organ or ()), "trees": trees, "modality": modality},
        inputs={"cohort": {"name": cohort.name, "sha256": content_hash(cohort)}},
        seed=seed,
        timings={"teach": time.perf_counter() - begin},
        outputs=[out],
    )
    replace_json(out.with_name(out.name + ".run.json"), record)
    if not quiet:
        typer.echo(f"Wrote {out}: {PixelTarget(model).identity}")
    return 0
