"""Plant lesions with soft edges and the tissue's own texture in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import InputError

__all__ = ["LesionSpec", "free_centres", "lesion_profile", "plant_lesion"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LesionSpec:
    """What to plant: in which organ, how large (mm) and how different (in organ standard deviations)."""

    organ: str
    diameter: float
    contrast: float


def lesion_profile(
    shape: tuple[int, ...],
    centre: Sequence[float],
    diameter: float,
    spacing: Sequence[float],
    rng: np.random.Generator,
    *,
    edge: float | None = None,
) -> Floats:
    """Share of lesion in each voxel, in [0, 1]: a randomly turned, slightly lobed ellipsoid with a soft edge.

    Parameters
    ----------
    shape, centre, spacing
        Image shape, lesion centre in voxels, voxel edges in mm.
    diameter
        Diameter in mm of the ball of equal volume.
    rng
        Source of axes, rotation and lobes.
    edge
        Width in mm over which the share falls from about 0.9 to 0.1; default the larger of
        one mean voxel edge and a tenth of the diameter.

    Returns
    -------
    profile : float64 array of ``shape``

    Examples
    --------
    >>> import numpy as np
    >>> p = lesion_profile((40, 40, 40), (20, 20, 20), 20.0, (1, 1, 1), np.random.default_rng(0))
    >>> bool(abs(p.sum() / (4 / 3 * np.pi * 10**3) - 1) < 0.15)
    True
    """
    if not diameter > 0:
        raise InputError(f"a lesion's diameter must be above 0 mm, not {diameter}")
    ndim = len(shape)
    steps = np.asarray(spacing, dtype=np.float64)
    width = float(edge) if edge is not None else max(float(steps.mean()), 0.1 * diameter)
    stretch = np.exp(rng.normal(0, 0.12, ndim))
    stretch /= np.prod(stretch) ** (1 / ndim)
    turn, _ = np.linalg.qr(rng.standard_normal((ndim, ndim)))
    waves = rng.standard_normal((3, ndim))
    phases = rng.uniform(0, 2 * np.pi, 3)
    reach = np.ceil((0.75 * diameter + 2 * width) / steps).astype(int)
    low = [max(0, int(c) - r) for c, r in zip(centre, reach, strict=True)]
    high = [min(n, int(c) + r + 2) for n, c, r in zip(shape, centre, reach, strict=True)]
    profile = np.zeros(shape)
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return profile
    offsets = np.meshgrid(
        *[(np.arange(a, b) - c) * s for a, b, c, s in zip(low, high, centre, steps, strict=True)], indexing="ij"
    )
    points = np.stack(offsets, axis=-1)
    radius = np.linalg.norm((points @ turn) / stretch, axis=-1)
    unit = points / np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1e-9)
    lobes = np.sin(unit @ waves.T * 2 + phases).sum(axis=-1) / 3
    distance = radius - diameter / 2 * (1 + 0.08 * lobes)
    # logit(0.9) - logit(0.1) = 4.39: the share falls from 0.9 to 0.1 over `width`.
    inside = 1 / (1 + np.exp(np.clip(distance * (4.39 / width), -50, 50)))
    profile[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = np.where(inside > 0.01, inside, 0)
    return profile


def plant_lesion(
    image: Floats,
    centre: Sequence[float],
    diameter: float,
    shift: float,
    spacing: Sequence[float],
    rng: np.random.Generator,
    *,
    heterogeneity: float = 0.2,
    inside: Bools | None = None,
) -> tuple[Floats, Bools]:
    """A copy of an image with one lesion: the tissue keeps its noise and texture, its mean moves.

    Parameters
    ----------
    image
        Grey values.
    centre, diameter, spacing, rng
        As in :func:`lesion_profile`.
    shift
        Mean change over the lesion's true mask, in grey values (contrast times tissue SD): what
        a region of interest on the lesion would measure. Its core changes by more, its rim by less.
    heterogeneity
        Standard deviation of a smooth modulation of the shift inside the lesion.
    inside
        The lesion does not grow out of this region (its organ), where given.

    Returns
    -------
    planted, truth : float64 array, bool array
        ``truth`` is where at least half of the voxel is lesion.

    Examples
    --------
    >>> import numpy as np
    >>> flat = np.zeros((32, 32))
    >>> planted, truth = plant_lesion(flat, (16, 16), 10.0, 5.0, (1, 1), np.random.default_rng(0))
    >>> bool(planted[16, 16] > 3), bool(60 < truth.sum() < 100)
    (True, True)
    >>> round(float(planted[truth].mean()), 6)
    5.0
    """
    profile = lesion_profile(image.shape, centre, diameter, spacing, rng)
    if inside is not None:
        profile = profile * inside
    truth = profile >= 0.5
    planted = np.array(image, dtype=np.float64)
    touched = ndimage.find_objects((profile > 0).astype(np.int8))
    if not touched:
        return planted, truth
    box = touched[0]
    smooth = ndimage.gaussian_filter(
        rng.standard_normal(profile[box].shape), [0.15 * diameter / s for s in spacing], mode="nearest", truncate=3
    )
    spread = float(smooth.std())
    modulation = 1 + heterogeneity * smooth / spread if spread > 0 else np.ones_like(smooth)
    change = profile[box] * modulation
    inner = truth[box] if truth.any() else profile[box] > 0
    planted[box] += shift * change / float(change[inner].mean())
    return planted, truth


def free_centres(
    organ: Bools, diameter: float, spacing: Sequence[float], taken: Bools | None = None
) -> npt.NDArray[np.intp]:
    """Voxels ``(n, ndim)`` at which a ball of ``diameter`` mm fits into the organ, clear of what is taken."""
    free = organ if taken is None else organ & ~taken
    depth = ndimage.distance_transform_edt(np.pad(free, 1), sampling=tuple(spacing))
    depth = depth[(slice(1, -1),) * organ.ndim]
    return np.argwhere(depth >= 0.5 * diameter)
