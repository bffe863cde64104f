"""How R²Seg fails, recognised from the record of a run, with the cure (the paper's own list)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anatrust.image.volumes import LabelMap
from anatrust.pipeline.finding import Finding
from anatrust.rejection.candidate import Candidate

__all__ = ["cohort_signatures", "failure_signatures", "judgement_record"]

# Below this share of the threshold a probability is no near miss.
_NEAR = 0.5
# Candidates times null draws above which rejection takes minutes rather than seconds.
_MANY_DRAWS = 100_000
_SCATTERED = 3
_SLOW_SHARE = 0.5
# A kept candidate that fills less of the ball (or disc) its length spans is no lump: a rod five times as long as wide.
_LUMP = {3: 0.06, 2: 0.25}
_LONG = 30.0  # mm; shorter ones are a few voxels, whose shape says nothing


def judgement_record(
    candidates: Sequence[Candidate], *, draws: int, null: str, organs: LabelMap | None = None
) -> dict[str, Any]:
    """What rejection did, as plain values for ``run.json``.

    Parameters
    ----------
    candidates
        Judged.
    draws
        Null draws (or surrogates) a candidate, the B of the paper.
    null
        The null that was used.
    organs
        The whole anatomy, where one was given: says in which organ each candidate's centre lies.
    """
    gates = Counter(c.reason[:7] for c in candidates if c.reason.startswith("gate "))
    places: Counter[str] = Counter()
    for candidate in candidates if organs is not None else ():
        assert organs is not None
        number = int(organs.array[tuple(round(v) for v in candidate.centroid_index)])
        # What a number without a name is nobody knows: four parts of one organ are not four organs.
        if number in organs.names:
            places[organs.names[number]] += 1
    return {
        "candidates": len(candidates),
        "tested": sum(c.p_value is not None for c in candidates),
        "kept": sum(c.decision == "kept" for c in candidates),
        "rejected": sum(c.decision == "rejected" for c in candidates),
        "undecidable": sum(c.decision == "undecidable" for c in candidates),
        "refused_by": {gate.split(" ")[1]: count for gate, count in sorted(gates.items())},
        "organs": dict(sorted(places.items())),
        "null": null,
        "draws": draws,
        "drawn_out": [
            {
                "number": c.number,
                "length": round(c.diameter, 1),
                "fills": round(fills, 4),
                "span": "ball" if len(c.bounding_box) == 3 else "disc",
            }
            for c in candidates
            if c.decision == "kept" and c.diameter is not None and (fills := _fills(c)) is not None
            if c.diameter >= _LONG and fills < _LUMP[len(c.bounding_box)]
        ],
    }


def _fills(candidate: Candidate) -> float | None:
    """Share of the ball, or in 2-D the disc, across a candidate's length that it fills."""
    if candidate.volume is None or not candidate.diameter:
        return None
    radius = candidate.diameter / 2
    whole = 4 / 3 * math.pi * radius**3 if len(candidate.bounding_box) == 3 else math.pi * radius**2
    return candidate.volume / whole


