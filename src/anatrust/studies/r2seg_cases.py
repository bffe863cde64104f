"""The patients of the R²Seg studies: phantoms and real scans, with lesions planted or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask, read_scan
from anatrust.image.resample import resample_labels, resample_scan
from anatrust.image.volumes import LabelMap, Mask, Modality, Scan
from anatrust.studies.lesions import LesionSpec, free_centres, plant_lesion
from anatrust.studies.phantom import phantom_scan
from anatrust.studies.study import Context
from anatrust.studies.tissues import SOURCES, TissueSample, cardiac_patients, hippocampus_patients

__all__ = ["WORLDS", "R2Case", "World", "cases", "disguised", "further_teachers", "like_t2"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class R2Case:
    """One scan of a patient.

    Parameters
    ----------
    patient
        Whose it is.
    scan, anatomy
        The image and its organs, named as the knowledge table names them.
    truth
        Number of the lesion in every voxel, 0 for none.
    lesions
        Diameter (mm) and contrast (organ SD) of each; empty for a healthy scan.
    """

    patient: str
    scan: Scan
    anatomy: LabelMap
    truth: npt.NDArray[np.uint8]
    lesions: tuple[LesionSpec, ...]

    @property
    def target(self) -> Bools:
        """Where there is a lesion."""
        return self.truth > 0


@dataclass(frozen=True)
class World:
    """A population: how many patients teach, stand for the healthy, are tested on, and teach the rivals more.

    The last ``adapt`` of the healthy patients do that, with lesions planted.

    ``diameters`` (mm) and ``contrasts`` (organ SD) are the ranges lesions are drawn from, ``count``
    how many a patient gets. Half of the tested patients are healthy.
    """

    organ: str
    target: str
    teach: int
    healthy: int
    test: int
    diameters: tuple[float, float] = (8.0, 26.0)
    contrasts: tuple[float, float] = (1.0, 3.0)
    count: int = 2
    adapt: int = 0


WORLDS: dict[str, World] = {
    "phantom": World("liver", "liver tumour", 16, 79, 200),
    "phantom-mr": World("liver", "liver tumour", 16, 79, 100),
    "hippocampus": World("brain", "brain tumour", 20, 60, 50, diameters=(5.0, 12.0), count=1, adapt=20),
    # Three patients, each once as they are and three times with a lesion planted.
    "abdomen": World("liver", "liver tumour", 0, 0, 3, count=1),
    "hippocampus-t2": World("brain", "brain tumour", 20, 60, 50, diameters=(5.0, 12.0), count=1, adapt=20),
    "cardiac": World("heart", "cardiac tumour", 6, 12, 12, diameters=(8.0, 16.0), count=1),
}
"""The populations; those of real scans have as many patients as there are."""

_QUICK = {"teach": 2, "healthy": 9, "test": 4, "adapt": 2}
# Phantoms are numbered; those from here on are in no part.
_FURTHER = 5000
_PARTS = ("teach", "healthy", "test", "adapt")


def cases(world: str, part: str, context: Context, *, limit: int | None = None) -> Iterator[list[R2Case]]:
    """The patients of one part (``teach``, ``healthy``, ``test`` or ``adapt``), each with all scans.

    No patient is in two parts. Patients that teach and ``adapt`` all have lesions, the healthy have none, every
    other tested one has. ``limit``
    takes the first so many.
    """
    chosen = WORLDS[world]
    if world == "abdomen":
        sources = list(SOURCES)[: min(limit or 3, 1 if context.quick else 3)] if part == "test" else []
        yield from ([_abdomen(source, k, context) for k in range(2 if context.quick else 4)] for source in sources)
        return
    sizes = [_QUICK[p] if context.quick else getattr(chosen, p) for p in _PARTS]
    first = sum(sizes[: _PARTS.index(part)])
    if part == "adapt":
        # There are no further patients: the last of the healthy ones, with lesions planted.
        first = sizes[0] + sizes[1] - sizes[3]
    count = min(sizes[_PARTS.index(part)], limit or 10**9)
    for k in range(first, first + count):
        ill = part in ("teach", "adapt") or (part == "test" and (k - first) % 2 == 0)
        if world.startswith("phantom"):
            yield [_phantom(world, k, ill, context)]
        else:
            samples = _real(world, context)
            if k >= len(samples):
                raise InputError(f"{world} has only {len(samples)} patients")
            made = [_planted(s, chosen, ill, np.random.default_rng([context.seed, k, n, 17])) for n, s in samples[k]]
            yield [replace(c, scan=like_t2(c.scan, k)) for c in made] if world == "hippocampus-t2" else made


def further_teachers(world: str, count: int, context: Context) -> Iterator[R2Case]:
    """Phantoms with lesions that are in no part of any population."""
    yield from (_phantom(world, _FURTHER + k, True, context) for k in range(2 if context.quick else count))


@lru_cache(maxsize=600)
def _phantom(world: str, number: int, ill: bool, context: Context) -> R2Case:
    chosen = WORLDS[world]
    rng = np.random.default_rng([context.seed, number, 5])
    specs = [_spec(chosen, rng) for _ in range(chosen.count)] if ill else []
    seed = 100_000 + 10_000 * context.seed + number
    while True:
        try:
            made = phantom_scan(seed, lesions=specs, quick=True)
            break
        except InputError:
            # A small liver has no room for the larger lesion.
            specs = [LesionSpec(s.organ, 0.8 * s.diameter, s.contrast) for s in specs]
    truth = made.truth.array.astype(np.uint8)
    scan = made.scan if world == "phantom" else disguised(made.scan, seed)
    return R2Case(f"{world}-{number}", scan, made.anatomy, truth, tuple(specs))


def _spec(world: World, rng: np.random.Generator) -> LesionSpec:
    sign = -1.0 if rng.random() < 0.8 else 1.0
    return LesionSpec(world.organ, float(rng.uniform(*world.diameters)), sign * float(rng.uniform(*world.contrasts)))


def disguised(scan: Scan, seed: int) -> Scan:
    """A CT phantom in the grey values of an MR: fat bright, bone dark, soft tissue the other way round, a bias field.

    No physics: another contrast, for asking what a method does on one that it was not made for.
    """
    rng = np.random.default_rng([seed, 23])
    hu = np.array([-1024.0, -500, -110, -20, 40, 110, 180, 300, 1500])
    signal = np.array([2.0, 8, 620, 420, 330, 250, 170, 90, 20]) * np.exp(rng.normal(0, 0.05, 9))
    image = np.interp(scan.array, hu, signal)
    bias = ndimage.zoom(
        rng.normal(0, 0.12, (3, 3, 3)), [n / 3 for n in scan.array.shape], order=2, grid_mode=True, mode="nearest"
    )
    noise = rng.normal(0, 8, (2, *image.shape))
    made = np.hypot(image * np.exp(bias) + noise[0], noise[1])
    return Scan(made.astype(np.float32), scan.grid, modality="MR", identifier=scan.identifier)


def like_t2(scan: Scan, seed: int) -> Scan:
    """A T1-weighted MR in the grey values of another sequence: bright for dark, a bias field, Rician noise.

    No physics: real anatomy and texture under another contrast.
    """
    rng = np.random.default_rng([seed, 37])
    low, high = np.percentile(scan.array, (0.5, 99.5))
    share = np.clip((scan.array - low) / max(float(high - low), 1e-6), 0, 1.2)
    signal = 600 * np.clip(1.25 - share, 0, None) ** 1.4
    bias = ndimage.zoom(
        rng.normal(0, 0.06, (3,) * share.ndim), [n / 3 for n in share.shape], order=2, grid_mode=True, mode="nearest"
    )
    noise = rng.normal(0, 8, (2, *share.shape))
    made = np.hypot(signal * np.exp(bias) + noise[0], noise[1])
    return replace(scan, array=made.astype(np.float32))


@lru_cache(maxsize=16)
def _abdomen(source: str, replicate: int, context: Context) -> R2Case:
    """A whole abdomen at 3 mm: as it is (replicate 0), or with a lesion at a random place of its liver."""
    scan, anatomy = _at_3mm(source, context)
    organ = TissueSample(source, "liver", scan.array.astype(np.float64), anatomy.mask("liver").array, scan.grid.spacing)
    number = list(SOURCES).index(source)
    rng = np.random.default_rng([context.seed, number, replicate, 29])
    made = _planted(organ, WORLDS["abdomen"], replicate > 0, rng)
    image = Scan(made.scan.array, scan.grid, modality=scan.modality, identifier=source)
    return R2Case(source, image, anatomy, made.truth, made.lesions)


@lru_cache(maxsize=4)
def _at_3mm(source: str, context: Context) -> tuple[Scan, LabelMap]:
    """Scan and named organs, resampled where the voxels are not of 3 mm already."""
    scan, labels = whole_scan(source, context)
    shape = tuple(max(1, round(n * s / 3.0)) for n, s in zip(scan.grid.shape, scan.grid.spacing, strict=True))
    if shape == scan.grid.shape:
        return scan, labels
    factor = np.array(scan.grid.shape) / np.array(shape)
    change = np.diag([*factor, 1.0])
    change[:3, 3] = (factor - 1) / 2
    target = Grid(shape, scan.grid.affine @ change)
    # Half the new voxel, as a camera's pixel would average.
    blur = [max(0.0, 0.35 * (f - 1)) for f in factor]
    smooth = replace(scan, array=ndimage.gaussian_filter(scan.array.astype(np.float32), blur, mode="nearest"))
    return resample_scan(smooth, target), resample_labels(labels, target)


@lru_cache(maxsize=4)
def _real(world: str, context: Context) -> list[list[tuple[int, TissueSample]]]:
    """The scans of each patient, shuffled once by patient, numbered within the patient."""
    if world.startswith("hippocampus"):
        found = [[(0, sample)] for sample in hippocampus_patients(context)]
    else:
        # Three slices of each patient, spread over the heart.
        found = []
        for _, samples in cardiac_patients(context):
            if samples:
                chosen = np.linspace(0, len(samples) - 1, min(3, len(samples))).round().astype(int)
                found.append([(int(n), samples[n]) for n in chosen])
    order = np.random.default_rng(1234).permutation(len(found))
    return [found[k] for k in order]


def _planted(sample: TissueSample, world: World, ill: bool, rng: np.random.Generator) -> R2Case:
    """A real organ with lesions at random places where they fit; sizes shrink until one fits."""
    image, truth = sample.image, np.zeros(sample.image.shape, dtype=np.uint8)
    specs = []
    spread = float(sample.image[sample.domain].std())
    for _ in range(world.count if ill else 0):
        spec = _spec(world, rng)
        taken = ndimage.binary_dilation(truth > 0, iterations=2)
        centres = free_centres(sample.domain, spec.diameter, sample.spacing, taken)
        while len(centres) == 0 and spec.diameter > 2:
            spec = LesionSpec(spec.organ, 0.9 * spec.diameter, spec.contrast)
            centres = free_centres(sample.domain, spec.diameter, sample.spacing, taken)
        centre = centres[rng.integers(len(centres))]
        shift = spec.contrast * spread
        image, mask = plant_lesion(image, centre, spec.diameter, shift, sample.spacing, rng, inside=sample.domain)
        specs.append(spec)
        truth[mask & (truth == 0)] = len(specs)
    grid: Grid = sample.organ.grid
    scan = Scan(image.astype(np.float32), grid, modality="MR", identifier=sample.patient)
    anatomy = LabelMap(sample.domain.astype(np.uint8), grid, {1: world.organ})
    return R2Case(sample.patient, scan, anatomy, truth, tuple(specs))


def whole_scan(source: str, context: Context) -> tuple[Scan, LabelMap]:
    """One of the few abdominal scans, as stored, with its named organs."""
    from anatrust.anatomy.organs import with_names

    image, labels = SOURCES[source]
    modality: Modality = "MR" if source == "mr" else "CT"
    scan = read_scan(context.path(image), modality=modality)
    table = {"amos": "amos", "ct3mm": "totalsegmentator_ct", "mr": "totalsegmentator_mr"}[source]
    return scan, with_names(read_mask(context.path(labels), reference=scan.grid), table)


def organ_mask(case: R2Case, organ: str) -> Mask:
    """The organ of a case."""
    return case.anatomy.mask(organ)
