"""A vision-language model of the Qwen family through transformers, without torchvision, with a ``<Seg>`` token.

Written against transformers 5.23: its processor wants a video processor, which needs torchvision; ours does without,
for pictures only. Everything is read from a folder or the local cache, safetensors alone, and nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import Tensor

from anatrust.errors import FormatError, InputError
from anatrust.models.encoders.weights import find_weights, load_frozen
from anatrust.models.segmenters.digest import folder_digest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, ProcessorMixin

__all__ = ["SEG", "LoraSettings", "VisionLanguageModel", "load_processor"]

SEG = "<Seg>"
"""One after each region named; its last hidden state asks for that region's mask."""

# Model type in config.json: class of the model and of its processor.
_FAMILIES = {
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", "Qwen3VLProcessor"),
}


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on the language model's attention; the vision tower stays as it is.

    Parameters
    ----------
    rank, alpha, dropout
        The paper's values (RAU, Table 5).
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.01

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise InputError("LoRA wants a rank and an alpha of at least 1 and a dropout from 0 to below 1")

    def config(self, seg: int | None = None, *, tied: bool = False) -> Any:
        """For peft; with ``seg`` the rows of that token are trained too, where the model reads and writes it.

        ``tied``: whether both are one matrix, as in the smaller models of the family.
        """
        from peft import LoraConfig

        rows = None if seg is None else {"embed_tokens": [seg]} | ({} if tied else {"lm_head": [seg]})
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=r".*language_model.*(q|k|v|o)_proj",
            trainable_token_indices=rows,
            task_type="CAUSAL_LM",
        )


def load_processor(folder: Path, model_type: str) -> ProcessorMixin:
    """Tokenizer, chat template and picture preparation of a saved model, with ``<Seg>`` as a token.

    ``<Seg>`` is an added token but no *special* one, because trainers decode answers without
    special tokens and rewards would never see it.

    Raises
    ------
    FormatError
        If the folder lacks the tokenizer or the picture preparation.
    """
    import transformers
    from transformers import AddedToken, AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    parent: Any = getattr(transformers, _FAMILIES[model_type][1])

    class PictureProcessor(parent):  # type: ignore[misc]
        """As the parent, but a video processor may be missing."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is None and argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **_: Any) -> list[str]:
            """Its two halves; the parent's cannot write a video processor that is not there."""
            if push_to_hub:
                raise InputError("a processor is saved to a folder, nothing is sent anywhere")
            return [
                *self.tokenizer.save_pretrained(save_directory),
                *self.image_processor.save_pretrained(save_directory),
            ]

    # Trainers save and print the class by its name.
    PictureProcessor.__name__ = PictureProcessor.__qualname__ = parent.__name__
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        pictures = Qwen2VLImageProcessorPil.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormatError(f"{folder.name} has no usable tokenizer or picture preparation ({reason})") from error
    if tokenizer.chat_template is None:
        raise FormatError(f"{folder.name} has no chat template: add its chat_template.jinja")
    tokenizer.add_tokens([AddedToken(SEG, special=False, normalized=False)])
    tokenizer.padding_side = "left"
    processor: ProcessorMixin = PictureProcessor(pictures, tokenizer, None, chat_template=tokenizer.chat_template)
    return processor


