"""Study `organ-anchors`: trains the embedded organ model and measures it on patients it has never seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anatrust.models.organ_unet import ORGAN_CLASSES
from anatrust.studies.organ_cases import class_of, patient_case, patient_files, phantom_case, read_patient
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.organ_unet_training import OrganRecipe
    from anatrust.models.unet import UNet

__all__ = ["FOLDS", "LEAST_DICE", "SHIPPED", "STUDY", "trained"]

# What is learnt from, and what is tested on: no patient in both.
FOLDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "amos-only": (("amos",), ("ct3mm", "mr", "dicom")),
    "without-amos": (("ct3mm", "mr", "dicom"), ("amos",)),
    "all": (("amos", "ct3mm", "mr", "dicom"), ()),
}
"""Patients trained on and tested on, by fold."""

SHIPPED = "all"
"""The fold whose network is in the package; what is offered, the other two decide."""

LEAST_DICE = 0.7
"""Mean Dice on unseen patients from which an organ is offered as an anchor."""

# Two stages: first mirrored and mildly warped images, then upright and wilder ones.
_STAGES = {"amos-only": (3500, 3000), "without-amos": (0, 3300), "all": (0, 1200)}
_SEEDS = {"amos-only": 1, "without-amos": 2, "all": 3}
# The network that has seen every patient goes on from the one that has seen one.
_BEGINS_WITH = {"all": "amos-only"}
_PHANTOMS = 12
# A fifth of the images are phantoms; whole trunks count for more than slabs.
_SHARE_OF_PHANTOMS = 0.2
_WEIGHTS = {"amos": 2.0, "ct3mm": 2.0, "mr": 1.5, "dicom": 1.0}
_CACHE = Path("build/studies/organ_unet")
# An organ of which less is in the image is not scored.
_LEAST_ML = 5.0
_NEEDS = (
    "anatrust.models.organ_unet",
    "anatrust.models.organ_unet_sharpen",
    "anatrust.models.organ_unet_synthesis",
    "anatrust.models.organ_unet_training",
    "anatrust.models.unet",
    "anatrust.studies.organ_cases",
    "anatrust.studies.organ_anchors",
    "anatrust.studies.phantom_anatomy",
)


def trained(
    fold: str,
    data: Path,
    *,
    quick: bool = False,
    cache: Path = _CACHE,
    progress: Callable[[int, int, float], None] | None = None,
) -> UNet:
    """The network of a fold; trains it, or goes on where an interrupted training stopped."""
    from anatrust.models.organ_unet_training import train_organ_unet

    names: tuple[str, ...] = ("mr",) if quick else FOLDS[fold][0]
    phantoms = 1 if quick else _PHANTOMS
    cases = [phantom_case(seed) for seed in range(phantoms)] + [patient_case(name, data) for name in names]
    total = sum(_WEIGHTS[name] for name in names)
    shares = [_SHARE_OF_PHANTOMS / phantoms] * phantoms
    shares += [(1 - _SHARE_OF_PHANTOMS) * _WEIGHTS[name] / total for name in names]
    earlier = _BEGINS_WITH.get(fold)
    network = trained(earlier, data, quick=quick, cache=cache, progress=progress) if earlier else None
    for stage, recipe in _recipes(fold, quick=quick).items():
        folder = cache / f"{fold}-{stage}{'-quick' if quick else ''}"
        network = train_organ_unet(cases, shares, recipe, folder, start=network, progress=progress)
    assert network is not None
    return network


def _recipes(fold: str, *, quick: bool) -> dict[str, OrganRecipe]:
    """The stages of a fold's training, in order."""
    from anatrust.models.organ_unet_synthesis import SynthesisRecipe
    from anatrust.models.organ_unet_training import OrganRecipe

    mild = SynthesisRecipe(
        edge=(28, 42),
        height=(4, 32),
        voxels=10**6,
        scale=0.12,
        rotation=0.15,
        bend=9.0,
        mirror=0.5,
        real=0.6,
        mixed=0.25,
    )
    first, second = (3, 3) if quick else _STAGES[fold]
    seed = _SEEDS[fold]
    recipes = {"mild": OrganRecipe(steps=first, rate=3e-3, average=0.995, seed=seed, synthesis=mild)} if first else {}
    return {**recipes, "wild": OrganRecipe(steps=second, seed=seed + 10)}


def _cells(context: Context) -> list[Cell]:
    if context.quick:
        few = (*patient_files("mr"), *patient_files("ct3mm"))
        return [Cell("amos-only", {"fold": "amos-only", "test": ["ct3mm"]}, files=few, needs=_NEEDS)]
    cells = []
    for fold, (taught, tested) in FOLDS.items():
        files = _single(tuple(f for name in (*taught, *tested) for f in patient_files(name)))
        cells.append(Cell(fold, {"fold": fold, "test": list(tested)}, files=files, needs=_NEEDS))
    return cells


def _single(files: tuple[str, ...]) -> tuple[str, ...]:
    """The files without the DICOM folder, whose labels stand for it."""
    return tuple(f for f in files if f.endswith(".nii.gz"))


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.organ_unet import OrganModel

    model = OrganModel(trained(cell.parameters["fold"], context.path(), quick=context.quick))
    found: dict[str, dict[str, float]] = {}
    for name in cell.parameters["test"]:
        scan, labels = read_patient(name, context.path())
        drawn = model.organs(scan).array
        table = np.zeros(max(labels.labels()) + 1, dtype=np.uint8)
        for number in labels.labels():
            table[number] = class_of(labels.names.get(number, ""))
        truth = table[labels.array]
        found[name] = {}
        for number, organ in enumerate(ORGAN_CLASSES):
            a, b = drawn == number, truth == number
            if number and b.sum() * scan.grid.voxel_volume / 1000 >= _LEAST_ML:
                found[name][organ] = round(float(2 * (a & b).sum() / (a.sum() + b.sum())), 3)
    return {"dice": found}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Means over all patients, each seen by the network that was not trained on it, decide what is offered."""
    patients = {name: dice for found in results.values() for name, dice in found["dice"].items()}
    means = {}
    for organ in ORGAN_CLASSES[1:]:
        values = [dice[organ] for dice in patients.values() if organ in dice]
        if values:
            means[organ] = round(float(np.mean(values)), 3)
    offered = [organ for organ, mean in means.items() if mean >= LEAST_DICE]
    return {"patients": patients, "dice": means, "offered": offered, "least": LEAST_DICE}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    summary = result["summary"]
    names = list(summary["patients"])
    rows = []
    for organ, mean in summary["dice"].items():
        cells = [f"{summary['patients'][n][organ]:.2f}" if organ in summary["patients"][n] else "–" for n in names]
        rows.append([organ, *cells, f"{mean:.2f}", "yes" if organ in summary["offered"] else "no"])
    header = ["organ", *names, "mean", "offered as anchor"]
    return {"dice": markdown_table(header, rows)}


STUDY = Study(
    name="organ-anchors",
    question="How well does the embedded organ model draw organs of patients it was not trained on?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
