"""How sure the segmenter itself was: entropy and largest probability, at the outline and inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import ProbabilityMap
from anatrust.ood.logit_scores import logit_map

__all__ = ["Sureness", "Uncertainty", "uncertainty"]

_UNSURE = 0.7
_CLOSE_MM = 2.0
# Probabilities stored in eight bits sum to 1 up to this.
_ROUNDING = 0.05
_SLAB_VOXELS = 4_000_000


@dataclass(frozen=True)
class Sureness:
    """Means over one part of the scan.

    Entropy (0 sure, 1 as unsure as can be), largest probability, and the share of voxels whose
    largest probability is below 0.7.
    """

    part: str
    entropy: float
    largest: float
    unsure: float


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Maps of shape ``grid.shape`` in [0, 1], and their means by part.

    ``parts`` are "at the outline" (within 2 mm, at least one voxel, on either side), "inside" and
    "outside" (what is left of the mask and of what the segmenter gave more than 1 %), where there
    are such voxels.
    """

    entropy: npt.NDArray[np.float32]
    largest: npt.NDArray[np.float32]
    parts: tuple[Sureness, ...]


def uncertainty(probabilities: ProbabilityMap, mask: npt.NDArray[np.bool_]) -> Uncertainty:
    """Entropy and largest probability of every voxel, and their means by part of the mask.

    Channels that exclude each other (the first named background) are taken together; overlapping
    ones and a single one as structure against background. Entropy is divided by its largest
    possible value. A segmenter that is merely unsure where an edge runs is unsure at the outline
    alone; one that is unsure inside may have drawn what is not there.

    Parameters
    ----------
    probabilities
        On the mask's grid.
    mask
        What was drawn, boolean.

    Examples
    --------
    >>> from anatrust.image.grid import Grid
    >>> soft = np.array([[0.0, 0.5, 1.0, 1.0, 1.0, 1.0]], np.float32)
    >>> found = uncertainty(ProbabilityMap(soft[None], Grid(soft.shape, np.eye(4))), soft > 0.5)
    >>> found.entropy[0, :3].tolist(), [part.part for part in found.parts]
    ([0.0, 1.0, 0.0], ['at the outline', 'inside'])
    """
    entropy = np.empty(mask.shape, dtype=np.float32)
    largest = np.empty(mask.shape, dtype=np.float32)
    taken_together = _exclude_each_other(probabilities)
    for slab in _slabs(mask.shape):
        values = np.clip(probabilities.array[(slice(None), *slab)].astype(np.float32), 0, 1)
        if taken_together:
            values /= values.sum(axis=0)
        else:
            one = values[0] if len(values) == 1 else 1 - values[0] if _named(probabilities) else values.max(axis=0)
            values = np.stack([1 - one, one])
        nats = logit_map(values, "entropy", kind="probabilities")
        entropy[slab] = np.clip(np.abs(nats) / np.log(len(values)), 0, 1)
        largest[slab] = values.max(axis=0)
    outline = _outline(mask, probabilities.grid.spacing if probabilities.grid.spacing_known else None)
    seen = probabilities.foreground > 0.01
    parts = []
    for name, part in (
        ("at the outline", outline),
        ("inside", mask & ~outline),
        ("outside", seen & ~mask & ~outline),
    ):
        if part.any():
            top = largest[part]
            parts.append(Sureness(name, float(entropy[part].mean()), float(top.mean()), float((top < _UNSURE).mean())))
    return Uncertainty(entropy, largest, tuple(parts))


def _named(probabilities: ProbabilityMap) -> bool:
    return len(probabilities.classes) > 1 and probabilities.classes[0].lower() == "background"


def _exclude_each_other(probabilities: ProbabilityMap) -> bool:
    """Whether the channels are a background and classes that sum to one everywhere."""
    if not _named(probabilities):
        return False
    for slab in _slabs(probabilities.grid.shape):
        total = np.clip(probabilities.array[(slice(None), *slab)].astype(np.float32), 0, 1).sum(axis=0)
        if np.abs(total - 1).max() >= _ROUNDING:
            return False
    return True


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Pieces along the first axis, so that what is computed between takes little memory."""
    step = max(1, _SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    for first in range(0, shape[0], step):
        yield (slice(first, first + step),)


def _outline(mask: npt.NDArray[np.bool_], spacing: tuple[float, ...] | None) -> npt.NDArray[np.bool_]:
    """Voxels within 2 mm of the mask's surface on either side, at least one layer of them."""
    from scipy.ndimage import binary_dilation, binary_erosion, generate_binary_structure

    times = 1 if spacing is None else max(1, round(_CLOSE_MM / min(spacing)))
    structure = generate_binary_structure(mask.ndim, 1)
    grown = binary_dilation(mask, structure, iterations=times)
    shrunk = binary_erosion(mask, structure, iterations=times, border_value=1)
    return np.asarray(grown & ~shrunk)
