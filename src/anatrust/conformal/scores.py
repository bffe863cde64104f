"""Scores of membership: what is thresholded to make a set.

All are functions of one scan's own image and probabilities, in [0, 1], higher = more surely inside.
Temperature alone is monotone and changes no set; it matters only before smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["adaptive_score", "distance_score", "reconstruction_score", "temperature_score"]

_Image = npt.NDArray[np.float64]


def _probabilities(values: npt.ArrayLike) -> _Image:
    image = np.asarray(values, dtype=np.float64)
    if image.size == 0 or not (image.min() >= -1e-6 and image.max() <= 1 + 1e-6):
        raise InputError("probabilities lie in [0, 1] and are never NaN: apply softmax or sigmoid to logits")
    return np.clip(image, 0, 1)


def temperature_score(probabilities: npt.ArrayLike, temperature: float) -> _Image:
    """``sigmoid(logit(p) / temperature)``: spreads probabilities that are nearly all 0 or 1 (temperature > 1).

    Probabilities are taken as at least 1e-7 away from 0 and 1, where the logit is still a float32's.

    Examples
    --------
    >>> temperature_score([0.5, 0.9], 1.0).round(3).tolist()
    [0.5, 0.9]
    """
    if not temperature > 0:
        raise InputError(f"a temperature is positive, not {temperature}")
    p = np.clip(_probabilities(probabilities), 1e-7, 1 - 1e-7)
    result: _Image = 1 / (1 + ((1 - p) / p) ** (1 / temperature))
    return result


def distance_score(
    mask: npt.ArrayLike, spacing: Sequence[float], *, reach: float = 20.0, probabilities: npt.ArrayLike | None = None
) -> _Image:
    """Signed distance to the mask's border as a score: morphological sets for masks without usable probabilities.

    0.5 at the border, 1 at ``reach`` inside, 0 at ``reach`` outside (unit of the spacing), so that a
    threshold is an erosion or dilation by a distance in mm. With ``probabilities`` ties within a
    voxel's width are broken by them. An empty mask scores 0 everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> distance_score(np.array([0, 0, 1, 1, 0], bool), [1.0], reach=2.0).tolist()
    [0.125, 0.375, 0.625, 0.625, 0.375]
    """
    from scipy.ndimage import distance_transform_edt

    inside = np.asarray(mask, dtype=bool)
    if len(spacing) != inside.ndim or not reach > 0:
        raise InputError(f"spacing {tuple(spacing)} and reach {reach} do not fit a mask of {inside.ndim} axes")
    if not inside.any():
        return np.zeros(inside.shape)
    half = min(spacing) / 2  # distances run between voxel centres; the border lies half a voxel before
    outward = distance_transform_edt(~inside, sampling=spacing)
    inward = distance_transform_edt(inside, sampling=spacing) if not inside.all() else np.full(inside.shape, np.inf)
    signed = np.where(inside, inward - half, half - outward)
    if probabilities is not None:
        signed = signed + (_probabilities(probabilities) - 0.5) * min(spacing)
    result: _Image = np.clip(0.5 + signed / (2 * reach), 0, 1)
    return result


def adaptive_score(probabilities: npt.ArrayLike) -> _Image:
    """Image-adaptive score: the share of the foreground mass that lies at lower or equal probability.

    Thresholding it at t keeps the most probable voxels that hold ``1 - t`` of this scan's own
    foreground mass, so a diffident map and a confident one are cut alike (conformal risk adaptation).
    Ties share one value. O(voxels log voxels). A map of zeros scores 0.

    Examples
    --------
    >>> adaptive_score([0.0, 0.2, 0.8]).round(2).tolist()
    [0.0, 0.2, 1.0]
    """
    p = _probabilities(probabilities)
    values, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    mass = np.cumsum(values * counts)
    if mass[-1] == 0:
        return np.zeros(p.shape)
    result: _Image = (mass / mass[-1])[inverse].reshape(p.shape)
    return result


def reconstruction_score(probabilities: npt.ArrayLike) -> _Image:
    """Highest threshold at which a voxel is still connected to the map's peak (max–min path).

    Fragments away from the most probable core score only as high as the bridge that leads to them,
    so every set is one connected piece. For structures of one piece; with the peak in a wrong place the
    object is lost, hence a choice made on tuning patients. Morphological reconstruction by dilation from
    the peak (SimpleITK), O(voxels).

    Examples
    --------
    >>> reconstruction_score([[0.9, 0.6, 0.1, 0.8]]).round(3).tolist()
    [[0.9, 0.6, 0.1, 0.1]]
    """
    import SimpleITK as sitk  # noqa: N813

    p = _probabilities(probabilities)
    if p.ndim not in (2, 3):
        raise InputError(f"a reconstruction needs an image of 2 or 3 axes, not {p.ndim}")
    marker = np.zeros_like(p)
    marker[p == p.max()] = p.max()
    filled = sitk.ReconstructionByDilation(sitk.GetImageFromArray(marker), sitk.GetImageFromArray(p), True)
    return np.asarray(sitk.GetArrayFromImage(filled), dtype=np.float64)
