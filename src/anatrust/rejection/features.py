"""Features φ of voxels: the paper's percentile-normalised grey value, or whitened local descriptors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import Scan
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.protocols import Encoder

__all__ = ["crop_scan", "graded_intensity", "local_features", "whiten"]

# A direction with less than this share of the largest variance is noise of rounding.
_VARIANCE_FLOOR = 1e-6


def graded_intensity(
    image: npt.NDArray[Any],
    region: npt.NDArray[np.bool_],
    *,
    percentiles: tuple[float, float] = (0.5, 99.5),
    levels: int = 256,
) -> npt.NDArray[np.float32]:
    """Grey values clipped to two percentiles of a region and graded on [0, 1].

    R2Seg (arXiv 2511.12691), "per-instance percentile-normalised intensity". The percentiles
    are those of the whole region, candidates included, so they cannot tell the candidate apart.

    Parameters
    ----------
    image
        Any real array.
    region
        Boolean, same shape, not empty: where the percentiles are taken.
    percentiles, levels
        Range that becomes [0, 1] and the number of grades in it.

    Returns
    -------
    float32 array of ``image``'s shape
        Multiples of ``1 / (levels - 1)``. All zero where the region is constant.

    Examples
    --------
    >>> import numpy as np
    >>> graded_intensity(np.arange(5), np.ones(5, bool), percentiles=(0, 100), levels=5)
    array([0.  , 0.25, 0.5 , 0.75, 1.  ], dtype=float32)
    """
    values = image[region]
    low, high = np.percentile(values, percentiles)
    if not high > low:
        # A small lesion in constant tissue lies wholly beyond the percentiles.
        low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.zeros(image.shape, dtype=np.float32)
    share = np.clip((image.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    graded: npt.NDArray[np.float32] = (np.rint(share * (levels - 1)) / (levels - 1)).astype(np.float32)
    return graded


def whiten(features: npt.NDArray[Any], tissue: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Centre and decorrelate features so that on the tissue they have mean 0 and covariance 1.

    Parameters
    ----------
    features
        ``(*shape, d)``.
    tissue
        Boolean ``shape`` with at least two voxels.

    Returns
    -------
    float32 array of the same shape
        Symmetric (ZCA) whitening, so each feature stays recognisable. Directions in which the
        tissue does not vary are dropped to zero instead of being blown up. All NaN where a
        feature of the tissue is not finite: then there is nothing to compare with.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 2)) @ np.array([[3.0, 1.0], [0.0, 2.0]])
    >>> np.allclose(np.cov(whiten(x, np.ones(500, bool)).T), np.eye(2), atol=1e-3)
    True
    """
    sample = features[tissue].astype(np.float64)
    if not np.isfinite(sample).all():
        return np.full(features.shape, np.nan, dtype=np.float32)
    centre = sample.mean(axis=0)
    scale = sample.std(axis=0)
    scale[scale == 0] = 1.0
    values, vectors = np.linalg.eigh(np.cov(((sample - centre) / scale).T).reshape(len(scale), len(scale)))
    strong = values > _VARIANCE_FLOOR * max(float(values.max()), 1e-300)
    roots = np.zeros_like(values)
    roots[strong] = 1.0 / np.sqrt(values[strong])
    white: npt.NDArray[np.float32] = (((features - centre) / scale) @ ((vectors * roots) @ vectors.T)).astype(
        np.float32
    )
    return white


def crop_scan(scan: Scan, box: tuple[slice, ...]) -> Scan:
    """The part of a scan inside a box, on its own grid."""
    affine = np.array(scan.grid.affine)
    affine[:3, 3] = scan.grid.to_world([edge.start for edge in box])
    array = scan.array[box]
    return replace(scan, array=array, grid=replace(scan.grid, shape=array.shape, affine=affine))


def local_features(
    scan: Scan, box: tuple[slice, ...], tissue: npt.NDArray[np.bool_], encoder: Encoder | None = None
) -> npt.NDArray[np.float32]:
    """Features of an encoder inside a box, whitened on the tissue.

    Parameters
    ----------
    scan
        In canonical orientation.
    box
        Where the features are wanted.
    tissue
        Boolean, the box's shape: the normal tissue.
    encoder
        Local descriptors by default. The scan is handed over with a margin around the box, so
        that features near its faces see what is there.
    """
    encoder = LocalDescriptors() if encoder is None else encoder
    margin = getattr(encoder, "margin", 0.0)
    steps = [int(np.ceil(margin / step)) for step in scan.grid.spacing]
    wide = tuple(
        slice(max(0, edge.start - step), min(n, edge.stop + step))
        for edge, step, n in zip(box, steps, scan.grid.shape, strict=True)
    )
    features = encoder.encode(crop_scan(scan, wide))
    inner = tuple(slice(e.start - w.start, e.stop - w.start) for e, w in zip(box, wide, strict=True))
    return whiten(features[inner], tissue)
