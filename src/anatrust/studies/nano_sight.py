"""The vision tower of `rau-nano` learns to see before anybody asks it anything, as a real one comes pretrained.

From pictures of the training patients, plain, tinted or with a region outlined, each patch tells which organs it
shows, which tint each number has and how much of an outline: linear readings of what the language model gets.
A transformer that must find this out from one word an answer needs many times the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.reference.pairs import LabelledPicture, outlined, plain_picture, tinted
from anatrust.studies.nano_anatomy import ORGANS

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from PIL import Image

    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["patch_shares", "teach_sight"]

_KINDS = 3


def patch_shares(values: npt.NDArray[np.integer], kinds: int, patch: int) -> npt.NDArray[np.float32]:
    """Share of each patch that each number from 0 to ``kinds − 1`` covers, ``(patches, kinds)`` in reading order.

    Examples
    --------
    >>> patch_shares(np.array([[0, 0, 1, 1], [0, 2, 1, 1]]), 3, 2)
    array([[0.75, 0.  , 0.25],
           [0.  , 1.  , 0.  ]], dtype=float32)
    """
    rows, columns = (n // patch for n in values.shape)
    cells = values.reshape(rows, patch, columns, patch).swapaxes(1, 2).reshape(rows * columns, -1)
    return np.stack([(cells == kind).mean(1) for kind in range(kinds)], axis=1).astype(np.float32)


def teach_sight(
    model: VisionLanguageModel, pictures: Sequence[LabelledPicture], steps: int, seed: int, *, batch: int = 32
) -> list[float]:
    """Train the vision tower in place; returns the loss of every step.

    Parameters
    ----------
    model
        Its language model stays as it is.
    pictures
        Of training patients, all of the size that the model sees.
    steps, batch, seed
        Of the training.
    """
    import torch
    from torch.nn.functional import cross_entropy

    rng = np.random.default_rng([seed, 51])
    torch.manual_seed(seed)
    tower: Any = model.model.model.visual
    patch = int(tower.config.patch_size)
    kinds = len(ORGANS) + 1
    heads = torch.nn.Linear(int(tower.config.out_hidden_size), _KINDS * kinds)
    tower.requires_grad_(True)
    weights = [*tower.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=max(2, steps), pct_start=0.1)
    losses = []
    for _ in range(steps):
        shown, truths = [], []
        for _ in range(batch):
            image, truth = _view(pictures[int(rng.integers(len(pictures)))], rng, patch)
            shown.append(image)
            truths.append(truth)
        given = model.processor.image_processor(shown, return_tensors="pt")
        seen = tower(given["pixel_values"], grid_thw=given["image_grid_thw"], return_dict=True)
        read = heads(seen.pooler_output).reshape(-1, _KINDS, kinds)
        goal = torch.from_numpy(np.concatenate(truths)).reshape(-1, _KINDS, kinds)
        loss = cross_entropy(read.transpose(1, 2), goal.transpose(1, 2))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    model.model.requires_grad_(False)
    return losses


def _view(
    picture: LabelledPicture, rng: np.random.Generator, patch: int
) -> tuple[Image.Image, npt.NDArray[np.float32]]:
    """A picture as questions show it; for each patch the shares of organs, of tints and of an outlined organ."""
    kinds = len(ORGANS) + 1
    tints, inside = np.zeros_like(picture.labels), np.zeros_like(picture.labels)
    way = int(rng.integers(3))
    image = plain_picture(picture.image)
    if way == 1:
        order = rng.permutation(len(ORGANS)) + 1
        numbers = {label: int(order[label - 1]) for label in picture.present}
        image = tinted(picture, numbers)
        table = np.array([0, *(numbers.get(label, 0) for label in range(1, kinds))])
        tints = table[picture.labels]
    elif way == 2:
        label = int(rng.choice(picture.present))
        image = outlined(picture.image, picture.labels == label)
        # Inside the outline, by organ: which organ is asked about, where it is.
        inside = np.where(picture.labels == label, picture.labels, 0)
    parts = [patch_shares(values, kinds, patch) for values in (picture.labels, tints, inside)]
    return image, np.concatenate(parts, axis=1)
