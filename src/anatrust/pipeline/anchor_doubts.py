"""What a scan says against an anchor: grey values that no solid organ has, the wrong side, a piece that is no organ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.entries import Structure
from anatrust.anatomy.knowledge import Knowledge
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical_grid
from anatrust.image.region import bounding_box
from anatrust.image.volumes import Scan
from anatrust.models.anchor import Anchor
from anatrust.rejection.body import air_threshold, body_mask

__all__ = ["doubted"]

# Conventions of ours. Structures (and their parts) that hold no air and hardly any fat, and are usually drawn so.
_SOLID = frozenset(
    ["brain", "gallbladder", "kidney", "liver", "prostate", "spleen", "testis", "urinary_bladder", "uterus"]
)
# HU below which there is fat or air; fatty livers lie above.
_FAT_HU = -50.0
# From this share of such voxels on it is said, and from the other the anchor is not relied on.
_SAID, _REFUSED = 0.05, 0.25
# How far (mm) an organ that lies on one side must be on the other side of the middle of the body.
_BEYOND = 10.0
_SLICES = 15  # of the body, in which its middle is looked for
_FINEST = 3.0  # mm
# A structure that narrows to this share of its widest section where the image cuts it is mostly inside, and
# half of the smallest volume expected of a whole one is then still too small.
_NARROW = 0.5


def doubted(scan: Scan, anchors: tuple[Anchor, ...], table: Knowledge) -> tuple[Anchor, ...]:
    """The anchors, with what the scan says against them.

    Asked of CT and MR. In CT, a solid organ that holds many voxels of fat or air (in HU: below -50; else as dark
    as air) was drawn in a wrong place: from 5 % on it is said, from 25 % on the anchor is unreliable; so is any
    structure a quarter of which lies outside the body. An organ that lies on one side in nearly everybody and is
    drawn on the other side of the body's middle is remarked: its mask may be mirrored, or the scan's header. A
    piece that narrows towards the edge of the image, and is far below the volume of a whole organ, is unreliable.

    Cost: a pass over the box of each anchor and over a few coarse slices.

    Guarantee
    ---------
    None: an organ in the place of a similar one passes.

    Examples
    --------
    >>> from anatrust.anatomy.knowledge import knowledge
    >>> from anatrust.image.volumes import Mask
    >>> grid = Grid((40, 40, 40), np.diag([10.0, 10.0, 10.0, 1.0]))
    >>> image = np.full(grid.shape, -1000, np.int16)
    >>> image[5:35, 5:35] = 50
    >>> drawn = np.zeros(grid.shape, bool)
    >>> drawn[28:38, 10:20, 10:20] = True
    >>> liver = Anchor("liver", Mask(drawn, grid), "label-map")
    >>> found = doubted(Scan(image, grid, "CT", "HU"), (liver,), knowledge())[0]
    >>> found.status, found.reasons
    ('unreliable', ('30 % of its voxels hold fat or air (below -50 HU)',))
    """
    if scan.modality not in ("CT", "MR"):
        return anchors
    return tuple(anchor if anchor.mask is None else _one(scan, anchor, table) for anchor in anchors)


def _one(scan: Scan, anchor: Anchor, table: Knowledge) -> Anchor:
    assert anchor.mask is not None
    # Views: a frame is a hundred times as large as what is looked at.
    mask, image = _straight(anchor.mask.array, scan.grid), _straight(scan.array, scan.grid)
    grid = canonical_grid(scan.grid)
    box = bounding_box(mask)
    if box is None:
        return anchor
    row = table.structure(anchor.structure)
    remarks: list[str] = []
    failures: list[str] = []
    inside = image[box][mask[box]]
    # In MR some sequences show solid organs as dark as air.
    dense = scan.modality == "CT" and (row.id in _SOLID or row.part_of in _SOLID)
    if dense:
        level = _FAT_HU if scan.units == "HU" else air_threshold(scan)
        share = float((inside <= level).mean())
        what = "hold fat or air (below -50 HU)" if scan.units == "HU" else "are as dark as air"
        phrase = f"{share:.0%} of its voxels {what}".replace("%", " %")
        (failures if share >= _REFUSED else remarks if share >= _SAID else []).append(phrase)
    if grid.ndim == 3 and grid.spacing_known:
        failures += _piece(mask, box, grid, row)
        outside, side = _place(scan, image, mask, box, grid, row)
        if not dense and outside >= _REFUSED:
            failures.append(f"{outside:.0%} of it lie outside the body".replace("%", " %"))
        remarks += [side] if side else []
    if failures:
        return replace(
            anchor,
            status="unreliable",
            quality=anchor.quality / 2 if anchor.status == "ok" else anchor.quality,
            reasons=(*anchor.reasons, *failures, *remarks),
        )
    return replace(anchor, reasons=(*anchor.reasons, *remarks)) if remarks else anchor


def _straight(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """A view of an array with its axes as `canonical` has them."""
    order, flip = grid.canonical_axes()
    return array.transpose(order)[tuple(slice(None, None, -1) if reverse else slice(None) for reverse in flip)]


def _piece(mask: npt.NDArray[np.bool_], box: tuple[slice, ...], grid: Grid, row: Structure) -> list[str]:
    """Whether an organ that the image cuts is too small all the same."""
    part = mask[box]
    volume = float(np.count_nonzero(part)) * grid.voxel_volume / 1000
    if row.volume_ml is None or volume >= row.volume_ml[0] / 2:
        return []
    cut = False
    for axis, (edge, n) in enumerate(zip(box, mask.shape, strict=True)):
        sections = np.count_nonzero(part, axis=tuple(a for a in range(part.ndim) if a != axis))
        for end, touches in ((0, edge.start == 0), (-1, edge.stop == n)):
            if touches and n > 2:
                cut = True
                if sections[end] > _NARROW * sections.max():
                    return []
    whole = f"less than half of the {row.volume_ml[0]:g} ml expected of a whole one"
    return [f"it has {volume:.3g} ml, {whole}, and little of it is cut by the image's edge"] if cut else []


def _place(
    scan: Scan, image: npt.NDArray[Any], mask: npt.NDArray[np.bool_], box: tuple[slice, ...], grid: Grid, row: Structure
) -> tuple[float, str | None]:
    """Share of a structure that lies in the air around the body, and a phrase where it lies on the wrong side of it."""
    # The body in a few slices of the structure, on voxels of about 3 mm.
    height = box[-1]
    heights = np.unique(np.linspace(height.start, height.stop - 1, _SLICES).round().astype(int))
    steps = [max(1, int(_FINEST // step)) for step in grid.spacing[:2]]
    thin = (slice(None, None, steps[0]), slice(None, None, steps[1]), heights)
    slab = np.ascontiguousarray(image[thin])
    coarse = Grid(slab.shape, np.diag([steps[0] * grid.spacing[0], steps[1] * grid.spacing[1], _FINEST, 1.0]))
    body = body_mask(replace(scan, array=slab, grid=coarse))
    drawn = mask[thin]
    outside = float((drawn & ~body).sum() / max(1, drawn.sum()))
    side = row.usual_side or row.laterality
    if side not in ("left", "right") or not drawn.any():
        return outside, None
    # Canonical axes run to the patient's right.
    right = float(np.nonzero(drawn)[0].mean() - np.nonzero(body)[0].mean()) * coarse.spacing[0]
    if right >= -_BEYOND if side == "right" else right <= _BEYOND:
        return outside, None
    where = "left" if side == "right" else "right"
    return outside, (
        f"it lies {abs(right):.0f} mm to the {where} of the middle of the body, where hardly anybody has it: the mask "
        "or the scan's header may be mirrored"
    )
