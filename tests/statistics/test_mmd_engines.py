"""Every engine against the definition of MMD²."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import InputError
from anatrust.statistics import matrix_mmd
from anatrust.statistics.array_backend import is_torch, like, namespace, to_numpy
from anatrust.statistics.embedding_mmd import embed, embedding_statistics
from anatrust.statistics.histogram_mmd import draw_counts, histogram_statistics, level_counts
from anatrust.statistics.kernels import Kernel, kernel_ladder
from anatrust.statistics.label_draws import permuted_labels
from anatrust.statistics.matrix_mmd import matrix_statistics
from anatrust.statistics.mmd import mmd2_from_sums, mmd2_unbiased

torch = pytest.importorskip("torch")

FAMILIES = ("gaussian", "laplacian")


def reference(pool, labels, kernels):
    return np.array([[mmd2_unbiased(pool[row == 1], pool[row == 0], k) for row in labels] for k in kernels])


def errors(fast, exact):
    """Largest error of each kernel in null standard deviations."""
    return np.abs(fast - exact).max(axis=1) / exact[:, 1:].std(axis=1)


def by_hand(x, y, k):
    m, n = len(x), len(y)
    xx = sum(k.matrix(x[i], x[j])[0, 0] for i in range(m) for j in range(m) if i != j)
    yy = sum(k.matrix(y[i], y[j])[0, 0] for i in range(n) for j in range(n) if i != j)
    xy = sum(k.matrix(x[i], y[j])[0, 0] for i in range(m) for j in range(n))
    return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_definition_is_the_double_sum(family, rng):
    x, y = rng.normal(size=(5, 1, 2)), rng.normal(size=(7, 1, 2))
    kernel = Kernel(family, 1.1)
    assert mmd2_unbiased(x[:, 0], y[:, 0], kernel) == pytest.approx(by_hand(x, y, kernel), abs=1e-13)


def test_the_definition_works_in_tiles(rng):
    x, y = rng.normal(size=1500), rng.normal(size=3)
    kernel = Kernel("gaussian", 1.0)
    gram = kernel.matrix(x)
    expected = (gram.sum() - 1500) / (1500 * 1499) + (kernel.matrix(y).sum() - 3) / 6 - 2 * kernel.matrix(x, y).mean()
    assert mmd2_unbiased(x, y, kernel) == pytest.approx(expected, abs=1e-12)


def test_the_estimate_is_unbiased_under_the_null(rng):
    values = [mmd2_unbiased(rng.normal(size=6), rng.normal(size=9), Kernel("gaussian", 1.0)) for _ in range(2000)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_the_definition_needs_two_points():
    with pytest.raises(InputError, match="2 points"):
        mmd2_unbiased([1.0], [1.0, 2.0], Kernel("gaussian", 1.0))


def test_samples_too_small_count_as_exceedances():
    assert mmd2_from_sums(0.0, 0.0, 2.0, [1, 2, 0], [3, 2, 4]).tolist() == [np.inf, 1.0, np.inf]


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize(("precision", "allowed"), [("single", 1e-4), ("double", 1e-8)])
def test_the_matrix_engine_equals_the_definition(d, gather, precision, allowed, rng):
    # Integers, so that equal points occur; more points than a tile has.
    pool = rng.integers(0, 40, (600, d)).astype(float) + 1000.0
    labels = permuted_labels(150, 450, 8, rng)
    kernels = kernel_ladder(pool, families=FAMILIES)
    fast = matrix_statistics(pool, labels, kernels, precision=precision, gather=gather)
    assert errors(fast, reference(pool, labels, kernels)).max() < allowed


@pytest.mark.parametrize("precision", ["single", "double"])
def test_torch_gives_the_same_numbers(precision, rng):
    pool = rng.normal(size=(600, 5))
    labels = permuted_labels(200, 400, 9, rng)
    kernels = kernel_ladder(pool, families=FAMILIES)
    fast = matrix_statistics(torch.tensor(pool, requires_grad=True), labels, kernels, precision=precision)
    assert errors(fast, matrix_statistics(pool, labels, kernels, precision="double")).max() < 1e-4


def test_far_outliers_do_not_spoil_single_precision(rng):
    pool = rng.normal(size=(300, 8))
    pool[:3] += 1e5
    labels = permuted_labels(100, 200, 20, rng)
    kernels = [Kernel("gaussian", 2.0)]
    fast = matrix_statistics(pool, labels, kernels, precision="single")
    assert errors(fast, reference(pool, labels, kernels)).max() < 1e-4


def test_many_points_use_single_precision_and_gather_small_samples(rng, monkeypatch):
    pool = rng.normal(size=(2100, 2))
    few, many = permuted_labels(60, 2040, 5, rng), permuted_labels(600, 1500, 5, rng)
    kernels = [Kernel("gaussian", 1.0)]
    called = []
    gathered = matrix_mmd._gathered
    monkeypatch.setattr(matrix_mmd, "_gathered", lambda *a: called.append(1) or gathered(*a))
    for labels, gathers in ((few, 1), (many, 0), (np.concatenate([few, many]), 0)):
        called.clear()
        fast = matrix_statistics(pool, labels, kernels)
        assert len(called) == gathers
        assert errors(fast, reference(pool, labels, kernels)).max() < 1e-4


def test_labels_in_several_chunks_give_the_same(rng, monkeypatch):
    pool, labels = rng.normal(size=(300, 2)), permuted_labels(100, 200, 10, rng)
    kernels = [Kernel("gaussian", 1.0), Kernel("laplacian", 1.0)]
    whole = matrix_statistics(pool, labels, kernels)
    monkeypatch.setattr(matrix_mmd, "_LABELS_AT_ONCE", 900)
    np.testing.assert_allclose(matrix_statistics(pool, labels, kernels), whole, atol=1e-13)


def test_long_block_rows_are_multiplied_in_pieces(rng, monkeypatch):
    pool, labels = rng.normal(size=(700, 2)), permuted_labels(300, 400, 5, rng)
    kernels = [Kernel("gaussian", 1.0)]
    whole = matrix_statistics(pool, labels, kernels)
    monkeypatch.setattr(matrix_mmd, "_INNER", 128)
    np.testing.assert_allclose(matrix_statistics(pool, labels, kernels), whole, atol=1e-13)


def test_the_compiled_sum_equals_its_python_source(rng):
    full = rng.normal(size=(30, 30)).astype(np.float32)
    full += full.T
    members = np.stack([np.sort(rng.choice(30, 6, replace=False)) for _ in range(4)])
    expected = [full[np.ix_(row, row)].sum(dtype=float) - np.trace(full[np.ix_(row, row)]) for row in members]
    compiled = matrix_mmd._pair_sums()
    np.testing.assert_allclose(compiled(full, members), expected, rtol=1e-5)
    np.testing.assert_allclose(compiled.py_func(full, members), expected, rtol=1e-5)


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=25),
    st.lists(st.integers(0, 9), min_size=2, max_size=25),
    st.sampled_from(FAMILIES),
    st.floats(0.2, 20),
)
@settings(deadline=None, max_examples=80)
def test_the_histogram_engine_equals_the_definition(x, y, family, bandwidth):
    kernel = Kernel(family, bandwidth)
    levels, first, second = level_counts(x, y)
    fast = histogram_statistics(levels, first + second, first[None], [kernel])
    assert fast[0, 0] == pytest.approx(mmd2_unbiased(x, y, kernel), abs=1e-12)


def test_all_engines_agree_on_the_same_draws(rng):
    pool = rng.integers(0, 256, 500).astype(float)
    labels = permuted_labels(150, 350, 10, rng)
    kernels = kernel_ladder(pool, families=FAMILIES)
    levels, codes = np.unique(pool, return_inverse=True)
    draws = np.stack([np.bincount(codes[row == 1], minlength=len(levels)) for row in labels])
    exact = reference(pool, labels, kernels)
    by_histogram = histogram_statistics(levels, np.bincount(codes), draws, kernels)
    by_embedding = np.stack([embedding_statistics(embed(pool, k), labels) for k in kernels])
    np.testing.assert_allclose(by_histogram, exact, atol=1e-13)
    assert errors(by_embedding, exact).max() < 1e-6
    assert errors(matrix_statistics(pool, labels, kernels), exact).max() < 1e-8


def test_random_histograms_are_those_of_shuffling(rng):
    first, second = np.array([6, 0, 4, 1]), np.array([2, 5, 4, 8])
    draws = draw_counts(first, second, 4000, rng)
    assert (draws[0] == first).all()
    assert (draws.sum(axis=1) == 11).all()
    shuffled = permuted_labels(11, 19, 4000, rng)
    codes = np.concatenate([np.repeat(np.arange(4), first), np.repeat(np.arange(4), second)])
    table = np.stack([np.bincount(codes[row == 1], minlength=4) for row in shuffled])
    for moment in (np.mean, np.var):
        np.testing.assert_allclose(moment(draws[1:], axis=0), moment(table[1:], axis=0), rtol=0.08)


def test_millions_of_graded_voxels_need_no_cap(rng):
    first, second = np.bincount(rng.integers(0, 256, 10**5)), np.bincount(rng.integers(0, 256, 3 * 10**6))
    draws = draw_counts(first, second, 99, rng)
    statistics = histogram_statistics(np.arange(256), first + second, draws, [Kernel("gaussian", 80.0)])[0]
    assert np.isfinite(statistics).all()
    assert abs(statistics[0]) < 6 * statistics[1:].std()


def test_numpy_arrays_pass_through_the_backend():
    x = np.ones(3)
    assert namespace(x) is np
    assert not is_torch(x)
    assert like(x, x) is x
    assert to_numpy([1.0]).tolist() == [1.0]


def test_tensors_are_found_without_importing_torch():
    tensor = torch.ones(2, requires_grad=True)
    assert is_torch(tensor)
    assert namespace(tensor) is torch
    assert to_numpy(tensor).tolist() == [1.0, 1.0]
    assert like(np.zeros(2, dtype=np.float32), tensor).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_gives_the_same_numbers(rng):
    pool, labels = rng.normal(size=(3000, 16)), permuted_labels(1000, 2000, 50, rng)
    kernels = kernel_ladder(pool, families=FAMILIES)
    fast = matrix_statistics(torch.tensor(pool, device="cuda"), labels, kernels)
    assert errors(fast, matrix_statistics(pool, labels, kernels, precision="double")).max() < 1e-3
