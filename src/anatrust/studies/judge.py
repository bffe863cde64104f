"""One call for every null, so that studies compare them on the same candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.rejection.features import graded_intensity, local_features
from anatrust.statistics.multiple_testing import benjamini_yekutieli
from anatrust.statistics.placement import placement_tests
from anatrust.statistics.result import TestResult
from anatrust.statistics.surrogate import Direction, surrogate_max_test
from anatrust.statistics.two_sample import two_sample_test
from anatrust.studies.tissues import TissueSample

__all__ = ["any_kept", "block_ids", "features_of", "p_values"]

Bools = npt.NDArray[np.bool_]


def features_of(sample: TissueSample, kind: str, null: str) -> npt.NDArray[Any]:
    """Features of a tissue sample as rejection makes them for a null: intensity or local descriptors.

    Surrogate-max compares means and therefore gets the grey values unclipped; the others get
    them graded between two percentiles.
    """
    if kind == "intensity":
        return sample.image if null == "surrogate-max" else graded_intensity(sample.image, sample.domain)
    if kind == "local":
        return local_features(sample.scan, tuple(slice(0, n) for n in sample.image.shape), sample.domain)
    raise InputError(f"unknown features '{kind}': choose intensity or local")


def block_ids(shape: tuple[int, ...], candidate: Bools) -> npt.NDArray[np.int64]:
    """Number of the spatial block each voxel lies in: cubes about as big as the candidate, as in rejection."""
    side = max(2, round(float(np.count_nonzero(candidate)) ** (1 / candidate.ndim)))
    ids = np.zeros(shape, dtype=np.int64)
    for axis, n in enumerate(shape):
        index = np.arange(n) // side
        ids = ids * int(index[-1] + 1) + index.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return ids


def p_values(
    null: str,
    features: npt.NDArray[Any],
    sample: TissueSample,
    candidates: Sequence[Bools],
    *,
    seed: int,
    draws: int,
    alone: bool = False,
    direction: Direction = "both",
) -> list[TestResult]:
    """Test candidates of one tissue by one null.

    Parameters
    ----------
    null
        ``iid``, ``block``, ``placement``, ``placement-exceed`` (places that overlap the
        candidate count as exceedances) or ``surrogate-max``.
    features, sample
        Features on the sample's grid.
    candidates
        Boolean masks within the tissue.
    seed, draws
        Seed; null draws, places or surrogates.
    alone
        The candidates are separate experiments: none knows of the others. Otherwise they are
        the candidates of one scan, and each is compared with the tissue without the others.
    direction
        The side that surrogate-max looks at.
    """
    domain = sample.domain
    grown = [ndimage.binary_dilation(c) for c in candidates]
    every = np.sum(grown, axis=0) if candidates else np.zeros(domain.shape)
    others = [
        None if alone or len(candidates) == 1 else (every - g > 0) & ~c for c, g in zip(candidates, grown, strict=True)
    ]
    if null in ("placement", "placement-exceed"):
        return placement_tests(
            features,
            domain,
            candidates,
            excluded=others,
            spacing=sample.spacing,
            n_draws=draws,
            overlaps="exceed" if null == "placement-exceed" else "rank",
            seeds=[seed + k for k in range(len(candidates))],
            seed=seed,
        )
    if null == "surrogate-max":
        return list(
            surrogate_max_test(
                features,
                domain,
                list(candidates),
                spacing=sample.spacing,
                n_surrogates=draws,
                direction=direction,
                seed=seed,
            )
        )
    if null not in ("iid", "block"):
        raise InputError(f"unknown null '{null}'")
    results = []
    for k, (candidate, other) in enumerate(zip(candidates, others, strict=True)):
        rest = domain & ~candidate if other is None else domain & ~candidate & ~other
        ids = block_ids(domain.shape, candidate) if null == "block" else None
        blocks = None if ids is None else np.concatenate([ids[candidate], ids[rest]])
        results.append(
            two_sample_test(
                features[candidate],
                features[rest],
                null="block" if ids is not None else "iid",
                n_draws=draws,
                blocks=blocks,
                seed=seed + k,
            )
        )
    return results


def any_kept(null: str, results: Sequence[TestResult], alpha: float) -> list[bool]:
    """Which candidates of one scan are kept at a level, with the correction the null needs.

    Maximum nulls bound the familywise error as they are; the others go through
    Benjamini-Yekutieli.
    """
    p = np.array([r.p_value for r in results])
    if len(p) == 0:
        return []
    q = p if null == "surrogate-max" else benjamini_yekutieli(p)
    return [bool(v <= alpha) for v in q]
