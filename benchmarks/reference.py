"""Annotation from references: retrieval, registration against plain SimpleITK, correspondence; medians and peak memory.

Usage: make bench, or .venv/bin/python benchmarks/reference.py [--rounds 3] [-o benchmarks/results/reference.json]

Phantom patients (no download). Registration: ours (search, affine, demons), ours without demons, and the recipe of
SimpleITK's examples (centred affine, mutual information, all voxels, three levels). What each reaches is printed with
its time: mean Dice of the large organs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own usual name

from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Reference
from anatrust.models.registration import RegistrationSettings, register
from anatrust.reference import CorrespondenceReasoner, ReferenceBank, RegistrationReasoner, ScanDescriptor, slices_of
from anatrust.studies.phantom import phantom_scan

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right")


def patient(seed: int) -> Reference:
    made = phantom_scan(seed, lesions=0, quick=True)
    return Reference(made.scan, made.anatomy, f"phantom {seed}")


def mean_dice(moved: np.ndarray, truth: LabelMap) -> float:
    numbers = [n for n, name in truth.names.items() if name in ORGANS]
    wanted = canonical(truth.array, truth.grid)[0]
    pairs = [((moved == n), (wanted == n)) for n in numbers]
    return float(np.mean([2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in pairs]))


def plain_recipe(target: Scan, reference: Reference) -> np.ndarray:
    """The affine of SimpleITK's own examples, on all voxels; labels moved to the target."""
    images = []
    for scan in (target, reference.scan):
        array = canonical(scan.array, scan.grid)[0].astype(np.float32)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing([float(s) for s in scan.grid.spacing])
        images.append(image)
    fixed, moving = images
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(50)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, True)
    method.Execute(fixed, moving)
    labels = sitk.GetImageFromArray(np.ascontiguousarray(canonical(reference.labels.array, reference.labels.grid)[0].T))
    labels.SetSpacing(moving.GetSpacing())
    return sitk.GetArrayFromImage(sitk.Resample(labels, fixed, start, sitk.sitkNearestNeighbor)).T


def ours(target: Scan, reference: Reference, settings: RegistrationSettings) -> np.ndarray:
    found = register(target, reference.scan, settings)
    return found.move(canonical(reference.labels.array, reference.labels.grid)[0].astype(np.uint16), nearest=True)


def measured(job: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median seconds of wall clock, and the peak of Python's allocations in a further run."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    job()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"seconds": round(statistics.median(times), 4), "python_peak_mb": round(peak / 2**20, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/reference.json"))
    arguments = parser.parse_args()
    target, *others = (patient(seed) for seed in (3, 11, 12, 13, 14, 15))
    result: dict[str, object] = {}

    ways: dict[str, Callable[[], np.ndarray]] = {
        "affine + demons": lambda: ours(target.scan, others[0], RegistrationSettings(mirrored=False)),
        "affine only": lambda: ours(target.scan, others[0], RegistrationSettings(deformation="none", mirrored=False)),
        "plain SimpleITK affine": lambda: plain_recipe(target.scan, others[0]),
    }
    result["registration"] = {
        name: {**measured(way, arguments.rounds), "dice": round(mean_dice(way(), target.labels), 3)}
        for name, way in ways.items()
    }
    reasoners = {
        "registration, k = 1": (RegistrationReasoner(), 1),
        "registration, k = 5": (RegistrationReasoner(), 5),
        "correspondence, k = 1": (CorrespondenceReasoner(), 1),
    }
    annotated = {}
    for name, (reasoner, k) in reasoners.items():
        answer = reasoner.annotate(target.scan, others[:k])
        moved = canonical(answer.labels.array, answer.labels.grid)[0]
        job = lambda reasoner=reasoner, k=k: reasoner.annotate(target.scan, others[:k])  # noqa: E731
        annotated[name] = {**measured(job, 1), "dice": round(mean_dice(moved, target.labels), 3)}
    result["annotation"] = annotated

    slices = [s for one in others for s in slices_of(one)]
    owners = [k for k, one in enumerate(others) for _ in slices_of(one)]
    bank = ReferenceBank.build(slices, owners)
    query = list(slices_of(target))[18].scan
    result["retrieval"] = {
        "references": len(slices),
        "describe one": measured(lambda: ScanDescriptor().describe(query), 10 * arguments.rounds),
        "build": measured(lambda: ReferenceBank.build(slices, owners), 1),
        "retrieve five": measured(lambda: bank.retrieve(query, 5), 10 * arguments.rounds),
    }
    record = {
        "voxels": int(np.prod(target.scan.grid.shape)),
        "rounds": arguments.rounds,
        "machine": f"{platform.system()} {platform.machine()}, one thread a registration",
        "versions": {name: version(name) for name in ("numpy", "scipy", "SimpleITK")},
        **result,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
