"""Simulations that could fail: the level of every engine, and where the pixel null breaks."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from threadpoolctl import threadpool_limits

from anatrust.statistics.kernels import kernel_ladder
from anatrust.statistics.two_sample import two_sample_test

LEVELS = np.array([0.05, 0.1, 0.2, 0.5])


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of tiny products: threads would only wait for each other."""
    with threadpool_limits(1):
        yield


def p_values(draw, repeats, **settings):
    rng = np.random.default_rng(99)
    return np.array([two_sample_test(*draw(rng), seed=i, **settings).p_value for i in range(repeats)])


def rejected_shares(p):
    return (p[:, None] <= LEVELS).mean(axis=0), np.sqrt(LEVELS * (1 - LEVELS) / len(p))


def graded(rng):
    return rng.integers(0, 256, 25), rng.integers(0, 256, 60)


def coarse(rng):
    return rng.integers(0, 3, 12), rng.integers(0, 3, 30)


def vectors(rng):
    return rng.standard_normal((25, 3)), rng.standard_normal((60, 3))


CASES = {
    "histogram": (graded, {"engine": "histogram"}),
    "matrix, double": (vectors, {"engine": "matrix"}),
    "matrix, single": (vectors, {"engine": "matrix", "precision": "single"}),
    "embedding": (vectors, {"engine": "embedding"}),
}


@pytest.mark.parametrize("name", CASES)
def test_p_is_uniform_on_exchangeable_data(name):
    draw, settings = CASES[name]
    shares, errors = rejected_shares(p_values(draw, 500, n_draws=39, **settings))
    # B + 1 = 40 makes every level attainable, so p is uniform, neither too small nor too large.
    assert (np.abs(shares - LEVELS) <= 3 * errors).all(), shares


@pytest.mark.parametrize("engine", ["histogram", "matrix", "embedding"])
def test_p_is_super_uniform_when_most_draws_tie(engine):
    shares, errors = rejected_shares(p_values(coarse, 400, n_draws=39, engine=engine))
    assert (shares <= LEVELS + 2 * errors).all(), shares
    assert shares[-1] > 0.2


@pytest.mark.parametrize(("draw", "engine"), [(graded, "histogram"), (vectors, "matrix"), (vectors, "embedding")])
def test_aggregation_keeps_the_level(draw, engine):
    rng = np.random.default_rng(7)
    p = []
    for i in range(300):
        x, y = draw(rng)
        ladder = kernel_ladder(np.concatenate([x, y]), families=("gaussian", "laplacian"), factors=(0.2, 2.0))
        p.append(two_sample_test(x, y, kernels=ladder, n_draws=39, engine=engine, seed=i).p_value)
    shares, errors = rejected_shares(np.array(p))
    assert (np.abs(shares - LEVELS) <= 3 * errors).all(), shares


def test_the_gathered_form_keeps_the_level():
    def unequal(rng):
        return rng.standard_normal((20, 2)), rng.standard_normal((1100, 2))

    shares, errors = rejected_shares(p_values(unequal, 100, n_draws=39))
    assert (shares <= LEVELS + 2 * errors).all(), shares


def blocks_with_offsets(rng):
    offsets = rng.normal(size=40)
    return np.repeat(offsets, 6) + rng.normal(0, 0.5, 240)


def test_blocks_hold_where_single_points_do_not():
    ids = np.repeat(np.arange(40), 6)
    rng = np.random.default_rng(3)
    values = [blocks_with_offsets(rng) for _ in range(200)]
    by_block = [
        two_sample_test(v[:48], v[48:], null="block", blocks=ids, n_draws=39, seed=i).p_value
        for i, v in enumerate(values)
    ]
    by_point = [two_sample_test(v[:48], v[48:], n_draws=39, seed=i).p_value for i, v in enumerate(values)]
    shares, errors = rejected_shares(np.array(by_block))
    assert (shares <= LEVELS + 2 * errors).all(), shares
    assert np.mean(np.array(by_point) <= 0.05) > 0.3


@pytest.mark.parametrize(("organ", "radius"), [(6, 8), (2, 4), (2, 8), (7, 8)])
def test_the_pixel_null_fails_on_normal_organs(organ, radius, shared_data):
    """Discs of normal liver, kidney and stomach: 5 % should be called different, at least half are."""
    folder = shared_data / "amos_ct"
    image = np.asarray(nib.load(folder / "image.nii.gz").dataobj)
    labels = np.asarray(nib.load(folder / "labels.nii.gz").dataobj)
    inside = np.moveaxis(labels == organ, 2, 0)
    k = int(inside.sum(axis=(1, 2)).argmax())
    tissue = ndimage.binary_erosion(inside[k], iterations=2)
    picture = image[:, :, k]
    across = np.hypot(*np.ogrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    centres = np.argwhere(ndimage.binary_erosion(tissue, across))
    rng = np.random.default_rng(0)
    rejections = 0
    for i in range(40):
        row, column = centres[rng.integers(len(centres))]
        disc = np.zeros_like(tissue)
        disc[row - radius : row + radius + 1, column - radius : column + radius + 1] = across
        result = two_sample_test(picture[disc], picture[tissue & ~disc], n_draws=199, seed=i)
        assert result.engine == "histogram"
        rejections += result.p_value <= 0.05
    assert rejections >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_p_is_uniform_on_exchangeable_data_at_length(name):
    draw, settings = CASES[name]
    shares, errors = rejected_shares(p_values(draw, 2500, n_draws=199, **settings))
    assert (np.abs(shares - LEVELS) <= 3 * errors).all(), shares
