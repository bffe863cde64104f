"""Hand-made local descriptors: what a small neighbourhood looks like, with no weights to download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.volumes import Scan

__all__ = ["LocalDescriptors"]


@dataclass(frozen=True)
class LocalDescriptors:
    """Encoder of intensity, local mean and deviation, gradient magnitude and LoG at a few scales.

    Parameters
    ----------
    window
        Standard deviation (mm) of the Gaussian window of local mean and local deviation.
    gradient
        Standard deviation (mm) of the Gaussian before the gradient.
    scales
        Standard deviations (mm) of the Laplacians of Gaussian, each multiplied by its variance
        so that scales compare (Lindeberg 1998).

    Lengths are in mm on every grid, so anisotropic voxels are seen as they are; where the
    spacing is unknown they are pixels. Time is linear in voxels; memory is
    ``4 + len(scales)`` float32 volumes and a few float64 ones while working.

    Raises
    ------
    InputError
        If a length is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> encoder = LocalDescriptors()
    >>> encoder.encode(Scan(np.zeros((8, 9), np.float32), Grid((8, 9), np.eye(4)))).shape
    (8, 9, 7)
    """

    window: float = 2.0
    gradient: float = 1.0
    scales: tuple[float, ...] = (1.5, 3.0, 6.0)
    name: str = "local-descriptors"

    def __post_init__(self) -> None:
        if not all(0 < length < float("inf") for length in (self.window, self.gradient, *self.scales)):
            raise InputError("descriptor lengths must be positive: window, gradient and every scale, in mm")
        object.__setattr__(self, "scales", tuple(float(s) for s in self.scales))

    @property
    def identity(self) -> str:
        """Name, revision and settings: equal strings give equal features."""
        scales = ",".join(f"{s:g}" for s in self.scales)
        return f"{self.name}/1 window={self.window:g} gradient={self.gradient:g} scales={scales}"

    @property
    def names(self) -> tuple[str, ...]:
        """What each feature is, in order."""
        logs = tuple(f"LoG {s:g}" for s in self.scales)
        return ("intensity", "local mean", "local deviation", "gradient magnitude", *logs)

    def width(self, ndim: int) -> int:  # noqa: ARG002 - as other descriptors, which have more in 3-D
        """How many features a voxel has."""
        return len(self.names)

    @property
    def margin(self) -> float:
        """How far (mm) a feature looks: crops need this much around what they describe."""
        return 4.0 * max(self.window, self.gradient, *self.scales)

    def encode(self, scan: Scan) -> npt.NDArray[np.float32]:
        """Features of shape ``(*scan.grid.shape, 4 + len(scales))``, float32.

        The image is continued by mirroring at its edges. Features are in the scan's unit (LoG
        and gradient too, the latter per mm); whiten them on normal tissue before comparing.
        Grey values beyond about 1e38 overflow to features that are not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self._encode(scan)

    def _encode(self, scan: Scan) -> npt.NDArray[np.float32]:
        from scipy import ndimage

        image = scan.array.astype(np.float64)
        spacing = scan.grid.spacing
        out = np.empty((*image.shape, 4 + len(self.scales)), dtype=np.float32)
        # Centring first keeps the variance formula below exact for large offsets such as -1024 HU.
        offset = float(image.mean())
        image -= offset

        def smooth(volume: npt.NDArray[np.float64], length: float) -> npt.NDArray[np.float64]:
            sigma = [length / step for step in spacing]
            result: npt.NDArray[np.float64] = ndimage.gaussian_filter(volume, sigma, mode="mirror")
            return result

        def difference(
            volume: npt.NDArray[np.float64], axis: int, weights: tuple[float, float, float]
        ) -> npt.NDArray[np.float64]:
            result: npt.NDArray[np.float64] = ndimage.correlate1d(volume, weights, axis=axis, mode="mirror")
            return result

        # Derivatives are differences of smoothed values: sampled derivatives of a Gaussian narrower
        # than a voxel (thick slices) do not vanish on a constant or a ramp.
        axes = range(image.ndim)
        mean = smooth(image, self.window)
        out[..., 0] = image + offset
        out[..., 1] = mean + offset
        out[..., 2] = np.sqrt(np.maximum(smooth(image**2, self.window) - mean**2, 0.0))
        soft = smooth(image, self.gradient)
        slopes = [difference(soft, a, (-0.5, 0.0, 0.5)) / spacing[a] for a in axes]
        out[..., 3] = np.sqrt(np.sum([slope**2 for slope in slopes], axis=0))
        for i, scale in enumerate(self.scales):
            soft = smooth(image, scale)
            bends = [difference(soft, a, (1.0, -2.0, 1.0)) / spacing[a] ** 2 for a in axes]
            out[..., 4 + i] = scale**2 * np.sum(bends, axis=0)
        return out
