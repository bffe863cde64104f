"""Crops of a scan drawn at what a segmenter marked, on a 1 mm grid, the same in every process."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.resample import resample_scan
from anatrust.image.volumes import Mask, Scan
from anatrust.ood.intensity import IntensityRule, intensity_scale

__all__ = ["CropMode", "CropSettings", "Crops", "NoPrediction", "anchored_crops"]

CropMode = Literal["voxel", "component", "spatial", "center"]

_MULTIPLE = 32  # encoders halve five times
_SAME_SPACING = 1e-3
_MARGIN = 2  # voxels around a crop, so that interpolation sees what it would see in the whole scan


@dataclass(frozen=True)
class CropSettings:
    """How crops are drawn; part of the identity of everything fitted on them.

    Parameters
    ----------
    mode
        Where centres lie: ``"voxel"`` uniform over the mask's voxels (published; a large lesion
        gets more crops), ``"component"`` each lesion in turn, then uniform within it,
        ``"spatial"`` anywhere, ``"center"`` the middle (one crop).
    edge
        Edge of a crop in mm, a multiple of 32. An axis whose field of view, rounded up to 32, is
        shorter gets that length.
    draws
        Crops a scan, drawn independently with replacement.
    spacing
        Grid of the crops in mm. Where the scan's spacing is unknown its own pixels are used.
    least_component
        Components smaller than this many mm³ (mm² in 2-D, pixels where spacing is unknown) are
        no anchors.
    intensity
        How grey values become numbers near [0, 1]; see :mod:`anatrust.ood.intensity`.
    window
        HU window of CT.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    mode: CropMode = "voxel"
    edge: int = 128
    draws: int = 8
    spacing: float = 1.0
    least_component: float = 0.0
    intensity: IntensityRule = "auto"
    window: tuple[float, float] = (-400.0, 400.0)

    def __post_init__(self) -> None:
        if self.mode not in get_args(CropMode):
            raise InputError(f"unknown crop mode {self.mode!r}: choose one of {', '.join(get_args(CropMode))}")
        if self.intensity not in get_args(IntensityRule):
            raise InputError(f"unknown rule {self.intensity!r}: choose one of {', '.join(get_args(IntensityRule))}")
        if self.edge < _MULTIPLE or self.edge % _MULTIPLE:
            raise InputError(f"the edge of a crop is a positive multiple of {_MULTIPLE}, not {self.edge}")
        if self.draws < 1:
            raise InputError(f"at least one crop is drawn, not {self.draws}")
        if not 0 < self.spacing < math.inf or not 0 <= self.least_component < math.inf:
            raise InputError("crop spacing must be positive and the least component 0 or more")
        window = (float(self.window[0]), float(self.window[1]))
        if not -math.inf < window[0] < window[1] < math.inf:
            raise InputError(f"a window runs from low to high, not {window}")
        object.__setattr__(self, "window", window)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a profile."""
        return {**asdict(self), "window": list(self.window)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CropSettings:
        """The settings :meth:`to_json` wrote.

        Raises
        ------
        InputError
            If a value is missing, unknown or impossible.
        """
        try:
            return cls(**{**values, "window": tuple(values["window"])})
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise InputError(f"crop settings cannot be read ({error}): fit the profile again") from None


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops of one scan.

    Parameters
    ----------
    images
        ``(n, *size)`` float32 in closest-RAS order, grey values as the settings say; what lies
        outside the scan has the value of the window's low end.
    grids
        Where each crop lies in the patient.
    centres
        ``(n, 3)`` world coordinates (mm, RAS+) that were drawn, before crops were moved inside.
    identifier, settings
        Of the scan and of the drawing.
    rule
        The intensity rule in words.
    """

    images: npt.NDArray[np.float32]
    grids: tuple[Grid, ...]
    centres: npt.NDArray[np.float64]
    identifier: str
    settings: CropSettings
    rule: str

    def first(self, n: int) -> Crops:
        """The first n crops (draws are independent, so these are as random as any); all of them if fewer."""
        if n < 1:
            raise InputError(f"at least one crop is kept, not {n}")
        return replace(self, images=self.images[:n], grids=self.grids[:n], centres=self.centres[:n])


@dataclass(frozen=True)
class NoPrediction:
    """The segmenter marked nothing that crops could be anchored to: a verdict of its own, no score.

    ``reason`` is one sentence for people.
    """

    identifier: str
    reason: str


