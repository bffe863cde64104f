"""Two simple segmenters that need no training and invent lesions freely.

They choose places by looking at the image, as every segmenter does. What they propose in a
healthy organ is therefore exactly the kind of candidate that a test of places chosen
*without* looking must not be trusted with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import GeometryError, InputError
from anatrust.image.region import bounding_box
from anatrust.image.volumes import Mask, ProbabilityMap, Scan

__all__ = ["Side", "blob_candidates", "contrast_probabilities", "threshold_candidates"]

Side = Literal["both", "bright", "dark"]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def threshold_candidates(
    scan: Scan,
    organ: Mask,
    *,
    contrast: float = 2.5,
    side: Side = "both",
    smoothing: float = 3.0,
    minimum: float = 8.0,
    margin: float = 5.0,
) -> Mask:
    """Everything in an organ that is brighter or darker than its surroundings.

    The smoothed image minus the organ's median, in robust standard deviations of that
    smoothed difference, is thresholded. It finds real lesions and, in healthy organs,
    vessels, ducts and the highest peaks of the noise.

    Parameters
    ----------
    scan, organ
        The image and where to look; one grid.
    contrast
        Threshold in robust standard deviations of the smoothed organ. Low values over-predict.
    side
        Which sign counts: ``"bright"``, ``"dark"`` or ``"both"``.
    smoothing
        Standard deviation of the Gaussian smoothing, in mm (pixels where spacing is unknown).
    minimum
        Candidates smaller than the ball (disc) of this diameter are dropped, in mm.
    margin
        The rim of the organ that is left out because neighbours bleed into it, in mm.

    Returns
    -------
    Mask
        The union of the candidates; each connected component is one.

    Raises
    ------
    GeometryError
        If scan and organ lie on different grids.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((64, 64), np.eye(4))
    >>> image = np.random.default_rng(0).normal(size=(64, 64))
    >>> image[20:30, 20:30] += 3
    >>> organ = Mask(np.ones((64, 64), dtype=bool), grid)
    >>> bool(threshold_candidates(Scan(image, grid), organ, contrast=3.0).array[25, 25])
    True
    """
    score, core = _contrast(scan, organ, smoothing, margin)
    hit = core & (_signed(score, side) >= contrast)
    return Mask(_drop_small(hit, minimum, scan.grid.spacing), scan.grid, name="threshold candidates")


def blob_candidates(
    scan: Scan,
    organ: Mask,
    k: int = 5,
    *,
    diameters: Sequence[float] = (8.0, 12.0, 18.0),
    side: Side = "both",
    margin: float = 0.0,
) -> Mask:
    """The ``k`` most conspicuous blobs of an organ, on several scales.

    Laplacian-of-Gaussian responses, normalised for scale and for the organ's edge (the
    image is filled with local organ means outside it), are ranked over all places and
    scales; each winner becomes a ball that fits in the organ, and no two touch.

    Parameters
    ----------
    scan, organ
        The image and where to look; one grid.
    k
        How many blobs at most.
    diameters
        Blob diameters in mm (pixels where spacing is unknown).
    side
        ``"bright"``, ``"dark"`` or ``"both"``.
    margin
        The rim of the organ that is left out, in mm.

    Returns
    -------
    Mask
        At most ``k`` balls (discs in 2-D), separated by at least one voxel.

    Raises
    ------
    GeometryError
        If scan and organ lie on different grids.
    InputError
        If ``k`` or a diameter is not positive.

    References
    ----------
    Lindeberg, Feature detection with automatic scale selection, IJCV 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((64, 64), np.eye(4))
    >>> image = np.random.default_rng(0).normal(size=(64, 64))
    >>> organ = Mask(np.ones((64, 64), dtype=bool), grid)
    >>> found = blob_candidates(Scan(image, grid), organ, 3, diameters=(6.0,))
    >>> ndimage.label(found.array)[1]
    3
    """
    _check(scan, organ)
    if k < 1 or not diameters or min(diameters) <= 0:
        raise InputError(f"blobs need k >= 1 and diameters above 0, not k={k}, diameters={tuple(diameters)}")
    box = bounding_box(organ.array)
    chosen = np.zeros(organ.array.shape, dtype=bool)
    if box is None:
        return Mask(chosen, scan.grid, name="blob candidates")
    spacing = scan.grid.spacing
    inside = organ.array[box]
    depth = _depth(inside, spacing) - margin
    image = scan.array[box].astype(np.float64)
    scored = []
    for diameter in diameters:
        fits = depth >= diameter / 2
        if fits.any():
            scored.append((_laplacian(image, inside, diameter, spacing), fits, diameter))
    blocked = np.zeros(inside.shape, dtype=bool)
    part = chosen[box]
    for _ in range(k):
        best: tuple[float, tuple[int, ...], float] | None = None
        for response, fits, diameter in scored:
            # A new ball keeps clear of the earlier ones: its centre lies a radius from them.
            clear = fits & (_away(blocked, spacing) > diameter / 2)
            if clear.any():
                value = np.where(clear, _signed(response, side), -np.inf)
                place = np.unravel_index(int(np.argmax(value)), value.shape)
                if best is None or value[place] > best[0]:
                    best = (float(value[place]), tuple(int(i) for i in place), diameter)
        if best is None:
            break
        ball = _ball(inside.shape, best[1], best[2], spacing) & inside
        part |= ball
        blocked |= ndimage.binary_dilation(ball, structure=np.ones((3,) * ball.ndim, dtype=bool))
    return Mask(chosen, scan.grid, name="blob candidates")


def contrast_probabilities(
    scan: Scan, organ: Mask, *, contrast: float = 2.5, side: Side = "both", smoothing: float = 3.0, margin: float = 5.0
) -> ProbabilityMap:
    """A probability map that fits :func:`threshold_candidates`: 0.5 at its threshold, 0 outside the organ.

    Parameters
    ----------
    scan, organ, contrast, side, smoothing, margin
        As in :func:`threshold_candidates`.

    Returns
    -------
    ProbabilityMap
        One channel, float32. Not calibrated: a logistic function of the local contrast.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((32, 32), np.eye(4))
    >>> image = np.random.default_rng(0).normal(size=(32, 32))
    >>> organ = Mask(np.ones((32, 32), dtype=bool), grid)
    >>> contrast_probabilities(Scan(image, grid), organ).array.shape
    (1, 32, 32)
    """
    score, core = _contrast(scan, organ, smoothing, margin)
    probability = 1 / (1 + np.exp(np.clip(-2 * (_signed(score, side) - contrast), -30, 30)))
    return ProbabilityMap(np.where(core, probability, 0).astype(np.float32)[None], scan.grid)


def _check(scan: Scan, organ: Mask) -> None:
    if not scan.grid.same_as(organ.grid):
        raise GeometryError(f"organ and scan lie on different grids ({organ.grid} and {scan.grid}): resample the organ")


def _signed(score: Floats, side: Side) -> Floats:
    if side not in ("both", "bright", "dark"):
        raise InputError(f"unknown side '{side}': choose both, bright or dark")
    return np.abs(score) if side == "both" else score if side == "bright" else -score


def _depth(inside: Bools, spacing: Sequence[float]) -> Floats:
    """Distance to the organ's edge, in mm; the crop's border counts as edge."""
    padded = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=tuple(spacing))
    return np.asarray(padded[(slice(1, -1),) * inside.ndim], dtype=np.float64)


def _away(blocked: Bools, spacing: Sequence[float]) -> Floats:
    if not blocked.any():
        return np.full(blocked.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~blocked, sampling=tuple(spacing)), dtype=np.float64)


def _smooth_inside(image: Floats, inside: Bools, sigma: Sequence[float]) -> Floats:
    """Gaussian mean over the organ's own voxels only (normalised convolution)."""
    weight = ndimage.gaussian_filter(inside.astype(np.float64), sigma, mode="constant")
    total = ndimage.gaussian_filter(np.where(inside, image, 0.0), sigma, mode="constant")
    return np.asarray(total / np.maximum(weight, 1e-6), dtype=np.float64)


