"""What `rau-nano-masks` found: Dice by patient, the gain of tokens over memory alone, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.nano_anatomy import THIN
from anatrust.studies.study import Context
from anatrust.studies.tables import markdown_table

__all__ = ["make_tables", "summarise"]

_GOAL = 0.15
_ARMS = {"pasted": "the reference's masks, pasted", "memory": "SAM 2's memory alone", "tokens": "with <Seg> tokens"}


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    """The numbers that are quoted."""
    told = {}
    for key, r in results.items():
        told[key] = {look: _described(rows, context.seed) for look, rows in r["regions"].items()} | {
            k: r[k] for k in ("trained", "steps", "losses") if k in r
        }
    gains = {}
    for seed in sorted({key.split("/")[1] for key in results if "/" in key}):
        a, b = results.get(f"tokens/{seed}/256"), results.get(f"memory/{seed}/256")
        if a and b:
            gains[seed] = {look: _gain(a["regions"][look], b["regions"][look], context.seed) for look in a["regions"]}
    targets = []
    if gains:
        for look in ("seen", "unseen"):
            mean = round(float(np.mean([g[look]["difference"] for g in gains.values()])), 4)
            targets.append(
                {
                    "what": f"{look} looks: Dice with tokens above SAM 2's memory alone by ≥ {_GOAL}",
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
        "entropy": mean("entropy", rows), "slot": mean("slot", rows), "n": len(rows),
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
        label = _ARMS[name] + (f", seed {rest[0]}, MLP {rest[1]}" if rest else "")
        for look in ("seen", "unseen"):
            own = r[look]
            attention = [f"{own['entropy']:.2f}", f"{own['slot']:.2f}"] if rest else ["–", "–"]
            rows.append(
                [
                    f"{label}; {look}", f"{own['dice']:.2f} [{own['interval'][0]:.2f}, {own['interval'][1]:.2f}]",
                    f"{own['giou']:.2f}", f"{own['solid']:.2f}", f"{own['vessels']:.2f}", *attention,
                    r.get("trained", "–"),
                ]
            )  # fmt: skip
    header = [
        "",
        "Dice",
        "gIoU",
        "Dice of solid organs",
        "of vessels",
        "entropy",
        "slot accuracy",
        "weights that learnt",
    ]
    gains = [
        [seed, *(f"{g[look]['difference']:+.3f} {g[look].get('interval', '')}" for look in ("seen", "unseen"))]
        for seed, g in s["gains"].items()
    ]
    return {
        "arms": markdown_table(header, rows),
        "gains": markdown_table(["seed", "tokens − memory alone, seen looks", "unseen look"], gains),
        "targets": markdown_table(
            ["target", "observed", "met"],
            [[t["what"], f"{t['observed']:.3f}", "yes" if t["met"] else "no"] for t in s["targets"]],
        ),
    }
