"""Study `rau-references`: whether the right references are found, and the answer comes from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anatrust.errors import InputError
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Modality, Scan
from anatrust.metrics.overlap import dice
from anatrust.models.annotation import Annotation, Reference
from anatrust.models.registration import RegistrationSettings
from anatrust.reference.bank import ReferenceBank, slices_of
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.studies.intervals import patient_bootstrap, rate_by_patient
from anatrust.studies.phantom import phantom_scan
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY"]

_NEEDS = (
    "anatrust.studies.rau_references",
    "anatrust.reference.bank",
    "anatrust.reference.descriptor",
)
_REGISTRATION = (
    *_NEEDS,
    "anatrust.models.registration",
    "anatrust.models.registration_search",
    "anatrust.models.alignment",
    "anatrust.reference.fusion",
    "anatrust.reference.registration_reasoner",
)
_PARTS = ("hippocampus MR", "heart MR", "abdomen CT", "abdomen MR")
_CHOICES = ("nearest", "random", "wrong")
_SIZES = (1, 2, 5, 10)
_CONTROLS = ("another patient", "absent organ", "mirrored scan", "blank reference", "noise", "shuffled legend")
_REMOVED = "spleen"
_FAST = RegistrationSettings(voxels=60_000, demons_steps=15)
_HIPPOCAMPI = 30
_HEARTS = 12
_PHANTOMS = 6


def _cells(context: Context) -> list[Cell]:
    files = tuple(sorted(f for p in _pool_files(context) for f in p[1:3])) if context.data is not None else ()
    cells = [Cell(f"retrieval/{part}", {"part": part}, files, _NEEDS) for part in _PARTS[: 2 if context.quick else 4]]
    hearts = sorted(_hearts(context)) if context.data is not None else []
    order = np.random.default_rng(context.seed).permutation(len(hearts))[: 1 if context.quick else _HEARTS]
    cells += [
        Cell(f"heart/{hearts[i]}/{choice}", {"patient": hearts[i], "choice": choice}, files, _REGISTRATION)
        for i in order
        for choice in (_CHOICES[:1] if context.quick else _CHOICES)
    ]
    cells += [
        Cell(f"bank/{hearts[i]}", {"patient": hearts[i]}, files, _REGISTRATION)
        for i in order[: 0 if context.quick else None]
    ]
    cells += [
        Cell(f"control/{seed}/{control}", {"phantom": seed, "control": control}, (), _REGISTRATION)
        for seed in range(1 if context.quick else _PHANTOMS)
        for control in (_CONTROLS[:2] if context.quick else _CONTROLS)
    ]
    return cells


def _hearts(context: Context) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for part in ("part1", "part2"):
        for path in sorted(context.path("cardiac_mr", part, "images").glob("*.png")):
            groups.setdefault(path.name.split("-IM-")[0], []).append(path)
    return groups


def _pool_files(context: Context) -> list[tuple[str, str, str, str, str]]:
    """Body part, image, labels, patient and modality of everything in the pool."""
    names = sorted(p.name for p in context.path("hippocampus_mr", "images").glob("*.nii.gz"))
    found = [
        ("hippocampus MR", f"hippocampus_mr/images/{n}", f"hippocampus_mr/labels/{n}", n, "MR")
        for n in names[: 6 if context.quick else _HIPPOCAMPI]
    ]
    for patient, paths in sorted(_hearts(context).items())[: 6 if context.quick else None]:
        path = paths[len(paths) // 2]
        part = path.parent.parent.name
        image, labels = f"cardiac_mr/{part}/images/{path.name}", f"cardiac_mr/{part}/labels/{path.name}"
        found.append(("heart MR", image, labels, patient, "MR"))
    for name, part, modality in (("ct_abdomen_3mm", "abdomen CT", "CT"), ("mr_small", "abdomen MR", "MR")):
        found.append((part, f"abdomen_ct_mr/{name}.nii.gz", f"abdomen_ct_mr/{name}_labels.nii.gz", name, modality))
    return found


@lru_cache(maxsize=1)
def _pool(context: Context) -> tuple[tuple[str, str, Reference], ...]:
    """``(part, patient, reference)`` of images: middle sagittal hippocampi, heart slices, every sixth axial slice."""
    found: list[tuple[str, str, Reference]] = []
    for part, image, labels, patient, modality in _pool_files(context):
        scan = read_scan(context.path(*image.split("/")), modality=modality)
        drawn = read_mask(context.path(*labels.split("/")), reference=scan.grid)
        if not drawn.array.any():
            continue
        one = Reference(scan, LabelMap(drawn.array, drawn.grid, {1: "left ventricle"} if "heart" in part else {}))
        if scan.grid.ndim == 2:
            made = [one]
        elif "hippocampus" in part:
            cut = list(slices_of(one, axis=0))
            made = [cut[len(cut) // 2]]
        else:
            made = list(slices_of(one, axis=2, every=6))
        found += [(part, patient, r) for r in made]
    return tuple(found)


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    kind = cell.key.split("/")[0]
    if kind == "retrieval":
        return _run_retrieval(cell.parameters["part"], context)
    if kind == "bank":
        return _run_bank(cell, context)
    return _run_heart(cell, context) if kind == "heart" else _run_control(cell)


def _run_retrieval(part: str, context: Context) -> Mapping[str, Any]:
    """Every image of a part asks for five references, its own patient left out; without and with modality tags.

    The only patient of its part (CT, MR of the abdomen) may find the neighbouring slices of its
    own scan: there the question is whether the modality is right.
    """
    pool = _pool(context)
    blind = [replace(r, scan=replace(r.scan, modality="unknown")) for _, _, r in pool]
    owners = [patient for _, patient, _ in pool]
    alone = len({patient for p, patient, _ in pool if p == part}) == 1
    bank, tagged = ReferenceBank.build(blind, owners), ReferenceBank.build([r for _, _, r in pool], owners)
    number = {owner: k for k, owner in enumerate(dict.fromkeys(owners))}
    rows = []
    for index, (own, patient, reference) in enumerate(pool):
        if own != part:
            continue
        without = [] if alone else [number[patient]]
        answers = {}
        for name, searched, scan in (
            ("blind", bank, blind[index].scan),
            ("tagged", tagged, reference.scan),
            ("other", tagged, replace(reference.scan, modality=_other(reference.scan.modality))),
        ):
            found = searched.retrieve(scan, 6, without=without)
            parts = [pool[c.entry][0] for c in found.chosen if c.entry != index][:5]
            answers[name] = {"refused": bool(found.refused), "parts": [p == part for p in parts]}
        rows.append({"patient": patient, **answers})
    return {"rows": rows}


def _other(modality: Modality) -> Modality:
    return "CT" if modality == "MR" else "MR"


def _run_heart(cell: Cell, context: Context) -> Mapping[str, Any]:
    """The left ventricle from five references: the nearest of other patients, random ones, or of another body part."""
    pool, patient = _pool(context), cell.parameters["patient"]
    target = next(r for part, p, r in pool if p == patient and part == "heart MR")
    others = [(p, r) for part, p, r in pool if part == "heart MR" and p != patient]
    if cell.parameters["choice"] == "nearest":
        bank = ReferenceBank.build([r for _, r in others], [p for p, _ in others])
        chosen = bank.references(replace(bank, threshold=-1.0).retrieve(target.scan, 5))
    else:
        rng = np.random.default_rng([context.seed, len(patient)])
        wrong = cell.parameters["choice"] == "wrong"
        source = [r for part, _, r in pool if part == "hippocampus MR"] if wrong else [r for _, r in others]
        picked = [source[i] for i in rng.choice(len(source), 5, replace=False)]
        names = {1: "left ventricle"}
        chosen = tuple(
            replace(r, labels=LabelMap((r.labels.array != 0).astype(np.uint8), r.labels.grid, names)) for r in picked
        )
    answer = RegistrationReasoner(least_similarity=0.5).annotate(target.scan, chosen)
    return {
        "dice": round(float(dice(target.labels.array != 0, answer.labels.array != 0)), 4),
        "abstained": bool(answer.abstained),
        "found": any(s.found for s in answer.structures),
        "used": len(answer.references),
    }


def _run_bank(cell: Cell, context: Context) -> Mapping[str, Any]:
    """The left ventricle from banks of 1 to 10 patients, five references at most; and from the best five of ten.

    The best five are those whose own answers overlap most with the truth: what no retrieval can beat by much.
    """
    pool, patient = _pool(context), cell.parameters["patient"]
    target = next(r for part, p, r in pool if p == patient and part == "heart MR")
    others = [(p, r) for part, p, r in pool if part == "heart MR" and p != patient]
    order = np.random.default_rng([context.seed, sum(patient.encode())]).permutation(len(others))[: max(_SIZES)]
    drawn = [others[i] for i in order]
    reasoner = RegistrationReasoner(least_similarity=-1.0)

    def judged(references: Sequence[Reference]) -> float:
        answer = reasoner.annotate(target.scan, references)
        return round(float(dice(target.labels.array != 0, answer.labels.array != 0)), 4)

    found: dict[str, float] = {}
    for size in _SIZES:
        bank = ReferenceBank.build([r for _, r in drawn[:size]], [p for p, _ in drawn[:size]])
        found[str(size)] = judged(bank.references(replace(bank, threshold=-1.0).retrieve(target.scan, 5)))
    alone = [judged([r]) for _, r in drawn]
    best = sorted(range(len(drawn)), key=lambda k: -alone[k])[:5]
    found["oracle"] = judged([drawn[k][1] for k in best])
    found["worst"] = judged([drawn[k][1] for k in sorted(range(len(drawn)), key=lambda k: alone[k])[:5]])
    return {"dice": found}


def _run_control(cell: Cell) -> Mapping[str, Any]:
    """What happens to the answer when the reference, the legend or the scan is tampered with; on phantoms."""
    seed, control = cell.parameters["phantom"], cell.parameters["control"]
    target = phantom_scan(100 + seed, lesions=0, quick=True)
    other = phantom_scan(200 + seed, lesions=0, quick=True)
    scan, truth = target.scan, target.anatomy
    reference = Reference(other.scan, other.anatomy, "other")
    number = {name: n for n, name in truth.names.items()}[_REMOVED]
    if control == "absent organ":
        scan, truth = _without(scan, truth, number)
    elif control == "mirrored scan":
        scan, truth = replace(scan, array=scan.array[::-1].copy()), replace(truth, array=truth.array[::-1].copy())
    elif control == "blank reference":
        reference = replace(reference, scan=replace(other.scan, array=np.zeros_like(other.scan.array)))
    elif control == "noise":
        noise = np.random.default_rng(seed).normal(0, 200, other.scan.array.shape).astype(np.int16)
        reference = replace(reference, scan=replace(other.scan, array=noise))
    elif control == "shuffled legend":
        reference = replace(reference, labels=_shuffled(other.anatomy, seed))
    try:
        answer = RegistrationReasoner(_FAST).annotate(scan, [reference])
    except InputError as error:
        return {"outcome": "refused", "why": str(error).partition(":")[0], "accuracy": 0.0, "dice": 0.0}
    return _told(answer, truth, number)


def _told(answer: Annotation, truth: LabelMap, removed: int) -> dict[str, Any]:
    """Labelling accuracy: of the true structures, how many have their centre in what carries their name."""
    right, overlaps = 0, []
    present = [n for n in truth.labels() if n != removed]
    for n in present:
        places = np.argwhere(truth.array == n)
        centre = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
        right += int(answer.labels.array[tuple(centre)] == n)
        overlaps.append(float(dice(truth.array == n, answer.labels.array == n)))
    lost = next((s for s in answer.structures if s.number == removed), None)
    return {
        "outcome": answer.decision,
        "accuracy": round(right / len(present), 4),
        "dice": round(float(np.mean(overlaps)), 4),
        "mirrored": any("mirrored" in r for r in answer.remarks),
        "removed_null": lost is not None and not lost.found,
        "found": sum(s.found for s in answer.structures),
    }


def _without(scan: Scan, truth: LabelMap, number: int) -> tuple[Scan, LabelMap]:
    """The organ resected: its place filled with fat, as thick as noise is there."""
    inside = truth.array == number
    rng = np.random.default_rng(number)
    array = scan.array.copy()
    array[inside] = rng.normal(-100, 15, int(inside.sum())).astype(array.dtype)
    labels = np.where(inside, 0, truth.array).astype(truth.array.dtype)
    return replace(scan, array=array), replace(truth, array=labels)


def _shuffled(labels: LabelMap, seed: int) -> LabelMap:
    """Every structure under another's number: an answer that follows the reference is wrong everywhere."""
    present = np.array(labels.labels())
    moved = np.roll(np.random.default_rng(seed).permutation(present), 1)
    table = np.zeros(int(present.max()) + 1, labels.array.dtype)
    table[np.random.default_rng(seed).permutation(present)] = moved
    return replace(labels, array=table[labels.array])


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    retrieval = {}
    for key, r in results.items():
        if key.startswith("retrieval/"):
            retrieval[key.split("/")[1]] = _recall(r["rows"], context.seed)
    hearts: dict[str, list[Mapping[str, Any]]] = {}
    controls: dict[str, list[Mapping[str, Any]]] = {}
    for key, r in results.items():
        if key.startswith("heart/"):
            hearts.setdefault(key.split("/")[2], []).append(r)
        if key.startswith("control/"):
            controls.setdefault(key.split("/")[2], []).append(r)
    heart = {
        choice: {
            "dice": round(float(np.mean([r["dice"] for r in rows])), 4),
            "least": min(r["dice"] for r in rows),
            "abstained": sum(r["abstained"] for r in rows),
            "null": sum(not r["found"] for r in rows),
            "n": len(rows),
        }
        for choice, rows in hearts.items()
    }
    banks = {k: r["dice"] for k, r in results.items() if k.startswith("bank/")}
    sizes = {}
    for name in (*map(str, _SIZES), "oracle", "worst"):
        values = np.array([[one[name]] for one in banks.values()])
        if len(values) >= 5:
            low, high = patient_bootstrap(values, lambda v: float(v.mean()), seed=context.seed)
            sizes[name] = {
                "dice": round(float(values.mean()), 4),
                "interval": [round(low, 4), round(high, 4)],
                "n": len(values),
            }
    told = {
        name: {
            "accuracy": round(float(np.mean([r["accuracy"] for r in rows])), 4),
            "dice": round(float(np.mean([r["dice"] for r in rows])), 4),
            "accepted": sum(r["outcome"] == "accept" for r in rows),
            "silent": sum(r["outcome"] in ("refused", "abstain") for r in rows),
            "mirrored": sum(bool(r.get("mirrored")) for r in rows),
            "removed_null": sum(bool(r.get("removed_null")) for r in rows),
            "n": len(rows),
        }
        for name, rows in controls.items()
    }
    return {
        "retrieval": retrieval,
        "heart": heart,
        "banks": sizes,
        "controls": told,
        "targets": _targets(retrieval, told),
    }


