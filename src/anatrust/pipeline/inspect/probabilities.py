"""Whether these numbers are the probabilities of this mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.region import bounding_box
from anatrust.image.volumes import LabelMap, ProbabilityMap, value_range
from anatrust.pipeline.finding import Finding

__all__ = ["inspect_probabilities", "inspect_probability_values"]


def inspect_probability_values(array: npt.NDArray[Any], *, exclusive: bool = False) -> list[Finding]:
    """Findings about raw channel values ``(classes, ...)``, before they are trusted to be probabilities.

    ``exclusive``: the channels, background included, exclude each other and so add up to 1.

    >>> [f.code for f in inspect_probability_values(np.array([[-3.0, 4.0, 8.0]]))]
    ['logits']
    """
    array = np.asarray(array)
    low, high = value_range(array)
    if low < -1e-6 or high > 1 + 1e-6:
        return [
            Finding(
                "error",
                "logits",
                f"The probabilities lie in [{low:.3g}, {high:.3g}], not [0, 1]: logits, percentages or labels.",
                "Apply sigmoid (one class) or softmax (several) to logits; divide percentages by 100.",
            )
        ]
    if low == high:
        return [
            Finding(
                "warning",
                "constant-probabilities",
                f"Every probability is {low:.3g}: there is no information in them.",
                "Leave -p away, or export the segmenter's real probabilities.",
            )
        ]
    # Every eighth value as a rule shows one; only where none does are all of them looked at.
    parts = (channel for part in (array[..., ::8], array) for channel in part)
    slabs = (slab for channel in parts for slab in (channel if np.ndim(channel) > 1 else [channel]))
    if not any(((slab > 1e-3) & (slab < 1 - 1e-3)).any() for slab in slabs):
        return [
            Finding(
                "warning",
                "hard-probabilities",
                "All probabilities are 0 or 1: a mask, not probabilities.",
                "Export probabilities before thresholding (nnU-Net: --save_probabilities), or leave -p away.",
            )
        ]
    if exclusive and array.shape[0] > 1:
        total = array.sum(axis=0, dtype=np.float64)
        off = float((np.abs(total - 1) > 0.05).mean())
        if off > 0.01:
            return [
                Finding(
                    "warning",
                    "channels-do-not-sum",
                    f"The channels do not add up to 1 in {off:.0%} of the voxels: not one softmax.",
                    "Give the softmax output with its background channel, or one foreground channel.",
                )
            ]
    return []


def inspect_probabilities(probabilities: ProbabilityMap, labels: LabelMap) -> list[Finding]:
    """Findings about probabilities and whether they belong to the mask (same orientation)."""
    exclusive = probabilities.classes[0].lower() == "background"
    found = inspect_probability_values(probabilities.array, exclusive=exclusive)
    box = bounding_box(labels.array)
    if found or box is None:
        return found
    foreground = probabilities.foreground
    inside = np.asarray(labels.array[box] != 0)
    count, size = int(np.count_nonzero(inside)), foreground.size
    if count == size:
        return found
    total = float(foreground.sum(dtype=np.float64))
    sum_in = float(foreground[box][inside].sum(dtype=np.float64))
    mean_in, mean_out = sum_in / count, (total - sum_in) / (size - count)
    if mean_in <= mean_out:
        return [
            Finding(
                "error",
                "probabilities-disagree",
                f"The mean probability is {mean_in:.2f} inside the mask and {mean_out:.2f} outside: they do not belong "
                "together.",
                "Check that the probabilities are of this mask: not flipped, of the background or of another scan.",
            )
        ]
    if mean_in < 0.3:
        return [
            Finding(
                "warning",
                "probabilities-low",
                f"The mean probability inside the mask is only {mean_in:.2f}.",
                "Check the segmenter's threshold and that the probabilities are those of the foreground.",
            )
        ]
    for part in (foreground[..., ::8], foreground):
        # A part has no more of them than the whole, so that enough in a part is enough.
        share = float(np.count_nonzero((part > 0.01) & (part < 0.99)) / count)
        if share >= 0.02:
            break
    if share < 0.02:
        return [
            Finding(
                "info",
                "overconfident-probabilities",
                f"Only {share:.1%} as many voxels as the mask has are between 0.01 and 0.99: the segmenter is nearly "
                "always certain.",
                "Read mean probabilities with care; average logits over folds or calibrate the temperature.",
            )
        ]
    return []
