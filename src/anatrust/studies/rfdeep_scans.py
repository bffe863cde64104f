"""Scans of the RF-Deep studies: usual ones, graded shifts of others, other body parts; segmented and described once.

A trained U-Net (:mod:`anatrust.studies.segmenters`) is run on every scan as it would be in use: a shifted scan is
segmented again, and everything is measured around what the network then draws. Features are kept under
``build/studies/rfdeep``, one file a data set, named by the hash of everything they depend on.

The strengths of the shifts stand in :data:`STRENGTHS`. They were written down before anything was fitted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid
from anatrust.image.read import read_scan
from anatrust.image.resample import resample_scan
from anatrust.image.volumes import LabelMap, Mask, Modality, Scan
from anatrust.metrics import dice, label_lesions
from anatrust.ood.crops import CropSettings, NoPrediction, anchored_crops
from anatrust.ood.features import DescriptorFeatures, HistogramFeatures, ScanFeatures, describe
from anatrust.ood.logit_scores import logit_map, pooled_score
from anatrust.ood.radiomics import RadiomicsFeatures
from anatrust.ood.splits import ScanKey
from anatrust.ood.synthetic import shifted
from anatrust.studies import provenance
from anatrust.studies.segmenters import HeldOutImage, held_out, image_set, unet

__all__ = ["CROPS", "FAR", "LESIONS", "LOGITS", "NEAR_LEVEL", "STRENGTHS", "Unit", "data_files", "strength_of", "units"]

SetName = Literal["hippocampus", "cardiac"]

STRENGTHS: Mapping[str, tuple[float, float, float, float]] = {
    "noise": (0.02, 0.05, 0.10, 0.20),
    "bias": (0.2, 0.4, 0.7, 1.0),
    "ghosting": (0.15, 0.3, 0.5, 0.8),
    "blur": (0.5, 1.0, 1.5, 2.5),
    "thick": (2.0, 3.0, 5.0, 8.0),
    "remap": (0.3, 0.6, 1.0, 1.5),
    "contrast": (0.2, 0.4, 0.7, 1.0),
    "lesion": (4.0, 7.0, 10.0, 14.0),
}
"""Four strengths of each near shift, see :func:`anatrust.ood.synthetic.shifted` for the units; fixed beforehand."""

LESIONS: Mapping[str, tuple[float, float, float, float]] = {
    "lesion-grey": (7.0, 10.0, 14.0, 20.0),
    "lesion-dark": (7.0, 10.0, 14.0, 20.0),
}
"""Lesions with grey values that their surroundings have too, shown beside the near shifts and not counted among them;
fixed beforehand as well."""

NEAR_LEVEL = 3
"""The level (from 1) at which near shifts are learnt from and compared where one number a shift is wanted."""

FAR: Mapping[str, tuple[tuple[str, Modality], ...]] = {
    "far CT": (
        ("abdomen_ct_mr/ct_abdomen_3mm.nii.gz", "CT"),
        ("abdomen_ct_mr/ct_small.nii.gz", "CT"),
        ("amos_ct/image.nii.gz", "MR"),  # 8-bit grey values: no HU rule may be applied
        ("sarcoma/001/ct.nii.gz", "CT"),
        ("sarcoma/002/ct.nii.gz", "CT"),
    ),
    "far MR": (
        ("abdomen_ct_mr/mr_small.nii.gz", "MR"),
        ("sarcoma/001/mr_t1.nii.gz", "MR"),
        ("sarcoma/002/mr_t1.nii.gz", "MR"),
    ),
    "far PET": (("sarcoma/001/pet.nii.gz", "PET"), ("sarcoma/002/pet.nii.gz", "PET")),
}
"""Other body parts and modalities: data set → files and modality; a file is one patient, cut into pieces."""

CROPS: Mapping[str, CropSettings] = {
    "hippocampus": CropSettings(edge=32, draws=8, intensity="zscore"),
    "cardiac": CropSettings(edge=64, draws=8, intensity="zscore"),
}
LOGITS = tuple(
    f"{score} {pooling}" for score in ("msp", "maxlogit", "energy", "entropy") for pooling in ("mean", "p95")
)

_CODE = (
    "anatrust.ood.crops",
    "anatrust.ood.synthetic",
    "anatrust.ood.features",
    "anatrust.ood.radiomics",
    "anatrust.ood.logit_scores",
    "anatrust.models.stage_features",
    "anatrust.studies.rfdeep_scans",
)
_USUAL_SHARE = 0.6  # of the held-out patients; the others are shown shifted only
_PIECES = 6
_SPLIT_SEED = 20260302
_FAMILIES = ("statistics", "glcm", "glrlm", "glszm", "ngtdm")


@dataclass(frozen=True, eq=False)
class Unit:
    """One scan as the detectors see it.

    Parameters
    ----------
    key
        Data set (``"usual"``, ``"noise 3"``, ``"far CT"``), patient and piece.
    features
        ``(crops, d)`` by kind; empty where nothing was segmented.
    levels
        Names and widths of the groups of columns, by kind.
    logits
        One score for each of :data:`LOGITS`.
    dice
        Against the truth; None where there is none.
    volume, components
        Of the prediction in voxels.
    group
        Pathology of a cardiac patient.
    """

    key: ScanKey
    features: Mapping[str, npt.NDArray[np.float32]]
    levels: Mapping[str, tuple[tuple[str, int], ...]]
    logits: npt.NDArray[np.float64]
    dice: float | None
    volume: int
    components: int
    group: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing was segmented."""
        return not self.features


