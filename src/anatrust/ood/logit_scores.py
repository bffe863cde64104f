"""How unsure the segmenter itself is: logit scores over what it marked. Higher = stranger, always."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.grid import Grid

__all__ = ["LogitScore", "Pooling", "crop_boxes", "logit_map", "pooled_score", "roi_scores"]

LogitScore = Literal["msp", "maxlogit", "energy", "entropy"]
Pooling = Literal["mean", "max", "p95", "median"]
Box = tuple[slice, ...]


def logit_map(
    values: npt.ArrayLike, score: LogitScore, *, kind: Literal["logits", "probabilities"] = "logits"
) -> npt.NDArray[np.float64]:
    """Strangeness of each voxel from the segmenter's outputs.

    Parameters
    ----------
    values
        ``(classes, *shape)``, at least two classes that exclude each other, background included.
    score
        ``"msp"``: −largest softmax (Hendrycks & Gimpel 2017); ``"maxlogit"``: −largest logit
        (Hendrycks et al. 2022); ``"energy"``: −log Σ exp (Liu et al. 2020); ``"entropy"``: of the
        softmax, in nats.
    kind
        Probabilities allow msp and entropy only: the other two live in what softmax removes.

    Returns
    -------
    ``shape`` float64, higher = stranger.

    Raises
    ------
    InputError
        If the score is unknown or cannot be had from probabilities, or values are not finite.

    Examples
    --------
    >>> logit_map([[2.0, 0.0], [0.0, 0.0]], "maxlogit").tolist()
    [-2.0, -0.0]
    """
    given = np.asarray(values, dtype=np.float64)
    if score not in get_args(LogitScore):
        raise InputError(f"unknown logit score {score!r}: choose one of {', '.join(get_args(LogitScore))}")
    if given.ndim < 2 or given.shape[0] < 2:
        raise InputError(f"logit scores need (classes, …) with two classes or more, not shape {given.shape}")
    if not np.isfinite(given).all():
        raise InputError("the segmenter's outputs hold NaN or infinity: export them again")
    if kind == "probabilities":
        if score in ("maxlogit", "energy"):
            raise InputError(f"'{score}' needs logits, probabilities have lost it: choose 'msp' or 'entropy'")
        if given.min() < -1e-6 or np.abs(given.sum(axis=0) - 1).max() > 1e-3:
            raise InputError("these are no probabilities of classes that exclude each other: they do not sum to 1")
        share = np.clip(given, 0.0, 1.0)
        logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    else:
        if score == "maxlogit":
            return np.asarray(-given.max(axis=0))
        top = given.max(axis=0)
        total = top + np.log(np.exp(given - top).sum(axis=0))
        if score == "energy":
            return np.asarray(-total)
        logs = given - total
        share = np.exp(logs)
    return np.asarray(-share.max(axis=0) if score == "msp" else -(share * logs).sum(axis=0))


def pooled_score(strangeness: npt.ArrayLike, mask: npt.NDArray[np.bool_], pooling: Pooling = "mean") -> float:
    """One number a scan: the mean, maximum, 95th percentile or median over what was marked.

    Raises
    ------
    InputError
        If nothing is marked (a verdict of its own, never a score) or shapes differ.

    Examples
    --------
    >>> pooled_score([1.0, 2.0, 9.0], np.array([True, True, False]), "max")
    2.0
    """
    values = np.asarray(strangeness, dtype=np.float64)
    if pooling not in get_args(Pooling):
        raise InputError(f"unknown pooling {pooling!r}: choose one of {', '.join(get_args(Pooling))}")
    if values.shape != mask.shape:
        raise InputError(f"the map has shape {values.shape}, the mask {mask.shape}: give both on one grid")
    marked = values[mask]
    if not marked.size:
        raise InputError("nothing was segmented, so there is nothing to score: treat it as 'no prediction'")
    how: dict[str, Any] = {"mean": np.mean, "max": np.max, "median": np.median}
    return float(np.percentile(marked, 95) if pooling == "p95" else how[pooling](marked))


def crop_boxes(grids: Sequence[Grid], grid: Grid) -> tuple[Box, ...]:
    """Where crops lie on another grid of the same scan: index boxes, cut to it.

    Parameters
    ----------
    grids
        Of crops (:class:`~anatrust.ood.crops.Crops`), axis-parallel to ``grid``.
    grid
        The grid of the segmenter's outputs.

    Examples
    --------
    >>> crop = Grid((4, 4), np.diag([1.0, 1.0, 1.0, 1.0]))
    >>> crop_boxes([crop], Grid((10, 10), np.diag([2.0, 2.0, 1.0, 1.0])))[0]
    (slice(0, 2, None), slice(0, 2, None))
    """
    boxes = []
    for crop in grids:
        n = crop.ndim
        ends = grid.to_index(crop.to_world(np.array([[-0.5] * n, [s - 0.5 for s in crop.shape]])))
        # Voxels whose centre lies inside the crop; rounding of headers must not decide.
        low = np.ceil(ends.min(axis=0) - 1e-6).astype(int)
        high = np.ceil(ends.max(axis=0) - 1e-6).astype(int)
        boxes.append(
            tuple(
                slice(max(0, int(a)), max(0, min(int(b), size)))
                for a, b, size in zip(low, high, grid.shape, strict=True)
            )
        )
    return tuple(boxes)


def roi_scores(
    strangeness: npt.ArrayLike,
    mask: npt.NDArray[np.bool_],
    boxes: Sequence[Box],
    *,
    pooling: Pooling = "mean",
    least_voxels: int = 10,
) -> npt.NDArray[np.float64]:
    """The score of each crop with enough marked voxels, ``(crops kept,)``; the scan's is their mean.

    Parameters
    ----------
    strangeness, mask
        Map and marked voxels on one grid. Nothing is resampled: the published code interpolates
        logits to 1 mm first.
    boxes
        :func:`crop_boxes`.
    pooling, least_voxels
        Within a crop.

    Raises
    ------
    InputError
        If no crop has enough marked voxels, or as in :func:`pooled_score`.
    """
    values = np.asarray(strangeness, dtype=np.float64)
    if values.shape != mask.shape:
        raise InputError(f"the map has shape {values.shape}, the mask {mask.shape}: give both on one grid")
    kept = [box for box in boxes if np.count_nonzero(mask[box]) >= max(1, least_voxels)]
    if not kept:
        raise InputError(f"no crop holds {least_voxels} marked voxels: treat the scan as 'no prediction'")
    return np.array([pooled_score(values[box], mask[box], pooling) for box in kept])
