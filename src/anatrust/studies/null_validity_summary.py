"""What study `null-validity` concludes: rates, re-splits of the cohorts, targets, tables and figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.statistics.conformal_p import CohortNull
from anatrust.statistics.multiple_testing import benjamini_hochberg
from anatrust.studies.intervals import allowance, rate_by_patient
from anatrust.studies.null_overview import overview_table
from anatrust.studies.study import Context
from anatrust.studies.tables import markdown_table

__all__ = ["figures", "summarise", "tables"]

_SPLITS = 300
_ALPHAS = (0.05, 0.10)
_NAMES = {
    "amos": "AMOS CT",
    "ct3mm": "CT 3 mm",
    "mr": "MR",
    "phantom": "phantom",
    "hippocampus": "hippocampus MR",
    "cardiac": "cardiac MR",
    "texture": "texture",
}
_NULLS = ("iid", "block", "placement", "placement-exceed", "surrogate-max")


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    """Rates with errors for each cell, pooled rates, cohort re-splits, and the targets."""
    rates: dict[str, Any] = {}
    scores: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for key, found in results.items():
        task, source, *_ = key.split("/")
        if task == "cohort":
            for way, by_patient in found["scores"].items():
                scores[source][way].update(by_patient)
        elif task == "random":
            if found["hits"]:
                rates[key] = rate_by_patient(found["hits"], seed=context.seed) | {"undecidable": found["undecidable"]}
        else:
            single = {p: h for p, h in found["single"].items() if h}
            rates[key] = {
                "single": rate_by_patient(single, seed=context.seed) if single else None,
                "any": rate_by_patient(found["any"], seed=context.seed),
                "undecidable": found["undecidable"],
                "tested": found["tested"],
            }
            if "beside_vessels" in found:
                rates[key]["beside_vessels"] = rate_by_patient(found["beside_vessels"], seed=context.seed)
    cohorts = {
        f"{source}/{way}": _resplit(by_patient, context.seed)
        for source, ways in scores.items()
        for way, by_patient in ways.items()
    }
    return {"rates": rates, "cohorts": cohorts, "targets": _targets(rates, cohorts)}


def _resplit(by_patient: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """P(anything kept in a lesion-free patient): calibrate on n patients, judge the others, many times."""
    names = sorted(by_patient)
    values = [np.asarray(by_patient[name], dtype=np.float64) for name in names]
    found: dict[str, Any] = {"patients": len(names), "candidates": round(float(np.mean([v.size for v in values])), 1)}
    rng = np.random.default_rng(seed)
    for n in (19, 39, 79):
        if len(names) <= n:
            continue
        kept: dict[str, list[float]] = {f"{way} {a:.2f}": [] for way in ("maximum", "random+BH") for a in _ALPHAS}
        for _ in range(_SPLITS):
            order = rng.permutation(len(names))
            null = CohortNull(tuple(values[i] for i in order[:n]))
            draw = np.sort(null.random_draw(int(rng.integers(2**31))))
            judged = [values[i] for i in order[n:]]
            for alpha in _ALPHAS:
                hits = [v.size > 0 and bool((null.p_values(v) <= alpha).any()) for v in judged]
                kept[f"maximum {alpha:.2f}"].append(float(np.mean(hits)))
                hits = [v.size > 0 and bool((benjamini_hochberg(_ranks(draw, v)) <= alpha).any()) for v in judged]
                kept[f"random+BH {alpha:.2f}"].append(float(np.mean(hits)))
        found[str(n)] = {k: round(float(np.mean(v)), 4) for k, v in kept.items()} | {"judged": len(names) - n}
    return found


def _ranks(draw: np.ndarray[Any, np.dtype[np.float64]], scores: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    return (1 + len(draw) - np.searchsorted(draw, scores, side="left")) / (len(draw) + 1)


def _pool(rates: Mapping[str, Any], task: str, sources: Sequence[str], null: str, part: str | None) -> dict[str, int]:
    k = n = 0
    for key, found in rates.items():
        t, source, *_, which = key.split("/")
        if t == task and source in sources and which == null:
            share = found if part is None else found[part]
            if share is not None:
                k, n = k + share["k"], n + share["n"]
    return {"k": k, "n": n}


def _targets(rates: Mapping[str, Any], cohorts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the study had to show, what it showed, and whether that is enough."""
    targets: list[dict[str, Any]] = []

    def add(what: str, k: int, n: int, level: float, unit: str) -> None:
        if n:
            limit = allowance(level, n)
            met = bool(k / n <= limit)
            targets.append(
                {
                    "what": what,
                    "k": k,
                    "n": n,
                    "observed": round(k / n, 4),
                    "limit": round(limit, 4),
                    "met": met,
                    "unit": unit,
                }
            )

    for null in ("placement", "placement-exceed"):
        for source, name in _NAMES.items():
            pooled = _pool(rates, "random", (source,), null, None)
            add(f"{null}, random places, {name}: P(p ≤ 0.05)", pooled["k"], pooled["n"], 0.05, "places")
    for source in ("texture", "phantom"):
        name = _NAMES[source]
        for key, found in rates.items():
            task, where, tissue, way, null = (key.split("/") + [""] * 5)[:5]
            if task == "selected" and where == source and null == "surrogate-max":
                if way == "blobs" and found["single"]:
                    single = found["single"]
                    add(
                        f"surrogate-max, brightest blob, {name} {tissue}: P(p ≤ 0.05)",
                        single["k"],
                        single["n"],
                        0.05,
                        "scans",
                    )
                kept = found["any"]
                what = f"surrogate-max, {way}, {name} {tissue}: any kept at 0.10"
                add(what, kept["k"], kept["n"], 0.10, "scans")
                if "beside_vessels" in found:
                    other = found["beside_vessels"]
                    add(f"{what} that is no vessel", other["k"], other["n"], 0.10, "scans")
    pooled = _pool(rates, "selected", ("texture",), "surrogate-max", "any")
    add("surrogate-max, all textures and ways: any kept at 0.10", pooled["k"], pooled["n"], 0.10, "scans")
    for key, found in cohorts.items():
        for n in ("19", "39", "79"):
            if n in found:
                for alpha in _ALPHAS:
                    observed = found[n][f"maximum {alpha:.2f}"]
                    limit = allowance(alpha, found["patients"])
                    targets.append(
                        {
                            "what": f"cohort (maximum), {key}, n = {n}: any kept at {alpha:.2f}",
                            "observed": observed,
                            "limit": round(limit, 4),
                            "met": bool(observed <= limit),
                            "n": found["patients"],
                            "unit": "patients",
                        }
                    )
    return targets


