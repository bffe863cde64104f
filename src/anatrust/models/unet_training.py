"""The recipe that trains the small U-Net: Dice and cross-entropy, light augmentation, minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from anatrust.errors import InputError
from anatrust.models.unet import UNet, UNetConfig, normalised

__all__ = ["TrainingRecipe", "augmented_crop", "train_unet"]


@dataclass(frozen=True)
class TrainingRecipe:
    """How a U-Net is trained; the same seed and data give the same network on one machine.

    ``crop`` is the edge of the random crops (smaller images are padded), ``flips`` lists the axes
    along which anatomy may be mirrored. Half of the crops lie around a voxel labelled ``around`` or higher.
    """

    steps: int = 600
    batch: int = 4
    crop: int = 64
    rate: float = 3e-3
    flips: tuple[int, ...] = ()
    seed: int = 0
    around: int = 1


def _warp(image: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A small random rotation in the first two axes, scaling and shear of both."""
    ndim = image.ndim - 2
    matrix = np.eye(ndim) + rng.normal(0, 0.06, (ndim, ndim))
    angle = rng.uniform(-0.25, 0.25)
    turn = np.eye(ndim)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    theta = np.hstack([matrix @ turn, rng.normal(0, 0.05, (ndim, 1))])[None]
    grid = functional.affine_grid(torch.from_numpy(theta).float(), list(image.shape), align_corners=False)
    warped = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    moved = functional.grid_sample(labels.float(), grid, mode="nearest", align_corners=False)
    return warped, moved.long()


def augmented_crop(
    image: npt.NDArray[np.float32], labels: npt.NDArray[Any], recipe: TrainingRecipe, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random augmented crop, half of the time around a voxel of a structure: ``(1, 1, *crop)`` and ``(1, *crop)``."""
    edge = recipe.crop
    missing = [(0, max(0, edge - n)) for n in image.shape]
    image, labels = np.pad(image, missing, mode="edge"), np.pad(labels, missing)
    centre = [int(rng.integers(0, n)) for n in image.shape]
    inside = np.argwhere(labels >= recipe.around)
    if rng.random() < 0.5 and len(inside):
        centre = [int(v) for v in inside[rng.integers(len(inside))]]
    window = tuple(
        slice(start, start + edge)
        for start in (int(np.clip(c - edge // 2, 0, n - edge)) for c, n in zip(centre, image.shape, strict=True))
    )
    part, target = (
        torch.from_numpy(image[window])[None, None],
        torch.from_numpy(labels[window].astype(np.int64))[None, None],
    )
    for axis in recipe.flips:
        if rng.random() < 0.5:
            part, target = part.flip(axis + 2), target.flip(axis + 2)
    part, target = _warp(part, target, rng)
    part = part * float(rng.uniform(0.8, 1.25)) + float(rng.normal(0, 0.15))
    part = part + float(rng.uniform(0, 0.15)) * torch.from_numpy(rng.standard_normal(part.shape).astype(np.float32))
    return part, target[:, 0]


def _loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice over the structures of the batch."""
    entropy = functional.cross_entropy(logits, target)
    p = logits.softmax(1)[:, 1:]
    truth = functional.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    axes = [0, *range(2, logits.ndim)]
    overlap = (p * truth).sum(axes)
    dice = (2 * overlap + 1) / (p.sum(axes) + truth.sum(axes) + 1)
    return entropy + 1 - dice.mean()


def train_unet(
    images: Sequence[npt.NDArray[Any]],
    labels: Sequence[npt.NDArray[Any]],
    config: UNetConfig,
    recipe: TrainingRecipe | None = None,
    *,
    checkpoint: Callable[[int, UNet], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UNet:
    """Train a U-Net from scratch.

    Parameters
    ----------
    images, labels
        One scan array and one integer label array each, of equal shapes; labels index
        ``config.classes``. Held in memory.
    config, recipe
        The network and how it is trained.
    checkpoint
        Called with (step, model) after every tenth of the steps; an early one is a weak segmenter.
    progress
        Called with (step, steps).

    Raises
    ------
    InputError
        If there is nothing to train on, shapes differ or a label has no class.
    """
    recipe = recipe or TrainingRecipe()
    if not images or len(images) != len(labels):
        raise InputError(f"{len(images)} images and {len(labels)} label maps: give as many of both, at least one")
    for image, label in zip(images, labels, strict=True):
        if image.shape != label.shape or image.ndim != config.ndim:
            raise InputError(
                f"an image of shape {image.shape} with labels of {label.shape} for a {config.ndim}-D network"
            )
        if int(label.max()) >= len(config.classes) or int(label.min()) < 0:
            raise InputError(f"label {int(label.max())} has no class among {', '.join(config.classes)}")
    rng = np.random.default_rng(recipe.seed)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = UNet(config).train()
    ready = [normalised(image) for image in images]
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=recipe.steps)
    every = max(1, recipe.steps // 10)
    for step in range(1, recipe.steps + 1):
        chosen = rng.integers(len(ready), size=recipe.batch)
        parts = [augmented_crop(ready[i], labels[i], recipe, rng) for i in chosen]
        loss = _loss(model(torch.cat([p for p, _ in parts])), torch.cat([t for _, t in parts]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if checkpoint and step % every == 0:
            checkpoint(step, model.eval())
            model.train()
        if progress:
            progress(step, recipe.steps)
    return model.eval()