def anchored_crops(
    scan: Scan,
    mask: Mask | None,
    settings: CropSettings | None = None,
    *,
    identifier: str | None = None,
    seed: int = 0,
) -> Crops | NoPrediction:
    """Draw crops of a scan around what a segmenter marked.

    Parameters
    ----------
    scan
        2-D or 3-D.
    mask
        What was marked, on the scan's grid. None only for the modes that need no mask.
    settings
        How to draw; the default is the published way (Swin encoders: 128 mm, 8 draws).
    identifier
        Name of the scan that seeds the draw; ``scan.identifier`` if None. Never a patient name.
    seed
        Together with the identifier it decides the draw, by SHA-256: the same crops in every
        process, whatever the order of scans or the storage order of the file.

    Returns
    -------
    Crops or NoPrediction
        NoPrediction where a mask is given and empty, or has no component of the least size:
        background is never cropped instead. Cost: one pass over the mask, and interpolation of
        the crops only (0.6 s of one core for 8 crops of 128³ from 384·384·120 voxels).

    Raises
    ------
    InputError
        If no identifier is known or a mask is needed.
    GeometryError
        If the mask lies on another grid.

    References
    ----------
    RF-Deep, arXiv 2512.08216 (crops of 128³ at random voxels of the predicted mask).

    Examples
    --------
    >>> import numpy as np
    >>> scan = Scan(np.zeros((40, 50), np.float32), Grid((40, 50), np.eye(4)), identifier="a")
    >>> mask = np.zeros((40, 50), bool)
    >>> anchored_crops(scan, Mask(mask, scan.grid)).reason
    'the mask is empty: nothing was segmented, so the scan cannot be screened at it'
    >>> mask[7, 9] = True
    >>> crops = anchored_crops(scan, Mask(mask, scan.grid))
    >>> crops.images.shape, crops.centres[0].tolist()
    ((8, 64, 64), [7.0, 9.0, 0.0])
    """
    settings = settings or CropSettings()
    name = scan.identifier if identifier is None else identifier
    if not name:
        raise InputError("the scan has no identifier to seed its crops with: give identifier=...")
    anchors: list[npt.NDArray[np.intp]] = []
    if mask is not None:
        if not mask.grid.same_as(scan.grid):
            raise GeometryError(f"the mask lies on {mask.grid!r}, the scan on {scan.grid!r}: align it first")
        anchors = _anchors(canonical(mask.array, scan.grid)[0], settings, scan.grid.voxel_volume)
        if not anchors:
            return NoPrediction(name, _why_none(mask, settings))
    elif settings.mode in ("voxel", "component"):
        raise InputError(f"crops of mode '{settings.mode}' need a mask: give one or use 'spatial'")
    array, own = canonical(scan.array, scan.grid)
    straight = replace(scan, array=array, grid=own, metadata={})
    scale = intensity_scale(
        array, settings.intensity, settings.window, is_ct=scan.modality == "CT" or scan.units == "HU"
    )
    fine = _fine_grid(own, settings.spacing)
    low, high = _body(array > scale.low, own, fine)
    size = tuple(min(settings.edge, math.ceil(n / _MULTIPLE) * _MULTIPLE) for n in fine.shape)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{name}\n{seed}".encode()).digest(), "big"))
    centres = _centres(rng, anchors, settings, own, fine, (low, high))
    images, grids = [], []
    for centre in centres:
        start = _start(fine.to_index(centre), size, low, high)
        grids.append(_part(fine, start, size))
        images.append(scale.apply(_cut(straight, fine, start, size, scale.low)))
    return Crops(np.stack(images), tuple(grids), centres, name, settings, scale.sentence)


def _why_none(mask: Mask, settings: CropSettings) -> str:
    if not mask.array.any():
        return "the mask is empty: nothing was segmented, so the scan cannot be screened at it"
    unit = "mm" if mask.grid.spacing_known else "px"
    return (
        f"no component of the mask has {settings.least_component:g} {unit}{'³' if mask.grid.ndim == 3 else '²'}:"
        " what was segmented is too small to screen the scan at it"
    )


def _anchors(mask: npt.NDArray[np.bool_], settings: CropSettings, voxel_volume: float) -> list[npt.NDArray[np.intp]]:
    """Indices ``(k, ndim)`` to draw from: one list, or one a component; empty where there is none."""
    if settings.mode != "component" and settings.least_component == 0:
        found = np.argwhere(mask)
        return [found] if len(found) else []
    from scipy import ndimage

    labels, count = ndimage.label(mask, np.ones((3,) * mask.ndim, dtype=int))
    index = np.argwhere(labels)
    number = labels[tuple(index.T)]
    groups = [index[number == k] for k in range(1, count + 1)]
    kept = [g for g in groups if len(g) * voxel_volume >= settings.least_component]
    if settings.mode == "component" or not kept:
        return kept
    return [np.concatenate(kept)]


