"""Asking a frozen segmenter about a region, through mirrored views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.region import Region
from anatrust.image.volumes import Mask, Scan
from anatrust.models.protocols import Segmenter
from anatrust.models.segmentation import Prompt
from anatrust.models.views import Fusion, View, fuse_answers, views_of

__all__ = ["PromptMaker", "ask", "check_readable", "view_answers"]

PromptMaker = Callable[[View], Prompt]
"""Gives the prompt in the words that fit a view, with the organ in the view's own orientation."""


def check_readable(segmenter: Segmenter, scan: Scan) -> None:
    """See that a segmenter reads such a scan.

    Raises
    ------
    InputError
        If it reads other dimensions.
    """
    if scan.grid.ndim not in segmenter.capabilities.ndim:
        reads = " and ".join(f"{n}-D" for n in segmenter.capabilities.ndim)
        raise InputError(f"the segmenter {segmenter.name!r} reads {reads} images, the scan is {scan.grid.ndim}-D")


def view_answers(
    segmenter: Segmenter, scan: Scan, region: Region, prompt: PromptMaker, views: Iterable[View]
) -> Iterator[tuple[View, npt.NDArray[np.float32]]]:
    """What a segmenter answers to each view of a region, turned back; one at a time, so that one is held.

    A mirrored view is the mirrored *scan*, so that segmenters that look beyond the region are
    mirrored too. The grid stays as it is: the mirrored patient lies in the same scanner.
    """
    for view in views:
        seen = scan if not view.flips else replace(scan, array=view.apply(scan.array))
        found = segmenter.segment(seen, prompt(view), view.region(region, scan.grid.shape))
        if found.array.shape != (1, *region.shape):
            raise GeometryError(
                f"the segmenter {segmenter.name!r} answered shape {found.array.shape} to a region of {region.shape}"
            )
        yield view, np.asarray(view.invert(found.array[0]), dtype=np.float32)


def ask(
    segmenter: Segmenter,
    scan: Scan,
    region: Region,
    prompt: Prompt,
    *,
    words: Callable[[View], tuple[str, ...]] | None = None,
    views: Iterable[View] | None = None,
    fusion: Fusion = "max",
) -> npt.NDArray[np.float32]:
    """P^(γ): the fused answers of all views to one region.

    Parameters
    ----------
    segmenter, scan, region
        Who is asked, and about what.
    prompt
        For the image as it is.
    words
        The words for a view; those of ``prompt`` by default. Sides must be swapped in views that
        swap them, see :mod:`anatrust.models.prompts`.
    views
        The paper's three by default. One is enough, and used, for a segmenter that mirrors cannot
        change.
    fusion
        ``"max"`` or ``"mean"``.

    Returns
    -------
    float32 array of the region's shape
        Memory: three times the region.

    Raises
    ------
    InputError
        If the segmenter does not read such a scan.
    """
    check_readable(segmenter, scan)
    chosen = tuple(views_of(scan.grid) if views is None else views)
    if not segmenter.capabilities.mirrors:
        chosen = views_of(scan.grid, "identity")

    def for_view(view: View) -> Prompt:
        organ = prompt.organ
        if organ is not None and view.flips:
            organ = Mask(view.apply(organ.array), organ.grid, organ.name)
        return replace(prompt, organ=organ, words=prompt.words if words is None else words(view))

    return fuse_answers(view_answers(segmenter, scan, region, for_view, chosen), fusion)
