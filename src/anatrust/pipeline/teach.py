"""From a labelled cohort to a pixel classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from anatrust.anatomy.organs import find_label
from anatrust.errors import AnatrustError, InputError
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Mask
from anatrust.models.pixel_classifier import PixelCase, PixelClassifier, PixelRecipe, train_pixel_classifier
from anatrust.pipeline.case import Names, label_table
from anatrust.pipeline.cohort import Cohort, CohortRow
from anatrust.pipeline.progress import Progress

__all__ = ["teach"]


def teach(
    cohort: Cohort,
    *,
    organs: Sequence[str | int] = (),
    recipe: PixelRecipe | None = None,
    modality: str | None = None,
    anatomy_names: Names = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> PixelClassifier:
    """Train a pixel classifier on the rows of a cohort that have a truth, or are lesion-free.

    Parameters
    ----------
    cohort
        The table; columns ``image`` and ``truth`` (all labels but 0 are the target), perhaps
        ``anatomy`` and ``lesion_free``. The patients it is trained on must not be those a profile
        of it is fitted on: the null and every threshold would be too good.
    organs
        Structures of the anatomy to look in, names or numbers; all of its labels where none is named.
    recipe, modality, anatomy_names, progress, warn
        As in `train_pixel_classifier` and `fit`.

    Raises
    ------
    InputError
        If no row can be used or shows the target, or an organ is asked for and there is no anatomy.
    """
    rows = [row for row in cohort if row.truth is not None or row.lesion_free]
    if not rows:
        raise InputError(f"{cohort.source}: no row has a truth or lesion_free = true, nothing can be learnt")
    if organs and any(row.anatomy is None for row in rows):
        raise InputError(f"{cohort.source}: an organ was named but not every row has an anatomy; give all or none")
    table = label_table(anatomy_names)

    def cases() -> Iterator[PixelCase]:
        for done, row in enumerate(rows):
            if progress:
                progress("teach", done, len(rows))
            try:
                yield _case(row, organs, modality, table)
            except AnatrustError as reason:
                if warn:
                    warn(f"{cohort.source}, row {row.number}: left out, {reason}")

    trained = train_pixel_classifier(cases(), recipe)
    if progress:
        progress("teach", len(rows), len(rows))
    return trained


def _case(row: CohortRow, organs: Sequence[str | int], modality: str | None, table: dict[int, str]) -> PixelCase:
    scan = read_scan(row.image, modality=modality)
    truth = np.zeros(scan.grid.shape, dtype=bool)
    if row.truth is not None:
        truth = read_mask(row.truth, reference=scan.grid).array != 0
    organ = None
    if row.anatomy is not None:
        read = read_mask(row.anatomy, reference=scan.grid)
        labels = LabelMap(read.array, read.grid, {**read.names, **table})
        organ = labels.mask(*(find_label(labels, name) for name in organs))
    return PixelCase(scan, Mask(truth, scan.grid), organ)
