"""From a mask to its connected components, all statistics in one pass over the foreground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.region import bounding_box
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection.candidate import Candidate

__all__ = ["Components", "find_candidates", "find_components", "largest_diameter"]

# Below this many points all pairs are faster than a convex hull.
_ALL_PAIRS = 600


@dataclass(frozen=True, eq=False)
class Components:
    """The components of a mask, in canonical (closest RAS+) orientation and canonical order.

    Parameters
    ----------
    candidates
        Not yet judged; indices in them are on the *stored* grid.
    voxels
        For each candidate the flat C-order indices of its voxels in the canonical array, ascending.
    boxes
        For each candidate its bounding box in the canonical array.
    grid
        The canonical grid.
    """

    candidates: tuple[Candidate, ...]
    voxels: tuple[npt.NDArray[np.int64], ...]
    boxes: tuple[tuple[slice, ...], ...]
    grid: Grid

    def within(self, position: int, box: tuple[slice, ...]) -> npt.NDArray[np.bool_]:
        """The part of a candidate (by position, from 0) inside a box of the canonical array."""
        index = np.array(np.unravel_index(self.voxels[position], self.grid.shape))
        start = np.array([edge.start for edge in box])[:, None]
        size = tuple(edge.stop - edge.start for edge in box)
        index -= start
        inside = ((index >= 0) & (index < np.array(size)[:, None])).all(axis=0)
        out = np.zeros(size, dtype=bool)
        out[tuple(index[:, inside])] = True
        return out

    def union(self, positions: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """The union of some candidates as a whole canonical array."""
        out = np.zeros(int(np.prod(self.grid.shape)), dtype=bool)
        for position in positions:
            out[self.voxels[position]] = True
        return out.reshape(self.grid.shape)


def largest_diameter(index: npt.NDArray[np.integer[Any]], axes: npt.NDArray[np.float64]) -> float:
    """Largest Feret diameter of a set of voxels, between the centres of their faces.

    Parameters
    ----------
    index
        ``(n, ndim)`` voxel indices in lexicographic order.
    axes
        ``(3, ndim)`` step of each index in mm (the columns of the affine).

    Returns
    -------
    float
        In mm. A single voxel measures its longest edge; n voxels in a row n edges. It is the
        definition of ``feret_diameter_max`` in scikit-image.

    Examples
    --------
    >>> import numpy as np
    >>> row = np.array([[0, 0], [0, 1], [0, 2]])
    >>> largest_diameter(row, np.diag([1.0, 2.0, 1.0])[:, :2])
    6.0
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    # Only the two ends of each row of voxels can be corners of the hull.
    starts = np.ones(len(index), dtype=bool)
    starts[1:] = (np.diff(index[:, :-1], axis=0) != 0).any(axis=1)
    ends = np.append(starts[1:], True)
    outer = index[starts | ends].astype(np.float64)
    half = 0.5 * np.eye(index.shape[1])
    points = (outer[:, None, :] + np.concatenate([half, -half])[None]).reshape(-1, index.shape[1])
    if len(points) > _ALL_PAIRS:
        points = points[ConvexHull(points).vertices]
    return float(pdist(points @ axes.T).max())


def _empty(grid: Grid) -> Components:
    return Components((), (), (), grid)


def _check_connectivity(connectivity: int | None, ndim: int) -> int:
    allowed = (4, 8) if ndim == 2 else (6, 18, 26)
    if connectivity is None:
        return allowed[-1]
    if connectivity not in allowed:
        raise InputError(
            f"connectivity {connectivity} does not exist in {ndim}-D: choose {', '.join(map(str, allowed))}"
        )
    return connectivity


