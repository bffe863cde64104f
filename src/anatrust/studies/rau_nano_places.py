"""Study `rau-nano-places`: what a ``<Seg>`` state tells of where its region lies, and what it adds to the reference.

Readings are learnt on training patients by small networks of one size and tested on others. What is told is a
distribution over the target's patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from anatrust.reference.pairs import LabelledPicture, draw_pairs
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.nano_anatomy import cohort
from anatrust.studies.nano_sight import patch_shares
from anatrust.studies.nano_training import QUICK, SCHOOLED, SEEN, UNSEEN, patients_asked, schooled
from anatrust.studies.rau_nano import NEEDS, place
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from torch import Tensor

    from anatrust.models.vision_language import VisionLanguageModel

__all__ = ["STUDY"]

_NEEDS = ("anatrust.studies.rau_nano_places", "anatrust.models.vision_language", *NEEDS)
_READ = {
    "reference's mask": "the reference's mask",
    "state": "the `<Seg>` state",
    "state and patches": "how state and patches agree",
    "mask and state": "mask and state",
    "mask, state and patches": "mask, and how state and patches agree",
}
_LOOKS = {"seen": SEEN, "unseen": UNSEEN}
_PAIRS, _TESTED, _STEPS, _INNER = 700, 80, 500, 256


@dataclass(frozen=True, eq=False)
class _Seen:
    """Of N regions: states, patches of their targets, shares of patches they cover there and in the reference."""

    states: Tensor
    patches: Tensor
    picture: Tensor
    covered: Tensor
    reference: Tensor
    patients: tuple[str, ...]


def _cells(_context: Context) -> list[Cell]:
    return [Cell("places", {}, (), _NEEDS)]


def _run(_cell: Cell, context: Context) -> Mapping[str, Any]:
    from anatrust.models.vision_language import VisionLanguageModel

    plan = QUICK if context.quick else SCHOOLED
    folder = place(plan)
    folder.mkdir(parents=True, exist_ok=True)
    model = VisionLanguageModel.load(schooled(folder, plan, context.seed))
    pictures = cohort(range(plan.patients), SEEN, size=plan.size.side)
    taught = _gather(model, pictures, 1, 4 if context.quick else _PAIRS)
    tested = {
        look: _gather(model, patients_asked(looks, plan), 2, 5 if context.quick else _TESTED)
        for look, looks in _LOOKS.items()
    }
    found: dict[str, Any] = {look: {"pasted": _rows(seen.reference, seen)} for look, seen in tested.items()}
    for name in _READ:
        read = _learn(name, taught, 2 if context.quick else _STEPS, context.seed)
        for look, seen in tested.items():
            found[look][name] = _rows(read(seen), seen)
    return {"regions": found, "patches": [int(n) for n in tested["seen"].patches.shape[1:2]]}


def _gather(model: VisionLanguageModel, pictures: Sequence[LabelledPicture], seed: int, count: int) -> _Seen:
    import torch

    patch = int(model.model.config.vision_config.patch_size)
    states, patches, picture, covered, reference, patients = [], [], [], [], [], []
    for k, pair in enumerate(islice(draw_pairs(pictures, seed, absent=0.0), count)):
        sample = pair.sample("segment", np.random.default_rng(0))
        shown = [list(sample.pictures)]
        given = model.inputs([sample.prompt], shown, [sample.answer])
        given["labels"] = model.completion_labels(given, model.inputs([sample.prompt], shown))
        with torch.no_grad():
            own, output = model.seg_states(given)
            patches.append(model.patch_states(given, output)[0].flatten(0, 1))
        states.append(own[0])
        for number in sample.masks:
            covered.append(patch_shares(pair.mask(number).astype(np.uint8), 2, patch)[:, 1])
            known = pair.reference.labels == pair.labels[number]
            reference.append(patch_shares(known.astype(np.uint8), 2, patch)[:, 1])
            picture.append(k)
            patients.append(pair.target.patient)
    return _Seen(
        torch.cat(states), torch.stack(patches), torch.tensor(picture), torch.from_numpy(np.stack(covered)),
        torch.from_numpy(np.stack(reference)), tuple(patients),
    )  # fmt: skip


def _learn(name: str, taught: _Seen, steps: int, seed: int) -> Any:
    """A reading of places, as scores of patches from what is seen."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    torch.manual_seed(seed)
    cells = taught.covered.shape[1]
    mean, spread = taught.states.mean(0), taught.states.std(0).clamp_min(1e-4)
    middle, width = taught.patches.mean((0, 1)), taught.patches.std((0, 1)).clamp_min(1e-4)

    def small(given: int, told: int) -> nn.Module:
        return nn.Sequential(nn.Linear(given, _INNER), nn.GELU(), nn.Linear(_INNER, told))

    hidden = taught.states.shape[1]
    flat = {"reference's mask": cells, "state": hidden, "mask and state": cells + hidden}.get(name, 0)
    parts = nn.ModuleDict({"flat": small(flat, cells)} if flat else {})
    if "patches" in name:
        parts.update({"ask": small(hidden, 64), "show": small(hidden, 64)})
        if "mask" in name:
            parts["flat"] = small(cells, cells)

    def scores(seen: _Seen, rows: Tensor) -> Tensor:
        states, masks = (seen.states[rows] - mean) / spread, seen.reference[rows] * 3
        total = torch.zeros(len(rows), cells)
        if "flat" in parts:
            both = {"state": [states], "mask and state": [masks, states]}.get(name, [masks])
            total = total + parts["flat"](torch.cat(both, dim=1))
        if "ask" in parts:
            shown = parts["show"]((seen.patches[seen.picture[rows]] - middle) / width)
            total = total + torch.einsum("nd,npd->np", parts["ask"](states), shown) / 8
        return total

    optimiser = torch.optim.AdamW(parts.parameters(), lr=1e-3, weight_decay=0.1)
    truth = taught.covered / taught.covered.sum(1, keepdim=True)
    for _ in range(steps):
        rows = torch.randint(len(truth), (256,))
        loss = cross_entropy(scores(taught, rows), truth[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def read(seen: _Seen) -> Tensor:
        with torch.no_grad():
            return scores(seen, torch.arange(len(seen.covered))).softmax(1)

    return read


def _rows(told: Tensor, seen: _Seen) -> list[dict[str, Any]]:
    """For each region how much of what is told lies where it lies, and how far off its centre is, in patches."""
    import torch

    side = round(told.shape[1] ** 0.5)
    rows, columns = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    grid = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
    told = told / told.sum(1, keepdim=True).clamp_min(1e-9)
    truth = seen.covered / seen.covered.sum(1, keepdim=True)
    shared = torch.minimum(told, truth).sum(1)
    off = (told @ grid - truth @ grid).norm(dim=1)
    return [
        {"patient": patient, "shared": round(float(a), 4), "off": round(float(b), 4)}
        for patient, a, b in zip(seen.patients, shared, off, strict=True)
    ]


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    found = results["places"]["regions"]
    told = {
        look: {name: {f: _by_patient(rows, f, context.seed) for f in ("shared", "off")} for name, rows in own.items()}
        for look, own in found.items()
    }
    gains = {}
    for look, own in found.items():
        for name in ("mask and state", "mask, state and patches"):
            paired = [
                {"patient": a["patient"], "gain": b["off"] - a["off"]}
                for a, b in zip(own[name], own["reference's mask"], strict=True)
            ]
            gains[f"{look}/{name}"] = _by_patient(paired, "gain", context.seed)
    return {"told": told, "gains": gains, "targets": []}


def _by_patient(rows: Sequence[Mapping[str, Any]], field: str, seed: int) -> dict[str, Any]:
    own: dict[str, list[float]] = {}
    for row in rows:
        own.setdefault(row["patient"], []).append(row[field])
    table = np.array([[np.mean(v)] for v in own.values()])
    found: dict[str, Any] = {"mean": round(float(table.mean()), 4), "n": len(rows)}
    if len(table) >= 5:
        low, high = patient_bootstrap(table, lambda v: float(v.mean()), seed=seed)
        found["interval"] = [round(low, 3), round(high, 3)]
    return found


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    told = result["summary"]["told"]

    def shown(one: Mapping[str, Any]) -> str:
        low, high = one.get("interval", (0.0, 0.0))
        return f"{one['mean']:.2f} [{low:.2f}, {high:.2f}]"

    names = {"pasted": "the reference's mask, pasted"} | _READ
    rows = [
        [text, *(shown(told[look][name][field]) for look in _LOOKS for field in ("shared", "off"))]
        for name, text in names.items()
    ]
    header = ["place read from", "seen looks: shared", "centre off by", "unseen look: shared", "centre off by"]
    gains = [
        [
            f"{_READ[name.split('/', 1)[1]]}; {name.split('/')[0]} look",
            f"{g['mean']:+.2f} [{g.get('interval', (0.0, 0.0))[0]:+.2f}, {g.get('interval', (0.0, 0.0))[1]:+.2f}]",
        ]
        for name, g in result["summary"]["gains"].items()
    ]
    return {"places": markdown_table(header, rows), "gains": markdown_table(["", "nearer than by the mask"], gains)}


STUDY = Study(
    name="rau-nano-places",
    question="Does a token's state tell where its region lies, and more than the reference's mask does?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
