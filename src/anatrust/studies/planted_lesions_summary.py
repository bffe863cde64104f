"""What study `planted-lesions` concludes: power, false discovery rates, targets, tables, figure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from anatrust.studies.intervals import allowance
from anatrust.studies.study import Context
from anatrust.studies.tables import markdown_table

__all__ = ["figures", "summarise", "tables"]

_NAMES = {"amos": "AMOS CT", "ct3mm": "CT 3 mm", "mr": "MR", "phantom": "phantom"}
_FEATURES = {"intensity": "1-D", "local": "7-D"}


def _parse(cell: str) -> tuple[float, float]:
    contrast, diameter = cell.split(", ")
    return float(contrast.split()[0]), float(diameter.split()[0])


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Targets and pooled power; a lesion too large to be decided counts as not found."""
    targets = []

    def pooled(null: str, wanted: Callable[[str, str, float, float], bool]) -> dict[str, int]:
        total = {"k": 0, "n": 0, "undecidable": 0}
        for key, found in results.items():
            task, source, organ, features, which = key.split("/")
            if task != "power" or which != null or features != "intensity":
                continue
            for cell, counts in found["grid"].items():
                if wanted(source, organ, *_parse(cell)):
                    for name in total:
                        total[name] += counts[name]
        return total

    def add(what: str, total: Mapping[str, int], least: float) -> None:
        able = total["n"] - total["undecidable"]
        if total["n"]:
            targets.append(
                {
                    "what": what,
                    "n": total["n"],
                    "k": total["k"],
                    "observed": round(total["k"] / total["n"], 4),
                    "decidable": able,
                    "observed_decidable": round(total["k"] / able, 4) if able else None,
                    "limit": least,
                    # What the segmenter draws of a lesion is not the null's doing.
                    "met": None if "drawn" in what else bool(total["k"] / total["n"] >= least),
                }
            )

    for null, source, organ in product(("placement", "placement-exceed"), _NAMES, ("liver", "spleen")):
        add(
            f"{null}, {_NAMES[source]} {organ}, 1 SD, ≥ 10 mm",
            pooled(null, lambda s, o, c, d, s0=source, o0=organ: (s, o, c) == (s0, o0, 1.0) and d >= 10),  # type: ignore[misc]
            0.9,
        )
    for null in ("surrogate-max", "surrogate-max dark", "cohort", "cohort dark", "cohort drawn", "cohort drawn dark"):
        for source, name in _NAMES.items():
            add(
                f"{null}, {name}, 2 SD, ≥ 10 mm",
                pooled(null, lambda s, _, c, d, s0=source: s == s0 and c == 2.0 and d >= 10),  # type: ignore[misc]
                0.8,
            )
    for key, found in results.items():
        if key.startswith("fdr/"):
            _, source, organ, _, null = key.split("/")
            limit = allowance(found["alpha"], found["scans"])
            targets.append(
                {
                    "what": f"realised FDR, {null}, {_NAMES[source]} {organ}",
                    "n": found["scans"],
                    "observed": found["fdr"],
                    "limit": round(limit, 4),
                    # The pixel null is shown for comparison; nothing is promised for it.
                    "met": bool(found["fdr"] <= limit) if null != "iid" else None,
                }
            )
            if "fdr_beside_vessels" in found:
                other = {"observed": found["fdr_beside_vessels"], "met": bool(found["fdr_beside_vessels"] <= limit)}
                targets.append(targets[-1] | other | {"what": f"{targets[-1]['what']}, vessels counted as different"})
    return {"targets": targets}


def tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    """Markdown tables: power by contrast and size for each null, FDR, targets."""
    by_null: dict[tuple[str, str], dict[tuple[str, str], Any]] = defaultdict(dict)
    fdr = []
    for key, found in result["cells"].items():
        task, source, organ, features, null = key.split("/")
        if task == "power":
            by_null[null, features][source, organ] = found["grid"]
        else:
            true = f"{found['kept_true']} of {found['all_true']}"
            share = f"{found['fdr']:.2f} ± {found['se']:.2f}"
            fdr.append([f"{_NAMES[source]}, {organ}", null, found["scans"], share, found["any_false"], true])
            if "fdr_beside_vessels" in found:
                share = f"{found['fdr_beside_vessels']:.2f} ± {found['se_beside_vessels']:.2f}"
                where = f"{_NAMES[source]}, {organ}, vessels counted as different"
                fdr.append([where, null, found["scans"], share, "–", true])
    made = {
        "fdr": markdown_table(
            ["tissue", "null", "scans", "realised FDR (level 0.10)", "scans with a false one", "lesions kept"],
            sorted(fdr, key=lambda row: (row[1], row[0])),
        )
    }
    for (null, features), organs in by_null.items():
        cells = sorted({c for grid in organs.values() for c in grid}, key=_parse)
        rows = []
        for (source, organ), grid in organs.items():
            row = [f"{_NAMES[source]}, {organ}"]
            for cell in cells:
                found = grid.get(cell, {"n": 0})
                if found["n"] == 0:
                    row.append("–")
                elif found["undecidable"] > found["n"] / 2:
                    row.append(f"u ({found['k']}/{found['n']})")
                else:
                    row.append(f"{found['k']}/{found['n']}")
            rows.append(row)
        made[f"power-{null.replace(' ', '-')}-{features}"] = markdown_table(["tissue", *cells], rows)
    rows = [
        [
            t["what"],
            f"{t['observed']:.2f}",
            "–" if t.get("observed_decidable") is None else f"{t['observed_decidable']:.2f} of {t['decidable']}",
            f"{'≥' if 'decidable' in t else '≤'} {t['limit']:.2f}",
            t["n"],
            {True: "yes", False: "**no**", None: "not promised"}[t["met"]],
        ]
        for t in result["summary"]["targets"]
    ]
    made["targets"] = markdown_table(["what", "observed", "where decidable", "required", "n", "met"], rows)
    return made


def figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Power against contrast for 10 and 20 mm, panels by tissue, lines by null."""
    panels = []
    for diameter in (10.0, 20.0):
        for source, organ in (("amos", "liver"), ("ct3mm", "liver"), ("phantom", "liver")):
            lines = {}
            for key, found in result["cells"].items():
                task, where, which, features, null = key.split("/")
                if (task, where, which) != ("power", source, organ) or null == "iid":
                    continue
                points = []
                for cell, counts in found["grid"].items():
                    contrast, size = _parse(cell)
                    if size == diameter and counts["n"]:
                        points.append((contrast, counts["k"] / counts["n"]))
                label = f"{null}, {_FEATURES[features]}"
                lines[label] = {"x": [p[0] for p in points], "y": [p[1] for p in points]}
            panels.append({"title": f"{_NAMES[source]} {organ}, {diameter:g} mm", "lines": lines})
    return {
        "power": {"panels": panels, "xlabel": "contrast, organ SD", "ylabel": "share found (p ≤ 0.05)", "level": 0.05}
    }
