"""Whether spacing, orientation and field of view are those of a scan of a patient."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from anatrust.image.volumes import Scan
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.inspect.body import Body
from anatrust.pipeline.inspect.intensity import looks_like_hounsfield

__all__ = ["inspect_geometry"]

_FINEST_MM, _COARSEST_MM = 0.02, 20.0
_ANISOTROPY = 10.0
_BONE_HU = 250.0


def inspect_geometry(scan: Scan, body: Body | None) -> list[Finding]:
    """Findings about the grid of a scan brought to canonical (closest RAS) orientation.

    ``body`` is :func:`find_body` of the scan.
    """
    return _spacing(scan) + _header(scan) + _field_of_view(scan) + _front_and_back(scan, body)


def _spacing(scan: Scan) -> list[Finding]:
    grid = scan.grid
    if not grid.spacing_known:
        return [
            Finding(
                "info" if grid.ndim == 2 else "warning",
                "spacing-unknown",
                "The file stores no voxel size: every length and volume is in pixels, and rules in mm are left out.",
                "Give --spacing in mm if you know it.",
            )
        ]
    step = "x".join(f"{v:g}" for v in grid.spacing)
    fine, coarse = min(grid.spacing), max(grid.spacing)
    if fine < _FINEST_MM or coarse > _COARSEST_MM:
        return [
            Finding(
                "warning",
                "implausible-spacing",
                f"The voxel size of {step} mm is outside {_FINEST_MM:g} to {_COARSEST_MM:g} mm: perhaps metres or "
                "micrometres.",
                "Correct the voxel size in the header; that of a picture is given with --spacing.",
            )
        ]
    if coarse / fine > _ANISOTROPY:
        return [
            Finding(
                "warning",
                "extreme-anisotropy",
                f"The voxels are {coarse / fine:.0f} times longer than wide ({step} mm): a lesion may lie "
                "in one slice.",
                "Use the thin-slice reconstruction if there is one.",
            )
        ]
    return []


def _header(scan: Scan) -> list[Finding]:
    """Headers that a conversion filled with defaults, and sheared axes."""
    grid = scan.grid
    if grid.ndim == 2 or not grid.spacing_known:
        return []
    found: list[Finding] = []
    if np.array_equal(grid.affine, np.eye(4)) and max(grid.shape) >= 64:
        found.append(
            Finding(
                "warning",
                "default-header",
                "The header says 1 mm voxels, no rotation and an origin of exactly 0: the defaults of a conversion "
                "that lost the geometry, so orientation and sizes are not proven.",
                "Convert again from DICOM, keeping spacing, direction and origin.",
            )
        )
    directions = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    cosines = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosines > 0.02:
        found.append(
            Finding(
                "warning",
                "sheared-axes",
                f"The image axes are not at right angles ({90 - np.degrees(np.arcsin(cosines)):.1f} degrees): a gantry "
                "tilt that was not corrected, or a faulty header.",
                "Resample the scan to right-angled axes before segmenting it.",
            )
        )
    return found


def _field_of_view(scan: Scan) -> list[Finding]:
    grid = scan.grid
    size = "x".join(str(n) for n in grid.shape)
    voxels = int(np.prod(grid.shape))
    planes = sorted(grid.shape)[-2:]
    if voxels < 1000 or (scan.modality == "CT" and (min(planes) < 64 or voxels < 64 * 64 * 8)):
        return [
            Finding(
                "warning",
                "tiny-image",
                f"The scan has only {size} voxels: too small for a whole {_name(scan)}.",
                "Check that the file is the scan and not a thumbnail, a localiser or a broken export.",
            )
        ]
    found: list[Finding] = []
    if grid.ndim == 3 and min(grid.shape) < 5:
        found.append(
            Finding(
                "warning",
                "few-slices",
                f"The volume has only {min(grid.shape)} slices ({size}): there is little tissue to compare with.",
                "Use the whole series, or judge the slice as a 2-D image.",
            )
        )
    extent = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
    if grid.spacing_known and scan.modality == "CT" and min(sorted(extent)[-2:]) < 60:
        found.append(
            Finding(
                "info",
                "small-field-of-view",
                f"The scan covers {' x '.join(f'{v:.0f}' for v in extent)} mm: a crop, not a whole {_name(scan)}.",
                "Judge the whole scan if it exists: segmenters trained on whole scans err on crops.",
            )
        )
    return found


def _name(scan: Scan) -> str:
    return "scan" if scan.modality == "unknown" else scan.modality


def _front_and_back(scan: Scan, body: Body | None) -> list[Finding]:
    """In a CT of the trunk the spine lies at the back; bone at the front proves a wrong header.

    Only the trunk proves it: the bone must be a minor part of the body (not a head), the body
    wider than deep, and the bone of the middle third must lie clearly on one side.
    """
    if body is None or scan.modality != "CT" or scan.grid.ndim == 2:
        return []
    inside, thin = body.inside, body.thinned(scan.array)
    if not looks_like_hounsfield(thin):
        return []
    bone = (thin > _BONE_HU) & inside
    share = np.count_nonzero(bone) / np.count_nonzero(inside)
    if not 0.003 < share < 0.15:
        return []
    spacing = [edge * step for edge, step in zip(scan.grid.spacing, body.steps, strict=True)]
    left, front = (np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in (0, 1))
    wide = (left[-1] - left[0]) * spacing[0]
    deep = (front[-1] - front[0]) * spacing[1]
    if deep < 80 or wide < 1.15 * deep:
        return []
    third = (left[-1] - left[0]) // 3
    column = bone[left[0] + third : left[-1] - third].sum(axis=(0, 2), dtype=np.float64)
    if column.sum() * np.prod(body.steps) < 50:
        return []
    # Smoothed over 2 cm, so that the spine outweighs contrast in vessels and bowel.
    column = ndimage.uniform_filter1d(column, max(1, int(20 / spacing[1])), mode="constant")
    centre = float((np.arange(column.size) * column).sum() / column.sum())
    place = (centre - front[0]) / (front[-1] - front[0])
    if place < 0.62:
        return []
    return [
        Finding(
            "warning",
            "front-to-back",
            f"The bone of the body's middle lies {place:.0%} of the way to the front: the spine is where the header "
            "says the front is, so the image is flipped against its header.",
            "Flip the image along its front-back axis (keeping the affine) or repair the header, then segment again.",
        )
    ]
