"""The placement null: the candidate against its own shape at other places of its tissue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.kernels import Kernel, kernel_ladder
from anatrust.statistics.left_out import ClaimedTissue, MaskedTissue
from anatrust.statistics.pieces import Claims, Piece
from anatrust.statistics.place_contrast import contrast_statistics
from anatrust.statistics.place_statistics import Placed, fourier_statistics, histogram_statistics
from anatrust.statistics.places import Places, Shape, Tissue, TissueField, draw_places
from anatrust.statistics.result import VALID_FOR, TestResult

__all__ = ["placement_test", "placement_tests"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
_Overlaps = Literal["exceed", "rank"]


def placement_test(
    features: npt.NDArray[np.floating],
    domain: BoolArray,
    candidate: BoolArray,
    *,
    spacing: Sequence[float] | None = None,
    kernels: Sequence[Kernel] | None = None,
    n_draws: int | None = 999,
    overlaps: _Overlaps = "rank",
    seed: int,
) -> TestResult:
    """Test whether a candidate differs from its own shape laid at other places of the tissue.

    The statistic of a place S + t is MMD²_u between the features in S + t and those in the
    rest of the tissue, and for grey values also the squared contrast of their mean to the surroundings
    of S + t, by the same rule for the candidate and for every other place. All admissible
    translations are enumerated when there are at most `n_draws` of them, else `n_draws` are drawn
    without replacement: p = (1 + #{other places ≥ observed}) / (1 + #{other places}).

    Parameters
    ----------
    features
        ``(*shape,)`` or ``(*shape, d)`` real numbers on an image or volume; finite in the domain.
        One feature is compared through histograms: exactly when it has at most 1 024
        different values in the domain (a graded image has 256), else graded to 256 levels
        between its 0.1 and 99.9 percentiles. Several are compared through random Fourier
        features, 128 a kernel.
    domain
        ``(*shape,)`` bool: the tissue, *including* the candidate's own voxels and rim; other
        candidates may be left out. It must not depend on where in it the candidate lies.
    candidate
        ``(*shape,)`` bool, within the domain.
    spacing
        Voxel size along each axis, for the width of the surroundings; None: all 1.
    kernels
        Kernels to aggregate; default: Gaussian, 1/4, 1 and 4 times the median distance of the
        domain's features (label-blind), and for one feature the contrast to the surroundings
        (`anatrust.statistics.place_contrast`), which slow trends of the tissue do not hide.
    n_draws
        Other places compared at most; None for all that exist.
    overlaps
        ``"rank"``: a place that overlaps the candidate is ranked by its statistic like any other.
        ``"exceed"``: it counts as an exceedance whatever its statistic. Also exact, and p then says
        how rare places as odd as the candidate's *spot* are; but the floor is the share of
        overlapping places, and candidates that are large for their tissue can never be significant.
    seed
        Seed of the sample (and, for several features, of the frequencies).

    Returns
    -------
    TestResult
        ``statistic`` is MMD² for one kernel; for several statistics the largest quotient of one
        and its standard deviation over the places. ``floor`` is 1 / (1 + other places), with ``"exceed"`` the share of
        places that overlap the candidate, itself included. Abstains when candidate or rest has
        fewer than 2 voxels, or no other place exists.

    Raises
    ------
    InputError
        If shapes do not agree, the candidate is empty or not within the domain, a feature is
        not finite there, or `n_draws` is below 1.

    Guarantee
    ---------
    P(p ≤ t) ≤ t exactly, for a place chosen uniformly among the admissible ones without looking
    at the image, whatever the tissue (no stationarity needed). Proof: each place's statistic is a
    function of the image and the place, by one rule that does not know which place is the
    candidate; statistics and their aggregation are symmetric in the places. Given the image, the
    candidate's place and the other places compared are an exchangeable sample of all admissible ones,
    so the rank of its statistic among theirs is uniform, ties raising p; that the sets overlap
    makes the statistics dependent, which exchangeability allows. Counting overlaps as exceedances only raises
    p. It needs a domain that was not laid around the candidate (an organ, not a shell). It does NOT hold
    for a place chosen because it looks odd: use `surrogate_max_test` or a cohort there.

    Notes
    -----
    O(places · runs of the shape) look-ups to find places; then O(places · voxels) increments
    (one feature) or O(places · runs · 128 · kernels) additions (several). To judge many
    candidates use `placement_tests`, which prepares the tissue once.

    References
    ----------
    Besag & Clifford, Biometrika 76 (1989), and Phipson & Smyth 2010 (the +1); Gretton et al.,
    JMLR 13 (2012), eq. 3; Schrab et al., JMLR 24 (2023) (aggregation).

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).integers(0, 100, (60, 60)) / 100
    >>> candidate = np.zeros((60, 60), dtype=bool)
    >>> candidate[20:26, 30:36] = True
    >>> placement_test(image, np.ones((60, 60), dtype=bool), candidate, seed=1).p_value > 0.05
    True
    >>> odd = image + candidate
    >>> result = placement_test(odd, np.ones((60, 60), dtype=bool), candidate, seed=1)
    >>> result.p_value == result.floor
    True
    """
    return placement_tests(
        features,
        domain,
        [candidate],
        spacing=spacing,
        kernels=kernels,
        n_draws=n_draws,
        overlaps=overlaps,
        seeds=[seed],
        seed=seed,
    )[0]


def placement_tests(
    features: npt.NDArray[np.floating],
    domain: BoolArray,
    candidates: Sequence[BoolArray | Piece],
    *,
    excluded: Sequence[BoolArray | None] | Claims | None = None,
    spacing: Sequence[float] | None = None,
    kernels: Sequence[Kernel] | None = None,
    n_draws: int | None = 999,
    overlaps: _Overlaps = "rank",
    seeds: Sequence[int] | None = None,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[TestResult]:
    """`placement_test` for many candidates of one tissue; the tissue is prepared once.

    Parameters
    ----------
    features, domain, spacing, kernels, n_draws, overlaps
        As for `placement_test`; the domain includes all candidates.
    candidates
        Each ``(*shape,)`` bool, or a `Piece` of that grid, within the domain.
    excluded
        For each candidate the part of the domain (the other candidates, dilated) that is
        left out for it, or None. It must not touch the candidate. As `Claims` for many candidates: the
        results are the same, and what all leave out is prepared once.
    seeds
        One seed a candidate for its sample of places; default: all `seed`. Derive it from the
        candidate's geometry and results do not depend on the order of the candidates.
    seed
        Seed of what the candidates share: the median distance and the frequencies.
    progress
        Told how many candidates' places have been found, one after another.

    Returns
    -------
    list of TestResult
        In the order of the candidates.

    Raises
    ------
    InputError
        As `placement_test`, or if the sequences differ in length.

    Guarantee
    ---------
    That of `placement_test`, for each candidate by itself. The p-values of one tissue are
    dependent: correct for their number with Benjamini–Yekutieli.

    Notes
    -----
    50 candidates of 50 to 4 000 voxels in a liver CT: see ``benchmarks/nulls.py``.
    """
    whole = TissueField.of(np.asarray(features), np.asarray(domain))
    excluded = [None] * len(candidates) if excluded is None else excluded
    seeds = [seed] * len(candidates) if seeds is None else seeds
    exclusions = len(excluded.own if isinstance(excluded, Claims) else excluded)
    if not len(candidates) == exclusions == len(seeds):
        raise InputError(f"{len(candidates)} candidates need as many exclusions ({exclusions}) and seeds")
    if n_draws is not None and n_draws < 1:
        raise InputError(f"a placement test needs at least 1 draw, not {n_draws}")
    if overlaps not in get_args(_Overlaps):
        raise InputError(f"overlapping places can 'exceed' or 'rank', not '{overlaps}'")
    if not candidates:
        return []
    ground = ClaimedTissue.of(whole, excluded) if isinstance(excluded, Claims) else MaskedTissue(whole, excluded)
    trials = []
    for number, (candidate, own) in enumerate(zip(candidates, seeds, strict=True)):
        voxels = whole.voxels(candidate, "candidate")
        if voxels.size == 0:
            raise InputError("the candidate is empty: there is nothing to test")
        with ground.of_candidate(number, voxels) as (tissue, removed):
            trials.append(_trial(voxels, tissue, removed, n_draws, np.random.default_rng(own)))
        if progress is not None:
            progress(number + 1)
    able = [trial for trial in trials if trial.reason is None]
    if not able:
        return [TestResult.abstain(str(trial.reason), null="placement") for trial in trials]
    chosen = kernel_ladder(whole.values, seed=seed) if kernels is None else tuple(kernels)
    if not chosen:
        raise InputError("a placement test needs at least one kernel")
    graded = whole.values.shape[1] == 1
    compute, engine = (histogram_statistics, "histogram") if graded else (fourier_statistics, "fourier")
    placed = [trial.placed for trial in able]
    found = compute(whole, placed, chosen, seed)
    if graded and kernels is None:
        # Vectors of local descriptors hold contrasts to the surroundings already.
        step = _arranged_spacing(spacing, whole)
        found = [np.vstack([own, c]) for own, c in zip(found, contrast_statistics(whole, placed, step), strict=True)]
        engine = "histogram, contrast"
    statistics = iter(found)
    return [
        TestResult.abstain(trial.reason, null="placement")
        if trial.reason is not None
        else _judge(next(statistics), trial.places.overlaps & (overlaps == "exceed"), engine)
        for trial in trials
    ]


def _arranged_spacing(spacing: Sequence[float] | None, whole: TissueField) -> tuple[float, ...]:
    """Voxel size along the three axes of an arranged tissue."""
    ndim = len(whole.shape)
    step = np.ones(ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if step.shape != (ndim,) or not (np.isfinite(step).all() and (step > 0).all()):
        raise InputError(f"the spacing must be {ndim} positive numbers, not {spacing}")
    roomy = (*(1.0,) * (3 - ndim), *step.tolist())
    return tuple(roomy[axis] for axis in whole.order)


@dataclass(frozen=True, eq=False)
class _Trial:
    """One candidate: where it can lie, or why it cannot be tested."""

    placed: Placed
    places: Places
    reason: str | None


def _trial(
    voxels: IntArray, tissue: Tissue, removed: Shape | None, n_draws: int | None, rng: np.random.Generator
) -> _Trial:
    """Find the places of one candidate."""
    shape = Shape.of(voxels, tissue.shape)
    n = tissue.size - voxels.size
    places, reason = Places(np.empty(0, dtype=np.int64), np.empty(0, dtype=bool), True), None
    if voxels.size < 2 or n < 2:
        reason = f"the candidate has {voxels.size} and the rest of the tissue {n} voxels; a test needs 2 of each"
    else:
        places = draw_places(shape, tissue, n_draws, rng)
        if not places.anchors.size:
            reason = "the candidate's shape fits nowhere else in the tissue"
    return _Trial(Placed(shape, np.append(shape.anchor, places.anchors), removed, n), places, reason)


def _judge(statistics: FloatArray, overlaps: BoolArray, engine: str) -> TestResult:
    """Aggregate the kernels' statistics, ``(kernels, 1 + places)`` with the candidate first, and count."""
    if len(statistics) == 1:
        aggregate = statistics[0]
    else:
        # A scale from all places alike, the candidate's included, keeps them exchangeable.
        scale = statistics.std(axis=1, keepdims=True)
        aggregate = (statistics / np.where(scale > 0, scale, 1.0)).max(axis=0)
    # Ties must count: sums of one place in another order may differ by rounding.
    slack = 1e-9 * max(float(np.abs(aggregate).max()), np.finfo(float).tiny)
    exceeding = np.count_nonzero(overlaps | (aggregate[1:] >= aggregate[0] - slack))
    draws = overlaps.size
    return TestResult(
        statistic=float(aggregate[0]),
        p_value=float((1 + exceeding) / (1 + draws)),
        floor=float((1 + np.count_nonzero(overlaps)) / (1 + draws)),
        n_draws=draws,
        null="placement",
        engine=engine,
        valid_for=VALID_FOR["placement"],
    )
