"""SAM 3 through transformers: a concept in words in, all its instances out (extra ``deep``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anatrust.errors import FormatError, InputError
from anatrust.models.encoders.weights import find_weights, load_frozen
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.segmenters.digest import folder_digest
from anatrust.models.segmenters.slices import SliceSegmenter

__all__ = ["Sam3Segmenter", "load"]

_HALF = (0.5, 0.5, 0.5)


class Sam3Segmenter(SliceSegmenter):
    """Asks SAM 3 for a concept inside the region, slice by slice.

    The probability of a pixel is the largest over instances of mask × score × presence: the
    presence token says whether the concept is there at all.

    Parameters
    ----------
    model
        A ``Sam3Model`` in evaluation mode.
    tokenizer
        The CLIP tokenizer beside its weights.
    digest
        Of the weights.
    """

    name = "sam3"
    capabilities = Capabilities(prompts=("text",), organs=True, wording="sam3")

    def __init__(self, model: Any, tokenizer: Any, digest: str, *, device: str = "cpu", batch: int = 1) -> None:
        size = model.config.vision_config.backbone_config.image_size
        side = int(size if isinstance(size, int) else size[0])
        super().__init__(size=side, mean=_HALF, deviation=_HALF, batch=batch, device=device)
        self._model = model.to(device)
        self._tokenizer = tokenizer
        self._length = int(model.config.text_config.max_position_embeddings)
        self._digest = digest
        self._held: tuple[str, Any] | None = None

    @property
    def identity(self) -> str:
        """Name and the weights' hash."""
        return f"sam3(sha256={self._digest},{self.window.describe()})"

    def answer(self, pixels: Any, prompt: Prompt, box: tuple[float, float, float, float]) -> Any:  # noqa: ARG002
        """Largest mask × score × presence over the instances.

        Raises
        ------
        InputError
            If the prompt has no words.
        """
        if not prompt.words:
            raise InputError(f"SAM 3 is asked in words and has none for {prompt.target!r}")
        tokens = self._tokens(prompt.words[0]).to(pixels.device)
        count = len(pixels)
        found = self._model(
            pixel_values=pixels,
            input_ids=tokens["input_ids"].expand(count, -1),
            attention_mask=tokens["attention_mask"].expand(count, -1),
        )
        score = found.pred_logits.float().sigmoid()
        if found.presence_logits is not None:
            score = score * found.presence_logits.float().sigmoid()
        return (found.pred_masks.float().sigmoid() * score[:, :, None, None]).amax(dim=1)

    def _tokens(self, words: str) -> Any:
        if self._held is None or self._held[0] != words:
            made = self._tokenizer(
                [words], padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
            )
            self._held = (words, made)
        return self._held[1]


def load(weights: Path | None, device: str) -> Sam3Segmenter:
    """From a folder with ``config.json``, a tokenizer and safetensors, or a name in the local cache.

    Raises
    ------
    FormatError
        If there is no tokenizer beside the weights.
    """
    from transformers import AutoTokenizer, Sam3Model

    assert weights is not None
    found = find_weights(weights, ("sam3", "sam3_video"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(found.folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormatError(
            f"{found.folder.name} has no tokenizer that can be read ({reason}): give the whole folder"
        ) from None
    digest = folder_digest(found.folder, "*.safetensors")
    return Sam3Segmenter(load_frozen(Sam3Model, found), tokenizer, digest, device=device)