def _cell(share: Mapping[str, Any] | None) -> str:
    return "–" if share is None else f"{share['rate']:.2f} ± {share['se']:.2f}"


def _undecidable(by_null: Mapping[str, Any], part: str) -> list[str]:
    """How many candidates surrogate-max left open: they count as not called different."""
    if part != "single":
        return []
    found = by_null.get("surrogate-max")
    return ["–" if found is None else f"{found['undecidable']} of {found['tested']}"]


def tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    """Markdown tables: the short one of the README, random places, selected places, cohorts, targets."""
    rates = result["summary"]["rates"]
    random_rows: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    selected_rows: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    for key, found in rates.items():
        task, source, tissue, size, null = key.split("/")
        (random_rows if task == "random" else selected_rows)[(source, tissue, size)][null] = found
    made = {"nulls": overview_table(result)}
    header = ["tissue", "diameter", "places", *_NULLS, "placement undecidable"]
    rows = []
    for (source, tissue, size), by_null in random_rows.items():
        unit = " px" if source in ("amos", "texture", "cardiac") else " mm"
        place = by_null.get("placement")
        share = "–" if place is None else f"{place['undecidable'] / place['n']:.2f}"
        places = max(found["n"] for found in by_null.values())
        name = f"{_NAMES[source]}, {tissue}"
        rows.append([name, f"{float(size):g}{unit}", places, *[_cell(by_null.get(n)) for n in _NULLS], share])
    made["random"] = markdown_table(header, rows)
    for part, title in (("single", "P(p ≤ 0.05)"), ("any", "any kept at 0.10")):
        rows = []
        for (source, tissue, way), by_null in selected_rows.items():
            n = max((found[part]["n"] for found in by_null.values() if found[part]), default=0)
            shares = [_cell(by_null[k][part]) if k in by_null else "–" for k in _NULLS]
            rows.append([f"{_NAMES[source]}, {tissue}", way, n, *shares, *_undecidable(by_null, part)])
        # Of whole scans it is not known how many candidates were left open.
        apart = ["surrogate-max: undecidable"] if part == "single" else []
        header = ["tissue", "chosen by", "n", *[f"{k}: {title}" for k in _NULLS], *apart]
        made[f"selected-{part}"] = markdown_table(header, rows)
    rows = []
    for key, found in rates.items():
        if "beside_vessels" in found:
            way, null = key.split("/")[3:]
            bare = rates.get(f"selected/phantom/liver without vessels/{way}/{null}")
            without = _cell(None if bare is None else bare["any"])
            rows.append([null, way, found["any"]["n"], _cell(found["any"]), _cell(found["beside_vessels"]), without])
    header = [
        "null",
        "chosen by",
        "phantom livers",
        "any kept at 0.10",
        "any that is no vessel",
        "same livers, no vessels",
    ]
    if rows:
        made["vessels"] = markdown_table(header, sorted(rows))
    rows = []
    for key, found in result["summary"]["cohorts"].items():
        source, way = key.split("/")
        for n in ("19", "39", "79"):
            if n in found:
                shares = [
                    f"{found[n][k]:.3f}" for k in ("maximum 0.05", "maximum 0.10", "random+BH 0.05", "random+BH 0.10")
                ]
                rows.append([f"{_NAMES[source]}, {way}", found["patients"], found["candidates"], n, *shares])
    header = ["patients", "in all", "candidates each", "calibration n", "maximum, 0.05", "maximum, 0.10"]
    made["cohort"] = markdown_table([*header, "random draw + BH, 0.05", "random draw + BH, 0.10"], rows)
    rows = [
        [t["what"], f"{t['observed']:.3f}", f"{t['limit']:.3f}", t["n"], "yes" if t["met"] else "**no**"]
        for t in result["summary"]["targets"]
    ]
    made["targets"] = markdown_table(["what", "observed", "limit (level + 2 se)", "n", "met"], rows)
    return made


def figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """One figure: false-positive rate of each null in each texture, random and selected places."""
    rates = result["summary"]["rates"]
    panels = []
    for title, task, size, part in (
        ("random place, 8 px", "random", "8.0", None),
        ("brightest blob", "selected", "blobs", "single"),
        ("threshold segmenter", "selected", "threshold", "single"),
    ):
        lines = {}
        for null in _NULLS:
            points = []
            for length in (2, 6, 12):
                found = rates.get(f"{task}/texture/gaussian {length}/{size}/{null}")
                share = found if part is None or found is None else found[part]
                if share is not None:
                    points.append((length, share["rate"]))
            if points:
                lines[null] = {"x": [p[0] for p in points], "y": [p[1] for p in points]}
        panels.append({"title": title, "lines": lines})
    return {
        "textures": {
            "panels": panels,
            "xlabel": "correlation length, px",
            "ylabel": "P(p ≤ 0.05) in normal tissue",
            "level": 0.05,
        }
    }
