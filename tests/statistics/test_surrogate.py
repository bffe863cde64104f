"""The surrogate-max null: level for candidates chosen by looking, power, abstention, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage, stats

from anatrust.errors import InputError
from anatrust.statistics import scan_statistic
from anatrust.statistics.ball_scan import BallScan
from anatrust.statistics.scan_statistic import SHARES, ScanStatistic, evenness, steepest_growth
from anatrust.statistics.surrogate import surrogate_max_test
from anatrust.studies.textures import texture_field


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    return sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def organ(shape: tuple[int, ...], radius: float) -> np.ndarray:
    return ball(shape, tuple((n - 1) / 2 for n in shape), radius)


def texture(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Lesion-free textures: correlated, skewed, heavy-tailed, white plus smooth, filtered as CT noise is."""
    roomy = tuple(n + 40 for n in shape)

    def smooth(width: float) -> np.ndarray:
        field = ndimage.gaussian_filter(rng.standard_normal(roomy), width, mode="wrap")
        return field / field.std()

    if kind == "ct":
        frequency = np.sqrt(sum(k**2 for k in np.meshgrid(*[fft.fftfreq(n) for n in roomy], indexing="ij")))
        noise = fft.ifftn(fft.fftn(rng.standard_normal(roomy)) * np.sqrt(frequency) * np.exp(-8 * frequency**2)).real
        field = noise / noise.std() + 0.4 * smooth(8)
    elif kind == "skewed":
        field = np.exp(0.6 * smooth(2))
    elif kind == "heavy":
        field = stats.t.ppf(stats.norm.cdf(smooth(2)), 5)
    elif kind == "mixture":
        field = rng.standard_normal(roomy) + smooth(6)
    else:
        field = smooth(float(kind))
    return field[tuple(slice(0, n) for n in shape)]


def brightest(image: np.ndarray, tissue: np.ndarray, radius: float, count: int) -> list[np.ndarray]:
    """The brightest disjoint balls within the tissue."""
    kernel = ball((2 * int(radius) + 1,) * image.ndim, (int(radius),) * image.ndim, radius)
    inside = ndimage.binary_erosion(tissue, kernel)
    from scipy.signal import fftconvolve

    sums = np.where(inside, fftconvolve(np.where(tissue, image, 0.0), kernel, mode="same"), -np.inf)
    found = []
    for _ in range(count):
        centre = np.unravel_index(sums.argmax(), sums.shape)
        found.append(ball(image.shape, centre, radius))
        sums[ball(image.shape, centre, 2 * radius)] = -np.inf
    return found


def thresholded(image: np.ndarray, tissue: np.ndarray, level: float, width: float) -> list[np.ndarray]:
    """What a segmenter that smooths and thresholds invents: its outlines follow the noise."""
    weight = ndimage.gaussian_filter(tissue.astype(float), width) if width else tissue.astype(float)
    smoothed = ndimage.gaussian_filter(np.where(tissue, image, 0.0), width) if width else image
    smoothed = smoothed / np.where(tissue, weight, 1.0)
    values = smoothed[tissue]
    labels, count = ndimage.label((smoothed > np.median(values) + level * values.std()) & tissue)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [labels == i + 1 for i in np.argsort(-sizes)[:8] if sizes[i] >= 8]


def any_found(image: np.ndarray, tissue: np.ndarray, candidates: list[np.ndarray], seed: int, draws: int = 59) -> bool:
    results = surrogate_max_test(image, tissue, candidates, n_surrogates=draws, seed=seed)
    return min(r.p_value for r in results) <= 0.05


def allowed(repeats: int) -> float:
    return 0.05 + 2 * np.sqrt(0.05 * 0.95 / repeats)


def mixed(image: np.ndarray, tissue: np.ndarray, radii: tuple[float, ...]) -> list[np.ndarray]:
    """All a greedy segmenter may propose at once: the oddest balls of every size, bright and dark, and outlines."""
    balls = [c for r in radii for c in brightest(image, tissue, r, 2)]
    dark = [c for r in radii[1::2] for c in brightest(-image, tissue, r, 1)]
    return [*balls, *dark, *thresholded(image, tissue, 1.5, 1.5), *thresholded(image, tissue, 2.5, 0.0)]


