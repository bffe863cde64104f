"""Where one scan lies in another: the frame SimpleITK works in, and what an alignment can move.

Voxels stand in canonical (RAS+) order, in millimetres from the first voxel. Where a file puts its
patient in the scanner plays no part, and the way it stores its axes cannot change a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical_grid

__all__ = [
    "Alignment",
    "Frame",
    "first_centre",
    "frame_pair",
    "from_itk",
    "itk_image",
    "local_correlation",
    "one_thread",
]

_DIAGONAL = 256.0
_NOISE = 1e-4  # variance below which grey values from 0 to 1 count as flat


@dataclass(frozen=True, eq=False)
class Frame:
    """A scan's grid as SimpleITK is told it: canonical order, origin 0, no direction.

    ``unit`` is the length of one unit in the grid's own (1 for millimetres; for pictures the
    pixel, scaled so that the image's diagonal measures 256).
    """

    grid: Grid
    unit: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each canonical axis."""
        return canonical_grid(self.grid).shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel edges along the canonical axes."""
        return tuple(step / self.unit for step in canonical_grid(self.grid).spacing)

    def image(self, array: npt.NDArray[Any]) -> Any:
        """A canonical array ``(*shape)`` as a SimpleITK image."""
        return itk_image(array, self.spacing)


def frame_pair(target: Grid, reference: Grid) -> tuple[Frame, Frame]:
    """Frames of two grids in one unit: millimetres where both know them, else the image diagonal.

    Raises
    ------
    GeometryError
        If one is a volume and the other an image.
    """
    if target.ndim != reference.ndim:
        raise GeometryError(
            f"the scan ({target!r}) and the reference ({reference!r}) have {target.ndim} and {reference.ndim} axes:"
            " give a reference of the same kind (a slice for a slice), or a bank made with slices"
        )
    if target.spacing_known and reference.spacing_known:
        return Frame(target), Frame(reference)
    return Frame(target, _diagonal(target) / _DIAGONAL), Frame(reference, _diagonal(reference) / _DIAGONAL)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where each place of the target lies in the reference.

    Parameters
    ----------
    target, reference
        The two frames.
    similarity
        Correlation of the target with the moved reference on the registration's grid, from -1
        to 1, over the voxels that both have.
    overlap
        Share of the target that the moved reference covers.
    mirrored_gain
        By how much a mirrored reference correlated better after the affine; None if not tried.
    """

    target: Frame
    reference: Frame
    similarity: float
    overlap: float
    mirrored_gain: float | None
    fixed: npt.NDArray[np.float32]
    moved: npt.NDArray[np.float32]
    covered: npt.NDArray[np.bool_]
    working: tuple[float, ...]
    transform: Any = field(repr=False)

    def move(
        self,
        array: npt.NDArray[Any],
        *,
        nearest: bool = False,
        start: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
        offset: tuple[int, ...] | None = None,
    ) -> npt.NDArray[Any]:
        """Bring values of the reference to the target's canonical grid, or to a box of it.

        Parameters
        ----------
        array
            Values in the reference's canonical order, real, or a box of them from voxel ``offset``.
        nearest
            Take the nearest value instead of interpolating linearly.
        start, shape
            Box of the target (voxels); all of it by default.
        offset
            First voxel of ``array`` in the reference.

        Returns
        -------
        ndarray of ``shape``; 0 outside the reference. Cost: linear in the box.
        """
        import SimpleITK

        steps = self.target.spacing
        resampler = one_thread(SimpleITK.ResampleImageFilter())
        resampler.SetSize([int(n) for n in (shape or self.target.shape)])
        resampler.SetOutputSpacing([float(s) for s in steps])
        resampler.SetOutputOrigin([n * s for n, s in zip(start or (0,) * len(steps), steps, strict=True)])
        resampler.SetTransform(self.transform)
        resampler.SetInterpolator(SimpleITK.sitkNearestNeighbor if nearest else SimpleITK.sitkLinear)
        moving = itk_image(array, self.reference.spacing, offset)
        return from_itk(resampler.Execute(moving))

    def upsample(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Values on the registration's grid, brought linearly to the target's canonical grid."""
        import SimpleITK

        if weights.shape == self.target.shape:
            return weights
        # Constant beyond the outermost centres of the coarse grid: pad it by one voxel.
        padded = np.pad(weights, 1, mode="edge")
        resampler = one_thread(SimpleITK.ResampleImageFilter())
        resampler.SetSize([int(n) for n in self.target.shape])
        resampler.SetOutputSpacing([float(s) for s in self.target.spacing])
        resampler.SetInterpolator(SimpleITK.sitkLinear)
        image = itk_image(
            padded, self.working, (-1,) * weights.ndim, first=first_centre(self.working, self.target.spacing)
        )
        image = from_itk(resampler.Execute(image))
        return np.asarray(image, dtype=np.float32)


def _diagonal(grid: Grid) -> float:
    return float(np.linalg.norm([n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]))


def first_centre(steps: Any, own: Any) -> tuple[float, ...]:
    """Centre of the first coarse voxel where the first fine one is at 0."""
    return tuple((float(s) - float(o)) / 2 for s, o in zip(steps, own, strict=True))


def local_correlation(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], sigma: float = 2.0
) -> npt.NDArray[np.float32]:
    """Correlation of two images in a Gaussian window around each voxel; 0 where either is flat.

    Parameters
    ----------
    one, other
        Grey values from 0 to 1 on one grid.
    sigma
        Standard deviation of the window, in voxels.

    Returns
    -------
    float32 array from -1 to 1. Cost: five Gaussian filters.

    References
    ----------
    Cachier et al., Iconic feature based nonrigid registration, 2003.
    """
    from scipy import ndimage

    def mean(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        smooth: npt.NDArray[np.float32] = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=2.5)
        return smooth

    a, b = mean(one), mean(other)
    squares = np.maximum(mean(one * one) - a * a, 0) + _NOISE, np.maximum(mean(other * other) - b * b, 0) + _NOISE
    return np.clip((mean(one * other) - a * b) / np.sqrt(squares[0] * squares[1]), -1, 1)


def itk_image(
    array: npt.NDArray[Any],
    spacing: Any,
    offset: tuple[int, ...] | None = None,
    *,
    first: tuple[float, ...] | None = None,
) -> Any:
    """An array in canonical order as a SimpleITK image that begins at voxel ``offset``; voxel 0 lies at ``first``."""
    import SimpleITK

    work = array.astype(np.uint8) if array.dtype == np.bool_ else array
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(work.transpose()))
    image.SetSpacing([float(s) for s in spacing])
    start = offset or (0,) * array.ndim
    begin = first or (0.0,) * array.ndim
    image.SetOrigin([float(b + n * s) for b, n, s in zip(begin, start, spacing, strict=True)])
    return image


def from_itk(image: Any) -> npt.NDArray[Any]:
    """A SimpleITK image as an array in canonical order."""
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayFromImage(image).transpose())


def one_thread(tool: Any) -> Any:
    """Sums over threads depend on how many there are; one thread, one result."""
    tool.SetNumberOfThreads(1)
    return tool
