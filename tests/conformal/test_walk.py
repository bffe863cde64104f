"""The graph and its walk: stochastic, bounded, equivariant, and equal to the walk on voxels."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.conformal import graph, kernels
from anatrust.conformal.diffusion import Patches, diffuse, diffuse_lifted
from anatrust.conformal.graph import cosine_neighbours, transition_matrix, volume_neighbours
from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import LabelledCase
from anatrust.conformal.tuning import border_crossing
from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.statistics.array_backend import to_numpy

graphs = st.fixed_dictionaries(
    {
        "nodes": st.integers(1, 60),
        "dimensions": st.integers(1, 8),
        "k": st.integers(1, 70),
        "beta": st.sampled_from([0.0, 1.0, 50.0, 500.0]),
        "self_loops": st.booleans(),
        "symmetry": st.sampled_from(["none", "max", "mean"]),
        "seed": st.integers(0, 1000),
        "kind": st.sampled_from(["random", "constant", "zero", "clusters"]),
    }
)


def features_of(case: dict) -> np.ndarray:
    rng = np.random.default_rng(case["seed"])
    shape = (case["nodes"], case["dimensions"])
    if case["kind"] == "constant":
        return np.ones(shape)
    if case["kind"] == "zero":
        return np.zeros(shape)
    if case["kind"] == "clusters":
        return np.repeat(rng.normal(size=(1, shape[1])), shape[0], 0) * rng.choice([-1, 1], (shape[0], 1))
    return rng.normal(size=shape)


def matrix_of(case: dict):
    neighbours = cosine_neighbours(features_of(case), case["k"])
    return transition_matrix(neighbours, beta=case["beta"], self_loops=case["self_loops"], symmetry=case["symmetry"])


def _on_host(found: graph.Neighbours) -> graph.Neighbours:
    return graph.Neighbours(to_numpy(found.indices), to_numpy(found.cosines))


@given(case=graphs)
@settings(max_examples=150, deadline=None)
def test_every_walk_is_stochastic_and_keeps_range_and_simplex(case: dict) -> None:
    matrix = matrix_of(case)
    assert matrix.shape == (case["nodes"], case["nodes"])
    assert (matrix.data >= 0).all()
    np.testing.assert_allclose(np.asarray(matrix.sum(axis=1)).ravel(), 1, atol=1e-12)
    scores = np.random.default_rng(case["seed"]).dirichlet(np.ones(3), case["nodes"])
    walked = diffuse(scores, matrix, steps=7, laziness=0.3)
    np.testing.assert_allclose(walked.sum(axis=1), 1, atol=1e-9)
    assert (walked >= scores.min(axis=0)).all()
    assert (walked <= scores.max(axis=0)).all()


@given(case=graphs, classes=st.sampled_from([None, *range(1, 12)]), laziness=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=100, deadline=None)
def test_the_compiled_walk_is_the_sparse_product(case: dict, classes: int | None, laziness: float) -> None:
    """Oracle: SciPy's product, step by step, on every graph and any number of classes."""
    matrix = matrix_of(case)
    shape = (case["nodes"],) if classes is None else (case["nodes"], classes)
    scores = np.random.default_rng(case["seed"]).normal(size=shape)
    kept, slow = scores.copy(), scores
    for _ in range(4):
        slow = laziness * slow + (1 - laziness) * (matrix @ slow)
    walked = diffuse(scores, matrix, steps=4, laziness=laziness)
    assert walked.shape == shape
    np.testing.assert_allclose(walked, slow, atol=1e-12)
    np.testing.assert_array_equal(scores, kept)


@given(seed=st.integers(0, 500), steps=st.integers(0, 6), laziness=st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=40, deadline=None)
def test_renumbering_the_nodes_changes_nothing(seed: int, steps: int, laziness: float) -> None:
    rng = np.random.default_rng(seed)
    features, scores, order = rng.normal(size=(30, 5)), rng.random(30), rng.permutation(30)
    walked = diffuse(scores, transition_matrix(cosine_neighbours(features, 6)), steps=steps, laziness=laziness)
    again = diffuse(
        scores[order], transition_matrix(cosine_neighbours(features[order], 6)), steps=steps, laziness=laziness
    )
    np.testing.assert_allclose(again, walked[order], atol=1e-5)


