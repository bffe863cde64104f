"""What a training stage will need: memory of each GPU and hours, computed from the model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anatrust.errors import InputError

__all__ = ["MACHINES", "Machine", "ModelSize", "TrainingCost", "mask_cost", "reward_cost", "supervised_cost"]

_PATCH_GROUP = 4  # 2 × 2 patches become one token of the language model
_TEXT = 350  # tokens of a question and its answer with a legend of about fifteen names
_ADAM = 16  # bytes a trained parameter: float32 weight, gradient and two moments
_NF4 = 0.5 + 1 / 64 + 1 / 2048  # bytes a weight: 4 bits, an 8-bit scale for 64 of them, doubly quantised


@dataclass(frozen=True)
class Machine:
    """What computes.

    Parameters
    ----------
    name
        For people.
    devices
        GPUs, or 1 for a CPU.
    flops, bandwidth, memory
        Of one device: peak bfloat16 (CPU: float32) operations and bytes read a second; bytes.
    efficiency
        Share of the peak that training reaches.
    """

    name: str
    devices: int
    flops: float
    bandwidth: float
    memory: float
    efficiency: float = 0.35


MACHINES: Mapping[str, Machine] = {
    "8xA100-80GB": Machine("8xA100-80GB", 8, 312e12, 2.0e12, 80e9),
    "8xH100-80GB": Machine("8xH100-80GB", 8, 989e12, 3.35e12, 80e9),
    "1xA100-80GB": Machine("1xA100-80GB", 1, 312e12, 2.0e12, 80e9),
    "cpu-2-cores": Machine("cpu-2-cores", 1, 1.0e11, 2.0e10, 8e9, 0.2),
}
"""Data-sheet peaks (dense bfloat16); the CPU's are of two cores with AVX2."""


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters of a Qwen2.5-VL, and the widths that memory depends on.

    Parameters
    ----------
    language, embedding, vision
        Parameters of the decoder's layers, of the embedding and output matrices, of the vision tower.
    layers, hidden, intermediate, keys, heads, vocabulary
        Of the decoder; ``keys`` is the width of keys (and of values).
    patch
        Side of a vision patch in pixels.
    """

    language: int
    embedding: int
    vision: int
    layers: int
    hidden: int
    intermediate: int
    keys: int
    heads: int
    vocabulary: int
    patch: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.language + self.embedding + self.vision

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ModelSize:
        """From a model's ``config.json``.

        Raises
        ------
        InputError
            If it is no Qwen2.5-VL.
        """
        if config.get("model_type") != "qwen2_5_vl":
            raise InputError(f"estimates are made for qwen2_5_vl, not for {config.get('model_type')!r}")
        text = {**config, **config.get("text_config", {})}
        sight = config["vision_config"]
        h, i, depth = (int(text[k]) for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        heads, vocabulary = int(text["num_attention_heads"]), int(text["vocab_size"])
        keys = h // heads * int(text["num_key_value_heads"])
        layer = (h * h + h) + 2 * (h * keys + keys) + h * h + 3 * h * i + 2 * h
        tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
        v, m = int(sight["hidden_size"]), int(sight["intermediate_size"])
        patch = int(sight.get("patch_size", 14))
        block = (3 * v * v + 3 * v) + (v * v + v) + 3 * v * m + 2 * m + v + 2 * v
        wide = _PATCH_GROUP * v
        merger = v + wide * wide + wide + wide * int(sight["out_hidden_size"]) + int(sight["out_hidden_size"])
        stem = 3 * int(sight.get("temporal_patch_size", 2)) * patch * patch * v
        return cls(
            language=depth * layer + h,
            embedding=vocabulary * h * (1 if tied else 2),
            vision=stem + int(sight["depth"]) * block + merger,
            layers=depth, hidden=h, intermediate=i, keys=keys, heads=heads, vocabulary=vocabulary, patch=patch,
        )  # fmt: skip

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on q, k, v and o of every layer."""
        return self.layers * rank * (2 * 2 * self.hidden + 2 * (self.hidden + self.keys))

    def tokens(self, side: int, pictures: int = 3, text: int = _TEXT) -> int:
        """Tokens of a question with pictures of ``side`` × ``side`` pixels."""
        return pictures * (side // (2 * self.patch)) ** 2 + text

    def forward(self, side: int, pictures: int = 3, text: int = _TEXT) -> float:
        """Operations of one question's forward pass: two for each weight and token, and attention.

        Attention of the vision tower runs in windows and is left out; it is under 2 % at 448 pixels.
        """
        tokens = self.tokens(side, pictures, text)
        output = self.vocabulary * self.hidden
        attention = 4 * self.layers * tokens**2 * self.hidden
        sight = 2 * self.vision * pictures * (side // self.patch) ** 2
        return 2.0 * (self.language + output) * tokens + attention + sight

    def weights(self, four_bit: bool) -> float:
        """Bytes of the frozen weights: bfloat16, or NF4 for the decoder's layers and the vision tower."""
        if not four_bit:
            return 2.0 * self.total
        return _NF4 * (self.language + self.vision) + 2.0 * self.embedding

    def activations(self, tokens: int, questions: int) -> float:
        """Bytes that training holds with checkpoints at every layer: their inputs, one layer's inside, the logits."""
        kept = self.layers * self.hidden * 2
        inside = 2 * (8 * self.hidden + 4 * self.keys + 4 * self.intermediate)
        logits = 8 * self.vocabulary  # float32, and its gradient
        return float(questions * tokens * (kept + inside + logits))


@dataclass(frozen=True)
class TrainingCost:
    """What a stage needs.

    Parameters
    ----------
    parts
        Bytes on each GPU, by what they are for.
    hours
        Of the whole stage.
    machine
        On what.
    """

    parts: Mapping[str, float]
    hours: float
    machine: Machine

    @property
    def memory(self) -> float:
        """Bytes on each GPU, with a tenth more for fragmentation."""
        return 1.1 * sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether a device has that much."""
        return self.memory <= self.machine.memory

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in self.parts.items())
        fits = "fits" if self.fits else "does not fit"
        return (
            f"{self.machine.name}: about {self.memory / 1e9:.1f} GB a device ({listed}; {fits} in"
            f" {self.machine.memory / 1e9:.0f}), {self.hours:.1f} hours"
        )


def supervised_cost(
    size: ModelSize, machine: Machine, *, samples: int, epochs: int, batch: int, side: int = 448,
    rank: int = 8, four_bit: bool = False,
) -> TrainingCost:  # fmt: skip
    """Supervised fine-tuning of an adapter.

    A step is a forward pass, another to rebuild what checkpoints left out, and a backward pass through frozen weights,
    which costs as much as a forward one. Examples are spread over the devices.

    Examples
    --------
    >>> size = ModelSize(6_525_621_760, 1_089_994_752, 676_550_144, 28, 3584, 18944, 512, 28, 152064, 14)
    >>> cost = supervised_cost(size, MACHINES["8xA100-80GB"], samples=650_000, epochs=5, batch=64)
    >>> 40 < cost.hours < 90, cost.fits
    (True, True)
    """
    work = 3 * size.forward(side) * samples * epochs
    parts = {
        "weights": size.weights(four_bit),
        "adapter and optimiser": float(_ADAM * size.adapter(rank)),
        "activations": size.activations(size.tokens(side), -(-batch // machine.devices)),
    }
    return TrainingCost(parts, _hours(work, machine), machine)


def reward_cost(
    size: ModelSize, machine: Machine, *, steps: int, batch: int, longest: int = 256, side: int = 448,
    rank: int = 8, four_bit: bool = False,
) -> TrainingCost:  # fmt: skip
    """GRPO of an adapter: every completion is written, scored without the adapter, and learnt from.

    Writing is bound by reading the weights once a token for all completions of a device together. ``batch`` is the
    number of completions of one device.
    """
    tokens = size.tokens(side, text=_TEXT + longest)
    # One pass for the divergence from the start, three to learn (see above).
    work = 4 * size.forward(side, text=_TEXT + longest) * batch * machine.devices * steps
    written = steps * longest * size.weights(four_bit) / machine.bandwidth / 3600
    parts = {
        "weights": size.weights(four_bit),
        "adapter and optimiser": float(_ADAM * size.adapter(rank)),
        "activations": size.activations(tokens, batch),
        "keys and values": float(4 * size.layers * size.keys * tokens * batch),
    }
    return TrainingCost(parts, _hours(work, machine) + written, machine)


def mask_cost(
    size: ModelSize, machine: Machine, *, steps: int, batch: int, side: int = 448, sam2: int = 224_400_000,
    sam2_flops: float = 1.6e12, decoder: int = 9_000_000, four_bit: bool = False,
) -> TrainingCost:  # fmt: skip
    """Training of ``<Seg>``, memory attention and SAM 2's decoder, one device (the stage does not spread over several).

    ``sam2`` and ``sam2_flops`` are of Hiera-L at 1024²: parameters, and operations an image; reference and target
    are encoded for each pair.
    """
    work = batch * steps * (3 * size.forward(side) + 2 * sam2_flops)
    parts = {
        "weights": size.weights(four_bit) + 4.0 * sam2,
        "trained and optimiser": float(_ADAM * (decoder + 2 * size.hidden)),
        "activations": size.activations(size.tokens(side), 1) + 4e9,
    }
    alone = Machine(f"one of {machine.name}", 1, machine.flops, machine.bandwidth, machine.memory, machine.efficiency)
    return TrainingCost(parts, _hours(work, alone), alone)


def _hours(work: float, machine: Machine) -> float:
    return work / (machine.devices * machine.flops * machine.efficiency) / 3600
