"""Masks inside boxes: the reference's shape fitted into the box, then made to follow the image's edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.reference.coordinates import PixelBox, box_of_mask, slices_of_box
from anatrust.reference.correspondence_reasoner import BoxPrompter
from anatrust.reference.pairs import LabelledPicture
from anatrust.reference.random_walk import walk_labels

__all__ = ["BoxDrawer", "DrawnInBox", "PromptedInBox", "drawn_in_boxes"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_LARGEST = 192  # pixels along a side on which the walk runs


class BoxDrawer(Protocol):
    """Draws one region in each box."""

    @property
    def identity(self) -> str:
        """How it draws."""

    def draw(self, view: Floats, shapes: Mapping[int, Floats], boxes: Mapping[int, PixelBox]) -> dict[int, Bools]:
        """Masks by label; ``shapes`` are the reference's regions fitted into the boxes, of the view's shape, 0 to 1."""


@dataclass(frozen=True)
class DrawnInBox:
    """The reference's shape, and a random walk along the image's edges around it.

    Parameters
    ----------
    trust
        How far shapes are believed against edges, see `walk_labels`.
    """

    trust: float = 1.0

    @property
    def identity(self) -> str:
        """How it draws."""
        return f"reference shape + random walk trust={self.trust:g}"

    def draw(self, view: Floats, shapes: Mapping[int, Floats], boxes: Mapping[int, PixelBox]) -> dict[int, Bools]:
        """Masks by label, none outside its box. Cost: one sparse system a label, on at most 192² pixels."""
        if not shapes:
            return {}
        factor = min(1.0, _LARGEST / max(view.shape))
        small = [ndimage.zoom(v, factor, order=1, grid_mode=True, mode="nearest") for v in (view, *shapes.values())]
        chances = np.clip(np.stack(small[1:]), 0, 1).astype(np.float32)
        chances /= np.maximum(chances.sum(axis=0), 1)
        prior = np.concatenate([1 - chances.sum(axis=0, keepdims=True), chances])
        walked = walk_labels(small[0].astype(np.float32), prior.astype(np.float32), trust=self.trust)
        back = [n / s for n, s in zip(view.shape, small[0].shape, strict=True)]
        wide = np.stack([ndimage.zoom(w, back, order=1, grid_mode=True, mode="nearest") for w in walked])
        winner = wide.argmax(axis=0)
        found = {}
        for place, label in enumerate(shapes, start=1):
            inside = np.zeros(view.shape, bool)
            inside[slices_of_box(boxes[label], (view.shape[1], view.shape[0]))] = True
            mask = (winner == place) & inside
            # A region that the walk gives wholly away keeps its shape: the box says that it is there.
            found[label] = mask if mask.any() else shapes[label] > 0.5
        return found


@dataclass(frozen=True)
class PromptedInBox:
    """A prompted model such as SAM 2, asked with each box and the middle of the shape.

    Parameters
    ----------
    prompter
        As `CorrespondenceReasoner` takes it.
    least_iou
        Predicted IoU below which the shape itself stays.
    """

    prompter: BoxPrompter
    least_iou: float = 0.5

    @property
    def identity(self) -> str:
        """How it draws."""
        return f"{self.prompter.identity} in boxes least-iou={self.least_iou:g}"

    def draw(self, view: Floats, shapes: Mapping[int, Floats], boxes: Mapping[int, PixelBox]) -> dict[int, Bools]:
        """Masks by label."""
        if not shapes:
            return {}
        points = []
        for shape in shapes.values():
            row, column = np.unravel_index(int(ndimage.distance_transform_edt(shape > 0.5).argmax()), shape.shape)
            points.append((float(column) + 0.5, float(row) + 0.5))
        masks, quality = self.prompter.draw(view, [boxes[label] for label in shapes], points)
        good = [bool(q >= self.least_iou and m.any()) for m, q in zip(masks, quality, strict=True)]
        return {
            label: np.asarray(mask if fine else shape > 0.5)
            for (label, shape), mask, fine in zip(shapes.items(), masks, good, strict=True)
        }


def drawn_in_boxes(
    drawer: BoxDrawer, view: Floats, picture: LabelledPicture, boxes: Mapping[int, PixelBox]
) -> dict[int, Bools]:
    """The reference's regions drawn in their boxes in another picture.

    Parameters
    ----------
    drawer
        Who draws.
    view
        The target, ``(rows, columns)`` from 0 to 1.
    picture
        The reference.
    boxes
        By label, in pixels of the target.
    """
    shapes = {}
    for label, box in boxes.items():
        own = box_of_mask(np.asarray(picture.labels == label))
        assert own is not None
        rows, columns = slices_of_box(own, (picture.labels.shape[1], picture.labels.shape[0]))
        region = (picture.labels[rows, columns] == label).astype(np.float32)
        to_rows, to_columns = slices_of_box(box, (view.shape[1], view.shape[0]))
        wanted = (to_rows.stop - to_rows.start, to_columns.stop - to_columns.start)
        factors = [w / n for w, n in zip(wanted, region.shape, strict=True)]
        shape = np.zeros(view.shape, np.float32)
        fitted = ndimage.zoom(region, factors, order=1, grid_mode=True, mode="nearest")
        shape[to_rows, to_columns] = fitted if fitted.max() > 0.5 else 1.0
        shapes[label] = shape
    return drawer.draw(view, shapes, boxes)