def level(kind: str, tissue: np.ndarray, radii: tuple[float, ...], repeats: int, draws: int) -> tuple[float, int]:
    """Share of lesion-free tissues in which anything is found at 0.05, and how many the test abstained from."""
    found = abstained = 0
    for i in range(repeats):
        image = texture(kind, tissue.shape, np.random.default_rng([2, i]))
        results = surrogate_max_test(image, tissue, mixed(image, tissue, radii), n_surrogates=draws, seed=i)
        found += min(r.p_value for r in results) <= 0.05
        abstained += results[0].abstained is not None
    return found / repeats, abstained


@pytest.mark.parametrize("kind", ["2", "skewed"])
def test_the_oddest_places_of_a_texture_are_seldom_significant(kind: str) -> None:
    share, abstained = level(kind, organ((110, 110), 54), (2, 4, 8), 15, 39)
    assert share <= allowed(15)
    assert abstained <= 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2", "skewed", "heavy", "ct"])
def test_level_for_candidates_of_all_sizes_together_in_two_dimensions(kind: str) -> None:
    share, abstained = level(kind, organ((124, 124), 60), (2, 3, 4, 6, 8, 12), 50, 99)
    assert share <= allowed(50)
    assert abstained <= 10


@pytest.mark.slow
def test_level_for_candidates_of_all_sizes_together_in_three_dimensions() -> None:
    share, abstained = level("1.2", organ((36, 36, 36), 17), (1.5, 2, 3, 5), 40, 59)
    assert share <= allowed(40)
    assert abstained <= 10


def test_one_side_only(rng: np.random.Generator) -> None:
    tissue = organ((80, 80), 39)
    lesion = ball(tissue.shape, (40, 30), 6)
    image = texture("1", tissue.shape, rng) - 3.0 * lesion
    p = {
        side: surrogate_max_test(image, tissue, [lesion], n_surrogates=39, direction=side, seed=0)[0].p_value
        for side in ("both", "brighter", "darker")
    }
    assert p["both"] == p["darker"] == 1 / 40
    assert p["brighter"] > 0.5


def test_the_family_is_every_size_whatever_else_is_proposed(rng: np.random.Generator) -> None:
    tissue = organ((80, 80), 39)
    image = texture("1", tissue.shape, rng)
    candidates = [ball(tissue.shape, (40, 30), r) for r in (2, 4)] + [ball(tissue.shape, (30, 50), 3)]
    alone = [surrogate_max_test(image, tissue, [c], n_surrogates=39, seed=4)[0] for c in candidates]
    assert surrogate_max_test(image, tissue, candidates, n_surrogates=39, seed=4) == alone


def test_any_monotone_change_of_the_grey_values_changes_nothing(rng: np.random.Generator) -> None:
    tissue = organ((70, 70), 34)
    image = texture("1", tissue.shape, rng)
    candidates = brightest(image, tissue, 3, 2)
    first = surrogate_max_test(image, tissue, candidates, n_surrogates=19, seed=4)
    assert surrogate_max_test(np.exp(3 * image), tissue, candidates, n_surrogates=19, seed=4) == first
    assert first[0].engine == "ball-scan"


def test_with_few_patches_only_the_unit_of_the_grey_values_does_not_matter() -> None:
    tissue = organ((70, 70), 33)
    image = texture("4", tissue.shape, np.random.default_rng(1)).astype(np.float32)
    candidates = [ball(tissue.shape, (30, 40), 6)]
    image += 8 * image.std() * candidates[0]
    first = surrogate_max_test(image, tissue, candidates, n_surrogates=99, seed=4)
    again = surrogate_max_test(4 * image - 8, tissue, candidates, n_surrogates=99, seed=4)
    assert [r.engine for r in first] == ["ball-scan, few patches"]
    assert [r.p_value for r in again] == [r.p_value for r in first]
    assert np.allclose([r.statistic for r in again], [r.statistic for r in first], atol=1e-3)


