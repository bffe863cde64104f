"""Are groups of healthy patients exchangeable? Shares against what one cohort null allows, and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from anatrust.errors import InputError
from anatrust.statistics.conformal_p import conformal_p_value
from anatrust.statistics.multiple_testing import holm
from anatrust.statistics.realised_level import realised_level, realised_share
from anatrust.studies.study import Context
from anatrust.studies.tables import markdown_table

__all__ = ["against", "outside_by_chance", "ranks", "summarise", "tables"]

FloatArray = npt.NDArray[np.float64]

_LEVEL = 0.10
_STUDY = ("null", "tested")


def against(null: FloatArray, judged: FloatArray, *, level: float = _LEVEL) -> dict[str, Any]:
    """In how many of some healthy patients one null keeps something, and how many exchangeability allows.

    Parameters
    ----------
    null, judged
        ``(n,)`` and ``(m,)`` strongest score of each patient, −inf for none.
    level
        Something is kept where p ≤ level.

    Returns
    -------
    dict
        ``kept``, ``of``, ``allowed`` (smallest and largest count of the 95 % interval), ``chance`` of so many or more,
        ``inside``.

    Examples
    --------
    >>> against(np.arange(19.0), np.array([30.0, 3.0, 2.0]))["kept"]
    1
    """
    n, m = null.size, judged.size
    kept = int((conformal_p_value(null, judged) <= level * (1 + 1e-12)).sum())
    low, high = realised_share(n, m, level)
    k = int(np.floor(level * (n + 1) * (1 + 1e-12)))
    chance = float(stats.betabinom.sf(kept - 1, m, k, n + 1 - k)) if k else float(kept == 0)
    return {
        "kept": kept,
        "of": m,
        "allowed": [low, high],
        "chance": round(chance, 4),
        "inside": bool(low <= kept <= high),
    }


def ranks(groups: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Rank tests that groups of scores come from one law.

    Returns
    -------
    dict
        ``pairs``: two-sided Mann–Whitney p of every two groups; ``together``: Kruskal–Wallis p of all.
    """
    # Ranks, so that −inf is a number like any other.
    order = stats.rankdata(np.concatenate(list(groups.values())))
    ranked = dict(zip(groups, np.split(order, np.cumsum([v.size for v in groups.values()])[:-1]), strict=True))
    same = len(set(order.tolist())) == 1
    return {
        "pairs": {
            f"{a} and {b}": 1.0 if same else round(float(stats.mannwhitneyu(ranked[a], ranked[b]).pvalue), 4)
            for a, b in combinations(ranked, 2)
        },
        "together": 1.0 if same else round(float(stats.kruskal(*ranked.values()).pvalue), 4),
    }


def _by_place(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, FloatArray]]:
    """Strongest scores by direction and group."""
    found: dict[str, dict[str, FloatArray]] = {}
    for key, cell in results.items():
        place, group = key.split("/")
        values = [-np.inf if row[-1] is None else float(row[-1]) for row in cell["rows"]]
        found.setdefault(place, {})[group] = np.array(values)
    return found


def _pairs(groups: Iterable[str]) -> list[tuple[str, tuple[str, ...], str]]:
    """Which group is the null, which groups are judged by it, and what these are called together."""
    names = list(groups)
    own = [g for g in _STUDY if g in names]
    blocks = [g for g in names if g not in _STUDY]
    found: list[tuple[str, tuple[str, ...], str]] = []
    for null in ("null", *blocks):
        found += [(null, (g,), g) for g in own if g != null]
        found.append((null, tuple(b for b in blocks if b != null), "fresh"))
    return [*found, *(("all fresh", (g,), g) for g in own)]


def _of(groups: Mapping[str, FloatArray], names: Sequence[str]) -> FloatArray:
    return np.concatenate([groups[g] for g in names])


def _outside(places: Mapping[str, Mapping[str, FloatArray]]) -> int:
    """Shares that lie outside of what exchangeability allows in 95 %, over all directions."""
    count = 0
    for groups in places.values():
        blocks = [g for g in groups if g not in _STUDY]
        for null, judged, _ in _pairs(groups):
            scores = np.sort(_of(groups, blocks if null == "all fresh" else (null,)))
            others = _of(groups, judged)
            k = int(np.floor(_LEVEL * (scores.size + 1) * (1 + 1e-12)))
            # p ≤ level: fewer than k of the null reach the score.
            kept = int((others > scores[-k]).sum()) if k else 0
            low, high = _allowed(scores.size, others.size)
            count += not low <= kept <= high
    return count


@lru_cache(maxsize=256)
def _allowed(n: int, m: int) -> tuple[int, int]:
    return realised_share(n, m, _LEVEL)


