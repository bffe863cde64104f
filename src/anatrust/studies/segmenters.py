"""Small U-Nets trained on real images for the studies: a strong and an early, weak checkpoint of each.

Two image sets, patients split once and for all by a seeded shuffle: *training* patients teach the
network, *tuning* patients choose whatever is chosen, the *pool* is split again and again into
calibration and test. A network is trained when it is first asked for (a few minutes on one core) and
kept under ``build/studies/segmenters``, named by the hash of everything it depends on: its images, its
settings and the code. So are the probabilities of every held-out image.

Other studies use them like this::

    model = unet("hippocampus", "strong", context.path(), quick=context.quick)   # its features(image, level)
    for image in held_out("hippocampus", "strong", context.path(), quick=context.quick):
        image.patient, image.part, image.scan, image.probabilities, image.labels
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import Scan
from anatrust.studies import provenance

if TYPE_CHECKING:  # torch is heavy, and this module is imported for its names alone
    from anatrust.models.unet import UNet

__all__ = ["IMAGE_SETS", "HeldOutImage", "ImageSet", "Strength", "held_out", "image_set", "unet"]

Strength = Literal["strong", "weak"]
Part = Literal["training", "tuning", "pool"]
Progress = Callable[[int, int], None]

_SPLIT_SEED = 20260118  # of the shuffle of patients; fixed, so that every study shares the networks
_CODE = ("anatrust.models.unet", "anatrust.models.unet_training")
_DEFAULT_CACHE = Path("build/studies/segmenters")


@dataclass(frozen=True)
class _Plan:
    """What is trained on what; everything in it names the cache."""

    folders: tuple[str, ...]
    classes: tuple[str, ...]
    box: tuple[int, ...] | None
    training: int
    tuning: int
    widths: tuple[int, ...]
    steps: int
    weak: int
    batch: int
    crop: int
    training_folders: int
    per_patient: int | None = None
    pool: int | None = None


IMAGE_SETS: Mapping[str, _Plan] = {
    # Left ventricles lie around the middle of the 256² slices; the box holds all of every one.
    "cardiac": _Plan(
        ("cardiac_mr/part1", "cardiac_mr/part2"), ("background", "left ventricle"), (128, 128),
        training=8, tuning=6, widths=(12, 24, 48), steps=700, weak=140, batch=4, crop=96, training_folders=1,
    ),
    "hippocampus": _Plan(
        ("hippocampus_mr",), ("background", "anterior hippocampus", "posterior hippocampus"), None,
        training=30, tuning=20, widths=(8, 16, 32), steps=300, weak=60, batch=2, crop=32, training_folders=1,
    ),
}  # fmt: skip
"""The image sets by name."""

_QUICK: Mapping[str, Mapping[str, int]] = {
    "cardiac": {"steps": 40, "weak": 8, "tuning": 3, "pool": 15, "per_patient": 2, "crop": 64},
    "hippocampus": {"steps": 30, "weak": 6, "training": 8, "tuning": 3, "pool": 15, "crop": 24},
}


@dataclass(frozen=True)
class ImageSet:
    """One image set and its split.

    Parameters
    ----------
    name, ndim, classes
        Its name, the images' axes and the class names, background first.
    parts
        Patients of ``training``, ``tuning`` and ``pool``; no patient is in two.
    files
        For each patient the pairs of image and label file, relative to the data folder.
    """

    name: str
    ndim: int
    classes: tuple[str, ...]
    parts: Mapping[Part, tuple[str, ...]]
    files: Mapping[str, tuple[tuple[str, str], ...]]

    def paths(self, *parts: Part) -> tuple[str, ...]:
        """All files of some parts, relative to the data folder: the ``files`` of a study's cell."""
        wanted = parts or get_args(Part)
        return tuple(f for part in wanted for p in self.parts[part] for pair in self.files[p] for f in pair)


