"""The normal tissue a candidate is compared with: its organ, or the body around the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.organs import find_label, is_lesion_name
from anatrust.image.grid import Grid
from anatrust.image.region import bounding_box
from anatrust.image.volumes import LabelMap, Scan
from anatrust.rejection.body import body_mask
from anatrust.rejection.candidates import Components
from anatrust.rejection.settings import TissueSettings

__all__ = ["Tissue", "ball", "dilated", "find_tissues", "grown", "organ_overlap"]

# Distance maps of more voxels than this are made on every n-th voxel.
_DISTANCE_VOXELS = 2_000_000


@dataclass(frozen=True, eq=False)
class Tissue:
    """A piece of normal tissue and the candidates compared with it.

    Parameters
    ----------
    description
        In words, for the verdict.
    box
        Where it lies in the canonical array; the arrays below have this box's shape. It holds
        all of ``members``.
    region
        The organ with its rim eroded, or the body around its members; candidates not yet taken out.
    claims
        How many candidates, dilated by the gap, cover each voxel (uint16).
    members
        Positions (from 0) of the candidates compared with it.
    around
        Whether it is the body around its members, not an organ.
    """

    description: str
    box: tuple[slice, ...]
    region: npt.NDArray[np.bool_]
    claims: npt.NDArray[np.uint16]
    members: tuple[int, ...]
    around: bool = False

    @property
    def normal(self) -> npt.NDArray[np.bool_]:
        """``region`` without any candidate and the gap around it: what is surely no candidate."""
        free: npt.NDArray[np.bool_] = self.region & (self.claims == 0)
        return free


def ball(radius: float, spacing: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    """Structuring element: all steps up to ``radius`` (mm), and at least one voxel along each axis.

    Examples
    --------
    >>> import numpy as np
    >>> ball(1.0, (1.0, 5.0)).sum(), ball(2.0, (1.0, 1.0)).sum()
    (np.int64(5), np.int64(13))
    """
    reach = [max(1, int(np.floor(radius / step + 1e-9))) for step in spacing]
    axes = np.meshgrid(*[np.arange(-n, n + 1) * step for n, step in zip(reach, spacing, strict=True)], indexing="ij")
    inside: npt.NDArray[np.bool_] = np.sum(np.square(axes), axis=0) <= radius**2 * (1 + 1e-9)
    centre = tuple(reach)
    for axis in range(len(spacing)):
        for step in (-1, 1):
            inside[tuple(c + step * (a == axis) for a, c in enumerate(centre))] = True
    return inside


def grown(box: tuple[slice, ...], length: float, grid: Grid) -> tuple[slice, ...]:
    """A box widened by ``length`` (mm) on each side, and by at least one voxel, within the grid."""
    wide = []
    for edge, step, n in zip(box, grid.spacing, grid.shape, strict=True):
        extra = max(1, int(np.ceil(length / step)))
        wide.append(slice(max(0, edge.start - extra), min(n, edge.stop + extra)))
    return tuple(wide)


def _distance(mask: npt.NDArray[np.bool_], spacing: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Distance (mm) of each voxel to the nearest voxel of a mask; coarse where the box is huge."""
    from scipy import ndimage

    step = int(np.ceil((mask.size / _DISTANCE_VOXELS) ** (1 / mask.ndim)))
    if step == 1:
        exact: npt.NDArray[np.float32] = ndimage.distance_transform_edt(~mask, sampling=spacing).astype(np.float32)
        return exact
    # A coarse voxel counts as inside if any of its fine voxels is, so nothing of the mask is lost.
    padded = np.pad(mask, [(0, -n % step) for n in mask.shape])
    blocks = padded.reshape([v for n in padded.shape for v in (n // step, step)])
    coarse = blocks.any(axis=tuple(range(1, 2 * mask.ndim, 2)))
    away: npt.NDArray[np.float32] = ndimage.distance_transform_edt(
        ~coarse, sampling=[step * s for s in spacing]
    ).astype(np.float32)
    for axis in range(mask.ndim):
        away = np.repeat(away, step, axis=axis)
    return away[tuple(slice(0, n) for n in mask.shape)]


def dilated(
    position: int, box: tuple[slice, ...], components: Components, gap: float
) -> tuple[tuple[slice, ...], npt.NDArray[np.bool_]] | None:
    """A candidate dilated by the gap: where it lies inside a box, and the mask there; None if it does not."""
    from scipy import ndimage

    grid = components.grid
    near = grown(components.boxes[position], gap, grid)
    shared = tuple(slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(near, box, strict=True))
    if any(edge.stop <= edge.start for edge in shared):
        return None
    wide = ndimage.binary_dilation(components.within(position, near), ball(gap, grid.spacing))
    inside = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(shared, box, strict=True))
    source = tuple(slice(s.start - n.start, s.stop - n.start) for s, n in zip(shared, near, strict=True))
    return inside, wide[source]


def _claims(box: tuple[slice, ...], components: Components, gap: float) -> npt.NDArray[np.uint16]:
    """How many dilated candidates cover each voxel of a box."""
    counts = np.zeros([edge.stop - edge.start for edge in box], dtype=np.uint16)
    for position in range(len(components.boxes)):
        found = dilated(position, box, components, gap)
        if found is not None:
            counts[found[0]] += found[1]
    return counts


def _hull(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(slice(min(e.start for e in edges), max(e.stop for e in edges)) for edges in zip(*boxes, strict=True))


def _usable_labels(anatomy: LabelMap, settings: TissueSettings) -> tuple[int, ...]:
    """The anatomy's labels that may serve as normal tissue: those asked for, else all but lesions."""
    if settings.names:
        return tuple(find_label(anatomy, name) for name in settings.names)
    return tuple(n for n in anatomy.labels() if not is_lesion_name(anatomy.names.get(n, "")))


def _organ_of(
    position: int,
    components: Components,
    organs: npt.NDArray[np.integer],
    labels: tuple[int, ...],
    settings: TissueSettings,
) -> int:
    """Label of the organ a candidate lies in (largest share of it dilated), else of the nearest; 0 if none is near."""
    from scipy import ndimage

    grid = components.grid
    near = grown(components.boxes[position], settings.gap, grid)
    wide = ndimage.binary_dilation(components.within(position, near), ball(settings.gap, grid.spacing))
    counts = np.bincount(organs[near][wide], minlength=max(labels, default=0) + 1)
    counts[np.isin(np.arange(len(counts)), labels, invert=True)] = 0
    if counts.any():
        return int(counts.argmax())
    box = grown(components.boxes[position], settings.nearest, grid)
    away = np.where(np.isin(organs[box], labels), _distance(components.within(position, box), grid.spacing), np.inf)
    closest = float(away.min())
    if closest > settings.nearest:
        return 0
    # The smallest label of those equally near, whatever the array order.
    return int(organs[box][away == closest].min())


def organ_overlap(
    components: Components, anatomy: LabelMap | None, settings: TissueSettings
) -> npt.NDArray[np.float64] | None:
    """Share of each candidate in the reference organs; None without anatomy.

    The larger of two shares: of the candidate itself, and of the gap around it. Organ models
    often leave a lesion out, and a lesion that the organ encloses lies in it all the same.
    """
    from scipy import ndimage

    if anatomy is None:
        return None
    labels = _usable_labels(anatomy, settings)
    shares = np.zeros(len(components.candidates))
    for position, box in enumerate(components.boxes):
        wide = grown(box, settings.gap, components.grid)
        organs = np.isin(anatomy.array[wide], labels)
        own = components.within(position, wide)
        around = ndimage.binary_dilation(own, ball(settings.gap, components.grid.spacing)) & ~own
        # Only a candidate that fills the image has nothing around it.
        shares[position] = max(float(organs[part].mean()) for part in (own, around) if part.any())
    return shares


def find_tissues(
    scan: Scan,
    components: Components,
    positions: Sequence[int],
    *,
    anatomy: LabelMap | None = None,
    settings: TissueSettings | None = None,
) -> tuple[Tissue, ...]:
    """Choose the normal tissue of each candidate.

    Parameters
    ----------
    scan
        In canonical orientation.
    components
        All candidates of the scan; every one of them is taken out of every tissue.
    positions
        Which of them (from 0) need a tissue.
    anatomy
        Numbered organs in canonical orientation, if there are any. Labels whose name means a
        lesion (a kidney cyst) are never used as normal tissue.
    settings
        See `TissueSettings`.

    Returns
    -------
    tuple of Tissue
        One for each organ that is needed (with named organs: one for all of them together), and
        one for all candidates that have no organ within ``settings.nearest``: the body around
        them. Every position is a member of exactly one.

    Raises
    ------
    InputError
        If a named organ is not in the anatomy.
    """
    settings = TissueSettings() if settings is None else settings
    groups: dict[int, list[int]] = {}
    organs: npt.NDArray[np.integer] | None = None
    if anatomy is not None:
        labels = _usable_labels(anatomy, settings)
        organs = anatomy.array
        if settings.names:
            groups = {-1: list(positions)} if len(positions) else {}
        else:
            for position in positions:
                groups.setdefault(_organ_of(position, components, organs, labels, settings), []).append(position)
    elif len(positions):
        groups = {0: list(positions)}
    tissues = []
    for label in sorted(groups):
        if label == 0:
            tissues.append(_around(tuple(groups[0]), scan, components, settings, anatomy is not None))
        else:
            assert anatomy is not None
            assert organs is not None
            wanted = labels if label == -1 else (label,)
            used = settings.names if label == -1 else (label,)
            name = " + ".join(anatomy.names.get(n, f"organ {n}") if isinstance(n, int) else n for n in used)
            tissues.append(_organ(name, organs, wanted, tuple(groups[label]), components, settings))
    return tuple(tissues)


def _organ(
    name: str,
    organs: npt.NDArray[np.integer],
    labels: tuple[int, ...],
    members: tuple[int, ...],
    components: Components,
    settings: TissueSettings,
) -> Tissue:
    from scipy import ndimage

    grid = components.grid
    # A frame is a hundred times as large as an organ: only boxes of it are compared with the labels.
    every = bounding_box(organs)
    assert every is not None  # a candidate lies in an organ or near it
    whole = bounding_box(np.isin(organs[every], labels))
    assert whole is not None
    whole = tuple(slice(e.start + w.start, e.start + w.stop) for e, w in zip(every, whole, strict=True))
    box = grown(_hull([whole, *(components.boxes[p] for p in members)]), settings.gap, grid)
    mask = np.isin(organs[box], labels)
    # Beyond the image's edge the organ goes on (border_value): the edge is no rim.
    inside = mask
    for position in members:
        # An organ model often leaves the lesion out; the hole it leaves is no rim of the organ either.
        inside = inside | components.within(position, box)
    region = ndimage.binary_erosion(inside, ball(settings.rim, grid.spacing), border_value=1) & mask
    return Tissue(name, box, region, _claims(box, components, settings.gap), members)


def _around(
    positions: tuple[int, ...], scan: Scan, components: Components, settings: TissueSettings, far: bool
) -> Tissue:
    """The body around some candidates, the shells of all of them together, as one tissue.

    One tissue is one family of tests: with a shell for each, every further candidate would cost
    all others a share of the level, and each would be compared with less.
    """
    grid = components.grid
    body = body_mask(scan, components.union(tuple(range(len(components.candidates)))))
    reaches = []
    for position in positions:
        size = components.candidates[position].voxels * grid.voxel_volume
        radius = (size / np.pi) ** 0.5 if grid.ndim == 2 else (3 * size / (4 * np.pi)) ** (1 / 3)
        reaches.append(max(settings.shell_outer, settings.shell_factor * radius))
    boxes = [grown(components.boxes[p], reach, grid) for p, reach in zip(positions, reaches, strict=True)]
    hull = _hull(boxes)
    region = np.zeros([edge.stop - edge.start for edge in hull], dtype=bool)
    for position, reach, box in zip(positions, reaches, boxes, strict=True):
        here = tuple(slice(b.start - h.start, b.stop - h.start) for b, h in zip(box, hull, strict=True))
        region[here] |= (_distance(components.within(position, box), grid.spacing) <= reach) & body[box]
    around = "it" if len(positions) == 1 else "the candidates"
    why = " (no organ near)" if far else ""
    least, most = min(reaches), max(reaches)
    reach = f"{most:.3g}" if f"{least:.3g}" == f"{most:.3g}" else f"{least:.3g} to {most:.3g}"
    what = f"body within {reach} {grid.unit} of {around}{why}"
    return Tissue(what, hull, region, _claims(hull, components, settings.gap), positions, around=True)
