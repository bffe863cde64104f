"""Whether this mask can be a segmentation of this scan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.region import bounding_box
from anatrust.image.volumes import LabelMap, Scan
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.inspect.body import Body

__all__ = ["inspect_mask"]

_MANY_COMPONENTS = 50
_MANY_LABELS = 20
_BODY_MARGIN_MM = 5.0


def inspect_mask(scan: Scan, labels: LabelMap, body: Body | None, kind: str = "lesion") -> list[Finding]:
    """Findings about a mask on its scan's grid, both in canonical orientation.

    ``body`` is :func:`find_body` of the scan; without it no place is outside.
    ``kind`` is ``"lesion"`` or ``"organ"``: an organ may be large and cut by the image's edge.
    """
    box = bounding_box(labels.array)
    if box is None:
        return [
            Finding(
                "warning",
                "empty-mask",
                "The mask is empty: there is nothing to judge, and what the segmenter missed is not tested here.",
                "If you expected a structure, check what the segmenter was given: wrong intensities, orientation or "
                "conversion give an empty mask without any message.",
            )
        ]
    # Beyond its box nothing of a mask needs to be read again.
    inside = np.asarray(labels.array[box] != 0)
    count, size = int(np.count_nonzero(inside)), labels.array.size
    if count >= 0.999 * size:
        return [
            Finding(
                "error",
                "full-mask",
                f"The mask covers {count / size:.1%} of the image: there is nothing left to compare with.",
                "Check that the mask is not inverted and was thresholded.",
            )
        ]
    return [
        *_sizes(scan, labels, count, kind),
        *_outside(scan, inside, count, box, body),
        *_border(inside, count, box, labels.array.shape, kind),
        *_number(labels, inside, kind),
    ]


def _sizes(scan: Scan, labels: LabelMap, count: int, kind: str) -> list[Finding]:
    found: list[Finding] = []
    if kind == "lesion" and count > 0.3 * labels.array.size:
        found.append(
            Finding(
                "warning",
                "huge-mask",
                f"The mask covers {count / labels.array.size:.0%} of the image, much for a lesion.",
                "Check that it is not inverted; say --kind organ if it shows an organ.",
            )
        )
    if kind == "lesion" and not labels.names and len(numbers := labels.labels()) >= _MANY_LABELS:
        found.append(
            Finding(
                "warning",
                "many-labels",
                f"The mask holds {len(numbers)} labels without names: it looks like a map of organs or an image.",
                "Say --kind organ if it shows organs; check that scan and mask were not swapped.",
            )
        )
    middle = labels.array.shape[0] // 2
    # One slice differs where the images do; only equal ones are compared as a whole.
    same = np.array_equal(labels.array[middle], scan.array[middle])
    if count > 1000 and same and np.array_equal(labels.array, scan.array):
        found.append(
            Finding(
                "error",
                "mask-is-the-scan",
                "The mask and the scan are the same image.",
                "Give the segmentation with -m, the scan with -i.",
            )
        )
    return found


def _outside(
    scan: Scan, inside: npt.NDArray[np.bool_], count: int, box: tuple[slice, ...], body: Body | None
) -> list[Finding]:
    if body is None:
        return []
    margin = _BODY_MARGIN_MM if scan.grid.spacing_known else 2.0
    steps = [max(1, round(margin / s)) for s in scan.grid.spacing]
    sides = zip(box, steps, scan.array.shape, strict=True)
    around = tuple(slice(max(0, edge.start - wide), min(n, edge.stop + wide)) for edge, wide, n in sides)
    # A box is wide enough for a tolerance, and separable.
    near: npt.NDArray[np.bool_] = ndimage.maximum_filter(body.within(around), size=[2 * s + 1 for s in steps])
    here = tuple(slice(b.start - a.start, b.stop - a.start) for b, a in zip(box, around, strict=True))
    outside = int(np.count_nonzero(inside & ~near[here]))
    share = outside / count
    if share < 0.05:
        return []
    return [
        Finding(
            "error" if share > 0.9 else "warning",
            "outside-body",
            f"{share:.0%} of the mask ({outside} voxels) lies outside the body.",
            "The mask is probably flipped, shifted or from another scan: check its affine against the scan's.",
        )
    ]


def _border(
    inside: npt.NDArray[np.bool_], count: int, box: tuple[slice, ...], shape: tuple[int, ...], kind: str
) -> list[Finding]:
    edges = list(zip(box, shape, strict=True))
    if not any(n >= 3 and (edge.start == 0 or edge.stop == n) for edge, n in edges):
        return []
    # The box without the faces of it that lie on the image's edge.
    inner = tuple(
        slice(int(n >= 3 and edge.start == 0), edge.stop - edge.start - int(n >= 3 and edge.stop == n))
        for edge, n in edges
    )
    touching = count - int(np.count_nonzero(inside[inner]))
    share = touching / count
    there = "1 voxel" if touching == 1 else f"{touching} voxels"
    return [
        Finding(
            "warning" if kind == "lesion" and share > 0.05 else "info",
            "touches-border",
            f"{there} of the mask ({share:.1%}) on the image's edge: the structure may be cut off, and sizes are lower "
            "bounds.",
            "Use a scan with a larger field of view if there is one.",
        )
    ]


def _number(labels: LabelMap, inside: npt.NDArray[np.bool_], kind: str) -> list[Finding]:
    structure = np.ones((3,) * inside.ndim, dtype=bool)
    _, count = ndimage.label(inside, structure=structure)
    if kind == "lesion" and count > _MANY_COMPONENTS:
        return [
            Finding(
                "warning",
                "many-components",
                f"The mask falls into {count} separate pieces.",
                "Check the threshold of the segmenter: specks cost power, since every piece is a test.",
            )
        ]
    if kind == "organ":
        pieces = len(labels.labels())
        if count > _MANY_COMPONENTS * max(1, pieces):
            return [
                Finding(
                    "warning",
                    "many-components",
                    f"The {pieces} labels fall into {count} separate pieces.",
                    "Look at the specks; the per-label table says where they are.",
                )
            ]
    return []
