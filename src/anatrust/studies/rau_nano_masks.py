"""Study `rau-nano-masks`: a language model's tokens in SAM 2's memory against that memory alone, both trained."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.metrics import dice
from anatrust.reference.pairs import Pair, draw_pairs
from anatrust.studies.nano_anatomy import cohort
from anatrust.studies.nano_model import build_sam2
from anatrust.studies.nano_training import QUICK, SCHOOLED, SEEN, UNSEEN, Plan, patients_asked, schooled
from anatrust.studies.rau_nano import place
from anatrust.studies.rau_nano_masks_summary import ARMS, draw_figures, make_tables, summarise
from anatrust.studies.study import Cell, Context, Study

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from torch import Tensor

    from anatrust.models.sam2_memory import Sam2Parts
    from anatrust.reference.token_segmenter import TokenSegmenter

__all__ = ["STUDY"]

_NEEDS = (
    "anatrust.studies.rau_nano_masks",
    "anatrust.studies.nano_anatomy",
    "anatrust.studies.nano_attention",
    "anatrust.studies.nano_lessons",
    "anatrust.studies.nano_model",
    "anatrust.studies.nano_sight",
    "anatrust.studies.nano_training",
    "anatrust.models.sam2_memory",
    "anatrust.reference.added_tokens",
    "anatrust.reference.memory_attention",
    "anatrust.reference.token_segmenter",
)
_SWITCHED = (*_NEEDS, "anatrust.reference.switched_attention")
# Steps of the memory alone from which all arms start, and of every arm from there, of two pairs each.
_FIRST, _STEPS = 700, 200
_BATCH, _PAIRS = 2, 40
# Small organs after a large one beside them: twelve organs that never overlap have no parts.
_TREE = {"gallbladder": "liver", "right kidney": "liver", "pancreas": "stomach", "left kidney": "spleen"}


def _cells(context: Context) -> list[Cell]:
    def cell(arm: str, seed: int, width: int) -> Cell:
        needs = _SWITCHED if arm in ("gates", "tree") else _NEEDS
        return Cell(f"{arm}/{seed}/{width}", {"arm": arm, "seed": seed, "width": width}, (), needs)

    cells = [Cell(arm, {"arm": arm, "seed": 0, "width": 256}, (), _NEEDS) for arm in ("pasted", "start")]
    cells += [cell(*one) for one in (ARMS[:2] if context.quick else ARMS)]
    return cells


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    plan = QUICK if context.quick else SCHOOLED
    arm, seed, width = (cell.parameters[k] for k in ("arm", "seed", "width"))
    pairs = {
        name: _pairs(looks, plan, 2 if context.quick else _PAIRS)
        for name, looks in (("seen", SEEN), ("unseen", UNSEEN))
    }
    if arm == "pasted":
        return {"regions": {name: [r for p in own for r in _pasted(p)] for name, own in pairs.items()}}
    segmenter, losses = _start(context)
    trained = sum(p.numel() for p in segmenter.sam.parameters() if p.requires_grad)
    if arm != "start":
        segmenter, losses, trained = _arm(arm, seed, width, segmenter.sam, context)
    regions = {name: [r for pair in own for r in _drawn(segmenter, pair)] for name, own in pairs.items()}
    return {
        "regions": regions, "trained": trained, "steps": len(losses),
        "losses": [round(float(np.mean(losses[k : k + 20])), 3) for k in range(0, len(losses), 20)],
    }  # fmt: skip


def _start(context: Context) -> tuple[TokenSegmenter, list[float]]:
    """SAM 2's memory alone, taught from nothing, or as far as an interrupted run got and then on."""
    from anatrust.models.sam2_memory import Sam2Parts
    from anatrust.reference.mask_training import MaskSettings, train_masks
    from anatrust.reference.token_segmenter import TokenSegmenter

    plan = QUICK if context.quick else SCHOOLED
    folder = place(plan)
    untaught = folder / f"sam2-{context.seed}"
    if not (untaught / "model.safetensors").is_file():
        build_sam2(untaught, context.seed)
    segmenter = TokenSegmenter.make(None, Sam2Parts.load(untaught), "added", places=False)
    settings = MaskSettings(
        steps=1 if context.quick else _FIRST, batch=1 if context.quick else _BATCH, seed=context.seed,
        decoder_rate=7e-4, train_sam=True, train_tokens=False, save_every=100,
    )  # fmt: skip
    pictures = cohort(range(plan.patients), SEEN, size=plan.size.side)
    return segmenter, train_masks(segmenter, pictures, settings, folder / f"masks-start-{context.seed}")


