"""The in-context reasoner: a model that is shown the reference and its regions and paints them in the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError
from anatrust.image.volumes import Scan
from anatrust.models.annotation import Annotation, Reference
from anatrust.reference.opinions import Opinion, together
from anatrust.reference.pictures import greys, picture_of, view_of
from anatrust.reference.registration_reasoner import merged_names

__all__ = ["InContextModel", "InContextReasoner"]

Progress = Callable[[str, int, int], None]
Floats = npt.NDArray[np.float32]


class InContextModel(Protocol):
    """Paints in one image what masks show in another; `SegGpt` is one."""

    @property
    def identity(self) -> str:
        """Exactly which model."""

    def draw(self, target: Floats, prompt: Floats, masks: npt.NDArray[np.bool_]) -> Floats:
        """``(n, rows, columns)`` from 0 to 1."""


@dataclass(frozen=True)
class InContextReasoner:
    """Shows the model the reference with one region at a time; the region painted strongest at a pixel has it.

    The baseline of in-context segmentation for vision-language reasoners: it sees the same reference, and no words.

    Parameters
    ----------
    model
        SegGPT, or anything of its shape.
    least
        Strength from which a pixel is painted.
    """

    model: InContextModel
    least: float = 0.5
    name: str = "seggpt"

    @property
    def identity(self) -> str:
        """Name, revision and model."""
        return f"{self.name}/1 {self.model.identity} least={self.least:g}"

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """Names, boxes, masks, relations and confidences of the references' structures in an image.

        Raises
        ------
        InputError
            If there is no reference or numbers are named differently.
        GeometryError
            If the target or a reference is a volume.
        """
        names = merged_names(references)
        if target.grid.ndim != 2:
            raise GeometryError("the in-context model reads images: give a slice, or a reasoner for volumes")
        view = view_of(greys(target))
        opinions = []
        for done, reference in enumerate(references):
            if progress:
                progress("draw", done, len(references))
            opinions.append(self._opinion(view, reference))
        if progress:
            progress("draw", len(references), len(references))
        return together(target, view, names, references, opinions, self.identity)

    def _opinion(self, view: Floats, reference: Reference) -> Opinion:
        picture = picture_of(reference)
        labels = list(picture.present)
        painted = self.model.draw(view, picture.image, np.stack([picture.labels == n for n in labels]))
        winner, strength = painted.argmax(axis=0), painted.max(axis=0)
        masks, certain, absent = {}, {}, {}
        for place, label in enumerate(labels):
            mask = (winner == place) & (strength >= self.least)
            if mask.any():
                masks[label], certain[label] = mask, float(np.clip(painted[place][mask].mean(), 0, 1))
            else:
                absent[label] = "the model paints it nowhere"
        return Opinion(masks, certain, absent)