def long_texture(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Lesion-free textures of few patches: name and correlation length."""
    name, length = kind.split()
    if name in ("gaussian", "exponential"):
        return texture_field(shape, float(length), rng, kind=name)
    field = texture_field(shape, float(length), rng, kind="mixture" if name == "mixture" else "gaussian")
    return {"mixture": field, "skewed": np.exp(0.6 * field), "heavy": stats.t.ppf(stats.norm.cdf(field), 5)}[name]


def long_level(kind: str, tissue: np.ndarray, radii: tuple[float, ...], repeats: int) -> tuple[float, int]:
    """Share of lesion-free tissues of few patches in which anything is found at 0.05, and how many were of few."""
    found = few = 0
    for i in range(repeats):
        image = long_texture(kind, tissue.shape, np.random.default_rng([8, i]))
        results = surrogate_max_test(image, tissue, mixed(image, tissue, radii), n_surrogates=59, seed=i)
        found += min(r.p_value for r in results) <= 0.05
        few += any("few patches" in r.engine or "independent patches" in str(r.abstained) for r in results)
    return found / repeats, few


@pytest.mark.parametrize("kind", ["gaussian 30", "skewed 20"])
def test_the_oddest_places_are_seldom_significant_where_there_are_few(kind: str) -> None:
    share, few = long_level(kind, organ((84, 84), 40), (2, 4, 8), 10)
    assert share <= allowed(10)
    assert few == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["gaussian 20", "gaussian 60", "exponential 30", "mixture 30", "skewed 20", "heavy 20"]
)
def test_level_where_the_tissue_is_a_few_correlation_lengths_wide(kind: str) -> None:
    share, few = long_level(kind, organ((94, 94), 45), (2, 3, 4, 6, 8, 12), 20)
    assert share <= allowed(20)
    assert few == 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian 8", "exponential 10"])
def test_level_where_the_tissue_is_a_few_correlation_lengths_wide_in_three_dimensions(kind: str) -> None:
    share, few = long_level(kind, organ((30, 30, 30), 14), (1.5, 2, 3, 5), 20)
    assert share <= allowed(20)
    assert few == 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian 20", "skewed 20", "exponential 15", "exponential 30", "exponential 60"])
def test_a_single_large_candidate_gains_nothing_by_being_left_out(kind: str) -> None:
    tissue, found = organ((94, 94), 45), 0
    for i in range(30):
        image = long_texture(kind, tissue.shape, np.random.default_rng([10, i]))
        smooth = (-1) ** i * ndimage.gaussian_filter(image, 1.0)
        labels, _ = ndimage.label((smooth > np.median(smooth[tissue]) + 0.5 * smooth[tissue].std()) & tissue)
        largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
        [result] = surrogate_max_test(image, tissue, [largest], n_surrogates=59, seed=i)
        found += result.p_value <= 0.05
    assert found / 30 <= allowed(30)


def test_where_few_patches_leave_it_open_the_test_abstains() -> None:
    tissue = organ((94, 94), 45)
    image = texture_field(tissue.shape, 15.0, np.random.default_rng(3))
    lesion = ball(tissue.shape, (46, 60), 8)
    # A hard edge would give it away in so smooth a texture.
    soft = ndimage.gaussian_filter(lesion.astype(float), 4.0)
    p, reasons = [], []
    for contrast in (0, 2, 4, 5, 6, 8, 12):
        [result] = surrogate_max_test(image + contrast * soft, tissue, [lesion], n_surrogates=39, seed=0)
        p.append(result.p_value)
        reasons.append(str(result.abstained))
    # Nothing, then what depends on the correlation, then what is found whatever it is.
    assert p[0] > 0.1
    assert any("on which depends whether p is 0.025 or" in reason for reason in reasons)
    assert p[-1] == 1 / 40


def test_where_even_a_glaring_lesion_would_not_be_found_the_test_abstains() -> None:
    tissue = organ((70, 70), 33)
    image = texture("4", tissue.shape, np.random.default_rng(1))
    [spot] = brightest(image, tissue, 4, 1)
    for direction in ("both", "brighter", "darker"):
        [result] = surrogate_max_test(image, tissue, [spot], n_surrogates=39, direction=direction, seed=0)
        assert result.p_value > 0.1
        # Of a candidate on the side that is not looked at, no power is needed to say so.
        looked_at = direction != "darker"
        assert ("to find even a difference of 4 standard deviations" in str(result.abstained)) == looked_at
    # With many patches the same candidate would have been found, so that it was not says something.
    fine = texture("1", tissue.shape, np.random.default_rng(1))
    assert surrogate_max_test(fine, tissue, [spot], n_surrogates=39, seed=0)[0].abstained is None


@pytest.mark.parametrize("kind", ["gaussian 15", "exponential 12"])
def test_a_glaring_lesion_is_found_where_patches_are_few(kind: str) -> None:
    tissue, found = organ((94, 94), 45), []
    for i in range(5):
        rng = np.random.default_rng([9, i])
        image = long_texture(kind, tissue.shape, rng)
        lesion = ball(tissue.shape, tuple(46 + rng.uniform(-15, 15, 2)), 7)
        soft = ndimage.gaussian_filter(lesion.astype(float), 1.0)
        [result] = surrogate_max_test(image + 8 * image.std() * soft, tissue, [lesion], n_surrogates=39, seed=i)
        assert result.engine == "ball-scan, few patches"
        found.append(result.p_value <= 0.05)
    assert np.mean(found) >= 0.8


def test_lesions_of_two_standard_deviations_are_found() -> None:
    tissue, found = organ((90, 90), 44), []
    for i in range(6):
        rng = np.random.default_rng([4, i])
        image = texture("1", tissue.shape, rng)
        lesion = ball(tissue.shape, tuple(44 + rng.uniform(-20, 20, 2)), 8)
        contrast = (2 if i % 2 else -2) * ndimage.gaussian_filter(lesion.astype(float), 0.8)
        found.append(any_found(image + contrast, tissue, [lesion], i))
    assert np.mean(found) >= 0.8


def test_a_tumour_larger_than_any_place_beside_it_is_found(rng: np.random.Generator) -> None:
    shape = (48, 48, 48)
    domain = organ(shape, 23)
    tumour = organ(shape, 14)
    image = texture("1", shape, rng) + 8.0 * ndimage.gaussian_filter(tumour.astype(float), 1)
    [result] = surrogate_max_test(image, domain & ~tumour, [tumour], n_surrogates=39, seed=0)
    assert result.p_value == result.floor == 1 / 40


def test_several_features_find_what_one_does_not(rng: np.random.Generator) -> None:
    tissue = organ((70, 70), 34)
    lesion = ball(tissue.shape, (30, 40), 7)
    features = np.stack([texture("1", tissue.shape, rng) for _ in range(3)], axis=-1)
    features[..., 2] += 3.0 * lesion
    [alone] = surrogate_max_test(features[..., 0], tissue, [lesion], n_surrogates=39, seed=0)
    [together] = surrogate_max_test(features, tissue, [lesion], n_surrogates=39, seed=0)
    assert alone.p_value > 0.05 > together.p_value
    assert (together.null, together.engine, together.n_draws) == ("surrogate-max", "ball-scan", 39)


def test_large_tissues_are_averaged_first(rng: np.random.Generator) -> None:
    tissue = np.ones((300, 260), dtype=bool)
    image = ndimage.gaussian_filter(rng.standard_normal(tissue.shape), 1)
    image /= image.std()
    lesion = ball(tissue.shape, (100, 120), 12)
    odd, normal = surrogate_max_test(
        image + 2.0 * lesion,
        tissue,
        [lesion, ball(tissue.shape, (200, 60), 12)],
        spacing=(0.5, 1.0),
        n_surrogates=99,
        seed=1,
    )
    assert odd.p_value <= 0.03
    assert normal.p_value > 0.05
    tiny = np.zeros_like(tissue)
    tiny[101, 121] = True  # less than half of a block: judged by the block it lies in
    assert surrogate_max_test(image, tissue, [tiny], n_surrogates=39, seed=1)[0].p_value > 0.05


def test_results_depend_on_neither_order_nor_cropping_nor_threads(monkeypatch, rng: np.random.Generator) -> None:
    from anatrust.statistics import surrogate

    tissue = np.pad(organ((60, 60), 29), 5)
    image = texture("1", tissue.shape, rng)
    candidates = [ball(tissue.shape, c, r) for c, r in (((30, 30), 5), ((40, 50), 3), ((30, 45), 8))]
    image = image + 1.5 * candidates[0]
    told: list[int] = []
    first = surrogate_max_test(image, tissue, candidates, n_surrogates=99, seed=9, progress=told.append)
    assert told == [1, 2, 3]
    assert surrogate_max_test(image, tissue, candidates[::-1], n_surrogates=99, seed=9) == first[::-1]
    monkeypatch.setattr(surrogate, "_THREADS", 1)
    monkeypatch.setattr(surrogate, "_AT_A_TIME", 1)
    crop = (slice(3, -4), slice(5, -2))
    again = surrogate_max_test(image[crop], tissue[crop], [c[crop] for c in candidates], n_surrogates=99, seed=9)
    assert again == first
    assert surrogate_max_test(image, tissue, [], seed=0) == []


def test_a_candidate_of_one_voxel_is_judged_by_the_smallest_ball(rng: np.random.Generator) -> None:
    tissue = organ((60, 60), 29)
    spot = np.zeros_like(tissue)
    spot[20, 30] = True
    image = texture("1", tissue.shape, rng)
    assert surrogate_max_test(image, tissue, [spot], n_surrogates=39, seed=0)[0].p_value > 0.05
    assert surrogate_max_test(image + 9.0 * spot, tissue, [spot], n_surrogates=39, seed=0)[0].p_value == 1 / 40


def test_too_little_texture_makes_the_test_abstain(rng: np.random.Generator) -> None:
    tissue = organ((60, 60), 29)
    spot, most = ball(tissue.shape, (30, 30), 4), ball(tissue.shape, (30, 30), 28)
    kinds = {
        "constant": (np.zeros(tissue.shape), spot),
        "voxels of tissue": (texture("1", tissue.shape, rng), most),
    }
    for words, (image, candidate) in kinds.items():
        [result] = surrogate_max_test(image, tissue, [candidate], n_surrogates=19, seed=0)
        assert words in str(result.abstained)
        assert (result.p_value, result.floor) == (1.0, 0.05)
    wide = np.zeros((60, 200), dtype=bool)
    wide[2:58, 4:] = True
    slab = np.zeros_like(wide)
    slab[2:58, 4:185] = True
    [result] = surrogate_max_test(texture("0.5", wide.shape, rng), wide, [slab], n_surrogates=19, seed=0)
    assert "too large for the tissue" in str(result.abstained)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_surrogates": 18}, "at least 19"),
        ({"direction": "odd"}, "the direction is"),
        ({"features": np.zeros((20, 21))}, "do not fit"),
        ({"features": np.zeros(20), "domain": np.ones(20, bool)}, "do not fit"),
        ({"candidates": [np.ones((5, 5), bool)]}, "candidate 0 has shape"),
        ({"candidates": [np.zeros((20, 20), bool)]}, "candidate 0 is empty"),
        ({"spacing": (1.0,)}, "2 positive numbers"),
        ({"spacing": (1.0, -1.0)}, "2 positive numbers"),
        ({"features": np.full((20, 20), np.inf)}, "infinite"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict, words: str) -> None:
    arguments = {
        "features": np.zeros((20, 20)),
        "domain": np.ones((20, 20), bool),
        "candidates": [np.eye(20, dtype=bool)],
        "seed": 0,
    }
    with pytest.raises(InputError, match=words) as caught:
        surrogate_max_test(**(arguments | change))
    assert "\n" not in str(caught.value)


def test_contrasts_grow_fastest_in_smooth_fields(rng: np.random.Generator) -> None:
    tissue = organ((94, 94), 45)
    scan = BallScan(tissue.astype(np.float32), (1.0, 1.0))
    fields = (
        rng.standard_normal(tissue.shape),
        texture_field(tissue.shape, 30.0, rng, kind="exponential"),
        texture_field(tissue.shape, 30.0, rng),
    )
    values = np.stack([field[tissue] for field in fields]).astype(np.float32)
    noise, rough, smooth = steepest_growth(scan, values)
    assert noise < 0 < rough < 0.5 * smooth
    assert steepest_growth(scan, values[1:2]) == rough
    small = organ((14, 14), 6)
    values = rng.standard_normal((2, np.count_nonzero(small))).astype(np.float32)
    assert (steepest_growth(BallScan(small.astype(np.float32), (1.0, 1.0)), values) == np.inf).all()


def test_compiled_functions_equal_their_python_source(rng: np.random.Generator) -> None:
    values, where, weight = (
        rng.standard_normal((3, 60)).astype(np.float32),
        rng.random((60, 2)),
        np.ones(60, np.float32),
    )
    flat, alone = np.zeros((3, 1), dtype=np.float32), (np.zeros(60, dtype=np.uint32), np.empty((0, 2), dtype=np.int64))
    for shares in (np.array([0.0]), SHARES, np.array([0.0, 0.4, 1.0])):
        search = (values, flat, *alone, weight, 1, np.arange(0, 60, 2), where, shares)
        compiled = scan_statistic.extremes(*search)
        assert np.allclose(compiled, scan_statistic.extremes.py_func(*search), rtol=1e-12)
    assert (compiled[:, 2] == 0.0).all()  # nothing is left to compare with
    for size in (0, 1, 9, 900):
        unsorted = rng.integers(0, 500, size).astype(float)
        for sort in (scan_statistic.ascend, scan_statistic.ascend.py_func):
            sort(ascending := unsorted.copy())
            assert np.array_equal(ascending, np.sort(unsorted))
    middles, spreads = np.transpose([scan_statistic.deciles(own, 1) for own in values])
    assert np.allclose(compiled[:, 0, 0], (values.max(axis=1) - middles) / spreads)
    assert np.allclose(compiled[:, 0, 1], (middles - values.min(axis=1)) / spreads)
    around, weight = rng.integers(20, size=60), rng.random(60).astype(np.float32)
    around[10:30] = np.arange(20)
    for stretches in (np.empty((0, 2), dtype=np.int64), np.array([*([i, 1] for i in range(10)), [10, 20]])):
        reach = slice(0, 60 if not len(stretches) else 30)
        search = (values[:, reach], values[:, :20], around[reach].astype(np.uint32), stretches, weight[reach])
        contrasts = scan_statistic.contrasted(*search)
        assert np.array_equal(contrasts, (values - values[:, around])[:, reach] * weight[reach])
        assert np.array_equal(contrasts, scan_statistic.contrasted.py_func(*search))
        again = np.zeros_like(contrasts[0])
        scan_statistic.contrast.py_func(search[0][0], search[1][0], *search[2:], again)
        assert np.array_equal(contrasts[0], again)
    for values in (rng.standard_normal(10_000).astype(np.float32), np.ones(50, dtype=np.float32)):
        assert scan_statistic.ends(values) == (values.min(), values.max())
        assert scan_statistic.ends.py_func(values) == (values.min(), values.max())
        for step in (1, 3):
            middle, spread = scan_statistic.deciles(values, step)
            assert (middle, spread) == pytest.approx(scan_statistic.deciles.py_func(values, step), rel=1e-4)
            low, centre, high = np.quantile(values[::step], (0.1, 0.5, 0.9))
            assert middle == pytest.approx(centre, abs=0.01)
            assert spread == pytest.approx((high - low) / 2, abs=0.01)


def test_grades_are_those_of_exact_quotients(rng: np.random.Generator) -> None:
    # Products take the place of quotients; whole numbers, as of images, lie exactly on the edges of grades.
    for values in (
        *(rng.integers(0, top, 3000).astype(np.float32) for top in (3, 64, 512, 513, 1000)),
        *(np.float32(rng.random()) * rng.integers(0, 777, 3000).astype(np.float32) for _ in range(20)),
        rng.standard_normal(3000).astype(np.float32) * np.float32(1e-30),
    ):
        lowest, width = float(values.min()), float(np.ptp(values)) / 512
        counts = np.bincount(((values - values.min()).astype(np.float64) / width).astype(int), minlength=513)
        before = np.cumsum(counts) - counts
        found = []
        for rank in (0.1, 0.5, 0.9):
            grade = int(np.flatnonzero(before + counts > rank * values.size)[0])
            found.append(lowest + width * (grade + (rank * values.size - before[grade]) / counts[grade]))
        wanted = (found[1], max((found[2] - found[0]) / 2, 1e-9))
        assert scan_statistic.deciles(values, 1) == pytest.approx(wanted, rel=1e-9)


def test_no_candidate_is_odder_than_the_oddest_place(rng: np.random.Generator) -> None:
    tissue = organ((60, 60), 29)
    sample = np.stack([texture("2", tissue.shape, rng)[tissue] for _ in range(8)]).astype(np.float32)
    statistic = ScanStatistic(BallScan(tissue.astype(np.float32), (1.0, 1.0)), sample)
    field = texture("2", tissue.shape, rng).astype(np.float32)
    family = [(measure, 0) for measure in range(len(statistic.scan.measures))]
    [most] = statistic.maxima(field[tissue][None], family)
    # However many are scanned together.
    together = statistic.maxima(np.concatenate([sample, sample, field[tissue][None]]), family)
    assert np.array_equal(together[16], most)
    for shape in [*brightest(field, tissue, 3, 4), *thresholded(field, tissue, 2.0, 0.0)]:
        members = statistic.members([held for [held] in statistic.scan.means(shape[tissue][None].astype(np.float32))])
        assert members.combinations
        [scores] = statistic.scores(field[tissue], [members])
        for (measure, share), score in zip(members.combinations, scores, strict=True):
            assert share or (score <= most[measure] + 1e-5).all()


def test_contrasts_at_the_rim_vary_no_more_than_elsewhere(rng: np.random.Generator) -> None:
    tissue = organ((70, 70), 34)
    scan = BallScan(tissue.astype(np.float32), (1.0, 1.0))
    fields = np.stack([texture("1", tissue.shape, rng)[tissue] for _ in range(216)]).astype(np.float32)
    even = ScanStatistic(scan, fields[:16])
    assert all((w == 1).all() for w in ScanStatistic(scan)._weights)
    ratios = []
    raw, smoothed = scan.contrasts(fields[16:]), even.contrasts(fields[16:])
    for measure, before, after in zip(scan.measures, raw, smoothed, strict=True):
        cut = measure.layout[:, 0] < np.log(0.8)
        if measure.scale > 1 and cut.sum() > 50:
            ratios += [[own[:, cut].std() / own[:, ~cut].std() for own in (before, after)]]
        # One number for all places: the texture's variance itself is left as it is.
        assert np.log(after.std(axis=0) / before.std(axis=0)).mean() == pytest.approx(0, abs=1e-3)
    assert np.mean(ratios, axis=0) == pytest.approx([1.2, 1.0], abs=0.1)


def test_places_without_contrast_are_left_alone() -> None:
    layout = np.array([[0.0, 0.0, 0.0], [-0.5, 0.0, 0.1], [0.0, -0.5, 0.0]])
    assert evenness(layout, np.zeros((4, 3), dtype=np.float32)) == pytest.approx([1, 1, 1])


def test_lesions_of_two_standard_deviations_are_found_in_a_real_spleen(shared_data, rng: np.random.Generator) -> None:
    import nibabel as nib

    organ_mask = np.asarray(nib.load(shared_data / "amos_ct" / "labels.nii.gz").dataobj) == 1
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(organ_mask))
    image = np.asarray(nib.load(shared_data / "amos_ct" / "image.nii.gz").dataobj)[box].astype(np.float32)
    organ_mask, spacing = organ_mask[box], (0.846, 0.846, 5.0)
    tissue = ndimage.binary_erosion(organ_mask, np.ones((3, 3, 1)), iterations=2)
    depth = ndimage.distance_transform_edt(np.pad(tissue, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    inner = np.argwhere(depth > 5)
    found = []
    for i in range(5):
        centre = inner[rng.integers(len(inner))]
        away = sum(((g - c) * s) ** 2 for g, c, s in zip(np.indices(tissue.shape), centre, spacing, strict=True))
        lesion = away <= 5.0**2
        soft = ndimage.gaussian_filter(lesion.astype(np.float32), (0.8, 0.8, 0.2))
        planted = image + (2 if i % 2 else -2) * image[organ_mask].std() * soft
        results = surrogate_max_test(planted, tissue, [lesion], spacing=spacing, n_surrogates=39, seed=i)
        found.append(results[0].p_value <= 0.05)
    assert np.mean(found) >= 0.8
