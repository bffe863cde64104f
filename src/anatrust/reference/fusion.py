"""Label fusion: what several moved references say about each voxel, weighed by how alike they look there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.image.orientation import canonical
from anatrust.models.alignment import Alignment, local_correlation
from anatrust.models.annotation import Reference

__all__ = ["Fused", "Vote", "fuse", "grey_overlap", "vote_of"]

Window = tuple[slice, ...]

_POWER = 4
_LEAST_WEIGHT = 1e-3
_MARGIN = 2
_BINS = 32


@dataclass(frozen=True, eq=False)
class Vote:
    """One reference, moved onto the target.

    ``labels`` is its label map in canonical order. On the registration's grid: ``local``, the local
    correlation of target and moved reference, ``trust``, its weight at each voxel, and ``grey``, the moved
    reference with its grey values brought to the target's.
    """

    reference: Reference
    alignment: Alignment
    labels: npt.NDArray[np.integer]
    local: npt.NDArray[np.float32]
    trust: npt.NDArray[np.float32]
    grey: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Fused:
    """What the references decided together.

    ``labels`` is on the target's canonical grid; the dictionaries go by label number:
    ``agreement`` is the mean Dice of each reference's own say with the decision (None with one
    reference), ``similarity`` the weighted local correlation and ``appearance`` the histogram
    overlap inside. ``asked`` are the voxels that any reference gave the label at all.
    """

    labels: npt.NDArray[np.uint32]
    agreement: dict[int, float | None]
    similarity: dict[int, float]
    appearance: dict[int, float]
    asked: dict[int, int]


def vote_of(reference: Reference, alignment: Alignment) -> Vote:
    """A reference's vote; its weight at a voxel is the local correlation to the fourth power."""
    labels = canonical(reference.labels.array, reference.labels.grid)[0]
    local = local_correlation(alignment.fixed, alignment.moved)
    local[~alignment.covered] = 0
    trust = (np.maximum(local, 0) ** _POWER + _LEAST_WEIGHT).astype(np.float32) * np.float32(reference.weight)
    return Vote(reference, alignment, labels, local, trust, _matched(alignment))


def fuse(votes: Sequence[Vote]) -> Fused:
    """Locally weighted voting of moved references.

    Each label's own mask is moved with linear interpolation (no staircases) and weighed voxel by
    voxel; the largest share wins, and the background has the rest. Weights are local
    correlations to a power: where a reference looks like the target it is believed.

    Parameters
    ----------
    votes
        At least one; all aligned to one target.

    Returns
    -------
    Fused
        Cost: one resampling a label and reference, within the label's box.

    References
    ----------
    Artaechevarria, Muñoz-Barrutia & Ortiz-de-Solórzano, Combination strategies in multi-atlas
    image segmentation, IEEE TMI 2009 (local weights); Sabuncu et al., IEEE TMI 2010.
    """
    shape = votes[0].alignment.target.shape
    trusts = [v.alignment.upsample(v.trust) for v in votes]
    total = np.sum(trusts, axis=0)
    best = np.zeros(shape, np.float32)
    rest = np.ones(shape, np.float32)
    winner = np.zeros(shape, np.uint32)
    said: dict[int, list[tuple[Window, npt.NDArray[np.bool_]] | None]] = {}
    boxes = [_boxes(v) for v in votes]
    for label in sorted({label for found in boxes for label in found}):
        windows = [found[label] for found in boxes if label in found]
        window = _hull(windows, shape)
        share = np.zeros(tuple(s.stop - s.start for s in window), np.float32)
        said[label] = []
        for vote, trust, found in zip(votes, trusts, boxes, strict=True):
            if label not in found:
                said[label].append(None)
                continue
            moved = _moved_mask(vote, label, window)
            share += moved * trust[window]
            said[label].append((window, moved > 0.5))
        share /= total[window]
        rest[window] -= share
        wins = share > best[window]
        winner[window][wins] = label
        best[window][wins] = share[wins]
    winner[best <= rest] = 0
    return _described(winner, votes, said)


