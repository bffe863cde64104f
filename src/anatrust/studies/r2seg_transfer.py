"""Study `r2seg-transfer`: from one contrast to another with nothing retuned, beside LoRA and fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anatrust.models.protocols import Segmenter
from anatrust.studies.r2seg_cases import cases
from anatrust.studies.r2seg_cells import NEEDS, nulls_of, outcomes_of
from anatrust.studies.r2seg_judge import JUDGES
from anatrust.studies.r2seg_models import segmenter
from anatrust.studies.r2seg_numbers import numbers, row
from anatrust.studies.r2seg_rivals import Rival, adapted, adapter_share, base, organ_dice
from anatrust.studies.r2seg_targets import value
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.unet import UNet

__all__ = ["STUDY"]

_NAMES = {"phantom": "CT", "phantom-mr": "MR-like", "hippocampus": "T1", "hippocampus-t2": "T2-like"}
_AWAY = {"phantom": "phantom-mr", "hippocampus": "hippocampus-t2"}
_AWAY |= {there: here for here, there in _AWAY.items()}
_FULL, _ALONE = "gates + cohort", "segmenter alone"
_RIVALS: tuple[Rival, ...] = ("LoRA", "fine-tuned")
_VARIANT = "1 view"
# The last 20 healthy hippocampi teach the rivals.
_HEALTHY = {"phantom": 79, "hippocampus": 40}
_TEST = {"phantom": 48, "hippocampus": 50}
_SHOWN = ("clear lesions", "lesions", "specificity", "slice sensitivity", "slice specificity", "dice", "class average")


def _cells(context: Context) -> list[Cell]:
    taught = ("hippocampus",) if context.quick else ("hippocampus", "hippocampus-t2", "phantom", "phantom-mr")
    needs = (*NEEDS, "anatrust.studies.r2seg_rivals", "anatrust.studies.r2seg_transfer")
    return [
        Cell(f"{_NAMES[w]} to {_NAMES[_AWAY[w]]}", {"taught": w}, files=source_files(w, context), needs=needs)
        for w in taught
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    home = str(cell.parameters["taught"])
    real = home.startswith("hippocampus")
    kind = "hippocampus" if real else "phantom"
    healthy, test = (7, 4) if context.quick else (_HEALTHY[kind], _TEST[kind])
    frozen = _asked(base(home, context)) if real else segmenter("pixels, several scales", home, context)
    judges = {name: JUDGES[name] for name in (_ALONE, _FULL)}
    null = nulls_of(home, frozen, _VARIANT, judges, context, limit=healthy)
    rivals: dict[str, UNet] = {name: adapted(home, name, context) for name in _RIVALS} if real else {}
    found: dict[str, Any] = {"adapters": round(adapter_share(home, context), 3)} if real else {}
    for world in (home, _AWAY[home]):
        seen = outcomes_of(world, frozen, _VARIANT, judges, null, context, limit=test)
        there = {
            "frozen, alone": numbers(seen[_ALONE], seed=context.seed),
            "frozen, R²Seg": numbers(seen[_FULL], seed=context.seed),
        }
        if world != home and not context.quick:
            own = nulls_of(world, frozen, _VARIANT, judges, context, limit=healthy)
            again = outcomes_of(world, frozen, _VARIANT, {_FULL: JUDGES[_FULL]}, own, context, limit=test)
            there["frozen, R²Seg, null fitted there"] = numbers(again[_FULL], seed=context.seed)
        for name, model in rivals.items():
            drawn = outcomes_of(world, _asked(model), _VARIANT, {_ALONE: JUDGES[_ALONE]}, {}, context, limit=test)
            there[name] = numbers(drawn[_ALONE], seed=context.seed)
        found[_NAMES[world]] = {"judges": there}
        if real:
            patients = list(cases(world, "test", context, limit=test))
            networks: dict[str, UNet] = {"frozen": base(home, context)}
            networks.update(rivals)
            found[_NAMES[world]]["organs"] = {n: organ_dice(m, patients, context) for n, m in networks.items()}
    return found


def _asked(model: UNet) -> Segmenter:
    from anatrust.models.segmenters.unet import UNetTarget

    return UNetTarget(model, "lesion")


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """Against LoRA on the contrast nobody was taught: scan sensitivity, specificity, and their mean."""
    targets = []
    for key, found in results.items():
        judges = found[key.split(" to ")[1]]["judges"]
        if "LoRA" not in judges:
            continue
        entry: dict[str, Any] = {"what": key}
        means: list[float] = []
        for name, short in (("frozen, R²Seg", "ours"), ("LoRA", "lora")):
            entry[short] = {n: value(judges[name], n) for n in ("scan sensitivity", "specificity", "lesions", "dice")}
            pair = [entry[short][n] for n in ("scan sensitivity", "specificity")]
            means += [float(sum(pair)) / 2] if None not in pair else []
        entry["mean of sensitivity and specificity"] = [round(m, 4) for m in means]
        entry["better"] = bool(means[0] > means[1]) if len(means) == 2 else None
        targets.append(entry)
    return {"targets": targets}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    lines, organs = [], []
    for key, found in result["cells"].items():
        home, away = key.split(" to ")
        for place in (home, away):
            for name, values in found[place]["judges"].items():
                lines.append([f"taught on {home}, tested on {place}: {name}", *row(values, _SHOWN)])
            for name, dice in found[place].get("organs", {}).items():
                organs.append([f"taught on {home}, tested on {place}: {name}", *(f"{v:.3f}" for v in dice.values())])
    names = next(v for f in result["cells"].values() for v in f.values() if isinstance(v, dict) and "organs" in v)
    return {
        "transfer": markdown_table(["method", *_SHOWN], lines),
        "organs": markdown_table(["network", *names["organs"]["frozen"]], organs),
    }


STUDY = Study(
    name="r2seg-transfer",
    question="Does R²Seg hold under a contrast that nothing was tuned on, where LoRA and fine-tuning do not?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
