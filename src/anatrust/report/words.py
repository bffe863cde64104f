"""The verdict in words, ready for the page's template; :mod:`anatrust.report.rows` has its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anatrust.errors import InputError
from anatrust.image.volumes import Scan
from anatrust.report.layers import STYLES
from anatrust.report.listed import Entry

__all__ = ["plain_verdict", "words"]

_MEANING = {
    "accept": "Nothing that was tested failed.",
    "review": "A person should look before this segmentation is used.",
    "abstain": "No answer can be given about this segmentation.",
}
_SEVERITY = {"error": "Stops the verdict", "warning": "Look at this", "info": "Worth knowing"}
_STRENGTH = {"exact": "exact under its assumption", "approximate": "approximate"}
_REQUIRED = (
    "decision",
    "reasons",
    "kind",
    "levels",
    "statements",
    "findings",
    "candidates",
    "structures",
    "sets",
    "screening",
    "notes",
)

# What a p-value of each null means: the comparison, its assumption, and whether it holds for a
# place that was chosen by looking.
_NULLS: Mapping[str, tuple[str, str, str]] = {
    "cohort": (
        "Compared with what the same segmenter proposed in lesion-free patients.",
        "Exact if this patient is exchangeable with those patients.",
        "Holds also for places a segmenter chose by looking at this scan.",
    ),
    "surrogate-max": (
        "Compared with the most unusual place in texture surrogates of this patient's own tissue.",
        "Approximate: surrogates match the tissue's grey values and autocorrelation, nothing more.",
        "Made for places a segmenter chose by looking at this scan.",
    ),
    "placement": (
        "Compared with every other admissible place in the same tissue.",
        "Exact only if the place was chosen without looking at this image.",
        "Does not hold for places a segmenter chose by looking at this scan.",
    ),
    "block": (
        "Blocks of pixels were permuted.",
        "Approximate, and not valid for correlated tissue.",
        "Does not hold for places a segmenter chose by looking at this scan.",
    ),
    "iid": (
        "Single pixels were permuted, as published.",
        "Not valid: neighbouring pixels are alike, so normal tissue looks significant far too often.",
        "Does not hold for places a segmenter chose by looking at this scan.",
    ),
}
# Each with the words by which a verdict may have said it already.
_LESION_CAUTIONS = (
    ("“Different from normal” is not “tumour”: vessels, cysts and artefacts differ too.", "not mean tumour"),
    ("Lesions the segmenter did not draw were not looked for.", "did not draw"),
)
_ORGAN_CAUTIONS = (
    ("Only the form of each structure was checked, not whether its outline is right.", "outline is right"),
)

_ORGAN_WORDS = {
    "noun": "structure",
    "heading": "Form",
    "legend": "An unbroken line means passed, dashes failed.",
    "first": "failed",
    "file": "verdict.json",
}
_LESION_WORDS = {
    "noun": "candidate",
    "heading": "Decision",
    "legend": "An unbroken line means kept, dashes rejected, dots undecidable.",
    "first": "kept",
    "file": "verdict.json",
}


def plain_verdict(verdict: Any) -> Mapping[str, Any]:
    """The verdict as plain values: a mapping as it is, anything else through its ``to_json``.

    Raises
    ------
    InputError
        If a field the page cannot do without is missing.
    """
    plain: Mapping[str, Any] = verdict if isinstance(verdict, Mapping) else verdict.to_json()
    missing = [key for key in _REQUIRED if key not in plain]
    if missing:
        raise InputError(f"the verdict lacks {', '.join(missing)}: give the verdict that assess returned")
    if plain["decision"] not in _MEANING:
        raise InputError(f"the verdict's decision is {plain['decision']!r}: expected {', '.join(_MEANING)}")
    return plain


def words(
    verdict: Mapping[str, Any], entries: Sequence[Entry], scan: Scan, run: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything the template says outside the table."""
    meaning = _MEANING[verdict["decision"]]
    reasons = [_sentence(r) for r in verdict["reasons"]]
    outcomes = [e.outcome for e in entries]
    always = ("passed", "failed") if verdict["kind"] == "organ" else ("kept", "rejected")
    return {
        "decision": verdict["decision"],
        "meaning": meaning,
        "reasons": [r for r in reasons if r.rstrip(".") != meaning.rstrip(".")],
        "counts": [(o, outcomes.count(o)) for o in STYLES if o in outcomes or o in always] if entries else [],
        "findings": [{**f, "heading": _SEVERITY.get(f["severity"], f["severity"])} for f in verdict["findings"]],
        "promises": [_promise(s) for s in verdict["statements"] if s["strength"] in _STRENGTH],
        "limits": _limits(verdict),
        "notes": [_sentence(n) for n in verdict["notes"]],
        "nulls": [(name, *_NULLS[name]) for name in _nulls_used(verdict["candidates"])],
        "facts": _facts(verdict, scan, run or {}),
        "name": scan.identifier or "scan",
        "modality": "" if scan.modality == "unknown" else scan.modality,
        **(_ORGAN_WORDS if verdict["kind"] == "organ" else _LESION_WORDS),
    }


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _promise(statement: Mapping[str, Any]) -> dict[str, str]:
    strength = statement["strength"]
    tag = f"{_STRENGTH[strength]}, α = {statement['level']:g}"
    return {"text": _sentence(statement["text"]), "strength": strength, "tag": tag}


