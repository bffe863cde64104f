"""Study `rau-registration`: how well other people's labels fit a scan after registration and fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from anatrust.anatomy.organs import label_names
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics.overlap import dice
from anatrust.models.annotation import Annotation, Reference
from anatrust.models.registration import RegistrationSettings
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "ct_slice", "hippocampus", "hippocampus_split", "read_reference"]

_MODULES = (
    "anatrust.models.registration",
    "anatrust.models.registration_search",
    "anatrust.models.alignment",
    "anatrust.reference.fusion",
    "anatrust.reference.registration_reasoner",
)
_HIPPOCAMPUS = {1: "anterior", 2: "posterior"}
_COUNTS = (1, 3, 5)
_TARGETS = 16
# The first patients of the shuffle were looked at while settings were chosen: none of them is reported.
_LOOKED_AT = 16
_SLICES = tuple(range(10, 62, 4))
_GAPS = (1, 2, 4)
_WARPS: Mapping[str, tuple[float, ...]] = {
    "rotation": (15.0, 30.0, 45.0, 60.0),
    "scale": (0.5, 0.75, 1.5, 2.0),
    "bending": (5.0, 10.0, 20.0),
}
_BRAINS = (("none", 0.0), ("rotation", 15.0), ("rotation", 45.0), ("bending", 2.0), ("bending", 5.0))
_LARGE = 125  # voxels of 2 mm: one millilitre
_UNITS = {"none": "", "rotation": "°", "scale": "×", "bending": " %"}


def hippocampus_split(context: Context, targets: int, references: int) -> tuple[list[str], list[str]]:
    """Names of target and reference patients, disjoint, and none that was looked at before."""
    names = sorted(p.name for p in context.path("hippocampus_mr", "images").glob("*.nii.gz"))
    order = [names[i] for i in np.random.default_rng(0).permutation(len(names))][_LOOKED_AT:]
    order = [order[i] for i in np.random.default_rng(context.seed).permutation(len(order))]
    return order[:targets], order[targets : targets + references]


def read_reference(context: Context, scan: str, labels: str, names: Mapping[int, str], modality: str) -> Reference:
    """A labelled scan of the data folder."""
    image = read_scan(context.path(*scan.split("/")), modality=modality)
    drawn = read_mask(context.path(*labels.split("/")), reference=image.grid)
    return Reference(image, LabelMap(drawn.array, drawn.grid, names))


def hippocampus(context: Context, name: str) -> Reference:
    """One labelled hippocampus."""
    return read_reference(context, f"hippocampus_mr/images/{name}", f"hippocampus_mr/labels/{name}", _HIPPOCAMPUS, "MR")


def _files(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"hippocampus_mr/{kind}/{name}" for name in names for kind in ("images", "labels"))


def _cells(context: Context) -> list[Cell]:
    targets, references = hippocampus_split(context, 1 if context.quick else _TARGETS, max(_COUNTS))
    needs = (*_MODULES, "anatrust.studies.rau_registration")
    cells = [
        Cell(
            f"hippocampus/{name[:-7]}",
            {"target": name, "references": references},
            _files([name, *references]),
            needs,
        )
        for name in targets
    ]
    amos = ("amos_ct/image.nii.gz", "amos_ct/labels.nii.gz")
    cells += [
        Cell(f"slices/{z}/{gap}", {"slice": z, "gap": gap}, amos, needs)
        for z in ((42,) if context.quick else _SLICES)
        for gap in ((2,) if context.quick else _GAPS)
    ]
    warp_needs = (*needs, "anatrust.models.annotation")
    ladder = [("none", 0.0), *((kind, amount) for kind, amounts in _WARPS.items() for amount in amounts)]
    cells += [
        Cell(
            f"warp/{kind}/{amount:g}/{name[:-7]}",
            {"target": name, "reference": references[0], "kind": kind, "amount": amount},
            _files([name, references[0]]),
            warp_needs,
        )
        for name in targets[: 1 if context.quick else 4]
        for kind, amount in (ladder[:2] if context.quick else ladder)
    ]
    head = ("brain_mr/t1.mgz", "brain_mr/t1_labels.mgz")
    cells += [
        Cell(f"brain/{kind}/{amount:g}", {"kind": kind, "amount": amount}, head, warp_needs)
        for kind, amount in (() if context.quick else _BRAINS)
    ]
    return cells


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    kind = cell.key.split("/")[0]
    if kind == "hippocampus":
        return _run_hippocampus(cell, context)
    if kind == "brain":
        return _run_brain(cell, context)
    return _run_slice(cell, context) if kind == "slices" else _run_warp(cell, context)


def _run_hippocampus(cell: Cell, context: Context) -> Mapping[str, Any]:
    target = hippocampus(context, cell.parameters["target"])
    references = [hippocampus(context, name) for name in cell.parameters["references"]]
    settings = {"demons": RegistrationSettings(), "affine": RegistrationSettings(deformation="none", mirrored=False)}
    found: dict[str, Any] = {}
    for name, counts in (("demons", _COUNTS), ("affine", (max(_COUNTS),))):
        reasoner = RegistrationReasoner(settings[name], least_similarity=-1.0)
        votes, _ = reasoner.votes(target.scan, references)
        for count in counts:
            answer = reasoner.decide(target.scan, dict(_HIPPOCAMPUS), votes[:count])
            found[f"{name}/{count}"] = _judged(answer, target.labels)
    return found


def _run_slice(cell: Cell, context: Context) -> Mapping[str, Any]:
    scan, labels = _amos(context)
    z, gap = cell.parameters["slice"], cell.parameters["gap"]
    below, target, above = (_slice(scan, labels, k) for k in (z - gap, z, z + gap))
    answer = RegistrationReasoner().annotate(target.scan, [below, above])
    return {"k2": _judged(answer, target.labels)}


def _run_warp(cell: Cell, context: Context) -> Mapping[str, Any]:
    p = cell.parameters
    target, reference = hippocampus(context, p["target"]), hippocampus(context, p["reference"])
    warped = _warped(target, p["kind"], p["amount"], context.seed)
    answer = RegistrationReasoner(least_similarity=-1.0).annotate(warped.scan, [reference])
    return {"k1": _judged(answer, warped.labels)}


def _run_brain(cell: Cell, context: Context) -> Mapping[str, Any]:
    """One head at 2 mm, turned or bent, from the head as it was: only one head with labels was at hand."""
    whole = read_reference(context, "brain_mr/t1.mgz", "brain_mr/t1_labels.mgz", {}, "MR")
    cut = (slice(None, None, 2),) * 3
    grid = Grid(whole.scan.array[cut].shape, whole.scan.grid.affine @ np.diag([2.0, 2, 2, 1]))
    scan = Scan(np.ascontiguousarray(whole.scan.array[cut]).astype(np.float32), grid, "MR")
    reference = Reference(scan, LabelMap(np.ascontiguousarray(whole.labels.array[cut]), grid, whole.labels.names), "")
    warped = _warped(reference, cell.parameters["kind"], cell.parameters["amount"], context.seed)
    answer = RegistrationReasoner(least_similarity=-1.0).annotate(warped.scan, [reference])
    sizes = dict(zip(*(v.tolist() for v in np.unique(warped.labels.array, return_counts=True)), strict=True))
    told = _judged(answer, warped.labels)
    large = [s for n, s in told["structures"].items() if sizes.get(int(n), 0) >= _LARGE]
    return {
        "large": len(large),
        "dice": round(float(np.mean([s["dice"] for s in large])), 4),
        "least": min(s["dice"] for s in large),
        "null": sum(not s["found"] for s in large),
        "all": len([s for s in told["structures"].values() if s["there"]]),
        "dice_all": round(float(np.mean([s["dice"] for s in told["structures"].values() if s["there"]])), 4),
    }


@lru_cache(maxsize=1)
def _amos(context: Context) -> tuple[Scan, LabelMap]:
    scan = read_scan(context.path("amos_ct", "image.nii.gz"), modality="CT")
    labels = read_mask(context.path("amos_ct", "labels.nii.gz"), reference=scan.grid)
    return scan, LabelMap(labels.array, labels.grid, label_names("amos"))


def ct_slice(context: Context, z: int) -> Reference:
    """One labelled slice of the abdominal CT."""
    scan, labels = _amos(context)
    return _slice(scan, labels, z)


def _slice(scan: Scan, labels: LabelMap, z: int) -> Reference:
    affine = scan.grid.affine.copy()
    affine[:3, 3] = scan.grid.to_world((0, 0, z))
    grid = Grid(scan.grid.shape[:2], affine, layout="slice")
    image = Scan(np.ascontiguousarray(scan.array[:, :, z]), grid, scan.modality, identifier=f"slice {z}")
    return Reference(image, LabelMap(np.ascontiguousarray(labels.array[:, :, z]), grid, labels.names))


def _warped(target: Reference, kind: str, amount: float, seed: int) -> Reference:
    """The target seen otherwise: turned about the third axis, enlarged, or bent by a smooth random field."""
    shape = target.scan.grid.shape
    middle = (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(np.float64)
    if kind == "rotation":
        turn = np.deg2rad(amount)
        matrix = np.eye(3)
        matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        source = np.tensordot(matrix, index - middle[:, None, None, None], axes=1) + middle[:, None, None, None]
    elif kind == "scale":
        source = (index - middle[:, None, None, None]) / amount + middle[:, None, None, None]
    elif kind == "bending":
        rng = np.random.default_rng([seed, int(amount)])
        field = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 8) for _ in shape])
        field *= amount / 100 * np.linalg.norm(shape) / np.linalg.norm(field, axis=0).max()
        source = index + field
    else:
        source = index
    image = ndimage.map_coordinates(target.scan.array.astype(np.float64), source, order=1, mode="constant")
    labels = ndimage.map_coordinates(target.labels.array, source, order=0, mode="constant")
    scan = Scan(image.astype(np.float32), target.scan.grid, target.scan.modality)
    return Reference(scan, LabelMap(labels, target.scan.grid, target.labels.names))


def _judged(answer: Annotation, truth: LabelMap) -> dict[str, Any]:
    structures = {}
    for structure in answer.structures:
        wanted: npt.NDArray[np.bool_] = np.asarray(truth.array == structure.number)
        drawn = np.asarray(answer.labels.array == structure.number)
        structures[str(structure.number)] = {
            "name": structure.name,
            "there": bool(wanted.any()),
            "found": structure.found,
            "dice": round(float(dice(wanted, drawn)), 4) if wanted.any() else None,
            "confidence": structure.confidence,
        }
    return {"structures": structures, "mirrored": any("mirrored" in r for r in answer.remarks)}


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    hippocampus = {k: r for k, r in results.items() if k.startswith("hippocampus/")}
    rows: dict[str, Any] = {}
    for way in ("demons/1", "demons/3", "demons/5", "affine/5"):
        for number, name in _HIPPOCAMPUS.items():
            values = [r[way]["structures"][str(number)]["dice"] for r in hippocampus.values()]
            rows[f"{way}/{name}"] = _mean(values, context.seed)
    five = [r["demons/5"]["structures"][n] for r in hippocampus.values() for n in ("1", "2")]
    targets = []
    for name in _HIPPOCAMPUS.values():
        if f"demons/5/{name}" in rows:
            mean = rows[f"demons/5/{name}"]["mean"]
            targets.append(
                {"what": f"{name} hippocampus, k = 5: mean Dice ≥ 0.70", "observed": mean, "met": mean >= 0.7}
            )
    return {
        "hippocampus": rows,
        "ranking": _ranking(five),
        "mirrored": sum(r["demons/5"]["mirrored"] for r in hippocampus.values()),
        "slices": _slices(results),
        "brain": {k.partition("/")[2]: r for k, r in results.items() if k.startswith("brain/")},
        "warp": _warps(results),
        "targets": targets,
    }


def _mean(values: Sequence[float], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"mean": round(float(np.mean(values)), 4), "n": len(values), "least": min(values)}
    if len(values) >= 5:
        low, high = patient_bootstrap(np.array(values)[:, None], lambda v: float(v.mean()), seed=seed)
        found["interval"] = [round(low, 4), round(high, 4)]
    return found


def _ranking(structures: Sequence[Mapping[str, Any]]) -> float | None:
    """Spearman correlation of confidence and Dice: whether confidences rank."""
    found = [(s["confidence"], s["dice"]) for s in structures if s["found"] and s["dice"] is not None]
    return round(float(stats.spearmanr(*zip(*found, strict=True)).statistic), 3) if len(found) >= 5 else None


def _slices(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for gap in _GAPS:
        mine = [r["k2"]["structures"] for k, r in results.items() if k.startswith("slices/") and k.endswith(f"/{gap}")]
        every = [s for one in mine for s in one.values()]
        if not every:
            continue
        there, gone = [s for s in every if s["there"]], [s for s in every if not s["there"]]
        by_organ: dict[str, list[float]] = {}
        for s in there:
            by_organ.setdefault(s["name"], []).append(s["dice"])
        rows[str(gap)] = {
            "organs": {name: round(float(np.mean(v)), 3) for name, v in sorted(by_organ.items())},
            "mean": round(float(np.mean([s["dice"] for s in there])), 4),
            "there": len(there),
            "missed": sum(not s["found"] for s in there),
            "gone": len(gone),
            "null": sum(not s["found"] for s in gone),
            "ranking": _ranking(there),
        }
    return rows


def _warps(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows: dict[str, list[float]] = {}
    for key, r in results.items():
        if key.startswith("warp/"):
            values = [s["dice"] for s in r["k1"]["structures"].values() if s["dice"] is not None]
            rows.setdefault("/".join(key.split("/")[1:3]), []).append(float(np.mean(values)) if values else 0.0)
    return {
        key: {"mean": round(float(np.mean(v)), 4), "least": round(min(v), 4), "n": len(v)} for key, v in rows.items()
    }


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    s = result["summary"]
    rows = []
    for way, words in (
        ("demons/1", "affine + demons, k = 1"),
        ("demons/3", "affine + demons, k = 3"),
        ("demons/5", "affine + demons, k = 5"),
        ("affine/5", "affine alone, k = 5"),
    ):
        cells = [s["hippocampus"][f"{way}/{name}"] for name in _HIPPOCAMPUS.values()]
        rows.append([words, *(_shown(c) for c in cells), cells[0]["n"], min(c["least"] for c in cells)])
    header = ["references and registration", "anterior", "posterior", "patients", "lowest Dice"]
    slices = [
        [
            f"{5 * int(gap)} mm",
            f"{r['mean']:.2f}",
            r["there"],
            f"{r['missed']} of {r['there']}",
            f"{r['null']} of {r['gone']}",
        ]
        for gap, r in s["slices"].items()
    ]
    warps = []
    for key, r in s["warp"].items():
        mine = [c["k1"]["structures"] for k, c in result["cells"].items() if k.startswith(f"warp/{key}/")]
        drawn = [one["found"] for structures in mine for one in structures.values()]
        null = f"{len(drawn) - sum(drawn)} of {len(drawn)}"
        warps.append([_seen(key), f"{r['mean']:.2f}", f"{r['least']:.2f}", r["n"], null])
    organs = sorted({name for r in s["slices"].values() for name in r["organs"]})
    by_organ = [
        [
            name.replace("_", " "),
            *(f"{r['organs'][name]:.2f}" if name in r["organs"] else "–" for r in s["slices"].values()),
        ]
        for name in organs
    ]
    ranked = {"hippocampus, k = 5": s["ranking"]}
    ranked |= {f"CT slices, neighbours at {5 * int(gap)} mm": r["ranking"] for gap, r in s["slices"].items()}
    ranking = [[what, "–" if value is None else f"{value:.2f}"] for what, value in ranked.items()]
    brains = [
        [
            _seen(key),
            f"{r['dice']:.2f}",
            f"{r['least']:.2f}",
            f"{r['null']} of {r['large']}",
            f"{r['dice_all']:.2f} ({r['all']})",
        ]
        for key, r in s["brain"].items()
    ]
    brain_header = ["the head seen", "mean Dice, structures of 1 ml or more", "lowest", "null", "mean Dice of all"]
    return {
        "brain": markdown_table(brain_header, brains),
        "hippocampus": markdown_table(header, rows),
        "slices": markdown_table(["neighbours at", "mean Dice", "organs", "missed", "absent organs told null"], slices),
        "organs": markdown_table(["organ", *(f"{5 * int(gap)} mm" for gap in s["slices"])], by_organ),
        "warp": markdown_table(["the scan seen", "mean Dice, k = 1", "lowest patient", "patients", "null"], warps),
        "ranking": markdown_table(["structures", "rank correlation of confidence and Dice"], ranking),
    }


def _seen(key: str) -> str:
    kind, amount = key.split("/")
    return "as it is" if kind == "none" else f"{kind} {amount}{_UNITS[kind]}"


def _shown(cell: Mapping[str, Any]) -> str:
    if "interval" not in cell:
        return f"{cell['mean']:.2f}"
    return f"{cell['mean']:.2f} [{cell['interval'][0]:.2f}, {cell['interval'][1]:.2f}]"


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = result["summary"]["hippocampus"]
    lines = {}
    for name in _HIPPOCAMPUS.values():
        y = [rows[f"demons/{k}/{name}"]["mean"] for k in _COUNTS]
        lines[name] = {"x": list(_COUNTS), "y": y}
    panels = [{"title": "hippocampus MR, demons", "lines": lines}]
    return {"references": {"panels": panels, "xlabel": "references", "ylabel": "mean Dice", "level": 0.7}}


STUDY = Study(
    name="rau-registration",
    question="How well do other people's labels fit a scan after registration and fusion, and what breaks it?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
