"""Centrelines of tubes and what of them is found: clDice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.metrics.edge_cases import EdgeCases
from anatrust.metrics.overlap import _check_pair

__all__ = ["cldice", "skeleton"]


def skeleton(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The morphological skeleton that defines clDice.

    What an opening removes from each of the successive erosions: erosion with face neighbours, dilation with all
    neighbours. It is thin but need not be connected.

    Parameters
    ----------
    mask
        Boolean array, 2-D or 3-D. Beyond the image's edge the mask is taken to go on.

    Returns
    -------
    numpy.ndarray
        Boolean array of the same shape, inside the mask. Cost: as many erosions as the thickest part is wide.

    References
    ----------
    Shit et al., clDice, CVPR 2021, algorithm 1, on masks of 0 and 1.

    Examples
    --------
    >>> tube = np.zeros((7, 9), bool)
    >>> tube[2:5] = True
    >>> skeleton(tube).sum(axis=1).tolist()
    [0, 0, 0, 9, 0, 0, 0]
    """
    from scipy.ndimage import binary_dilation, binary_erosion, generate_binary_structure

    mask = np.asarray(mask)
    faces, corners = generate_binary_structure(mask.ndim, 1), np.ones((3,) * mask.ndim, dtype=bool)
    found = np.zeros(mask.shape, dtype=bool)
    current = mask.astype(bool)
    while current.any():
        if current.all():
            found |= current  # no edge anywhere: erosion would never end
            break
        smaller = binary_erosion(current, faces, border_value=1)
        found |= current & ~binary_dilation(smaller, corners)
        current = smaller
    return found


def cldice(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], *, edge_cases: EdgeCases = EdgeCases()
) -> float:
    """Harmonic mean of the share of each mask's centreline that lies in the other mask.

    Parameters
    ----------
    truth, prediction
        Boolean arrays of one shape, 2-D or 3-D.
    edge_cases
        ``overlap_both_empty`` where neither has a centreline; with one of them missing the value is 0.

    Raises
    ------
    InputError
        If an array is not boolean.
    GeometryError
        If the shapes differ.

    Examples
    --------
    >>> tube = np.zeros((7, 9), bool)
    >>> tube[2:5] = True
    >>> broken = tube.copy()
    >>> broken[:, 3:6] = False
    >>> round(cldice(tube, broken), 3)
    0.8
    """
    _check_pair(truth, prediction)
    of_truth, of_prediction = skeleton(truth), skeleton(prediction)
    if not of_truth.any() and not of_prediction.any():
        return edge_cases.overlap_both_empty
    if not of_truth.any() or not of_prediction.any():
        return 0.0
    sensitivity = np.count_nonzero(of_truth & prediction) / np.count_nonzero(of_truth)
    precision = np.count_nonzero(of_prediction & truth) / np.count_nonzero(of_prediction)
    total = sensitivity + precision
    return float(2 * sensitivity * precision / total) if total else 0.0
