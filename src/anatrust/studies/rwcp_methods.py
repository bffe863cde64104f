"""The rivals of the RW-CP studies, and the choice among their settings on tuning patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatrust.conformal.recipe import PUBLISHED_WALK, ScoreRecipe
from anatrust.conformal.tuning import aimed_risk, choose_recipe
from anatrust.image.atomic import replacing
from anatrust.studies import provenance
from anatrust.studies.rwcp_cases import PLAIN, SCORING, Unit, calibration_size, cases
from anatrust.studies.segmenters import image_set
from anatrust.studies.study import Context

__all__ = ["FAMILIES", "Method", "choices", "chosen_method", "families"]


@dataclass(frozen=True)
class Method:
    """A recipe and the encoder it runs on (None: it needs none)."""

    recipe: ScoreRecipe
    encoder: str | None = None

    @property
    def label(self) -> str:
        """What a table calls it."""
        return self.recipe.label if self.encoder is None else f"{self.recipe.label} on {self.encoder}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"recipe": self.recipe.to_json(), "encoder": self.encoder}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Method:
        """The method :meth:`to_json` wrote."""
        return cls(ScoreRecipe.from_json(values["recipe"]), values["encoder"])


_LAZY = tuple(
    ScoreRecipe("graph", {"patch": size, "laziness": a, "steps": s})
    for size in (4, 2)
    for a, s in ((0.0, 10), (0.5, 1), (0.5, 10), (0.8, 10))
)
_STAGES = ("unet-0", "unet-1", "unet-2")  # of the segmenter's encoder: which one is chosen on tuning patients too
_LATTICES = tuple((steps, beta) for steps in (20, 60, 160) for beta in (0.02, 0.1, 0.5))

FAMILIES: Mapping[str, tuple[Method, ...]] = {
    "plain CRC": (Method(PLAIN),),
    "Gaussian, tuned": tuple(Method(ScoreRecipe("gaussian", {"width": w})) for w in (0.7, 1, 1.5, 2, 3, 4, 6, 9, 13)),
    "bilateral": tuple(
        Method(ScoreRecipe("bilateral", {"width": w, "beta": b})) for w in (1.5, 2) for b in (0.05, 0.3)
    ),
    "temperature": (Method(ScoreRecipe("probability", {}, 3.0)),),
    "morphological": (Method(ScoreRecipe("distance")),),
    "image-adaptive": (Method(ScoreRecipe("adaptive")),),
    "reconstruction": tuple(Method(ScoreRecipe("reconstruction", {"width": w})) for w in (0, 1, 2, 3, 4.5)),
    "lattice walk, intensity": tuple(Method(ScoreRecipe("lattice", {"steps": s, "beta": b})) for s, b in _LATTICES),
    "lattice walk, encoder": tuple(
        Method(ScoreRecipe("encoder-lattice", {"steps": s, "beta": b}), "unet-0")
        for s in (40, 160)
        for b in (0.003, 0.03)
    ),
    "RW-CP published, encoder": tuple(Method(PUBLISHED_WALK, stage) for stage in _STAGES),
    "RW-CP published, descriptors": (Method(PUBLISHED_WALK, "descriptors"),),
    "RW-CP tuned, encoder": tuple(Method(r, stage) for stage in _STAGES for r in _LAZY),
    "RW-CP tuned, descriptors": tuple(Method(r, "descriptors") for r in _LAZY),
    "random graph": (Method(PUBLISHED_WALK, "random"),),
    "combinations": (
        *(Method(ScoreRecipe("gaussian", {"width": w}, 1.0, 0.5)) for w in (1, 2, 3, 4.5)),
        *(Method(ScoreRecipe("gaussian", {"width": w}, 3.0, 0.5)) for w in (1, 2)),
        *(Method(ScoreRecipe("lattice", {"steps": s, "beta": b}, 1.0, 0.0)) for s, b in _LATTICES),
        *(Method(ScoreRecipe("encoder-lattice", {"steps": s, "beta": 0.003}, 1.0, 0.0), "unet-0") for s in (40, 160)),
        *(Method(ScoreRecipe("distance", {}, 1.0, c)) for c in (0.0, 0.5)),
        *(Method(ScoreRecipe("lattice", {"steps": s, "beta": b}, 1.0, 0.5)) for s, b in _LATTICES),
        *(Method(ScoreRecipe("encoder-lattice", {"steps": s, "beta": 0.03}, 1.0, 0.5), "unet-0") for s in (40, 160)),
        *(Method(ScoreRecipe("graph", {"patch": 2, "laziness": a}, 1.0, 0.5), e) for e in _STAGES for a in (0.0, 0.5)),
        Method(ScoreRecipe("bilateral", {"width": 2, "beta": 0.05}, 1.0, 0.5)),
    ),
}
"""The rivals: for each name the methods one is chosen from on tuning patients."""

_QUICK_FAMILIES = ("plain CRC", "Gaussian, tuned", "reconstruction", "RW-CP published, encoder")


def families(context: Context) -> Mapping[str, tuple[Method, ...]]:
    """All rivals, or a few with two choices each in the quick form."""
    if not context.quick:
        return FAMILIES
    return {name: FAMILIES[name][:2] for name in _QUICK_FAMILIES}


def choices(unit: Unit, context: Context, *, alpha: float = 0.1, cache: Path | None = None) -> dict[str, Any]:
    """One method a rival, and the best of all, chosen on the tuning patients alone.

    Compared at the risk calibration will really aim at (:func:`anatrust.conformal.tuning.choose_recipe`).
    *Best* is the plain score unless another is better by more than its standard error.

    Returns
    -------
    dict with ``chosen`` (name → method), ``rows`` (every trial), ``aim`` and ``patients``. Every trial is kept
    in the cache by content.
    """
    parts, rivals = image_set(unit.image_set, context.path(), quick=context.quick).parts, families(context)
    n = calibration_size(len(parts["pool"]))
    rows = _trials(unit, context, [m for own in rivals.values() for m in own], alpha, n, cache or Path("build/studies"))
    chosen = {name: _least(methods, rows) for name, methods in rivals.items()}
    best = _least([*chosen.values()], rows)
    row = rows[best.label]
    chosen["best on tuning"] = best if row["relative"] + row["error"] < 1 else Method(PLAIN)
    return {
        "chosen": {name: method.to_json() for name, method in chosen.items()},
        "rows": rows,
        "aim": aimed_risk(alpha, n),
        "patients": len(parts["tuning"]),
    }


def chosen_method(unit: Unit, name: str, context: Context, *, alpha: float = 0.1, cache: Path | None = None) -> Method:
    """The method of one rival alone, chosen as :func:`choices` chooses it."""
    pool = image_set(unit.image_set, context.path(), quick=context.quick).parts["pool"]
    methods, n = families(context)[name], calibration_size(len(pool))
    return _least(methods, _trials(unit, context, methods, alpha, n, cache or Path("build/studies")))


def _least(methods: Sequence[Method], rows: Mapping[str, Mapping[str, float]]) -> Method:
    return min(methods, key=lambda m: rows[m.label]["relative"])


def _trials(
    unit: Unit, context: Context, methods: Sequence[Method], alpha: float, n: int, cache: Path
) -> dict[str, dict[str, float]]:
    """Every method on the tuning patients, relative to the plain score; one kept file a trial."""
    files = image_set(unit.image_set, context.path(), quick=context.quick).paths("training", "tuning")
    common = {
        "unit": unit.key,
        "aim": aimed_risk(alpha, n),
        "quick": context.quick,
        "files": [provenance.file_hash(context.path(f)) for f in files],
        "source": provenance.source_hash(SCORING),
    }
    folder = cache / "rwcp-trials"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {m.label: folder / f"{provenance.fingerprint(common | {'method': m.to_json()})}.json" for m in methods}
    rows: dict[str, dict[str, float]] = {}
    missing: dict[str | None, dict[str, ScoreRecipe]] = {}
    for method in methods:
        if kept[method.label].is_file():
            rows[method.label] = json.loads(kept[method.label].read_text(encoding="utf-8"))
        else:
            missing.setdefault(method.encoder, {})[method.label] = method.recipe
    for encoder, recipes in missing.items():
        given = list(cases(unit, "tuning", context, encoder))
        tuning = choose_recipe(given, [PLAIN, *recipes.values()], alpha, n)
        for label, row in zip(recipes, tuning.rows[1:], strict=True):
            rows[label] = {"relative": round(row.relative, 4), "error": round(row.error, 4)}
            with replacing(kept[label]) as part:
                part.write_text(json.dumps(rows[label]), encoding="utf-8")
    return rows