@dataclass(frozen=True, eq=False)
class HeldOutImage:
    """One image no network was trained on.

    Parameters
    ----------
    patient, part, key
        Whose it is, ``tuning`` or ``pool``, and the file's stem.
    scan
        The image (cropped to the set's box) on its grid.
    probabilities
        ``(classes, *shape)`` float16, background first.
    labels
        Truth, integers indexing the classes.
    """

    patient: str
    part: Part
    key: str
    scan: Scan
    probabilities: npt.NDArray[np.float16]
    labels: npt.NDArray[np.uint8]

    @property
    def group(self) -> str:
        """Pathology of a cardiac patient (N, HYP, HF-I, HF-NI); empty elsewhere."""
        return "-".join(self.patient.split("-")[1:-1]) if self.patient.startswith("SC-") else ""


def _plan(name: str, quick: bool) -> _Plan:
    if name not in IMAGE_SETS:
        raise InputError(f"there is no image set '{name}': choose one of {', '.join(sorted(IMAGE_SETS))}")
    values = asdict(IMAGE_SETS[name])
    return _Plan(**(values | dict(_QUICK[name]))) if quick else IMAGE_SETS[name]


def image_set(name: str, data: Path, *, quick: bool = False) -> ImageSet:
    """The patients of an image set, split by a seeded shuffle.

    Parameters
    ----------
    name
        One of :data:`IMAGE_SETS`.
    data
        Folder of the real images.
    quick
        Fewer patients and images, for the quick form of studies.

    Raises
    ------
    InputError
        If the set is unknown or its images are missing.
    """
    plan = _plan(name, quick)
    files: dict[str, list[tuple[str, str]]] = {}
    first: list[str] = []
    for number, folder in enumerate(plan.folders):
        for path in sorted((data / folder / "images").glob("*")):
            patient = path.name.split("-IM-")[0] if "-IM-" in path.name else path.name.split(".")[0]
            files.setdefault(patient, []).append((f"{folder}/images/{path.name}", f"{folder}/labels/{path.name}"))
            if number < plan.training_folders and patient not in first:
                first.append(patient)
    if len(files) <= plan.training + plan.tuning:
        raise InputError(f"{data} holds {len(files)} patients of {name}: see the README of the data for the layout")
    rng = np.random.default_rng(_SPLIT_SEED)
    training = [first[i] for i in rng.permutation(len(first))[: plan.training]]
    others = [p for p in files if p not in training]
    others = [others[i] for i in rng.permutation(len(others))]
    pool = others[plan.tuning :][: plan.pool]
    kept = {p: tuple(_spread(files[p], plan.per_patient)) for p in files}
    parts: dict[Part, tuple[str, ...]] = {
        "training": tuple(sorted(training)),
        "tuning": tuple(sorted(others[: plan.tuning])),
        "pool": tuple(sorted(pool)),
    }
    ndim = 3 if plan.box is None else len(plan.box)
    return ImageSet(name, ndim, plan.classes, parts, kept)


def _spread(pairs: Sequence[tuple[str, str]], most: int | None) -> Sequence[tuple[str, str]]:
    """Evenly spread ones among a patient's images."""
    if most is None or len(pairs) <= most:
        return pairs
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, most + 2).round().astype(int)[1:-1]]