def data_files(name: SetName, data: Path, *, quick: bool) -> tuple[str, ...]:
    """All images a study of this set reads, relative to the data folder."""
    return (*image_set(name, data, quick=quick).paths(), *(file for rows in FAR.values() for file, _ in rows))


def units(name: SetName, dataset: str, data: Path, *, quick: bool = False, variant: str = "main") -> list[Unit]:
    """The scans of one data set, described; made once and kept.

    Parameters
    ----------
    name
        Image set whose strong segmenter is asked.
    dataset
        ``"usual"``, ``"unshifted"`` (the other patients as they are), ``"KIND LEVEL"`` or one of :data:`FAR`.
    data, quick
        Folder of the real images; the quick form has few scans.
    variant
        ``"main"``, or ``"MODE EDGE"`` for other crops (deep features alone).
    """
    settings = CROPS[name]
    if variant != "main":
        mode, edge = variant.split()
        settings = replace(settings, mode=mode, edge=int(edge))  # type: ignore[arg-type]
    identity = {
        "set": name,
        "dataset": dataset,
        "variant": variant,
        "quick": quick,
        "crops": settings.to_json(),
        "strength": strength_of(dataset),
        "source": provenance.source_hash(_CODE),
        "network": network_hash(name, data, quick),
    }
    file = Path("build/studies/rfdeep") / f"{name}-{dataset}-{variant}-{provenance.fingerprint(identity)}.npz".replace(
        " ", "-"
    )
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        tools = network(name, data, quick)
        made = [_unit(tools, *scan, settings, variant, quick) for scan in _scans(name, dataset, data, quick)]
        with replacing(file) as part, part.open("wb") as handle:
            np.savez(handle, **packed(made))  # type: ignore[arg-type]
    with np.load(file, allow_pickle=False) as kept:
        return unpacked(dict(kept))


def strength_of(dataset: str) -> float | None:
    """Of a data set named ``"KIND LEVEL"``; None for one that is no shift."""
    kind, _, level = dataset.rpartition(" ")
    table = {**STRENGTHS, **LESIONS}
    return table[kind][int(level) - 1] if kind in table else None


@cache
def network_hash(name: SetName, data: Path, quick: bool) -> str:
    from anatrust.models.stage_features import weights_hash

    return weights_hash(unet(name, "strong", data, quick=quick))


@cache
def held_out_images(name: SetName, data: Path, quick: bool) -> tuple[HeldOutImage, ...]:
    """One image a hippocampus patient, three evenly spread slices of each cardiac one."""
    images = held_out(name, "strong", data, quick=quick)
    if name == "hippocampus":
        return images
    kept: list[HeldOutImage] = []
    for patient in dict.fromkeys(image.patient for image in images):
        own = [image for image in images if image.patient == patient]
        places = np.linspace(0, len(own) - 1, 5).round().astype(int)[1:4] if len(own) > 3 else range(len(own))
        kept += [own[i] for i in sorted(set(places))]
    return tuple(kept)


