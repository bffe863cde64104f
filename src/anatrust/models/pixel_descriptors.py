"""What a pixel classifier looks at: means, edges and the bending of the grey values, from fine to coarse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.volumes import Scan

__all__ = ["PixelDescriptors", "symmetric_eigenvalues"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PixelDescriptors:
    """Gaussian mean, gradient magnitude and Hessian eigenvalues at several scales, as in ilastik.

    A bright blob bends down along every axis, a vessel along all but one, a rim along one: the
    eigenvalues, ascending, tell them apart where Laplacian and gradient do not.

    Parameters
    ----------
    scales
        Standard deviations (mm) of the Gaussians. Derivatives are multiplied by the scale to their
        order, so that scales compare (Lindeberg 1998).

    Lengths are in mm on every grid; where the spacing is unknown they are pixels. Nothing changes
    when the image is flipped. Time is linear in voxels and scales; memory is all features in float32 and
    about ten float32 volumes while working.

    Raises
    ------
    InputError
        If a scale is not positive.

    References
    ----------
    Berg et al., ilastik, Nature Methods 16 (2019); Frangi et al., MICCAI 1998 (eigenvalues of blobs and tubes).

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> scan = Scan(np.zeros((9, 9), np.float32), Grid((9, 9), np.eye(4)))
    >>> PixelDescriptors(scales=(2.0,)).encode(scan).shape
    (9, 9, 5)
    """

    scales: tuple[float, ...] = (1.5, 3.0, 5.0, 8.0)

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < length < float("inf") for length in self.scales):
            raise InputError("descriptors need at least one scale, each a positive length in mm")
        object.__setattr__(self, "scales", tuple(float(s) for s in self.scales))

    @property
    def identity(self) -> str:
        """Name, revision and settings: equal strings give equal features."""
        return f"pixel-descriptors/1 scales={','.join(f'{s:g}' for s in self.scales)}"

    def width(self, ndim: int) -> int:
        """How many features a voxel of a 2-D or 3-D image has."""
        return 1 + len(self.scales) * (2 + ndim)

    @property
    def margin(self) -> float:
        """How far (mm) a feature looks: crops need this much around what they describe."""
        return 3.0 * max(self.scales)

    def encode(self, scan: Scan) -> Floats:
        """Features of shape ``(*scan.grid.shape, width(ndim))``, float32; the image is mirrored at its edges."""
        from scipy import ndimage

        image = scan.array.astype(np.float32)
        spacing = scan.grid.spacing
        out = np.empty((*image.shape, self.width(image.ndim)), dtype=np.float32)
        out[..., 0] = image
        axes = range(image.ndim)
        for number, scale in enumerate(self.scales):
            first = 1 + number * (2 + image.ndim)
            sigma = [scale / step for step in spacing]
            soft = ndimage.gaussian_filter(image, sigma, mode="mirror", truncate=3.0)
            # Differences of smoothed values: sampled derivatives of a Gaussian narrower than a voxel do not
            # vanish on a constant or a ramp.
            slopes = [ndimage.correlate1d(soft, (-0.5, 0.0, 0.5), axis=a, mode="mirror") / spacing[a] for a in axes]
            bends = {}
            for a in axes:
                bends[a, a] = ndimage.correlate1d(soft, (1.0, -2.0, 1.0), axis=a, mode="mirror") / spacing[a] ** 2
                for b in range(a + 1, image.ndim):
                    both = ndimage.correlate1d(slopes[a], (-0.5, 0.0, 0.5), axis=b, mode="mirror")
                    bends[a, b] = both / spacing[b]
            out[..., first] = soft
            out[..., first + 1] = scale * np.sqrt(np.sum([slope**2 for slope in slopes], axis=0))
            for k, value in enumerate(symmetric_eigenvalues(bends, image.ndim)):
                out[..., first + 2 + k] = scale**2 * value
        return out


def symmetric_eigenvalues(
    entries: dict[tuple[int, int], npt.NDArray[np.floating]], ndim: int
) -> Sequence[npt.NDArray[np.floating]]:
    """Eigenvalues of symmetric 2×2 or 3×3 matrices in closed form, ascending.

    Parameters
    ----------
    entries
        The upper triangle, ``(row, column)`` → an array of any shape.
    ndim
        2 or 3.

    References
    ----------
    Smith, Eigenvalues of a symmetric 3×3 matrix, Commun. ACM 4 (1961).

    Examples
    --------
    >>> low, high = symmetric_eigenvalues({(0, 0): np.array(2.0), (1, 1): np.array(2.0), (0, 1): np.array(1.0)}, 2)
    >>> float(low), float(high)
    (1.0, 3.0)
    """
    middle = sum(entries[a, a] for a in range(ndim)) / ndim
    off = sum(entries[a, b] ** 2 for a in range(ndim) for b in range(a + 1, ndim))
    if ndim == 2:
        reach = np.sqrt(((entries[0, 0] - entries[1, 1]) / 2) ** 2 + off)
        return middle - reach, middle + reach
    x, y, z = (entries[a, a] - middle for a in range(3))
    # The mean of the squared entries of what is left when a third of the trace is taken off.
    scale = np.sqrt((x**2 + y**2 + z**2 + 2 * off) / 6)
    safe = np.where(scale > 0, scale, 1.0)
    xy, xz, yz = (entries[k] / safe for k in ((0, 1), (0, 2), (1, 2)))
    x, y, z = x / safe, y / safe, z / safe
    half = (x * (y * z - yz**2) - xy * (xy * z - yz * xz) + xz * (xy * yz - y * xz)) / 2
    angle = np.arccos(np.clip(half, -1.0, 1.0)) / 3
    largest = middle + 2 * scale * np.cos(angle)
    smallest = middle + 2 * scale * np.cos(angle + 2 * np.pi / 3)
    return smallest, 3 * middle - largest - smallest, largest