def _limits(verdict: Mapping[str, Any]) -> list[str]:
    """What is not guaranteed: the verdict's own sentences, then those that always hold."""
    said = [_sentence(s["text"]) for s in verdict["statements"] if s["strength"] not in _STRENGTH]
    cautions = _ORGAN_CAUTIONS if verdict["kind"] == "organ" else _LESION_CAUTIONS
    spoken = " ".join(said).lower()
    return said + [text for text, words in cautions if words not in spoken]


def _nulls_used(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    used = {c["null"] for c in candidates}
    if any(c["placement_p"] is not None for c in candidates):
        used.add("placement")
    return [name for name in _NULLS if name in used]


def _facts(verdict: Mapping[str, Any], scan: Scan, run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Facts of the run in groups: who wants to repeat it finds them here and in run.json."""
    grid = scan.grid
    spacing = f"{' × '.join(f'{s:.4g}' for s in grid.spacing)} mm, stored {grid.orientation}"
    groups = [
        (
            "Scan",
            [
                ("Name", scan.identifier or "unnamed"),
                ("Size", f"{' × '.join(str(n) for n in grid.shape)} voxels"),
                ("Spacing", spacing if grid.spacing_known else "unknown: the file states no physical size"),
                ("Modality", f"{scan.modality}{f' in {scan.units}' if scan.units else ''}"),
            ],
        )
    ]
    inputs = [
        (_sentence(role), f"{about.get('name', '')} · SHA-256 {about['sha256']}")
        for role, about in run.get("inputs", {}).items()
        if about.get("sha256")
    ]
    if inputs:
        groups.append(("Inputs", inputs))
    named = {"anatrust": "anatrust", "kind": "Judged as", "null": "Null", "correction": "Correction"}
    judged = [(name, str(verdict[key])) for key, name in named.items() if verdict.get(key)]
    judged += [(f"Level α of {name}", f"{value:g}") for name, value in verdict["levels"].items()]
    rest = {key: value for key, value in run.items() if key not in ("inputs", "settings")}
    _flatten(rest, "", judged)
    groups.append(("Judgement", judged))
    settings: list[tuple[str, str]] = []
    given = run.get("settings", {})
    # Kind and levels stand above.
    _flatten({k: v for k, v in given.items() if k not in ("kind", "levels", "rejection")}, "", settings)
    _flatten(given.get("rejection"), "", settings)
    if settings:
        groups.append(("Settings", settings))
    return groups


def _flatten(value: Any, name: str, facts: list[tuple[str, str]]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{name} {key}".strip().replace("_", " "), facts)
    elif isinstance(value, Sequence):
        text = value if isinstance(value, str) else ", ".join(str(v) for v in value)
        if text:
            facts.append((_sentence(name), text))
    elif isinstance(value, bool):
        facts.append((_sentence(name), "yes" if value else "no"))
    elif value is not None and not isinstance(value, Sequence):
        facts.append((_sentence(name), f"{value:.4g}" if isinstance(value, float) else str(value)))
