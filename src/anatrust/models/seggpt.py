"""SegGPT (in-context segmentation) through transformers: draws in one image what a mask shows in another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["SegGpt"]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SegGpt:
    """A frozen ``SegGptForImageSegmentation``; use `SegGpt.load`. Resizing and scaling are done here.

    Parameters
    ----------
    model
        In evaluation mode.
    identity
        Exactly which weights.

    References
    ----------
    Wang et al., SegGPT: Segmenting everything in context, ICCV 2023.
    """

    model: Any = field(repr=False)
    identity: str

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> SegGpt:
        """From a folder or the local Hugging Face cache (safetensors); nothing is downloaded.

        Raises
        ------
        MissingExtraError
            If transformers is not installed.
        InputError, FormatError
            As in :func:`anatrust.models.encoders.weights.find_weights`.
        """
        from anatrust.models.encoders.weights import load_named

        model, digest = load_named("SegGptForImageSegmentation", source, ("seggpt",), revision)
        return cls(model, f"seggpt(sha256={digest})")

    def draw(self, target: Floats, prompt: Floats, masks: npt.NDArray[np.bool_]) -> Floats:
        """How much each place of the target looks like what each mask shows in the prompt.

        Parameters
        ----------
        target, prompt
            Grey values from 0 to 1, ``(rows, columns)``; sizes may differ.
        masks
            ``(n, rows, columns)`` of the prompt.

        Returns
        -------
        float32 array ``(n, rows, columns)``, 0 to 1
            Cost: one pass of the model a mask.

        Raises
        ------
        InputError
            If shapes do not fit.
        """
        import torch
        from torch.nn.functional import interpolate

        if target.ndim != 2 or masks.shape[1:] != prompt.shape or len(masks) == 0:
            raise InputError("SegGPT draws in one grey image what masks show in another of their own shape")
        given = self.prepared(np.stack([np.asarray(target, np.float32)]))
        shown = self.prepared(np.stack([np.asarray(prompt, np.float32)]))
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
        found = []
        with torch.inference_mode():
            for mask in masks:
                drawn = self.prepared(mask[None].astype(np.float32), nearest=True)
                told = self.model(pixel_values=given, prompt_pixel_values=shown, prompt_masks=drawn)
                # The lower half is the target's; its colour is the answer.
                lower = told.pred_masks[0, :, told.pred_masks.shape[2] // 2 :]
                grey = (lower * deviation + mean).clamp(0, 1).mean(0)
                found.append(interpolate(grey[None, None], target.shape, mode="bilinear", align_corners=False)[0, 0])
        return np.asarray(torch.stack(found).float().numpy())

    def prepared(self, images: Floats, *, nearest: bool = False) -> Any:
        """Grey images as the model takes them: ``(n, 3, S, S)``, ImageNet scaling."""
        import torch
        from torch.nn.functional import interpolate

        side = int(self.model.config.image_size[1])
        grey = torch.from_numpy(np.ascontiguousarray(images))[:, None]
        if nearest:
            resized = interpolate(grey, (side, side), mode="nearest")
        else:
            resized = interpolate(grey, (side, side), mode="bilinear", align_corners=False, antialias=True)
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
        return (resized.clamp(0, 1).expand(-1, 3, -1, -1) - mean) / deviation
