import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.statistics.embedding_mmd import embed, embedding_statistics, fit_embedding, mmd2_from_embedding_sums
from anatrust.statistics.kernels import Kernel, median_bandwidth
from anatrust.statistics.label_draws import permuted_labels
from anatrust.statistics.mmd import mmd2_unbiased


def test_graded_features_have_a_short_and_exact_embedding(rng):
    x = rng.integers(0, 256, 5000)
    kernel = Kernel("gaussian", median_bandwidth(x))
    fitted = fit_embedding(x, kernel)
    assert fitted.method == "eigen"
    assert fitted.rank <= 25
    assert fitted.error < 1e-7
    z = fitted(x[:300])
    assert np.abs(z @ z.T - kernel.matrix(x[:300])).max() < 1e-7


def test_the_laplacian_kernel_is_exact_too(rng):
    x = rng.integers(0, 64, 500)
    assert fit_embedding(x, Kernel("laplacian", 20.0)).error < 1e-9


def test_values_between_the_levels_are_embedded_as_well():
    kernel = Kernel("gaussian", 60.0)
    fitted = fit_embedding(np.arange(256.0), kernel)
    new = np.array([0.0, 10.5, 100.25, 255.0])
    z = fitted(new)
    assert np.abs(z @ z.T - kernel.matrix(new)).max() < 1e-6


def test_the_fit_does_not_see_the_order(rng):
    x = rng.normal(size=(400, 3))
    shuffled = rng.permutation(x)
    for method in ("nystrom", "fourier"):
        a = fit_embedding(x, Kernel("gaussian", 2.0), method=method, rank=40, seed=1)
        b = fit_embedding(shuffled, Kernel("gaussian", 2.0), method=method, rank=40, seed=1)
        np.testing.assert_allclose(a(x[:5]), b(x[:5]), atol=1e-6)


@pytest.mark.parametrize("family", ["gaussian", "laplacian"])
@pytest.mark.parametrize("method", ["nystrom", "fourier"])
def test_approximations_get_better_with_rank(method, family, rng):
    x = rng.normal(size=(600, 4))
    kernel = Kernel(family, 3.0)
    rough, fine = (fit_embedding(x, kernel, method=method, rank=r, seed=2).error for r in (20, 512))
    assert fine < rough
    assert fine < 0.5
    if method == "nystrom" and family == "gaussian":
        assert fine < 0.01


def test_the_reported_error_is_the_largest_over_pairs(rng):
    x = rng.normal(size=(200, 3))
    kernel = Kernel("gaussian", 1.0)
    fitted = fit_embedding(x, kernel, method="fourier", rank=30)
    z = fitted(x)
    assert fitted.error == pytest.approx(np.abs(z @ z.T - kernel.matrix(x)).max(), rel=1e-9)


def test_fourier_vectors_have_length_one(rng):
    z = embed(rng.normal(size=(50, 2)), Kernel("laplacian", 1.0), method="fourier", rank=64)
    assert z.shape == (50, 64)
    np.testing.assert_allclose((z**2).sum(axis=1), 1.0)


def test_small_pools_are_embedded_exactly_by_nystrom(rng):
    x = rng.normal(size=(60, 2))
    kernel = Kernel("gaussian", 1.0)
    z = embed(x, kernel, tolerance=1e-13)
    np.testing.assert_allclose(z @ z.T, kernel.matrix(x), atol=1e-8)


def test_the_rank_is_capped_and_floats_fall_to_nystrom(rng):
    assert fit_embedding(np.arange(100), Kernel("laplacian", 5.0), rank=7).rank == 7
    assert fit_embedding(rng.normal(size=2000), Kernel("gaussian", 1.0)).method == "nystrom"
    assert fit_embedding(np.arange(100), Kernel("gaussian", 5.0), method="nystrom", rank=9).method == "nystrom"


def test_sums_of_vectors_give_the_mmd_of_many_samples(rng):
    pool = rng.integers(0, 30, 200).astype(float)
    kernel = Kernel("gaussian", 9.0)
    z = embed(pool, kernel)
    squares = (z**2).sum(axis=1)
    samples = [rng.choice(200, size, replace=False) for size in (5, 20, 60)]
    fast = mmd2_from_embedding_sums(
        np.stack([z[s].sum(axis=0) for s in samples]),
        np.array([squares[s].sum() for s in samples]),
        [len(s) for s in samples],
        z.sum(axis=0),
        squares.sum(),
        200,
    )
    exact = [mmd2_unbiased(pool[s], np.delete(pool, s), kernel) for s in samples]
    np.testing.assert_allclose(fast, exact, atol=1e-8)


def test_labellings_of_an_embedded_pool(rng):
    pool = rng.normal(size=(80, 2))
    kernel = Kernel("gaussian", 1.0)
    labels = permuted_labels(30, 50, 6, rng)
    exact = [mmd2_unbiased(pool[row == 1], pool[row == 0], kernel) for row in labels]
    np.testing.assert_allclose(embedding_statistics(embed(pool, kernel, tolerance=1e-13), labels), exact, atol=1e-9)


def test_labels_in_several_chunks_give_the_same(rng, monkeypatch):
    z, labels = rng.normal(size=(50, 4)), permuted_labels(20, 30, 10, rng)
    whole = embedding_statistics(z, labels)
    monkeypatch.setattr("anatrust.statistics.embedding_mmd._LABELS_AT_ONCE", 150)
    np.testing.assert_allclose(embedding_statistics(z, labels), whole, atol=1e-14)


def test_impossible_embeddings_are_refused(rng):
    kernel = Kernel("gaussian", 1.0)
    with pytest.raises(InputError, match="finite"):
        fit_embedding([1.0, np.nan], kernel)
    with pytest.raises(InputError, match="finite"):
        fit_embedding(np.zeros(0), kernel)
    with pytest.raises(InputError, match="rank"):
        fit_embedding([1.0], kernel, rank=0)
    with pytest.raises(InputError, match="eigen"):
        fit_embedding(rng.normal(size=(9, 2)), kernel, method="eigen")
    with pytest.raises(InputError, match="no embedding is called"):
        fit_embedding([1.0, 2.0], kernel, method="wavelet")
    for method in ("nystrom", "fourier"):
        with pytest.raises(InputError, match="2 feature columns"):
            fit_embedding(rng.normal(size=(9, 2)), kernel, method=method)(np.zeros(3))