def _read(data: Path, pair: tuple[str, str], plan: _Plan) -> tuple[Scan, npt.NDArray[np.uint8]]:
    """Image and labels, cut to the box around the middle; its voxel size stays what it was."""
    scan = read_scan(data / pair[0])
    labels = read_mask(data / pair[1], reference=scan.grid).array
    if len(plan.classes) == 2:
        labels = labels > 0
    values = np.asarray(labels, dtype=np.uint8)
    if plan.box is None:
        return scan, values
    box = tuple(slice((n - b) // 2, (n - b) // 2 + b) for n, b in zip(scan.array.shape, plan.box, strict=True))
    affine = scan.grid.affine.copy()
    affine[:3, 3] += affine[:3, : len(box)] @ [b.start for b in box]
    grid = Grid(plan.box, affine, spacing_known=scan.grid.spacing_known, layout=scan.grid.layout)
    return Scan(scan.array[box], grid, scan.modality, identifier=scan.identifier), values[box]


def _folder(chosen: ImageSet, plan: _Plan, data: Path, cache: Path) -> Path:
    """Where the networks of a set lie: named by what they learnt from, the settings and the code."""
    settings = {key: getattr(plan, key) for key in ("classes", "widths", "steps", "weak", "batch", "crop")}
    digest = hashlib.sha256()
    for scan, labels in _part(chosen, plan, data, "training"):
        for array in (scan.array, labels):
            digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    parts = {"plan": settings, "images": digest.hexdigest(), "source": provenance.source_hash(_CODE)}
    return cache / f"{chosen.name}-{provenance.fingerprint(parts)}"


def _part(chosen: ImageSet, plan: _Plan, data: Path, part: Part) -> list[tuple[Scan, npt.NDArray[np.uint8]]]:
    return [_read(data, pair, plan) for p in chosen.parts[part] for pair in chosen.files[p]]


def unet(
    name: str,
    strength: Strength,
    data: Path,
    *,
    quick: bool = False,
    cache: Path = _DEFAULT_CACHE,
    progress: Progress | None = None,
) -> UNet:
    """The network of a set, trained on its training patients if that was not done before.

    Parameters
    ----------
    name, data, quick
        As in :func:`image_set`.
    strength
        ``"strong"``: after the last step; ``"weak"``: an early checkpoint of the same training.
    cache
        Folder of trained networks and their predictions.
    progress
        Called with (step, steps) while training.

    Returns
    -------
    anatrust.models.unet.UNet
        In evaluation mode; its ``features(image, level)`` are the segmenter's own encoder.
    """
    from anatrust.models.unet import UNet, UNetConfig
    from anatrust.models.unet_training import TrainingRecipe, train_unet

    if strength not in get_args(Strength):
        raise InputError(f"a segmenter is strong or weak, not '{strength}'")
    plan, chosen = _plan(name, quick), image_set(name, data, quick=quick)
    folder = _folder(chosen, plan, data, cache)
    if not (folder / strength / "config.json").is_file():
        read = _part(chosen, plan, data, "training")
        recipe = TrainingRecipe(steps=plan.steps, batch=plan.batch, crop=plan.crop)

        def keep(step: int, model: UNet) -> None:
            if step == plan.weak:
                model.save(folder / "weak")

        config = UNetConfig(chosen.ndim, plan.classes, plan.widths)
        images, labels = [s.array for s, _ in read], [v for _, v in read]
        train_unet(images, labels, config, recipe, checkpoint=keep, progress=progress).save(folder / "strong")
    return UNet.load(folder / strength)


def held_out(
    name: str,
    strength: Strength,
    data: Path,
    *,
    quick: bool = False,
    cache: Path = _DEFAULT_CACHE,
    progress: Progress | None = None,
) -> tuple[HeldOutImage, ...]:
    """Every image of the tuning patients and the pool with its probabilities, those of a patient together.

    Arguments as in :func:`unet`. Predicted once and kept as float16 beside the network; reading them
    back takes seconds. About 60 MB a set.
    """
    from anatrust.models.unet import UNetSegmenter

    plan, chosen = _plan(name, quick), image_set(name, data, quick=quick)
    folder = _folder(chosen, plan, data, cache)
    hashes = [provenance.file_hash(data / f) for f in chosen.paths("tuning", "pool")] + [plan.box]
    file = folder / strength / f"held-out-{provenance.fingerprint({'images': hashes})}.npz"
    kept: dict[str, npt.NDArray[Any]] = {}
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            kept = dict(stored)
    segmenter: UNetSegmenter | None = None
    images = []
    for part in ("tuning", "pool"):
        for patient in chosen.parts[part]:
            for pair in chosen.files[patient]:
                scan, labels = _read(data, pair, plan)
                key = Path(pair[0]).name.split(".")[0]
                if key not in kept:
                    if segmenter is None:
                        model = unet(name, strength, data, quick=quick, cache=cache, progress=progress)
                        segmenter = UNetSegmenter(model)
                    kept[key] = segmenter.predict(scan).array.astype(np.float16)
                images.append(HeldOutImage(patient, part, key, scan, kept[key], labels))
    if segmenter is not None:
        with replacing(file) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **kept)  # type: ignore[arg-type]
    return tuple(images)