@given(case=graphs, classes=st.sampled_from([None, 1, 3, 5]), laziness=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=60, deadline=None)
def test_arrays_and_tensors_give_the_same_numbers(case: dict, classes: int | None, laziness: float) -> None:
    torch = pytest.importorskip("torch")
    features = features_of(case).astype(np.float32)
    both = [cosine_neighbours(convert(features), case["k"]) for convert in (np.asarray, torch.from_numpy)]
    np.testing.assert_allclose(both[1].cosines.numpy(), both[0].cosines, atol=1e-6)
    alike = [both[0], graph.Neighbours(torch.from_numpy(both[0].indices), torch.from_numpy(both[0].cosines))]
    given_walk = {"beta": case["beta"], "self_loops": case["self_loops"], "symmetry": case["symmetry"]}
    dense, sparse = (transition_matrix(one, **given_walk) for one in alike)
    np.testing.assert_allclose(sparse.to_dense().numpy(), dense.toarray(), rtol=1e-12, atol=1e-300)
    shape = (case["nodes"],) if classes is None else (case["nodes"], classes)
    scores = np.random.default_rng(case["seed"]).random(shape)
    walked = diffuse(torch.from_numpy(scores), sparse, steps=5, laziness=laziness)
    np.testing.assert_allclose(walked.numpy(), diffuse(scores, dense, steps=5, laziness=laziness), atol=1e-12)


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    classes=st.sampled_from([None, 2]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_arrays_and_tensors_are_lifted_alike(shape: list[int], classes: int | None, seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    patches = Patches(shape, [int(v) for v in rng.integers(1, 4, len(shape))])
    found = cosine_neighbours(rng.normal(size=(patches.nodes, 4)), 3)
    walks = [
        transition_matrix(graph.Neighbours(f(found.indices), f(found.cosines))) for f in (np.asarray, torch.tensor)
    ]
    image = rng.random(tuple(shape) if classes is None else (*shape, classes), dtype=np.float32)
    for laziness in (0.0, 0.5):
        lifted = [
            np.asarray(diffuse_lifted(f(image), walk, patches, steps=3, laziness=laziness))
            for f, walk in zip((np.asarray, torch.from_numpy), walks, strict=True)
        ]
        np.testing.assert_allclose(*lifted, atol=1e-12)
    means = patches.average(image)
    np.testing.assert_allclose(patches.average(torch.from_numpy(image)).numpy(), means, atol=1e-12)
    np.testing.assert_array_equal(patches.spread(torch.from_numpy(means)).numpy(), patches.spread(means))


@given(
    nodes=st.integers(2, 50),
    k=st.integers(1, 12),
    halves=st.booleans(),
    edge=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_an_accelerator_keeps_the_same_neighbours(nodes: int, k: int, halves: bool, edge: int, seed: int) -> None:
    """Cosines of exactly -1, 0 and 1, full of ties, in tiles of any size; torch's functions run on the host here."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    features = np.eye(3, dtype=np.float32)[rng.integers(3, size=nodes)] * rng.choice([-1, 0, 1], (nodes, 1))
    slab = nodes // 2 if halves and nodes % 2 == 0 else None
    expected = cosine_neighbours(features, k, slab=slab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_in_host_memory", lambda _: False)
        patch.setattr(graph, "tile_edge", lambda _: edge)
        found = cosine_neighbours(torch.from_numpy(features), k, slab=slab)
    np.testing.assert_array_equal(found.indices.numpy(), expected.indices)
    np.testing.assert_array_equal(found.cosines.numpy(), expected.cosines)


def test_tensors_may_carry_gradients_and_few_bits(rng: np.random.Generator) -> None:
    """An encoder's output as it comes: half precision, outside of `no_grad`."""
    torch = pytest.importorskip("torch")
    features, scores = rng.normal(size=(40, 6)), rng.random((40, 2))
    given_features = torch.tensor(features, dtype=torch.float16, requires_grad=True)
    expected = cosine_neighbours(given_features.detach().numpy(), 5)
    found = cosine_neighbours(given_features, 5)
    np.testing.assert_array_equal(found.indices.numpy(), expected.indices)
    given_scores = torch.tensor(scores, requires_grad=True)
    walked = diffuse(given_scores, transition_matrix(found))
    np.testing.assert_allclose(walked.numpy(), diffuse(scores, transition_matrix(expected)), atol=1e-6)
    lifted = diffuse_lifted(given_scores, transition_matrix(found), Patches((40,), (1,)), laziness=0.0)
    np.testing.assert_allclose(lifted.numpy(), walked.numpy(), atol=1e-12)


@pytest.mark.parametrize("slices", [0, 1])
def test_a_recipe_walks_on_tensors_as_on_arrays(slices: int, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    grid = Grid((12, 10, 6), np.diag([1.0, 1.0, 2.0, 1.0]))
    recipe = ScoreRecipe("graph", {"patch": 2, "k": 7, "laziness": 0.5, "steps": 4, "slices": slices})
    p, features = rng.random(grid.shape), rng.normal(size=(*grid.shape, 5)).astype(np.float32)
    image = np.zeros(grid.shape)
    scores = [recipe.score(p, image, grid, lambda f=f: f) for f in (features, torch.from_numpy(features))]
    assert all(isinstance(score, np.ndarray) for score in scores)
    np.testing.assert_allclose(*scores, atol=1e-6)
    truth = p > 0.5
    crossings = [
        border_crossing(LabelledCase("a", p, image, truth, grid, lambda f=f: f), recipe)
        for f in (features, torch.from_numpy(features))
    ]
    assert crossings[1] == pytest.approx(crossings[0], abs=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_neighbours_are_the_nearest(backend: str, rng: np.random.Generator) -> None:
    features = rng.normal(size=(1500, 12)).astype(np.float32)
    given_features = features
    if backend == "torch":
        torch = pytest.importorskip("torch")
        given_features = torch.from_numpy(features)
    found = _on_host(cosine_neighbours(given_features, 5))
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    expected = np.sort(cosines, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(found.cosines, expected, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, found.indices, 1), expected, atol=1e-5)


@pytest.mark.parametrize(("nodes", "k"), [(1200, 20), (7, 6), (2, 1), (1, 3)])
def test_faiss_finds_the_neighbours_of_the_reference(nodes: int, k: int, rng: np.random.Generator) -> None:
    pytest.importorskip("faiss")
    features = rng.normal(size=(nodes, 16)).astype(np.float32)
    reference, found = (cosine_neighbours(features, k, engine=engine) for engine in ("blocks", "faiss"))
    assert found.indices.shape == (nodes, min(k, nodes - 1))
    np.testing.assert_allclose(found.cosines, reference.cosines, atol=1e-6)
    assert (found.indices != np.arange(nodes)[:, None]).all()
    # Two neighbours may change places where their cosines differ by rounding alone.
    same = np.sort(found.indices) == np.sort(reference.indices)
    assert np.count_nonzero(same) >= 0.999 * same.size
    scores = rng.random(nodes)
    walked = [diffuse(scores, transition_matrix(one)) for one in (reference, found)]
    np.testing.assert_allclose(*walked, atol=1e-4)


def test_faiss_keeps_the_rules_of_the_reference(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    # Twins: the node itself is not always its own first hit, and among equals the lower index stands first.
    twins = np.repeat(rng.normal(size=(30, 4)), 2, axis=0)
    found = cosine_neighbours(twins, 1, engine="faiss").indices.ravel()
    np.testing.assert_array_equal(found, np.arange(60) ^ 1)
    tensors = cosine_neighbours(pytest.importorskip("torch").from_numpy(twins), 1, engine="faiss")
    np.testing.assert_array_equal(tensors.indices.numpy().ravel(), found)
    assert (cosine_neighbours(np.zeros((5, 2)), 2, engine="faiss").cosines == 0).all()
    with pytest.raises(InputError, match="slabs"):
        cosine_neighbours(np.ones((4, 2)), slab=2, engine="faiss")
    sizes = ((32_768, None), (40_000, 200), (40_000, None), (40_000, None, "cuda:0"))
    assert [graph.engine_for(*v) for v in sizes] == ["blocks", "blocks", "faiss", "blocks"]
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert graph.engine_for(40_000, None) == "blocks"
    with pytest.raises(InputError, match="deep"):
        cosine_neighbours(np.ones((4, 2)), engine="faiss")


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_single_nodes_and_broken_features(backend: str) -> None:
    convert = np.asarray if backend == "numpy" else pytest.importorskip("torch").tensor
    assert cosine_neighbours(convert([[1.0, 2.0]]), 20).indices.shape == (1, 0)
    with pytest.raises(InputError, match="NaN"):
        cosine_neighbours(convert([[np.nan, 2.0], [1.0, 1.0]]), 1)
    np.testing.assert_array_equal(to_numpy(cosine_neighbours(convert([[0.0, 0.0], [1.0, 0.0]]), 1).cosines), 0)
    with pytest.raises(InputError, match="shape"):
        cosine_neighbours(convert([1.0, 2.0]), 1)
    with pytest.raises(InputError, match="neighbour"):
        cosine_neighbours(convert([[1.0, 2.0]]), 0)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("slices", "slab", "k"), [(1, 7, 4), (2, 9, 30), (5, 20, 6), (3, 600, 5)])
def test_slabs_hold_neighbours_of_the_slices_beside(
    backend: str, slices: int, slab: int, k: int, rng: np.random.Generator
) -> None:
    features = rng.normal(size=(slices * slab, 6)).astype(np.float32)
    given_features = features if backend == "numpy" else pytest.importorskip("torch").from_numpy(features)
    found = _on_host(cosine_neighbours(given_features, k, slab=slab))
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    cosines, where = unit @ unit.T, np.arange(slices * slab) // slab
    cosines[np.abs(where[:, None] - where) > 1] = -2
    np.fill_diagonal(cosines, -3)
    kept = found.indices.shape[1]
    assert kept == min(k, min(slices, 2) * slab - 1)
    np.testing.assert_allclose(found.cosines, np.sort(cosines, axis=1)[:, ::-1][:, :kept], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, found.indices, 1), found.cosines, atol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_among_equals_the_lower_index_wins(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs make cosines of exactly ±1: neighbours are the first nodes of the same sign, across tiles."""
    monkeypatch.setattr(graph, "tile_edge", lambda _: 512)
    signs = np.random.default_rng(3).choice([-1.0, 1.0], 1300)
    convert = np.asarray if backend == "numpy" else pytest.importorskip("torch").tensor
    found = _on_host(cosine_neighbours(convert(signs[:, None]), 4))
    for node in (0, 5, 511, 512, 1100, 1299):
        alike = [i for i in np.flatnonzero(signs == signs[node]) if i != node]
        assert found.indices[node].tolist() == alike[:4]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_is_cut_across_the_axis_asked_for(axis: int, rng: np.random.Generator) -> None:
    grid = (4, 5, 3)
    features = rng.normal(size=(60, 4))
    found = volume_neighbours(features, grid, axis, 6)
    place = np.indices(grid)[axis].ravel()
    assert (np.abs(place[found.indices] - place[:, None]) <= 1).all()
    assert (found.indices != np.arange(60)[:, None]).all()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = np.where(np.abs(place[:, None] - place) <= 1, unit @ unit.T, -2)
    np.fill_diagonal(cosines, -3)
    np.testing.assert_allclose(found.cosines, np.sort(cosines, axis=1)[:, ::-1][:, :6], atol=1e-6)


def test_isolated_rows_under_a_common_scale_keep_their_value() -> None:
    """With a huge beta the weights of a poorly connected node underflow; it must not turn into NaN."""
    features = np.array([[1.0, 0.0], [1.0, 1e-9], [-1.0, 0.3]])
    matrix = transition_matrix(cosine_neighbours(features, 1), beta=5000.0, symmetry="max")
    np.testing.assert_allclose(np.asarray(matrix.sum(axis=1)).ravel(), 1)
    assert diffuse([0.0, 0.0, 0.7], matrix, steps=3)[2] == pytest.approx(0.7)


@given(
    shape=st.lists(st.integers(1, 11), min_size=1, max_size=3),
    seed=st.integers(0, 500),
    steps=st.integers(0, 5),
    laziness=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    classes=st.sampled_from([None, 1, 3]),
)
@settings(max_examples=80, deadline=None)
def test_the_lifted_walk_equals_the_walk_on_voxels(
    shape: list[int], seed: int, steps: int, laziness: float, classes: int | None
) -> None:
    rng = np.random.default_rng(seed)
    patches = Patches(shape, [int(v) for v in rng.integers(1, 5, len(shape))])
    matrix = transition_matrix(cosine_neighbours(rng.normal(size=(patches.nodes, 4)), 3), beta=5.0)
    image = rng.random(tuple(shape) if classes is None else (*shape, classes))
    lifted = diffuse_lifted(image, matrix, patches, steps=steps, laziness=laziness)
    slow = image
    for _ in range(steps):
        slow = laziness * slow + (1 - laziness) * patches.spread(matrix @ patches.average(slow))
    np.testing.assert_allclose(lifted, slow, atol=1e-12)
    assert lifted.shape == image.shape


def test_whole_numbers_are_averaged_too() -> None:
    matrix = transition_matrix(cosine_neighbours(np.eye(2), 1))
    walked = diffuse_lifted(np.array([0, 1, 1, 1], dtype=np.uint8), matrix, Patches((4,), (2,)), steps=1, laziness=0)
    assert walked.tolist() == [1, 1, 0.5, 0.5]


def test_compiled_loops_say_what_their_source_says(rng: np.random.Generator) -> None:
    tile = rng.integers(0, 4, (6, 6)).astype(np.float32)
    for first, second in ((0, 0), (0, 6)):
        lists = [(np.zeros((12, 3), np.int64), np.full((12, 3), -1, np.float32)) for _ in range(2)]
        kernels._merge(tile, first, second, *lists[0])
        kernels._merge.py_func(tile, first, second, *lists[1])
        np.testing.assert_array_equal(lists[0][0], lists[1][0])
        np.testing.assert_array_equal(lists[0][1], lists[1][1])
    row = (np.array([[7, 8, 9]]), np.array([[0.9, 0.5, 0.1]], np.float32))
    kernels._insert.py_func(*row, 0, 4, np.float32(0.5))
    assert row[0].tolist() == [[7, 8, 4]]
    kernels._insert.py_func(*row, 0, 5, np.float32(0.95))
    assert row[0].tolist() == [[5, 7, 8]]
    # Made symmetric, nodes have even and odd numbers of neighbours.
    matrix = transition_matrix(cosine_neighbours(rng.normal(size=(9, 3)), 3), symmetry="mean")
    assert {int(n) % 2 for n in np.diff(matrix.indptr)} == {0, 1}
    pointers, columns = matrix.indptr.astype(np.uint32), matrix.indices.astype(np.uint32)
    loop = kernels._steps_of_one
    for classes in (1, 4, 6, 7):
        scores = rng.random((9, classes))
        both = [
            f(pointers, columns, matrix.data, scores.copy(), 3, 0.2) for f in (kernels._steps, kernels._steps.py_func)
        ]
        np.testing.assert_allclose(*both, atol=1e-14)
    one = [f(pointers, columns, matrix.data, scores[:, 0].copy(), 3, 0.2) for f in (loop, loop.py_func)]
    np.testing.assert_allclose(one[0], both[0][:, 0], atol=1e-14)
    np.testing.assert_allclose(*one, atol=1e-14)
    patches = Patches((3, 5, 4), (2, 2, 3))
    image, total = rng.random((3, 5, 4, 2)), np.zeros((2, 3, 2, 2))
    kernels._sums.py_func(image, patches._owners, total)
    np.testing.assert_allclose((total / patches._counts).reshape(patches.nodes, 2), patches.average(image))
    for kept in (0.0, 0.5):
        lift = (image, total, rng.random(total.shape), patches._owners, kept, (0.1, 0.8))
        np.testing.assert_allclose(kernels._lift(*lift), kernels._lift.py_func(*lift))


def test_averaging_undoes_spreading(rng: np.random.Generator) -> None:
    patches = Patches((7, 9, 5), (2, 4, 3))
    values = rng.random((patches.nodes, 2))
    np.testing.assert_allclose(patches.average(patches.spread(values)), values, atol=1e-14)


def test_walks_that_make_no_sense_are_refused() -> None:
    one = transition_matrix(cosine_neighbours(np.ones((3, 1)), 1))
    for call in (
        lambda: diffuse(np.ones(3), one, steps=-1),
        lambda: diffuse(np.ones(3), one, laziness=1.5),
        lambda: diffuse(np.ones(4), one),
        lambda: diffuse_lifted(np.ones((4, 4)), one, Patches((3, 4), (2, 2))),
        lambda: Patches((3, 3), (2,)),
        lambda: Patches((3, 3), (2, 0)),
        lambda: Patches((3, 3, 3, 3), (1, 1, 1, 1)),
        lambda: cosine_neighbours(np.ones((5, 2)), 1, slab=2),
        lambda: cosine_neighbours(np.ones((4, 2)), 1, slab=0),
        lambda: transition_matrix(cosine_neighbours(np.ones((3, 1)), 1), beta=-1),
        lambda: transition_matrix(cosine_neighbours(np.ones((3, 1)), 1), symmetry="both"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError):
            call()
