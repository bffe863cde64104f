"""The voxel grid: shape and affine, and everything that follows from them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError

__all__ = ["Grid"]

_AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
# Headers store float32 affines, so a difference below this share of a voxel is rounding.
_TOLERANCE_VOXELS = 1e-3
# A picture's first index counts rows downwards and its second columns to the right. Shown as
# radiologists look at a patient, down is posterior and right is the patient's left.
_RASTER_AXES = np.array([[0.0, -1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image lie in the patient.

    Parameters
    ----------
    shape
        Voxels along each axis: two values for an image, three for a volume.
    affine
        ``(4, 4)`` matrix from voxel indices to world millimetres in RAS+ (the NIfTI
        convention). A 2-D image uses the same matrix with its third index fixed at 0.
    spacing_known
        False where the format stores no physical size (PNG, JPEG). Then the affine is in
        pixels, and everything that needs millimetres says so instead of inventing them.
    layout
        How a 2-D image was stored, so that writers give it back in the same form: ``"plain"``
        (two axes), ``"slice"`` (a volume with one slice, ``(nx, ny, 1)``), or ``"raster"`` (a
        picture, rows first). It is no part of the geometry: ``same_as`` ignores it.

    Raises
    ------
    GeometryError
        If the shape is empty, or the affine is singular, not finite, or no affine matrix.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid((4, 5, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
    >>> grid.spacing
    (2.0, 2.0, 3.0)
    >>> grid.orientation
    'RAS'
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    spacing_known: bool = True
    layout: Literal["plain", "slice", "raster"] = "plain"

    def __post_init__(self) -> None:
        try:
            shape = tuple(operator.index(n) for n in self.shape)
        except TypeError:
            raise GeometryError(f"a shape is whole numbers, such as (512, 512, 60), not {self.shape!r}") from None
        if len(shape) not in (2, 3):
            raise GeometryError(f"a grid has 2 or 3 axes, not {len(shape)} (shape {shape}): choose one frame")
        if min(shape) < 1:
            raise GeometryError(f"the image is empty: its shape is {shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(f"the affine must be a 4x4 matrix ending in 0 0 0 1, not shape {affine.shape}")
        if not np.isfinite(affine).all():
            raise GeometryError("the affine holds NaN or infinite values: rewrite the header with valid geometry")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
            raise GeometryError("the affine is singular (an axis has no length): rewrite the header geometry")
        if self.layout != "plain" and len(shape) != 2:
            raise GeometryError(f"the layout '{self.layout}' describes a 2-D image, not one of shape {shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def without_spacing(cls, shape: tuple[int, ...]) -> Grid:
        """Grid of an image whose physical size is unknown; its unit is the pixel.

        A 2-D shape is taken as a picture, ``(rows, columns)``: its affine points the rows
        down and the columns to the right. A 3-D shape gets the identity.
        """
        if len(shape) == 2:
            return cls(shape, _RASTER_AXES, spacing_known=False, layout="raster")
        return cls(shape, np.eye(4), spacing_known=False)

    @classmethod
    def of_picture(cls, shape: tuple[int, ...], spacing: tuple[float, float] | None = None) -> Grid:
        """Grid of a picture of ``(rows, columns)``; ``spacing`` (mm, same order) where it is known."""
        if spacing is None:
            return cls.without_spacing(shape)
        affine = _RASTER_AXES @ np.diag([float(spacing[0]), float(spacing[1]), 1.0, 1.0])
        return cls(shape, affine, layout="raster")

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """Voxel edge length along each axis, in mm (in pixels where ``spacing_known`` is False)."""
        lengths = np.linalg.norm(self.affine[:3, : self.ndim], axis=0)
        return tuple(float(round(v, 6)) for v in lengths)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³ (area of a pixel in mm² in 2-D)."""
        return float(np.prod(self.spacing))

    @property
    def unit(self) -> str:
        """Unit of lengths on this grid: ``"mm"`` or ``"px"``."""
        return "mm" if self.spacing_known else "px"

    @cached_property
    def orientation(self) -> str:
        """Anatomical direction in which each index grows, e.g. ``"LPS"``."""
        return "".join(_AXIS_CODES[world][int(sign > 0)] for world, sign in self._axes)

    @cached_property
    def _axes(self) -> tuple[tuple[int, float], ...]:
        """For each array axis the world axis closest to it, and its sign."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        best: tuple[tuple[float, ...], tuple[int, ...]] | None = None
        for worlds in permutations(range(3)):  # worlds[axis]: where that axis would point
            along = [float(directions[world, axis]) for axis, world in enumerate(worlds)]
            # The clearest axis decides first. At an exact tie (45 degrees) the canonical matrix
            # itself decides: it does not depend on the order in which the file has its axes.
            signed = directions * np.where(np.array(along) < 0, -1.0, 1.0)
            matrix = signed[:, np.argsort(worlds)].ravel()
            key = (*np.round(sorted(np.abs(along), reverse=True), 5).tolist(), *np.round(matrix, 5).tolist())
            if best is None or key > best[0]:
                best = (key, worlds)
        assert best is not None
        return tuple((w, -1.0 if directions[w, axis] < 0 else 1.0) for axis, w in enumerate(best[1]))[: self.ndim]

    def to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """World coordinates (mm, RAS+), shape ``(..., 3)``, of voxel indices ``(..., ndim)``."""
        index = np.asarray(index, dtype=np.float64)
        return index @ self.affine[:3, : self.ndim].T + self.affine[:3, 3]

    def to_index(self, world: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fractional voxel indices ``(..., ndim)`` of world coordinates ``(..., 3)`` in mm."""
        offset = np.asarray(world, dtype=np.float64) - self.affine[:3, 3]
        return (offset @ np.linalg.inv(self.affine[:3, :3]).T)[..., : self.ndim]

    def same_as(self, other: Grid) -> bool:
        """Whether both grids put every voxel at the same place, up to header rounding."""
        if self.shape != other.shape or self.spacing_known != other.spacing_known:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"))
        corners = corners.reshape(self.ndim, -1).T
        apart = np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max()
        step = min(np.linalg.norm(self.affine[:3, : self.ndim], axis=0))
        # Corners move with the extent, hence the extent in the allowance.
        return bool(apart <= _TOLERANCE_VOXELS * step * max(1.0, max(self.shape) / 10))

    def canonical_axes(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Axis order and flips that bring an array on this grid closest to RAS+.

        Returns ``(order, flip)``: ``np.transpose(a, order)``, then a flip of each new axis
        whose ``flip`` is True. A 2-D image is flipped and transposed among its own two axes.
        """
        order = tuple(sorted(range(self.ndim), key=lambda axis: self._axes[axis][0]))
        return order, tuple(self._axes[axis][1] < 0 for axis in order)

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in self.shape)
        step = "x".join(f"{v:g}" for v in self.spacing)
        return f"Grid({size} voxels of {step} {self.unit}, {self.orientation})"
