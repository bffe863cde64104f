"""Marginals, autocorrelation and random fields of a tissue; ball means on a pyramid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.stats import kstest, norm

from anatrust.errors import InputError
from anatrust.statistics import ball_scan
from anatrust.statistics.ball_scan import BallScan, block_sums, halve
from anatrust.statistics.tail_scores import tail_scores
from anatrust.statistics.texture import _NORMAL, LongTexture, fit_texture, normal_scores, ranked, rungs, shaped_noise


def disc(shape: tuple[int, ...], radius: float) -> np.ndarray:
    return sum((g - (n - 1) / 2) ** 2 for g, n in zip(np.indices(shape), shape, strict=True)) <= radius**2


def smooth(shape: tuple[int, ...], width: float, rng: np.random.Generator) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), width, mode="wrap")
    return (field / field.std()).astype(np.float32)


def test_scores_of_any_marginal_are_normal_and_keep_the_order(rng: np.random.Generator) -> None:
    for values in (rng.standard_t(2, 20_000), np.exp(rng.standard_normal(20_000)), rng.random(20_000)):
        scores = normal_scores(values, values)
        assert scores.dtype == np.float32
        assert (np.diff(scores[np.argsort(values)]) >= 0).all()
        assert kstest(scores, "norm").statistic < 1e-3
        assert np.array_equal(scores, normal_scores(np.exp(values / 50), np.exp(values / 50)))


def test_ties_count_half_and_values_beyond_the_reference_are_bounded() -> None:
    reference = np.repeat([0.0, 1.0], 500)
    assert normal_scores(reference, reference)[[0, -1]] == pytest.approx(norm.ppf([0.25, 0.75]), abs=1e-6)
    assert normal_scores(np.array([-9.0, 9.0]), reference) == pytest.approx(norm.ppf([0.0005, 0.9995]), abs=1e-6)


def test_a_lesion_of_three_percent_hardly_moves_the_scores(rng: np.random.Generator) -> None:
    values = rng.standard_normal(50_000)
    before = normal_scores(values, values)[1500:]
    values[:1500] += 8.0
    scores = normal_scores(values, values)
    assert np.abs(scores[1500:] - before)[np.abs(before) < 1.0].max() < 0.12
    assert scores[:1500].min() > 1.8


def test_ranks_by_counting_are_those_by_sorting(rng: np.random.Generator) -> None:
    for values in (rng.standard_normal(30_000), rng.random(300), np.zeros(5)):
        few = values.astype(np.float32)
        ladder = normal_scores(np.arange(few.size), np.arange(few.size))
        expected = np.empty_like(few)
        expected[np.argsort(few, kind="stable")] = ladder
        got, mirrored = ranked(np.stack([few, -few]), ladder)
        ends = few[None].min(axis=1), few[None].max(axis=1)
        # Compiled code may round a product and a sum at once: a rung's difference.
        assert np.allclose(got, rungs.py_func(few[None], *ends, ladder)[0], atol=0.02)
        if np.ptp(few):
            assert np.abs(got - expected).max() < 0.1
            assert got[few.argmax()] == ladder[-1]
            assert got[few.argmin()] == ladder[0]
            assert np.abs(mirrored + expected).max() < 0.1


@pytest.mark.parametrize("transform", [lambda z: z, lambda z: np.exp(0.7 * z), lambda z: 100 - np.exp(z)])
def test_tails_are_extrapolated_as_shifted_lognormals(transform, rng: np.random.Generator) -> None:
    z = rng.standard_normal(40_000)
    lesion = np.linspace(5, 8, 80)  # two in a thousand, beyond everything that was seen
    scores = tail_scores(transform(np.append(z, lesion)).astype(np.float32))
    own, far = np.abs(scores[:40_000] - np.sign(scores[0] * z[0]) * z), np.abs(scores[40_000:])
    assert scores.dtype == np.float32
    assert np.median(own) < 0.12
    assert np.allclose(far, lesion, rtol=0.25)


def test_tail_scores_need_no_spread() -> None:
    assert (tail_scores(np.ones(50, dtype=np.float32)) == 0).all()
    half = np.concatenate([np.zeros(60), np.arange(1, 41)]).astype(np.float32)
    scores = tail_scores(half)  # half of the values are the lowest one, as air is in CT
    assert np.isfinite(scores).all()
    assert (np.diff(scores) >= 0).all()
    assert scores[0] == 0 < scores[-1]


def test_each_row_of_surrogates_is_scored_by_itself(rng: np.random.Generator) -> None:
    fields = (rng.standard_normal((4, 900)) ** 3 * [[1.0], [5.0], [0.2], [0.0]]).astype(np.float32)
    together = tail_scores(fields, left_out=(0.0, 0.02))
    assert np.array_equal(together, [tail_scores(field, left_out=(0.0, 0.02)) for field in fields])
    assert (together[3] == 0).all()


def test_noise_is_the_amplitude_times_normal_quantiles() -> None:
    bits = np.arange(8, dtype=np.uint16)
    normal, amplitude = np.linspace(-2, 2, 8, dtype=np.float32), np.array([1, 2, 3, 4], dtype=np.float32)
    noise = shaped_noise(bits, normal, amplitude)
    assert np.array_equal(noise, amplitude * (normal[::2] + 1j * normal[1::2]))
    assert np.array_equal(noise, shaped_noise.py_func(bits, normal, amplitude))


@pytest.mark.parametrize(("shape", "spacing"), [((60, 50), (1.0, 2.0)), ((20, 24, 10), (1.0, 1.0, 3.0))])
def test_smooth_fields_have_the_correlation_asked_for(shape, spacing, rng: np.random.Generator) -> None:
    texture = LongTexture(shape, spacing, 8.0)
    stack = texture.pairs([rng] * 400, np.ones(shape, dtype=bool))
    assert (stack.shape, stack.dtype) == ((800, math.prod(shape)), np.float32)
    one, far = np.ravel_multi_index([0] * len(shape), shape), np.ravel_multi_index([4] * len(shape), shape)
    away = 16 * sum(s**2 for s in spacing)
    assert stack.var(axis=0).mean() == pytest.approx(1.0, abs=0.1)
    assert (stack[:, one] * stack[:, far]).mean() == pytest.approx(np.exp(-away / 64), abs=0.12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_fields_have_the_correlation_of_the_tissue(ndim: int, rng: np.random.Generator) -> None:
    shape = {1: (6000,), 2: (120, 110), 3: (40, 44, 36)}[ndim]
    tissue = np.ones(shape, bool) if ndim == 1 else disc(shape, min(shape) * 0.48)
    scores = np.where(tissue, smooth(shape, 1.5, rng), np.float32(0))
    model = fit_texture(scores, tissue, spacing=(1.0,) * ndim)
    drawn = model.pairs([rng] * 6, np.ones(shape, dtype=bool))
    assert (drawn.shape, drawn.dtype) == ((12, math.prod(shape)), np.float32)
    fields = drawn.reshape(12, *shape)
    assert np.mean([f.var() for f in fields]) == pytest.approx(1.0, abs=0.1)
    for lag in (1, 2, 3):
        expected = np.exp(-(lag**2) / (4 * 1.5**2))
        got = np.mean([(f[lag:] * f[:-lag]).mean() for f in fields])
        # The taper may shorten the correlation, which is the safe side, but not lengthen it.
        assert 0.75 * expected - 0.1 < got < expected + 0.1
    assert abs(np.mean([(a * b).mean() for a, b in zip(fields[::2], fields[1::2], strict=True)])) < 0.1


def test_the_number_of_lengths_falls_with_the_correlation(rng: np.random.Generator) -> None:
    tissue = disc((100, 100), 48)
    counts = [
        fit_texture(smooth(tissue.shape, width, rng), tissue, spacing=(1.0, 1.0)).n_lengths for width in (0.3, 2, 6)
    ]
    assert counts[0] > 1000 > counts[1] > 60 > counts[2]
    # One patch is the integral of the correlation over the plane.
    textbook = np.count_nonzero(tissue) / (4 * np.pi * 4)
    # The taper shortens correlations: never fewer patches than there are, and not many times more.
    assert 0.8 * textbook < counts[1] < 2 * textbook


def test_anisotropic_voxels_keep_their_correlation(rng: np.random.Generator) -> None:
    tissue = np.ones((80, 90), dtype=bool)
    field = ndimage.gaussian_filter(rng.standard_normal(tissue.shape), (0.4, 2.0), mode="wrap")
    field = (field / field.std()).astype(np.float32)
    model = fit_texture(field, tissue, spacing=(5.0, 1.0))
    drawn = model.pairs([rng] * 5, tissue).reshape(10, *tissue.shape)
    across = np.mean([(f[1:] * f[:-1]).mean() for f in drawn])
    along = np.mean([(f[:, 1:] * f[:, :-1]).mean() for f in drawn])
    assert along > 0.8
    assert across < 0.4


@pytest.mark.parametrize(
    ("scores", "tissue", "spacing", "words"),
    [
        (np.zeros((4, 4), np.float32), np.ones((4, 5), bool), (1, 1), "do not fit"),
        (np.zeros((4, 4), np.float32), np.ones((4, 4), bool), (1, 1, 1), "do not fit"),
        (np.zeros((4, 4), np.float32), np.eye(4, dtype=bool) & (np.arange(4) == 0), (1, 1), "at least 2"),
    ],
)
def test_bad_textures_are_refused(scores, tissue, spacing, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_texture(scores, tissue, spacing=spacing)


# --- balls -------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "spacing"), [((60, 70), (1.0, 1.0)), ((24, 26, 12), (1.0, 1.0, 2.5))])
def test_ball_means_equal_the_definition(shape, spacing, rng: np.random.Generator) -> None:
    tissue = disc(shape, min(shape) * 0.45) if len(shape) == 2 else rng.random(shape) > 0.1
    scan = BallScan(tissue.astype(np.float32), spacing)
    fields = rng.standard_normal((2, *shape)).astype(np.float32)
    means = scan.means(fields[:, tissue])
    assert len(means) == len(scan.scales) >= 4
    grid = np.indices(shape)
    for number, scale in enumerate(scan.scales[:5]):  # the others lie on coarser levels
        for i in rng.integers(len(scale.positions), size=5):
            centre = scale.positions[i] / spacing - 0.5
            away = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True))
            ball = (away <= scale.radius**2 + 1e-6) & tissue
            assert means[number][:, i] == pytest.approx(fields[:, ball].mean(axis=1), abs=1e-5)


def test_contrasts_are_to_the_surroundings(rng: np.random.Generator) -> None:
    shape = (60, 70)
    tissue = disc(shape, 27)
    scan = BallScan(tissue.astype(np.float32), (1.0, 1.0))
    ramp = np.broadcast_to(np.linspace(0, 50, shape[0], dtype=np.float32)[:, None], shape)[tissue][None]
    means = [own for [own] in scan.means(ramp)]
    kinds: dict[int, list[int | None]] = {}
    for measure, [contrast] in zip(scan.measures, scan.contrasts(ramp), strict=True):
        scale, mean = scan.scales[measure.scale], means[measure.scale]
        kinds.setdefault(measure.scale, []).append(measure.wider)
        assert np.allclose(np.exp(measure.layout[:, 0]), scale.share)
        if measure.wider is None:
            assert np.array_equal(mean, contrast)
            assert not measure.layout[:, 1:].any()
            continue
        wider = scan.scales[measure.wider]
        ratio = 1.41 ** (measure.wider - measure.scale)
        assert wider.radius == pytest.approx(ratio * scale.radius, rel=0.01) or scale.radius == 0
        i = int(rng.integers(len(scale.positions)))
        away = np.linalg.norm(wider.positions - scale.positions[i], axis=1)
        assert away[measure.around[i]] == away.min()
        assert measure.layout[i, 1:] == pytest.approx(
            [np.log(wider.share[measure.around[i]]), away.min() / wider.radius]
        )
        assert contrast[i] == mean[i] - means[measure.wider][measure.around[i]]
        # A slope is no contrast, unless a ball's surroundings are cut by the tissue's edge.
        assert np.median(np.abs(contrast)) < 0.1 * np.ptp(mean)
    last = max(kinds)
    assert kinds == {n: [n + 1, n + 2 if n < last else None] for n in range(last + 1)}
    assert scan.scales[last].places >= 10 > scan.scales[last + 1].places


def test_a_tissue_too_thin_for_wide_balls_has_no_places_of_them() -> None:
    thin = np.zeros((60, 60, 60), dtype=np.float32)
    thin[:, :, 30:32] = 1
    scan = BallScan(thin, (1.0, 1.0, 1.0))
    measured = {measure.scale for measure in scan.measures}
    assert measured == set(range(max(measured) + 1))
    assert all(scan.scales[number].weight.size for number in measured)
    assert any(not scale.weight.size for scale in scan.scales)
    assert all(np.isfinite(own).all() for own in scan.contrasts(thin[None, thin > 0]))


def test_coarser_levels_see_a_large_ball(rng: np.random.Generator) -> None:
    tissue = np.ones((128, 128), dtype=np.float32)
    scan = BallScan(tissue, (1.0, 1.0))
    radii = [s.radius for s in scan.scales]
    assert radii == sorted(radii)
    assert max(radii) >= 16
    assert len(scan.scales) > 5  # more than the finest level has
    assert all(scan.scales[m.scale].places >= 10 for m in scan.measures)
    field = (np.hypot(*(np.indices((128, 128)) - 63.5)) <= 16).astype(np.float32)
    means = scan.means(field.reshape(1, -1))
    number = int(np.argmin(np.abs(np.array(radii) - 16)))
    assert means[number].max() > 0.7
    flat = scan.means(np.full((1, 128 * 128), 3.0, dtype=np.float32))
    assert all(np.allclose(m, 3.0, atol=1e-5) for m in flat)


def test_sums_over_blocks_and_pairs() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert block_sums(array, (2, 1)).tolist() == [[4, 6, 8, 10], [8, 9, 10, 11]]
    noise = np.random.default_rng(0).standard_normal((23, 41, 30, 2)).astype(np.float32)
    for factors in ((2, 3, 4), (5, 1, 8), (7, 9, 6), (12, 45, 1)):
        whole = noise
        for axis, factor in enumerate(factors):
            whole = np.add.reduceat(whole, np.arange(0, whole.shape[axis], factor), axis=axis)
        assert np.allclose(block_sums(noise, factors), whole, atol=1e-4)
        assert block_sums(noise, factors).dtype == np.float32
    assert halve(array, (0,)).tolist() == [[2, 3, 4, 5], [4, 4.5, 5, 5.5]]
    assert halve(array, (1,)).tolist() == [[0.5, 2.5], [4.5, 6.5], [8.5, 10.5]]


def plain_means(scan: BallScan, share: np.ndarray, fields: np.ndarray, spacing) -> list[np.ndarray]:
    """The same in plain NumPy: sums ball by ball and shell by shell, voxel after voxel, on levels halved as images."""
    means: list[np.ndarray] = []
    level, step = fields * share, np.array(spacing, dtype=float)
    radii = [scale.radius for scale in scan.scales]
    while len(means) < len(radii):
        unit = step.min()
        if means:
            axes = np.flatnonzero(step < 1.5 * unit)
            level = halve(level, [axis + 1 for axis in axes])
            step = step * np.where(np.isin(range(step.size), axes), 2.0, 1.0)
            unit = step.min()
        reach = [int(2.83 * unit / s) for s in step]
        roomy = np.pad(level, [(0, 0), *((n, n) for n in reach)])
        total, inner = np.zeros_like(level), -1.0
        for outer in (2.0, 2.83) if means else (0.0, 1.0, 1.42, 2.0, 2.83):
            if len(means) == len(radii):
                break
            for offset in np.ndindex(*(2 * n + 1 for n in reach)):
                away = (((np.array(offset) - reach) * step) ** 2).sum()
                if (inner * unit < 0 or away > (inner * unit) ** 2 + 1e-9) and away <= (outer * unit) ** 2 + 1e-9:
                    shifted = tuple(slice(o, o + n) for o, n in zip(offset, level.shape[1:], strict=True))
                    total = total + roomy[(slice(None), *shifted)]
            inner, scale = outer, scan.scales[len(means)]
            centres = tuple(np.rint(scale.positions / step - 0.5).astype(int).T)
            means.append(total[(slice(None), *centres)] * scale.weight)
    return means


@pytest.mark.parametrize(
    ("shape", "spacing", "n"),
    [((61, 70), (1.0, 1.0), 1), ((24, 27, 13), (1.0, 1.0, 2.5), 3), ((33, 30, 29), (1.0, 1.0, 1.2), 37)],
)
def test_many_fields_at_a_time_have_the_very_means_of_the_plain_sums(shape, spacing, n, rng) -> None:
    tissue = disc(shape, min(shape) * 0.45) if len(shape) == 2 else rng.random(shape) > 0.1
    scan = BallScan(tissue.astype(np.float32), spacing)
    assert len(scan._levels) > 1
    fields = rng.standard_normal((n, *shape)).astype(np.float32)
    means = scan.means(fields[:, tissue])
    expected = plain_means(scan, tissue.astype(np.float32), fields, spacing)
    for own, wanted in zip(means, expected, strict=True):
        assert own.shape == wanted.shape
        assert np.array_equal(own, wanted)
    for contrast, measure in zip(scan.contrasts(fields[:, tissue]), scan.measures, strict=True):
        lower = 0 if measure.wider is None else expected[measure.wider][:, measure.around]
        assert np.array_equal(contrast, expected[measure.scale] - lower)


@pytest.mark.parametrize(("shape", "spacing"), [((60, 70), (1.0, 1.0)), ((24, 26, 12), (1.0, 1.0, 2.5))])
def test_surroundings_are_the_nearest_of_all(shape, spacing, rng: np.random.Generator) -> None:
    tissue = rng.random(shape) > 0.3
    scan = BallScan(tissue.astype(np.float32), spacing)
    for measure in scan.measures:
        if measure.wider is not None:
            own, outer = scan.scales[measure.scale], scan.scales[measure.wider]
            away = np.linalg.norm(outer.positions[None] - own.positions[:400, None], axis=-1)
            assert np.allclose(away[np.arange(len(away)), measure.around[:400]], away.min(axis=1))
            assert np.allclose(measure.layout[:400, 2] * outer.radius, away.min(axis=1))


def test_fields_are_those_of_the_plain_inverse_transform(rng: np.random.Generator) -> None:
    tissue = rng.random((20, 24, 10)) > 0.4
    model = fit_texture(smooth(tissue.shape, 1.0, rng) * tissue, tissue, spacing=(1.0, 1.0, 2.0))
    drawn = model.pairs([np.random.default_rng(k) for k in range(3)], tissue)
    for k in range(3):
        bits = np.random.default_rng(k).bit_generator.random_raw(-(-model.amplitude.size // 2)).view("<u2")
        real, imaginary = _NORMAL[bits[: 2 * model.amplitude.size]].reshape(*model.amplitude.shape, 2).T
        both = scipy.fft.ifftn((real + 1j * imaginary).T * model.amplitude, norm="ortho")[:20, :24, :10]
        assert np.array_equal(drawn[2 * k], both.real[tissue])
        assert np.array_equal(drawn[2 * k + 1], both.imag[tissue])


def test_compiled_sums_equal_their_python_source(rng: np.random.Generator) -> None:
    values, share = rng.random((3, 4)).astype(np.float32), np.array([1, 1, 0.5, 1], dtype=np.float32)
    slots = np.array([5, 6, 7, 9], dtype=np.uint32)
    fields = ball_scan.spread_out(values, share, slots, 12)
    assert np.array_equal(fields, ball_scan.spread_out.py_func(values, share, slots, 12))
    assert np.array_equal(fields[:, slots], values * share)
    assert np.count_nonzero(fields) == values.size
    two = np.array([[5, 6], [7, 0]])
    for children in (two, np.array([[5, 6, 7, 0], [9, 0, 0, 0]]), np.concatenate([two, two[::-1], two, two], axis=1)):
        search = (fields, children.astype(np.uint32), np.array([1, 3], dtype=np.uint32), 4)
        halved = ball_scan.merged(*search)
        assert np.array_equal(halved, ball_scan.merged.py_func(*search))
        assert np.allclose(halved[:, [1, 3]], fields[:, children].mean(axis=2))
        assert not halved[:, [0, 2]].any()
    # Two tiles of centres, balls of one, of three and of seven voxels; the last ball of three is not wanted.
    tiles, ends = np.array([[5, 7], [9, 10]]), np.array([1, 3, 7])
    shells = np.array([0, -1, 1, -3, -2, 2, -4])
    stretches, limits = np.array([[5, 2], [9, 1], [5, 2], [5, 1], [9, 1]]), np.array([0, 2, 3, 5])
    weights = np.array([1, 1, 1, 0.5, 0.25, 1, 1], dtype=np.float32)
    search = (fields, tiles, shells, ends, stretches, limits, np.array([3, 2, 2]), weights)
    means = ball_scan.ball_means(*search)
    assert np.array_equal(means, ball_scan.ball_means.py_func(*search))
    assert np.array_equal(means[:9].reshape(3, 3), fields[:, [5, 6, 9]])
    wanted = np.stack([fields[:, 4:7].sum(axis=1) * 0.5, fields[:, 5:8].sum(axis=1) * 0.25], axis=1)
    assert np.allclose(means[9:15].reshape(3, 2), wanted)
    assert np.allclose(means[15:].reshape(3, 2), [[own[c + shells].sum() for c in (5, 9)] for own in fields])


def test_surroundings_are_those_a_search_tree_finds(rng: np.random.Generator) -> None:
    # To the last bit: layouts decide weights, and weights decide p-values.
    for shape, spacing in (((61, 70), (0.7, 0.9)), ((24, 26, 13), (0.85, 0.85, 2.5)), ((40, 9, 30), (1.0, 3.0, 1.1))):
        scan = BallScan((rng.random(shape) > 0.25).astype(np.float32), spacing)
        for measure in scan.measures:
            if measure.wider is not None:
                own, outer = scan.scales[measure.scale], scan.scales[measure.wider]
                away, around = cKDTree(outer.positions).query(own.positions)
                assert np.array_equal(measure.around, around)
                assert np.array_equal(measure.layout[:, 2], away / outer.radius)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (1.7, 1.7, 5.0), (1.0, 1.0, 1.6)])
def test_radii_follow_one_another_without_a_gap(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(90 / s) for s in spacing)
    radii = np.array([s.radius for s in BallScan(np.ones(shape, dtype=np.float32), spacing).scales])
    assert radii.max() > 12
    ratios = radii[2:] / radii[1:-1]
    assert ratios.min() > 1
    assert ratios.max() < 1.5
