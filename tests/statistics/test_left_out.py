"""What candidates leave out of their tissue: all at once, and as a mask for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.statistics import left_out
from anatrust.statistics.left_out import ClaimedTissue
from anatrust.statistics.pieces import Claims, Piece
from anatrust.statistics.placement import placement_tests
from anatrust.statistics.places import Shape, Tissue, TissueField, run_lengths


def crowd(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A tissue with holes and some small candidates in it, close together."""
    domain = rng.random(shape) > 0.1
    candidates: list[np.ndarray] = []
    taken = np.zeros(shape, dtype=bool)
    for _ in range(count):
        corner = [int(rng.integers(0, max(n - 2, 1))) for n in shape]
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(slice(c, c + int(rng.integers(1, 4))) for c in corner)] = True
        if not (mask & taken).any():
            taken |= mask
            candidates.append(mask)
    return domain | taken, candidates


def piece_of(mask: np.ndarray) -> Piece:
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(mask))
    return Piece(mask.shape, tuple(edge.start for edge in box), mask[box])


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_claims_give_what_masks_give(seed: int, volume: bool, vectors: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (5, 9, 11) if volume else (14, 17)
    domain, candidates = crowd(rng, shape, 6)
    wide = [ndimage.binary_dilation(mask, iterations=int(rng.integers(1, 3))) for mask in candidates]
    counts = np.sum(wide, axis=0, dtype=np.uint16)
    masks = [(counts - own > 0) & ~mask for own, mask in zip(wide, candidates, strict=True)]
    features = rng.integers(0, 40, (*shape, 2) if vectors else shape) / 40
    given_: dict = {"n_draws": 30, "seeds": list(range(len(candidates))), "seed": seed}
    reference = placement_tests(features, domain, candidates, excluded=masks, **given_)
    claims = Claims(counts, [piece_of(own) for own in wide])
    found = placement_tests(features, domain, [piece_of(mask) for mask in candidates], excluded=claims, **given_)
    for one, other in zip(found, reference, strict=True):
        # Sums over what is left out run in another order.
        assert one.statistic == pytest.approx(other.statistic, rel=1e-4, abs=1e-6, nan_ok=True)
        assert (one.p_value, one.floor, one.n_draws, one.abstained) == (
            other.p_value,
            other.floor,
            other.n_draws,
            other.abstained,
        )


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_each_candidate_finds_its_tissue_and_leaves_the_next_its_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (3, 6, 10)
    domain, candidates = crowd(rng, shape, 5)
    wide = [ndimage.binary_dilation(mask, iterations=1) for mask in candidates]
    counts = np.sum(wide, axis=0, dtype=np.uint16)
    field = TissueField.of(np.zeros(shape), domain)
    shared = ClaimedTissue.of(field, Claims(counts, [piece_of(own) for own in wide]))
    before = shared.base.right.copy()
    for number, (own, mask) in enumerate(zip(wide, candidates, strict=True)):
        gone = field.arranged(domain & (counts - own > 0) & ~mask)
        expected = Tissue.of(field.domain & ~gone)
        with shared.of_candidate(number, field.voxels(mask, "candidate")) as (tissue, removed):
            assert np.array_equal(tissue.right, expected.right)
            assert tissue.size == expected.size
            assert np.array_equal(tissue.numbered(np.arange(tissue.size)), expected.voxels)
            drawn = rng.integers(tissue.size, size=20)
            assert np.array_equal(tissue.numbered(drawn), expected.voxels[drawn])
            runs = [] if removed is None else zip(removed.anchor + removed.offsets, removed.lengths, strict=True)
            left = np.array([v for start, length in runs for v in range(start, start + length)], dtype=np.int64)
            assert np.array_equal(left, np.flatnonzero(gone))
            assert removed is None or removed.size == left.size
        assert np.array_equal(shared.base.right, before)


def test_the_tissue_is_given_back_after_an_error() -> None:
    domain, mask = np.ones((6, 8), dtype=bool), np.zeros((6, 8), dtype=bool)
    mask[2:4, 2:4] = True
    field = TissueField.of(np.zeros(mask.shape), domain)
    shared = ClaimedTissue.of(field, Claims(mask.astype(np.uint8), [piece_of(mask)]))
    before = shared.base.right.copy()

    def stopped() -> None:
        with shared.of_candidate(0, field.voxels(mask, "candidate")) as (tissue, removed):
            assert removed is None
            assert tissue.size == mask.size
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert np.array_equal(shared.base.right, before)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_compiled_functions_equal_their_source_and_their_meaning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, whole = 7, rng.random(5 * 7) > 0.3
    held = np.flatnonzero(whole)
    back = np.sort(rng.choice(held, rng.integers(0, held.size + 1), replace=False)).astype(np.int64)
    base = whole.copy()
    base[back] = False
    start, full = (run_lengths(mask.view(np.uint8), row) for mask in (base, whole))
    for join, cut in (
        (left_out.join_voxels, left_out.cut_voxels),
        (left_out.join_voxels.py_func, left_out.cut_voxels.py_func),
    ):
        right = start.copy()
        join(right, back, row)
        assert np.array_equal(right, full)
        cut(right, back, row)
        assert np.array_equal(right, start)
    runs = Shape.of(held, np.array([1, 5, 7])) if held.size else None
    if runs is None:
        return
    order = np.argsort(runs.offsets)
    given_ = (runs.anchor + runs.offsets[order], runs.lengths[order], back)
    for function in (left_out.runs_without, left_out.runs_without.py_func):
        starts, lengths = function(*given_)
        left = [v for a, n in zip(starts, lengths, strict=True) for v in range(a, a + n)]
        assert left == np.flatnonzero(base).tolist()


def test_a_tissue_of_added_voxels_alone_is_numbered_too() -> None:
    tissue = Tissue.of(np.zeros((1, 2, 4), dtype=bool))
    tissue = Tissue(tissue.shape, tissue.voxels, tissue.right, np.array([2, 5]))
    assert tissue.numbered(np.array([1, 0, 1])).tolist() == [5, 2, 5]


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"leaves its grid"):
        Piece((4, 5), (3, 0), np.ones((2, 2), dtype=bool))
    mask = np.ones((2, 2), dtype=bool)
    claims = Claims(np.ones((3, 3), np.uint8), [Piece.of(mask)])
    with pytest.raises(InputError, match=r"claims have shape \(3, 3\), the domain \(2, 2\)"):
        placement_tests(np.zeros((2, 2)), mask, [mask], excluded=claims, seed=0)
