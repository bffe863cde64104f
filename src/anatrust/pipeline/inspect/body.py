"""Where the patient is: a rough body mask, and None where it cannot be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.volumes import Scan

__all__ = ["Body", "border_values", "find_body"]

# Large scans are thinned to about this many voxels: the gate looks at the whole, not at edges.
_VOXELS = 2_000_000
_AIR_HU = -500.0


@dataclass(frozen=True, eq=False)
class Body:
    """The patient, known on every n-th voxel of a scan: a block of voxels shares the answer.

    Parameters
    ----------
    inside
        Boolean, the scan thinned by ``steps``.
    steps
        Voxels of the scan a voxel of ``inside`` stands for, along each axis.
    """

    inside: npt.NDArray[np.bool_]
    steps: tuple[int, ...]

    def thinned(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The voxels of the scan (or what else has its shape) that ``inside`` is about; a view."""
        return array[tuple(slice(None, None, step) for step in self.steps)]

    def within(self, box: Sequence[slice]) -> npt.NDArray[np.bool_]:
        """The body in a box of the scan, voxel by voxel; cost: the box."""
        places = [np.arange(edge.start, edge.stop) // step for edge, step in zip(box, self.steps, strict=True)]
        return np.asarray(self.inside[np.ix_(*places)])


def border_values(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The voxels on the faces of an array of axes longer than 2 (slice stacks: not the end slices).

    A volume's first and last slice lie in the body, so only in-plane faces tell what
    surrounds the patient. Slices are taken along the last axis.
    """
    return np.concatenate([part.ravel() for axis in (0, 1) for part in (array.take(0, axis), array.take(-1, axis))])


def find_body(scan: Scan) -> Body | None:
    """Voxels of the patient, or None if no air surrounds them in this image.

    CT in HU: everything above −500 HU. Otherwise: brighter than a tenth of the 90th
    percentile. Holes are filled slice by slice along the last axis (lungs belong to the
    body) and specks under 1 % of the body are dropped. A crop inside the body, a photograph
    or an ultrasound has no air around it: None, and checks that need a body are left out.

    Returns
    -------
    Body, or None. Cost: a few passes over at most two million voxels.
    """
    if scan.modality in ("photo", "US"):
        return None
    step = max(1, int(np.ceil((scan.array.size / _VOXELS) ** (1 / scan.array.ndim))))
    steps = tuple(step if n >= 64 else 1 for n in scan.array.shape)
    thin = scan.array[tuple(slice(None, None, n) for n in steps)].astype(np.float32)
    if scan.modality == "CT" and thin.min() < _AIR_HU:
        threshold = _AIR_HU
    else:
        low, high = np.percentile(thin, (0.5, 90))
        threshold = float(low + 0.1 * (high - low))
    bright = thin > threshold
    around = border_values(bright)
    if around.mean() > 0.7 or not bright.any() or bright.all():
        return None
    bright = _filled(_largest(bright))
    if bright.mean() < 0.01:
        return None
    return Body(bright, steps)


def _largest(bright: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    labels, count = ndimage.label(bright)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= max(1.0, 0.01 * sizes[1:].max())
    keep[0] = False
    kept: npt.NDArray[np.bool_] = keep[labels]
    return kept


def _filled(bright: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if bright.ndim == 2:
        filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(bright)
        return filled
    return np.stack([ndimage.binary_fill_holes(bright[..., k]) for k in range(bright.shape[-1])], axis=-1)