def _arm(arm: str, seed: int, width: int, sam: Sam2Parts, context: Context) -> tuple[TokenSegmenter, list[float], int]:
    """Taught on from the memory alone; with the number of weights that learnt."""
    import torch

    from anatrust.models.vision_language import VisionLanguageModel
    from anatrust.reference.mask_training import MaskSettings, train_masks
    from anatrust.reference.token_segmenter import TokenSegmenter

    plan = QUICK if context.quick else SCHOOLED
    folder = place(plan)
    language = None
    if arm != "memory":
        language = VisionLanguageModel.load(schooled(folder, plan, context.seed))
    torch.manual_seed(seed)
    segmenter = TokenSegmenter.make(
        language, sam, "native" if arm == "native" else "added", width, gated=arm == "gates",
        parts=_TREE if arm == "tree" else None, places=arm != "words",
    )  # fmt: skip
    settings = MaskSettings(
        steps=1 if context.quick else _STEPS, batch=1 if context.quick else _BATCH, seed=100 + seed, token_rate=1e-3,
        decoder_rate=3e-4, train_sam=True, save_every=100, standardise=True,
    )  # fmt: skip
    pictures = cohort(range(plan.patients), SEEN, size=plan.size.side)
    losses = train_masks(segmenter, pictures, settings, folder / f"masks-{arm}-{seed}-{width}")
    trained = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    if language is not None:
        trained += sum(p.numel() for p in language.model.parameters() if p.requires_grad)
    return segmenter, losses, trained


def _pairs(looks: Any, plan: Plan, count: int) -> list[Pair]:
    return list(islice(draw_pairs(patients_asked(looks, plan), 9, absent=0.0), count))


def _row(
    pair: Pair, number: int, mask: npt.NDArray[np.bool_], health: Mapping[str, float] | None = None
) -> dict[str, Any]:
    truth = pair.mask(number)
    shared, either = int((mask & truth).sum()), int((mask | truth).sum())
    row = {
        "patient": pair.target.patient, "organ": pair.target.names[pair.labels[number]],
        "dice": round(float(dice(truth, mask)), 4), "iou": round(shared / either, 4),
    }  # fmt: skip
    return row | {name: round(value, 4) for name, value in (health or {}).items()}


def _pasted(pair: Pair) -> list[dict[str, Any]]:
    visible = [n for n in pair.labels if pair.mask(n).any()]
    return [_row(pair, n, np.asarray(pair.reference.labels == pair.labels[n])) for n in visible]


def _drawn(segmenter: TokenSegmenter, pair: Pair) -> list[dict[str, Any]]:
    """Every visible region; which are visible is told to both arms."""
    import torch
    from torch.nn.functional import interpolate

    from anatrust.reference.memory_attention import attention_health

    sample = pair.sample("segment", np.random.default_rng(0))
    with torch.no_grad():
        logits, attended, slots, _ = segmenter(pair, sample)
        full = interpolate(logits[:, None].float(), pair.target.image.shape, mode="bilinear")[:, 0] > 0
    health = attention_health(attended, slots)
    told = {"entropy": health.entropy, "slot": health.slot_accuracy}
    inside = [{}] * len(full) if attended.places is None else _inside(attended.places, pair, list(sample.masks))
    return [
        _row(pair, n, mask, told | place) for n, mask, place in zip(sample.masks, full.numpy(), inside, strict=True)
    ]


def _inside(places: Tensor, pair: Pair, numbers: list[int]) -> list[dict[str, float]]:
    """Share of the told places that lies in cells that the region touches, and what a blind guess would have."""
    import torch
    from torch.nn.functional import interpolate

    truth = torch.from_numpy(np.stack([pair.mask(n) for n in numbers]).astype(np.float32))
    touched = interpolate(truth[:, None], places.shape[-2:], mode="area")[:, 0] > 0
    chance = places.sigmoid()
    share = (chance * touched).flatten(1).sum(1) / chance.flatten(1).sum(1)
    blind = touched.float().flatten(1).mean(1)
    return [{"inside": float(a), "blind": float(b)} for a, b in zip(share, blind, strict=True)]


STUDY = Study(
    name="rau-nano-masks",
    question="Do a language model's tokens make SAM 2's masks from a reference better than its memory alone?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=make_tables,
    figures=draw_figures,
)
