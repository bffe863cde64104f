"""SAM 2 and its medical offspring through transformers: a box in, a mask out (extra ``deep``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anatrust.models.encoders.weights import load_named
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.segmenters.slices import SliceSegmenter

__all__ = ["Sam2Segmenter", "load"]

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class Sam2Segmenter(SliceSegmenter):
    """Asks SAM 2 for the most salient thing in the region's box, slice by slice.

    It takes no words: what it draws is whatever fills the box best, so that it proposes far too
    much; rejection and a tight region (a small ``--scales``) are what make it useful.

    Parameters
    ----------
    model
        A ``Sam2Model`` in evaluation mode.
    digest
        Of its weights.
    """

    name = "sam2"
    capabilities = Capabilities(prompts=("box",))
    sees_slice = True

    def __init__(self, model: Any, digest: str, *, device: str = "cpu", batch: int = 1) -> None:
        size = model.config.prompt_encoder_config.image_size
        side = int(size if isinstance(size, int) else size[0])
        super().__init__(size=side, mean=_MEAN, deviation=_DEVIATION, batch=batch, device=device)
        self._model = model.to(device)
        self._digest = digest

    @property
    def identity(self) -> str:
        """Name and the weights' hash."""
        return f"sam2(sha256={self._digest},{self.window.describe()})"

    def answer(self, pixels: Any, prompt: Prompt, box: tuple[float, float, float, float]) -> Any:  # noqa: ARG002
        """Sigmoid of the mask logits for the box."""
        boxes = torch.tensor([[box]], device=pixels.device).expand(len(pixels), 1, 4)
        found = self._model(pixel_values=pixels, input_boxes=boxes, multimask_output=False)
        return found.pred_masks[:, 0, 0].float().sigmoid()


def load(weights: Path | None, device: str) -> Sam2Segmenter:
    """From a folder with ``config.json`` and safetensors, or a name in the local Hugging Face cache."""
    assert weights is not None
    model, digest = load_named("Sam2Model", weights, ("sam2", "sam2_video"))
    return Sam2Segmenter(model, digest, device=device)
