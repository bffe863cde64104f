"""R²Seg's own data sets, for whoever has them: loaders, split, and our numbers beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.image.read import read_scan
from anatrust.image.volumes import LabelMap, Mask
from anatrust.models.pixel_classifier import PixelCase, PixelRecipe, train_pixel_classifier
from anatrust.models.planner_rules import RulesPlanner
from anatrust.models.segmenters.pixel_classifier import PixelTarget
from anatrust.pipeline.propose import ProposalSettings, propose
from anatrust.rejection.regions import bounding_region
from anatrust.studies.lesions import LesionSpec
from anatrust.studies.r2seg_cases import R2Case
from anatrust.studies.r2seg_judge import JUDGES, judge, outcome
from anatrust.studies.r2seg_numbers import numbers
from anatrust.studies.recipes.r2seg_layouts import CaseFiles, Layout, read_layout

__all__ = ["RECIPES", "R2Recipe", "recipe_cases", "recipe_files", "run_recipe"]


@dataclass(frozen=True)
class R2Recipe:
    """One data set in its own folder layout.

    Parameters
    ----------
    layout
        See :func:`~anatrust.studies.recipes.r2seg_layouts.read_layout`.
    target, organs, tumours
        What is looked for, label numbers of the organ by name, and of the tumour; in nnU-Net's layout both are found
        by name.
    modality
        Of all scans.
    published
        What the paper reports, where a number could be recovered; never ours.
    """

    layout: Layout
    target: str
    organs: Mapping[int, str]
    tumours: tuple[int, ...]
    modality: str = "CT"
    published: Mapping[str, str] = field(default_factory=dict)


def _table(*rows: tuple[str, str, str, str, str, str]) -> dict[str, str]:
    names = ("Dice", "sensitivity", "specificity", "accuracy", "class average")
    return {method: ", ".join(f"{n} {v}" for n, v in zip(names, values, strict=True)) for method, *values in rows}


_GAIN = {"R2Seg": "10-30 % relative gain in Dice and class average over BiomedParse; no absolute number recovered"}
RECIPES: Mapping[str, R2Recipe] = {
    "msd-liver": R2Recipe("msd", "liver tumour", {1: "liver"}, (2,), published=_GAIN),
    "msd-pancreas": R2Recipe("msd", "pancreatic tumour", {1: "pancreas"}, (2,), published=_GAIN),
    "amos-liver": R2Recipe(
        "amos", "liver tumour", {6: "liver"}, (), published={"use": "organ Dice before and after, Fig. 5"}
    ),
    "prostate": R2Recipe(
        "prostate158", "prostate tumour", {1: "prostate"}, (3,), "MR",
        _table(
            ("BiomedParse", "0.047", "1.000", "0.000", "0.910", "0.552"),
            ("LoRA", "0.428", "0.852", "0.434", "0.992", "0.555"),
            ("R2Seg", "0.465", "0.645", "0.587", "0.971", "0.890"),
        ),
    ),
    "bladder": R2Recipe(
        "nnunet", "bladder tumour", {1: "bladder"}, (), "MR",
        _table(
            ("BiomedParse", "0.069", "1.000", "0.000", "0.976", "0.546"),
            ("LoRA", "0.578", "0.960", "0.456", "0.996", "0.677"),
            ("R2Seg", "0.297", "0.335", "0.536", "0.992", "0.762"),
        ),
    ),
    "cervix": R2Recipe(
        "nnunet", "cervical tumour", {1: "cervix", 2: "uterus"}, (), "MR",
        _table(
            ("BiomedParse", "0.154", "1.000", "0.000", "0.985", "0.598"),
            ("LoRA", "0.485", "0.949", "0.359", "0.996", "0.686"),
            ("R2Seg", "0.355", "0.299", "0.632", "0.993", "0.777"),
        ),
    ),
}  # fmt: skip
"""The recipes by name. AMOS labels no tumours: its scans serve as patients in whom nothing should be kept.

