"""The placement null: its sums, its exactness, its level and power on real organs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.statistics import place_statistics, places
from anatrust.statistics.embedding_mmd import embed
from anatrust.statistics.kernels import Kernel, kernel_ladder
from anatrust.statistics.mmd import mmd2_unbiased
from anatrust.statistics.place_contrast import contrast_statistics, place_contrasts, surroundings
from anatrust.statistics.place_statistics import Placed, fourier_statistics, histogram_statistics
from anatrust.statistics.placement import placement_test, placement_tests
from anatrust.statistics.places import Shape, Tissue, TissueField, draw_places


def disc(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def translations(domain: np.ndarray, candidate: np.ndarray) -> list[np.ndarray]:
    """All admissible places by brute force, the candidate's own among them."""
    voxels = np.argwhere(candidate)
    low, high = -voxels.min(0), np.array(domain.shape) - 1 - voxels.max(0)
    found = []
    for shift in np.ndindex(*(high - low + 1)):
        moved = voxels + low + np.array(shift)
        if domain[tuple(moved.T)].all():
            mask = np.zeros(domain.shape, dtype=bool)
            mask[tuple(moved.T)] = True
            found.append(mask)
    return found


def odd_tissue(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A tissue that is anything but stationary: a ramp, a bright half, noise that grows."""
    ramp = np.indices(shape).sum(0) / sum(shape)
    image = ramp + (0.3 + ramp) * rng.standard_normal(shape)
    image[shape[0] // 2 :] += 1.0
    return np.round(image * 8) / 8


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_p_equals_the_definition_by_brute_force(seed: int, volume: bool, exceed: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (5, 6, 7) if volume else (14, 15)
    image = np.round(rng.standard_normal(shape), 1)
    domain = rng.random(shape) > 0.04
    candidate = np.zeros(shape, dtype=bool)
    candidate[tuple(slice(2, 4) for _ in shape)] = True
    candidate[tuple(2 for _ in shape)] = rng.random() > 0.5
    domain |= candidate
    kernel = Kernel("gaussian", 0.9)
    how = "exceed" if exceed else "rank"
    result = placement_test(image, domain, candidate, kernels=[kernel], n_draws=None, overlaps=how, seed=seed)
    observed = mmd2_unbiased(image[candidate], image[domain & ~candidate], kernel)
    everywhere = translations(domain, candidate)
    others = [m for m in everywhere if (m != candidate).any()]
    if not others:
        assert result.abstained is not None
        return
    exceeding = sum(
        (exceed and bool((m & candidate).any()))
        or mmd2_unbiased(image[m], image[domain & ~m], kernel) >= observed - 1e-12
        for m in others
    )
    assert result.statistic == pytest.approx(observed, abs=1e-10)
    assert result.p_value == pytest.approx((1 + exceeding) / len(everywhere))
    assert result.floor == pytest.approx((1 + exceed * sum((m & candidate).any() for m in others)) / len(everywhere))
    assert (result.n_draws, result.engine, result.null) == (len(others), "histogram", "placement")


def test_p_is_exactly_valid_over_all_places_of_a_nonstationary_tissue(rng: np.random.Generator) -> None:
    domain = disc((30, 34), (15, 17), 14.5)
    domain[10:14, 5:9] = False
    image = odd_tissue(rng, domain.shape)
    candidate = disc(domain.shape, (15, 19), 2.0)
    everywhere = translations(domain, candidate)
    exceed, rank = (
        np.array([r.p_value for r in placement_tests(image, domain, everywhere, n_draws=None, overlaps=how, seed=3)])
        for how in ("exceed", "rank")
    )
    assert len(exceed) > 200
    for t in np.linspace(0.02, 1, 50):
        assert (exceed <= t).mean() <= (rank <= t).mean() <= t + 1e-12
    # The ramp makes the corners odd, so the bound is not met by never rejecting.
    assert (exceed <= 0.5).mean() > 0.2


@pytest.mark.slow
def test_sampled_places_are_valid_too(rng: np.random.Generator) -> None:
    domain = disc((60, 60), (30, 30), 28)
    image = odd_tissue(rng, domain.shape)
    candidate = disc(domain.shape, (30, 30), 2.0)
    everywhere = translations(domain, candidate)
    chosen = [everywhere[i] for i in rng.integers(len(everywhere), size=2000)]
    seeds = list(range(len(chosen)))
    p = np.array([r.p_value for r in placement_tests(image, domain, chosen, n_draws=59, seeds=seeds, seed=3)])
    for t in (0.05, 0.1, 0.3):
        assert (p <= t).mean() <= t + 2 * np.sqrt(t * (1 - t) / len(p))
    assert (p <= 0.1).mean() > 0.03


def test_a_large_candidate_cannot_be_significant_where_overlaps_exceed() -> None:
    domain = disc((40, 40), (20, 20), 18)
    candidate = disc(domain.shape, (20, 20), 9)
    image = np.round(np.random.default_rng(0).standard_normal(domain.shape), 1) + 50.0 * candidate
    result = placement_test(image, domain, candidate, overlaps="exceed", seed=0)
    assert result.floor == result.p_value > 0.05
    ranked = placement_test(image, domain, candidate, seed=0)
    assert ranked.p_value == ranked.floor == 1 / (1 + ranked.n_draws) < 0.05


@pytest.mark.parametrize("shape", [(40, 44), (10, 14, 40), (40, 14, 10)])
def test_sample_is_uniform_over_admissible_places(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    domain = disc(shape, tuple(n / 2 for n in shape), min(shape) * 0.45) if len(shape) == 2 else np.ones(shape, bool)
    candidate = disc(shape, tuple(n // 2 for n in shape), 2.0)
    field = TissueField.of(np.zeros(shape), domain)
    tissue = Tissue.of(field.domain)
    outline = Shape.of(field.voxels(candidate, "candidate"), tissue.shape)
    everything = draw_places(outline, tissue, None, rng)
    assert everything.enumerated
    assert len(everything.anchors) + 1 == len(translations(domain, candidate))
    few = 5  # so few that trying some anchors is enough
    counts = np.zeros(tissue.right.size)
    for _ in range(2000):
        places_drawn = draw_places(outline, tissue, few, rng)
        assert not places_drawn.enumerated
        assert len(set(places_drawn.anchors.tolist())) == few
        counts[places_drawn.anchors] += 1
    expected = 2000 * few / len(everything.anchors)
    assert counts[everything.anchors].sum() == 2000 * few
    chi2 = ((counts[everything.anchors] - expected) ** 2 / expected).sum()
    freedom = len(everything.anchors) - 1
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


def test_rare_places_are_found_by_looking_everywhere(rng: np.random.Generator) -> None:
    domain = np.ones((400, 400), dtype=bool)
    domain[::3, ::3] = False
    domain[100:130, 100:130] = True
    candidate = np.zeros_like(domain)
    candidate[110:114, 110:114] = True
    field = TissueField.of(np.zeros(domain.shape), domain)
    tissue = Tissue.of(field.domain)
    outline = Shape.of(field.voxels(candidate, "candidate"), tissue.shape)
    found = draw_places(outline, tissue, 99, rng)
    assert len(found.anchors) == 99
    assert not found.enumerated
    every = draw_places(outline, tissue, 2000, rng)
    assert every.enumerated
    assert len(every.anchors) == len(translations(domain[98:133, 98:133], candidate[98:133, 98:133])) - 1


def test_histogram_statistics_equal_the_definition_for_every_kernel(rng: np.random.Generator) -> None:
    domain = disc((20, 22), (10, 11), 9.5)
    image = rng.integers(0, 12, domain.shape) / 12
    candidate = disc(domain.shape, (9, 10), 2.0)
    gone = disc(domain.shape, (14, 15), 2.5)
    kernels = kernel_ladder(image[domain], families=("gaussian", "laplacian"))
    field = TissueField.of(image, domain)
    tissue = domain & ~gone
    outline = Shape.of(field.voxels(candidate, "candidate"), np.array(field.domain.shape))
    removed = Shape.of(field.voxels(gone & domain, "rest"), np.array(field.domain.shape))
    everywhere = translations(tissue, candidate)
    own = [Shape.of(field.voxels(m, "candidate"), np.array(field.domain.shape)).anchor for m in everywhere]
    placed = Placed(outline, np.array(own), removed, int(tissue.sum() - candidate.sum()))
    got = histogram_statistics(field, [placed], kernels, 0)[0]
    for row, kernel in zip(got, kernels, strict=True):
        expected = [mmd2_unbiased(image[m], image[tissue & ~m], kernel) for m in everywhere]
        assert np.abs(row - expected).max() < 1e-10


def test_fourier_statistics_equal_the_same_features_summed_directly(rng: np.random.Generator) -> None:
    domain = disc((12, 14, 6), (6, 7, 3), 6.0)
    features = rng.standard_normal((*domain.shape, 3)) + 3.0
    candidate = disc(domain.shape, (6, 6, 3), 1.5)
    gone = disc(domain.shape, (9, 10, 3), 1.5) & domain
    kernel = Kernel("gaussian", 2.0)
    field = TissueField.of(features, domain)
    outline = Shape.of(field.voxels(candidate, "candidate"), np.array(field.domain.shape))
    removed = Shape.of(field.voxels(gone, "rest"), np.array(field.domain.shape))
    tissue = domain & ~gone
    everywhere = translations(tissue, candidate)
    own = [Shape.of(field.voxels(m, "candidate"), np.array(field.domain.shape)).anchor for m in everywhere]
    placed = Placed(outline, np.array(own), removed, int(tissue.sum() - candidate.sum()))
    got = fourier_statistics(field, [placed], (kernel,), 7)[0][0]
    vectors = np.zeros((*domain.shape, 0))
    for block in range(4):
        seed = int(np.random.SeedSequence([7, 0, block]).generate_state(1)[0])
        z = embed(features.reshape(-1, 3), kernel, method="fourier", rank=32, seed=seed) / 2.0
        vectors = np.concatenate([vectors, z.reshape(*domain.shape, -1)], axis=-1)
    for i, m in enumerate(everywhere):
        x, y = vectors[m], vectors[tissue & ~m]
        sx, sy = x.sum(0), y.sum(0)
        m_, n_ = len(x), len(y)
        expected = (sx @ sx - m_) / (m_ * (m_ - 1)) + (sy @ sy - n_) / (n_ * (n_ - 1)) - 2 * sx @ sy / (m_ * n_)
        assert got[i] == pytest.approx(expected, abs=2e-6)


def test_vector_features_find_a_texture_that_intensity_does_not(rng: np.random.Generator) -> None:
    domain = disc((24, 24, 24), (12, 12, 12), 11)
    candidate = disc(domain.shape, (12, 12, 8), 2.5)
    features = rng.standard_normal((*domain.shape, 4))
    features[..., 1] = np.where(candidate, np.abs(features[..., 1]), features[..., 1])
    result = placement_test(features, domain, candidate, seed=2)
    assert result.engine == "fourier"
    assert result.p_value < 0.05
    assert placement_test(features[..., 0], domain, candidate, seed=2).p_value > 0.05


def test_many_distinct_values_are_graded(rng: np.random.Generator) -> None:
    domain = disc((60, 60), (30, 30), 28)
    candidate = disc(domain.shape, (30, 20), 2)
    image = rng.standard_normal(domain.shape) + 3.0 * candidate
    image[0, 0] = np.nan  # outside the domain: never read
    image[30, 45] = 1e9  # one absurd voxel must not spoil the grading
    result = placement_test(image, domain, candidate, seed=2)
    assert result.p_value == result.floor < 0.05
    mostly = np.where(np.arange(3600).reshape(60, 60) == 1800, np.arange(3600).reshape(60, 60), 0) + 0.0
    mostly[30, 10:50] = np.arange(40) * 1e-9
    assert 0 < placement_test(mostly, domain, candidate, seed=2).p_value <= 1


def test_a_domain_of_almost_one_value_is_graded_without_dividing_by_zero() -> None:
    image = np.zeros((2000, 1000))
    image[0, :1500:1] = np.arange(1000) + 1.0
    image[1, :40] = -np.arange(40) - 1.0
    candidate = np.zeros(image.shape, dtype=bool)
    candidate[1000:1002, 500:502] = True
    assert placement_test(image, np.ones_like(candidate), candidate, n_draws=19, seed=0).p_value == 1.0


def test_a_constant_tissue_is_not_odd() -> None:
    domain = np.ones((30, 30), dtype=bool)
    candidate = disc(domain.shape, (9, 9), 2)
    assert placement_test(np.full(domain.shape, 3.0), domain, candidate, seed=0).p_value == 1.0


def test_results_do_not_depend_on_order_cropping_or_company(rng: np.random.Generator) -> None:
    domain = np.zeros((50, 60), dtype=bool)
    domain[3:45, 5:58] = True
    image = odd_tissue(rng, domain.shape)
    candidates = [disc(domain.shape, c, 2) for c in ((10, 10), (20, 40), (40, 50))]
    seeds = [11, 12, 13]
    forward = placement_tests(image, domain, candidates, seeds=seeds, n_draws=99, seed=5)
    backward = placement_tests(image, domain, candidates[::-1], seeds=seeds[::-1], n_draws=99, seed=5)
    assert forward == backward[::-1]
    inside = (slice(2, 46), slice(4, 59))
    alone = placement_tests(image[inside], domain[inside], [candidates[1][inside]], seeds=[12], n_draws=99, seed=5)
    assert alone == [forward[1]]
    assert placement_tests(image, domain, [], seed=0) == []


def test_what_is_left_out_is_the_same_as_a_smaller_domain(rng: np.random.Generator) -> None:
    domain = np.ones((40, 40), dtype=bool)
    image = rng.integers(0, 9, domain.shape) / 9
    candidate, other = disc(domain.shape, (10, 10), 2), disc(domain.shape, (28, 28), 4)
    kernels = [Kernel("gaussian", 0.3)]
    left_out = placement_tests(image, domain, [candidate], excluded=[other], kernels=kernels, n_draws=None, seed=1)
    smaller = placement_test(image, domain & ~other, candidate, kernels=kernels, n_draws=None, seed=1)
    assert left_out[0].p_value == smaller.p_value
    assert left_out[0].statistic == pytest.approx(smaller.statistic, abs=1e-12)
    vectors = np.stack([image, image.T], axis=-1)
    left_out = placement_tests(vectors, domain, [candidate], excluded=[other], kernels=kernels, n_draws=None, seed=1)
    smaller = placement_test(vectors, domain & ~other, candidate, kernels=kernels, n_draws=None, seed=1)
    assert left_out[0].statistic == pytest.approx(smaller.statistic, abs=1e-5)
    nothing = [np.zeros_like(domain)]
    untouched = placement_tests(image, domain, [candidate], excluded=nothing, n_draws=99, seed=1)
    assert untouched[0] == placement_test(image, domain, candidate, n_draws=99, seed=1)
    narrow = domain & ~other
    beyond = placement_tests(image, narrow, [candidate], excluded=[other], n_draws=99, seed=1)
    assert beyond[0] == placement_test(image, narrow, candidate, n_draws=99, seed=1)


def test_untestable_candidates_abstain_with_a_sentence(rng: np.random.Generator) -> None:
    domain = np.ones((12, 12), dtype=bool)
    one, all_but_one, wide = (np.zeros_like(domain) for _ in range(3))
    one[3, 3] = True
    all_but_one[:] = True
    all_but_one[0, 0] = False
    wide[:, :11] = True
    wide[0, 11] = True
    pair = np.zeros_like(domain)
    pair[5, 5:7] = True
    image = rng.random(domain.shape)
    results = placement_tests(image, domain, [one, pair, all_but_one, wide], seed=0)
    assert "1 and the rest" in str(results[0].abstained)
    assert results[1].abstained is None
    assert "rest of the tissue 1" in str(results[2].abstained)
    assert "nowhere else" in str(results[3].abstained)
    assert [r.p_value for r in results if r.abstained] == [1.0, 1.0, 1.0]
    assert "fits nowhere" in str(placement_test(image, domain, wide, seed=0).abstained)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": np.zeros((9, 10))}, "do not fit"),
        ({"features": np.zeros((10, 10, 2, 2))}, "do not fit"),
        ({"domain": np.ones((1, 10, 10, 1), bool), "features": np.zeros((1, 10, 10, 1))}, "do not fit"),
        ({"domain": np.zeros((10, 10), bool)}, "empty"),
        ({"features": np.full((10, 10), np.nan)}, "NaN"),
        ({"candidates": [np.zeros((10, 10), bool)]}, "candidate is empty"),
        ({"candidates": [np.ones((9, 9), bool)]}, "shape"),
        ({"domain": np.tri(10, dtype=bool)}, "leaves the domain"),
        ({"domain": np.eye(10, k=-3, dtype=bool)}, "leaves the domain"),
        ({"excluded": [np.ones((10, 10), bool)]}, "touches the candidate"),
        ({"excluded": [None, None]}, "as many exclusions"),
        ({"seeds": [1, 2]}, "as many exclusions"),
        ({"n_draws": 0}, "at least 1 draw"),
        ({"kernels": []}, "at least one kernel"),
        ({"overlaps": "drop"}, "'exceed' or 'rank'"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict, words: str) -> None:
    candidate = np.zeros((10, 10), dtype=bool)
    candidate[1:3, 6:9] = True
    arguments = {
        "features": np.arange(100.0).reshape(10, 10),
        "domain": np.ones((10, 10), bool),
        "candidates": [candidate],
        "seed": 0,
    }
    with pytest.raises(InputError, match=words) as caught:
        placement_tests(**(arguments | change))
    assert "\n" not in str(caught.value)


def test_compiled_functions_equal_their_python_source(rng: np.random.Generator) -> None:
    domain = rng.random((4, 7, 9)) > 0.2
    domain[1:3, 2:5, 3:7] = True
    flat = domain.reshape(-1)
    right = places.run_lengths(flat.view(np.uint8), 9)
    assert right.tolist() == places.run_lengths.py_func(flat.view(np.uint8), 9).tolist()
    tissue = Tissue.of(domain)
    candidate = np.zeros_like(domain)
    candidate[1:3, 2:4, 3:6] = True
    outline = Shape.of(np.flatnonzero(candidate), tissue.shape)
    gone = (right, outline.anchor, outline.offsets, outline.lengths, 9)
    without = places.run_lengths((domain & ~candidate).reshape(-1).view(np.uint8), 9)
    assert places.cut_runs(*gone).tolist() == places.cut_runs.py_func(*gone).tolist() == without.tolist()
    search = (tissue.voxels, right, outline.offsets, outline.lengths, outline.low, outline.high, tissue.shape)
    for limit in (1, 500):
        assert places.admissible(*search, limit).tolist() == places.admissible.py_func(*search, limit).tolist()
    anchors = places.admissible(*search, 500)
    everywhere = search[1:]
    assert places.admissible_anywhere(*everywhere).tolist() == anchors.tolist()
    assert places.admissible_anywhere.py_func(*everywhere).tolist() == anchors.tolist()
    mask = candidate.reshape(-1).view(np.uint8)
    extent = outline.high - outline.low + 1
    overlap = (anchors, outline.anchor, outline.offsets, outline.lengths, extent, tissue.shape, mask)
    far = np.concatenate([anchors, [0]])
    assert places.overlapping(*overlap).tolist() == places.overlapping.py_func(*overlap).tolist()
    assert places.overlapping.py_func(far, *overlap[1:])[-1] == places.overlapping(far, *overlap[1:])[-1]
    ring = Shape.of(np.flatnonzero(candidate & ~np.roll(candidate, 1, 2)), tissue.shape)
    hollow = (tissue.voxels, outline.anchor, ring.offsets, ring.lengths, ring.high - ring.low + 1, tissue.shape, mask)
    # A bounding box that meets the candidate's while no voxel does: every run is looked at in vain.
    bar = Shape.of(np.flatnonzero(candidate)[[0, -1]], tissue.shape)
    lone = np.zeros(flat.size, dtype=np.uint8)
    lone[bar.anchor] = 1
    vain = (np.array([bar.anchor + 1]), bar.anchor, bar.offsets, bar.lengths, np.array([9, 9, 9]), tissue.shape, lone)
    assert not places.overlapping(*vain)[0]
    assert not places.overlapping.py_func(*vain)[0]
    inside = tissue.voxels[(tissue.voxels + ring.offsets.min() >= 0) & (tissue.voxels + 80 < flat.size)]
    hollow = (inside, *hollow[1:])
    assert places.overlapping(*hollow).tolist() == places.overlapping.py_func(*hollow).tolist()
    codes = rng.integers(0, 5, flat.size).astype(np.uint16)
    count = (codes, anchors, outline.offsets, outline.lengths, 5)
    histograms = place_statistics._histograms
    assert histograms(*count).tolist() == histograms.py_func(*count).tolist()
    prefix = rng.standard_normal((10, 3)).astype(np.float32)
    again = prefix.copy()
    restarts = np.arange(10) % 4 == 0
    place_statistics._accumulate(prefix, restarts)
    place_statistics._accumulate.py_func(again, restarts)
    assert np.array_equal(prefix, again)
    sums = (prefix, np.arange(9, dtype=np.int32), np.array([0, 3]), np.array([0, 1]), np.array([2, 3]))
    assert np.allclose(place_statistics._run_sums(*sums), place_statistics._run_sums.py_func(*sums), atol=1e-6)


# --- contrast to the surroundings ---------------------------------------------------------


@given(st.integers(0, 10_000))
def test_a_tissue_without_a_shape_is_searched_as_if_made_without_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    domain = rng.random((3, 5, 9)) > 0.2
    gone = np.flatnonzero(domain & (rng.random(domain.shape) > rng.uniform(0.3, 1.0)))
    if gone.size == 0:
        return
    tissue = Tissue.of(domain)
    cut = tissue.without(Shape.of(gone, tissue.shape))
    domain.reshape(-1)[gone] = False
    again = Tissue.of(domain)
    assert np.array_equal(cut.right, again.right)
    assert np.array_equal(cut.voxels, again.voxels)


def test_slow_trends_do_not_hide_a_small_lesion(rng: np.random.Generator) -> None:
    domain = disc((60, 60), (30, 30), 28)
    image = 0.2 * np.indices(domain.shape)[0] + rng.standard_normal(domain.shape)
    lesion = disc(domain.shape, (30, 30), 3)
    image = image + 2.0 * lesion
    assert placement_test(image, domain, lesion, seed=0).p_value <= 0.02
    kernels = kernel_ladder(image[domain][:, None], seed=0)
    assert placement_test(image, domain, lesion, kernels=kernels, seed=0).p_value > 0.2
    with pytest.raises(InputError, match="the spacing must be 2 positive numbers"):
        placement_test(image, domain, lesion, spacing=(1.0,), seed=0)


@pytest.mark.parametrize(
    ("extent", "spacing"), [((1, 30, 34), (1.0, 1.0, 1.0)), ((10, 22, 24), (3.0, 1.0, 1.5)), ((1, 1, 60), (1, 1, 1))]
)
def test_contrasts_equal_the_definition(extent, spacing, rng: np.random.Generator) -> None:
    domain = rng.random(extent) > 0.1
    candidate = np.zeros(extent, dtype=bool)
    middle = tuple(slice(n // 2 - min(2, n // 2), n // 2 + 1) for n in extent)
    candidate[middle] = rng.random(candidate[middle].shape) > 0.2
    domain |= candidate
    others = np.zeros(extent, dtype=bool)
    others[..., :5] = True
    field = TissueField.of(rng.standard_normal(extent), domain)
    assert field.order == (0, 1, 2)
    assert field.domain.shape == extent
    tissue = Tissue.of(domain)
    shape = Shape.of(np.flatnonzero(candidate), tissue.shape)
    values = np.zeros(extent)
    values[domain] = field.values[:, 0]
    for gone in (None, Shape.of(np.flatnonzero(others & domain), tissue.shape)):
        left = domain & ~others if gone is not None else domain
        anchors = np.append(shape.anchor, draw_places(shape, Tissue.of(left), None, rng).anchors)
        n = int(left.sum()) - shape.size
        [found] = contrast_statistics(field, [Placed(shape, anchors, gone, n)], spacing)
        wide = [a for a in range(3) if extent[a] > 1]
        volume = shape.size * np.prod([spacing[a] for a in wide])
        radius = {1: volume / 2, 2: np.sqrt(volume / np.pi), 3: (0.75 * volume / np.pi) ** (1 / 3)}[len(wide)]
        finest = min(spacing[a] for a in wide)
        expected = []
        for anchor in anchors:
            own = np.zeros(extent, dtype=bool)
            own.reshape(-1)[np.flatnonzero(candidate) - shape.anchor + anchor] = True
            # The shell is laid on a roomier grid: it may reach beyond the box.
            room = [(20, 20) if a in wide else (0, 0) for a in range(3)]
            away = ndimage.distance_transform_edt(~np.pad(own, room), sampling=spacing)
            shell = (away > finest + 1e-6) & (away <= max(radius, 3 * finest) + 1e-6)
            around = np.pad(values, room)[shell & np.pad(left, room)]
            if len(around) < 0.2 * shell.sum():
                around = values[left & ~own]
            expected.append(values[own].mean() - around.mean())
        expected = np.array(expected)
        assert np.allclose(found, (expected - np.median(expected)) ** 2, atol=1e-9)
    total, count = (np.append(0, np.cumsum(v)) for v in (values, domain))
    shell = surroundings(shape, extent, spacing)
    starts = np.arange(0, domain.size, extent[2])
    runs = np.stack([starts, starts + 5], axis=1)
    rows = np.arange(len(runs) + 1)
    search = (total, count, anchors, shape.offsets, shape.lengths, shell, np.array(extent), runs, rows)
    assert np.allclose(place_contrasts(*search), place_contrasts.py_func(*search))


def test_where_the_surroundings_are_hardly_tissue_all_the_rest_stands_for_them(rng: np.random.Generator) -> None:
    extent, row = (1, 21, 60), np.zeros((1, 21, 60), dtype=bool)
    row[0, 10] = True
    candidate = np.zeros(extent, dtype=bool)
    candidate[0, 10, 30:34] = True
    values = np.where(row, rng.standard_normal(extent), 0.0)
    shape = Shape.of(np.flatnonzero(candidate), np.array(extent))
    total, count = (np.append(0, np.cumsum(v)) for v in (values, row))
    shell = surroundings(shape, extent, (1.0, 1.0, 1.0))
    # The first five voxels of the row are left out.
    runs, rows = np.array([[600, 605]]), np.searchsorted([600], np.arange(22) * 60)
    search = (total, count, np.array([shape.anchor]), shape.offsets, shape.lengths, shell, np.array(extent), runs, rows)
    left = row & ~candidate
    left[0, 10, :5] = False
    expected = values[candidate].mean() - values[left].mean()
    assert place_contrasts(*search) == pytest.approx(expected)
    assert place_contrasts.py_func(*search) == pytest.approx(expected)


# --- real organs -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def amos(shared_data):
    """The abdominal CT as axial slices, with 15 human-labelled organs."""
    import nibabel as nib

    image = np.asarray(nib.load(shared_data / "amos_ct" / "image.nii.gz").dataobj).astype(np.float32)
    labels = np.asarray(nib.load(shared_data / "amos_ct" / "labels.nii.gz").dataobj)
    return image, labels


def graded(image: np.ndarray, domain: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image[domain], (0.5, 99.5))
    return np.round(np.clip((image - low) / (high - low), 0, 1) * 255) / 255


def organ_slices(labels: np.ndarray, numbers: tuple[int, ...], at_least: int):
    from scipy.ndimage import binary_erosion

    for number in numbers:
        areas = (labels == number).sum((0, 1))
        k = int(areas.argmax())
        domain = binary_erosion(labels[:, :, k] == number, iterations=2)
        if domain.sum() >= at_least:
            yield k, domain


def random_discs(domain: np.ndarray, radius: float, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    from scipy.ndimage import distance_transform_edt

    inner = np.argwhere(distance_transform_edt(np.pad(domain, 1))[1:-1, 1:-1] > radius)
    return [disc(domain.shape, tuple(inner[i]), radius) for i in rng.integers(len(inner), size=count)]


def false_positives(amos, numbers: tuple[int, ...], count: int, rng: np.random.Generator) -> tuple[int, int, int]:
    from anatrust.statistics.two_sample import two_sample_test

    image, labels = amos
    hits = iid = total = 0
    for k, domain in organ_slices(labels, numbers, 1000):
        values = graded(image[:, :, k], domain)
        discs = random_discs(domain, 4, count, rng)
        seeds = list(range(len(discs)))
        hits += sum(r.p_value <= 0.05 for r in placement_tests(values, domain, discs, n_draws=199, seeds=seeds, seed=0))
        for i, d in enumerate(discs):
            iid += two_sample_test(values[d], values[domain & ~d], null="iid", n_draws=199, seed=i).p_value <= 0.05
        total += len(discs)
    return hits, iid, total


def test_random_places_in_real_organs_are_seldom_odd(amos, rng: np.random.Generator) -> None:
    hits, iid, total = false_positives(amos, (1, 2, 6, 7), 25, rng)
    assert total >= 75
    assert hits / total <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / total)
    # The published pixel permutation calls most of the same normal discs odd.
    assert iid / total >= 0.4


@pytest.mark.slow
def test_random_places_in_all_real_organs(amos, rng: np.random.Generator) -> None:
    hits, iid, total = false_positives(amos, (1, 2, 3, 6, 7, 8, 9, 14), 100, rng)
    assert total >= 400
    assert hits / total <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / total)
    assert iid / total >= 0.5


@pytest.mark.parametrize(
    ("number", "diameter", "overlaps"),
    [
        (1, 10.0, "exceed"),
        (1, 20.0, "rank"),
        pytest.param(6, 10.0, "exceed", marks=pytest.mark.slow),
        pytest.param(6, 16.0, "rank", marks=pytest.mark.slow),
    ],
)
def test_lesions_of_one_standard_deviation_are_found(
    amos, number: int, diameter: float, overlaps: str, rng: np.random.Generator
) -> None:
    from scipy.ndimage import binary_erosion, distance_transform_edt

    image, labels = amos
    organ = labels == number
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(organ))
    spacing = (0.846, 0.846, 5.0)
    domain = binary_erosion(organ[box], np.ones((3, 3, 1)), iterations=2)
    part = image[box]
    inner = np.argwhere(distance_transform_edt(np.pad(domain, 1), sampling=spacing)[1:-1, 1:-1, 1:-1] > diameter / 2)
    found, count = 0, 20
    for i in range(count):
        centre = inner[rng.integers(len(inner))]
        grid = np.indices(domain.shape)
        lesion = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True)) <= (diameter / 2) ** 2
        sign = 1 if i % 2 else -1
        planted = graded(part + sign * part[organ[box]].std() * lesion, domain)
        found += placement_test(planted, domain, lesion, overlaps=overlaps, n_draws=199, seed=i).p_value <= 0.05
    assert found / count >= 0.9