def _contrast(scan: Scan, organ: Mask, smoothing: float, margin: float) -> tuple[Floats, Bools]:
    """Smoothed contrast in robust standard deviations, and the organ without its rim."""
    _check(scan, organ)
    score = np.zeros(scan.array.shape)
    core = np.zeros(scan.array.shape, dtype=bool)
    box = bounding_box(organ.array)
    if box is None:
        return score, core
    spacing = scan.grid.spacing
    inside = organ.array[box]
    deep = _depth(inside, spacing) > margin
    if not deep.any():
        return score, core
    smooth = _smooth_inside(scan.array[box].astype(np.float64), inside, [smoothing / s for s in spacing])
    middle = float(np.median(smooth[deep]))
    spread = 1.4826 * float(np.median(np.abs(smooth[deep] - middle)))
    if spread > 0:
        score[box] = (smooth - middle) / spread
        core[box] = deep
    return score, core


def _laplacian(image: Floats, inside: Bools, diameter: float, spacing: Sequence[float]) -> Floats:
    """Blob response in its own standard deviations within the organ: bright is positive."""
    # The Laplacian of a Gaussian answers most to a disc of radius sigma times sqrt(ndim).
    sigma = [diameter / 2 / np.sqrt(inside.ndim) / s for s in spacing]
    wide = [1.6 * v for v in sigma]
    # The difference of two Gaussians approximates it and respects the organ's edge.
    response = _smooth_inside(image, inside, sigma) - _smooth_inside(image, inside, wide)
    spread = float(response[inside].std())
    return response / spread if spread > 0 else np.zeros_like(response)


def _ball(shape: tuple[int, ...], centre: Sequence[int], diameter: float, spacing: Sequence[float]) -> Bools:
    axes: list[npt.NDArray[Any]] = [
        ((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)
    ]
    squares = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(sum(squares) <= (diameter / 2) ** 2, dtype=bool)


def _drop_small(mask: Bools, diameter: float, spacing: Sequence[float]) -> Bools:
    radius = diameter / 2
    limit = np.pi * radius**2 if mask.ndim == 2 else 4 / 3 * np.pi * radius**3
    least = int(np.ceil(limit / float(np.prod(spacing))))
    connectivity = 8 if mask.ndim == 2 else 26
    labels = cc3d.connected_components(mask.astype(np.uint8), connectivity=connectivity)
    sizes = np.bincount(labels.ravel())
    keep = sizes >= max(1, least)
    keep[0] = False
    return np.asarray(keep[labels], dtype=bool)
