"""Stages one and two: supervised fine-tuning and GRPO of a vision-language model, through TRL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anatrust.errors import InputError
from anatrust.models.vision_language import LoraSettings, VisionLanguageModel
from anatrust.reference.coordinates import Convention
from anatrust.reference.pairs import LabelledPicture, Sample, SeenSize, Task, draw_pairs
from anatrust.reference.prompts import Legend
from anatrust.reference.rewards import WEIGHTS, box_reward, form_reward, name_reward

__all__ = ["GrpoSettings", "SftSettings", "draw_samples", "train_grpo", "train_sft"]

Progress = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class SftSettings:
    """Supervised fine-tuning on questions with their answers.

    Parameters
    ----------
    samples, epochs
        Questions drawn, and how often each is seen (the paper: 650 000 items, 5 epochs).
    batch, learning_rate, seed
        Questions a step; of AdamW with a cosine schedule and 3 % warm-up; of data and dropout.
    tasks
        What is asked, in turn: ``name`` and ``box``; ``<Seg>`` comes in stage three.
    hidden
        Share of legends without names, which only the reference can answer.
    save_every
        Steps between checkpoints.
    lora
        The adapter; None trains every weight, as a model of ours that starts from nothing needs it.
    """

    samples: int = 650_000
    epochs: int = 5
    batch: int = 64
    learning_rate: float = 1e-4
    seed: int = 0
    tasks: tuple[Task, ...] = ("name", "box")
    hidden: float = 0.3
    save_every: int = 200
    lora: LoraSettings | None = LoraSettings()

    def __post_init__(self) -> None:
        _check(self.samples, self.epochs, self.batch, self.save_every, self.learning_rate, self.tasks)


@dataclass(frozen=True)
class GrpoSettings:
    """Reinforcement learning by comparing completions of one prompt.

    Parameters
    ----------
    steps, generations, batch
        Of the paper: 2 400 steps; completions compared for each prompt; completions a step.
    learning_rate, beta, epsilon, temperature
        Of AdamW; weight of the divergence from the start; clipping; of sampling.
    tasks, hidden
        As in :class:`SftSettings`.
    longest
        Tokens of a completion.
    seed, save_every, lora
        As there.
    """

    steps: int = 2400
    generations: int = 8
    batch: int = 8
    learning_rate: float = 1e-5
    beta: float = 0.04
    epsilon: float = 0.2
    temperature: float = 1.0
    tasks: tuple[Task, ...] = ("name",)
    hidden: float = 0.3
    longest: int = 256
    seed: int = 0
    save_every: int = 200
    lora: LoraSettings | None = LoraSettings()

    def __post_init__(self) -> None:
        _check(self.steps, self.generations, self.batch, self.save_every, self.learning_rate, self.tasks)
        if self.generations < 2 or self.batch % self.generations:
            raise InputError("GRPO compares at least 2 generations, and a batch holds whole groups of them")


def _check(*values: Any) -> None:
    *numbers, tasks = values
    if min(numbers) <= 0:
        raise InputError("steps, samples, batches and learning rates are above 0")
    if not tasks or set(tasks) - {"name", "box"}:
        raise InputError(f"the tasks of this stage are name and box, not {', '.join(tasks) or 'none'}")


def draw_samples(
    pictures: Sequence[LabelledPicture],
    tasks: Sequence[Task],
    seed: int,
    convention: Convention,
    hidden: float = 0.3,
    seen: SeenSize | None = None,
) -> Iterable[Sample]:
    """Questions without end, tasks in turn; the seed decides all of it."""
    rng = np.random.default_rng(seed + 1)
    for count, pair in enumerate(draw_pairs(pictures, seed, hidden=hidden)):
        yield pair.sample(tasks[count % len(tasks)], rng, convention, seen)


def train_sft(
    model: VisionLanguageModel,
    pictures: Sequence[LabelledPicture],
    settings: SftSettings,
    folder: Path,
    *,
    convention: Convention = "thousand",
    progress: Progress | None = None,
) -> list[float]:
    """Stage one: learn to answer. The adapter, or the whole model, is saved in ``folder``; a run begun there goes on.

    Parameters
    ----------
    model
        Gets the adapter, or is changed itself.
    pictures
        Of the training patients.
    settings, convention
        Of the stage; how boxes are written.
    folder
        For checkpoints (safetensors and JSON, no pickle), curves (TensorBoard) and the adapter.
    progress
        Called with step, steps and the figures logged.

    Returns
    -------
    list of float
        The loss at every step of the whole run, those before an interruption included.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from anatrust.reference.checkpoints import SafeCheckpoints

    class Trainer(SafeCheckpoints, SFTTrainer):  # type: ignore[misc]
        """TRL's, with checkpoints that hold no pickle."""

    seen = model.seen_size if convention == "pixels" else None
    endless = draw_samples(pictures, settings.tasks, settings.seed, convention, settings.hidden, seen)
    samples = islice(endless, settings.samples)
    rows = [
        {
            "prompt": [{"role": "user", "content": s.prompt}],
            "completion": [{"role": "assistant", "content": s.answer}],
            "images": list(s.pictures),
        }
        for s in samples
    ]
    arguments = SFTConfig(
        **_common(folder, settings.batch, settings.learning_rate, settings.seed, settings.save_every, model),
        num_train_epochs=settings.epochs,
        # A question cut off in the middle of a picture cannot be read.
        max_length=None,
    )
    trainer = Trainer(
        model=model.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=model.processor,
        peft_config=_adapter(model, settings.lora),
        callbacks=[_told(progress)] if progress else None,
    )
    return _run(trainer, folder, "loss")


