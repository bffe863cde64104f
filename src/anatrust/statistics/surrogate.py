"""The surrogate-max null: the candidate against the oddest place of copies of its tissue's texture."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.ball_scan import BallScan, block_sums
from anatrust.statistics.result import VALID_FOR, TestResult
from anatrust.statistics.scan_statistic import Combination, ScanStatistic
from anatrust.statistics.texture import TextureModel, fit_texture, normal_scores, ranked

__all__ = ["Direction", "surrogate_max_test"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Direction = Literal["both", "brighter", "darker"]

# Voxels at which the tissue is simulated at most, for one feature and for several.
_MAX_VOXELS, _MAX_VOXELS_MANY = 30_000, 8_000
_MIN_VOXELS = 200
# Independent patches, by the tapered covariance, which shortens long correlations: the estimate stays above
# about 50 (2-D) and 100 (3-D) however long they are. Simulated level of 0.05 below these limits: up to 0.3.
_MIN_LENGTHS = {2: 150.0, 3: 250.0}
# A candidate of more than this share of the tissue is left out when the texture is fitted.
_LARGE = 0.02
_LEAST_WIDTH = 0.05
_THREADS = 4
_SIDES: dict[str, tuple[int, ...]] = {"both": (0, 1), "brighter": (0,), "darker": (1,)}


def surrogate_max_test(
    features: npt.NDArray[np.floating],
    domain: BoolArray,
    candidates: Sequence[BoolArray],
    *,
    spacing: Sequence[float] | None = None,
    n_surrogates: int = 199,
    direction: Direction = "both",
    seed: int,
) -> list[TestResult]:
    """Test candidates that were chosen by looking at the image, with nothing but this image.

    Grey values become normal scores. The evidence of a ball is its mean minus that of its
    surroundings (the ball 2.83 times as wide), standardised among all balls of its size; a
    candidate's statistic is the largest evidence, bright or dark, of the balls that belong to it
    (at least half of each lies within it), over radii from a third of to the largest that
    fits. It is compared with the *maximum of the same evidence over all places and all sizes* of
    random fields that have the tissue's shape and autocorrelation: wherever, at whatever
    size and however often a segmenter looked, the oddest place of a lesion-free texture is
    no less odd. Balls, not the candidate's own outline, are compared, so that an outline that
    follows the noise gains nothing.

    Parameters
    ----------
    features
        ``(*shape,)`` or ``(*shape, d)`` real numbers on an image or volume, finite in the domain.
    domain
        ``(*shape,)`` bool: the tissue. The candidates are added to it.
    candidates
        Each ``(*shape,)`` bool, not empty.
    spacing
        Voxel size along each axis (mm); None: all 1.
    n_surrogates
        Random fields a feature, at least 19.
    direction
        ``"brighter"`` and ``"darker"`` look at one side only, in the candidates and in the surrogates
        alike. Fix it before looking at the image.
    seed
        Seed of the random fields. Results do not depend on the order of the candidates.

    Returns
    -------
    list of TestResult
        In the order of the candidates. ``statistic`` is in units of the distance between the
        median and the 95th percentile of the null maximum of its scale, 0 at its median. p is
        familywise already: no correction for the number of candidates is needed within a tissue.
        All abstain when the tissue has too few voxels (200, after coarsening), holds fewer
        than 150 (2-D) or 250 (3-D) independent patches, or is nearly constant; one abstains
        when it leaves too little of the tissue to compare with.

    Raises
    ------
    InputError
        If shapes do not agree, a candidate is empty, a feature is not finite, there are fewer
        than 19 surrogates, or the direction is unknown.

    Guarantee
    ---------
    Approximately P(any p ≤ 0.05) ≤ 0.05 for any number of candidates of whatever sizes, chosen by looking
    at a lesion-free tissue that is a monotone transform of a stationary Gaussian field: its marginal may
    have any shape, its correlation is estimated. It is a single-step max-T test (Westfall &
    Young): every p is ranked among the maxima over all scales, so the family is every ball
    that could have been a candidate. ``tests/statistics/test_surrogate.py`` simulates it for
    balls of six sizes and thresholded components together, the null-validity study measures
    it. In real organs vessels, rims and a second texture differ from the texture and are found.

    Notes
    -----
    Each scale is standardised by the median and the deciles of its own contrasts, in the tissue
    as in each surrogate, so the texture's variance at no scale has to be known; the fitted
    covariance only decides how many independent places there are. The maxima of the scales
    (and of both signs and all features) are brought to one unit by their median and 95th
    percentile, which for nearly Gumbel maxima weighs their tails alike, as min-p would. Several
    features are simulated independently: by Šidák's inequality the maximum over dependent
    Gaussian features is no larger. Tissues of more than 30 000 voxels (8 000 for several
    features) are averaged over blocks first. Cost: `n_surrogates` · d / 2 FFTs of the coarse
    box and about 90 additions a voxel of it for each surrogate.

    References
    ----------
    Westfall & Young, Resampling-Based Multiple Testing (1993) (maximum of the null);
    Burt et al., NeuroImage 220 (2020) (surrogates with a map's autocorrelation); Kulldorff,
    Commun. Stat. 26 (1997) (scan statistics); Šidák, JASA 62 (1967).

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).standard_normal((80, 80))
    >>> lesion = np.hypot(*(np.indices((80, 80)) - 40)) < 6
    >>> tissue = np.ones((80, 80), dtype=bool)
    >>> [result] = surrogate_max_test(image + 2 * lesion, tissue, [lesion], n_surrogates=99, seed=0)
    >>> result.p_value
    0.01
    >>> brightest = image > np.quantile(image, 0.999)
    >>> surrogate_max_test(image, tissue, [brightest], n_surrogates=99, seed=0)[0].p_value > 0.05
    True
    """
    if n_surrogates < 19:
        raise InputError(f"a surrogate test needs at least 19 surrogates, not {n_surrogates}")
    if direction not in get_args(Direction):
        raise InputError(f"the direction is '{direction}': choose one of {', '.join(get_args(Direction))}")
    if not candidates:
        return []
    tissue = _Coarse.of(np.asarray(features), np.asarray(domain), [np.asarray(c) for c in candidates], spacing)
    abstain = partial(TestResult.abstain, null="surrogate-max", floor=1 / (n_surrogates + 1))
    count = int(np.count_nonzero(tissue.mask))
    large = [share > 0 for share in tissue.candidates if share.sum() > _LARGE * count]
    rest = tissue.mask & ~np.any([_grown(mask) for mask in large] or [np.zeros_like(tissue.mask)], axis=0)
    remaining = int(np.count_nonzero(rest))
    if remaining < _MIN_VOXELS:
        reason = f"only {remaining} voxels of tissue beside the candidates; surrogates need {_MIN_VOXELS}"
        return [abstain(reason) for _ in candidates]
    textures = [_fit(field, tissue.mask, rest, tissue.spacing) for field in tissue.fields]
    known = [texture for texture in textures if texture is not None]
    if len(known) < len(textures):
        return [abstain("the tissue is nearly constant: there is no texture to compare with") for _ in candidates]
    lengths, needed = min(model.n_lengths for _, model in known), _MIN_LENGTHS[tissue.mask.ndim]
    if lengths < needed:
        reason = f"the tissue holds only {lengths:.0f} independent patches; {needed:.0f} are needed"
        return [abstain(reason) for _ in candidates]
    statistic = ScanStatistic(BallScan(tissue.mask.astype(np.float32), tissue.spacing))
    members = [statistic.members(statistic.scan.means(share)) for share in tissue.candidates]
    # The family: every scale, and whatever else a candidate is compared by.
    everything = {(scale, 0) for scale in range(len(statistic.scan.scales))}
    family = sorted(everything.union(*(own.combinations for own in members)))
    observed = [statistic.scores(scores, members) for scores, _ in known]
    null = _null_maxima(statistic, tissue.mask, family, [model for _, model in known], n_surrogates, seed)
    middle = np.median(null, axis=0)
    # In these units the upper tails of all scales, features and sides weigh the same in the maximum.
    # (Where ranks leave a maximum no freedom, as that of single voxels, its tail is no unit.)
    width = np.maximum(np.quantile(null, 0.95, axis=0) - middle, _LEAST_WIDTH * np.abs(middle) + 1e-9)
    sides = list(_SIDES[direction])
    largest = ((null - middle) / width)[..., sides].max(axis=(1, 2, 3))
    row = {combination: number for number, combination in enumerate(family)}
    results = []
    for own, *scores in zip(members, *observed, strict=True):
        rows = [row[combination] for combination in own.combinations]
        if not rows:
            results.append(abstain("the candidate is too large for the tissue, or too small for its resolution"))
            continue
        value = float(((np.array(scores) - middle[:, rows]) / width[:, rows])[..., sides].max())
        results.append(
            TestResult(
                statistic=value,
                p_value=float((1 + np.count_nonzero(largest >= value)) / (1 + n_surrogates)),
                floor=1 / (1 + n_surrogates),
                n_draws=n_surrogates,
                null="surrogate-max",
                engine="ball-scan",
                valid_for=VALID_FOR["surrogate-max"],
            )
        )
    return results


@dataclass(frozen=True, eq=False)
class _Coarse:
    """The tissue cropped and averaged over blocks."""

    mask: BoolArray
    spacing: tuple[float, ...]
    fields: FloatArray  # (d, *shape)
    candidates: list[FloatArray]  # share of each voxel's tissue that is the candidate

    @classmethod
    def of(
        cls,
        features: npt.NDArray[np.floating],
        domain: BoolArray,
        candidates: list[BoolArray],
        spacing: Sequence[float] | None,
    ) -> _Coarse:
        ndim = domain.ndim
        if ndim not in (2, 3) or features.ndim not in (ndim, ndim + 1) or features.shape[:ndim] != domain.shape:
            raise InputError(f"features {features.shape} do not fit a domain of shape {domain.shape}")
        voxels = []
        for number, candidate in enumerate(candidates):
            if candidate.shape != domain.shape:
                raise InputError(f"candidate {number} has shape {candidate.shape}, the domain {domain.shape}")
            voxels.append(np.flatnonzero(candidate))
            if not voxels[-1].size:
                raise InputError(f"candidate {number} is empty: there is nothing to test")
        step = np.ones(ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
        if step.shape != (ndim,) or not (np.isfinite(step).all() and (step > 0).all()):
            raise InputError(f"the spacing must be {ndim} positive numbers, not {spacing}")
        tissue = domain.astype(bool)
        tissue.reshape(-1)[np.concatenate(voxels)] = True
        box = []
        for axis in range(ndim):
            along = np.flatnonzero(tissue.any(axis=tuple(a for a in range(ndim) if a != axis)))
            box.append(slice(int(along[0]), int(along[-1]) + 1))
        tissue = tissue[tuple(box)]
        values = features[tuple(box)].reshape(*tissue.shape, -1)
        if not np.isfinite(values[tissue]).all():
            raise InputError("a feature in the domain is NaN or infinite: leave such voxels out of the domain")
        limit = _MAX_VOXELS if values.shape[-1] == 1 else _MAX_VOXELS_MANY
        share, factors = tissue.astype(np.float32), np.ones(ndim, dtype=int)
        while np.count_nonzero(share >= 0.5 * factors.prod()) > limit:
            # One finest axis at a time becomes a voxel coarser until the tissue is small enough.
            factors[int(np.argmin(np.round(step * factors, 6)))] += 1
            share = block_sums(tissue.astype(np.float32), factors)
        mask = share >= 0.5 * factors.prod()
        amount = np.where(mask, share, np.float32(1.0))
        sums = block_sums(np.where(tissue[..., None], values, 0).astype(np.float32), factors)
        fields = np.moveaxis(np.where(mask[..., None], sums / amount[..., None], np.float32(0.0)), -1, 0)
        held = []
        for own in voxels:
            where = [i - edge.start for i, edge in zip(np.unravel_index(own, domain.shape), box, strict=True)]
            blocks = np.ravel_multi_index([i // f for i, f in zip(where, factors, strict=True)], mask.shape)
            counts = np.bincount(blocks, minlength=mask.size).reshape(mask.shape).astype(np.float32)
            held.append(np.where(mask, counts / amount, np.float32(0.0)))
        return cls(mask, tuple(step * factors), np.ascontiguousarray(fields), held)


def _grown(mask: BoolArray) -> BoolArray:
    """A mask and its neighbours, which a blurred object also reaches."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(mask.ndim))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(mask.ndim))
        grown[ahead] |= mask[behind]
        grown[behind] |= mask[ahead]
    return grown


