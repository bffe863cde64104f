"""Test the candidates of one tissue against a null made from this scan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from anatrust.rejection.candidates import Components
from anatrust.rejection.comparison import Comparison
from anatrust.rejection.settings import Null
from anatrust.statistics.placement import placement_tests
from anatrust.statistics.result import TestResult
from anatrust.statistics.two_sample import two_sample_test

__all__ = ["candidate_seed", "scan_tests"]

BoolArray = npt.NDArray[np.bool_]
_CAP = 4_000


def candidate_seed(components: Components, position: int, seed: int) -> int:
    """Seed of a candidate's own generator, from its geometry in canonical orientation.

    So its draws depend neither on how the file stores its axes, nor on the other candidates,
    nor on their order.
    """
    candidate = components.candidates[position]
    shape = components.within(position, components.boxes[position])
    place = np.round(candidate.centroid_world, 2) + 0.0
    key = hashlib.sha256(repr((shape.shape, place.tolist())).encode() + np.packbits(shape).tobytes())
    words = np.frombuffer(key.digest(), dtype=np.uint32)
    return int(np.random.SeedSequence([seed, *words.tolist()]).generate_state(1, np.uint64)[0] >> 1)


def scan_tests(
    comparison: Comparison,
    null: Null,
    *,
    n_draws: int,
    n_surrogates: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[int, TestResult]:
    """p-values of all candidates of a tissue that can be compared.

    Parameters
    ----------
    comparison
        The tissue with its features.
    null
        ``"surrogate-max"``, ``"placement"``, ``"block"`` or ``"iid"``.
    n_draws, n_surrogates, seed
        Draws and the scan's seed.
    progress
        Told how many candidates are done; where the null takes all at once, as many as there would be by then.

    Returns
    -------
    dict
        Result by candidate position; those for which :meth:`Comparison.refusal` has a reason
        are missing. With a mixture reference the largest p over the classes: the candidate
        must differ from every one (intersection-union test; Berger 1982).
    """
    members = tuple(p for p in comparison.tissue.members if comparison.refusal(p) is None)
    seeds = {p: candidate_seed(comparison.case.components, p, seed) for p in members}
    if null in ("block", "iid"):
        return {p: _pixels(comparison, p, null, n_draws, seeds[p]) for p in members}
    if len(comparison.classes) == 1:
        domain = comparison.domain(members)
        found = _places(comparison, domain, members, null, n_draws, n_surrogates, seeds, seed, progress)
        return dict(zip(members, found, strict=True))
    results = {}
    for p in members:
        own = comparison.candidate(p)
        against = [
            _places(comparison, part | own, (p,), null, n_draws, n_surrogates, seeds, seed)[0]
            for part in comparison.classes
        ]
        results[p] = _largest(against)
    return results


def _largest(results: Sequence[TestResult]) -> TestResult:
    """The result with the largest p-value, with the largest floor of all."""
    worst = max(results, key=lambda r: (r.p_value, r.abstained is not None))
    if worst.abstained is not None:
        return worst
    return replace(worst, floor=max(r.floor for r in results))


def _places(
    comparison: Comparison,
    domain: BoolArray,
    positions: tuple[int, ...],
    null: Null,
    n_draws: int,
    n_surrogates: int,
    seeds: dict[int, int],
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[TestResult]:
    """Placement or surrogate test of some candidates in one domain."""
    candidates = [comparison.piece(p) for p in positions]
    spacing = comparison.case.components.grid.spacing
    if null == "placement":
        own_seeds = [seeds[p] for p in positions]
        return placement_tests(
            comparison.features,
            domain,
            candidates,
            excluded=comparison.others(positions),
            spacing=spacing,
            n_draws=n_draws,
            seeds=own_seeds,
            seed=seed,
            progress=progress,
        )
    from anatrust.statistics.surrogate import surrogate_max_test

    # Means over places are compared, not distributions: clipping at the percentiles would cut a
    # small bright lesion down to the brightest tissue. Candidates that a gate refused stay in the
    # tissue: taking its oddest places out would make every surrogate too tame.
    image = comparison.case.scan.array[comparison.tissue.box]
    vectors = comparison.features.ndim > image.ndim
    features = comparison.features if vectors else image.astype(np.float32)
    # Of vectors no side is brighter.
    direction = "both" if vectors else comparison.case.settings.direction
    return surrogate_max_test(
        features,
        domain,
        candidates,
        spacing=spacing,
        n_surrogates=n_surrogates,
        direction=direction,
        seed=seed,
        progress=progress,
    )


def _pixels(comparison: Comparison, position: int, null: Null, n_draws: int, seed: int) -> TestResult:
    """Relabel single voxels or blocks of voxels; the largest p over the classes."""
    own = comparison.candidate(position)
    vectors = comparison.features.ndim > own.ndim
    side = max(2, round(float(np.count_nonzero(own)) ** (1 / own.ndim)))
    results = []
    for part in comparison.classes:
        rng = np.random.default_rng(seed)
        first, second = (_some(mask, rng) if vectors else np.flatnonzero(mask) for mask in (own, part))
        flat = comparison.features.reshape(own.size, -1)
        blocks = None
        if null == "block":
            blocks = _blocks(np.concatenate([first, second]), own.shape, side)
        result = two_sample_test(
            flat[first],
            flat[second],
            null="iid" if null == "iid" else "block",
            blocks=blocks,
            n_draws=n_draws,
            seed=seed,
        )
        results.append(result)
    return _largest(results)


def _some(mask: BoolArray, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Flat indices of at most 4 000 voxels of a mask: the paper's cap, needed only for vectors."""
    inside = np.flatnonzero(mask)
    if inside.size <= _CAP:
        return inside
    return np.asarray(np.sort(rng.choice(inside, _CAP, replace=False)), dtype=np.int64)


def _blocks(flat: npt.NDArray[np.int64], shape: tuple[int, ...], side: int) -> npt.NDArray[np.int64]:
    """Block of each voxel: cubes about as big as the candidate, counted from the box's corner."""
    index = np.array(np.unravel_index(flat, shape)) // side
    return np.asarray(np.ravel_multi_index(tuple(index), [n // side + 1 for n in shape]), dtype=np.int64)
