"""The recipe of the organ model: a new made-up image every step, partly labelled maps, averaged weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.models.organ_unet import ORGAN_CLASSES
from anatrust.models.organ_unet_synthesis import AnatomyCase, SynthesisRecipe, synthesise
from anatrust.models.unet import UNet, UNetConfig

__all__ = ["OrganRecipe", "partial_loss", "train_organ_unet"]


@dataclass(frozen=True)
class OrganRecipe:
    """How the organ model is trained.

    One image a step, drawn from the cases with their weights; AdamW, one-cycle rate; the result is
    the exponential average of the weights. Every step draws from its own seed, so an interrupted
    training goes on as if nothing had happened (to rounding, which threads and machines change).
    """

    steps: int = 1000
    rate: float = 2e-3
    widths: tuple[int, ...] = (16, 32, 64, 128)
    average: float = 0.998
    every: int = 100
    seed: int = 0
    synthesis: SynthesisRecipe = field(default_factory=SynthesisRecipe)


def partial_loss(
    logits: torch.Tensor, target: torch.Tensor, unknown: Sequence[int] = (), *, balance: float = 0.0
) -> torch.Tensor:
    """Cross-entropy and soft Dice where some classes may hide in the background.

    Parameters
    ----------
    logits
        ``(batch, classes, *shape)``.
    target
        ``(batch, *shape)`` classes.
    unknown
        Classes the label map does not know: where it says background they are right too (the
        marginal loss of Shi et al. 2021), and their Dice is not asked for.
    balance
        Cross-entropy weighs a class by its share of voxels to the power of minus this.
    """
    logs = logits.float().log_softmax(1)
    if unknown:
        together = logs[:, [0, *unknown]].logsumexp(1, keepdim=True)
        logs = torch.cat([together, logs[:, 1:]], dim=1)
    counts = torch.bincount(target.flatten(), minlength=logits.shape[1]).float()
    weight = (counts.sum() / counts.clamp(min=1)).pow(balance).clamp(max=30.0)
    entropy = functional.nll_loss(logs, target, weight=weight)
    truth = functional.one_hot(target, logits.shape[1]).movedim(-1, 1).float()
    axes = [0, *range(2, logits.ndim)]
    p = logs.exp()
    overlap, size = (p * truth).sum(axes), truth.sum(axes)
    dice = (2 * overlap + 1) / (p.sum(axes) + size + 1)
    asked = size > 0
    asked[0] = False
    return entropy + (1 - dice[asked]).mean() if bool(asked.any()) else entropy


def train_organ_unet(
    cases: Sequence[AnatomyCase],
    shares: Sequence[float],
    recipe: OrganRecipe,
    folder: Path,
    *,
    start: UNet | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> UNet:
    """Train the organ model, or go on where an interrupted training of the same recipe stopped.

    Parameters
    ----------
    cases, shares
        Label maps, and how often each is drawn (any positive scale).
    recipe
        Steps, rates and the wildness of the images.
    folder
        ``state.safetensors`` there is written every ``recipe.every`` steps.
    start
        A network to begin with, for example one that has only seen phantoms.
    progress
        Called with (step, steps, running mean of the loss).

    Raises
    ------
    InputError
        If there are no cases, shares do not fit, or the folder holds another training.
    """
    if not cases or len(cases) != len(shares) or min(shares) <= 0:
        raise InputError(
            f"{len(cases)} label maps and {len(shares)} shares: give a positive share to each, at least one"
        )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = UNet(UNetConfig(3, ORGAN_CLASSES, recipe.widths)).train()
    if start is not None:
        model.load_state_dict(start.state_dict())
    mean = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=recipe.steps, pct_start=0.15)
    identity = json.dumps({"recipe": asdict(recipe), "cases": [c.name for c in cases], "shares": list(shares)})
    first = _resume(folder, identity, model, mean, optimiser)
    with warnings.catch_warnings():
        # The optimiser took these steps before the interruption, which the schedule cannot know.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(first):
            schedule.step()
    chance = np.asarray(shares, dtype=float) / float(sum(shares))
    running = float("nan")
    for step in range(first, recipe.steps):
        rng = np.random.default_rng([recipe.seed, step])
        case = cases[int(rng.choice(len(cases), p=chance))]
        image, organs = synthesise(case, rng, recipe.synthesis)
        logits = _forward(model, image)
        # Rare classes first count more than their voxels, or a thousand steps leave small organs unseen;
        # in the end they count as they are, or organs come out too large.
        balance = 0.5 * min(1.0, 2.5 * (1 - step / recipe.steps))
        loss = partial_loss(logits, torch.from_numpy(organs.astype(np.int64))[None], case.unknown, balance=balance)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimiser.step()
        schedule.step()
        # Early weights are worth less: the average begins short and grows to its length.
        keep = min(recipe.average, (step + 1) / (step + 10))
        for name, value in model.state_dict().items():
            mean[name].mul_(keep).add_(value.detach(), alpha=1 - keep)
        now = float(loss.detach())
        running = now if np.isnan(running) else 0.98 * running + 0.02 * now
        if (step + 1) % recipe.every == 0 or step + 1 == recipe.steps:
            _save(folder, identity, step + 1, model, mean, optimiser)
        if progress:
            progress(step + 1, recipe.steps, running)
    model.load_state_dict(mean)
    return model.eval()


def _forward(model: UNet, image: npt.NDArray[np.float32]) -> torch.Tensor:
    """Logits; in bfloat16, three times as fast on processors that have it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: torch.Tensor = model(torch.from_numpy(image)[None, None])
    return logits


def _save(
    folder: Path, identity: str, step: int, model: UNet, mean: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer
) -> None:
    from safetensors.torch import save_file

    flat = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    flat |= {f"mean.{name}": value for name, value in mean.items()}
    for number, state in optimiser.state_dict()["state"].items():
        flat |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "state.safetensors") as path:
        clean = {name: value.contiguous().clone() for name, value in flat.items()}
        save_file(clean, str(path), metadata={"step": str(step), "identity": identity})


def _resume(
    folder: Path, identity: str, model: UNet, mean: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer
) -> int:
    """Steps already done; the networks and the optimiser are set to where they were."""
    from safetensors import safe_open

    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    with safe_open(str(path), framework="pt") as file:
        facts = file.metadata()
        if facts["identity"] != identity:
            raise InputError(f"{folder} holds another training: remove it or choose another folder")
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict({k.removeprefix("model."): v for k, v in stored.items() if k.startswith("model.")})
    for name in mean:
        mean[name].copy_(stored[f"mean.{name}"])
    state: dict[int, dict[str, Any]] = {}
    for name, value in stored.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(facts["step"])
