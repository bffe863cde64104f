"""What the RW-CP studies share: labelled cases of a segmenter, encoders, methods, and the choice on tuning patients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.recipe import PUBLISHED_WALK, ScoreRecipe
from anatrust.conformal.sets import LabelledCase
from anatrust.conformal.tuning import choose_recipe
from anatrust.image.atomic import replacing
from anatrust.models.descriptors import LocalDescriptors
from anatrust.studies import provenance
from anatrust.studies.segmenters import IMAGE_SETS, HeldOutImage, Strength, held_out, image_set, unet
from anatrust.studies.study import Context

if TYPE_CHECKING:
    from anatrust.models.unet import UNet

__all__ = ["ENCODERS", "FAMILIES", "NEEDS", "PLAIN", "Method", "Unit", "calibration_size", "cases", "choices", "units"]

PLAIN = ScoreRecipe("probability")
_SCORING = (
    "anatrust.conformal.recipe",
    "anatrust.conformal.scores",
    "anatrust.conformal.lattice",
    "anatrust.conformal.graph",
    "anatrust.conformal.diffusion",
    "anatrust.conformal.tuning",
    "anatrust.statistics.loss_curves",
    "anatrust.models.unet",
    "anatrust.models.unet_training",
    "anatrust.models.descriptors",
)
NEEDS = (
    *_SCORING,
    "anatrust.studies.rwcp_cases",
    "anatrust.studies.rwcp_resplits",
    "anatrust.studies.segmenters",
)
"""Modules that decide the numbers of every RW-CP study."""


@dataclass(frozen=True)
class Unit:
    """One structure as one segmenter sees it."""

    image_set: str
    strength: Strength
    label: int

    @property
    def structure(self) -> str:
        """Its name."""
        return IMAGE_SETS[self.image_set].classes[self.label]

    @property
    def key(self) -> str:
        """Short unique name, also of the cell."""
        return f"{self.image_set}/{self.strength}/{self.structure}"

    def files(self, context: Context) -> tuple[str, ...]:
        """All images the unit rests on."""
        return image_set(self.image_set, context.path(), quick=context.quick).paths() if context.data else ("missing",)


def units(context: Context) -> tuple[Unit, ...]:
    """Every structure of both segmenters of both sets; in the quick form one, of the weak cardiac network."""
    if context.quick:
        return (Unit("cardiac", "weak", 1),)
    return tuple(
        Unit(name, strength, label)
        for name, plan in sorted(IMAGE_SETS.items())
        for strength in ("strong", "weak")
        for label in range(1, len(plan.classes))
    )


def calibration_size(patients: int) -> int:
    """Patients of a pool that calibrate in each re-split: two thirds, rounded, of which 50 at most."""
    return min(50, round(patients * 2 / 3))


Encode = Callable[[HeldOutImage], npt.NDArray[Any]]


def _standardised(features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Zero mean and unit deviation a channel: cosines compare nothing else."""
    axes = tuple(range(features.ndim - 1))
    deviation = features.std(axis=axes, dtype=np.float64)
    centred = features - features.mean(axis=axes, dtype=np.float64)
    return np.asarray(centred / np.where(deviation > 0, deviation, 1.0), dtype=np.float32)


def _stage(model: UNet, image: HeldOutImage, level: int) -> npt.NDArray[np.float32]:
    """Features of one encoder stage of the segmenter, every voxel having those of its cell."""
    import torch

    from anatrust.models.unet import normalised

    with torch.no_grad():
        found = model.features(torch.from_numpy(normalised(image.scan.array))[None, None], level)[0]
    values = np.moveaxis(found.numpy(), 0, -1)
    for axis, size in enumerate(image.labels.shape):
        values = np.repeat(values, 2**level, axis=axis).take(range(size), axis=axis)
    return _standardised(values)


def _noise(image: HeldOutImage) -> npt.NDArray[np.float32]:
    """No features at all: whom a voxel is like is drawn at random, the same for every call."""
    rng = np.random.default_rng([7, *image.key.encode()])
    return np.asarray(rng.normal(size=(*image.labels.shape, 16)), dtype=np.float32)


def _descriptors(scale: float) -> LocalDescriptors:
    return LocalDescriptors(window=2 * scale, gradient=scale, scales=(1.5 * scale, 3 * scale, 6 * scale))


ENCODERS: Mapping[str, str] = {
    "descriptors": "local descriptors, 1.5–6 mm",
    "descriptors-fine": "local descriptors, 0.75–3 mm",
    "descriptors-coarse": "local descriptors, 3–12 mm",
    "unet-0": "the segmenter's encoder, full resolution",
    "unet-1": "the segmenter's encoder, half resolution",
    "unet-2": "the segmenter's encoder, quarter resolution",
    "random": "random features (control)",
}
"""Encoders of the feature graph. Pretrained ones (DINO, SigLIP) need weights, which are not at hand."""


def _encoder(name: str, unit: Unit, context: Context) -> Encode:
    if name == "random":
        return _noise
    if name.startswith("unet-"):
        model, level = unet(unit.image_set, unit.strength, context.path(), quick=context.quick), int(name[5:])
        return lambda image: _stage(model, image, level)
    scale = {"descriptors": 1.0, "descriptors-fine": 0.5, "descriptors-coarse": 2.0}[name]
    return lambda image: _standardised(_descriptors(scale).encode(image.scan))


class _Remembered:
    """The features of one image, computed when first asked for."""

    def __init__(self, encode: Encode, image: HeldOutImage) -> None:
        self._encode, self._image = encode, image
        self._features: npt.NDArray[Any] | None = None

    def __call__(self) -> npt.NDArray[Any]:
        if self._features is None:
            self._features = self._encode(self._image)
        return self._features


