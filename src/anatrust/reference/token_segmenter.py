"""Masks from a language model's ``<Seg>`` tokens: queries to the reference's regions, prompts to SAM 2's decoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from anatrust.errors import FormatError, InputError
from anatrust.models.sam2_memory import Sam2Parts
from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.added_tokens import AddedTokens
from anatrust.reference.memory_attention import Attended, MemoryAttention, MemoryConfig
from anatrust.reference.pairs import LabelledPicture, Pair, Sample
from anatrust.reference.prompts import read_segments
from anatrust.reference.switched_attention import SwitchedAttention, evidence_of

__all__ = ["DrawnMasks", "Level", "TokenSegmenter"]

Level = Literal["prototypes", "spatial", "native", "added"]


@dataclass(frozen=True, eq=False)
class DrawnMasks:
    """What the model wrote and drew.

    Parameters
    ----------
    text
        Its words.
    masks
        By legend number, in the target's shape; empty where it named nothing of the legend.
    attended
        What each ``<Seg>`` found in the reference; None where it wrote none.
    """

    text: str
    masks: dict[int, npt.NDArray[np.bool_]]
    attended: Attended | None


class TokenSegmenter(nn.Module):
    """A vision-language model whose ``<Seg>`` states query SAM 2's memory of the reference.

    Parameters
    ----------
    language
        Reads reference, tinted reference and target and names what is visible, a ``<Seg>`` after each. None:
        the reference's own object pointers ask in its place, SAM 2's memory alone, as the rival of the paper.
    sam
        SAM 2 in parts; gradients pass into its image encoder only where that is trained.
    attention
        Eq. 6 and 7.
    level
        What the memory is: ``prototypes`` (L0, a mean feature for each region), ``spatial`` (L1, SAM 2's
        memory tokens), ``native`` (L2: as L0, and the queries also enter SAM 2's own memory attention
        as object pointers, which keeps its pretrained weights meaningful), ``added`` (L2 where all that the
        tokens say is added through layers that begin as zero: untrained, it is SAM 2's memory alone).
    added
        Of the level ``added``, see `AddedTokens`.
    parts
        The organs' tree: the name of each part's whole. A part is asked for after its whole, where the
        attention is a `SwitchedAttention` with a tree and both are asked for.

    References
    ----------
    RAU (arXiv 2509.22404), section 3.3.
    """

    def __init__(
        self,
        language: VisionLanguageModel | None,
        sam: Sam2Parts,
        attention: MemoryAttention,
        level: Level = "prototypes",
        parts: Mapping[str, str] | None = None,
        added: AddedTokens | None = None,
    ) -> None:
        super().__init__()
        if level not in get_args(Level):
            raise InputError(f"the memory is prototypes, spatial, native or added, not {level!r}")
        if (added is None) == (level == "added"):
            raise InputError(f"layers that add tokens belong to the level added, and only to it, not {level!r}")
        self.language = language
        self.sam = sam
        self.attention = attention
        self.level: Level = level
        self.added = added
        self.parts = dict(parts or {})

    @classmethod
    def make(
        cls,
        language: VisionLanguageModel | None,
        sam: Sam2Parts,
        level: Level = "prototypes",
        bottleneck: int = 256,
        *,
        gated: bool = False,
        parts: Mapping[str, str] | None = None,
        places: bool = True,
    ) -> TokenSegmenter:
        """With an untrained memory attention that fits both models; gates and the organs' tree are switches.

        Of the level ``added``, ``places`` is whether the target's patches are asked where regions lie.

        Raises
        ------
        InputError
            If gates are wanted for spatial memory, whose slots are cells and not regions.
        """
        if gated and level == "spatial":
            raise InputError("gates close regions, and a spatial memory is made of cells: choose prototypes or native")
        memory = sam.memory_width if level == "spatial" else sam.width
        config = MemoryConfig(sam.width if language is None else language.hidden, sam.width, memory, bottleneck)
        attention = _attention(config, gated=gated, tree=bool(parts))
        added = None
        if level == "added":
            shown = sam.width if language is None else language.hidden
            added = AddedTokens(config.hidden, shown, sam.width, places=places).to(sam.device)
        return cls(language, sam, attention.to(sam.device), level, parts, added)

    def draw(
        self, pair: Pair, states: Tensor | None, numbers: list[int], patches: Tensor | None = None
    ) -> tuple[Tensor, Attended, Tensor]:
        """Logits of the regions asked for.

        Parameters
        ----------
        pair
            Reference and target; its legend numbers the memory's slots.
        states
            ``(N, hidden)``: a state for each region; None without a language model.
        numbers
            The legend number of each.
        patches
            ``(rows, columns, hidden)``: the language model's states of the target; SAM 2's own features without one.

        Returns
        -------
        logits, attended, slots
            ``(N, S/4, S/4)``; what was found; the slot of each number.
        """
        slots = list(pair.labels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.sam.learns):
            both = self.sam.prepare(torch.stack([self._grey(pair.reference), self._grey(pair.target)]))
            # One image at a time: a reference and a target need not share a batch in SAM 2's decoder.
            seen, target = self.sam.features(both[:1]), self.sam.features(both[1:])
            masks = self._masks(pair)
            memory = None
            if self.level != "prototypes" or states is None:
                memory = self.sam.memorise(seen, masks)
            prototypes = self.sam.prototypes(seen, masks)
        own = torch.tensor([slots.index(n) for n in numbers], device=both.device)
        if states is None and memory is not None:
            states = memory.pointers[own]
        assert states is not None
        given = [states, prototypes]
        if self.level == "spatial" and memory is not None:
            given = [states, memory.tokens.flatten(0, 1), self._regions(masks, memory.tokens.shape[1])]
        switches: dict[str, Any] = {}
        if isinstance(self.attention, SwitchedAttention):
            switches["wholes"] = self._wholes(pair, numbers)
            if self.attention.gate is not None:
                switches["evidence"] = evidence_of(prototypes, target.coarse[0])
        attended = self.attention(*given, **switches)
        prompt, coarse, dense = torch.stack([attended.query, attended.value], dim=1), None, None
        if self.level in ("native", "added") and memory is not None:
            chosen = type(memory)(memory.tokens[own], memory.position, memory.pointers[own])
            if self.added is None:
                coarse = self.sam.condition(target, chosen, attended.value)
            else:
                pointers = chosen.pointers + self.added.pointer(attended.value)
                coarse = self.sam.condition(target, replace(chosen, pointers=pointers))
                prompt = self.added.prompt(self.sam.empty_prompt(len(own)), attended)
                if self.added.ask is not None:
                    shown = target.coarse[0].permute(1, 2, 0) if patches is None else patches
                    rows, columns = target.coarse.shape[-2:]
                    places = self.added.places(self.attention.plain(states), shown, (rows, columns))
                    attended, dense = replace(attended, places=places), self.added.dense(places)
        return self.sam.decode(target, prompt, coarse, dense), attended, own

    def forward(self, pair: Pair, sample: Sample) -> tuple[Tensor, Attended, Tensor, Tensor]:
        """Teacher-forced: the right answer is given; what comes back is measured.

        Returns
        -------
        logits, attended, slots, language_loss
            As :meth:`draw`, and the language model's loss on the answer (0 without one).
        """
        if self.language is None:
            drawn = self.draw(pair, None, list(sample.masks))
            return *drawn, torch.zeros((), device=self.sam.device)
        states, patches, output = self._states(self.language, sample, sample.answer)
        return *self.draw(pair, states, list(sample.masks), patches), output.loss

    @torch.no_grad()
    def states(self, sample: Sample) -> Tensor:
        """``<Seg>`` states of the right answer, ``(N, hidden)``.

        Raises
        ------
        InputError
            Without a language model.
        """
        if self.language is None:
            raise InputError("without a language model no answer has states")
        return self._states(self.language, sample, sample.answer)[0]

    @torch.no_grad()
    def pointers(self, pair: Pair) -> Tensor:
        """SAM 2's object pointers of the reference's regions, ``(K, width)``: the states where nobody speaks."""
        seen = self.sam.features(self.sam.prepare(self._grey(pair.reference)[None]))
        return self.sam.memorise(seen, self._masks(pair)).pointers

    @torch.no_grad()
    def predict(self, pair: Pair, sample: Sample, most_tokens: int = 256) -> DrawnMasks:
        """The model's own answer: what it names it draws; a ``<Seg>`` after no legend entry draws nothing.

        Raises
        ------
        InputError
            Without a language model: nobody says what is visible.
        """
        if self.language is None:
            raise InputError("without a language model nobody says what is visible: draw() takes the numbers to draw")
        text = self.language.answer([sample.prompt], [list(sample.pictures)], most_tokens=most_tokens)[0]
        return self.drawn(pair, sample, text)

    @torch.no_grad()
    def drawn(self, pair: Pair, sample: Sample, text: str) -> DrawnMasks:
        """What an answer draws, whoever gave it; an answer that cannot be read draws nothing.

        Raises
        ------
        InputError
            Without a language model: nobody has a state for the tokens.
        """
        if self.language is None:
            raise InputError("without a language model no answer has states: draw() takes the numbers to draw")
        shape = pair.target.image.shape
        try:
            numbers = list(read_segments(text, sample.legend))
        except InputError:
            numbers = []
        numbers = [n for n in numbers if n in pair.labels]
        if not numbers:
            return DrawnMasks(text, {}, None)
        # Dropout would draw another mask each time, and a reward must not be luck.
        training = self.language.model.training
        self.language.model.eval()
        states, patches, _ = self._states(self.language, sample, text)
        self.language.model.train(training)
        logits, attended, _ = self.draw(pair, states, numbers, patches)
        full = interpolate(logits[:, None].float(), shape, mode="bilinear", align_corners=False)[:, 0] > 0
        return DrawnMasks(text, dict(zip(numbers, full.cpu().numpy(), strict=True)), attended)

    def save(self, folder: Path) -> None:
        """Memory attention, what adds tokens and SAM 2's decoder (safetensors), and the settings.

        The language model saves its adapter.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.attention.state_dict().items()}, folder / "attention.safetensors")
        decoder = self.sam.model.mask_decoder.state_dict()
        save_file({k: v.contiguous().clone() for k, v in decoder.items()}, folder / "decoder.safetensors")
        gated = getattr(self.attention, "gate", None) is not None
        plain = {
            "memory": self.attention.config.to_json(), "level": self.level, "gated": gated, "parts": self.parts
        }  # fmt: skip
        if self.added is not None:
            save_file({k: v.contiguous() for k, v in self.added.state_dict().items()}, folder / "added.safetensors")
            plain["places"] = self.added.ask is not None
        (folder / "token_segmenter.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, language: VisionLanguageModel, sam: Sam2Parts) -> TokenSegmenter:
        """What :meth:`save` wrote, on top of the same language model and SAM 2.

        Raises
        ------
        FormatError
            If a file is missing, damaged or made with other models.
        """
        try:
            plain = json.loads((folder / "token_segmenter.json").read_text(encoding="utf-8"))
            parts = {str(part): str(whole) for part, whole in plain.get("parts", {}).items()}
            gated = bool(plain.get("gated", False))
            attention = _attention(MemoryConfig(**plain["memory"]), gated=gated, tree=bool(parts))
            attention.load_state_dict(load_file(folder / "attention.safetensors"))
            added = None
            if plain["level"] == "added":
                added = AddedTokens(language.hidden, language.hidden, sam.width, places=bool(plain["places"]))
                added.load_state_dict(load_file(folder / "added.safetensors"))
                added.to(language.device)
            sam.model.mask_decoder.load_state_dict(load_file(folder / "decoder.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FormatError(f"{folder.name} holds no token segmenter of these models ({reason})") from error
        if attention.config.hidden != language.hidden or attention.config.width != sam.width:
            raise FormatError(f"{folder.name} was trained with models of other widths: load the ones it names")
        return cls(language, sam, attention.to(language.device), plain["level"], parts, added)

    def _wholes(self, pair: Pair, numbers: Sequence[int]) -> list[int]:
        """For each number the place of its whole among them, by the names of the reference; −1 for none."""
        names = [pair.reference.names.get(pair.labels[n], "") for n in numbers]
        return [names.index(whole) if (whole := self.parts.get(name)) in names else -1 for name in names]

    @staticmethod
    def _states(language: VisionLanguageModel, sample: Sample, answer: str) -> tuple[Tensor, Tensor, Any]:
        """Of every ``<Seg>`` ``(N, hidden)``, of the target's patches ``(rows, columns, hidden)``; the output."""
        pictures = [list(sample.pictures)]
        given = language.inputs([sample.prompt], pictures, [answer])
        given["labels"] = language.completion_labels(given, language.inputs([sample.prompt], pictures))
        states, output = language.seg_states(given)
        return states[0], language.patch_states(given, output)[-1], output

    def _masks(self, pair: Pair) -> Tensor:
        """The reference's regions in the legend's order, ``(K, H, W)``."""
        regions = np.stack([pair.reference.labels == label for label in pair.labels.values()])
        return torch.from_numpy(regions.astype(np.float32)).to(self.sam.device)

    def _grey(self, picture: LabelledPicture) -> Tensor:
        grey = torch.from_numpy(np.ascontiguousarray(picture.image, dtype=np.float32)).to(self.sam.device)
        # Reference and target may differ in size: SAM 2 makes both square anyway.
        return interpolate(grey[None, None], (self.sam.size, self.sam.size), mode="bilinear", antialias=True)[0, 0]

    def _regions(self, masks: Tensor, cells: int) -> Tensor:
        """The slot of each spatial token of each region: only cells the region touches are attended to."""
        side = round(cells**0.5)
        inside = interpolate(masks[:, None], (side, side), mode="area")[:, 0].flatten(1) > 0
        slots = torch.arange(len(masks), device=masks.device)[:, None].expand_as(inside)
        return torch.where(inside, slots, -1).flatten()


def _attention(config: MemoryConfig, *, gated: bool, tree: bool) -> MemoryAttention:
    return SwitchedAttention(config, gated=gated, tree=tree) if gated or tree else MemoryAttention(config)
