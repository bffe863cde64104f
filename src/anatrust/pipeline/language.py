"""The vision-language reasoner from folders or a server: what the options of ``annotate`` describe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from anatrust.errors import InputError, MissingExtraError
from anatrust.models.device import check_device
from anatrust.models.planner_endpoint import Endpoint
from anatrust.reference.coordinates import Convention

if TYPE_CHECKING:
    from anatrust.reference.language_reasoner import LanguageReasoner
    from anatrust.reference.volume_reasoner import VolumeReasoner

__all__ = ["LanguageOptions", "language_reasoner", "volume_reasoner"]


@dataclass(frozen=True)
class LanguageOptions:
    """Which vision-language model reasons, and with what it draws.

    Parameters
    ----------
    model
        Folder of Qwen2.5-VL or Qwen3-VL, or its name in the local Hugging Face cache; with ``endpoint`` its name on the
        server.
    adapters
        Folders of LoRA adapters, as ``anatrust train sft`` and ``grpo`` save them, in order.
    masks
        Folder of ``anatrust train seg``: masks by ``<Seg>`` tokens. Needs ``sam2``.
    sam2
        Folder or name of SAM 2; without ``masks`` it draws in the boxes the model gives.
    four_bit
        NF4 weights; CUDA only.
    device
        Of torch.
    convention
        How boxes are written. By default what the last adapter was trained with, else the model family's own way.
    endpoint
        An OpenAI-compatible server in place of a folder.
    send_images
        Allows that pictures leave this machine.
    seconds
        Patience with the server for one question.
    keys, tri_planar
        Of volumes: key slices asked about in each plane, and whether three planes vote. ``sam2``, where it is given,
        follows what was drawn through the slices, else they are registered to each other.

    Raises
    ------
    InputError
        If options contradict each other.
    """

    model: str
    adapters: tuple[str, ...] = ()
    masks: str | None = None
    sam2: str | None = None
    four_bit: bool = False
    device: str = "cpu"
    convention: str | None = None
    endpoint: Endpoint | None = None
    send_images: bool = False
    seconds: float = 120.0
    keys: int = 3
    tri_planar: bool = False

    def __post_init__(self) -> None:
        if self.convention is not None and self.convention not in get_args(Convention):
            raise InputError(f"boxes are written in {', '.join(get_args(Convention))}, not {self.convention!r}")
        if self.endpoint is not None and (self.adapters or self.masks or self.four_bit):
            raise InputError("a server's model takes no adapters, masks or 4-bit switch: leave them out")
        if self.endpoint is None and self.send_images:
            raise InputError("a model on this machine sends no images: leave --send-images out, or name an --endpoint")
        if self.masks is not None and self.sam2 is None:
            raise InputError("masks by tokens need SAM 2 too: give --sam2 FOLDER")
        check_device(self.device)


def language_reasoner(options: LanguageOptions) -> LanguageReasoner:
    """Load everything the options name; nothing is downloaded, and nothing sent before an image is annotated.

    Raises
    ------
    InputError, FormatError
        If a folder is not what it should be, or pictures would leave this machine without leave.
    MissingExtraError
        If torch, transformers or peft are not installed.
    """
    from anatrust.reference.language_reasoner import LanguageReasoner
    from anatrust.reference.region_drawing import PromptedInBox

    needed = ["torch", "transformers"] if options.endpoint is None or options.sam2 else []
    needed += ["peft"] if options.adapters or options.masks else []
    for package in needed:
        if find_spec(package) is None:
            raise MissingExtraError(package, "train" if package == "peft" else "deep", "the reasoner 'vlm'")
    drawing: dict[str, Any] = {}
    if options.sam2 is not None and options.masks is None:
        from anatrust.models.sam2_prompts import Sam2Prompter

        drawing["drawer"] = PromptedInBox(Sam2Prompter.load(options.sam2))
    if options.endpoint is not None:
        if find_spec("pydantic") is None:
            raise MissingExtraError("pydantic", "llm", "a vision model behind a server")
        from anatrust.models.vision_endpoint import VisionEndpoint

        server = VisionEndpoint(options.endpoint, options.model, options.send_images, options.seconds)
        return LanguageReasoner(server, convention=options.convention, **drawing)  # type: ignore[arg-type]
    from anatrust.models.vision_language import VisionLanguageModel

    adapters = [*options.adapters, *([options.masks] if options.masks else [])]
    model = VisionLanguageModel.load(options.model, adapters=adapters, four_bit=options.four_bit, device=options.device)
    if options.masks is not None:
        from anatrust.models.sam2_memory import Sam2Parts
        from anatrust.reference.token_segmenter import TokenSegmenter

        assert options.sam2 is not None
        sam = Sam2Parts.load(options.sam2).to(options.device)
        drawing["segmenter"] = TokenSegmenter.load(Path(options.masks), model, sam)
    convention = options.convention or _trained_with(options.adapters)
    return LanguageReasoner(model, convention=convention, **drawing)  # type: ignore[arg-type]


def volume_reasoner(options: LanguageOptions) -> VolumeReasoner:
    """The same for images and volumes: key slices are asked about and followed; parameters and errors as above."""
    from anatrust.reference.volume_reasoner import VolumeReasoner

    reasoner = language_reasoner(options)
    more: dict[str, Any] = {}
    if options.sam2 is not None:
        from anatrust.models.sam2_volume import Sam2SliceTracker

        more["tracker"] = Sam2SliceTracker.load(options.sam2)
    return VolumeReasoner(reasoner, keys=options.keys, tri_planar=options.tri_planar, **more)


def _trained_with(adapters: Sequence[str]) -> str | None:
    """How the last adapter was taught to write boxes, from its ``run.json``; None where it does not say."""
    for adapter in reversed(adapters):
        try:
            told = json.loads((Path(adapter) / "run.json").read_text(encoding="utf-8"))["configuration"]["convention"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if told in get_args(Convention):
            return str(told)
    return None
