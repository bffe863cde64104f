"""Where the body is: everything that is not the air around it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import Scan

__all__ = ["air_threshold", "body_mask"]

# HU below which there is air (or lung, which filling brings back).
_AIR_HU = -500.0
# Elsewhere the lowest share of the range between nearly-darkest and nearly-brightest is air.
_AIR_SHARE = 0.05
# The body is found on a grid of about this many mm: it has no finer detail that matters here.
_COARSE_MM = 3.0
_COARSE_PIXELS = 512
# Grey values near candidates, blurred as they are, do not tell what is air; unless that is much of the image.
_NEAR = 2  # voxels of the coarse grid
_MUCH = 0.2


def air_threshold(scan: Scan, candidates: npt.NDArray[np.bool_] | None = None) -> float:
    """Grey value up to which a voxel counts as air.

    CT in HU: -500. MR, PET, ultrasound and unknown modalities: 5 % of the way from the 0.5th to
    the 99th percentile of the voxels beside the candidates (a tumour a hundred times as bright as tissue
    would make air of it), unless these fill a fifth of the image. Photographs have no air: minus infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> air_threshold(Scan(np.zeros((2, 2), np.int16), Grid.without_spacing((2, 2)), "CT", "HU"))
    -500.0
    """
    if scan.modality == "photo":
        return -np.inf
    if scan.units == "HU":
        return _AIR_HU
    from scipy import ndimage

    values = scan.array[_strides(scan)]
    if candidates is not None:
        beside = ~ndimage.binary_dilation(candidates[_strides(scan)], iterations=_NEAR)
        if beside.mean() >= 1 - _MUCH:
            values = values[beside]
    low, high = np.percentile(values, (0.5, 99.0))
    return float(low + _AIR_SHARE * (high - low))


def _strides(scan: Scan) -> tuple[slice, ...]:
    if scan.grid.spacing_known:
        steps = [max(1, int(_COARSE_MM // step)) for step in scan.grid.spacing]
    else:
        steps = [max(1, n // _COARSE_PIXELS) for n in scan.grid.shape]
    return tuple(slice(None, None, step) for step in steps)


def body_mask(scan: Scan, candidates: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
    """The body in a scan, holes filled; grey values of candidates are left out of the threshold.

    Voxels above :func:`air_threshold`, then everything they enclose within each slice along the
    last axis (lungs, bowel gas, dark fluid). The scan must be in canonical orientation, so that
    the last axis is the patient's. Found on every n-th voxel (about 3 mm) and blown up again,
    so its border is that coarse. Where nothing is above the threshold (a constant image), the
    whole image counts as body.

    Returns
    -------
    bool array of the scan's shape
    """
    from scipy import ndimage

    steps = _strides(scan)
    coarse = scan.array[steps] > air_threshold(scan, candidates)
    slices = coarse[..., None] if coarse.ndim == 2 else coarse
    filled = np.stack([ndimage.binary_fill_holes(slices[..., k]) for k in range(slices.shape[-1])], axis=-1)
    if not filled.any():
        return np.ones(scan.grid.shape, dtype=bool)
    body = filled.reshape(coarse.shape)
    for axis, edge in enumerate(steps):
        body = np.repeat(body, edge.step, axis=axis)
    inside: npt.NDArray[np.bool_] = body[tuple(slice(0, n) for n in scan.grid.shape)]
    return inside
