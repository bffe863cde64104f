"""Study `rfdeep-panels`: what the segmenter is unsure of in one usual scan and three shifts of it, in six panels each.

The patient is chosen by rule: of those shown shifted, the one whose Dice under the largest inserted lesion is the
median. So is the slice: the published score of a slice's prediction and entropy, see :func:`slice_score`.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.image.volumes import LabelMap
from anatrust.metrics import dice
from anatrust.ood.logit_scores import logit_map
from anatrust.ood.synthetic import shifted
from anatrust.studies.rfdeep_main import NEEDS
from anatrust.studies.rfdeep_scans import STRENGTHS, data_files, units
from anatrust.studies.segmenters import Strength, held_out, unet
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table

__all__ = ["STUDY", "slice_score"]

_SHOWN = {"as it is": ("", 0), "noise": ("noise", 4), "blur": ("blur", 3), "inserted lesion": ("lesion", 4)}
_RULE = "lesion 4"
_MODELS: tuple[Strength, ...] = ("strong", "weak")
_BINS = 24
_LEAST = 50


def slice_score(mask: npt.NDArray[np.bool_], entropy: npt.NDArray[np.float64]) -> float:
    """How much a slice shows: 0.4 · marked pixels + 30 · sd(entropy) + 30 · |mean entropy at the edge - inside|.

    Zero below 50 marked pixels; the last term needs more than ten on either side. The edge is the mask without its
    4-connected erosion. Source: RF-Deep's figures (arXiv 2512.08216).

    Examples
    --------
    >>> mask = np.zeros((20, 20), bool)
    >>> mask[5:15, 5:15] = True
    >>> round(slice_score(mask, np.where(mask, 0.5, 0.0)), 6)
    40.0
    """
    if mask.sum() < _LEAST:
        return 0.0
    inner = ndimage.binary_erosion(mask)
    edge = mask & ~inner
    contrast = abs(entropy[edge].mean() - entropy[inner].mean()) if min(edge.sum(), inner.sum()) > 10 else 0.0
    return float(0.4 * mask.sum() + 30 * entropy[mask].std() + 30 * contrast)


def _cells(context: Context) -> list[Cell]:
    files = data_files("hippocampus", context.path(), quick=context.quick)
    needs = (*NEEDS, "anatrust.studies.rfdeep_panels")
    return [Cell(name, {"shift": kind, "level": level}, files, needs) for name, (kind, level) in _SHOWN.items()]


def _patient(context: Context) -> str:
    """The median patient under the rule's shift."""
    found = units("hippocampus", _RULE, context.path(), quick=context.quick)
    ranked = sorted((u.dice or 0.0, u.key.patient) for u in found)
    return ranked[len(ranked) // 2][1]


def _logits(array: npt.NDArray[Any], strength: Strength, context: Context) -> npt.NDArray[Any]:
    import torch

    from anatrust.models.unet import normalised

    model = unet("hippocampus", strength, context.path(), quick=context.quick)
    with torch.inference_mode():
        found: npt.NDArray[Any] = model(torch.from_numpy(normalised(array))[None, None])[0].float().numpy()
    return found


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    patient = _patient(context)
    (image,) = (
        i for i in held_out("hippocampus", "strong", context.path(), quick=context.quick) if i.patient == patient
    )
    scan, kind, truth = image.scan, cell.parameters["shift"], image.labels > 0
    if kind:
        strength = STRENGTHS[kind][cell.parameters["level"] - 1]
        scan = shifted(scan, LabelMap(truth.astype(np.uint8), scan.grid), kind, strength)[0]
    logits = {name: _logits(scan.array, name, context) for name in _MODELS}
    masks = {name: values.argmax(axis=0) > 0 for name, values in logits.items()}
    entropy, largest = (logit_map(logits["strong"], score) for score in ("entropy", "maxlogit"))
    mask = masks["strong"]
    marks = [slice_score(mask[:, :, z], entropy[:, :, z]) for z in range(mask.shape[2])]
    best = int(np.argmax(marks)) if max(marks) > 0 else int(mask.sum(axis=(0, 1)).argmax())
    inner = ndimage.binary_erosion(mask)
    low, high = np.percentile(image.scan.array, (0.5, 99.5))

    def flat(values: npt.NDArray[Any], bottom: float, top: float) -> dict[str, Any]:
        grey = 255 * np.clip((values[:, :, best] - bottom) / max(top - bottom, 1e-9), 0, 1)
        return _packed(grey.T.astype(np.uint8))

    drawn = {"truth": truth, **{str(n): v for n, v in masks.items()}}
    greys = (scan.array - low) / max(high - low, 1e-9)
    return {
        "patient": patient,
        "image": flat(scan.array, low, high),
        "contours": {n: _packed(v[:, :, best].T.astype(np.uint8)) for n, v in drawn.items()},
        "entropy": flat(entropy, 0.0, float(np.log(3))),
        "maxlogit": flat(largest, *(float(v) for v in np.percentile(largest, (1, 99)))),
        "curves": {
            "entropy": _shares(_sides(entropy, mask, inner), 0.0, float(np.log(3))),
            "maxlogit": _shares(_sides(largest, mask, inner), -12.0, 0.0),
            "grey": _shares({"prediction": greys[mask], "truth": greys[truth]}, -0.2, 1.4),
        },
        "numbers": {
            "dice": {name: round(float(dice(truth, own)), 3) for name, own in masks.items()},
            "entropy": [round(float(v), 3) for v in (entropy[mask & ~inner].mean(), entropy[inner].mean())],
            "maxlogit": [round(float(v), 2) for v in (largest[mask & ~inner].mean(), largest[inner].mean())],
        },
    }


def _sides(
    values: npt.NDArray[Any], mask: npt.NDArray[np.bool_], inner: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[Any]]:
    return {"edge": values[mask & ~inner], "inside": values[inner]}


def _packed(values: npt.NDArray[np.uint8]) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()
    return {"shape": list(values.shape), "zlib": data}


def _shares(groups: Mapping[str, npt.NDArray[Any]], low: float, high: float) -> dict[str, Any]:
    """Histograms as shares of their fullest bin, values beyond the ends counted there."""
    edges = np.linspace(low, high, _BINS + 1)
    centres = [round(float(v), 3) for v in (edges[1:] + edges[:-1]) / 2]
    found = {}
    for name, values in groups.items():
        counts = np.histogram(np.clip(values, low, high), edges)[0] if values.size else np.zeros(_BINS)
        found[name] = {"x": centres, "y": [round(float(v), 3) for v in counts / max(1, counts.max())]}
    return found


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
    del context
    gaps = {name: round(v["numbers"]["entropy"][0] - v["numbers"]["entropy"][1], 3) for name, v in results.items()}
    return {"entropy_edge_minus_inside": gaps, "targets": []}


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for name in _SHOWN:
        own = result["cells"][name]["numbers"]
        pairs = [f"{own[kind][0]:.2f} / {own[kind][1]:.2f}" for kind in ("entropy", "maxlogit")]
        rows.append([name, *(f"{own['dice'][model]:.2f}" for model in _MODELS), *pairs])
    header = ["scan", *(f"Dice, {model}" for model in _MODELS), "entropy, edge / inside", "-max logit, edge / inside"]
    return {"numbers": markdown_table(header, rows)}


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    panels: list[dict[str, Any]] = []
    for name in _SHOWN:
        own = result["cells"][name]
        panels += [
            {"title": name, "image": own["image"], "contours": own["contours"]},
            {"title": "entropy", "image": own["entropy"]},
            {"title": "entropy, shares", "lines": own["curves"]["entropy"]},
            {"title": "-max logit", "image": own["maxlogit"]},
            {"title": "-max logit, shares", "lines": own["curves"]["maxlogit"]},
            {"title": "grey values, shares", "lines": own["curves"]["grey"]},
        ]
    return {"hippocampus": {"panels": panels, "xlabel": "", "ylabel": "", "columns": 6, "edge": 1.9, "shared": False}}


STUDY = Study(
    name="rfdeep-panels",
    question="What is the segmenter unsure of, where, and does a shift show there?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
    figures=_figures,
)
