"""Regions followed from key slices through a volume without weights: each slice registered to its neighbour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anatrust.errors import AnatrustError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.models.registration import RegistrationSettings, register
from anatrust.reference.fusion import grey_overlap

__all__ = ["RegisteredSlices", "SliceTracker"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_QUICK = RegistrationSettings(voxels=40_000, affine_steps=15, demons_steps=15, mirrored=False, turned=False)


class SliceTracker(Protocol):
    """Follows regions from key slices through a volume; `Sam2SliceTracker` is another."""

    @property
    def identity(self) -> str:
        """Exactly what follows."""

    def track(
        self, slices: Floats, anchors: Mapping[int, Mapping[int, Bools]]
    ) -> tuple[dict[int, Floats], dict[int, Floats]]:
        """Chances ``(slices, rows, columns)`` and presence ``(slices,)`` by label, see `Sam2SliceTracker.track`."""


@dataclass(frozen=True)
class RegisteredSlices:
    """Moves masks from slice to slice by registration, and stops where they no longer look like themselves.

    Parameters
    ----------
    settings
        Of the registration of neighbours.
    least_overlap
        Overlap of grey-value histograms with the key slice's region, below which the region has ended.
    """

    settings: RegistrationSettings = field(default_factory=lambda: _QUICK)
    least_overlap: float = 0.4

    @property
    def identity(self) -> str:
        """How it follows."""
        return f"registered slices {self.settings} least-overlap={self.least_overlap:g}"

    def track(
        self, slices: Floats, anchors: Mapping[int, Mapping[int, Bools]]
    ) -> tuple[dict[int, Floats], dict[int, Floats]]:
        """As `Sam2SliceTracker.track`. Between two key slices both are believed by their nearness.

        Cost: one registration of two slices for each pair of neighbours and direction.
        """
        labels = sorted({label for masks in anchors.values() for label, mask in masks.items() if mask.any()})
        if not labels:
            raise InputError("slices are followed from what is drawn on at least one of them: there is no mask")
        chances = {label: np.zeros(slices.shape, np.float32) for label in labels}
        weights = {label: np.zeros(len(slices), np.float32) for label in labels}
        places = sorted(anchors)
        for k, place in enumerate(places):
            before = places[k - 1] if k else -1
            after = places[k + 1] if k + 1 < len(places) else len(slices)
            for label in labels:
                mask = anchors[place].get(label)
                if mask is not None:
                    chances[label][place], weights[label][place] = mask, 1.0
            masks = {n: m.astype(np.float32) for n, m in anchors[place].items() if m.any()}
            for stop, step in ((before, -1), (after, 1)):
                self._follow(slices, place, stop, step, dict(masks), chances, weights)
        present = {}
        for label in labels:
            known = weights[label] > 0
            chances[label][known] /= weights[label][known, None, None]
            present[label] = np.minimum(weights[label], 1.0)
        return chances, present

    def _follow(
        self,
        slices: Floats,
        place: int,
        stop: int,
        step: int,
        masks: dict[int, Floats],
        chances: dict[int, Floats],
        weights: dict[int, Floats],
    ) -> None:
        seen = {n: slices[place][m > 0.5] for n, m in masks.items()}
        ends = abs(stop - place)
        for at in range(place + step, stop, step):
            if not masks:
                return
            try:
                found = register(_image(slices[at]), _image(slices[at - step]), self.settings)
            except AnatrustError:  # a blank slice: nothing is beyond it
                return
            # Nearer key slices have more say; beyond the last one there is only one.
            open_end = stop in (-1, len(slices))
            share = 1.0 if open_end else 1 - abs(at - place) / ends
            for label in list(masks):
                moved = np.asarray(found.move(masks[label]), dtype=np.float32)
                inside = moved > 0.5
                if not inside.any() or grey_overlap(slices[at][inside], seen[label]) < self.least_overlap:
                    del masks[label]
                    continue
                masks[label] = moved
                chances[label][at] += share * moved
                weights[label][at] += share


def _image(array: Floats) -> Scan:
    return Scan(np.ascontiguousarray(array), Grid(array.shape, np.eye(4)))