def _scans(
    name: SetName, dataset: str, data: Path, quick: bool
) -> list[tuple[ScanKey, Scan, npt.NDArray[Any] | None, str]]:
    """Key, scan, truth (labels) and group of every scan of a data set."""
    if dataset in FAR:
        return far_scans(name, dataset, data, quick)
    images = held_out_images(name, data, quick)
    patients = sorted({image.patient for image in images})
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(patients))
    usual = {patients[i] for i in order[: round(_USUAL_SHARE * len(patients))]}
    found: list[tuple[ScanKey, Scan, npt.NDArray[Any] | None, str]] = []
    for image in images:
        if (image.patient in usual) != (dataset == "usual"):
            continue
        scan = image.scan
        strength = strength_of(dataset)
        if strength is not None:
            marks = LabelMap(np.asarray(image.labels > 0, dtype=np.uint8), scan.grid)
            scan = shifted(scan, marks, dataset.rpartition(" ")[0], strength)[0]
        found.append((ScanKey(dataset, image.patient, image.key), scan, image.labels, image.group))
    return found


def far_scans(
    name: SetName, dataset: str, data: Path, quick: bool
) -> list[tuple[ScanKey, Scan, npt.NDArray[Any] | None, str]]:
    """Pieces of other images, with the field of view and voxel size of the set's own images."""
    found: list[tuple[ScanKey, Scan, npt.NDArray[Any] | None, str]] = []
    box = (35, 51, 35) if name == "hippocampus" else (128, 128)
    for file, modality in FAR[dataset][: 1 if quick else None]:
        scan = read_scan(data / file, modality=modality)
        own = np.random.default_rng(int.from_bytes(hashlib.sha256(file.encode()).digest()[:8], "big"))
        body = np.argwhere(scan.array > np.percentile(scan.array, 60))
        for piece in range(2 if quick else _PIECES):
            centre = body[int(own.integers(len(body)))]
            array, grid = _piece(scan, centre, box)
            part = Scan(array, grid, modality, identifier=f"{dataset} {piece}")
            found.append((ScanKey(dataset, file, str(piece)), part, None, ""))
    return found


def _piece(scan: Scan, centre: npt.NDArray[Any], box: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], Grid]:
    """A box of 1 mm voxels around a voxel; for two axes a slice of it (1.3 mm, as cine MR has)."""
    n = len(box)
    step = 1.0 if n == 3 else 1.3
    middle = scan.grid.to_world(centre[None].astype(float))[0]
    affine = scan.grid.affine.copy()
    affine[:3, :3] *= step / np.array(scan.grid.spacing)
    shape = box if n == 3 else (*box, 1)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    array = resample_scan(replace(scan, array=scan.array.astype(np.float32)), Grid(shape, affine)).array
    if n == 3:
        return np.asarray(array, dtype=np.float32), Grid(shape, affine)
    return np.asarray(array[..., 0], dtype=np.float32), Grid(box, np.eye(4), spacing_known=False)


@cache
def network(name: SetName, data: Path, quick: bool) -> tuple[Any, Any]:
    """The network, and its stages read before and after normalisation in one pass."""
    import torch

    from anatrust.models.stage_features import StageFeatures

    torch.set_num_threads(1)
    model = unet(name, "strong", data, quick=quick)
    count = len(model.config.widths)
    stages = [*(f"stages.{i}.3" for i in range(count)), *(f"stages.{i}" for i in range(count))]
    return model, StageFeatures(model, stages=stages, pool="moments")


