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
from anatrust.studies.rau_nano_masks_summary import make_tables, summarise
from anatrust.studies.study import Cell, Context, Study

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
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
    "anatrust.reference.memory_attention",
)
_SEEDS = (0,)
_WIDTHS: tuple[int, ...] = ()
_STEPS = 500
_BATCH, _PAIRS = 2, 40


def _cells(context: Context) -> list[Cell]:
    cells = [Cell("pasted", {"arm": "pasted", "seed": 0, "width": 256}, (), _NEEDS)]
    for seed in _SEEDS[: 1 if context.quick else None]:
        cells += [
            Cell(f"{arm}/{seed}/256", {"arm": arm, "seed": seed, "width": 256}, (), _NEEDS)
            for arm in ("memory", "tokens")
        ]
    if not context.quick:
        cells += [Cell(f"tokens/0/{w}", {"arm": "tokens", "seed": 0, "width": w}, (), _NEEDS) for w in _WIDTHS]
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
    segmenter, losses, trained = _segmenter(arm, seed, width, context)
    regions = {name: [r for pair in own for r in _drawn(segmenter, pair)] for name, own in pairs.items()}
    return {
        "regions": regions, "trained": trained, "steps": len(losses),
        "losses": [round(float(np.mean(losses[k : k + 20])), 3) for k in range(0, len(losses), 20)],
    }  # fmt: skip


def _segmenter(arm: str, seed: int, width: int, context: Context) -> tuple[TokenSegmenter, list[float], int]:
    """Trained, or as far as an interrupted run got and then on; the parameters that learnt."""
    import torch

    from anatrust.models.sam2_memory import Sam2Parts
    from anatrust.models.vision_language import VisionLanguageModel
    from anatrust.reference.mask_training import MaskSettings, train_masks
    from anatrust.reference.token_segmenter import TokenSegmenter

    plan = QUICK if context.quick else SCHOOLED
    folder = place(plan)
    start = folder / f"sam2-{seed}"
    if not (start / "model.safetensors").is_file():
        build_sam2(start, seed)
    language = None
    if arm == "tokens":
        language = VisionLanguageModel.load(schooled(folder, plan, context.seed))
    torch.manual_seed(seed)
    segmenter = TokenSegmenter.make(language, Sam2Parts.load(start), "native", width)
    settings = MaskSettings(
        steps=1 if context.quick else _STEPS, batch=1 if context.quick else _BATCH, seed=seed, token_rate=1e-3,
        decoder_rate=7e-4, train_sam=True, save_every=100,
        standardise=True,
    )  # fmt: skip
    pictures = cohort(range(plan.patients), SEEN, size=plan.size.side)
    losses = train_masks(segmenter, pictures, settings, folder / f"masks-{arm}-{seed}-{width}")
    trained = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    if language is not None:
        trained += sum(p.numel() for p in language.model.parameters() if p.requires_grad)
    return segmenter, losses, trained


def _pairs(looks: Any, plan: Plan, count: int) -> list[Pair]:
    return list(islice(draw_pairs(patients_asked(looks, plan), 9, absent=0.0), count))


def _row(pair: Pair, number: int, mask: npt.NDArray[np.bool_], health: Any = None) -> dict[str, Any]:
    truth = pair.mask(number)
    shared, either = int((mask & truth).sum()), int((mask | truth).sum())
    row = {
        "patient": pair.target.patient, "organ": pair.target.names[pair.labels[number]],
        "dice": round(float(dice(truth, mask)), 4), "iou": round(shared / either, 4),
    }  # fmt: skip
    return (
        row if health is None else row | {"entropy": round(health.entropy, 4), "slot": round(health.slot_accuracy, 4)}
    )


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
    return [_row(pair, n, mask, health) for n, mask in zip(sample.masks, full.numpy(), strict=True)]


STUDY = Study(
    name="rau-nano-masks",
    question="Do a language model's tokens make SAM 2's masks from a reference better than its memory alone?",
    cells=_cells,
    run=_run,
    summarise=summarise,
    tables=make_tables,
)
