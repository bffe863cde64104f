"""What part of a scan the page shows: a box around the body, coarsened until it is small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan

__all__ = ["Region", "Shown", "body_threshold", "choose_shown", "in_hounsfield"]

_CT_AIR, _CT_METAL, _CT_SKIN = -1024.0, 3071.0, -500.0
# Some scanners store -2000 or -3024 outside their circle.
_LEAST_AIR = -3100.0
_MARGIN_MM = 8.0
_FOCUS_MARGIN_MM = 60.0
# Browsers promise 3-D textures of 2048; beyond 1024 a page gains nothing on a screen.
_LONGEST_AXIS = 1024
_MOST_VOXELS = 16_000_000
_LEVELS = (4096, 1024, 256)
_STRETCH = 4.0


@dataclass(frozen=True)
class Region:
    """A box of the scan's grid, and by how much each axis is coarsened.

    ``start`` and ``stop`` are voxel indices (stop excluded); ``factor`` voxels along an axis
    become one.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    factor: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels shown along each axis."""
        return tuple(-(-(b - a) // f) for a, b, f in zip(self.start, self.stop, self.factor, strict=True))

    def grid(self, grid: Grid) -> Grid:
        """The grid of what is shown; world coordinates stay those of the whole scan."""
        step = np.eye(4)
        for axis, (start, factor) in enumerate(zip(self.start, self.factor, strict=True)):
            step[axis, axis] = factor
            step[axis, 3] = start + (factor - 1) / 2
        return Grid(self.shape, grid.affine @ step, grid.spacing_known)

    def mean(self, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The box with block means (float32); edges are repeated to fill the last block."""
        blocks = self._blocks(array, "edge")
        return np.asarray(blocks.mean(axis=self._inner, dtype=np.float32))

    def any(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The box of a mask; a block is in it if any voxel is, so that no lesion vanishes."""
        return np.asarray(self._blocks(mask, "constant").any(axis=self._inner))

    @property
    def _inner(self) -> tuple[int, ...]:
        return tuple(range(1, 2 * len(self.start), 2))

    def _blocks(self, array: npt.NDArray[Any], fill: Any) -> npt.NDArray[Any]:
        box = array[tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))]
        short = [(0, n * f - size) for n, f, size in zip(self.shape, self.factor, box.shape, strict=True)]
        if any(end for _, end in short):
            box = np.pad(box, short, mode=fill)
        return box.reshape([v for n, f in zip(self.shape, self.factor, strict=True) for v in (n, f)])


@dataclass(frozen=True, eq=False)
class Shown:
    """The grey values a page shows.

    ``levels`` are whole numbers (uint8 or int16); a grey value is ``levels * step + low``.
    ``notes`` say in words what was cut off, coarsened or rounded; empty if nothing was.
    """

    levels: npt.NDArray[Any]
    step: float
    low: float
    region: Region
    grid: Grid
    notes: tuple[str, ...]

    def values(self) -> npt.NDArray[np.float32]:
        """The grey values as shown, float32."""
        return self.levels.astype(np.float32) * np.float32(self.step) + np.float32(self.low)


def in_hounsfield(scan: Scan) -> bool:
    """Whether grey values can be windowed as Hounsfield units.

    DICOM says so; of another CT it is believed where air has the value of air. Only what is shown
    depends on it.
    """
    if scan.modality != "CT":
        return False
    return scan.units == "HU" or (scan.units == "" and _LEAST_AIR <= float(scan.array.min()) < _CT_SKIN)


def body_threshold(scan: Scan) -> float:
    """Grey value above which a voxel is taken for body when the page decides what to show.

    Generous on purpose: too much air in the page costs little, a cut patient costs trust.
    """
    if in_hounsfield(scan):
        return _CT_SKIN
    low, high = np.percentile(_sample(scan.array), (0.5, 99.5))
    return float(low + 0.02 * (high - low))


def choose_shown(
    scan: Scan,
    focus: npt.NDArray[np.bool_],
    *,
    budget: int,
    size_of: Callable[[npt.NDArray[Any]], int],
) -> Shown:
    """The finest view of a scan whose volume fits a budget.

    Tried in turn: the body in 4096, 1024 and 256 grey levels; the surroundings of the
    candidates likewise, where they are much smaller than the body; then ever coarser voxels.

    Parameters
    ----------
    scan
        The scan, 2-D or 3-D.
    focus
        Boolean array on its grid: voxels that must be shown (the candidates).
    budget
        Bytes the volume may take.
    size_of
        Gives the bytes an array of levels takes in the page.

    Raises
    ------
    InputError
        If even the coarsest view does not fit.
    """
    regions = _regions(scan, focus)
    whole, last = regions[0], (0, 1.0)
    for region in _coarser(regions, scan.grid):
        if max(region.shape) > _LONGEST_AXIS * (2 if scan.grid.ndim == 2 else 1):
            continue
        if int(np.prod(region.shape)) > _MOST_VOXELS or int(np.prod(region.shape)) * 0.15 > budget:
            continue
        values = region.mean(scan.array)
        for count in _LEVELS:
            levels, step, low, clipped = _quantise(values, scan, count)
            last = (int(np.prod(region.shape)), step)
            if _estimate(levels, size_of) > 1.05 * budget or size_of(levels) > budget:
                continue
            notes = _notes(scan, whole, region, step if count < _LEVELS[0] else 0.0, clipped, region not in regions)
            return Shown(levels, step, low, region, region.grid(scan.grid), notes)
    raise InputError(f"the page's budget of {budget} bytes holds no view of the scan ({last[0]} voxels): raise it")


def _sample(array: npt.NDArray[Any], target: int = 400_000) -> npt.NDArray[Any]:
    """About ``target`` voxels, taken regularly."""
    stride = max(1, int((array.size / target) ** (1 / array.ndim)))
    return array[tuple(slice(None, None, stride) for _ in array.shape)]


def _box(mask: npt.NDArray[np.bool_], share: float = 0.0) -> tuple[tuple[int, int], ...] | None:
    """First and last index (excluded) of the planes along each axis holding more than ``share`` of True."""
    edges = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        planes = np.flatnonzero(mask.mean(axis=others) > share)
        if not planes.size:
            return None
        edges.append((int(planes[0]), int(planes[-1]) + 1))
    return tuple(edges)


def _grow(box: tuple[tuple[int, int], ...], grid: Grid, margin: float) -> tuple[tuple[int, int], ...]:
    steps = [int(np.ceil(margin / s)) for s in grid.spacing]
    return tuple((max(0, a - m), min(n, b + m)) for (a, b), m, n in zip(box, steps, grid.shape, strict=True))


def _regions(scan: Scan, focus: npt.NDArray[np.bool_]) -> list[Region]:
    """The body, and the surroundings of the candidates if they are less than half of it."""
    grid, ones = scan.grid, (1,) * scan.grid.ndim
    full = tuple((0, n) for n in grid.shape)
    body = full if grid.ndim == 2 else _box(scan.array > body_threshold(scan), share=0.002) or full
    spots = _box(focus)
    if spots is not None:
        body = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(body, spots, strict=True))
    body = _grow(body, grid, _MARGIN_MM) if grid.ndim == 3 else body
    regions = [Region(tuple(a for a, _ in body), tuple(b for _, b in body), ones)]
    if spots is not None and grid.ndim == 3:
        near = _grow(spots, grid, _FOCUS_MARGIN_MM)
        near = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(near, body, strict=True))
        region = Region(tuple(a for a, _ in near), tuple(b for _, b in near), ones)
        if np.prod(region.shape) < 0.5 * np.prod(regions[0].shape):
            regions.append(region)
    return regions


def _coarser(regions: list[Region], grid: Grid) -> Iterator[Region]:
    """The regions as they are, then the last (smallest) one with ever larger voxels."""
    yield from regions
    region = regions[-1]
    order, _ = grid.canonical_axes()
    while max(region.shape) > 1:
        edges = {a: grid.spacing[a] * region.factor[a] for a in order if region.shape[a] > 1}
        fine = [a for a, edge in edges.items() if edge <= 1.01 * min(edges.values())]
        # The slice axis alone and first among equals: axial planes are what people read, and
        # their two axes stay alike.
        doubled = fine[-1:] if grid.ndim == 3 and fine[-1] == order[2] else fine
        factor = tuple(f * 2 if a in doubled else f for a, f in enumerate(region.factor))
        region = Region(region.start, region.stop, factor)
        yield region


def _quantise(
    values: npt.NDArray[np.float32], scan: Scan, count: int
) -> tuple[npt.NDArray[Any], float, float, tuple[float, float] | None]:
    """Whole levels, step, lowest value, and the range beyond which values were clipped."""
    bottom, top = float(values.min()), float(values.max())
    low, high = bottom, top
    if in_hounsfield(scan):
        low, high = max(low, _CT_AIR), min(high, _CT_METAL)
    elif scan.array.dtype.kind == "f" or top - bottom >= count:
        # A few extreme voxels must not take the levels from all others.
        sample = _sample(values)
        tails = float(np.percentile(sample, 0.01, method="higher")), float(np.percentile(sample, 99.99, method="lower"))
        if top - bottom > _STRETCH * (tails[1] - tails[0]) > 0:
            low, high = tails
    step = (high - low) / (count - 1) or 1.0
    if scan.array.dtype.kind in "iu":
        # Whole grey values stay exact while there are levels enough for them.
        step = float(max(1, np.ceil(step)))
    levels = np.rint((np.clip(values, low, high) - low) / step)
    clipped = (low, high) if bottom < low - step or top > high + step else None
    return levels.astype(np.uint8 if levels.max() < 256 else np.int16), step, low, clipped


def _estimate(levels: npt.NDArray[Any], size_of: Callable[[npt.NDArray[Any]], int]) -> float:
    """Bytes, guessed from every eighth plane: sparing a whole compression where it cannot fit."""
    part = levels[..., ::8] if levels.ndim == 3 else levels
    return size_of(np.ascontiguousarray(part)) * levels.size / part.size


def _notes(
    scan: Scan, body: Region, region: Region, step: float, clipped: tuple[float, float] | None, coarse: bool
) -> tuple[str, ...]:
    grid, notes = scan.grid, []
    unit = f" {scan.units}" if scan.units else ""
    if (region.start, region.stop) != (body.start, body.stop):
        notes.append("Only the surroundings of the candidates are shown; the whole scan was judged.")
    if coarse:
        edges = " × ".join(f"{s:.3g}" for s in region.grid(grid).spacing)
        was = " × ".join(f"{s:.3g}" for s in grid.spacing)
        notes.append(
            f"Voxels are averaged to {edges} {grid.unit} for display (the scan has {was} {grid.unit}); "
            "outlines keep every voxel of the mask and so look up to one such voxel larger."
        )
    if step and (step > 1 or scan.array.dtype.kind == "f"):
        notes.append(f"Grey values are shown in steps of {step:.3g}{unit}.")
    if clipped:
        notes.append(f"Grey values beyond {clipped[0]:.4g} to {clipped[1]:.4g}{unit} are shown as these limits.")
    return tuple(notes)