def _fit(
    field: FloatArray, mask: BoolArray, rest: BoolArray, spacing: tuple[float, ...]
) -> tuple[FloatArray, TextureModel] | None:
    """Normal scores and autocorrelation of one feature; None when half of the tissue has one single value."""
    low, high = np.quantile(field[rest], (0.25, 0.75))
    if not high > low:
        return None
    scores = np.zeros_like(field)
    scores[mask] = normal_scores(field[mask], field[rest])
    return scores, fit_texture(np.where(rest, scores, np.float32(0.0)), rest, spacing=spacing)


def _null_maxima(
    statistic: ScanStatistic,
    mask: BoolArray,
    family: list[Combination],
    models: list[TextureModel],
    count: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    """Maxima of surrogate fields, ``(count, features, combinations, 2)``."""
    inside = np.flatnonzero(mask)
    order = np.arange(inside.size, dtype=np.float64)
    ladder = normal_scores(order, order)

    def maxima(field: FloatArray) -> npt.NDArray[np.float64]:
        # Surrogates are ranked as the tissue is: ranking sharpens the highest peak where patches are few.
        scores = np.zeros(mask.size, dtype=np.float32)
        scores[inside] = ranked(field.reshape(-1)[inside], ladder)
        return statistic.maxima(scores.reshape(mask.shape), family)

    def pair(task: tuple[int, int]) -> list[npt.NDArray[np.float64]]:
        feature, number = task
        return [maxima(field) for field in models[feature].pair(np.random.default_rng([seed, feature, number]))]

    # Each pair has its own generator, so the result does not depend on the number of threads.
    tasks = [(feature, number) for feature in range(len(models)) for number in range(-(-count // 2))]
    with ThreadPoolExecutor(_THREADS) as threads:
        drawn = [found for both in threads.map(pair, tasks) for found in both]
    return np.array(drawn).reshape(len(models), -1, len(family), 2)[:, :count].swapaxes(0, 1)