def before_and_after(found: ScanFeatures) -> tuple[ScanFeatures, ScanFeatures]:
    """Moments before normalisation, and averages alone after it (as published)."""
    half = len(found.levels) // 2
    widths = [width for _, width in found.levels]
    split = sum(widths[:half])
    starts = np.cumsum([split, *widths[half:]])
    means = np.concatenate(
        [found.values[:, a : a + w // 2] for a, w in zip(starts, widths[half:], strict=False)], axis=1
    )
    levels = tuple((name, width // 2) for name, width in found.levels[half:])
    return (
        replace(found, values=found.values[:, :split], levels=found.levels[:half]),
        replace(found, values=means, levels=levels),
    )


def _unit(
    tools: tuple[Any, Any],
    key: ScanKey,
    scan: Scan,
    truth: npt.NDArray[Any] | None,
    group: str,
    settings: CropSettings,
    variant: str,
    quick: bool,
) -> Unit:
    """Segment, draw crops where something was found, describe them."""
    import torch

    from anatrust.models.unet import normalised

    model, stages = tools
    with torch.inference_mode():
        logits = model(torch.from_numpy(normalised(scan.array))[None, None])[0].float().numpy()
    array = logits.argmax(axis=0) > 0
    mask = Mask(array, scan.grid)
    score = None if truth is None else float(dice(truth > 0, array))
    components = int(label_lesions(array).max())
    features: dict[str, npt.NDArray[np.float32]] = {}
    levels: dict[str, tuple[tuple[str, int], ...]] = {}
    numbers = np.full(len(LOGITS), np.inf)
    name = f"{key.dataset}/{key.patient}/{key.scan}"
    drawn = anchored_crops(scan, mask, settings, identifier=name)
    if not isinstance(drawn, NoPrediction):
        before, after = before_and_after(describe(drawn, stages))
        found: dict[str, ScanFeatures] = {"deep": before}
        if variant == "main":
            found["levels"] = after
            plain = anchored_crops(scan, mask, replace(settings, intensity="percentile"), identifier=name)
            if not isinstance(plain, NoPrediction):
                found["histogram"] = describe(plain, HistogramFeatures(bins=32))
                # The slow kinds only where they are compared.
                if strength_of(key.dataset) is None or key.dataset.endswith(f" {NEAR_LEVEL}"):
                    found["descriptors"] = describe(plain, DescriptorFeatures())
                    measured = None if quick else _radiomics(scan, mask, name)
                    if isinstance(measured, ScanFeatures):
                        found["radiomics"] = measured
            numbers = np.array(
                [pooled_score(logit_map(logits, s), array, p) for s, p in (text.split() for text in LOGITS)]  # type: ignore[arg-type]
            )
        features = {kind: f.values for kind, f in found.items()}
        levels = {kind: f.levels for kind, f in found.items()}
    return Unit(key, features, levels, numbers, score, int(array.sum()), components, group)


def _radiomics(scan: Scan, mask: Mask, name: str) -> ScanFeatures | NoPrediction:
    return RadiomicsFeatures(intensity="percentile", families=_FAMILIES).of(scan, mask, identifier=name)


def packed(made: list[Unit]) -> dict[str, npt.NDArray[Any]]:
    """Plain arrays of a data set; a unit's features follow each other kind by kind."""
    header = [
        {
            "key": [unit.key.dataset, unit.key.patient, unit.key.scan],
            "kinds": list(unit.features),
            "levels": {kind: [list(level) for level in rows] for kind, rows in unit.levels.items()},
            "dice": unit.dice,
            "volume": unit.volume,
            "components": unit.components,
            "group": unit.group,
        }
        for unit in made
    ]
    arrays: dict[str, npt.NDArray[Any]] = {
        "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        "logits": np.array([unit.logits for unit in made], dtype=np.float64).reshape(len(made), -1),
    }
    for number, unit in enumerate(made):
        arrays |= {f"{number}.{kind}": values for kind, values in unit.features.items()}
    return arrays


def unpacked(arrays: Mapping[str, npt.NDArray[Any]]) -> list[Unit]:
    return [
        Unit(
            ScanKey(*row["key"]),
            {kind: arrays[f"{number}.{kind}"] for kind in row["kinds"]},
            {kind: tuple((str(n), int(w)) for n, w in rows) for kind, rows in row["levels"].items()},
            arrays["logits"][number],
            row["dice"],
            row["volume"],
            row["components"],
            row["group"],
        )
        for number, row in enumerate(json.loads(arrays["header"].tobytes()))
    ]
