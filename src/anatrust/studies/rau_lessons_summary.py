"""What `rau-lessons` found: numbers told by patches, controls, what transport adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.studies.intervals import allowance, fell_to_chance, patient_bootstrap, rate_of_answers
from anatrust.studies.nano_anatomy import THIN
from anatrust.studies.study import Context
from anatrust.studies.tables import interval_cell, markdown_table, rate_cell

__all__ = ["make_tables", "summarise"]

_WORDS = {"none": "another patient", "shuffled": "shuffled legend"}
_WAYS = ("answer", "boxes", "both")


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    """The numbers that are quoted."""
    controls = {
        key.removeprefix("patches/"): _control(r["answers"], context.seed)
        for key, r in results.items()
        if key.startswith("patches/")
    }
    summary = {
        "lessons": results.get("matched", {}),
        "controls": controls,
        "organs": _organs(results),
        "together": {
            key.removeprefix("together/"): _together(r["regions"], context.seed)
            for key, r in results.items()
            if key.startswith("together/")
        },
    }
    return summary | {"targets": _targets(controls)}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


def _control(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "accuracy": rate_of_answers(rows, "right", seed=seed),
        "shown": rate_of_answers(rows, "shown", seed=seed),
        "chance": _mean([1 / r["choices"] for r in rows]),
    }


def _organs(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for look in ("seen", "unseen"):
        rows = results.get(f"patches/{look}/none", {}).get("answers", [])
        for organ in sorted({r["organ"] for r in rows}):
            found.setdefault(organ, {})[look] = _mean([r["right"] for r in rows if r["organ"] == organ])
        for group, inside in (("tubes", True), ("solid organs", False)):
            found.setdefault(group, {})[look] = _mean([r["right"] for r in rows if (r["organ"] in THIN) == inside])
    return found


def _together(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Accuracy of answers, of transport of boxes and of both, and what transport adds to the answers."""
    found: dict[str, Any] = {way: rate_of_answers(rows, way, seed=seed) for way in _WAYS}
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        by_patient.setdefault(row["patient"], []).append(float(row["both"]) - float(row["answer"]))
    table = np.array([[sum(own), len(own)] for own in by_patient.values()])
    found["gain"] = {"difference": round(float(table[:, 0].sum() / table[:, 1].sum()), 4)}
    if len(table) >= 5:
        low, high = patient_bootstrap(table, lambda s: float(s[:, 0].sum() / s[:, 1].sum()), seed=seed)
        found["gain"]["interval"] = [round(low, 4), round(high, 4)]
    for name, inside in (("tubes", True), ("solid organs", False)):
        some = [r for r in rows if (r["organ"] in THIN) == inside]
        found[name] = {way: _mean([r[way] for r in some]) for way in _WAYS}
    return found


def _targets(controls: Mapping[str, Any]) -> list[dict[str, Any]]:
    targets = []
    for look in ("seen", "unseen"):
        plain = controls.get(f"{look}/none")
        if plain is None:
            continue
        least = allowance(plain["chance"], plain["accuracy"]["n"])
        targets.append(
            {
                "what": f"{look} looks, numbers alone, told by patches: above chance (> {least:.2f})",
                "observed": plain["accuracy"]["rate"],
                "met": plain["accuracy"]["rate"] > least,
            }
        )
        for change in ("blank", "shuffled"):
            r = controls.get(f"{look}/{change}")
            if r is not None:
                most = allowance(r["chance"], r["accuracy"]["n"])
                targets.append(
                    {
                        "what": f"{look} looks, told by patches: with a {change} reference at chance (≤ {most:.2f})",
                        "observed": r["accuracy"]["rate"],
                        "met": fell_to_chance(plain, r),
                    }
                )
    return targets


def make_tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    """Patches, controls, organs, transport, targets."""
    s = result["summary"]
    matched = s["lessons"].get("matched", {})
    references = list(next(iter(matched.values()), {}))
    pointed = [
        [f"{look} look", *(f"{own.get(name, 0.0):.2f}" for name in ("words", "seg", "area"))]
        for look, own in s["lessons"].get("pointed", {}).items()
    ]
    controls = [
        [
            f"{key.split('/')[0]} look: {_WORDS.get(key.split('/')[1], key.split('/')[1])}",
            r["accuracy"]["n"], rate_cell(r["accuracy"]), f"{r['shown']['rate']:.2f}", f"{r['chance']:.2f}",
        ]
        for key, r in s["controls"].items()
    ]  # fmt: skip
    together = [
        [
            f"{look} look", r["answer"]["n"], *(f"{r[way]['rate']:.2f}" for way in _WAYS),
            f"{r['gain']['difference']:+.3f} {interval_cell(r['gain'])}",
            " / ".join(f"{r['tubes'][way]:.2f}" for way in _WAYS),
        ]
        for look, r in s["together"].items()
    ]  # fmt: skip
    return {
        "matched": markdown_table(
            ["patches told rightly", *(_WORDS.get(name, name) for name in references)],
            [[f"{look} look", *(f"{own[name]:.2f}" for name in references)] for look, own in matched.items()],
        ),
        "pointed": markdown_table(
            ["share of attention", "answers at the outlined region", "`<Seg>` at its region", "if blind"],
            pointed,
        ),
        "controls": markdown_table(
            ["target; reference", "n", "accuracy", "as the tints say", "chance"], controls
        ),
        "organs": markdown_table(
            ["told by patches", "seen looks", "unseen look"],
            [[name, f"{r.get('seen', 0.0):.2f}", f"{r.get('unseen', 0.0):.2f}"] for name, r in s["organs"].items()],
        ),
        "together": markdown_table(
            ["", "n", "answers alone", "boxes alone", "answers and transport", "gain", "tubes: the same three"],
            together,
        ),
        "targets": markdown_table(
            ["target", "observed", "met"],
            [[t["what"], f"{t['observed']:.3f}", "yes" if t["met"] else "no"] for t in s["targets"]],
        ),
    }  # fmt: skip
