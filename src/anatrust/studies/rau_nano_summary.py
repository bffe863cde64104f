"""What `rau-nano` found: accuracies, contrasts on the same questions, controls, tables and the learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.studies.intervals import allowance, fell_to_chance, patient_bootstrap, rate_of_answers
from anatrust.studies.nano_anatomy import THIN
from anatrust.studies.study import Context
from anatrust.studies.tables import interval_cell, markdown_table, rate_cell

__all__ = ["SEEDS", "accuracy_by_patient", "draw_figures", "make_tables", "summarise"]

SEEDS = (0, 1, 2)
"""Of the contrast of GRPO with supervised training that goes on; all start from one supervised model."""

_KINDS = ("seen, names", "seen, numbers", "unseen, names", "unseen, numbers")
_SIDED = ("left kidney", "right kidney", "liver", "spleen", "stomach")
_GOAL = 0.05


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    """The numbers that are quoted."""
    stages = {key: r for key, r in results.items() if not key.startswith(("control/", "thoughts/"))}
    accuracy = {
        key: {kind: rate_of_answers(rows, "right", seed=context.seed) for kind, rows in r["answers"].items()}
        for key, r in stages.items()
    }
    form = {key: _mean([a["form"] for rows in r["answers"].values() for a in rows]) for key, r in stages.items()}
    contrasts = {}
    for seed in sorted(k.removeprefix("grpo/") for k in stages if k.startswith("grpo/")):
        if f"more/{seed}" in stages:
            contrasts[seed] = {
                kinds: _contrast(stages[f"grpo/{seed}"], stages[f"more/{seed}"], kinds, context.seed)
                for kinds in ("seen", "unseen", *_KINDS)
            }
    controls = {
        key.removeprefix("control/"): {
            "accuracy": rate_of_answers(r["answers"], "right", seed=context.seed),
            "shown": _mean([a["shown"] for a in r["answers"]]),
            "sided": _mean([a["right"] for a in r["answers"] if a["organ"] in _SIDED]),
            "chance": _mean([1 / (a["choices"] + 1) for a in r["answers"]]),
        }
        for key, r in results.items()
        if key.startswith("control/")
    }
    organs = _organs(stages["sft"]["answers"]) if "sft" in stages else {}
    summary: dict[str, Any] = {
        "accuracy": accuracy, "form": form, "contrasts": contrasts, "controls": controls, "organs": organs,
        "curves": {key: r["curve"] for key, r in stages.items()},
        "thoughts": {key.removeprefix("thoughts/"): r for key, r in results.items() if key.startswith("thoughts/")},
        "cost": {key: {k: round(float(v), 1) for k, v in r["told"].items() if k != "rewards"}
                 for key, r in stages.items()},
        "rewards": {key: r["told"]["rewards"] for key, r in stages.items() if "rewards" in r["told"]},
    }  # fmt: skip
    return summary | {"targets": _targets(summary)}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


def accuracy_by_patient(answers: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], seed: int) -> dict[str, Any]:
    """Share of right answers with its patient bootstrap, for each kind of question of each cell."""
    return {
        "accuracy": {
            key: {kind: rate_of_answers(rows, "right", seed=seed) for kind, rows in own.items()}
            for key, own in answers.items()
        }
    }


def _contrast(one: Mapping[str, Any], other: Mapping[str, Any], kinds: str, seed: int) -> dict[str, Any]:
    """Difference of accuracies on the same questions of one kind, or of a look; patients resampled."""
    sums: dict[str, list[float]] = {}
    for kind, rows in one["answers"].items():
        if kind != kinds and not kind.startswith(f"{kinds},"):
            continue
        for a, b in zip(rows, other["answers"][kind], strict=True):
            total = sums.setdefault(a["patient"], [0.0, 0.0])
            total[0] += float(a["right"]) - float(b["right"])
            total[1] += 1
    table = np.array(list(sums.values()))
    found: dict[str, Any] = {"difference": round(float(table[:, 0].sum() / table[:, 1].sum()), 4)}
    if len(table) >= 5:
        low, high = patient_bootstrap(table, lambda s: float(s[:, 0].sum() / s[:, 1].sum()), seed=seed)
        found["interval"] = [round(low, 4), round(high, 4)]
    return found


def _organs(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for look in ("seen", "unseen"):
        rows = [a for kind, own in answers.items() if kind.startswith(f"{look},") for a in own]
        for organ in sorted({a["organ"] for a in rows}):
            found.setdefault(organ, {})[look] = _mean([a["right"] for a in rows if a["organ"] == organ])
        for group, inside in (("tubes", True), ("solid organs", False)):
            found.setdefault(group, {})[look] = _mean([a["right"] for a in rows if (a["organ"] in THIN) == inside])
    return found


def _targets(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    targets = []
    gains = [c["unseen"]["difference"] for c in summary["contrasts"].values()]
    if gains:
        gain = _mean(gains)
        targets.append(
            {
                "what": f"unseen look: GRPO above SFT continued for the same compute by ≥ 0.05 (seeds: {len(gains)})",
                "observed": gain,
                "met": gain >= _GOAL,
            }
        )
    for look in ("seen", "unseen"):
        plain = summary["controls"].get(f"{look}/none")
        if plain is None:
            continue
        least = allowance(plain["chance"], plain["accuracy"]["n"])
        targets.append(
            {
                "what": f"{look} looks, numbers alone, in words: above chance (> {least:.2f})",
                "observed": plain["accuracy"]["rate"],
                "met": plain["accuracy"]["rate"] > least,
            }
        )
        for name in ("blank", "shuffled"):
            r = summary["controls"].get(f"{look}/{name}")
            if r is not None:
                targets.append(
                    {
                        "what": f"{look} looks, numbers alone, in words: with a {name} reference at chance",
                        "observed": r["accuracy"]["rate"],
                        "met": fell_to_chance(plain, r),
                    }
                )
    return targets


def make_tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    """Stages, contrasts, controls, organs, targets."""
    s = result["summary"]
    kinds = list(_KINDS)
    first: Mapping[str, float] = next(iter(s["curves"].get("sft", [])), {})
    rows: list[list[object]] = [["zero-shot, after lessons", *(f"{first.get(kind, 0.0):.2f}" for kind in kinds), "–"]]
    for name, start in (("SFT", "sft"), ("SFT, continued", "more/"), ("SFT, then GRPO", "grpo/")):
        own = [key for key in s["accuracy"] if key.startswith(start)]
        if own:
            shown = []
            for kind in kinds:
                rates = [s["accuracy"][key][kind]["rate"] for key in own]
                around = f" ({min(rates):.2f}–{max(rates):.2f})" if len(rates) > 1 else ""
                shown.append(f"{np.mean(rates):.2f}{around}")
            rows.append([name, *shown, f"{np.mean([s['cost'][key]['seconds'] for key in own]):.0f}"])
    contrasts = [
        [
            seed,
            *(
                f"{c[kinds]['difference']:+.3f} {interval_cell(c[kinds])}"
                for kinds in ("seen", "unseen", "seen, numbers", "unseen, numbers")
            ),
        ]
        for seed, c in s["contrasts"].items()
    ]
    words = {"none": "another patient", "shuffled": "shuffled legend"}
    controls = [
        [
            f"{name.split('/')[0]} look: {words.get(name.split('/')[1], name.split('/')[1])}", r["accuracy"]["n"],
            rate_cell(r["accuracy"]), f"{r['chance']:.2f}", f"{r['shown']:.2f}", f"{r['sided']:.2f}",
        ]
        for name, r in s["controls"].items()
    ]  # fmt: skip
    organs = [[name, f"{r.get('seen', 0.0):.2f}", f"{r.get('unseen', 0.0):.2f}"] for name, r in s["organs"].items()]
    words_of = {"sft": "SFT", "grpo": "GRPO, seed 0"}
    thoughts = [
        [
            f"{words_of[key.split('/')[0]]}; {key.split('/')[1]} look", r["n"],
            *(f"{r[field]:.2f}" for field in ("relational", "right", "stated", "swapped", "renamed")),
        ]
        for key, r in s["thoughts"].items()
    ]  # fmt: skip
    return {
        "stages": markdown_table(["", *kinds, "processor seconds"], rows),
        "contrasts": markdown_table(
            ["seed", "GRPO − SFT continued, seen looks", "unseen look", "numbers alone, seen", "numbers alone, unseen"],
            contrasts,
        ),
        "controls": markdown_table(
            ["target; reference", "n", "accuracy", "chance", "answer as the tints say", "accuracy, sided organs"],
            controls,
        ),
        "thoughts": markdown_table(
            [
                "",
                "n",
                "words that say a relation",
                "thoughts right in every word",
                "region thought of is answered",
                "another answer when relations are turned round",
                "answer follows another number",
            ],
            thoughts,
        ),
        "organs": markdown_table(["after SFT", "seen looks", "unseen look"], organs),
        "targets": markdown_table(
            ["target", "observed", "met"],
            [[t["what"], f"{t['observed']:.3f}", "yes" if t["met"] else "no"] for t in s["targets"]],
        ),
    }


def draw_figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Learning curves of supervised training and of what comes after it with the first seed."""
    titles = {"sft": "SFT", "more/0": "SFT, continued", "grpo/0": "GRPO"}
    panels = []
    for key, title in titles.items():
        curve = result["summary"]["curves"].get(key, [])
        if len(curve) > 1:
            lines = {kind: {"x": [p["step"] for p in curve], "y": [p[kind] for p in curve]} for kind in _KINDS}
            panels.append({"title": title, "lines": lines})
    return {"curve": {"panels": panels, "xlabel": "steps", "ylabel": "regions named rightly"}} if panels else {}
