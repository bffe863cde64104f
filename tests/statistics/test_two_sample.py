import subprocess
import sys

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.statistics.kernels import Kernel, kernel_ladder, median_bandwidth
from anatrust.statistics.mmd import mmd2_unbiased
from anatrust.statistics.two_sample import two_sample_test

torch = pytest.importorskip("torch")


def test_a_clear_difference_is_found_at_the_floor(rng):
    result = two_sample_test(rng.normal(0, 1, (60, 2)), rng.normal(2, 1, (200, 2)), n_draws=199)
    assert result.p_value == result.floor == 1 / 200
    assert (result.n_draws, result.null, result.engine, result.abstained) == (199, "iid", "matrix", None)
    assert "invalid on images" in result.valid_for


def test_the_statistic_is_the_definition_in_every_engine(rng):
    x, y = rng.integers(0, 90, 80), rng.integers(10, 100, 150)
    kernel = Kernel("gaussian", median_bandwidth(np.concatenate([x, y])))
    expected = mmd2_unbiased(x, y, kernel)
    results = {e: two_sample_test(x, y, engine=e) for e in ("auto", "histogram", "matrix", "embedding")}
    for result in results.values():
        assert result.statistic == pytest.approx(expected, abs=1e-9)
    assert results["auto"] == results["histogram"]
    # The histogram engine has its own draws; the other two share theirs.
    assert results["matrix"].p_value == results["embedding"].p_value
    assert results["matrix"].p_value == pytest.approx(results["histogram"].p_value, abs=0.06)


@pytest.mark.parametrize("engine", ["histogram", "matrix", "embedding"])
def test_the_p_value_counts_the_observation(engine):
    # Every relabelling of two equal pairs that keeps them apart ties with the observed one.
    result = two_sample_test([0, 0], [1, 1], engine=engine, n_draws=2000)
    assert result.p_value == pytest.approx(1 / 3, abs=0.04)


def test_swapping_the_samples_gives_the_same_test(rng):
    x, y = rng.normal(size=(30, 2)), rng.normal(0.4, 1, size=(50, 2))
    for engine in ("matrix", "embedding"):
        a, b = two_sample_test(x, y, engine=engine), two_sample_test(y, x, engine=engine)
        assert a.statistic == pytest.approx(b.statistic, abs=1e-9)
        assert a.p_value == pytest.approx(b.p_value, abs=0.05)
    graded = two_sample_test(np.arange(9), np.arange(3)), two_sample_test(np.arange(3), np.arange(9))
    assert graded[0].p_value == pytest.approx(graded[1].p_value, abs=0.05)


def test_auto_chooses_by_levels_and_size(rng, monkeypatch):
    assert two_sample_test(rng.integers(0, 256, 300), rng.integers(0, 256, 900), n_draws=9).engine == "histogram"
    assert two_sample_test(rng.normal(size=30), rng.normal(size=30), n_draws=9).engine == "matrix"
    assert two_sample_test(rng.integers(0, 9, (30, 2)), rng.integers(0, 9, (30, 2)), n_draws=9).engine == "matrix"
    monkeypatch.setattr("anatrust.statistics.two_sample._MAX_MATRIX_POINTS", 50)
    assert two_sample_test(rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), n_draws=9).engine == "embedding"


def test_a_seed_decides_everything(rng):
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(60, 3))
    assert two_sample_test(x, y, seed=4) == two_sample_test(x, y, seed=4)
    assert len({two_sample_test(x, y, seed=s).p_value for s in range(5)}) > 1


def test_several_kernels_find_what_one_misses(rng):
    # A ripple of the density, far narrower than the median distance.
    x = rng.normal(size=(400, 1))
    y = np.round(rng.normal(size=(400, 1)) * 4) / 4 + rng.normal(0, 0.03, (400, 1))
    alone = two_sample_test(x, y, n_draws=199)
    ladder = kernel_ladder(np.concatenate([x, y]), factors=(0.05, 0.25, 1.0))
    together = two_sample_test(x, y, kernels=ladder, n_draws=199)
    assert alone.p_value > 0.05
    assert together.p_value <= 0.01
    assert together.statistic > 2.0