def find_components(
    values: npt.NDArray[Any],
    image: npt.NDArray[Any],
    grid: Grid,
    stored: Grid,
    *,
    names: Mapping[int, str] | None = None,
    probabilities: npt.NDArray[np.floating[Any]] | None = None,
    connectivity: int | None = None,
) -> Components:
    """Find the connected components of a mask, with everything later steps need.

    Touching voxels of different labels belong to different components. Time is one pass over
    the mask and a sort of its foreground voxels.

    Parameters
    ----------
    values, image, probabilities
        Labels, grey values and foreground probabilities in canonical orientation.
    grid, stored
        The canonical grid, and the grid of the file, in whose indices candidates are reported.
    names
        Of the labels.
    connectivity
        As in :func:`find_candidates`.

    Raises
    ------
    InputError
        If the connectivity does not exist in this dimension.
    """
    connectivity = _check_connectivity(connectivity, grid.ndim)
    names = names or {}
    box = bounding_box(values)
    if box is None:
        return _empty(grid)
    component, index = _components_of(values, box, connectivity)
    flat = np.ravel_multi_index(tuple(index), values.shape)
    count = int(component.max()) + 1

    sizes = np.bincount(component, minlength=count)
    intensity = image[tuple(index)].astype(np.float64)
    means = np.bincount(component, weights=intensity, minlength=count) / sizes
    chances = None
    if probabilities is not None:
        inside = probabilities[tuple(index)].astype(np.float64)
        chances = np.clip(np.bincount(component, weights=inside, minlength=count) / sizes, 0.0, 1.0)
    centres = np.stack([np.bincount(component, weights=axis, minlength=count) / sizes for axis in index], axis=1)
    world = grid.to_world(centres)

    # A stable sort groups the voxels of each component and keeps them in array order.
    by_component = np.argsort(component, kind="stable")
    edges = np.concatenate([[0], np.cumsum(sizes)])
    index = index[:, by_component]
    flat = flat[by_component]
    low = np.minimum.reduceat(index, edges[:-1], axis=1).T
    high = np.maximum.reduceat(index, edges[:-1], axis=1).T + 1
    # Canonical order: size, then place. Rounding keeps header noise out of it; the first voxel
    # decides between concentric components.
    keys = (flat[edges[:-1]], *np.round(world, 3).T[::-1], -sizes)
    order = np.lexsort(keys)

    found = []
    for number, k in enumerate(order, start=1):
        rows = slice(edges[k], edges[k + 1])
        label = int(values[tuple(index[:, rows.start])])
        known = grid.spacing_known
        place = np.round(world[k], 6)
        centre_stored, box_stored = _on_stored_grid(centres[k], low[k], high[k], stored)
        found.append(
            Candidate(
                number=number,
                label=label,
                name=names.get(label, f"label {label}"),
                voxels=int(sizes[k]),
                volume=float(sizes[k] * grid.voxel_volume) if known else None,
                diameter=largest_diameter(index[:, rows].T, grid.affine[:3, : grid.ndim]) if known else None,
                centroid_index=centre_stored,
                centroid_world=(float(place[0]), float(place[1]), float(place[2])),
                bounding_box=box_stored,
                mean_intensity=float(means[k]),
                mean_probability=None if chances is None else float(chances[k]),
                touches_border=bool((low[k] == 0).any() or (high[k] == grid.shape).any()),
            )
        )
    voxels = tuple(flat[edges[k] : edges[k + 1]] for k in order)
    boxes = tuple(tuple(slice(int(a), int(b)) for a, b in zip(low[k], high[k], strict=True)) for k in order)
    return Components(tuple(found), voxels, boxes, grid)


def _components_of(
    values: npt.NDArray[Any], box: tuple[slice, ...], connectivity: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Component (from 0) and ``(ndim, n)`` index of each foreground voxel, all of which lie in the box."""
    import cc3d

    # A copy, because cc3d refuses arrays it could not write to; never boolean, because cc3d 4.1.1 then
    # labels 8-connected images wrongly.
    kind = np.uint8 if values.dtype == np.bool_ else values.dtype
    crop = np.array(values[box], dtype=kind, order="C")
    numbered = cc3d.connected_components(crop, connectivity=connectivity)
    index = np.array(np.nonzero(crop), dtype=np.int64)
    component = numbered[tuple(index)].astype(np.int64) - 1
    return component, index + np.array([edge.start for edge in box])[:, None]


def _on_stored_grid(
    centre: npt.NDArray[np.float64], low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], stored: Grid
) -> tuple[tuple[float, ...], tuple[tuple[int, int], ...]]:
    """Centre and box given in canonical indices, in the indices of the stored grid."""
    order, flip = stored.canonical_axes()
    where = [0.0] * stored.ndim
    box = [(0, 0)] * stored.ndim
    for axis, (source, flipped) in enumerate(zip(order, flip, strict=True)):
        n = stored.shape[source]
        where[source] = float(n - 1 - centre[axis] if flipped else centre[axis])
        a, b = int(low[axis]), int(high[axis])
        box[source] = (n - b, n - a) if flipped else (a, b)
    return tuple(where), tuple(box)


def find_candidates(
    labels: LabelMap | Mask,
    scan: Scan,
    *,
    probabilities: ProbabilityMap | None = None,
    connectivity: int | None = None,
) -> tuple[Candidate, ...]:
    """The connected components of a mask as candidates, the largest first.

    Parameters
    ----------
    labels
        The mask; components are found per label value.
    scan
        The scan it was drawn on (same grid): grey values are averaged in it.
    probabilities
        The segmenter's probabilities on the same grid, if any.
    connectivity
        4 or 8 (default) in 2-D; 6, 18 or 26 (default) in 3-D.

    Returns
    -------
    tuple of Candidate
        Sorted by size, equal sizes by world position, so that the order does not depend on how
        the file stores its axes. Sizes in mm³ and mm (None where the spacing is unknown).

    Raises
    ------
    GeometryError
        If the images do not share one grid.
    InputError
        If the connectivity does not exist in this dimension.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid((5, 6), np.diag([2.0, 2.0, 1.0, 1.0]))
    >>> mask = np.zeros((5, 6), np.uint8)
    >>> mask[0, 0] = mask[2:4, 2:4] = 1
    >>> [(c.voxels, c.volume) for c in find_candidates(LabelMap(mask, grid), Scan(mask, grid))]
    [(4, 16.0), (1, 4.0)]
    """
    for what, other in (("scan", scan), ("probability map", probabilities)):
        if other is not None and not other.grid.same_as(labels.grid):
            raise GeometryError(f"the mask and the {what} lie on different grids: resample one to the other first")
    values = labels.array.view(np.uint8) if isinstance(labels, Mask) else labels.array
    straight, grid = canonical(values, labels.grid)
    chances = None if probabilities is None else canonical(probabilities.foreground, labels.grid)[0]
    return find_components(
        straight,
        canonical(scan.array, labels.grid)[0],
        grid,
        labels.grid,
        names={1: labels.name} if isinstance(labels, Mask) else labels.names,
        probabilities=chances,
        connectivity=connectivity,
    ).candidates