def cases(unit: Unit, part: str, context: Context, encoder: str | None = None) -> Iterator[LabelledCase]:
    """The images of the tuning patients or the pool, for one structure, those of a patient together."""
    encode = None if encoder is None else _encoder(encoder, unit, context)
    for image in held_out(unit.image_set, unit.strength, context.path(), quick=context.quick):
        truth = image.labels == unit.label
        if image.part != part or not truth.any():
            continue
        features = None if encode is None else _Remembered(encode, image)
        probabilities = image.probabilities[unit.label].astype(np.float64)
        yield LabelledCase(image.patient, probabilities, image.scan.array, truth, image.scan.grid, features)


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
_LATTICES = tuple((steps, beta) for steps in (20, 60, 160) for beta in (0.02, 0.1, 0.5, 2.0))

FAMILIES: Mapping[str, tuple[Method, ...]] = {
    "plain CRC": (Method(PLAIN),),
    "Gaussian, tuned": tuple(Method(ScoreRecipe("gaussian", {"width": w})) for w in (0.7, 1, 1.5, 2, 3, 4, 6, 9, 13)),
    "bilateral": tuple(
        Method(ScoreRecipe("bilateral", {"width": w, "beta": b})) for w in (1.5, 2) for b in (0.05, 0.3)
    ),
    "temperature": (Method(ScoreRecipe("probability", {}, 3.0)),),
    "morphological": (Method(ScoreRecipe("distance")),),
    "image-adaptive": (Method(ScoreRecipe("adaptive")),),
    "reconstruction": tuple(
        Method(ScoreRecipe("reconstruction", {"width": w}, core=c)) for w in (0, 1, 2) for c in (None, 0.5)
    ),
    "lattice walk, intensity": tuple(Method(ScoreRecipe("lattice", {"steps": s, "beta": b})) for s, b in _LATTICES),
    "lattice walk, encoder": tuple(
        Method(ScoreRecipe("encoder-lattice", {"steps": s, "beta": b}), "unet-0")
        for s in (40, 160)
        for b in (0.003, 0.03)
    ),
    "RW-CP published, encoder": (Method(PUBLISHED_WALK, "unet-1"),),
    "RW-CP published, descriptors": (Method(PUBLISHED_WALK, "descriptors"),),
    "RW-CP tuned, encoder": tuple(Method(r, "unet-1") for r in _LAZY),
    "RW-CP tuned, descriptors": tuple(Method(r, "descriptors") for r in _LAZY),
    "random graph": (Method(PUBLISHED_WALK, "random"),),
    "combinations": (
        *(Method(ScoreRecipe("gaussian", {"width": w}, t, 0.5)) for w in (1, 2, 3, 4.5) for t in (1.0, 3.0)),
        *(Method(ScoreRecipe("lattice", {"steps": s, "beta": b}, 1.0, 0.5)) for s, b in _LATTICES),
        *(Method(ScoreRecipe("lattice", {"steps": s, "beta": 0.1}, 3.0, 0.5)) for s in (40, 160)),
        *(Method(ScoreRecipe("encoder-lattice", {"steps": s, "beta": 0.03}, 1.0, 0.5), "unet-0") for s in (40, 160)),
        *(Method(ScoreRecipe("graph", {"patch": 2, "laziness": a}, 1.0, 0.5), "unet-1") for a in (0.0, 0.5)),
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
    dict with ``chosen`` (name → method), ``rows`` (every trial), ``aim`` and ``patients``. Kept in the
    cache by content: tuning takes a minute a structure.
    """
    folder = (cache or Path("build/studies")) / "rwcp-choices"
    identity = {
        "unit": unit.key,
        "alpha": alpha,
        "quick": context.quick,
        "files": [provenance.file_hash(context.path(f)) for f in unit.files(context)],
        "methods": {name: [m.to_json() for m in methods] for name, methods in families(context).items()},
        "source": provenance.source_hash(_SCORING),
    }
    file = folder / f"{provenance.fingerprint(identity)}.json"
    if file.is_file():
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return stored
    pool = image_set(unit.image_set, context.path(), quick=context.quick).parts["pool"]
    rivals = families(context)
    found = _trials(unit, context, rivals, alpha, calibration_size(len(pool)))
    chosen = {name: min(methods, key=lambda m: found["rows"][m.label]["relative"]) for name, methods in rivals.items()}
    best = min((m for methods in rivals.values() for m in methods), key=lambda m: found["rows"][m.label]["relative"])
    row = found["rows"][best.label]
    chosen["best on tuning"] = best if row["relative"] + row["error"] < 1 else Method(PLAIN)
    result = found | {"chosen": {name: method.to_json() for name, method in chosen.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(json.dumps(result), encoding="utf-8")
    return result


def _trials(
    unit: Unit, context: Context, rivals: Mapping[str, Sequence[Method]], alpha: float, n: int
) -> dict[str, Any]:
    """Every method on the tuning patients, relative to the plain score."""
    wanted: dict[str | None, dict[str, ScoreRecipe]] = {}
    for method in (m for methods in rivals.values() for m in methods):
        wanted.setdefault(method.encoder, {}).setdefault(method.label, method.recipe)
    rows: dict[str, Any] = {}
    aim, patients = 0.0, 0
    for encoder, recipes in wanted.items():
        tuning = choose_recipe(list(cases(unit, "tuning", context, encoder)), [PLAIN, *recipes.values()], alpha, n)
        aim, patients = tuning.aim, tuning.patients
        for label, row in zip(recipes, tuning.rows[1:], strict=True):
            rows[label] = {"relative": round(row.relative, 4), "error": round(row.error, 4)}
    return {"rows": rows, "aim": aim, "patients": patients}