def outside_by_chance(places: Mapping[str, Mapping[str, FloatArray]], *, seed: int, draws: int = 999) -> dict[str, Any]:
    """How often as many shares lie outside when patients are dealt to the groups anew.

    All directions are dealt alike, for they show the same phantoms; shares with a null or patients in common depend
    on each other, which the deal keeps. Exact for exchangeable patients.

    Parameters
    ----------
    places
        Strongest scores by direction and group; the n-th score of a group belongs to one patient in all directions.
    seed, draws
        Of the deals.

    Returns
    -------
    dict
        ``outside``, its mean ``expected`` over the deals and ``p``.
    """
    sizes = [[v.size for v in groups.values()] for groups in places.values()]
    observed, rng = _outside(places), np.random.default_rng(seed)
    if any(other != sizes[0] for other in sizes):
        raise InputError("the directions show different groups of phantoms: run all cells of the study")
    counts = []
    for _ in range(draws):
        order, ends = rng.permutation(sum(sizes[0])), np.cumsum(sizes[0])[:-1]
        dealt = {
            place: dict(zip(groups, np.split(_of(groups, list(groups))[order], ends), strict=True))
            for place, groups in places.items()
        }
        counts.append(_outside(dealt))
    p = (1 + sum(c >= observed for c in counts)) / (draws + 1)
    return {"outside": observed, "expected": round(float(np.mean(counts)), 2), "p": round(p, 4)}


def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    """Every null against every other group, ranks, and what speaks against exchangeability after all four looks."""
    scores = _by_place(results)
    places: dict[str, Any] = {}
    for place, groups in scores.items():
        blocks = [g for g in groups if g not in _STUDY]
        shares: dict[str, dict[str, Any]] = {}
        for null, judged, name in _pairs(groups):
            values = _of(groups, blocks if null == "all fresh" else (null,))
            shares.setdefault(null, {})[name] = against(values, _of(groups, judged))
        merged = {g: groups[g] for g in _STUDY if g in groups} | {"fresh": _of(groups, blocks)}
        places[place] = {
            "shares": shares,
            "ranks": ranks(merged),
            "quantiles": {g: _quantiles(values) for g, values in merged.items()},
        }
    adjusted = holm([found["ranks"]["together"] for found in places.values()]) if places else np.array([])
    counted = [one for found in places.values() for row in found["shares"].values() for one in row.values()]
    dealt = outside_by_chance(scores, seed=context.seed, draws=99 if context.quick else 999)
    words = "study's null, tested and fresh phantoms of one law (Kruskal–Wallis, Holm)"
    tests = {f"{place}: {words}": float(p) for place, p in zip(places, adjusted, strict=True)}
    tests["no more shares outside their 95 % intervals than when phantoms are dealt anew"] = dealt["p"]
    return {
        "places": places,
        "shares": len(counted),
        "shares outside": dealt,
        "one cohort of 79": [round(v, 3) for v in realised_level(79, _LEVEL)],
        "targets": [
            {"what": what, "observed": round(p, 4), "required": "p > 0.05", "met": bool(p > 0.05)}
            for what, p in tests.items()
        ],
    }


def _quantiles(values: FloatArray) -> list[float | None]:
    # Order statistics: between −inf and a number there is nothing to interpolate.
    found = np.quantile(values, (0.5, 0.75, 0.9), method="higher")
    return [None if np.isneginf(v) else round(float(v), 2) for v in found]


def _share(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "–"
    low, high = one["allowed"]
    mark = "" if one["inside"] else " **outside**"
    return f"{one['kept']} of {one['of']} ({low}–{high}){mark}"


def _pair(pairs: Mapping[str, float], names: Sequence[str]) -> str:
    return next((f"{p:.3f}" for key, p in pairs.items() if key == " and ".join(names)), "–")


def tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    """Counts by null and group, and the rank tests."""
    kept, order = [], []
    for place, found in result["summary"]["places"].items():
        for name, row in found["shares"].items():
            which = "the study's" if name == "null" else name
            kept.append([f"{place}: {which}", *(_share(row.get(g)) for g in ("null", "tested", "fresh"))])
        medians = [
            "–" if (q := found["quantiles"].get(g, [None])[0]) is None else f"{q:.1f}"
            for g in ("null", "tested", "fresh")
        ]
        pairs = found["ranks"]["pairs"]
        tested = [_pair(pairs, names) for names in (("null", "tested"), ("null", "fresh"), ("tested", "fresh"))]
        order.append([place, *medians, *tested, f"{found['ranks']['together']:.3f}"])
    return {
        "shares": markdown_table(
            ["taught on, asked on: null", "the study's null's own", "the study's tested", "fresh, not in this null"],
            kept,
        ),
        "ranks": markdown_table(
            [
                "taught on, asked on",
                *(f"median, {g}" for g in ("null", "tested", "fresh")),
                "null and tested: p",
                "null and fresh: p",
                "tested and fresh: p",
                "all three: p",
            ],
            order,
        ),
    }
