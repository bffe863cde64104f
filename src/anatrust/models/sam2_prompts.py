"""SAM 2 asked with boxes and points, image by image; without torchvision, offline, frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Sam2Prompter"]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sam2Prompter:
    """Draws what boxes and points show in an image, with a ``Sam2Model`` of transformers.

    Use `Sam2Prompter.load`; SAM 2's own processor needs torchvision, so resizing (to the model's
    square, bilinear) and scaling (ImageNet mean and deviation) are done here.

    Parameters
    ----------
    model
        In evaluation mode.
    identity
        Exactly which weights.
    """

    model: Any = field(repr=False)
    identity: str

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> Sam2Prompter:
        """From a folder or the local Hugging Face cache (safetensors); nothing is downloaded.

        Raises
        ------
        MissingExtraError
            If transformers is not installed.
        InputError, FormatError
            As in :func:`anatrust.models.encoders.weights.find_weights`.
        """
        from anatrust.models.encoders.weights import load_named

        model, digest = load_named("Sam2Model", source, ("sam2", "sam2_video"), revision)
        return cls(model, f"sam2(sha256={digest})")

    def draw(
        self,
        image: Floats,
        boxes: Sequence[tuple[float, float, float, float]],
        points: Sequence[tuple[float, float]],
    ) -> tuple[npt.NDArray[np.bool_], Floats]:
        """The mask of each object, from its box and one point inside it.

        Parameters
        ----------
        image
            Grey values from 0 to 1, ``(rows, columns)``.
        boxes, points
            One of each for every object, in pixels: ``(x1, y1, x2, y2)`` and ``(x, y)``.

        Returns
        -------
        masks, quality
            ``(n, rows, columns)`` and the model's own estimate of their IoU, ``(n,)``. Cost: one
            pass of the image encoder, and one of the decoder for all objects together.

        Raises
        ------
        InputError
            If the image is none, or boxes and points differ in number.
        """
        import torch
        from torch.nn.functional import interpolate

        if image.ndim != 2 or len(boxes) != len(points) or not boxes:
            raise InputError("SAM 2 draws in one grey image, with one box and one point for each object")
        size = self.model.config.prompt_encoder_config.image_size
        side = int(size if isinstance(size, int) else size[0])
        pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
        resized = interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
        scale = np.array([side / image.shape[1], side / image.shape[0]], dtype=np.float32)
        with torch.inference_mode():
            told = self.model(
                pixel_values=(resized - mean) / deviation,
                input_boxes=torch.from_numpy(np.array(boxes, np.float32) * np.tile(scale, 2))[None],
                input_points=torch.from_numpy(np.array(points, np.float32) * scale)[None, :, None],
                input_labels=torch.ones((1, len(points), 1), dtype=torch.int64),
                multimask_output=False,
            )
            logits = interpolate(told.pred_masks[0].float(), image.shape, mode="bilinear", align_corners=False)
        return np.asarray(logits[:, 0].numpy() > 0), np.asarray(told.iou_scores[0, :, 0].float().numpy())
