"""Study `r2seg-many-contrasts`: R²Seg and its rivals from a network that has seen many contrasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import Mask
from anatrust.models.pixel_classifier import PixelCase, PixelRecipe, train_pixel_classifier
from anatrust.models.protocols import Segmenter
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.r2seg_cases import WORLDS, cases, further_teachers
from anatrust.studies.r2seg_cells import NEEDS, nulls_of, outcomes_of
from anatrust.studies.r2seg_contrasts import random_contrast
from anatrust.studies.r2seg_judge import JUDGES, Outcome, union_by
from anatrust.studies.r2seg_numbers import COLUMNS, _patient, numbers, row
from anatrust.studies.r2seg_rivals import Lesson, Rival, adapted_from, lessons, organ_dice, taught
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.unet import UNet

__all__ = ["STUDY", "difference", "many_lessons"]

_WORLDS = {"hippocampus": ("T1", "T2-like"), "phantom": ("CT", "MR-like")}
_AWAY = {"hippocampus": "hippocampus-t2", "phantom": "phantom-mr"}
_BASES = ("many contrasts", "one contrast, as long")
_FULL, _ALONE, _VARIANT = "gates + cohort", "segmenter alone", "1 view"
_OURS, _LORA = "frozen, R²Seg", "LoRA, alone"
_RIVALS: tuple[Rival, ...] = ("LoRA", "fine-tuned")
# Three times the steps of r2seg-transfer, fixed before anybody was tested: there is more to learn.
_STEPS, _COPIES = 1200, 40
# As in r2seg-transfer: the last 20 healthy hippocampi teach the rivals.
_HEALTHY = {"phantom": 79, "hippocampus": 40}
_TEST = {"phantom": 48, "hippocampus": 50}
_SHOWN = ("clear lesions", "lesions", "specificity", "slice sensitivity", "slice specificity", "dice", "class average")

_GAINS = ("mean of sensitivity and specificity", "dice", "class average")


def _cells(context: Context) -> list[Cell]:
    wanted = [("hippocampus", base) for base in _BASES] + [("phantom", _BASES[0])]
    modules = ("contrasts", "rivals", "many_contrasts")
    return [
        Cell(
            f"{_WORLDS[world][0]}, {base}",
            {"world": world, "base": base},
            files=source_files(world, context),
            needs=(*NEEDS, *(f"anatrust.studies.r2seg_{m}" for m in modules)),
        )
        for world, base in wanted[: 1 if context.quick else None]
    ]


def many_lessons(world: str, copies: int, context: Context) -> list[Lesson]:
    """The patients of ``teach`` as they are, and each under so many contrasts less one drawn at random."""
    shown = lessons(world, context)
    rng = np.random.default_rng([context.seed, 61])
    drawn = [
        (replace(case, scan=random_contrast(case.scan, rng)), labels)
        for case, labels in shown
        for _ in range(copies - 1)
    ]
    return shown + drawn


@lru_cache(maxsize=2)
def _network(world: str, base: str, context: Context) -> UNet:
    copies = 1 if base != _BASES[0] else 2 if context.quick else _COPIES
    return taught(many_lessons(world, copies, context), 6 if context.quick else _STEPS, context)


def _pixels(world: str, context: Context) -> Segmenter:
    """The pixel classifier of several scales, its teachers under a random contrast each."""
    from anatrust.models.segmenters.pixel_classifier import PixelTarget

    rng = np.random.default_rng([context.seed, 67])
    shown = chain(chain.from_iterable(cases(world, "teach", context)), further_teachers(world, 144, context))
    lit = (
        PixelCase(random_contrast(c.scan, rng), Mask(c.target, c.scan.grid), c.anatomy.mask(WORLDS[world].organ))
        for c in shown
    )
    return PixelTarget(train_pixel_classifier(lit, PixelRecipe(other=12_000)))


def _asked(model: UNet) -> Segmenter:
    from anatrust.models.segmenters.unet import UNetTarget

    return UNetTarget(model, "lesion")


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    world, base = str(cell.parameters["world"]), str(cell.parameters["base"])
    healthy, test = (7, 4) if context.quick else (_HEALTHY[world], _TEST[world])
    networks: dict[str, UNet] = {}
    if world == "hippocampus":
        networks["frozen"] = _network(world, base, context)
        networks |= {name: adapted_from(networks["frozen"], world, name, context) for name in _RIVALS}
        frozen = _asked(networks["frozen"])
    else:
        frozen = _pixels(world, context)
    judges = {name: JUDGES[name] for name in (_ALONE, _FULL)}
    asked = {"frozen": frozen} | {name: _asked(networks[name]) for name in _RIVALS if networks}
    nulls = {name: nulls_of(world, model, _VARIANT, judges, context, limit=healthy) for name, model in asked.items()}
    found: dict[str, Any] = {}
    for place, name in zip((world, _AWAY[world]), _WORLDS[world], strict=True):
        every: dict[str, list[Outcome]] = {}
        for who, model in asked.items():
            seen = outcomes_of(place, model, _VARIANT, judges, nulls[who], context, limit=test)
            every |= {f"{who}, alone": seen[_ALONE], f"{who}, R²Seg": seen[_FULL]}
        found[name] = {"judges": {n: numbers(o, seed=context.seed) for n, o in every.items()}}
        if networks:
            patients = list(cases(place, "test", context, limit=test))
            found[name]["organs"] = {n: organ_dice(m, patients, context) for n, m in networks.items()}
            found[name]["less LoRA"] = {
                ours: difference(every[ours], every[_LORA], seed=context.seed) for ours in (_OURS, "LoRA, R²Seg")
            }
    return found


def _balance(rows: npt.NDArray[np.float64]) -> float:
    """Mean of scan sensitivity and specificity."""
    return (COLUMNS["scan sensitivity"][1](rows) + COLUMNS["specificity"][1](rows)) / 2


def difference(ours: Sequence[Outcome], theirs: Sequence[Outcome], *, seed: int) -> dict[str, Any]:
    """Ours less theirs on the same patients, with 95 % intervals that resample patients.

    Returns
    -------
    dict
        ``mean of sensitivity and specificity`` (of scans), ``dice`` and ``class average``: ``value`` and, from five
        patients on, ``interval``; None where a number does not exist.
    """
    pairs = zip(union_by(ours).values(), union_by(theirs).values(), strict=True)
    rows = np.array([_patient(a) + _patient(b) for a, b in pairs], dtype=np.float64)
    half = rows.shape[1] // 2
    wanted: dict[str, Callable[[npt.NDArray[np.float64]], float]] = {_GAINS[0]: _balance}
    wanted |= {name: COLUMNS[name][1] for name in _GAINS[1:]}
    found: dict[str, Any] = {}
    for name, statistic in wanted.items():

        def gain(chosen: npt.NDArray[np.float64], statistic: Any = statistic) -> float:
            return float(statistic(chosen[:, :half]) - statistic(chosen[:, half:]))

        value = gain(rows)
        if np.isnan(value):
            found[name] = None
            continue
        found[name] = {"value": round(value, 4)}
        if len(rows) >= 5:

            def filled(chosen: npt.NDArray[np.float64], value: float = value, gain: Any = gain) -> float:
                return float(np.nan_to_num(gain(chosen), nan=value))

            low, high = patient_bootstrap(rows, filled, seed=seed, draws=500)
            found[name]["interval"] = [round(low, 4), round(high, 4)]
    return found


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Against LoRA under the contrast it was not adapted to: mean of scan sensitivity and specificity, and Dice."""
    targets = []
    for key, found in results.items():
        place = dict(_WORLDS.values())[key.split(",")[0]]
        there = found[place]
        if "less LoRA" not in there:
            continue
        for name, what in (("mean of sensitivity and specificity", "better"), ("dice", "met")):
            gain = there["less LoRA"][_OURS][name]
            words = f"{key}, asked on {place}" + (": Dice above LoRA's" if name == "dice" else "")
            value = None if gain is None else gain["value"]
            targets.append({"what": words, "observed": value, what: None if value is None else bool(value > 0)})
    return {"targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    lines, organs, gains = [], [], []
    for key, found in result["cells"].items():
        for place, there in sorted(found.items(), key=lambda f: _order(f[0])):
            where = f"{key}, asked on {place}"
            lines += [[f"{where}: {name}", *row(values, _SHOWN)] for name, values in there["judges"].items()]
            organs += [
                [f"{where}: {name}", *(f"{v:.3f}" for v in dice.values())]
                for name, dice in there.get("organs", {}).items()
            ]
            for ours, gain in there.get("less LoRA", {}).items():
                gains.append([f"{where}: {ours}", *row(gain, _GAINS)])
    return {
        "judges": markdown_table(["taught on, asked on: method", *_SHOWN], lines),
        "organs": markdown_table(["network", "anterior hippocampus", "posterior hippocampus"], organs),
        "gains": markdown_table(["less LoRA alone", *_GAINS], gains),
    }


def _order(place: str) -> bool:
    """What was taught first, for JSON sorts by name."""
    return place not in {home for home, _ in _WORLDS.values()}


STUDY = Study(
    name="r2seg-many-contrasts",
    question="Is R²Seg better than LoRA under an unseen contrast where the frozen network has seen many?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
"""The study."""
