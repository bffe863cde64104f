"""How sure the segmenter is of what it marked, as features: the spread of its entropy, not its mean alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.volumes import Mask, ProbabilityMap
from anatrust.ood.features import Levels
from anatrust.ood.logit_scores import logit_map

__all__ = ["CERTAINTY_LEVELS", "certainty", "certainty_identity"]

_PERCENTILES = (2, 10, 25, 50, 75, 90, 98)
CERTAINTY_LEVELS: Levels = (("certainty", 2 + len(_PERCENTILES)),)
"""One group of nine columns."""


def certainty_identity() -> str:
    """Exact description: equal strings give equal features."""
    return f"certainty/1 entropy over the mask: mean, deviation, percentiles {_PERCENTILES}"


def certainty(probabilities: ProbabilityMap, mask: Mask) -> npt.NDArray[np.float32]:
    """Mean, deviation and seven percentiles of the voxels' entropy over what was marked, ``(9,)`` in nats.

    A change of a few millimetres hardly moves the average of an encoder's features over a crop, but the
    segmenter is often unsure there: features and confidence see different things (Anthony & Kamnitsas,
    arXiv 2309.01488, 2408.17337). The whole spread is kept because a small unsure place is in its upper end only.

    Parameters
    ----------
    probabilities
        Classes that exclude each other (background first): the entropy of all of them. One channel, or regions
        that may overlap: that of marked against not.
    mask
        What was marked, not empty, on the same grid.

    Raises
    ------
    InputError
        If nothing is marked.
    GeometryError
        If the grids differ.

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((2, 2), np.eye(4))
    >>> sure = ProbabilityMap(np.array([[[1.0, 1.0], [0.5, 0.5]]]), grid)
    >>> bool((certainty(sure, Mask(np.array([[True, True], [False, False]]), grid)) == 0).all())
    True
    """
    if not probabilities.grid.same_as(mask.grid):
        raise GeometryError(f"the probabilities lie on {probabilities.grid!r}, the mask on {mask.grid!r}: align them")
    if not mask.array.any():
        raise InputError("nothing was segmented, so there is nothing to be sure of: treat it as 'no prediction'")
    marked = np.asarray(probabilities.array[:, mask.array], dtype=np.float64)
    if len(marked) == 1 or probabilities.classes[0].lower() != "background":
        share = marked.max(axis=0)
        marked = np.stack([1 - share, share])
    # float16 files sum to one only nearly.
    entropy = logit_map(marked / marked.sum(axis=0), "entropy", kind="probabilities")
    return np.array([entropy.mean(), entropy.std(), *np.percentile(entropy, _PERCENTILES)], dtype=np.float32)
