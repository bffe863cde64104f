"""What `rau-nano-masks` found: Dice by patient, the gain of tokens over memory alone, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.nano_anatomy import THIN
from anatrust.studies.study import Context
from anatrust.studies.tables import interval_cell, markdown_table

__all__ = ["ARMS", "draw_figures", "make_tables", "summarise"]

_GOAL = 0.15
_MAIN = "256"
ARMS: tuple[tuple[str, int, int], ...] = (
    *((arm, seed, 256) for seed in (0, 1, 2) for arm in ("memory", "tokens")),
    *((arm, 0, 256) for arm in ("words", "native", "gates", "tree")),
    *(("tokens", 0, width) for width in (64, 128, 512, 1024)),
)
"""Arms that go on from the memory alone: what is taught, the seed, the width of the projection."""

_NAMES = {
    "pasted": "the reference's masks, pasted",
    "start": "SAM 2's memory, where arms start",
    "memory": "SAM 2's memory alone",
    "tokens": "with <Seg> tokens",
    "words": "tokens, patches not asked for places",
    "native": "tokens in the place of SAM 2's prompt (L2)",
    "gates": "tokens, learnt gates of slots",
    "tree": "tokens, small organs after a large one",
}
_LOOKS = ("seen", "unseen")


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    """The numbers that are quoted."""
    told = {}
    for key, r in results.items():
        told[key] = {look: _described(rows, context.seed) for look, rows in r["regions"].items()} | {
            k: r[k] for k in ("trained", "steps", "losses") if k in r
        }
    gains: dict[str, Any] = {}
    for key, r in results.items():
        name, *rest = key.split("/")
        rival = results.get(f"memory/{rest[0]}/{_MAIN}") if rest else None
        if rival is not None and name != "memory":
            gains[key] = {look: _gain(r["regions"][look], rival["regions"][look], context.seed) for look in _LOOKS}
    main = [g for key, g in gains.items() if key.startswith("tokens/") and key.endswith(f"/{_MAIN}")]
    targets = []
    if main:
        for look in _LOOKS:
            mean = round(float(np.mean([g[look]["difference"] for g in main])), 4)
            targets.append(
                {
                    "what": f"{look} looks: Dice with tokens above memory alone by ≥ {_GOAL} (seeds: {len(main)})",
                    "observed": mean,
                    "met": mean >= _GOAL,
                }
            )
    return {"arms": told, "gains": gains, "targets": targets}


def _described(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    def mean(field: str, some: Sequence[Mapping[str, Any]]) -> float:
        values = [r[field] for r in some if field in r]
        return round(float(np.mean(values)), 4) if values else 0.0

    table = np.array([[mean("dice", own)] for own in _by_patient(rows).values()])
    low, high = patient_bootstrap(table, lambda v: float(v.mean()), seed=seed) if len(table) >= 5 else (0.0, 0.0)
    images = [mean("iou", own) for own in _by_patient(rows).values()]
    return {
        "dice": round(float(table.mean()), 4), "interval": [round(low, 4), round(high, 4)],
        "giou": round(float(np.mean(images)), 4),
        "tubes": mean("dice", [r for r in rows if r["organ"] in THIN]),
        "vessels": mean("dice", [r for r in rows if r["organ"] == "vessels"]),
        "solid": mean("dice", [r for r in rows if r["organ"] not in THIN]),
        "entropy": mean("entropy", rows), "slot": mean("slot", rows),
        "inside": mean("inside", rows), "blind": mean("blind", rows), "n": len(rows),
    }  # fmt: skip


def _by_patient(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["patient"], []).append(row)
    return found


def _gain(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    paired: dict[str, list[float]] = {}
    for a, b in zip(one, other, strict=True):
        paired.setdefault(a["patient"], []).append(a["dice"] - b["dice"])
    table = np.array([[np.mean(v)] for v in paired.values()])
    found: dict[str, Any] = {"difference": round(float(table.mean()), 4)}
    if len(table) >= 5:
        low, high = patient_bootstrap(table, lambda v: float(v.mean()), seed=seed)
        found["interval"] = [round(low, 4), round(high, 4)]
    return found


def make_tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    """Arms, gains, targets."""
    s = result["summary"]
    rows = []
    for key, r in s["arms"].items():
        name, *rest = key.split("/")
        for look in _LOOKS:
            own = r[look]
            told = [f"{own[field]:.2f}" if rest and own[field] else "–" for field in ("entropy", "slot", "inside")]
            rows.append(
                [
                    f"{_label(name, rest)}; {look}",
                    f"{own['dice']:.3f} [{own['interval'][0]:.2f}, {own['interval'][1]:.2f}]",
                    f"{own['giou']:.2f}", f"{own['solid']:.2f}", f"{own['vessels']:.2f}", *told, r.get("steps", "–"),
                    r.get("trained", "–"),
                ]
            )  # fmt: skip
    header = [
        "", "Dice", "gIoU", "Dice of solid organs", "of vessels", "entropy", "slot accuracy", "told places inside",
        "steps", "weights that learnt",
    ]  # fmt: skip
    gains = [
        [_label(*_parted(key)), *(f"{g[look]['difference']:+.3f} {interval_cell(g[look])}" for look in _LOOKS)]
        for key, g in s["gains"].items()
    ]
    return {
        "arms": markdown_table(header, rows),
        "gains": markdown_table(["Dice above the memory alone, same seed", "seen looks", "unseen look"], gains),
        "targets": markdown_table(
            ["target", "observed", "met"],
            [[t["what"], f"{t['observed']:.3f}", "yes" if t["met"] else "no"] for t in s["targets"]],
        ),
    }


def _parted(key: str) -> tuple[str, list[str]]:
    name, *rest = key.split("/")
    return name, rest


def _label(name: str, rest: Sequence[str]) -> str:
    return _NAMES[name] + (f", seed {rest[0]}, MLP {rest[1]}" if rest else "")


def draw_figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Losses of the memory alone from nothing, and of both arms that go on from there."""
    arms, panels = result["summary"]["arms"], []
    shown = {
        "SAM 2's memory from nothing": {"memory alone": "start"},
        "taught on, seed 0": {"memory alone": f"memory/0/{_MAIN}", "with tokens": f"tokens/0/{_MAIN}"},
    }
    for title, keys in shown.items():
        lines = {}
        for name, key in keys.items():
            losses = arms.get(key, {}).get("losses", [])
            if len(losses) > 1:
                lines[name] = {"x": [20 * k + 10 for k in range(len(losses))], "y": losses}
        if lines:
            panels.append({"title": title, "lines": lines})
    return {"losses": {"panels": panels, "xlabel": "steps of two pairs", "ylabel": "loss"}} if panels else {}
