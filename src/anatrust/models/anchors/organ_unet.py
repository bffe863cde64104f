"""Anchors from the embedded organ model, for the organs it is good enough for (extra ``deep``)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np

from anatrust.errors import InputError
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.organ_unet import (
    ORGAN_CLASSES,
    OrganCard,
    OrganModel,
    OrganSight,
    embedded_organ_model,
    label_organs,
    middle_of,
    on_sides,
    organ_card,
)

__all__ = ["OrganUNetAnchors", "load"]

# Structures of the knowledge table: the network's class, and the side where it has one.
_STRUCTURES: dict[str, tuple[str, str]] = {
    "liver": ("liver", ""),
    "spleen": ("spleen", ""),
    "kidney": ("kidneys", ""),
    "kidney_left": ("kidneys", "left"),
    "kidney_right": ("kidneys", "right"),
    "pancreas": ("pancreas", ""),
    "stomach": ("stomach", ""),
    "urinary_bladder": ("bladder", ""),
    "lung": ("lungs", ""),
    "lung_left": ("lungs", "left"),
    "lung_right": ("lungs", "right"),
    "aorta": ("aorta", ""),
    "vertebra": ("spine", ""),
}

# Cubic metres: twice a whole-body scan. A header with a wrong unit would fill the memory with 5 mm voxels.
_LARGEST = 2.0
_COARSE = "it was drawn on voxels of 5 mm, so that a candidate at its edge may be a neighbour of it"
_MIRRORED = "the body looks mirrored: left and right of the header may be swapped"


class OrganUNetAnchors:
    """The embedded organ model as a provider of anchors.

    Only organs are offered that reached a mean Dice of 0.7 on patients never used in training. The card
    says which: as yet the liver alone, so that for others the chain goes on; a better network needs only
    its weights and card.
    Where the network's views of one scan differ, the anchor is unreliable; where it recognises more in
    the mirrored scan, sides are swapped and the anchor says so.

    Parameters
    ----------
    model, card
        The network and what is known of it; by default those in the package, loaded when an organ
        that is offered is asked for.
    least_agreement
        Dice between two halves of the network's views below which an anchor is unreliable.

    Raises
    ------
    InputError
        If the agreement is no share.
    """

    name: ClassVar[str] = "organ-unet"

    def __init__(
        self,
        model: OrganModel | None = None,
        card: OrganCard | None = None,
        *,
        device: str = "cpu",
        least_agreement: float = 0.7,
    ) -> None:
        if not 0 <= least_agreement <= 1:
            raise InputError(f"the least agreement is {least_agreement:g}: give 0 to 1")
        self.card = card or organ_card()
        self._model, self._device = model, device
        self.least_agreement = least_agreement
        self._seen: tuple[Scan, LabelMap, OrganSight] | None = None

    @property
    def model(self) -> OrganModel:
        """The network."""
        if self._model is None:
            self._model = embedded_organ_model(self._device)
        return self._model

    @property
    def identity(self) -> str:
        """Name and the weights' hash."""
        digest = self.card.facts["sha256"] if self._model is None else self._model.digest
        return f"organ-unet(sha256={digest[:16]},agreement={self.least_agreement:g})"

    def find(self, scan: Scan, structures: Sequence[str]) -> tuple[Anchor, ...]:
        """One anchor for each structure.

        Cost, once a scan: the network eight times over 10 mm voxels, and some 0.1 s an organ over those of 5 mm.
        Nothing is found in images, and in volumes without spacing, thinner than 30 mm or larger than any body.
        """
        wanted = [key for key in structures if key in _STRUCTURES and _STRUCTURES[key][0] in self.card.offered]
        if wanted:
            try:
                self._look(scan)
            except InputError as reason:
                # The cure stands with the finding.
                why = str(reason).partition(": ")[0]
                return tuple(Anchor.missing(key, self.name, why) for key in structures)
        return tuple(self._one(scan, key) for key in structures)

    def _look(self, scan: Scan) -> None:
        # The chain asks again for stand-ins; the answer for the last scan is kept.
        if self._seen is None or self._seen[0] is not scan:
            metres = [n * step / 1000 for n, step in zip(scan.grid.shape, scan.grid.spacing, strict=True)]
            if scan.grid.ndim == 3 and scan.grid.spacing_known and prod(metres) > _LARGEST:
                extent = " x ".join(f"{length:.3g}" for length in metres)
                raise InputError(f"the scan would be {extent} m large: correct the voxel size in its header")
            sight = self.model.look(scan)
            wanted = list(self.card.offered)
            if {"kidneys", "lungs"} & set(wanted):
                # Their sides are told by the middle of the body.
                wanted += [organ for organ in ("spine", "aorta") if organ not in wanted]
            self._seen = scan, label_organs(sight.shares, scan.grid, wanted), sight

    def _one(self, scan: Scan, structure: str) -> Anchor:
        if structure not in _STRUCTURES:
            return Anchor.missing(structure, self.name, "the embedded model does not know it")
        organ, side = _STRUCTURES[structure]
        if organ not in self.card.offered:
            dice = self.card.dice.get(organ)
            measured = "was not measured" if dice is None else f"was {dice:.2f}, below 0.7"
            reason = (
                f"the embedded organ model is not good enough for it (its Dice on patients it never saw {measured})"
            )
            return Anchor.missing(structure, self.name, reason)
        assert self._seen is not None
        _, labels, sight = self._seen
        number = ORGAN_CLASSES.index(organ)
        array = labels.array == number
        if side:
            halves = on_sides(array, scan.grid, middle_of(labels, scan))
            array = halves[("left", "right").index(side) ^ sight.mirrored]
        if not array.any():
            return Anchor.missing(structure, self.name, "the embedded model does not see it")
        mask, quality = Mask(np.asarray(array), scan.grid, structure), sight.agreement[organ]
        remarks = (_COARSE, _MIRRORED) if sight.mirrored else (_COARSE,)
        if quality < self.least_agreement:
            reason = f"the model's views of the scan agree only to a Dice of {quality:.2f}"
            return Anchor(structure, mask, self.name, "unreliable", quality, (reason, *remarks))
        return Anchor(structure, mask, self.name, "ok", quality, remarks)


def load(_weights: Path | None, device: str) -> OrganUNetAnchors:
    """The provider with the weights in the package."""
    return OrganUNetAnchors(device=device)