def failure_signatures(run: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The signatures that one run shows.

    Parameters
    ----------
    run
        A ``run.json`` of ``anatrust segment``, or what will become one: its ``configuration`` holds
        ``plan``, ``anchors``, ``proposal`` and ``judgement``. Timings are looked at where there are any.

    Returns
    -------
    Findings in this order

        ``over-prediction``
            The anchors failed, the search ran without them and something was proposed: over many
            scans that is sensitivity 1 and specificity 0.
        ``thresholds-empty-the-mask``
            Nothing was left before the test although the model was not far from the threshold, or
            the gates refused every candidate: on true lesions that is a wrong τ.
        ``planner-doubtful``
            The planner fell back, understood only a part or had to guess, clamp or drop something, or what
            was proposed lies in several organs: over many scans that scatters Dice.
        ``drawn-out``
            A kept candidate is long and thin, or a net: rims of organs, fissures and vessels look like this,
            and are truly different from the organ, so that no test against it refuses them.
        ``slow-rejection``
            Candidates times null draws take most of the time: K and B are too large.

    References
    ----------
    R2Seg (arXiv 2511.12691), failure signatures as read publicly.
    """
    configuration = run["configuration"]
    found = []
    for look in (_over_prediction, _empty, _planner, _drawn_out):
        found += look(configuration)
    return (*found, *_slow(configuration, run.get("timings", {})))


def _over_prediction(configuration: Mapping[str, Any]) -> list[Finding]:
    source, proposal = configuration["anchors"]["source"], configuration["proposal"]
    if source == "anchors" or proposal["components"] == 0:
        return []
    where = {
        "neighbours": "around neighbours of the missing anchor",
        "contralateral": "around the mirrored organ of the other side",
    }.get(source, "without an anchor")
    return [
        Finding(
            "warning",
            "over-prediction",
            f"The search {where} proposed {_counted(proposal['components'])}; a search like this proposes something in "
            "nearly every scan, ill or healthy (sensitivity near 1, specificity near 0).",
            "Give the anchor organ (--anatomy, --anchors); then look at the anchors in run.json.",
        )
    ]


def _counted(count: int) -> str:
    return "1 candidate" if count == 1 else f"{count} candidates"


def _empty(configuration: Mapping[str, Any]) -> list[Finding]:
    proposal, judgement = configuration["proposal"], configuration["judgement"]
    threshold = configuration["settings"]["threshold"]
    if proposal["components"] == 0:
        near = proposal["largest_probability"] >= _NEAR * threshold
        if not near:
            return []
        return [
            Finding(
                "warning",
                "thresholds-empty-the-mask",
                f"Nothing was proposed, but the largest probability, {proposal['largest_probability']:.2f}, is not far "
                f"below the threshold of {threshold:g}: on true lesions this shows as empty masks.",
                "Lower the threshold (--threshold), or let 'anatrust fit' choose it on labelled patients.",
            )
        ]
    refused = judgement["refused_by"]
    if judgement["candidates"] and sum(refused.values()) == judgement["candidates"]:
        first = max(refused, key=lambda gate: refused[gate])
        return [
            Finding(
                "warning",
                "thresholds-empty-the-mask",
                f"The gates refused all {judgement['candidates']} candidates before any was tested, most of them gate "
                f"{first}: on true lesions this shows as empty masks.",
                f"Lower the thresholds of gate {first} (or --no-gates), or let 'anatrust fit' choose them on labelled "
                "patients.",
            )
        ]
    return []


def _planner(configuration: Mapping[str, Any]) -> list[Finding]:
    plan, judgement = configuration["plan"], configuration["judgement"]
    doubts = []
    if plan["fallback"]:
        doubts.append(f"it was made by rules, not by the language model ({plan['fallback']})")
    only_organ = ["the words name no tumour type that is known, only an organ"] if plan["tumour"] is None else []
    doubts += plan["adjustments"] or only_organ
    organs = list(judgement["organs"])
    if len(organs) >= _SCATTERED:
        doubts.append(f"the candidates lie in {len(organs)} organs ({', '.join(organs)})")
    if not doubts:
        return []
    return [
        Finding(
            "info" if len(organs) < _SCATTERED and not plan["fallback"] else "warning",
            "planner-doubtful",
            f"The plan ({', '.join(plan['anchors'])}) may not fit the target: {'; '.join(doubts)}. Plans that do "
            "not fit show as Dice scattered over organs.",
            "Name the tumour and its organ plainly, or look at the plan in run.json.",
        )
    ]


def _drawn_out(configuration: Mapping[str, Any]) -> list[Finding]:
    """Records of earlier runs have no such entry."""
    long = configuration["judgement"].get("drawn_out", [])
    if not long:
        return []
    said = [
        f"candidate {c['number']}, {c['length']:.0f} mm long, fills {c['fills']:.1%} of the {c['span']} it spans"
        for c in long
    ]
    return [
        Finding(
            "warning",
            "drawn-out",
            f"Kept, but no lump: {'; '.join(said)}. The rim of an organ, fissures and vessels look like this, and do "
            "differ from the organ.",
            "Look at it on the scan; a better outline of the organ (--anatomy) or a higher --threshold takes it apart.",
        )
    ]


def _slow(configuration: Mapping[str, Any], timings: Mapping[str, float]) -> list[Finding]:
    judgement = configuration["judgement"]
    work = judgement["tested"] * judgement["draws"]
    total = sum(timings.values())
    share = timings.get("judge", 0.0) / total if total > 0 else 0.0
    if work < _MANY_DRAWS and not (share > _SLOW_SHARE and total > 60):
        return []
    return [
        Finding(
            "info",
            "slow-rejection",
            f"Rejection compared {judgement['tested']} candidates with {judgement['draws']} null draws each"
            + (f", {share:.0%} of the run's time" if share > 0 else "")
            + ".",
            "Lower the number of candidates (--max-candidates, a higher --threshold) or of null draws.",
        )
    ]


def cohort_signatures(runs: Iterable[tuple[Mapping[str, Any], bool]]) -> tuple[Finding, ...]:
    """The signatures that only many scans show.

    Parameters
    ----------
    runs
        ``run.json`` of each scan, and whether it is known to be free of lesions.

    Returns
    -------
    Findings
        ``over-prediction``: every scan with lesions and every one without keeps a candidate.
        ``thresholds-empty-the-mask``: most scans with lesions keep none.
        Empty where there are fewer than three scans of the kind that is looked at.
    """
    kept = {True: [0, 0], False: [0, 0]}
    for run, lesion_free in runs:
        judgement = run["configuration"]["judgement"]
        kept[lesion_free][0] += judgement["kept"] > 0
        kept[lesion_free][1] += 1
    (false_alarms, healthy), (hits, ill) = kept[True], kept[False]
    found = []
    if healthy >= 3 and false_alarms == healthy and hits == ill:
        found.append(
            Finding(
                "warning",
                "over-prediction",
                f"All {ill} scans with lesions and all {healthy} without keep a candidate: sensitivity 1 and "
                "specificity 0.",
                "Look at the anchors of these runs: where they fail, the search runs over everything.",
            )
        )
    if ill >= 3 and hits < ill / 2:
        found.append(
            Finding(
                "warning",
                "thresholds-empty-the-mask",
                f"Only {hits} of {ill} scans with lesions keep a candidate.",
                "Lower the thresholds τ, or let 'anatrust fit' choose them on labelled patients.",
            )
        )
    return tuple(found)
