"""Stages one and two: supervised fine-tuning and GRPO of a vision-language model, through TRL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from anatrust.errors import InputError
from anatrust.models.vision_language import LoraSettings, VisionLanguageModel
from anatrust.reference.completion_rewards import Question, completion_rewards
from anatrust.reference.coordinates import Convention
from anatrust.reference.pairs import LabelledPicture, Sample, SeenSize, Task, draw_pairs
from anatrust.reference.rewards import WEIGHTS

if TYPE_CHECKING:
    from anatrust.reference.token_segmenter import TokenSegmenter

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
        numbers = (self.samples, self.epochs, self.batch, self.save_every, self.learning_rate)
        _check(numbers, self.tasks, ("name", "box"))


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
        As in :class:`SftSettings`; ``segment`` too, where there is a segmenter.
    relations
        Weight of a further reward, the share of the reference's relations that boxes or masks keep; 0 leaves it out.
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
    relations: float = 0.0
    longest: int = 256
    seed: int = 0
    save_every: int = 200
    lora: LoraSettings | None = LoraSettings()

    def __post_init__(self) -> None:
        numbers = (self.steps, self.generations, self.batch, self.save_every, self.learning_rate)
        _check(numbers, self.tasks, get_args(Task))
        if self.relations < 0:
            raise InputError("the weight of the relations is not negative")
        if self.generations < 2 or self.batch % self.generations:
            raise InputError("GRPO compares at least 2 generations, and a batch holds whole groups of them")


def _check(numbers: Sequence[float], tasks: Sequence[str], allowed: Sequence[str]) -> None:
    if min(numbers) <= 0:
        raise InputError("steps, samples, batches and learning rates are above 0")
    if not tasks or set(tasks) - set(allowed):
        raise InputError(f"the tasks of this stage are {', '.join(allowed)}, not {', '.join(tasks) or 'none'}")


def draw_samples(
    pictures: Sequence[LabelledPicture],
    tasks: Sequence[Task],
    seed: int,
    convention: Convention,
    hidden: float = 0.3,
    seen: SeenSize | None = None,
) -> Iterable[Sample]:
    """Questions without end, tasks in turn; the seed decides all of it."""
    return (q.sample for q in _draw_questions(pictures, tasks, seed, convention, hidden, seen))


def _draw_questions(
    pictures: Sequence[LabelledPicture],
    tasks: Sequence[Task],
    seed: int,
    convention: Convention,
    hidden: float = 0.3,
    seen: SeenSize | None = None,
) -> Iterator[Question]:
    rng = np.random.default_rng(seed + 1)
    for count, pair in enumerate(draw_pairs(pictures, seed, hidden=hidden)):
        sample = pair.sample(tasks[count % len(tasks)], rng, convention, seen)
        last = sample.pictures[2]
        yield Question(pair, sample, last.size if seen is None else seen(last))


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
    segmenter: TokenSegmenter | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Stage two: learn from rewards, 0.9 accuracy and 0.1 form; otherwise as :func:`train_sft`.

    With ``segmenter`` (made with ``model``) the task ``segment`` is rewarded by the Dice of what the completion's
    ``<Seg>`` tokens draw: the paper's last stage, in which the language model learns and what draws stays
    as it is. The segmenter is saved in ``folder`` too.

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

    if "segment" in settings.tasks and segmenter is None:
        raise InputError("the task segment is rewarded by masks: give the segmenter of 'anatrust train seg'")
    prompts = settings.steps * max(1, settings.batch // settings.generations)
    seen = model.seen_size if convention == "pixels" else None
    endless = _draw_questions(pictures, settings.tasks, settings.seed, convention, settings.hidden, seen)
    questions = list(islice(endless, prompts))
    rows = [
        {
            "prompt": [{"role": "user", "content": q.sample.prompt}],
            "images": list(q.sample.pictures),
            "question": k,
        }
        for k, q in enumerate(questions)
    ]
    rewards, weights = completion_rewards(questions, convention, segmenter), [*WEIGHTS, settings.relations]
    kept = 3 if settings.relations > 0 else 2
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
        reward_weights=weights[:kept],
    )
    trainer = Trainer(
        model=model.model,
        reward_funcs=list(rewards[:kept]),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=model.processor,
        peft_config=_adapter(model, settings.lora),
        callbacks=[_told(progress)] if progress else None,
    )
    if segmenter is not None and segmenter.language is not None:
        # What draws must see the states of the model that learns, adapter included.
        segmenter.language.model = trainer.accelerator.unwrap_model(trainer.model)
    found = _run(trainer, folder, "reward")
    if segmenter is not None:
        segmenter.save(folder)
    return found


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
