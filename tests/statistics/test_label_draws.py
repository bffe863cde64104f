import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.statistics.label_draws import block_design, block_labels, permuted_labels


def test_every_point_is_equally_likely_and_the_first_row_is_observed(rng):
    labels = permuted_labels(3, 7, 5000, rng)
    assert labels[0].tolist() == [1] * 3 + [0] * 7
    assert (labels.sum(axis=1) == 3).all()
    np.testing.assert_allclose(labels[1:].mean(axis=0), 0.3, atol=0.03)
    pairs = (labels[1:].T.astype(float) @ labels[1:]) / 5000
    np.testing.assert_allclose(pairs[~np.eye(10, dtype=bool)], 3 * 2 / (10 * 9), atol=0.02)


def test_draws_depend_on_the_seed_only():
    a, b, c = (permuted_labels(5, 20, 9, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_blocks_are_cut_at_the_border_of_the_samples():
    design = block_design([4, 4, 2, 4, 2, 9], m=3)
    assert design.count == 5
    assert design.arrangements == 10
    point_labels = design.first[design.index]
    assert point_labels.tolist() == [True, True, True, False, False, False]


def test_whole_blocks_change_sample(rng):
    design = block_design(np.repeat(np.arange(30), 4), m=24)
    labels = block_labels(design, 200, rng)
    assert labels[0].tolist() == design.first.tolist()
    assert (labels.sum(axis=1) == 6).all()
    np.testing.assert_allclose(labels[1:].mean(axis=0), 0.2, atol=0.12)
    points = labels[:, design.index].reshape(201, 30, 4)
    assert (points == points[:, :, :1]).all()


def test_block_ids_must_be_integers_in_a_row():
    for bad in (np.zeros((2, 2), dtype=int), np.zeros(4)):
        with pytest.raises(InputError, match="integer ids"):
            block_design(bad, 2)
