"""Stage three: the ``<Seg>`` token, its projection and SAM 2's decoder learn to draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from anatrust.errors import InputError
from anatrust.models.vision_language import LoraSettings
from anatrust.reference.added_tokens import place_loss
from anatrust.reference.checkpoints import load_state, save_state
from anatrust.reference.memory_attention import attention_health, slot_loss
from anatrust.reference.pairs import LabelledPicture, Pair, draw_pairs
from anatrust.reference.token_segmenter import TokenSegmenter

__all__ = ["MaskSettings", "mask_loss", "overlap_loss", "train_masks"]

Progress = Callable[[int, int, Mapping[str, float]], None]
# Pairs of which the states are measured before training.
_MEASURED = 16


@dataclass(frozen=True)
class MaskSettings:
    """Training of the tokens that draw.

    Parameters
    ----------
    steps, batch, seed
        Steps of how many pairs; the order of pairs.
    token_rate, decoder_rate
        Learning rates of ``<Seg>`` rows and memory attention, and of SAM 2's decoder.
    dice, cross_entropy, language, slot
        Weights of the losses. Dice leads because cross-entropy alone stays at empty masks.
    place
        Weight of where the target's patches say each region lies, for the level ``added``.
    overlap
        Weight of what regions of one picture claim together, which labels of one map never share; 0 leaves it out.
    standardise
        Whether states are given in deviations from what they share (`MemoryAttention.standardise`); SAM 2's pointers,
        where there is no language model.
    train_adapter
        Whether the language model's adapter learns too; frozen as in the paper by default.
    train_tokens
        Whether what reads the tokens learns; without it SAM 2's own memory is taught alone, as a start or a rival of
        the level ``added``.
    train_sam
        Whether all of SAM 2 learns at the decoder's rate and not its decoder alone, as a SAM 2 of ours that
        starts from nothing needs it.
    save_every
        Steps between checkpoints.
    lora
        The adapter; it carries the ``<Seg>`` rows.
    """

    steps: int = 2000
    batch: int = 4
    seed: int = 0
    token_rate: float = 1e-3
    decoder_rate: float = 2e-5
    dice: float = 5.0
    cross_entropy: float = 1.0
    language: float = 0.1
    slot: float = 0.2
    place: float = 0.5
    overlap: float = 0.0
    standardise: bool = False
    train_adapter: bool = False
    train_tokens: bool = True
    train_sam: bool = False
    save_every: int = 200
    lora: LoraSettings = LoraSettings()

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.save_every, self.token_rate, self.decoder_rate) <= 0:
            raise InputError("steps, batch, save_every and learning rates are above 0")
        if min(self.dice, self.cross_entropy, self.language, self.slot, self.place, self.overlap) < 0:
            raise InputError("weights of losses are not negative")


def mask_loss(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Soft Dice loss and cross-entropy of ``(N, h, w)`` logits, averaged over regions.

    Examples
    --------
    >>> truth = torch.zeros(1, 4, 4); truth[0, :2] = 1
    >>> dice, entropy = mask_loss(20 * (truth - 0.5), truth)
    >>> bool(dice < 1e-3), bool(entropy < 1e-3)
    (True, True)
    """
    probability = logits.sigmoid().flatten(1)
    flat = truth.flatten(1)
    shared = (probability * flat).sum(1)
    dice = 1 - (2 * shared + 1e-6) / (probability.sum(1) + flat.sum(1) + 1e-6)
    return dice.mean(), binary_cross_entropy_with_logits(logits, truth)


def overlap_loss(logits: Tensor) -> Tensor:
    """What regions claim together: the mean over pixels of Σ over pairs of the product of their chances.

    Examples
    --------
    >>> apart, same = torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]]), torch.full((2, 1, 2), 9.0)
    >>> bool(overlap_loss(apart) < 1e-3), round(float(overlap_loss(same)), 2)
    (True, 1.0)
    """
    chance = logits.sigmoid().flatten(1)
    # (Σp)² holds every pair twice, and the squares.
    return ((chance.sum(0) ** 2 - (chance**2).sum(0)) / 2).mean()


def train_masks(
    segmenter: TokenSegmenter,
    pictures: Sequence[LabelledPicture],
    settings: MaskSettings,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> list[float]:
    """Train and save into ``folder``; a run begun there goes on with the losses it would have had.

    Trained are the rows of ``<Seg>``, what reads them and SAM 2's mask decoder; SAM 2's image
    encoder and the vision tower stay frozen, the first unless ``train_sam`` is set.

    Parameters
    ----------
    segmenter
        Changed in place; its language model, where it has one, gets an adapter.
    pictures
        Of the training patients.
    settings
        Of the stage.
    folder
        For checkpoints, the adapter and the segmenter.
    progress
        Called with step, steps and the losses, entropy and likeness of the attention.

    Returns
    -------
    list of float
        The loss at every step of the whole run.
    """
    language = segmenter.language
    # The adapter's first values are random: the seed must decide them for a resumed run too.
    torch.manual_seed(settings.seed)
    if language is not None:
        from peft import get_peft_model

        tied = bool(getattr(language.model.config, "tie_word_embeddings", False))
        language.model = get_peft_model(language.model, settings.lora.config(language.seg, tied=tied))
    if settings.standardise:
        _standardise(segmenter, pictures, settings)
    rows = _choose(segmenter, settings)
    decoder = [p for p in segmenter.sam.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [*rows, *_readers(segmenter)], "lr": settings.token_rate},
            {"params": decoder, "lr": settings.decoder_rate},
        ]
    )
    trained = {name: p for name, p in _named(segmenter) if p.requires_grad}
    losses, begun = _resume(folder, trained, optimiser)
    pairs = islice(draw_pairs(pictures, settings.seed), begun * settings.batch, None)
    rng = np.random.default_rng(settings.seed)
    _mode(segmenter, training=True)
    for step in range(begun, settings.steps):
        told: dict[str, float] = {}
        total = torch.zeros((), device=segmenter.sam.device)
        for pair in islice((p for p in pairs if any(p.mask(n).any() for n in p.labels)), settings.batch):
            loss = _loss(segmenter, pair, settings, rng, told)
            (loss / settings.batch).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / settings.batch
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(total.item())
        if progress:
            progress(step + 1, settings.steps, {"loss": losses[-1], **told})
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            _save(folder, trained, optimiser, losses)
    _mode(segmenter, training=False)
    if language is not None:
        language.model.save_pretrained(str(folder))
    segmenter.save(folder)
    return losses


