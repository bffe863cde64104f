"""Strange scans made from usual ones: for users who have none, and for studies of graded shifts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.volumes import LabelMap, Scan

__all__ = ["SHIFTS", "SYNTHETIC_OUTLIERS", "shifted"]

_PERCENTILES = (0.5, 99.5)
_AROUND = 5.0  # mm beyond a lesion that are its surroundings
Values = npt.NDArray[np.float64]


def _noise(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """Magnitude of a complex signal with Gaussian noise of this deviation (Rician, as in MR)."""
    del spacing
    real = x + strength * rng.standard_normal(x.shape)
    return np.asarray(np.hypot(real, strength * rng.standard_normal(x.shape)))


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """A smooth field in [-1, 1]: random low frequencies, at most one period along an axis."""
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    field = np.zeros(shape)
    for _ in range(4):
        wave = rng.uniform(-1, 1, len(shape))
        field += np.cos(2 * np.pi * (sum(w * a for w, a in zip(wave, axes, strict=True)) + rng.uniform()))
    low, high = field.min(), field.max()
    return np.asarray(2 * (field - low) / (high - low or 1.0) - 1)


def _bias(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """A smooth gain between exp(-strength) and exp(strength), as of a surface coil."""
    del spacing
    return np.asarray(x * np.exp(strength * _smooth(x.shape, rng)))


def _ghosting(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """Every fourth line of k-space along one axis is weakened by this share: ghosts a quarter away."""
    del spacing
    axis = int(rng.integers(x.ndim))
    spectrum = np.fft.fft(x, axis=axis)
    lines = np.ones(x.shape[axis])
    lines[1::4] = 1 - strength
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.asarray(np.abs(np.fft.ifft(spectrum * lines.reshape(shape), axis=axis)))


def _thick(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """Slices of this many mm along the last axis of three (the first of two), then linear interpolation back."""
    from scipy import ndimage

    del rng
    axis = x.ndim - 1 if x.ndim == 3 else 0
    width = max(1.0, strength / spacing[axis])
    mean = ndimage.uniform_filter1d(x, max(1, round(width)), axis=axis, mode="nearest")
    places = np.arange(x.shape[axis])
    centres = np.clip(np.arange(0, x.shape[axis] + width, width), 0, x.shape[axis] - 1)
    taken = np.unique(np.round(centres).astype(int))
    slices = np.moveaxis(mean, axis, 0)[taken]
    upper = np.clip(np.searchsorted(taken, places, side="right"), 1, len(taken) - 1) if len(taken) > 1 else None
    if upper is None:
        return np.asarray(np.repeat(np.moveaxis(slices, 0, axis), x.shape[axis], axis=axis))
    lower = upper - 1
    share = (places - taken[lower]) / (taken[upper] - taken[lower])
    share = np.clip(share, 0, 1).reshape(-1, *(1,) * (x.ndim - 1))
    return np.asarray(np.moveaxis((1 - share) * slices[lower] + share * slices[upper], 0, axis))


def _blur(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """A Gaussian of this deviation in mm, as of a soft kernel or of motion."""
    from scipy import ndimage

    del rng
    return np.asarray(ndimage.gaussian_filter(x, [strength / s for s in spacing]))


def _remap(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """Grey values to the power 2**strength or 2**-strength: another gain curve, order kept."""
    del spacing
    power = 2 ** (strength if rng.random() < 0.5 else -strength)
    return np.asarray(np.sign(x) * np.abs(x) ** power)


def _contrast(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """A blend with sin(πx): bright tissue turns dark again, as under another sequence."""
    del rng, spacing
    return np.asarray((1 - strength) * x + strength * np.sin(np.pi * np.clip(x, 0, 1)))


def _modality(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """Grey values turned round (blend with 1 - x) under a slight gain field: what another modality may do."""
    turned = 1 - np.clip(x, 0, 1)
    return _bias(np.asarray((1 - strength) * x + strength * turned), 0.2 * strength, rng, spacing)


def _window(x: Values, strength: float, rng: np.random.Generator, spacing: tuple[float, ...]) -> Values:
    """Clipped to a part of the range and stretched: exported under a window; ``strength`` is the share that is lost."""
    del spacing
    low = strength * rng.uniform(0.2, 0.8)
    kept = max(1 - strength, 1e-3)
    return np.asarray(np.clip((x - low) / kept, 0, 1))


_VALUES: Mapping[str, Callable[[Values, float, np.random.Generator, tuple[float, ...]], Values]] = {
    "bias": _bias,
    "blur": _blur,
    "contrast": _contrast,
    "ghosting": _ghosting,
    "modality": _modality,
    "noise": _noise,
    "remap": _remap,
    "thick": _thick,
    "window": _window,
}
_LESIONS = ("lesion", "lesion-dark", "lesion-grey")
SHIFTS = (*sorted(_VALUES), "flip", *_LESIONS)
"""Kinds of `shifted`."""

SYNTHETIC_OUTLIERS: Mapping[str, float] = {
    "noise": 0.15,
    "window": 0.6,
    "flip": 1.0,
    "thick": 6.0,
    "modality": 1.0,
    "bias": 0.8,
    "ghosting": 0.6,
    "blur": 2.0,
}
"""What `anatrust fit --synthetic-outliers` makes, and how strong; fixed beforehand, tuned on nothing."""


def shifted(scan: Scan, labels: LabelMap, kind: str, strength: float, *, seed: int = 0) -> tuple[Scan, LabelMap]:
    """The same patient as another scanner, protocol or mistake would show them.

    Parameters
    ----------
    scan, labels
        The usual scan, and what is marked in it; both on one grid. Marks move with the image under ``"flip"``
        and stay as they are under all others: a segmenter that can be run should be run again.
    kind
        Of :data:`SHIFTS`. Grey values are scaled so that the scan's 0.5 and 99.5 percentiles are 0 and 1,
        changed, and scaled back: ``"noise"`` (Rician, deviation), ``"bias"`` (log gain), ``"ghosting"``
        (share of the lines), ``"blur"`` and ``"thick"`` (mm), ``"remap"`` (log2 of gamma), ``"contrast"``,
        ``"modality"`` (share of another grey-value curve), ``"window"`` (share lost), ``"lesion"`` (a ball of this
        diameter in mm around a marked voxel, brighter than all tissue), ``"lesion-grey"`` and ``"lesion-dark"`` (one
        as bright or as dark as the extremes of what lies within 5 mm around it), ``"flip"`` (axes turned; the strength
        does not matter).
    strength
        0 changes nothing (except for ``"flip"``).
    seed
        With the scan's voxels it decides everything random.

    Raises
    ------
    InputError
        If the kind is unknown or the strength is not a number ≥ 0.
    GeometryError
        If the marks lie on another grid.

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> grid = Grid((32, 32), np.eye(4))
    >>> scan = Scan(np.arange(1024.0).reshape(32, 32), grid)
    >>> marks = LabelMap((scan.array > 900).astype(np.uint8), grid)
    >>> bool(np.abs(shifted(scan, marks, "noise", 0.1)[0].array - scan.array).mean() > 20)
    True
    """
    if kind not in SHIFTS:
        raise InputError(f"there is no shift {kind!r}: choose one of {', '.join(SHIFTS)}")
    if not 0 <= strength < float("inf"):
        raise InputError(f"the strength of a shift is a number from 0, not {strength}")
    if not labels.grid.same_as(scan.grid):
        raise GeometryError(f"the marks lie on {labels.grid!r}, the scan on {scan.grid!r}: align them first")
    array = np.asarray(scan.array, dtype=np.float64)
    own = hashlib.sha256(f"{kind}\n{seed}\n{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    rng = np.random.default_rng(int.from_bytes(own.digest(), "big"))
    if kind == "flip":
        axes = _turned(array.ndim, rng)
        marks: npt.NDArray[Any] = np.ascontiguousarray(np.flip(labels.array, axes))
        return _with(scan, np.flip(array, axes)), replace(labels, array=marks)
    if strength == 0:
        return scan, labels
    low, high = (float(v) for v in np.percentile(array, _PERCENTILES))
    width = high - low if high > low else 1.0
    x = (array - low) / width
    changed = (
        _lesion(x, labels, kind, strength, rng)
        if kind in _LESIONS
        else _VALUES[kind](x, strength, rng, scan.grid.spacing)
    )
    return _with(scan, changed * width + low), labels


def _with(scan: Scan, array: Values) -> Scan:
    return replace(scan, array=np.ascontiguousarray(array, dtype=np.float32))


def _turned(ndim: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Axes to flip: never along the first alone, which for a symmetric body hardly shows."""
    choices = [(1,), (0, 1)] if ndim == 2 else [(1,), (2,), (1, 2), (0, 2)]
    return choices[int(rng.integers(len(choices)))]


def _lesion(x: Values, labels: LabelMap, kind: str, strength: float, rng: np.random.Generator) -> Values:
    """A ball of this diameter around a marked voxel, brighter than all tissue or like the extremes around it."""
    inside = np.argwhere(labels.array != 0)
    if not len(inside):
        return x
    centre = inside[int(rng.integers(len(inside)))]
    places = np.stack(np.meshgrid(*[np.arange(n) for n in x.shape], indexing="ij"), axis=-1) - centre
    apart = np.sqrt(((places * np.array(labels.grid.spacing)) ** 2).sum(axis=-1))
    share = np.clip((strength / 2 - apart) + 0.5, 0, 1)
    level = 1.1
    if kind != "lesion":
        around = x[(share == 0) & (apart <= strength / 2 + _AROUND)]
        level = float(np.percentile(around, 98 if kind == "lesion-grey" else 2)) if around.size else level
    return np.asarray((1 - share) * x + share * (level + 0.05 * rng.standard_normal(x.shape)))