def train_grpo(
    model: VisionLanguageModel,
    pictures: Sequence[LabelledPicture],
    settings: GrpoSettings,
    folder: Path,
    *,
    convention: Convention = "thousand",
    progress: Progress | None = None,
) -> list[float]:
    """Stage two: learn from rewards, 0.9 accuracy and 0.1 form; otherwise as :func:`train_sft`.

    Returns
    -------
    list of float
        The mean reward at every step.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from anatrust.reference.checkpoints import SafeCheckpoints

    class Trainer(SafeCheckpoints, GRPOTrainer):  # type: ignore[misc]
        """TRL's, with checkpoints that hold no pickle."""

    prompts = settings.steps * max(1, settings.batch // settings.generations)
    seen = model.seen_size if convention == "pixels" else None
    endless = draw_samples(pictures, settings.tasks, settings.seed, convention, settings.hidden, seen)
    samples = islice(endless, prompts)
    rows = [
        {
            "prompt": [{"role": "user", "content": s.prompt}],
            "images": list(s.pictures),
            "truth": json.dumps(
                {
                    "task": s.task, "number": s.number, "boxes": list(s.boxes.items()), "size": s.pictures[2].size,
                    "seen": s.pictures[2].size if seen is None else seen(s.pictures[2]),
                    "legend": s.legend.entries, "hidden": s.legend.hidden,
                }
            ),
        }
        for s in samples
    ]  # fmt: skip
    arguments = GRPOConfig(
        **_common(folder, settings.batch, settings.learning_rate, settings.seed, settings.save_every, model),
        max_steps=settings.steps,
        num_generations=settings.generations,
        max_completion_length=settings.longest,
        temperature=settings.temperature,
        beta=settings.beta,
        epsilon=settings.epsilon,
        # TRL's default is another loss and no divergence; the paper's is plain GRPO.
        loss_type="grpo",
        reward_weights=list(WEIGHTS),
    )
    trainer = Trainer(
        model=model.model,
        reward_funcs=[_accuracies(convention), _forms(convention)],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=model.processor,
        peft_config=_adapter(model, settings.lora),
        callbacks=[_told(progress)] if progress else None,
    )
    return _run(trainer, folder, "reward")


def _rewards(completion: Any, truth: str, convention: Convention) -> tuple[float, float]:
    text = completion if isinstance(completion, str) else "".join(part["content"] for part in completion)
    plain = json.loads(truth)
    legend = Legend(tuple((int(n), str(name)) for n, name in plain["legend"]), bool(plain["hidden"]))
    if plain["task"] == "name":
        return name_reward(text, plain["number"], legend), form_reward(text, legend)
    boxes = {int(n): None if box is None else tuple(box) for n, box in plain["boxes"]}
    size = (int(plain["size"][0]), int(plain["size"][1]))
    seen = (int(plain["seen"][0]), int(plain["seen"][1]))
    return box_reward(text, boxes, legend, convention, seen=seen, shown=size)


def _accuracies(convention: Convention) -> Callable[..., list[float]]:
    def accuracy(completions: Sequence[Any], truth: Sequence[str], **_: Any) -> list[float]:
        return [_rewards(c, t, convention)[0] for c, t in zip(completions, truth, strict=True)]

    return accuracy


def _forms(convention: Convention) -> Callable[..., list[float]]:
    def form(completions: Sequence[Any], truth: Sequence[str], **_: Any) -> list[float]:
        return [_rewards(c, t, convention)[1] for c, t in zip(completions, truth, strict=True)]

    return form


def _common(folder: Path, batch: int, rate: float, seed: int, every: int, model: VisionLanguageModel) -> dict[str, Any]:
    cuda = model.device.type == "cuda"
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "seed": seed,
        "save_steps": every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": ["tensorboard"],
        "use_cpu": not cuda,
        "bf16": cuda,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        # TRL still switches the second on by its old name.
        "activation_checkpointing": cuda,
        "gradient_checkpointing": False,
    }


def _adapter(model: VisionLanguageModel, lora: LoraSettings | None) -> Any:
    """The adapter's configuration; without one all weights are made trainable (they are loaded frozen)."""
    if lora is None:
        model.model.requires_grad_(True)
        return None
    return lora.config()


def _told(progress: Progress) -> Any:
    from transformers import TrainerCallback

    class Told(TrainerCallback):  # type: ignore[misc]
        """Hands what the trainer logs on to us."""

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
            progress(state.global_step, state.max_steps, numbers)

    return Told()


def _run(trainer: Any, folder: Path, figure: Literal["loss", "reward"]) -> list[float]:
    from transformers.trainer_callback import PrinterCallback

    begun = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    # A checkpoint that a kill cut short has no trainer_state.json, which is written last.
    begun = [p for p in begun if (p / "trainer_state.json").is_file()]
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(begun[-1]) if begun else None)
    trainer.save_model(str(folder))
    return [float(line[figure]) for line in trainer.state.log_history if figure in line]
