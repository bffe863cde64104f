"""The short table of nulls that the README shows, from the full result of study `null-validity`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anatrust.studies.tables import markdown_table

__all__ = ["overview_table"]

_MADE_UP = frozenset({"texture", "phantom"})
_ROWS = {
    "iid": "pixel shuffling (`iid`)",
    "block": "block shuffling",
    "placement": "placement",
    "surrogate-max": "**surrogate-max**",
}
_COHORT = "maximum 0.05"


def _pooled(counts: Iterable[Mapping[str, Any]], undecidable: int) -> str:
    found = list(counts)
    k, n = sum(c["k"] for c in found), sum(c["n"] for c in found)
    apart = f"; {undecidable} undecidable" if undecidable else ""
    return f"{k / n:.2f} ({k} of {n}{apart})" if n else "–"


def overview_table(result: Mapping[str, Any]) -> str:
    """One row a null: how often it calls normal tissue different at 5 %, by who chose the place.

    Parameters
    ----------
    result
        Full result of the study; its ``summary`` holds ``rates`` by
        ``task/source/tissue/way/null`` and ``cohorts`` by ``source/way``.

    Returns
    -------
    str
        A Markdown table. Counts are pooled over tissues and sizes; picked places are the
        oddest candidate of each lesion-free scan; those a test could not decide count as not called
        different, and their number is stated. The cohort row gives the range over cohorts of
        P(any candidate kept) with the smallest calibration size.

    Examples
    --------
    >>> rates = {"random/amos/liver/8.0/iid": {"k": 9, "n": 10}}
    >>> print(overview_table({"summary": {"rates": rates, "cohorts": {}}}).splitlines()[2])
    | pixel shuffling (`iid`) | 0.90 (9 of 10) | – | – |
    """
    rates, cohorts = result["summary"]["rates"], result["summary"]["cohorts"]
    rows = []
    for null, name in _ROWS.items():
        chosen = {key: found for key, found in rates.items() if key.endswith(f"/{null}")}
        cells = []
        for task, made_up in (("random", False), ("selected", True), ("selected", False)):
            picked = [
                found
                for key, found in chosen.items()
                if key.startswith(f"{task}/") and (key.split("/")[1] in _MADE_UP) == made_up
            ]
            counts = [found if task == "random" else found["single"] for found in picked]
            # At places chosen blindly the largest lesions are beyond placement; the full table says which.
            undecidable = 0 if task == "random" else sum(found.get("undecidable", 0) for found in picked)
            cells.append(_pooled([c for c in counts if c], undecidable))
        rows.append([name, *cells])
    by_kind: dict[bool, list[float]] = {True: [], False: []}
    for key, found in cohorts.items():
        sizes = sorted((n for n in found if n.isdigit()), key=int)
        if sizes:
            by_kind[key.split("/")[0] in _MADE_UP].append(float(found[sizes[0]][_COHORT]))
    ranges = [
        f"{min(values):.2f} to {max(values):.2f}" if values else "–" for values in (by_kind[True], by_kind[False])
    ]
    rows.append(["**cohort** (any candidate of a scan)", "–", *ranges])
    header = ["test", "random place, real organs", "picked place, phantoms and textures", "picked place, real organs"]
    return markdown_table(header, rows)
