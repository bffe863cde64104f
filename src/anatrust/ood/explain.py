"""Why a scan was called strange: which level, which crop, which usual scans are nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.metrics import auroc
from anatrust.ood.features import ScanFeatures
from anatrust.ood.screen import Screener

__all__ = ["Explanation", "explain", "permutation_importance"]


@dataclass(frozen=True)
class Explanation:
    """What drives the abnormality of one scan.

    Parameters
    ----------
    levels
        ``(name, drop)``: by how much the abnormality falls when that level's features are set to
        the mean of the usual scans, largest first; a whole part's where kinds of features stand side
        by side. Levels that say the same hide each other.
    crops
        Abnormality of each crop alone, in the order of drawing.
    nearest
        ``(identifier, distance)`` of the usual fit scans nearest in standardised features.
    """

    levels: tuple[tuple[str, float], ...]
    crops: tuple[float, ...]
    nearest: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "levels": [list(pair) for pair in self.levels],
            "crops": list(self.crops),
            "nearest": [list(pair) for pair in self.nearest],
        }


def _slices(levels: Sequence[tuple[str, int]]) -> list[tuple[str, slice]]:
    """Columns of each level; of each part (before ``": "``) where several stand side by side."""
    parts = list(dict.fromkeys(name.partition(": ")[0] for name, _ in levels if ": " in name))
    if len(parts) > 1:
        levels = [(part, sum(w for name, w in levels if name.startswith(f"{part}: "))) for part in parts]
    ends = np.cumsum([width for _, width in levels]).tolist()
    return [(name, slice(end - width, end)) for (name, width), end in zip(levels, ends, strict=True)]


def explain(screener: Screener, scan: ScanFeatures, *, neighbours: int = 3) -> Explanation:
    """Explain one scan's abnormality; works for every detector and their combination.

    Parameters
    ----------
    screener
        Fitted; it need not be calibrated.
    scan
        Made like the fit scans.
    neighbours
        How many of the nearest usual scans to name.

    Raises
    ------
    InputError
        If ``neighbours`` is below 1 or the features were made otherwise.
    """
    if neighbours < 1:
        raise InputError(f"at least one neighbour is named, not {neighbours}")
    usual = screener.fit_means.mean(axis=0)
    variants = [scan]
    for _, columns in _slices(scan.levels):
        values = scan.values.copy()
        values[:, columns] = usual[columns]
        variants.append(ScanFeatures(scan.identifier, values, scan.levels, scan.identity))
    crops = [ScanFeatures(scan.identifier, row[None], scan.levels, scan.identity) for row in scan.values]
    scores = screener.abnormality([*variants, *crops])
    whole, masked, alone = scores[0], scores[1 : len(variants)], scores[len(variants) :]
    drops = [(name, float(whole - score)) for (name, _), score in zip(_slices(scan.levels), masked, strict=True)]
    scale = screener.fit_means.std(axis=0)
    apart = (screener.fit_means - scan.values.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    distance = np.sqrt((apart**2).mean(axis=1))
    order = np.argsort(distance, kind="stable")[:neighbours]
    return Explanation(
        tuple(sorted(drops, key=lambda pair: -pair[1])),
        tuple(alone.tolist()),
        tuple((screener.fit_identifiers[i], float(distance[i])) for i in order),
    )


def permutation_importance(
    screener: Screener,
    inside: Sequence[ScanFeatures],
    outside: Sequence[ScanFeatures],
    *,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[tuple[str, float], ...]:
    """AUROC lost when one level's features are exchanged at random among scans, largest first.

    Parameters
    ----------
    screener
        Fitted, on other scans.
    inside, outside
        Usual and strange scans with equally many crops each.
    repeats, seed
        Random exchanges a level (Breiman 2001).

    Raises
    ------
    InputError
        If a kind is missing, crops differ in number, or ``repeats`` is below 1.
    """
    scans = [*inside, *outside]
    if not inside or not outside or repeats < 1 or len({len(scan.values) for scan in scans}) > 1:
        raise InputError("importance needs scans of both kinds with equally many crops, and at least one repeat")
    rng = np.random.default_rng(seed)

    def found(values: npt.NDArray[np.float32]) -> float:
        moved = [ScanFeatures(s.identifier, v, s.levels, s.identity) for s, v in zip(scans, values, strict=True)]
        scores = screener.abnormality(moved)
        return auroc(scores[: len(inside)], scores[len(inside) :])

    stack = np.stack([scan.values for scan in scans])
    whole = found(stack)
    lost = []
    for name, columns in _slices(screener.levels):
        drops = []
        for _ in range(repeats):
            exchanged = stack.copy()
            exchanged[:, :, columns] = stack[rng.permutation(len(scans))][:, :, columns]
            drops.append(whole - found(exchanged))
        lost.append((name, float(np.mean(drops))))
    return tuple(sorted(lost, key=lambda pair: -pair[1]))
