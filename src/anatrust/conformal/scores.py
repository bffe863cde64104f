"""Scores of membership: what is thresholded to make a set.

All are functions of one scan's own image and probabilities, in [0, 1], higher = more surely inside.
Temperature alone is monotone and changes no set; it matters only before smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
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


def reconstruction_score(scores: npt.ArrayLike, *, core: float = 0.0) -> _Image:
    """Highest threshold at which a voxel is still connected to the map's core (max–min path).

    Fragments away from the core score only as high as the bridge that leads to them, so every set above
    the core's own level is one connected piece. For structures of one piece; with the core in a wrong
    place the object is lost, hence a choice made on tuning patients. Morphological reconstruction by
    dilation (Vincent 1993), by a union-find over the sorted voxels: O(voxels log voxels).

    Parameters
    ----------
    scores
        Probabilities or a smoothing of them, 2-D or 3-D.
    core
        0: the core is the peak, all voxels of the largest score. Otherwise, in (0, 1]: of the pieces at or
        above ``core`` times the largest score, the one that holds most of it (sum of scores; the first in
        scan order among equals). That is safer where many voxels are saturated at 1.

    Examples
    --------
    >>> reconstruction_score([[0.9, 0.6, 0.1, 0.8]]).round(3).tolist()
    [[0.9, 0.6, 0.1, 0.1]]
    >>> reconstruction_score([[0.9, 0.1, 0.8, 0.8]], core=0.5).round(3).tolist()
    [[0.1, 0.1, 0.8, 0.8]]
    """
    p = _probabilities(scores)
    if p.ndim not in (2, 3):
        raise InputError(f"a reconstruction needs an image of 2 or 3 axes, not {p.ndim}")
    if not 0 <= core <= 1:
        raise InputError(f"a core is cut at a share of the largest score in [0, 1], not {core}")
    volume = p.shape if p.ndim == 3 else (1, *p.shape)
    order = np.argsort(-p.ravel(), kind="stable")
    return np.asarray(_flood(p.ravel(), _core(p, core).ravel(), order, volume).reshape(p.shape))


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _flood(p: _Image, core: npt.NDArray[np.bool_], order: npt.NDArray[np.int64], shape: tuple[int, int, int]) -> _Image:
    """Level at which each voxel's piece meets the core's, voxels being added from the highest to the lowest.

    Pieces are joined by a union-find; the members of a piece form a ring, so that all of them get their
    value when the piece meets the core.
    """
    size = p.size
    parent = np.full(size, -1, dtype=np.int64)
    following = np.arange(size)
    held = np.zeros(size, dtype=np.bool_)
    result = np.zeros(size)
    plane = shape[1] * shape[2]
    for here in order:
        parent[here] = here
        held[here] = core[here]
        if core[here]:
            result[here] = p[here]
        x, y, z = here // plane, here % plane // shape[2], here % shape[2]
        for a in range(max(x - 1, 0), min(x + 2, shape[0])):
            for b in range(max(y - 1, 0), min(y + 2, shape[1])):
                for c in range(max(z - 1, 0), min(z + 2, shape[2])):
                    other = a * plane + b * shape[2] + c
                    if parent[other] < 0:
                        continue
                    one, two = here, other
                    while parent[one] != one:
                        parent[one] = parent[parent[one]]
                        one = parent[one]
                    while parent[two] != two:
                        parent[two] = parent[parent[two]]
                        two = parent[two]
                    if one == two:
                        continue
                    if held[one] != held[two]:
                        joined = two if held[one] else one
                        member = joined
                        while True:
                            result[member] = p[here]
                            member = following[member]
                            if member == joined:
                                break
                    following[one], following[two] = following[two], following[one]
                    parent[one] = two
                    held[two] = held[one] or held[two]
    return result


def _core(p: _Image, core: float) -> npt.NDArray[np.bool_]:
    """The peak's voxels, or the heaviest piece above a share of it."""
    top = p.max()
    if core == 0 or top == 0:
        return np.asarray(p == top)
    from scipy.ndimage import label

    pieces, count = label(p >= core * top, structure=np.ones((3,) * p.ndim))
    weights = np.bincount(pieces.ravel(), weights=p.ravel(), minlength=count + 1)
    return np.asarray(pieces == 1 + int(weights[1:].argmax()))