def _fine_grid(own: Grid, spacing: float) -> Grid:
    """The grid of the crops: the same field of view in cubes of the wanted spacing."""
    steps = np.array(own.spacing)
    if not own.spacing_known or np.abs(steps - spacing).max() < _SAME_SPACING:
        return own
    n = own.ndim
    shape = tuple(max(1, round(count * step / spacing)) for count, step in zip(own.shape, steps, strict=True))
    affine = own.affine.copy()
    affine[:3, :n] *= spacing / steps
    corner = own.to_world(np.full(n, -0.5))
    affine[:3, 3] = corner + 0.5 * affine[:3, :n].sum(axis=1)
    return Grid(shape, affine)


def _body(inside: npt.NDArray[np.bool_], own: Grid, fine: Grid) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and one-past-last index, on the fine grid, of the box that holds all voxels above the window."""
    low, high = [], []
    for axis in range(own.ndim):
        line = np.flatnonzero(inside.any(axis=tuple(a for a in range(own.ndim) if a != axis)))
        first, last = (int(line[0]), int(line[-1]) + 1) if line.size else (0, own.shape[axis])
        ratio = fine.shape[axis] / own.shape[axis]
        low.append(math.floor(first * ratio))
        high.append(math.ceil(last * ratio))
    return np.array(low), np.array(high)


def _centres(
    rng: np.random.Generator,
    anchors: list[npt.NDArray[np.intp]],
    settings: CropSettings,
    own: Grid,
    fine: Grid,
    body: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> npt.NDArray[np.float64]:
    """World coordinates of the crops' centres, ``(n, 3)``."""
    low, high = body
    if settings.mode == "center":
        return fine.to_world(((low + high - 1) / 2)[None])
    if settings.mode == "spatial":
        return fine.to_world(rng.integers(low, high, size=(settings.draws, len(low))))
    turns = rng.permutation(len(anchors))
    drawn = [(group := anchors[turns[i % len(turns)]])[rng.integers(len(group))] for i in range(settings.draws)]
    return own.to_world(np.array(drawn))


def _start(
    centre: npt.NDArray[np.float64], size: tuple[int, ...], low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]
) -> tuple[int, ...]:
    """First index of the crop: moved inside the body, or centred on it where it is the larger."""
    start = np.floor(centre + 0.5).astype(np.int64) - np.array(size) // 2
    slack = (high - low) - np.array(size)
    inside = np.clip(start, low, np.maximum(low, high - np.array(size)))
    return tuple(int(v) for v in np.where(slack >= 0, inside, low + slack // 2))


def _part(grid: Grid, start: tuple[int, ...], size: tuple[int, ...]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(np.array(start))
    return Grid(size, affine, spacing_known=grid.spacing_known)


def _cut(
    scan: Scan, fine: Grid, start: tuple[int, ...], size: tuple[int, ...], outside: float
) -> npt.NDArray[np.float32]:
    """Grey values of one crop on the fine grid, ``outside`` where it leaves the scan."""
    first = [max(0, s) for s in start]
    stop = [min(n, s + e) for n, s, e in zip(fine.shape, start, size, strict=True)]
    crop = np.full(size, outside, dtype=np.float32)
    part = _part(fine, tuple(first), tuple(b - a for a, b in zip(first, stop, strict=True)))
    place = tuple(slice(a - s, b - s) for a, b, s in zip(first, stop, start, strict=True))
    if fine is scan.grid:
        crop[place] = scan.array[tuple(slice(a, b) for a, b in zip(first, stop, strict=True))]
        return crop
    ends = scan.grid.to_index(fine.to_world(np.array([first, [b - 1 for b in stop]])))
    lower = np.maximum(np.floor(ends[0]).astype(int) - _MARGIN, 0)
    upper = np.minimum(np.ceil(ends[1]).astype(int) + _MARGIN + 1, scan.grid.shape)
    window = tuple(slice(int(a), int(b)) for a, b in zip(lower, upper, strict=True))
    source = _part(scan.grid, tuple(int(a) for a in lower), tuple(int(v) for v in upper - lower))
    cut = Scan(scan.array[window].astype(np.float32), source)
    crop[place] = resample_scan(cut, part).array
    return crop