def _boxes(vote: Vote) -> dict[int, Window]:
    """Where each label of a reference comes to lie in the target, with a margin."""
    present, dense = np.unique(vote.labels, return_inverse=True)
    moved = vote.alignment.move(dense.reshape(vote.labels.shape).astype(np.uint16), nearest=True)
    if present[0] != 0:  # no background in the reference: number 0 stands for the outside
        moved = vote.alignment.move((dense.reshape(vote.labels.shape) + 1).astype(np.uint16), nearest=True)
        present = np.insert(present, 0, 0)
    from scipy import ndimage

    found = {}
    ratio = [r / t for r, t in zip(vote.alignment.reference.spacing, vote.alignment.target.spacing, strict=True)]
    margin = [max(1, round(_MARGIN * max(1.0, r))) for r in ratio]
    for index, box in enumerate(ndimage.find_objects(moved.astype(np.int32)), start=1):
        if box is not None:
            found[int(present[index])] = tuple(
                slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, margin, moved.shape, strict=True)
            )
    return found


def _hull(windows: Sequence[Window], shape: tuple[int, ...]) -> Window:
    return tuple(
        slice(max(0, min(w[k].start for w in windows)), min(n, max(w[k].stop for w in windows)))
        for k, n in enumerate(shape)
    )


def _moved_mask(vote: Vote, label: int, window: Window) -> npt.NDArray[np.float32]:
    mask = vote.labels == label
    inside = [np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != k))) for k in range(mask.ndim)]
    # One voxel of background around it, so that interpolation at its border is right.
    cut = tuple(slice(max(0, int(i[0]) - 1), int(i[-1]) + 2) for i in inside)
    moved = vote.alignment.move(
        mask[cut].astype(np.float32),
        start=tuple(s.start for s in window),
        shape=tuple(s.stop - s.start for s in window),
        offset=tuple(s.start for s in cut),
    )
    return np.asarray(moved, dtype=np.float32)


def _described(
    winner: npt.NDArray[np.uint32],
    votes: Sequence[Vote],
    said: dict[int, list[tuple[Window, npt.NDArray[np.bool_]] | None]],
) -> Fused:
    agreement: dict[int, float | None] = {}
    similarity: dict[int, float] = {}
    appearance: dict[int, float] = {}
    asked: dict[int, int] = {}
    weights = np.array([v.reference.weight for v in votes], dtype=np.float64)
    locals_ = [v.alignment.upsample(v.local) for v in votes]
    fixed = votes[0].alignment.upsample(votes[0].alignment.fixed)
    moved = [v.alignment.upsample(v.grey) for v in votes]
    for label, opinions in said.items():
        window = next(o[0] for o in opinions if o is not None)
        chosen = winner[window] == label
        asked[label] = int(np.any([o[1] for o in opinions if o is not None], axis=0).sum())
        overlaps, likes, looks = [], [], []
        for opinion, local, other in zip(opinions, locals_, moved, strict=True):
            own = opinion[1] if opinion is not None else np.zeros_like(chosen)
            size = int(own.sum() + chosen.sum())
            overlaps.append(2 * int((own & chosen).sum()) / size if size else 1.0)
            likes.append(float(np.clip(local[window][chosen].mean(), 0, 1)) if chosen.any() else 0.0)
            looks.append(grey_overlap(fixed[window][chosen], other[window][own]))
        agreement[label] = float(np.average(overlaps, weights=weights)) if len(votes) > 1 else None
        similarity[label] = float(np.average(likes, weights=weights))
        appearance[label] = max(looks)
    return Fused(winner, agreement, similarity, appearance, asked)


def _matched(alignment: Alignment) -> npt.NDArray[np.float32]:
    """The moved reference with the target's mean and deviation where both are.

    Fields of view and scanners differ in scale. Nothing more flexible than a line: it would
    explain away an organ that is gone.
    """
    inside = alignment.covered
    theirs, ours = alignment.moved[inside], alignment.fixed[inside]
    if theirs.size == 0 or theirs.std() == 0:
        return alignment.moved
    gain = ours.std() / theirs.std()
    return np.asarray((alignment.moved - theirs.mean()) * gain + ours.mean(), dtype=np.float32)


def grey_overlap(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Common area of two histograms of grey values, smoothed; what lies beyond 0 and 1 counts at the ends.

    Examples
    --------
    >>> dark, bright = np.full(9, 0.2, np.float32), np.full(9, 0.9, np.float32)
    >>> round(grey_overlap(dark, dark), 3), grey_overlap(dark, bright)
    (1.0, 0.0)
    """
    if one.size == 0 or other.size == 0:
        return 0.0
    shares = []
    for values in (one, other):
        counts = np.histogram(np.clip(values, 0, 1), bins=_BINS, range=(0, 1))[0].astype(np.float64)
        smooth = np.convolve(np.pad(counts, 2, mode="reflect"), (0.1, 0.2, 0.4, 0.2, 0.1), mode="valid")
        shares.append(smooth / smooth.sum())
    return float(np.minimum(*shares).sum())