Which sets of bladder, prostate and cervix the paper used could not be recovered. Prostate158 is one that labels the
gland and its tumours; for bladder and cervix any set in nnU-Net's raw layout will do that labels organ and tumour.
"""


def recipe_files(recipe: R2Recipe, folder: Path) -> list[CaseFiles]:
    """Image, organ and tumour of every labelled case, in the order in which the data set lists them.

    Raises
    ------
    InputError
        If the folder has not the layout: one line on what is missing.
    """
    return read_layout(recipe.layout, folder, recipe.organs, recipe.tumours)


def recipe_cases(recipe: R2Recipe, files: Sequence[CaseFiles]) -> Iterator[R2Case]:
    """The scans with their organ and their lesions; diameters are those of balls of equal volume.

    The organ counts the tumour in, as an anchor should; the contrast is measured, in organ SD.
    """
    name = next(iter(recipe.organs.values()))
    for case in files:
        scan = read_scan(case.image, modality=recipe.modality)
        tumour = case.tumour.mask(scan.grid)
        organ = case.organ.mask(scan.grid) | tumour
        normal = scan.array[organ & ~tumour].astype(np.float64)
        truth, count = ndimage.label(tumour, structure=np.ones((3,) * tumour.ndim, dtype=bool))
        specs = []
        for number in range(1, count + 1):
            inside = truth == number
            ball = 2 * (3 * inside.sum() * scan.grid.voxel_volume / (4 * np.pi)) ** (1 / 3)
            contrast = (float(scan.array[inside].mean()) - normal.mean()) / max(float(normal.std()), 1e-6)
            specs.append(LesionSpec(name, float(ball), float(contrast)))
        anatomy = LabelMap(organ.astype(np.uint8), scan.grid, {1: name})
        yield R2Case(case.patient, scan, anatomy, truth.astype(np.uint8), tuple(specs))


def run_recipe(
    name: str,
    folder: Path,
    *,
    teach: float = 1 / 3,
    judges: Sequence[str] = ("segmenter alone", "iid, as published", "gates + surrogate"),
    seed: int = 0,
) -> dict[str, Any]:
    """Teach a pixel classifier on a part of the patients, run R²Seg with it on the others.

    Parameters
    ----------
    name, folder
        A recipe, and its data as unpacked.
    teach
        Share of the patients that teach; the others are tested on.
    judges
        Ways to judge, see `JUDGES`; those with a cohort null need lesion-free patients, which most of these
        sets do not have.
    seed
        Of the split by patient.

    Returns
    -------
    dict
        ``published`` and ``ours`` (numbers by way to judge), and the patients of each part in numbers.

    Raises
    ------
    InputError
        If there is no such recipe, the set labels no tumour to teach, or the folder is not in its layout.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if recipe.layout == "amos":
        raise InputError(
            f"{name} labels no tumours, so nothing can be taught on it: use it to test what another taught"
        )
    files = recipe_files(recipe, folder)
    order = np.random.default_rng(seed).permutation(len(files))
    count = max(1, round(teach * len(files)))
    taught, tested = [files[k] for k in order[:count]], [files[k] for k in order[count:]]
    organ = next(iter(recipe.organs.values()))
    lessons = (
        PixelCase(c.scan, Mask(c.target, c.scan.grid), c.anatomy.mask(organ)) for c in recipe_cases(recipe, taught)
    )
    model = PixelTarget(train_pixel_classifier(lessons, PixelRecipe(seed=seed)))
    plan = RulesPlanner().plan(recipe.target, "unknown")
    found: dict[str, list[Any]] = {judge_name: [] for judge_name in judges}
    for case in recipe_cases(recipe, tested):
        anchor = case.anatomy.mask(organ)
        box = bounding_region(anchor.array)
        made = propose(case.scan, model, plan, box=box, organ=anchor, settings=ProposalSettings(scales=(1.0,)))
        for judge_name in judges:
            seen = judge(case, made, case.anatomy, JUDGES[judge_name], seed=seed)
            found[judge_name].append(outcome(case, seen))
    ours = {judge_name: numbers(outcomes, seed=seed) for judge_name, outcomes in found.items()}
    return {
        "recipe": name,
        "taught": len(taught),
        "tested": len(tested),
        "published": dict(recipe.published),
        "ours": ours,
    }
