"""The surrogate-max null: the candidate against the oddest place of copies of its tissue's texture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.statistics.ball_scan import BallScan
from anatrust.statistics.coarse_tissue import CoarseTissue, grown
from anatrust.statistics.pieces import Piece
from anatrust.statistics.result import VALID_FOR, TestResult
from anatrust.statistics.scan_statistic import Combination, Members, ScanStatistic, steepest_growth
from anatrust.statistics.tail_scores import tail_scores
from anatrust.statistics.texture import LongTexture, TextureModel, fit_texture, normal_scores, ranked

__all__ = ["Direction", "surrogate_max_test"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Direction = Literal["both", "brighter", "darker"]

_MIN_VOXELS = 200
# Independent patches, by the tapered covariance, which shortens long correlations: the estimate stays above
# about 20 (2-D) and 100 (3-D) however long they are. Below these limits ranks and one fitted correlation
# gave a simulated level of up to 0.3 at 0.05, so the test takes its other form.
_FEW_PATCHES = {2: 150.0, 3: 250.0}
# Lengths of the smooth fields of that form, as shares of the diameter of a ball of the tissue's volume, and how
# many pairs of each are drawn to see whether the tissue may be as smooth; length of the rough field.
_LENGTHS = (0.1, 0.2, 0.4, 0.8)
_PAIRS = 20
_ROUGH_LENGTH = 0.7
_ROUGHER = 0.5
# Where the forms disagree whether p is at most this, the test abstains; as where not even a candidate that
# differs everywhere by so many standard deviations of the tissue would have come to it.
_UNSURE = 0.1
_GLARING = 4.0
# A candidate of more than this share of the tissue is left out when the texture is fitted.
_LARGE = 0.02
_LEAST_WIDTH = 0.05
_THREADS = 4
# Pairs of fields from which it is learnt how much more the contrasts of some places vary.
_SAMPLE = 8
# Pairs of fields that are drawn and scanned together.
_AT_A_TIME = 8
_SIDES: dict[str, tuple[int, ...]] = {"both": (0, 1), "brighter": (0,), "darker": (1,)}


def surrogate_max_test(
    features: npt.NDArray[np.floating],
    domain: BoolArray,
    candidates: Sequence[BoolArray | Piece],
    *,
    spacing: Sequence[float] | None = None,
    n_surrogates: int = 199,
    direction: Direction = "both",
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[TestResult]:
    """Test candidates that were chosen by looking at the image, with nothing but this image.

    Grey values become normal scores. The evidence of a ball is its mean minus that of its
    surroundings (the balls 1.41 and twice as wide), divided by how far such contrasts spread where ball and
    surroundings hold as much tissue, standardised among all balls of its size; a
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
    progress
        Told how many candidates would be done by now: all are compared with the same fields, drawn a few at a time.

    Returns
    -------
    list of TestResult
        In the order of the candidates. ``statistic`` is in units of the distance between the
        median and the 95th percentile of the null maximum of its scale, 0 at its median. p is
        familywise already: no correction for the number of candidates is needed within a tissue.
        All abstain when the tissue has too few voxels (200, after coarsening) or is nearly constant;
        one abstains when it leaves too little of the tissue to compare with, or where patches are few
        and it depends on the correlation whether p is below 0.1, or p would not be so low had the
        candidate differed everywhere by four standard deviations of the tissue: then "not found" says nothing.

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
    it. Where the tissue holds fewer than 150 (2-D) or 250 (3-D) independent patches a candidate must
    also stand out when the marginal is a shifted lognormal on each side of its median, with a tail
    no lighter than the normal one, and whatever the correlation: the p-value is the largest over
    ranks, and over such scores against the fitted correlation, a rough one of 0.7 of the tissue's
    diameter, and smooth ones of 0.1 to 0.8 of it, unless the tissue is plainly rougher. In real
    organs vessels, rims and a second texture differ from the texture and are found.

    Notes
    -----
    Each scale is standardised by the median and the deciles of its own contrasts, in the tissue
    as in each surrogate, so the texture's variance at no scale has to be known; the fitted
    covariance only decides how many independent places there are, and how much more contrasts vary at the rim,
    where balls are cut: without that the oddest place of most surrogates is one at the rim, and everywhere else
    a candidate would have to differ by a fifth more. Narrow surroundings follow the trends of a tissue and find
    what has an edge, wide ones suit small candidates. The maxima of the scales
    (and of both surroundings, both signs and all features) are brought to one unit by their median and 95th
    percentile, which for nearly Gumbel maxima weighs their tails alike, as min-p would. Several
    features are simulated independently: by Šidák's inequality the maximum over dependent
    Gaussian features is no larger.

    With few patches (long correlations) some place is always the brightest, ranks cannot tell by
    how much, and a correlation estimated from few patches may be far off: by ranks and the fitted
    correlation alone up to 0.9 of such textures hold something "significant" at 0.05. There the
    scores of `anatrust.statistics.tail_scores` extrapolate the marginal, in the tissue and in
    each surrogate alike. A candidate of more than 2 % of the tissue is left out of the marginal;
    surrogates lose as large a share, their most extreme values, so that choosing what to leave
    out gains nothing. The least favourable correlation decides: the smoother a field, the fewer
    its independent places and the heavier the tail of its standardised maximum, hence the smooth
    ones, up to the first whose contrasts, in each of 40 draws, grow from scale to scale more than
    twice as fast as the tissue's. Rough ones are represented by the fit and by one of long range, which
    the fit misses where a candidate covers much of the tissue.

    What that costs in power differs from place to place: for each candidate that is not found there the test
    asks itself whether it would have been, had it differed everywhere by four standard deviations of the
    tissue; where not, it abstains. That turns no candidate into a finding.

    Tissues of more than 30 000 voxels (8 000 for several
    features) are averaged over blocks first. Cost: `n_surrogates` · d / 2 FFTs of the coarse
    box and about 110 additions a voxel of the coarse tissue for each surrogate.

    References
    ----------
    Westfall & Young, Resampling-Based Multiple Testing (1993) (maximum of the null);
    Burt et al., NeuroImage 220 (2020) (surrogates with a map's autocorrelation); Kulldorff,
    Commun. Stat. 26 (1997) (scan statistics); Šidák, JASA 62 (1967); Berger &
    Boos, JASA 89 (1994) (the largest p over what is not known).

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
    tissue = CoarseTissue.of(np.asarray(features), np.asarray(domain), candidates, spacing)
    abstain = partial(TestResult.abstain, null="surrogate-max", floor=1 / (n_surrogates + 1))
    count = int(np.count_nonzero(tissue.mask))
    large = [share > 0 for share in tissue.candidates if share.sum() > _LARGE * count]
    rest = tissue.mask & ~np.any([grown(mask) for mask in large] or [np.zeros_like(tissue.mask)], axis=0)
    remaining = int(np.count_nonzero(rest))
    if remaining < _MIN_VOXELS:
        reason = f"only {remaining} voxels of tissue beside the candidates; surrogates need {_MIN_VOXELS}"
        return [abstain(reason) for _ in candidates]
    if not all(np.subtract(*np.quantile(field[rest], (0.75, 0.25))) > 0 for field in tissue.fields):
        return [abstain("the tissue is nearly constant: there is no texture to compare with") for _ in candidates]
    ranks, lengths = _ranks(tissue, rest)
    scan = BallScan(tissue.mask.astype(np.float32), tissue.spacing)
    few = lengths < _FEW_PATCHES[tissue.mask.ndim]
    forms = [ranks, *_tails(tissue, rest, scan, seed)] if few else [ranks]
    # One for all forms: made smooth for a smooth texture it would take every roughness for a lesion.
    statistic = ScanStatistic(scan, _sample(ranks.textures, tissue.mask, seed))
    # One candidate after another: the ball means of hundreds fit in no memory.
    indicators = (share[tissue.mask][None] for share in tissue.candidates)
    members = [statistic.members([held for [held] in scan.means(own)]) for own in indicators]
    # The family: every measure, and whatever else a candidate is compared by.
    everything = {(measure, 0) for measure in range(len(scan.measures))}
    family = sorted(everything.union(*(own.combinations for own in members)))
    sides = list(_SIDES[direction])
    steps = _Steps(len(forms) * len(tissue.fields) * len(_firsts(n_surrogates)), len(candidates), progress)
    nulls = [_null(form, statistic, tissue.mask, family, sides, n_surrogates, seed, steps) for form in forms]

    def judged(marks: _Marks, chosen: list[Members]) -> list[list[tuple[float, float]]]:
        """p-value and statistic of candidates by every form, given the scores of each feature in the tissue."""
        scores = {marginal: [statistic.scores(each, chosen) for each in own] for marginal, own in marks.items()}
        return [null.judged(chosen, scores[form.marginal]) for form, null in zip(forms, nulls, strict=True)]

    found = judged({form.marginal: form.marks for form in forms}, members)
    patches = f"the tissue holds only about {lengths:.0f} independent patches, too few to"
    results = []
    for number, own in enumerate(members):
        if not own.combinations:
            results.append(abstain("the candidate is too large for the tissue, or too small for its resolution"))
            continue
        p, value = max((p, -value) for p, value in (values[number] for values in found))
        least = min(values[number][0] for values in found)
        if least <= _UNSURE < p:
            results.append(
                abstain(f"{patches} know its correlation, on which depends whether p is {least:.2g} or {p:.2g}")
            )
            continue
        if few and p > _UNSURE:
            fields = _glaring(tissue, rest, tissue.candidates[number], sides)
            glaring = None if fields is None else {f.marginal: _marks(f.marginal, fields, tissue, rest) for f in forms}
            if glaring is not None and max(p for [(p, _)] in judged(glaring, [own])) > _UNSURE:
                found_how = f"find even a difference of {_GLARING:g} standard deviations all over this candidate"
                measured = f"{p:.2g}" if f"{least:.2g}" == f"{p:.2g}" else f"{least:.2g} to {p:.2g}"
                results.append(abstain(f"{patches} {found_how} (p is {measured})"))
                continue
        results.append(
            TestResult(
                statistic=-value,
                p_value=p,
                floor=1 / (1 + n_surrogates),
                n_draws=n_surrogates,
                null="surrogate-max",
                engine="ball-scan, few patches" if few else "ball-scan",
                valid_for=VALID_FOR["surrogate-max"],
            )
        )
    return results


class _Texture(Protocol):
    def pairs(self, rngs: Sequence[np.random.Generator], mask: BoolArray, /) -> FloatArray: ...


class _Marginal(Protocol):
    def __call__(self, values: FloatArray, reference: FloatArray, /) -> FloatArray: ...


_Marks = Mapping[_Marginal, list[FloatArray]]


@dataclass(frozen=True, eq=False)
class _Form:
    """One way to score the tissue, and the surrogates to compare it with."""

    marginal: _Marginal
    marks: list[FloatArray]
    """For each feature: its scores in the tissue."""
    textures: Sequence[_Texture]
    scored: Sequence[Callable[[FloatArray], FloatArray]]
    """For each feature: values of surrogates in the tissue, one a row → their scores."""


def _marks(marginal: _Marginal, fields: FloatArray, tissue: CoarseTissue, rest: BoolArray) -> list[FloatArray]:
    """The scores of each feature in the tissue."""
    return [marginal(field[tissue.mask], field[rest]) for field in fields]


def _fitted(marks: list[FloatArray], tissue: CoarseTissue, rest: BoolArray) -> list[TextureModel]:
    """The texture of each feature, given its scores in the tissue."""
    models = []
    for own in marks:
        image = np.zeros(tissue.mask.shape, dtype=np.float32)
        image[tissue.mask] = own
        image[~rest] = 0
        models.append(fit_texture(image, rest, spacing=tissue.spacing))
    return models


def _ranks(tissue: CoarseTissue, rest: BoolArray) -> tuple[_Form, float]:
    """Normal scores by ranks, surrogates of the correlation fitted to them, and how many patches it leaves."""
    marks = _marks(normal_scores, tissue.fields, tissue, rest)
    textures = _fitted(marks, tissue, rest)
    order = np.arange(np.count_nonzero(tissue.mask), dtype=np.float64)
    # Surrogates are ranked as the tissue is: ranking sharpens the highest peak where patches are few.
    scored = partial(ranked, ladder=normal_scores(order, order))
    return _Form(normal_scores, marks, textures, [scored] * len(marks)), min(texture.n_lengths for texture in textures)


def _tails(tissue: CoarseTissue, rest: BoolArray, scan: BallScan, seed: int) -> list[_Form]:
    """Scores with extrapolated tails, against the correlations among which the true one is not known.

    Large candidates are left out of the marginal. They were chosen by looking, so what is left is
    cut off; surrogates lose as large a share at the same end, their most extreme values whatever
    their place, which cuts off no less.
    """
    count, gone = np.count_nonzero(tissue.mask), tissue.mask & ~rest
    scored = []
    for field in tissue.fields:
        below = float(np.count_nonzero(gone & (field <= np.median(field[tissue.mask]))) / count)
        left_out = (below, float(np.count_nonzero(gone) / count) - below)
        scored.append(partial(tail_scores, left_out=left_out))
    marks = _marks(tail_scores, tissue.fields, tissue, rest)
    ndim, volume = tissue.mask.ndim, count * float(np.prod(tissue.spacing))
    diameter = 2 * (math.sqrt(volume / math.pi) if ndim == 2 else (3 * volume / (4 * math.pi)) ** (1 / 3))
    growth = steepest_growth(scan, np.stack(marks)).max()
    textures: list[Sequence[_Texture]] = [_fitted(marks, tissue, rest)]
    for share in _LENGTHS:
        smooth = LongTexture(tissue.mask.shape, tissue.spacing, share * diameter)
        textures.append([smooth] * len(marks))
        drawn = smooth.pairs([np.random.default_rng([seed, 0, k]) for k in range(_PAIRS)], tissue.mask)
        # A tissue plainly rougher than every one of these is rougher than fields of any greater length.
        if growth < _ROUGHER * steepest_growth(scan, tail_scores(drawn)).min():
            break
    # The fit misses long correlations of rough tissue the more, the more of it the candidates cover.
    rough = LongTexture(tissue.mask.shape, tissue.spacing, _ROUGH_LENGTH * diameter, power=1)
    textures.append([rough] * len(marks))
    return [_Form(tail_scores, marks, own, scored) for own in textures]


def _sample(textures: Sequence[_Texture], mask: BoolArray, seed: int) -> FloatArray:
    """Some fields of the tissue's texture, of its features in turn."""
    return np.concatenate(
        [textures[k % len(textures)].pairs([np.random.default_rng([seed, 0, k, 1])], mask) for k in range(_SAMPLE)]
    )


def _glaring(tissue: CoarseTissue, rest: BoolArray, share: FloatArray, sides: list[int]) -> FloatArray | None:
    """The tissue had a candidate glared on the side it is on; None if that side is not looked at."""
    fields = tissue.fields.copy()
    for field in fields:
        middle = float(np.median(field[rest]))
        darker = float((share * field).sum()) < middle * float(share.sum())
        if int(darker) not in sides:
            return None
        value = middle + (-1 if darker else 1) * _GLARING * float(field[rest].std())
        field += share * (np.float32(value) - field)
    return fields


@dataclass(frozen=True, eq=False)
class _Null:
    """What one form's surrogates say: the maxima of every combination, and the largest of all in one unit."""

    rows: Mapping[Combination, int]
    sides: list[int]
    middle: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    largest: npt.NDArray[np.float64]

    def judged(self, members: list[Members], scores: list[list[npt.NDArray[np.float64]]]) -> list[tuple[float, float]]:
        """p-value and statistic of candidates from their scores, a list for each feature."""
        found = []
        for own, *each in zip(members, *scores, strict=True):
            rows = [self.rows[combination] for combination in own.combinations]
            units = (np.array(each) - self.middle[:, rows]) / self.width[:, rows]
            value = float(units[..., self.sides].max(initial=-np.inf))
            exceeding = np.count_nonzero(self.largest >= value)
            found.append((float((1 + exceeding) / (1 + self.largest.size)), value))
        return found


def _null(
    form: _Form,
    statistic: ScanStatistic,
    mask: BoolArray,
    family: list[Combination],
    sides: list[int],
    n_surrogates: int,
    seed: int,
    steps: _Steps,
) -> _Null:
    """The null distribution of one form."""
    null = _null_maxima(form, statistic, mask, family, n_surrogates, seed, steps)
    middle = np.median(null, axis=0)
    # In these units the upper tails of all scales, features and sides weigh the same in the maximum.
    # (Where ranks leave a maximum no freedom, as that of single voxels, its tail is no unit.)
    width = np.maximum(np.quantile(null, 0.95, axis=0) - middle, _LEAST_WIDTH * np.abs(middle) + 1e-9)
    largest = ((null - middle) / width)[..., sides].max(axis=(1, 2, 3))
    return _Null({c: number for number, c in enumerate(family)}, sides, middle, width, largest)


class _Steps:
    """Counts what is drawn, and tells it as the number of candidates that would be done by now."""

    def __init__(self, total: int, candidates: int, told: Callable[[int], None] | None) -> None:
        self._done, self._total, self._candidates, self._told = 0, total, candidates, told

    def one(self) -> None:
        """A step is done."""
        before = self._candidates * self._done // self._total
        self._done += 1
        after = self._candidates * self._done // self._total
        if self._told is not None and after > before:
            self._told(after)


def _firsts(count: int) -> range:
    """First pair of each task of drawing that many fields."""
    return range(0, -(-count // 2), _AT_A_TIME)


def _null_maxima(
    form: _Form,
    statistic: ScanStatistic,
    mask: BoolArray,
    family: list[Combination],
    count: int,
    seed: int,
    steps: _Steps,
) -> npt.NDArray[np.float64]:
    """Maxima of surrogate fields, ``(count, features, combinations, 2)``."""
    pairs = -(-count // 2)

    def maxima(task: tuple[int, int]) -> npt.NDArray[np.float64]:
        feature, first = task
        # Each pair has its own generator, so results depend neither on threads nor on chunks.
        rngs = [np.random.default_rng([seed, feature, k]) for k in range(first, min(first + _AT_A_TIME, pairs))]
        fields = form.textures[feature].pairs(rngs, mask)
        return statistic.maxima(form.scored[feature](fields), family)

    tasks = [(feature, first) for feature in range(len(form.textures)) for first in _firsts(count)]
    found = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for own in threads.map(maxima, tasks):
            found.append(own)
            steps.one()
    drawn = np.concatenate(found)
    return drawn.reshape(len(form.textures), -1, len(family), 2)[:, :count].swapaxes(0, 1)
