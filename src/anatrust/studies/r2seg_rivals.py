"""What R²Seg is compared with: the same U-Net, fine-tuned on tumours as a whole or through adapters (LoRA)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.read import read_mask
from anatrust.studies.r2seg_cases import R2Case, cases
from anatrust.studies.study import Context

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    import torch

    from anatrust.models.unet import UNet

__all__ = [
    "CLASSES",
    "Lesson",
    "Rival",
    "adapted",
    "adapted_from",
    "adapter_share",
    "base",
    "lessons",
    "organ_dice",
    "taught",
]

Rival = Literal["LoRA", "fine-tuned"]
# A case and the classes of its voxels.
Lesson = tuple[R2Case, npt.NDArray[np.uint8]]

CLASSES = ("background", "anterior hippocampus", "posterior hippocampus", "lesion")
"""The classes of the U-Net: it knows organs and lesions, as a foundation model does."""

_LESION = CLASSES.index("lesion")
_RANK = 4
_STEPS = {"base": 400, "LoRA": 200, "fine-tuned": 200}
_RATES: dict[Rival, float] = {"LoRA": 3e-3, "fine-tuned": 1e-3}
# The decoder alone, as the paper adapts it.
_ADAPTED = r"merges\.\d+\.[03]|head"


def _organs(case: R2Case, context: Context) -> npt.NDArray[np.uint8]:
    """The two parts of the hippocampus as people drew them, on the case's crop."""
    labels = read_mask(context.path("hippocampus_mr", "labels", f"{case.patient}.nii.gz")).array
    box = ndimage.find_objects(ndimage.binary_dilation(labels > 0, iterations=3).astype(np.int8))[0]
    return np.array(labels[box], dtype=np.uint8)


def _labels(case: R2Case, context: Context) -> npt.NDArray[np.uint8]:
    """Organs and lesions in the numbers of :data:`CLASSES`."""
    labels = _organs(case, context)
    labels[case.target] = _LESION
    return labels


def lessons(world: str, context: Context) -> list[Lesson]:
    """The patients of ``teach`` with organs and lesions."""
    return [(c, _labels(c, context)) for patient in cases(world, "teach", context) for c in patient]


@lru_cache(maxsize=4)
def base(world: str, context: Context) -> UNet:
    """The frozen network: taught organs and lesions by the patients of ``teach``, for a minute or two."""
    return taught(lessons(world, context), 6 if context.quick else _STEPS["base"], context)


def taught(shown: Sequence[Lesson], steps: int, context: Context) -> UNet:
    """A network that learns organs and lesions.

    Rare classes weigh more in its loss than their voxels would, and half of its crops lie around
    lesions: it proposes too much, as BiomedParse does.
    """
    import torch

    from anatrust.models.organ_unet_training import partial_loss
    from anatrust.models.unet import UNet, UNetConfig

    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        model = UNet(UNetConfig(3, CLASSES, (8, 16, 32)))

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return partial_loss(logits, target, balance=0.5)

    return _learnt(model, shown, loss, steps, 3e-3, _LESION, context.seed)


def adapted(world: str, how: Rival, context: Context) -> UNet:
    """The frozen network of a population after it has learnt lesions, as :func:`adapted_from` says."""
    return adapted_from(base(world, context), world, how, context)


def adapted_from(frozen: UNet, world: str, how: Rival, context: Context) -> UNet:
    """A network after it has learnt lesions of further patients (``adapt``), who have no organs drawn.

    The loss asks for lesion against everything else, so nothing tells the network to forget organs.

    References
    ----------
    Hu et al., LoRA, ICLR 2022, through ``peft``: rank 4 in the decoder; R2Seg adapts BiomedParse so.
    """
    from torch.nn import functional

    model = _opened(frozen, how, context.seed)
    shown = [(c, c.target.astype(np.uint8)) for patient in cases(world, "adapt", context) for c in patient]
    steps = 3 if context.quick else _STEPS[how]

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        share, truth = logits.softmax(1)[:, _LESION].clamp(1e-6, 1 - 1e-6), target.float()
        overlap = (2 * (share * truth).sum() + 1) / (share.sum() + truth.sum() + 1)
        return functional.binary_cross_entropy(share, truth) + 1 - overlap

    return _learnt(model, shown, loss, steps, _RATES[how], 1, context.seed)


def _learnt(
    model: UNet,
    shown: Sequence[Lesson],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    steps: int,
    rate: float,
    around: int,
    seed: int,
) -> UNet:
    """Train what may learn of a network on crops of some cases."""
    import torch

    from anatrust.models.unet import normalised
    from anatrust.models.unet_training import TrainingRecipe, augmented_crop

    ready = [(normalised(case.scan.array), labels) for case, labels in shown]
    recipe = TrainingRecipe(steps, 2, 24, around=around)
    rng = np.random.default_rng([seed, 41])
    learns = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learns, lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        drawn = [ready[int(i)] for i in rng.integers(len(ready), size=recipe.batch)]
        parts = [augmented_crop(image, labels, recipe, rng) for image, labels in drawn]
        value = loss(model(torch.cat([p for p, _ in parts])), torch.cat([t for _, t in parts]))
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learns, 5.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def _opened(frozen: UNet, how: Rival, seed: int) -> UNet:
    """A copy whose weights, or whose new adapters, may learn."""
    import copy

    import torch

    model = copy.deepcopy(frozen)
    if how == "fine-tuned":
        return model.requires_grad_(True)
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=_ADAPTED)
        opened: UNet = inject_adapter_in_model(config, model.requires_grad_(False))
    return opened


def adapter_share(world: str, context: Context) -> float:
    """Parameters that LoRA learns, as a share of the network's."""
    frozen = base(world, context)
    learns = sum(p.numel() for p in _opened(frozen, "LoRA", context.seed).parameters() if p.requires_grad)
    return float(learns / sum(p.numel() for p in frozen.parameters()))


def organ_dice(model: UNet, patients: Sequence[Sequence[R2Case]], context: Context) -> dict[str, float]:
    """Mean Dice of the organs over some patients: what the network still knows of them.

    Voxels of lesions are left out: whether an organ goes on below its lesion is not asked.
    """
    from anatrust.models.unet import UNetSegmenter

    runner = UNetSegmenter(model)
    found: dict[str, list[float]] = {name: [] for name in CLASSES[1:_LESION]}
    for case in (c for patient in patients for c in patient):
        drawn, truth = runner.predict(case.scan).array.argmax(axis=0), _organs(case, context)
        for number, name in enumerate(CLASSES[1:_LESION], start=1):
            a, b = ((labels == number) & ~case.target for labels in (drawn, truth))
            found[name].append(float(2 * (a & b).sum() / max(int(a.sum() + b.sum()), 1)))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}