@pytest.mark.parametrize("device_array", [torch.tensor, np.asarray])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_tensors_are_accepted_and_give_the_same(device_array, shape, rng):
    x, y = rng.normal(size=(700, *shape)), rng.normal(0.1, 1, (600, *shape))
    expected = two_sample_test(x, y, n_draws=99)
    result = two_sample_test(device_array(x), device_array(y), n_draws=99)
    assert result.p_value == expected.p_value
    assert result.statistic == pytest.approx(expected.statistic, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1.0], [1.0, 2.0], "a sample has 1 point:"),
        ([1.0, 2.0], [], "a sample has 0 points"),
        ([1.0, np.nan], [1.0, 2.0], "NaN"),
        ([1.0, 2.0], [1.0, np.inf], "NaN or infinite"),
        ([5.0, 5.0], [5.0, 5.0, 5.0], "all features are equal"),
        ([[5.0, 1.0]] * 3, [[5.0, 1.0]] * 2, "all features are equal"),
    ],
)
def test_degenerate_samples_abstain_with_a_reason(x, y, words):
    result = two_sample_test(x, y)
    assert words in result.abstained
    assert result.p_value == 1.0


def test_samples_of_two_different_constants_can_be_told_apart():
    assert two_sample_test([1.0] * 20, [2.0] * 20).p_value == 0.001


def blocks_of(rng, shift, side=5, first=8, total=40):
    """Correlated blocks: a common offset a block, and the first ones shifted."""
    offset = rng.normal(size=total) + shift * (np.arange(total) < first)
    values = np.repeat(offset, side) + rng.normal(0, 0.3, total * side)
    ids = np.repeat(np.arange(total), side)
    return values[ids < first], values[ids >= first], ids


@pytest.mark.parametrize("engine", ["auto", "histogram", "embedding"])
def test_the_block_null_moves_blocks(engine, rng):
    x, y, ids = blocks_of(rng, shift=4.0)
    result = two_sample_test(x, y, null="block", blocks=ids, engine=engine, n_draws=199)
    assert result.p_value == result.floor == 1 / 200
    assert "approximate" in result.valid_for


def test_the_floor_of_the_block_null_knows_how_few_arrangements_there_are(rng):
    x, y, ids = blocks_of(rng, shift=9.0, first=1, total=25)
    result = two_sample_test(x, y, null="block", blocks=ids, n_draws=999)
    assert result.floor == 1 / 25
    assert 1 / 25 <= result.p_value < 0.1


def test_few_blocks_abstain(rng):
    x, y, ids = blocks_of(rng, shift=1.0, first=4, total=19)
    assert "19 blocks" in two_sample_test(x, y, null="block", blocks=ids).abstained


def test_blocks_of_unequal_size_never_divide_by_zero(rng):
    ids = np.concatenate([[0, 0], np.arange(1, 30)])
    result = two_sample_test(rng.normal(size=2), rng.normal(size=29), null="block", blocks=ids, n_draws=99)
    assert result.abstained is None
    # Single points cannot form a sample: these draws count as exceedances.
    assert result.p_value > 0.9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"null": "bootstrap"}, "no null called"),
        ({"engine": "fast"}, "no engine is called"),
        ({"n_draws": 0}, "at least 1 null draw"),
        ({"kernels": ()}, "kernels is empty"),
        ({"null": "block"}, "pass blocks"),
        ({"null": "block", "blocks": np.zeros(3, dtype=int)}, "8 block ids"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        two_sample_test(np.arange(4), np.arange(4), **arguments)


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="cannot be compared"):
        two_sample_test(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(InputError, match="1-D features"):
        two_sample_test(np.eye(3), np.eye(3) + 1, engine="histogram")


def test_importing_the_tests_is_light():
    code = (
        "import sys, anatrust.statistics.two_sample, anatrust.statistics.multiple_testing;"
        "print(sorted({'numba', 'scipy', 'torch', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
