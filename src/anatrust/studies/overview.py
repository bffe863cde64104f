"""What all studies asked for and what they reached, in two tables: no target is lost in the length of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["overview_of_targets"]

# A study may state a requirement in several parts; what each part is called where it was missed.
_PARTS = {
    "met": "",
    "reached": "specificity and sensitivity for clear lesions both ≥ 0.9",
    "level_met": "level kept",
    "better_in_both": "better than the published test in both",
    "better": "better than LoRA in the mean of sensitivity and specificity",
}


def overview_of_targets(
    results: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Count the targets of each study that were met, and list every one that was missed.

    Parameters
    ----------
    results
        Study name → its result, as `anatrust.studies.study.read_result` gives it. Studies without targets, which
        describe and require nothing, are left out.

    Returns
    -------
    dict
        Header and rows of the tables ``met`` (a row per study) and ``missed`` (a row per target).

    Examples
    --------
    >>> targets = [{"what": "level", "met": True}, {"what": "power", "met": False, "observed": 0.5, "limit": 0.8}]
    >>> overview_of_targets({"nulls": {"summary": {"targets": targets}}})["missed"][1]
    [['nulls', 'power', '0.50', '≥ 0.80']]
    """
    met: list[list[str]] = []
    missed: list[list[str]] = []
    for name, result in sorted(results.items()):
        parts = [
            (target, part, target[part])
            for target in result["summary"].get("targets", ())
            for part in _PARTS
            if isinstance(target.get(part), bool)
        ]
        if parts:
            met.append([name, str(sum(reached for *_, reached in parts)), str(len(parts))])
        missed += [
            [
                name,
                ": ".join(filter(None, (target["what"], _PARTS[part]))),
                _observed(target, part),
                _required(target, part),
            ]
            for target, part, reached in parts
            if not reached
        ]
    return {
        "met": (["study", "targets met", "of"], met),
        "missed": (["study", "missed", "observed", "required"], missed),
    }


def _observed(target: Mapping[str, Any], part: str) -> str:
    if part in {"reached", "better_in_both"}:
        return " / ".join(f"{target[k]:.2f}" for k in ("specificity", "clear"))
    value = target.get("observed")
    return f"{value:.2f}" if isinstance(value, float | int) else "–"


def _required(target: Mapping[str, Any], part: str) -> str:
    """The bound beside the figure, or what was to be beaten; some targets name it in their own words instead."""
    if part == "reached":
        return "≥ 0.90 / 0.90"
    if part == "better_in_both":
        return "≥ " + " / ".join(f"{target[k]:.2f}" for k in ("iid_specificity", "iid_clear"))
    if "required" in target:
        return str(target["required"]).replace(">=", "≥").replace("<=", "≤")
    if "limit" in target and "observed" in target:
        return f"{'≥' if target['observed'] < target['limit'] else '≤'} {target['limit']:.2f}"
    return "–"
