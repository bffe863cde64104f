"""Study `rau-bank`: how many references the small model needs, and which one: the closest, any, or a wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatrust.metrics import dice
from anatrust.reference.pairs import LabelledPicture, Pair
from anatrust.reference.prompts import Legend
from anatrust.studies.nano_anatomy import cohort
from anatrust.studies.nano_training import PLAN, QUICK, SEEN, TESTED, UNSEEN, Asked, ask, taught
from anatrust.studies.rau_nano import NEEDS, place
from anatrust.studies.rau_nano_summary import accuracy_by_patient
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = ("anatrust.studies.rau_bank", *NEEDS)
_SIZES = (1, 2, 5, 10)
_CHOICES = ("oracle", "alike", "random", "mirrored")
_TARGETS, _BANK = 80, 40


def _cells(context: Context) -> list[Cell]:
    looks = ("seen",) if context.quick else ("seen", "unseen")
    return [
        Cell(f"{look}/{what}", {"what": what, "look": look}, (), _NEEDS)
        for look in looks
        for what in (("oracle", "random") if context.quick else _CHOICES)
    ]


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.vision_language import VisionLanguageModel

    plan, folder = QUICK if context.quick else PLAN, place(context.quick)
    folder.mkdir(parents=True, exist_ok=True)
    model = VisionLanguageModel.load(taught(folder, plan, context.seed)[0])
    what, looks = cell.parameters["what"], SEEN if cell.parameters["look"] == "seen" else UNSEEN
    count = 3 if context.quick else _TARGETS
    # Nobody here was trained on, and no patient is both target and reference.
    targets = cohort(range(TESTED + 500, TESTED + 500 + count), looks, size=plan.size.side)
    bank = cohort(range(TESTED + 900, TESTED + 900 + _BANK), looks, size=plan.size.side)
    rng = np.random.default_rng([context.seed, 41])
    most = (2 if context.quick else max(_SIZES)) if what == "random" else 1
    asked: list[Asked] = []
    pairs: list[Pair] = []
    for target in targets:
        label = int(rng.choice(target.present))
        # Looks come in turn by the patient's number: the reference has the target's.
        alike = [b for b in bank if (int(b.patient) - int(target.patient)) % len(looks) == 0]
        for reference in _chosen(what, [b for b in alike if label in b.present], target, most, rng):
            order = [int(n) for n in rng.permutation(reference.present)]
            legend = Legend(tuple((n, reference.names[known]) for n, known in enumerate(order, 1)), hidden=True)
            # With one name alone the target has one region to ask about.
            one = LabelledPicture(target.image, target.labels, {label: target.names[label]}, target.patient)
            pairs.append(Pair(reference, one, legend, dict(enumerate(order, 1))))
            asked.append(Asked(pairs[-1].sample("name", rng), target.patient, target.names[label], None))
    told = ask(model, asked)
    votes: dict[str, list[dict[str, Any]]] = {}
    for size in (size for size in _SIZES if size <= most):
        votes[str(size)] = []
        for begin in range(0, len(asked), most):
            some = range(begin, begin + size)
            said = [pairs[k].labels[told[k]["said"]] for k in some if told[k]["said"] in pairs[k].labels]
            truth = next(iter(pairs[begin].target.names))
            # The first of the most frequent answers.
            right = bool(said) and Counter(said).most_common(1)[0][0] == truth
            votes[str(size)].append({"patient": asked[begin].patient, "right": right})
    return {"sizes": votes}


def _chosen(
    what: str, bank: Sequence[LabelledPicture], target: LabelledPicture, most: int, rng: np.random.Generator
) -> list[LabelledPicture]:
    """References for one target: the best by labels or by grey values, random ones, or one left for right."""

    def overlap(one: LabelledPicture) -> float:
        both = [n for n in one.present if n in target.present]
        return float(np.mean([dice(np.asarray(target.labels == n), np.asarray(one.labels == n)) for n in both]))

    def likeness(one: LabelledPicture) -> float:
        return float(np.corrcoef(one.image.ravel(), target.image.ravel())[0, 1])

    if what in ("oracle", "alike"):
        return [max(bank, key=overlap if what == "oracle" else likeness)]
    drawn = [bank[int(k)] for k in rng.permutation(len(bank))[:most]]
    if what == "random":
        return drawn
    return [
        LabelledPicture(one.image[:, ::-1].copy(), one.labels[:, ::-1].copy(), one.names, one.patient) for one in drawn
    ]


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    return accuracy_by_patient({key: r["sizes"] for key, r in results.items()}, context.seed)


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    found = result["summary"]["accuracy"]
    looks = sorted({key.split("/")[0] for key in found})
    words = {"oracle": "the best by its labels (oracle)", "alike": "the most alike by grey values", "random": "random",
             "mirrored": "random, left for right (wrong)"}  # fmt: skip
    rows = []
    for what, word in words.items():
        sizes = sorted({size for look in looks for size in found.get(f"{look}/{what}", {})}, key=int)
        rows += [
            [
                f"{size if int(size) > 1 else 'one'}, {word}",
                *(_shown(found[f"{look}/{what}"][size]) for look in looks if f"{look}/{what}" in found),
            ]
            for size in sizes
        ]
    return {"accuracy": markdown_table(["references", *(f"{look} looks" for look in looks)], rows)}


def _shown(r: Mapping[str, Any]) -> str:
    around = f" [{r['interval'][0]:.2f}, {r['interval'][1]:.2f}]" if "interval" in r else ""
    return f"{r['rate']:.2f}{around}"


STUDY = Study(
    name="rau-bank",
    question="How many references does the small model need, and does it matter which?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