class VisionLanguageModel:
    """A model that reads pictures and words and writes words.

    Parameters
    ----------
    model, processor
        As loaded; the embedding already has a row for ``<Seg>``.
    name
        Folder or model name, for records.
    identity
        Exactly which weights; the name where it is not given.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, processor: ProcessorMixin, name: str, identity: str = ""
    ) -> None:
        self.model: Any = model
        self.processor: Any = processor
        self.name = name
        self.identity = identity or name
        self.seg = int(self.processor.tokenizer.convert_tokens_to_ids(SEG))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        adapters: Sequence[str | Path] = (),
        four_bit: bool = False,
        device: str = "cpu",
    ) -> VisionLanguageModel:
        """From a folder or the local Hugging Face cache, offline.

        Parameters
        ----------
        source, revision
            Folder, or model name and revision.
        adapters
            Folders of LoRA adapters (safetensors), one for each training stage, in order; each is
            merged into the model before the next.
        four_bit
            NF4 weights with double quantisation, bfloat16 arithmetic; CUDA only. Spatial detail may
            suffer: compare box errors with and without it.
        device
            Of torch; the model lies on one device, for a resized embedding cannot be spread.

        Raises
        ------
        InputError
            If it is another kind of model, or 4-bit was asked for without CUDA.
        FormatError
            If files are missing or damaged.
        """
        import transformers

        found = find_weights(source, tuple(_FAMILIES), revision)
        kind = str(found.config["model_type"])
        if four_bit and not device.startswith("cuda"):
            raise InputError("4-bit weights need a CUDA device: leave four_bit out, or name one")
        processor: Any = load_processor(found.folder, kind)
        architecture = getattr(transformers, _FAMILIES[kind][0])
        if four_bit:
            from transformers import BitsAndBytesConfig

            quantised = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
            model = architecture.from_pretrained(
                str(found.folder), local_files_only=True, use_safetensors=True,
                quantization_config=quantised, device_map={"": device},
            )  # fmt: skip
        else:
            model = load_frozen(architecture, found).to(device)
        _make_room(model, len(processor.tokenizer))
        for adapter in adapters:
            from peft import PeftModel

            if not (Path(adapter) / "adapter_model.safetensors").is_file():
                raise FormatError(f"{Path(adapter).name} holds no adapter_model.safetensors: give an adapter's folder")
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval()
            model.requires_grad_(False)
        digests = [folder_digest(found.folder, "*.safetensors")]
        digests += [folder_digest(Path(adapter), "*.safetensors") for adapter in adapters]
        bits = " nf4" if four_bit else ""
        return cls(model, processor, str(source), f"{kind}(sha256={'+'.join(digests)}{bits})")

    @property
    def convention(self) -> Literal["pixels", "thousand"]:
        """How the family writes boxes where nobody taught it otherwise: Qwen2.5-VL pixels, Qwen3-VL thousandths."""
        return "pixels" if self.model.config.model_type == "qwen2_5_vl" else "thousand"

    def seen_size(self, picture: Image.Image) -> tuple[int, int]:
        """``(width, height)`` in pixels at which the model sees a picture: its processor makes whole patches."""
        prepare = self.processor.image_processor
        _, rows, columns = prepare(images=[picture], return_tensors="pt")["image_grid_thw"][0].tolist()
        return int(columns * prepare.patch_size), int(rows * prepare.patch_size)

    def may_say(self, name: str) -> bool:
        """Whether a label's name can be shown to it: always, it runs here."""
        return bool(name)

    @property
    def hidden(self) -> int:
        """Width of the language model's states."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.model.device
        return device

    def inputs(
        self,
        prompts: Sequence[str],
        pictures: Sequence[Sequence[Image.Image]],
        answers: Sequence[str] | None = None,
        *,
        ended: bool = True,
    ) -> Any:
        """Tensors for the model: each prompt preceded by its pictures, padded on the left.

        Parameters
        ----------
        prompts
            B texts.
        pictures
            For each prompt its pictures, in the order the text numbers them.
        answers
            What the model is to have said; without them it is its turn.
        ended
            Whether answers are at their end, or the model is to go on.
        """
        texts = []
        for position, prompt in enumerate(prompts):
            content = [{"type": "image"} for _ in pictures[position]] + [{"type": "text", "text": prompt}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            if answers is not None:
                text += answers[position] + (self.processor.tokenizer.eos_token if ended else "")
            texts.append(text)
        flat = [picture for own in pictures for picture in own] or None
        return self.processor(text=texts, images=flat, padding=True, return_tensors="pt").to(self.device)

    @torch.inference_mode()
    def answer(
        self,
        prompts: Sequence[str],
        pictures: Sequence[Sequence[Image.Image]],
        *,
        most_tokens: int = 512,
        temperature: float = 0.0,
        begun: Sequence[str] | None = None,
    ) -> list[str]:
        """What the model says to each prompt, or how it goes on from what it has ``begun`` to say.

        Greedy at temperature 0, so the same every time.
        """
        given = self.inputs(prompts, pictures, begun, ended=False)
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        tokens = self.model.generate(
            **given, max_new_tokens=most_tokens, pad_token_id=self.processor.tokenizer.pad_token_id, **sampling
        )
        new = tokens[:, given["input_ids"].shape[1] :]
        return list(self.processor.tokenizer.batch_decode(new, skip_special_tokens=True))

    def seg_states(self, given: Any) -> tuple[list[Tensor], Any]:
        """Last hidden states at every ``<Seg>`` of the answers (not the prompts), gradients included.

        Parameters
        ----------
        given
            From :meth:`inputs`, with answers, and ``labels`` from :meth:`completion_labels`.

        Returns
        -------
        states, output
            For each prompt ``(regions, hidden)`` in the order they were named; the model's output.
        """
        output = self.model(**given, output_hidden_states=True, return_dict=True)
        last = output.hidden_states[-1]
        return [last[row, given["labels"][row] == self.seg] for row in range(len(last))], output

    def patch_states(self, given: Any, output: Any) -> list[Tensor]:
        """Last hidden states of the patches of each prompt's last picture, ``(rows, columns, hidden)``.

        Parameters
        ----------
        given
            From :meth:`inputs`.
        output
            What the model gave for it, with hidden states.
        """
        merged = int(self.model.config.vision_config.spatial_merge_size)
        grids = [(int(rows) // merged, int(columns) // merged) for _, rows, columns in given["image_grid_thw"].tolist()]
        last, found, picture = output.hidden_states[-1], [], -1
        for row, ids in enumerate(given["input_ids"]):
            at = (ids == self.model.config.image_token_id).nonzero()[:, 0]
            left = len(at)
            while left > 0:
                picture += 1
                left -= grids[picture][0] * grids[picture][1]
            rows, columns = grids[picture]
            found.append(last[row, at[-rows * columns :]].reshape(rows, columns, -1))
        return found

    def completion_labels(self, given: Any, prompts: Any) -> Tensor:
        """Targets for language modelling: the answer alone, −100 over prompt, pictures and padding.

        Parameters
        ----------
        given
            From :meth:`inputs` with answers.
        prompts
            From :meth:`inputs` of the same prompts without.
        """
        labels: Tensor = given["input_ids"].clone()
        answered = given["attention_mask"].sum(1) - prompts["attention_mask"].sum(1)
        for row, length in enumerate(answered.tolist()):
            labels[row, : labels.shape[1] - length] = -100
        return labels


@torch.no_grad()
def _make_room(model: Any, tokens: int) -> None:
    """Rows for new tokens: the mean of all others, so that two loads give the same model."""
    known = model.get_input_embeddings().num_embeddings
    if tokens <= known:
        return
    model.resize_token_embeddings(tokens, mean_resizing=False)
    for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        matrix[known:] = matrix[:known].mean(0)
    model.requires_grad_(False)
