"""From the positions of DICOM slices to one regular grid, or the reason why there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError

__all__ = ["stack_slices"]

_UNEVEN = 0.05  # of the slice distance: what rounding of positions in headers explains
_SAME_PLACE = 1e-3  # mm
_PARALLEL = 1e-3
_TILT_DEGREES = 0.1
_TILT_PIXELS = 0.5
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stack_slices(
    positions: npt.NDArray[np.float64],
    orientations: npt.NDArray[np.float64],
    pixel_spacing: tuple[float, float],
    thickness: float,
    where: str,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Order slices along their normal and give the affine of the volume they make.

    Parameters
    ----------
    positions
        ``(n, 3)`` ImagePositionPatient, mm, LPS+.
    orientations
        ``(n, 6)`` ImageOrientationPatient: direction of a row, then of a column.
    pixel_spacing
        PixelSpacing, mm: distance of rows, distance of columns.
    thickness
        Slice distance to take for a single slice, mm.
    where
        Name for messages.

    Returns
    -------
    order, affine
        ``order[k]`` is the input slice at index k; the ``(4, 4)`` RAS+ affine of an array
        ``(column, row, slice)``.

    Raises
    ------
    GeometryError
        If slices are not parallel, lie at one place, are missing or uneven (more than 5 % of
        the slice distance off an even stack), or are shifted against each other (gantry tilt).
    """
    row, column = orientations[0, :3], orientations[0, 3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise GeometryError(f"{where}: the image orientation in the DICOM header is damaged: export the series again")
    if np.abs(orientations - orientations[0]).max() > _PARALLEL:
        raise GeometryError(f"{where}: the slices are not parallel (e.g. radial or localiser images): export one stack")
    normal = np.cross(row, column)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    step = normal * thickness
    if len(order) > 1:
        step = _even_step(positions[order], heights[order], normal, pixel_spacing, where)
    affine = np.eye(4)
    affine[:3, 0] = row * pixel_spacing[1]
    affine[:3, 1] = column * pixel_spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    return order, _LPS_TO_RAS @ affine


def _even_step(
    positions: npt.NDArray[np.float64],
    heights: npt.NDArray[np.float64],
    normal: npt.NDArray[np.float64],
    pixel_spacing: tuple[float, float],
    where: str,
) -> npt.NDArray[np.float64]:
    gaps = np.diff(heights)
    if gaps.min() < _SAME_PLACE:
        twice = int((gaps < _SAME_PLACE).sum())
        raise GeometryError(
            f"{where}: {twice} of {len(heights)} slices lie where another one lies (phases, echoes or copies):"
            " give one of the volumes alone"
        )
    usual = float(np.median(gaps))
    holes = np.flatnonzero(gaps > 1.5 * usual)
    if len(holes):
        missing = int(np.rint(gaps[holes] / usual - 1).sum())
        lack = "1 slice is" if missing == 1 else f"{missing} slices are"
        raise GeometryError(
            f"{where}: about {lack} missing, the first after slice {holes[0] + 1} of {len(heights)}"
            f" ({gaps[holes[0]]:.2f} mm instead of {usual:.2f}): export the whole series again"
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    off = np.abs(heights - even)
    if off.max() > _UNEVEN * usual:
        raise GeometryError(
            f"{where}: the slices are unevenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm, worst at slice"
            f" {int(off.argmax()) + 1} of {len(heights)}): reconstruct or resample the series evenly"
        )
    way = positions[-1] - positions[0]
    sideways = float(np.linalg.norm(way - (way @ normal) * normal))
    degrees = float(np.degrees(np.arctan2(sideways, way @ normal)))
    if degrees > _TILT_DEGREES and sideways > _TILT_PIXELS * min(pixel_spacing):
        raise GeometryError(
            f"{where}: the slices are shifted against each other by {degrees:.1f} degrees (gantry tilt):"
            " resample the series to straight slices first"
        )
    step: npt.NDArray[np.float64] = normal * ((way @ normal) / (len(heights) - 1))
    return step
