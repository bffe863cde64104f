"""Volumes as text inside the page: compressed NIfTI in base64, the same bytes every time."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.grid import Grid

__all__ = ["GAP", "INSIDE", "LID", "OUTLINE", "base64_size", "nifti_base64", "overlay"]

# The viewer draws a voxel with the opacity (value / outline)²: about a third inside, and
# nothing that can be seen in the gaps of a pattern, which still belong to the mask.
GAP, LID, INSIDE, OUTLINE = 1, 5, 6, 10
# Of the longest axis shown, so that an outline is about two pixels wide on a screen.
_OUTLINE_SHARE = 1 / 200
_LEVEL = 2  # isal: half of zlib's time at -6 and about its size


def nifti_base64(array: npt.NDArray[Any], grid: Grid, *, slope: float = 1.0, intercept: float = 0.0) -> str:
    """A ``.nii.gz`` in base64; a 2-D image becomes a volume of one slice.

    ``array`` is uint8 or int16 on ``grid``; a value is ``array * slope + intercept``.
    """
    import nibabel as nib

    volume = array if array.ndim == 3 else array[..., np.newaxis]
    image = nib.Nifti1Image(volume, grid.affine)
    image.header.set_slope_inter(slope, intercept)
    image.header.set_xyzt_units("mm" if grid.spacing_known else "unknown")
    return base64.b64encode(_compress(image.to_bytes())).decode("ascii")


def base64_size(array: npt.NDArray[Any]) -> int:
    """Bytes that :func:`nifti_base64` makes of an array, headers aside."""
    return -(-len(_compress(array.tobytes(order="F"))) // 3) * 4


def _compress(data: bytes) -> bytes:
    from isal import igzip

    return bytes(igzip.compress(data, _LEVEL, mtime=0))


def overlay(mask: npt.NDArray[np.bool_], grid: Grid, pattern: str, *, lids: bool = False) -> npt.NDArray[np.uint8]:
    """Draws a mask so that its kind can be told without colour.

    The outline (in the axial plane; in the image plane in 2-D) is :data:`OUTLINE`; inside,
    ``"solid"`` fills with :data:`INSIDE`, ``"stripes"`` every other diagonal band, ``"dots"`` a
    ninth of a plane, and ``"line"`` and ``"dashes"`` nothing; the rest is :data:`GAP`. The
    outline of ``"dashes"`` has gaps. With ``lids`` the ends of what is only a contour are closed
    by a faint :data:`LID`, so that coronal and sagittal planes show a contour too; it is meant for
    grids whose slices are thinner than the mask's.
    """
    from scipy.ndimage import binary_erosion, generate_binary_structure

    order, _ = grid.canonical_axes()
    plane = order[:2]
    structure = generate_binary_structure(mask.ndim, 1)
    if mask.ndim == 3:
        # Outline within axial planes: end slices stay transparent instead of turning into lids.
        keep = [slice(None)] * 3
        keep[order[2]] = slice(0, 1)
        structure = structure.copy()
        structure[tuple(keep)] = False
        keep[order[2]] = slice(2, 3)
        structure[tuple(keep)] = False
    width = max(1, round(max(mask.shape[axis] for axis in plane) * _OUTLINE_SHARE))
    inner = binary_erosion(mask, structure, iterations=width)
    index = np.ogrid[tuple(slice(0, n) for n in mask.shape)]
    if pattern == "stripes":
        texture = sum(index[axis] for axis in range(mask.ndim)) // (2 * width) % 2 == 0
    elif pattern == "dots":
        texture = (index[plane[0]] // width % 3 == 0) & (index[plane[1]] // width % 3 == 0)
    else:
        texture = np.full((1,) * mask.ndim, pattern == "solid")
    line: npt.NDArray[Any] = np.full((1,) * mask.ndim, OUTLINE)
    if pattern == "dashes":
        line = np.where(sum(index[axis] for axis in range(mask.ndim)) // (2 * width) % 3 < 2, OUTLINE, GAP)
    fill: npt.NDArray[Any] = np.where(texture, INSIDE, GAP)
    if lids and pattern in ("line", "dashes"):
        across = np.zeros((3,) * mask.ndim, dtype=bool)
        across[tuple(slice(None) if axis == order[-1] else 1 for axis in range(mask.ndim))] = True
        fill = np.where(binary_erosion(mask, across), GAP, LID)
    drawn = np.where(mask, np.where(inner, fill, line), 0)
    return drawn.astype(np.uint8)
