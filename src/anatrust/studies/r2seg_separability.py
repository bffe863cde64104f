"""Study `r2seg-separability`: whether lesions are easier to tell from normal tissue in a region alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.image.region import Region
from anatrust.models.planner_rules import RulesPlanner
from anatrust.rejection.features import graded_intensity
from anatrust.rejection.regions import bounding_region, search_regions
from anatrust.statistics.embedding_mmd import fit_embedding, mmd2_from_embedding_sums
from anatrust.statistics.kernels import Kernel, median_bandwidth
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.r2seg_cases import WORLDS, R2Case, cases
from anatrust.studies.r2seg_cells import NEEDS
from anatrust.studies.r2seg_judge import PADS
from anatrust.studies.r2seg_models import trained_unet
from anatrust.studies.study import Cell, Context, Study
from anatrust.studies.tables import markdown_table
from anatrust.studies.tissues import source_files

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.unet import UNet

__all__ = ["STUDY", "probe_auroc"]

Floats = npt.NDArray[np.float64]

# The real abdomens are looked at by the network of the phantoms.
_WORLDS = {"phantom": "phantom", "phantom-mr": "phantom-mr", "abdomen": "phantom"}
_FULL = "full frame"
_SCALES = (2.0, 1.0, 0.5)
_VOXELS = 150
_FOLDS = 5
_LIMIT = 24
_EMBEDDINGS = ("U-Net features", "grey value")


def _cells(context: Context) -> list[Cell]:
    worlds = ("phantom",) if context.quick else tuple(_WORLDS)
    needs = (*NEEDS, "anatrust.studies.r2seg_separability")
    return [Cell(world, {"world": world}, files=source_files(world, context), needs=needs) for world in worlds]


def _frames(case: R2Case, world: str) -> dict[str, Region]:
    """The full frame and the regions around the true organ, largest first."""
    plan = RulesPlanner().plan(WORLDS[world].target, "unknown")
    box = bounding_region(case.anatomy.mask(WORLDS[world].organ).array)
    found = {_FULL: Region.whole(case.truth.shape)}
    for scale in _SCALES:
        (region,) = search_regions(box, case.scan.grid, pad=PADS[world], scales=[scale], square=plan.square)
        found[f"γ = {scale:g}"] = region
    return found


def _embedded(
    case: R2Case, world: str, model: UNet, rng: np.random.Generator
) -> Iterator[tuple[str, str, Floats, npt.NDArray[np.bool_]]]:
    """Frame, embedding, vectors of the same lesion and normal voxels in each, and which are lesion."""
    organ = case.anatomy.mask(WORLDS[world].organ).array
    chosen = []
    for part in (case.target, organ & ~case.target):
        places = np.argwhere(part)
        chosen.append(places[np.sort(rng.permutation(len(places))[:_VOXELS])])
    places = np.concatenate(chosen)
    ill = np.arange(len(places)) < len(chosen[0])
    for name, region in _frames(case, world).items():
        seen = case.scan.array[region.slices].astype(np.float32)
        at = places - np.array(region.start)
        yield name, "U-Net features", _hypercolumns(model, seen, at), ill
        # The paper's φ: percentile-normalised intensity inside the region.
        grey = graded_intensity(seen, np.ones(seen.shape, dtype=bool), percentiles=(0.5, 99.5), levels=256)
        yield name, "grey value", grey[tuple(at.T)].astype(np.float64)[:, None], ill


def _hypercolumns(model: UNet, image: npt.NDArray[np.float32], at: npt.NDArray[np.intp]) -> Floats:
    """Outputs of all encoder stages at some voxels ``(n, ndim)``: ``(n, widths)``."""
    import torch
    from torch.nn import functional

    from anatrust.models.unet import normalised

    multiple = 2 ** (len(model.stages) - 1)
    parts = []
    with torch.no_grad():
        current = torch.from_numpy(normalised(image))[None, None]
        current = functional.pad(current, [v for n in reversed(image.shape) for v in (0, -n % multiple)])
        for level, stage in enumerate(model.stages):
            if level:
                current = functional.max_pool3d(current, 2)
            current = stage(current)
            parts.append(current[0].numpy()[(slice(None), *(at // 2**level).T)].T)
    return np.concatenate(parts, axis=1).astype(np.float64)


def probe_auroc(vectors: Sequence[Floats], ill: Sequence[npt.NDArray[np.bool_]]) -> list[float]:
    """AUROC by patient of a linear probe that has seen other patients only (five folds of patients).

    Parameters
    ----------
    vectors, ill
        One ``(n, d)`` array and one boolean array a patient.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ill = [np.arange(40) < 20] * 6
    >>> apart = [rng.normal(size=(40, 2)) + 3 * np.outer(i, [1, 0]) for i in ill]
    >>> min(probe_auroc(apart, ill)) > 0.9
    True
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = [float("nan")] * len(vectors)
    folds = np.arange(len(vectors)) % min(_FOLDS, len(vectors))
    for fold in np.unique(folds):
        taught = [k for k in range(len(vectors)) if folds[k] != fold]
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"))
        probe.fit(np.concatenate([vectors[k] for k in taught]), np.concatenate([ill[k] for k in taught]))
        for k in map(int, np.flatnonzero(folds == fold)):
            found[k] = float(roc_auc_score(ill[k], probe.decision_function(vectors[k])))
    return found