def _recall(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(rows)}
    for name in ("blind", "tagged"):
        by_patient: dict[str, list[bool]] = {}
        for r in rows:
            by_patient.setdefault(r["patient"], []).append(bool(r[name]["parts"][:1] == [True]))
        found[name] = {
            "first": rate_by_patient(by_patient, seed=seed),
            "five": round(float(np.mean([np.mean(r[name]["parts"]) for r in rows if r[name]["parts"]] or [0.0])), 4),
            "refused": sum(r[name]["refused"] for r in rows),
        }
    found["other"] = {
        "refused": sum(r["other"]["refused"] for r in rows),
        "wrong": sum(any(not p for p in r["other"]["parts"]) for r in rows),
    }
    return found


def _targets(retrieval: Mapping[str, Any], controls: Mapping[str, Any]) -> list[dict[str, Any]]:
    targets = []
    for part, r in retrieval.items():
        share = r["blind"]["first"]["rate"]
        targets.append(
            {
                "what": f"{part}: nearest is of the part, modality hidden, ≥ 0.95",
                "observed": share,
                "met": share >= 0.95,
            }
        )
    for name, field, what in (
        ("absent organ", "removed_null", "absent organ told null"),
        ("mirrored scan", "mirrored", "mirrored scan remarked"),
        ("blank reference", "silent", "blank reference: no answer"),
        ("noise", "silent", "noise as reference: no answer"),
    ):
        if name in controls:
            r = controls[name]
            targets.append({"what": what, "observed": r[field] / r["n"], "met": r[field] == r["n"]})
    return targets


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    s = result["summary"]
    rows = []
    for part, r in s["retrieval"].items():
        first = r["blind"]["first"]
        interval = f" [{first['interval'][0]:.2f}, {first['interval'][1]:.2f}]" if "interval" in first else ""
        rows.append(
            [
                part,
                r["n"],
                f"{first['rate']:.2f}{interval}",
                f"{r['blind']['five']:.2f}",
                f"{r['blind']['refused']} of {r['n']}",
                f"{r['other']['refused']} of {r['n']}",
            ]
        )
    header = [
        "images of",
        "n",
        "nearest is of the part",
        "share of five",
        "refused",
        "refused under the other modality's tag",
    ]
    heart = [
        [name, f"{r['dice']:.2f}", f"{r['least']:.2f}", f"{r['abstained']} of {r['n']}", f"{r['null']} of {r['n']}"]
        for name, r in s["heart"].items()
    ]
    controls = [
        [
            name,
            f"{r['accuracy']:.2f}",
            f"{r['dice']:.2f}",
            f"{r['silent']} of {r['n']}",
            f"{r['mirrored']} of {r['n']}",
            f"{r['removed_null']} of {r['n']}",
        ]
        for name, r in s["controls"].items()
    ]
    words = {"oracle": "10, the five that alone are best", "worst": "10, the five that alone are worst"}
    banks = [
        [words.get(name, name), f"{r['dice']:.2f} [{r['interval'][0]:.2f}, {r['interval'][1]:.2f}]", r["n"]]
        for name, r in sorted(s["banks"].items(), key=lambda item: (not item[0].isdigit(), item[0].zfill(2)))
    ]
    return {
        "banks": markdown_table(["patients in the bank", "mean Dice", "targets"], banks),
        "retrieval": markdown_table(header, rows),
        "heart": markdown_table(["five references", "mean Dice", "lowest", "no answer", "told null"], heart),
        "controls": markdown_table(
            ["control", "labelling accuracy", "mean Dice", "no answer", "mirrored remarked", "spleen null"], controls
        ),
        "targets": markdown_table(
            ["target", "observed", "met"],
            [[t["what"], f"{t['observed']:.2f}", "yes" if t["met"] else "no"] for t in s["targets"]],
        ),
    }


STUDY = Study(
    name="rau-references",
    question="Are the right references found, and does the answer come from the reference?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