def _standardise(segmenter: TokenSegmenter, pictures: Sequence[LabelledPicture], settings: MaskSettings) -> None:
    """Before anything is learnt or loaded, so that a run that goes on has the same standard."""
    rng, found = np.random.default_rng([settings.seed, 31]), []
    for pair in islice(draw_pairs(pictures, settings.seed), _MEASURED):
        sample = pair.sample("segment", rng)
        if sample.masks:
            found.append(segmenter.states(sample) if segmenter.language is not None else segmenter.pointers(pair))
    if found:
        segmenter.attention.standardise(torch.cat(found))


def _mode(segmenter: TokenSegmenter, *, training: bool) -> None:
    """Dropout of the adapter on or off; SAM 2 has none."""
    if segmenter.language is not None:
        segmenter.language.model.train(training)


def _loss(
    segmenter: TokenSegmenter, pair: Pair, settings: MaskSettings, rng: np.random.Generator, told: dict[str, float]
) -> Tensor:
    sample = pair.sample("segment", rng)
    logits, attended, slots, language = segmenter.forward(pair, sample)
    truth = torch.from_numpy(np.stack(list(sample.masks.values())).astype(np.float32)).to(logits.device)
    shown = interpolate(truth[:, None], logits.shape[-2:], mode="area")[:, 0]
    dice, entropy = mask_loss(logits, shown)
    slot = slot_loss(attended, slots)
    health = attention_health(attended, slots)
    told.update(dice=dice.item(), language=language.item(), slot=slot.item())
    told.update(entropy=health.entropy, alike=health.alike, slot_accuracy=health.slot_accuracy)
    told.update(collapsed=float(health.collapsed))
    total = settings.dice * dice + settings.cross_entropy * entropy
    if settings.overlap:
        total = total + settings.overlap * overlap_loss(logits)
    if attended.places is not None:
        place = place_loss(attended.places, truth)
        told.update(place=place.item())
        total = total + settings.place * place
    return total + settings.language * language + settings.slot * slot


def _choose(segmenter: TokenSegmenter, settings: MaskSettings) -> list[torch.nn.Parameter]:
    """Freeze all but what the stage trains; returns the language model's part of it."""
    segmenter.sam.requires_grad_(settings.train_sam)
    segmenter.sam.model.mask_decoder.requires_grad_(True)
    for parameter in _readers(segmenter):
        parameter.requires_grad_(settings.train_tokens)
    chosen: list[torch.nn.Parameter] = []
    if segmenter.language is None:
        return chosen
    for name, parameter in segmenter.language.model.named_parameters():
        rows = settings.train_tokens and "trainable_tokens" in name
        parameter.requires_grad_(rows or (settings.train_adapter and "lora_" in name))
        if parameter.requires_grad:
            chosen.append(parameter)
    return chosen


def _readers(segmenter: TokenSegmenter) -> list[torch.nn.Parameter]:
    """What reads the tokens: the memory attention, and what adds them to SAM 2's own memory."""
    added = segmenter.added
    return [*segmenter.attention.parameters(), *([] if added is None else added.parameters())]


def _named(segmenter: TokenSegmenter) -> list[tuple[str, torch.nn.Parameter]]:
    language = segmenter.language
    spoken = [] if language is None else [(f"language.{n}", p) for n, p in language.model.named_parameters()]
    return [*spoken, *((f"own.{n}", p) for n, p in segmenter.named_parameters())]


def _save(folder: Path, trained: Mapping[str, Any], optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
    """A whole checkpoint or none: written beside, then renamed."""
    final, fresh = folder / "checkpoint", folder / "checkpoint.new"
    fresh.mkdir(parents=True, exist_ok=True)
    state = {"weights": dict(trained), "optimizer": optimiser.state_dict(), "losses": losses}
    save_state(fresh / "state", state | {"random": torch.get_rng_state()})
    old = folder / "checkpoint.old"
    _remove(old)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def _resume(
    folder: Path, trained: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> tuple[list[float], int]:
    place = next((p for p in (folder / "checkpoint", folder / "checkpoint.old") if p.is_dir()), None)
    if place is None:
        return [], 0
    found = load_state(place / "state")
    if set(found["weights"]) != set(trained):
        raise InputError(f"{folder} holds a run with other settings: choose another output folder")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(found["weights"][name])
    optimiser.load_state_dict(found["optimizer"])
    torch.set_rng_state(found["random"])
    return [float(v) for v in found["losses"]], len(found["losses"])