def _mmd(vectors: Floats, ill: npt.NDArray[np.bool_]) -> float:
    """Unbiased MMD² with a Gaussian kernel of median bandwidth; columns brought to one deviation first."""
    spread = vectors.std(axis=0)
    pool = vectors / np.where(spread > 0, spread, 1)
    kernel = Kernel("gaussian", median_bandwidth(pool, seed=0))
    embedding = fit_embedding(pool[:2], kernel, method="fourier", rank=1024, seed=0)
    z = embedding(pool)
    first, n = z[ill].sum(axis=0), len(pool)
    return float(mmd2_from_embedding_sums(first, float(ill.sum()), int(ill.sum()), z.sum(axis=0), float(n), n))


def _run(cell: Cell, context: Context) -> Mapping[str, Any]:
    world = cell.parameters["world"]
    model = trained_unet(_WORLDS[world], context)
    rng = np.random.default_rng([context.seed, 19])
    vectors: dict[tuple[str, str], list[Floats]] = {}
    marks: list[npt.NDArray[np.bool_]] = []
    for patient in cases(world, "test", context, limit=_LIMIT):
        scans = [list(_embedded(case, world, model, rng)) for case in patient if case.target.sum() >= 8]
        if not scans:
            continue
        marks.append(np.concatenate([scan[0][3] for scan in scans]))
        for parts in zip(*scans, strict=True):
            vectors.setdefault(parts[0][:2], []).append(np.concatenate([p[2] for p in parts]))
    found: dict[str, Any] = {"patients": len(marks)}
    for (frame, embedding), each in vectors.items():
        found.setdefault(embedding, {})[frame] = {
            "auroc": probe_auroc(each, marks),
            "mmd2": [_mmd(v, m) for v, m in zip(each, marks, strict=True)],
        }
    return {**found, **{e: _with_gains(found[e], context.seed) for e in _EMBEDDINGS}}


def _with_gains(frames: Mapping[str, Mapping[str, list[float]]], seed: int) -> dict[str, Any]:
    """Means over patients, and the gain over the full frame with its interval, patient by patient."""
    made: dict[str, Any] = {}
    for frame, values in frames.items():
        made[frame] = {}
        for name, mine in values.items():
            own, full = np.array(mine), np.array(frames[_FULL][name])
            entry: dict[str, Any] = {"mean": round(float(own.mean()), 4)}
            if frame != _FULL:
                gain = (own - full)[:, None]
                entry["gain"] = round(float(gain.mean()), 4)
                if len(gain) >= 5:
                    low, high = patient_bootstrap(gain, lambda g: float(g.mean()), seed=seed)
                    entry["interval"] = [round(low, 4), round(high, 4)]
            made[frame][name] = entry
    return made


def _summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:  # noqa: ARG001
    """The claim: some region separates better than the full frame, its interval above 0."""
    claims = []
    for world, found in results.items():
        for embedding in _EMBEDDINGS:
            gains = {f: v["auroc"] for f, v in found[embedding].items() if f != _FULL}
            best = max(gains, key=lambda f: gains[f]["gain"])
            low = gains[best].get("interval", [None])[0]
            claims.append(
                {"what": f"{world}, {embedding}", "best": best, **gains[best], "shown": bool(low and low > 0)}
            )
    return {"claims": claims}


def _text(entry: Mapping[str, Any]) -> str:
    text = f"{entry['mean']:.3f}"
    if "gain" in entry:
        text += f" ({entry['gain']:+.3f}"
        if "interval" in entry:
            text += f", {entry['interval'][0]:+.3f} to {entry['interval'][1]:+.3f}"
        text += ")"
    return text


def _tables(result: Mapping[str, Any]) -> Mapping[str, str]:
    rows = []
    for world, found in result["cells"].items():
        for embedding in _EMBEDDINGS:
            for frame in (_FULL, *(f"γ = {s:g}" for s in _SCALES)):
                values = found[embedding][frame]
                rows.append(
                    [f"{world}, {embedding}", frame, found["patients"], _text(values["auroc"]), _text(values["mmd2"])]
                )
    header = ["population, embedding", "seen", "patients", "probe AUROC (gain over the full frame)", "MMD² (gain)"]
    return {"separability": markdown_table(header, rows)}


STUDY = Study(
    name="r2seg-separability",
    question="Do regions make the embeddings of lesions and normal tissue easier to separate?",
    cells=_cells,
    run=_run,
    summarise=_summarise,
    tables=_tables,
)
