"""The contract every segmenter keeps, as one battery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import pytest

from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical_grid
from anatrust.image.region import Region, crop_grid
from anatrust.image.volumes import Mask, ProbabilityMap, Scan
from anatrust.models.protocols import Segmenter
from anatrust.models.segmentation import Prompt

Battery = Callable[..., None]


def scan_and_prompt(ndim: int, seed: int = 0, target: str = "liver tumour") -> tuple[Scan, Prompt]:
    """A smooth bright lesion in a noisy organ, on an oblique-free grid with unlike spacings."""
    rng = np.random.default_rng(seed)
    shape = (44, 38, 22)[:ndim]
    index = np.indices(shape)
    image = rng.normal(100, 8, shape)
    image[sum((i - n / 2) ** 2 for i, n in zip(index, shape, strict=True)) < 30] += 60
    organ = sum(((i - n / 2) / (0.42 * n)) ** 2 for i, n in zip(index, shape, strict=True)) < 1
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    grid = Grid(shape, affine)
    scan = Scan(image.astype(np.float32), grid, "CT", "HU")
    return scan, Prompt(target, (target,), Mask(organ, grid))


def stored_otherwise(scan: Scan, prompt: Prompt, order: Sequence[int], flips: Sequence[int]) -> tuple[Scan, Prompt]:
    """The same patient with other axes in the file."""
    grid = scan.grid
    affine = grid.affine.copy()
    affine[:3, : grid.ndim] = grid.affine[:3, list(order)]
    shape = tuple(grid.shape[axis] for axis in order)
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
        affine[:3, axis] *= -1
    other = Grid(shape, affine)
    moved = [np.flip(a.transpose(order), flips) for a in (scan.array, prompt.organ.array)]  # type: ignore[union-attr]
    return Scan(moved[0], other, scan.modality, scan.units), Prompt(prompt.target, prompt.words, Mask(moved[1], other))


def region_in(scan: Scan, region: Region, other: Scan) -> Region:
    """The same box of the patient on another grid."""
    corners = [region.start, tuple(v - 1 for v in region.stop)]
    found = np.rint(other.grid.to_index(scan.grid.to_world(corners))).astype(int)
    return Region(tuple(found.min(axis=0)), tuple(found.max(axis=0) + 1))


def placed(map_: ProbabilityMap) -> dict[tuple[float, ...], float]:
    """Probability by place in the patient, rounded to a micrometre."""
    index = np.argwhere(np.ones(map_.grid.shape, bool))
    world = np.round(map_.grid.to_world(index), 3)
    return dict(zip(map(tuple, world.tolist()), map_.array[0].ravel().tolist(), strict=True))


def battery(segmenter: Segmenter, *, target: str = "liver tumour", tolerance: float = 1e-4) -> None:
    assert isinstance(segmenter, Segmenter)
    able = segmenter.capabilities
    assert segmenter.identity.startswith(segmenter.name)
    for ndim in able.ndim:
        scan, prompt = scan_and_prompt(ndim, target=target)
        region = Region((4, 3, 2)[:ndim], (40, 35, 19)[:ndim])
        found = segmenter.segment(scan, prompt, region)
        assert found.array.shape == (1, *region.shape)
        assert found.array.dtype == np.float32
        assert found.grid.same_as(crop_grid(scan.grid, region))
        if not able.probabilities:
            assert set(np.unique(found.array)) <= {0.0, 1.0}
        again = segmenter.segment(scan, prompt, region)
        assert np.array_equal(found.array, again.array), "the same question has the same answer"
        assert scan.array.flags.writeable is False
        whole = segmenter.segment(scan, prompt, Region.whole(scan.grid.shape))
        assert whole.grid.same_as(scan.grid)
        if able.context == "scan":
            assert np.array_equal(whole.array[(0, *region.slices)], found.array[0]), "it sees the whole scan"
        here = placed(found)
        for order in list(permutations(range(ndim)))[1:4]:
            other, asked = stored_otherwise(scan, prompt, order, (0,) if order[0] else (ndim - 1,))
            assert canonical_grid(other.grid).same_as(scan.grid)
            there = placed(segmenter.segment(other, asked, region_in(scan, region, other)))
            assert there.keys() == here.keys()
            worst = max(abs(there[place] - here[place]) for place in here)
            assert worst <= tolerance, f"the axes of the file change the answer by {worst:g}"


@pytest.fixture
def check_segmenter() -> Battery:
    """The contract of :class:`anatrust.models.protocols.Segmenter`."""
    return battery


@pytest.fixture
def lesion_scan() -> Callable[..., tuple[Scan, Prompt]]:
    """Makes a scan with a bright lesion, and the prompt for it."""
    return scan_and_prompt
